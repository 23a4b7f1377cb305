"""Work of a device that is recorded once and replayed, as CUDA graphs, and which is kept.

Knows calls, memory and when recording pays; nothing of pictures.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MODES = ("auto", "on", "off")
"""auto: what comes a second time is recorded; on: what comes the first time is."""

KEPT = 2
"""Recordings that are kept. Their memory is shared, so that many take what the largest takes; it is
the records of the driver that add up."""

REMEMBERED = 32
"""Shapes of work whose first coming, or whose refusal, is remembered."""

T = TypeVar("T")


class Tape(Protocol):
    """Pieces of work in the order they were recorded in. Tensors that a piece returned, and those
    it read, are read and written again where they lie whenever it is replayed."""

    def record(self, work: Callable[[], T]) -> T:
        """Adds a piece: what `work` does on the device, which may be done only at the replay."""
        ...

    def replay(self, piece: int) -> None:
        """Does a piece again, from 0; the device works on while the host goes on."""
        ...


class Reading(TorchDispatchMode):
    """Keeps what work reads and has not made itself, weights apart: small tables that are made once
    and kept elsewhere for as long as there is room have to be there whenever it is replayed.

    Attributes:
        kept: one tensor of each memory, by its address.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[int, Tensor] = {}
        self._apart: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, nn.Parameter):
                self._apart.add(_address(x))
            elif isinstance(x, Tensor) and _address(x) not in self._apart:
                self.kept.setdefault(_address(x), x)
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _address(x) not in self.kept:
                self._apart.add(_address(x))
        return out


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


class CudaTape:
    """A CUDA graph a piece, all in one pool of memory."""

    def __init__(self, device: torch.device, pool: Any) -> None:
        self._device, self._pool = device, pool
        self._reading = Reading()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def record(self, work: Callable[[], T]) -> T:
        graph = torch.cuda.CUDAGraph()
        # other threads may go on with what is not a part of this
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            self._reading,
        ):
            made = work()
        self._graphs.append(graph)
        return made

    def replay(self, piece: int) -> None:
        self._graphs[piece].replay()


class CudaTapes:
    """Makes tapes that share their memory: at any time one of them is replayed, from its first
    piece to its last, and nothing of it is needed afterwards but what it returned.

    Attributes:
        nbytes: of memory that the device has set aside for them.
    """

    def __init__(self, device: torch.device) -> None:
        self.nbytes = 0
        self._device = device
        self._pool: Any = None
        self._before = 0

    def begin(self) -> Tape:
        """A tape to record on."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        self._before = self._reserved()
        return CudaTape(self._device, self._pool)

    def end(self) -> None:
        """The tape begun last is recorded, or given up."""
        self.nbytes += max(self._reserved() - self._before, 0)

    def clear(self) -> None:
        """No tape is left: their memory goes back."""
        self._pool = None
        self.nbytes = 0
        torch.cuda.empty_cache()

    def _reserved(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(self._device)


class Tapes(Protocol):
    """What a device makes recordings with."""

    nbytes: int

    def begin(self) -> Tape: ...
    def end(self) -> None: ...
    def clear(self) -> None: ...


@dataclass
class Graphs:
    """What was recorded for one model, by the shape of the work: anything that equals itself.

    Attributes:
        tapes: None where the device has none.
        mode: one of `MODES`.
        recorded, replayed: how often.
        refused: shapes that are not recorded, by the reason.
    """

    tapes: Tapes | None
    mode: str = "auto"
    recorded: int = 0
    replayed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    _kept: list[tuple[Any, Any]] = field(default_factory=list)
    _seen: deque[Any] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _without: deque[Any] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def possible(self) -> bool:
        """Whether the device has graphs, asked for or not."""
        return self.tapes is not None

    @property
    def used(self) -> bool:
        """Whether work is recorded and replayed."""
        return self.possible and self.mode != "off"

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory that recordings hold."""
        return 0 if self.tapes is None else self.tapes.nbytes

    def found(self, shape: Any) -> Any:
        """What was recorded of a shape, or None."""
        for place, (known, recording) in enumerate(self._kept):
            if known == shape:
                self._kept.append(self._kept.pop(place))
                self.replayed += 1
                return recording
        return None

    def worth(self, shape: Any) -> bool:
        """Whether work that has just been done is to be recorded for the next time; remembers that
        it came."""
        if not self.used or shape in self._without:
            return False
        if self.mode == "on" or shape in self._seen:
            return True
        self._seen.append(shape)
        return False

    def record(self, shape: Any, recorded_on: Callable[[Tape], Any]) -> Any:
        """Records a shape and keeps it, letting go of what was not used for longest.

        Args:
            recorded_on: records on the tape it is given.

        Raises:
            Whatever that raises; nothing is kept then.
        """
        assert self.tapes is not None
        while len(self._kept) >= KEPT:
            del self._kept[0]
        try:
            recording = recorded_on(self.tapes.begin())
        finally:
            self.tapes.end()
        self._kept.append((shape, recording))
        self.recorded += 1
        return recording

    def refuse(self, shape: Any, reason: str) -> None:
        """A shape is not recorded, now or later."""
        self._kept = [entry for entry in self._kept if entry[0] != shape]
        if shape not in self._without:
            self._without.append(shape)
            self.refused[reason] += 1

    def clear(self) -> bool:
        """Lets go of all recordings and of their memory; False where there were none."""
        if not self._kept or self.tapes is None:
            return False
        self._kept.clear()
        self.tapes.clear()
        return True

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            "mode": self.mode,
            "recorded": self.recorded,
            "replayed": self.replayed,
            "held_bytes": self.nbytes,
            "eager": dict(self.refused),
        }
