"""A data set of a few made-up rows, for what works on rows alone."""

from __future__ import annotations

import pytest

from scripts.builtin.captions import Row


def row(concept: str, style: str, *, concept_out: bool = False, style_out: bool = False) -> Row:
    """One row of an index, with only what captions read."""
    return {
        "id": f"{concept}.{style}",
        "concept": concept,
        "style": style,
        "tags": [concept, "thing"],
        "heldout_concept": concept_out,
        "heldout_style": style_out,
    }


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Four concepts: one held out as a whole, one in a single style."""
    return [
        row("red apple", "flat"),
        row("red apple", "noto"),
        row("octopus", "flat"),
        row("octopus", "noto"),
        row("green apple", "flat", concept_out=True),
        row("green apple", "noto", concept_out=True),
        row("backpack", "flat"),
        row("backpack", "noto", style_out=True),
    ]
