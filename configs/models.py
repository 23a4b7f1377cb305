"""Model presets: which parts make a model and how it is sampled by default.

Reads and checks the YAML they are written in; where the files are on this machine is not known
here. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from scalekv.configs.spec import Sampling, TokenizerSpec, TransformerSpec
from scalekv.kv.errors import UserError, close_matches

FOLDER = Path(__file__).parent / "models"
"""Where the presets ship: NAME.yaml."""


@dataclass(frozen=True)
class ModelFiles:
    """Where a preset's parts are: a hub repository ("" for the package itself) and names in it.

    text_encoder is a folder of the package, or a hub repository of its own.
    """

    repo: str
    transformer: str
    vae: str
    text_encoder: str


@dataclass(frozen=True)
class ModelPreset:
    """One model: its parts belong together and are never mixed with another preset's.

    pixels: pixel class it was trained for; ratios: width:height it was trained for, () for all.
    """

    name: str
    summary: str
    licence: str
    transformer: TransformerSpec
    tokenizer: TokenizerSpec
    sampling: Sampling
    pixels: str
    ratios: tuple[str, ...]
    files: ModelFiles

    @property
    def built_in(self) -> bool:
        """Whether the weights are installed with the package."""
        return not self.files.repo


def list_models() -> list[str]:
    """Names of all presets, the built-in one first."""
    return sorted(_known(), key=lambda name: (not model_named(name).built_in, name))


@cache
def model_named(name: str, where: str = "--model") -> ModelPreset:
    """The preset of that name; `where` is what a message says the name came from.

    Raises:
        UserError: no such preset; the message names the nearest ones.
    """
    known = _known()
    if name not in known:
        raise UserError(
            f"no model named {name!r}",
            where=where,
            rule="one of " + ", ".join(known),
            fix=close_matches(name, known),
        )
    return read_preset(FOLDER / f"{name}.yaml")


def read_preset(path: Path) -> ModelPreset:
    """The preset a file describes; it is called what the file is called.

    Raises:
        UserError: a file that is no YAML, lacks a key, has one too many, or a value of another
            kind or outside its range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the preset: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not readable as YAML: {error}", where=str(path)) from None
    where = str(path)
    if isinstance(content, Mapping):
        content = {"name": path.stem, **content}
    preset = _build(ModelPreset, content, where)
    spec = preset.transformer
    if spec.width % (4 * spec.heads) or spec.depth % spec.chunks:
        raise UserError(
            f"width {spec.width} in {spec.heads} heads, depth {spec.depth} in {spec.chunks} chunks",
            where=f"{where}, key transformer",
            rule="heads divide the width into multiples of 4, chunks divide the depth",
        )
    return preset


def _known() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


T = TypeVar("T")


def _build(kind: type[T], content: object, where: str) -> T:
    """A dataclass from a mapping with exactly its fields, sections included."""
    hints = get_type_hints(kind)
    needed = [f.name for f in fields(kind) if f.default is MISSING]  # type: ignore[arg-type]
    rule = "keys are " + ", ".join(hints)
    if not isinstance(content, Mapping):
        raise UserError(f"{content!r} is no mapping of keys to values", where=where, rule=rule)
    for key in content:
        if key not in hints:
            fix = close_matches(str(key), hints)
            raise UserError(f"unknown key {key!r}", where=where, rule=rule, fix=fix)
    if missing := [key for key in needed if key not in content]:
        raise UserError(f"the key {missing[0]} is missing", where=where, rule=rule)
    return kind(
        **{key: _value(hints[key], value, f"{where}, key {key}") for key, value in content.items()}
    )


def _value(kind: Any, value: object, where: str) -> object:
    if kind in (TransformerSpec, TokenizerSpec, Sampling, ModelFiles):
        return _build(kind, value, where)
    if kind == tuple[int, ...] or kind == tuple[str, ...]:
        entry = kind.__args__[0]
        if isinstance(value, list):
            return tuple(_value(entry, item, where) for item in value)
        raise UserError(f"{value!r} is no list", where=where, rule=f"a list of {_WORDS[entry]}s")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{value!r} is no {_WORDS[kind]}", where=where, rule=f"a {_WORDS[kind]}")
    if kind is int and not where.endswith("cfg_layer") and isinstance(value, int) and value < 1:
        raise UserError(f"{value}", where=where, rule="at least 1")
    return value


_WORDS = {int: "whole number", float: "number", str: "text", bool: "truth value (true or false)"}
