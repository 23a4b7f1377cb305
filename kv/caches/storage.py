"""How a layer's tokens are stored, as a protocol: plain, in whole numbers, or coded. Knows shapes
only; a new way is a file with a `Storage`, and a policy that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from scalekv.kv.caches.held import Held, Like


class LayerStorage(Protocol):
    """Makes the places where one layer holds tokens."""

    @property
    def by_source(self) -> bool:
        """Whether what is held depends on the scale each token is from, and is turned into other
        numbers only once, so that the old has to be there until the new is written."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether tokens are held in the host's memory, elsewhere than attention computes."""
        ...

    def reads_in_place(self, like: Like) -> bool:
        """Whether attention may read held tokens where they lie: keys are like (B, H, L, D)."""
        ...

    def make(self, like: Like, heads: int, room: int) -> Held:
        """Room for `room` tokens in each of `heads` heads; `like` is (B, H, L, D) keys."""
        ...


class Storage(Protocol):
    """How all layers store one picture, or batch."""

    def turned(self, turns: Callable[[], Tensor] | None) -> None:
        """Told once a scale, before any layer holds it, how to learn how the newest map's keys were
        turned: (L, D / 2) complex, what each pair of channels was multiplied by; None: not."""
        ...

    def of_layer(self, layer: int) -> LayerStorage:
        """What the layer, from 0, stores its tokens with."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What the ledger is to say of it, as JSON values; empty where there is nothing."""
        ...
