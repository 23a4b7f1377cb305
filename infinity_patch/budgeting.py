"""From what was asked for to the budget of a schedule: strings, files and objects alike.

Knows presets and budgets; no torch.
"""

from __future__ import annotations

from collections.abc import Callable

from scalekv.configs.budgets import check_model, default_budget, load_budget
from scalekv.configs.models import ModelPreset, list_models, model_named
from scalekv.kv.budget import (
    Budget,
    BudgetRequest,
    BudgetSpec,
    BytesOf,
    Drafters,
    parse_budget,
    resolve,
)
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

BudgetLike = str | int | Budget | BudgetSpec | BudgetRequest
"""A budget as people give it: "10%", "650", "1.5GiB", "full", a name, a file; or an object."""

Made = Budget | Callable[[BytesOf], Budget]
"""A budget; or, where it depends on the bytes that tokens take, what makes it of those."""


def preset_like(depth: int, width: int, heads: int) -> ModelPreset | None:
    """The preset whose transformer has these sizes, or None."""
    for name in list_models():
        spec = model_named(name).transformer
        if (spec.depth, spec.width, spec.heads) == (depth, width, heads):
            return model_named(name)
    return None


def in_bytes(budget: BudgetLike | None) -> bool:
    """Whether a budget says how many bytes, so that batch and dtype decide how many tokens."""
    asked = parse_budget(budget) if isinstance(budget, str | int) else budget
    return isinstance(asked, BudgetRequest) and asked.nbytes is not None


def budget_maker(
    budget: BudgetLike, layers: int, model: str | None, drafters: Drafters | None
) -> Callable[[Schedule], Made]:
    """What turns a schedule into its budget, or into what makes the budget of a token's bytes.

    `model` is the preset's name, whose drafters are used where neither `drafters` nor the budget
    names any; an unknown model gets a uniform budget, and the budget's origin says so.

    Raises:
        UserError: what is wrong with the budget whatever the schedule; the rest when it is called.
    """
    if isinstance(budget, Budget):
        return lambda schedule: _checked(budget, schedule, layers)
    asked: BudgetSpec | BudgetRequest
    asked = parse_budget(budget) if isinstance(budget, str | int) else budget
    if isinstance(asked, BudgetRequest) and asked.name is not None:
        asked = load_budget(asked.name, model)
    if isinstance(asked, BudgetSpec):
        check_model(asked, model, asked.name)
        made = asked
        return lambda schedule: resolve(made, schedule, layers, drafters)
    origin = "drafters as given"
    if drafters is None:
        known = default_budget(model) if model is not None else None
        drafters = known.drafters if known is not None else ()
        origin = "no drafters are known for this model: uniform"
        if known is not None:
            origin = f"drafters of {model}: {known.provenance}"
    request, given = asked, drafters
    if request.nbytes is None:
        return lambda schedule: resolve(request, schedule, layers, given, origin=origin)
    return lambda schedule: (
        lambda bytes_of: resolve(request, schedule, layers, given, origin=origin, bytes_of=bytes_of)
    )


def _checked(budget: Budget, schedule: Schedule, layers: int) -> Budget:
    if budget.schedule != schedule or budget.layers != layers:
        raise UserError(
            f"budget {budget.label} was made for {budget.layers} layers and {budget.schedule}",
            where="budget",
            rule=f"this picture has {layers} layers and {schedule}",
            fix="give the budget as a percentage or a number of tokens",
        )
    return budget
