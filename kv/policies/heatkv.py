"""HeatKV: whole source scales dropped head by head, in a calibrated order. Knows which scales a
head keeps; looks at no scores."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.heat_order import Kept, Order, heat_budget, keeps
from scalekv.kv.errors import UserError
from scalekv.kv.policies.policy import Step
from scalekv.kv.schedule import Schedule


class HeatKVPolicy:
    """Keeps or drops each source scale as a whole, by head (arXiv 2605.14877).

    An order, made once for a model by calibration, ranks the heads by how much attention they pay
    to each source scale; the lowest lose it first. Nothing is scored while generating. The first
    three scales are always kept. Heads have capacities of their own, which average at most the
    mean, and come short of it by what whole scales leave over.
    """

    name = "heatkv"

    def __init__(self, order: Order | None = None) -> None:
        self._order = order
        self._kept: dict[tuple[Schedule, int], Kept] = {}

    def calibrated(self, order: Order) -> HeatKVPolicy:
        """This policy with an order."""
        return HeatKVPolicy(order)

    @property
    def order(self) -> Order:
        """The calibrated order.

        Raises:
            UserError: there is none.
        """
        if self._order is None:
            raise UserError(
                "heatkv needs the order in which this model's heads lose scales",
                where="policy heatkv",
                rule="the order comes from calibrating the model",
                fix="scalekv calibrate, or name an order file: heatkv:order.json",
            )
        return self._order

    def plan(self, asked: Budget) -> Budget:
        """Each head's capacity is what it keeps by the rule."""
        return heat_budget(asked, self.order)

    def select(self, step: Step) -> Tensor | None:
        """See `Policy.select`; None where everything fits."""
        tokens = step.k.shape[2]
        if tokens <= step.capacity:
            return None
        assert step.budget is not None, "tokens are dropped under a budget only"
        kept = self._keeps(step.schedule, step.budget.mean)
        rows = []
        for head in step.heads:
            stays = kept[step.scale + 1][step.layer][head]
            held = (*kept[step.scale][step.layer][head], step.scale)
            rows.append(_slots(step.schedule, held, frozenset(stays)))
        slots = torch.tensor(rows, device=step.k.device)
        return slots.expand(step.k.shape[0], -1, -1)

    def _keeps(self, schedule: Schedule, mean: int) -> Kept:
        """What each head keeps, looked up without hashing the order at every layer and scale."""
        if (schedule, mean) not in self._kept:
            self._kept[schedule, mean] = keeps(self.order, schedule, mean)
        return self._kept[schedule, mean]


def _slots(schedule: Schedule, held: tuple[int, ...], stays: frozenset[int]) -> list[int]:
    """Places of the tokens of scales that stay, among those of the scales that are held."""
    slots: list[int] = []
    first = 0
    for source in held:
        end = first + schedule.tokens[source]
        if source in stays:
            slots += range(first, end)
        first = end
    return slots
