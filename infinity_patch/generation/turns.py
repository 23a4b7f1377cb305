"""Whose turn it is: a model computes for one thread at a time, and what one thread has patched is
not another's. Knows threads and models; nothing of caches or pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, RLock, get_ident
from weakref import WeakKeyDictionary

from torch import nn

from scalekv.kv.errors import UserError


@dataclass
class _Use:
    """lock: of the thread that computes; holder: the thread inside a block, if there is one."""

    lock: RLock = field(default_factory=RLock)
    holder: int | None = None


_uses: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_finding = Lock()


def _use_of(model: nn.Module) -> _Use:
    with _finding:
        return _uses.setdefault(model, _Use())


@contextmanager
def turn(model: nn.Module) -> Iterator[None]:
    """Inside, no other thread computes with the model; waits until that is so."""
    with _use_of(model).lock:
        yield


def refuse_while_held(model: nn.Module) -> None:
    """Refuses at the start what would otherwise wait for another thread to leave its block: that
    one may be waiting for this.

    Raises:
        UserError: another thread is inside `held(model)`.
    """
    if _use_of(model).holder not in (None, get_ident()):
        raise UserError(
            "the model is patched by another thread",
            where="a `with patched(...)` block of another thread",
            rule="while one thread has a model patched, it draws for that thread alone",
            fix="generate in that thread, after its block, or with a pipeline of its own",
        )


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """A block in which the model is this thread's alone; others wait with what they had begun.

    Raises:
        UserError: another thread is inside such a block.
    """
    refuse_while_held(model)
    use = _use_of(model)
    with use.lock:
        before, use.holder = use.holder, get_ident()
        try:
            yield
        finally:
            use.holder = before
