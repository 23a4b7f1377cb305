"""Prompts to evaluate with: the built-in model's held-out ones, or those of a file.

The held-out ones, in one fixed order: 64 in nobody's wording (free_prompts.txt), the 64
compositions no training drew, then the 292 drawings no training saw.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scalekv.kv.errors import UserError
from scripts.builtin.captions import (
    FIRST_STYLES,
    STYLE_PHRASES,
    article_before,
    compositions_held_out,
    load_heldout,
    with_article,
)

FREE_FILE = Path(__file__).parents[1] / "builtin" / "free_prompts.txt"


def free_prompts() -> list[str]:
    """Prompts as people may write them, in none of the captions' forms."""
    return FREE_FILE.read_text(encoding="utf-8").splitlines()


def composed_prompts() -> list[str]:
    """The pairs and the coloured backgrounds that no training drew."""
    pairs, _ = compositions_held_out()
    both = [f"{with_article(a)} and {with_article(b)}" for a, b in pairs]
    return both + background_prompts()


def background_prompts() -> list[str]:
    """The drawings on coloured backgrounds that no training drew."""
    _, backgrounds = compositions_held_out()
    return [
        f"{with_article(concept)} on {article_before(colour)}{colour} background"
        for concept, colour in backgrounds
    ]


def drawing_prompts() -> list[str]:
    """The plain captions of the drawings that no training saw, in one shuffled order."""
    held_out = load_heldout()
    pairs = [(concept, style) for concept in held_out.concepts for style in FIRST_STYLES]
    texts = [_styled(c, s) for c, s in [*pairs, *held_out.styles]]
    return [str(text) for text in np.random.default_rng(0).permutation(sorted(texts))]


def other_style_prompts() -> list[str]:
    """Those of `drawing_prompts`, in their order, whose concept was trained on in another style."""
    known = {_styled(concept, style) for concept, style in load_heldout().styles}
    return [text for text in drawing_prompts() if text in known]


def _styled(concept: str, style: str) -> str:
    return f"{with_article(concept)}, {STYLE_PHRASES[style]}"


def heldout_prompts() -> list[str]:
    """All prompts kept for evaluation."""
    return [*free_prompts(), *composed_prompts(), *drawing_prompts()]


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: a line each, or the captions of a COCO annotations file (.json).

    Of a COCO file the first caption of each picture is taken, in the order of picture ids.

    Raises:
        UserError: no such file, not text, not COCO's form, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the prompts: {error}",
            where=str(path),
            rule="a text file with one prompt a line, or COCO's captions as .json",
        ) from error
    if path.suffix == ".json":
        prompts = _coco(text, path)
    else:
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError("there is no prompt in the file", where=str(path))
    return prompts


def _coco(text: str, path: Path) -> list[str]:
    try:
        rows = json.loads(text)["annotations"]
        first: dict[int, tuple[int, str]] = {}
        for row in rows:
            entry = (int(row["id"]), str(row["caption"]).strip())
            picture = int(row["image_id"])
            first[picture] = min(first.get(picture, entry), entry)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "not a file of COCO captions",
            where=str(path),
            rule='{"annotations": [{"image_id": 1, "id": 1, "caption": "…"}, …]}',
            fix="name captions_val2014.json, or a text file with one prompt a line",
        ) from error
    return [first[picture][1] for picture in sorted(first)]
