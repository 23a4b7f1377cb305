"""Lists of prompts: finds those that ship and reads files of them, one prompt a line. No torch."""

from __future__ import annotations

from pathlib import Path

from scalekv.kv.errors import UserError

FOLDER = Path(__file__).parent / "prompts"
"""Where the lists for calibration ship: MODEL.txt, and neutral.txt for every other model."""


def calibration_prompts(model: str) -> Path:
    """The list that a model is calibrated on where none is named."""
    own = FOLDER / f"{model}.txt"
    return own if own.is_file() else FOLDER / "neutral.txt"


def read_prompts(path: Path, where: str = "--prompts") -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines and lines beginning with # do not count.

    Raises:
        UserError: no such file, one that is not UTF-8 text, or no prompt in it.
    """
    rule = "a text file with one prompt a line; lines beginning with # are comments"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}", where=where, rule=rule, fix="check the path"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", where=where, rule=rule) from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not UTF-8 text", where=where, rule=rule, fix="save it as UTF-8"
        ) from None
    found = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not found:
        raise UserError(f"no prompt in {path}", where=where, rule=rule, fix="write one into it")
    return found
