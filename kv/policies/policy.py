"""What a policy is given and must answer, and the policies known by name. Knows no method and,
so that names can be checked before anything heavy is loaded, imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

    from scalekv.kv.caches.held import Like
    from scalekv.kv.caches.storage import Storage
    from scalekv.kv.memory.predicted import CacheShape


@dataclass(frozen=True, eq=False)
class Step:
    """Some heads of a layer, just after they attended with the queries of one scale.

    They are all heads of the layer, unless heads have capacities of their own: then a policy is
    asked once for those that hold and may keep equally many tokens.

    Attributes:
        scale: the scale just generated, from 0; never the last one.
        layer: the layer, from 0.
        heads: the heads' numbers; H below is how many they are.
        schedule: the picture's scales.
        capacity: the most tokens each head may keep for the next scale; at least 1.
        window: the most tokens of the newest map to observe with.
        q: (B, H, L, D) queries of this scale as attention uses them: normalised, scaled and
            rotated, so that the softmax scale is 1. B counts both guidance halves.
        k: (B, H, T, D) keys of everything cached, this scale's L tokens last.
        v: (B, H, T, D) values, likewise.
        positions: (B, H, T) place of each cached token among all tokens of the picture,
            ascending; None where nothing was ever dropped, so that slot t is token t.
        notes: what the policy wrote here after earlier scales of this picture, for these heads;
            empty at the first. Tensors (B, H, ...), counted with the positions' bytes.
        raw_queries: the queries of some of this scale's tokens, (W,) int64 -> (B, H, W, D), as
            the projection alone gives them: without bias, normalisation, scale and rotation.
            Computed when called; None where nobody can compute them.
        budget: of the picture, as planned; None where nothing has to be dropped.
    """

    scale: int
    layer: int
    heads: tuple[int, ...]
    schedule: Schedule
    capacity: int
    window: int
    q: Tensor
    k: Tensor
    v: Tensor
    positions: Tensor | None
    notes: dict[str, Tensor] = field(default_factory=dict)
    raw_queries: Callable[[Tensor], Tensor] | None = None
    budget: Budget | None = None

    @property
    def observers(self) -> int:
        """The most tokens to observe with, and so to keep for it: the window, unless that would
        take more than a quarter of the capacity; at least 1."""
        return min(self.window, max(self.capacity // 4, 1))


class Policy(Protocol):
    """Decides which cached tokens a layer keeps after a scale.

    An object may serve several models at once, so what it must remember between scales belongs in
    `Step.notes`. Two things are optional:

    A policy that by nature keeps everything says so with a class attribute
    `takes_budget = False`; without it a policy is held to its budget.

    A method whose layers share the tokens in a way of its own has
    `plan(self, asked: Budget) -> Budget`, which answers with its capacities at the same mean, such
    as those of `scalekv.kv.budgets.shapes`; without it the budget holds as asked for.
    """

    name: str

    def select(self, step: Step) -> Tensor | None:
        """Slots to keep: (B, H, n) int64, ascending along n, n at most `step.capacity`.

        None keeps everything, which is allowed only where T is at most the capacity.
        """
        ...


@runtime_checkable
class Stores(Protocol):
    """A policy whose method is how tokens are stored instead of which: none is dropped, and its
    budget is one of bytes."""

    name: str

    def storage(
        self, budget: Budget, shape: CacheShape, guided: bool | None, like: Like, on_host: bool
    ) -> Storage:
        """What a picture, or batch, is stored in.

        Args:
            budget: as asked for.
            shape: of the caches; its sequences are pairs of guidance halves if `guided`.
            like: (B, H, L, D) keys, for dtype and device.
            on_host: hold in the host's pinned memory, instead of where attention computes.

        Raises:
            UserError: the method cannot store this, or not within the budget.
        """
        ...
