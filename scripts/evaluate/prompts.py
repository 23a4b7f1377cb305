"""Prompts to evaluate the built-in model with, which no training saw.

    python -m scripts.evaluate.prompts > heldout.txt

In one fixed order: 64 in nobody's wording (free_prompts.txt), the 64
compositions no training drew, then the 292 drawings no training saw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

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


def main() -> None:
    """Prints them, a line each: captions for `scalekv eval`."""
    print("\n".join(heldout_prompts()))


if __name__ == "__main__":
    main()
