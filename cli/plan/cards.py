"""Which models fit on the cards that are sold, as `scalekv plan --cards` shows it.

Knows presets and planners; what fits is worked out by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scalekv.cli.choices import Choices
from scalekv.cli.console.layout import Column, Paragraph, ResultTable
from scalekv.cli.console.stdout import show
from scalekv.cli.plan.room import CUDA, planner_of
from scalekv.configs.models import list_models, model_named
from scalekv.infinity_patch.asked.request import DEFAULT_BUDGET
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.planning.cards import CARDS, Fitting, on_cards
from scalekv.infinity_patch.planning.lighter import LIGHTER
from scalekv.infinity_patch.planning.planner import Planner

FORMAT = 1
"""Version of the JSON; raised when a key changes its meaning."""

MARKS = {
    options: mark
    for (options, _), mark in zip(
        LIGHTER, ("", " f", " t", " 8", " 8f", " 8t", " o", " 8o"), strict=True
    )
}
"""What stands behind a share for the placement it takes."""


def plans_of_models(choices: Choices, text_tokens: int) -> dict[str, Planner]:
    """A planner of one picture for every model whose weights were released, at its own size, with
    the policy, precisions and placement chosen."""
    plans = {}
    for preset in map(model_named, list_models()):
        if preset.released:
            request = replace(
                choices.request, budget=DEFAULT_BUDGET, ratio="1:1", pixels=None, batch_size=1
            )
            settled = settle(request, preset, CUDA, choices.dtype)
            placement = choices.placement.for_known_prompts()
            plans[preset.name] = planner_of(settled, placement, None, text_tokens).bounded()
    return plans


def cards_figures(plans: Mapping[str, Planner]) -> dict[str, Any]:
    """Every model on every card as plain JSON values."""
    return {
        "format": FORMAT,
        "cards_bytes": [size * 10**9 for size in CARDS],
        "models": [
            {
                "model": name,
                "schedule": str(planner.settled.schedule),
                "policy": planner.settled.policy_name,
                "cards": [
                    {"card_bytes": size * 10**9, "share": one.share, "options": one.placement}
                    for size, one in on_cards(planner).items()
                ],
            }
            for name, planner in plans.items()
        ],
    }


def show_cards(figures: Mapping[str, Any]) -> None:
    """Writes them to stdout as a table."""
    columns = [Column("model", right=False)]
    columns += [Column(f"{size // 10**9} GB", rank=1) for size in figures["cards_bytes"]]
    rows = [
        [
            model["model"],
            *(_cell(Fitting(card["share"], card["options"])) for card in model["cards"]),
        ]
        for model in figures["models"]
    ]
    meanings = ", ".join(
        f"{mark.strip()} with {options}" for options, mark in MARKS.items() if mark
    )
    show(
        Paragraph("One picture of each model's own size: how much of the cache there is room for"),
        ResultTable(columns, rows),
        Paragraph(
            f"full: nothing has to be dropped; - does not fit; {meanings}, where nothing lighter "
            "keeps 4%. Planned, for a card with nothing else on it; GB are 10^9 bytes.",
            "dim",
        ),
    )


def _cell(fitting: Fitting) -> str:
    if not fitting.share:
        return "-"
    share = "full" if fitting.share == 1 else f"{int(100 * fitting.share)}%"
    return share + MARKS[fitting.placement]
