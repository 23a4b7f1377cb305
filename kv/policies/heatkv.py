"""HeatKV: whole source scales dropped head by head, in a calibrated order. Knows which scales a
head keeps; looks at no scores."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.heat_order import Kept, Order, heat_budget, keeps
from scalekv.kv.errors import UserError
from scalekv.kv.kernels.best import best_slots
from scalekv.kv.policies.policy import Step
from scalekv.kv.schedule import Schedule
from scalekv.kv.to_device import counting_up, to_device, whole_numbers


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
        self._tables: dict[tuple[Schedule, int, torch.device], Tensor] = {}

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
        schedule, mean, device = step.schedule, step.budget.mean, step.k.device
        kept = self._keeps(schedule, mean)[step.scale + 1][step.layer][step.heads[0]]
        count = sum(schedule.tokens[source] for source in kept)  # of every head asked about
        ends = tuple(schedule.before(scale + 1) for scale in range(len(schedule) - 1))
        places = counting_up(tokens, device)[None] if step.positions is None else step.positions[0]
        sources = torch.bucketize(places, whole_numbers(ends, device, torch.int32), right=True)
        stays = self._stays(schedule, mean, device)[step.scale + 1, step.layer]
        stays = stays.index_select(0, whole_numbers(step.heads, device))
        wanted = stays.gather(1, sources.expand(len(step.heads), -1))
        return best_slots(wanted[None], count).expand(step.k.shape[0], -1, -1)

    def _keeps(self, schedule: Schedule, mean: int) -> Kept:
        """What each head keeps, looked up without hashing the order at every layer and scale."""
        if (schedule, mean) not in self._kept:
            self._kept[schedule, mean] = keeps(self.order, schedule, mean)
        return self._kept[schedule, mean]

    def _stays(self, schedule: Schedule, mean: int, device: torch.device) -> Tensor:
        """(scales, layers, heads, sources) float32: 1 where, while a scale is generated, a head of
        a layer holds the tokens of a source scale, else 0."""
        if (schedule, mean, device) not in self._tables:
            kept, sources = self._keeps(schedule, mean), range(len(schedule))
            rows = [
                [[[float(s in head) for s in sources] for head in layer] for layer in scale]
                for scale in kept
            ]
            with torch.inference_mode(False):  # later calls outside it get the same one
                table = torch.tensor(rows, dtype=torch.float32, device="cpu")
                self._tables[schedule, mean, device] = to_device(table, device)
        return self._tables[schedule, mean, device]
