"""What a cache really held, layer by layer and scale by scale. Plain numbers: no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.precision import Precision
from scalekv.kv.schedule import Schedule


@dataclass(frozen=True)
class LayerRecord:
    """What one layer holds while one scale is generated.

    Attributes:
        capacity: the most tokens a head may hold.
        held_min, held_max, held_mean: tokens held, over sequences and heads.
        held_bytes: of k and v, read off the tensors: with room that no token fills yet.
        index_bytes: of the positions of the held tokens, and of the policy's notes on them.
    """

    capacity: int
    held_min: int
    held_max: int
    held_mean: float
    held_bytes: int
    index_bytes: int


class CacheLedger:
    """What a cache held over one picture, and its peaks, in bytes read off the tensors.

    Attributes:
        budget: as planned; `LayerRecord.capacity` is its, what was held may be less.
        precision: how held tokens were stored.
        picture: all scales of the picture; more than the schedule's where finer ones are not drawn.
        storage: what there is to say of a way to store them that is a policy's own.
        held_peak_bytes: the most k and v that all layers together held at any moment.
        index_peak_bytes: the most that positions of held tokens, and notes on them, took.
        transient_peak_bytes: the largest workspace in which held and new tokens met.
    """

    def __init__(
        self,
        schedule: Schedule,
        shape: CacheShape,
        policy: str,
        budget: Budget | None,
        precision: Precision | None = None,
        storage: Mapping[str, Any] | None = None,
        picture: Schedule | None = None,
    ) -> None:
        self.schedule = schedule
        self.picture = picture or schedule
        self.shape = shape
        self.policy = policy
        self.budget = budget
        self.precision = precision
        self.storage = dict(storage or {})
        self.held_peak_bytes = 0
        self.index_peak_bytes = 0
        self.transient_peak_bytes = 0
        self._records: list[dict[int, LayerRecord]] = [{} for _ in range(len(schedule))]
        self._transients = [0] * len(schedule)

    def record(self, scale: int, layer: int, held: LayerRecord) -> None:
        """Notes what `layer` holds while `scale` (from 0) is generated."""
        self._records[scale][layer] = held

    def record_held(self, held_bytes: int, index_bytes: int) -> None:
        """Notes what all layers together hold at this moment."""
        self.held_peak_bytes = max(self.held_peak_bytes, held_bytes)
        self.index_peak_bytes = max(self.index_peak_bytes, index_bytes)

    def record_transient(self, scale: int, transient_bytes: int) -> None:
        """Notes what the workspace occupies at this moment, while `scale` is generated."""
        self._transients[scale] = max(self._transients[scale], transient_bytes)
        self.transient_peak_bytes = max(self.transient_peak_bytes, transient_bytes)

    def held(self, scale: int, layer: int) -> LayerRecord | None:
        """What was recorded for `layer` while `scale` was generated; None: not reached."""
        return self._records[scale].get(layer)

    @property
    def full_bytes(self) -> int:
        """What the history would take with nothing dropped, in the same dtype."""
        return self.shape.full_bytes(self.picture)

    @property
    def full_bytes_all(self) -> int:
        """The same with the last scale, which no later scale reads, counted too."""
        return self.shape.full_bytes(self.picture, last_scale=True)

    @property
    def ratio_history(self) -> float:
        """Held peak over `full_bytes`."""
        return _ratio(self.held_peak_bytes, self.full_bytes)

    @property
    def ratio_all(self) -> float:
        """Held peak over `full_bytes_all`."""
        return _ratio(self.held_peak_bytes, self.full_bytes_all)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; bytes and tokens are whole numbers.

        A row of `scales` says what is held while that scale is generated, one entry per layer.
        Scales are numbered from 1 and layers from 0. Rows stop at the last scale that was reached.
        """
        budget = self.budget
        return {
            "policy": self.policy,
            "budget": None if budget is None else _budget_dict(budget),
            "schedule": str(self.picture),
            **({} if self.picture == self.schedule else {"stop_after": len(self.schedule)}),
            "history_tokens": self.picture.history,
            "total_tokens": self.picture.total,
            "shape": asdict(self.shape),
            "kv_dtype": None if self.precision is None else self.precision.name,
            "held_peak_bytes": self.held_peak_bytes,
            "index_peak_bytes": self.index_peak_bytes,
            "transient_peak_bytes": self.transient_peak_bytes,
            "full_bytes": self.full_bytes,
            "full_bytes_all": self.full_bytes_all,
            "ratio_history": self.ratio_history,
            "ratio_all": self.ratio_all,
            **({"coded": self.storage} if self.storage else {}),
            "scales": [
                self._scale_dict(scale, list(records.values()))
                for scale, records in enumerate(self._records)
                if len(records) == self.shape.layers
            ],
        }

    def _scale_dict(self, scale: int, records: Sequence[LayerRecord]) -> dict[str, Any]:
        height, width = self.schedule.scales[scale]
        return {
            "scale": scale + 1,
            "height": height,
            "width": width,
            "tokens": self.schedule.tokens[scale],
            "history_tokens": self.schedule.before(scale),
            "held_bytes": sum(record.held_bytes for record in records),
            "tokens_bytes": sum(map(self._tokens_bytes, records)),
            "index_bytes": sum(record.index_bytes for record in records),
            "transient_bytes": self._transients[scale],
            "layers": {
                "capacity": [record.capacity for record in records],
                "held_min": [record.held_min for record in records],
                "held_max": [record.held_max for record in records],
                "held_mean": [record.held_mean for record in records],
                "held_bytes": [record.held_bytes for record in records],
                "tokens_bytes": [self._tokens_bytes(record) for record in records],
            },
        }

    def _tokens_bytes(self, record: LayerRecord) -> int:
        """Of the bytes of a layer, those of tokens that are there."""
        shape, precision = self.shape, self.precision
        of_one = shape.bytes_per_token
        if precision is not None:
            of_one = shape.sequences * shape.heads * precision.token_bytes(shape.head_dim)
        return min(round(record.held_mean * of_one), record.held_bytes)


def _budget_dict(budget: Budget) -> dict[str, Any]:
    return {
        "label": budget.label,
        "mean": budget.mean,
        "window": budget.window,
        "bound": budget.bound,
        "evicts": budget.evicts,
        "origin": budget.origin,
        "drafters": [list(row) for row in budget.drafters],
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
