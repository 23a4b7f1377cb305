"""A budget as people give it, read once: a string, a number, a file or an object.

Knows presets and budgets; nothing of requests. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalekv.configs.budget_files import check_model, default_budget, load_budget
from scalekv.configs.models import ModelPreset, list_models, model_named
from scalekv.kv.budgets.asked import BudgetLike, BudgetRequest, BudgetSpec, parse_budget, resolve
from scalekv.kv.budgets.budget import Budget, BytesOf, Drafters
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule


@dataclass(frozen=True)
class ReadBudget:
    """A budget that was read, and what turns it into capacities.

    Attributes:
        amount: what was asked for; a name has become what its file says.
        layers: of the model.
        drafters: layers that get more; None: those that a file names.
        origin: where the drafters come from, one line.
    """

    amount: Budget | BudgetSpec | BudgetRequest
    layers: int
    drafters: Drafters | None = None
    origin: str = ""

    @property
    def in_bytes(self) -> bool:
        """Whether it says how many bytes, so that batch and dtype decide how many tokens."""
        return isinstance(self.amount, BudgetRequest) and self.amount.nbytes is not None

    def on(
        self,
        schedule: Schedule,
        bytes_of: BytesOf | None = None,
        picture: Schedule | None = None,
    ) -> Budget:
        """Its capacities on a schedule.

        Args:
            bytes_of: needed for a budget in bytes.
            picture: see `resolve`.

        Raises:
            UserError: a budget that cannot be on this schedule.
        """
        if isinstance(self.amount, Budget):
            return _checked(self.amount, schedule, self.layers)
        return resolve(
            self.amount,
            schedule,
            self.layers,
            self.drafters,
            origin=self.origin,
            bytes_of=bytes_of,
            picture=picture,
        )


def _check_kind(budget: object) -> None:
    """Refuses what is no budget: 0.1 might be meant as a share, or as anything else."""
    fine = isinstance(budget, Budget | BudgetSpec | BudgetRequest | str | int)
    if not fine or isinstance(budget, bool):
        share = 100 * budget if isinstance(budget, float) and 0 < budget < 1 else 10
        raise UserError(
            f"the budget {budget!r} does not say of what",
            where="budget",
            rule="a percentage of the history as text, a whole number of tokens, or an object",
            fix=f'budget="{share:.12g}%"',
        )


def read_budget(
    budget: BudgetLike, layers: int, model: str | None, drafters: Drafters | None = None
) -> ReadBudget:
    """Reads a budget.

    Args:
        model: the preset's name, whose drafters are used where neither `drafters` nor the budget
            names any; an unknown model gets a uniform budget, and the budget's origin says so.

    Raises:
        UserError: what is wrong with the budget whatever the schedule.
    """
    _check_kind(budget)
    if isinstance(budget, Budget):
        return ReadBudget(budget, layers)
    amount: BudgetSpec | BudgetRequest
    amount = parse_budget(budget) if isinstance(budget, str | int) else budget
    if isinstance(amount, BudgetRequest) and amount.name is not None:
        amount = load_budget(amount.name, model)
    if isinstance(amount, BudgetSpec):
        check_model(amount, model, amount.name)
        return ReadBudget(amount, layers, drafters)
    origin = "drafters as given"
    if drafters is None:
        known = default_budget(model) if model is not None else None
        drafters = known.drafters if known is not None else ()
        origin = "no drafters are known for this model: uniform"
        if known is not None:
            origin = f"drafters of {model}: {known.provenance}"
    return ReadBudget(amount, layers, drafters, origin)


def preset_like(depth: int, width: int, heads: int) -> ModelPreset | None:
    """The preset whose transformer has these sizes, or None."""
    for name in list_models():
        spec = model_named(name).transformer
        if (spec.depth, spec.width, spec.heads) == (depth, width, heads):
            return model_named(name)
    return None


def _checked(budget: Budget, schedule: Schedule, layers: int) -> Budget:
    if budget.schedule != schedule or budget.layers != layers:
        raise UserError(
            f"budget {budget.label} was made for {budget.layers} layers and {budget.schedule}",
            where="budget",
            rule=f"this picture has {layers} layers and {schedule}",
            fix="give the budget as a percentage or a number of tokens",
        )
    return budget
