"""float32 that is float32: products and convolutions without TF32 or bf16 inside, for as long as a
call takes. Knows torch's settings, which are the process's; nothing of what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_PLACES = [(where, kind) for where in ("cuda", "mkldnn") for kind in ("matmul", "conv", "rnn")]
_lock = Lock()
_users = 0
_undo: list[Callable[[], object]] = []


@contextmanager
def exact_float32() -> Iterator[None]:
    """A block, or as a decorator a function, in which float32 is computed in float32, whatever the
    process has allowed: by default torch takes TF32 for convolutions on a device.

    The settings are the process's. They are put back when the last of several threads that are in
    such a block leaves it.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _undo.extend(_set())
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                while _undo:
                    _undo.pop()()


def _set() -> Iterator[Callable[[], object]]:
    """Sets what has to be set; yields what undoes each, to be called in the opposite order."""
    # torch 2.9 has two ways to say this and refuses to read the old one where the new was used.
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    setter = getattr(torch._C, "_set_fp32_precision_setter", None)
    if getter is not None and setter is not None:
        for place in _PLACES:
            yield _later(setter, *place, getter(*place))
    try:
        products, convolutions = torch.get_float32_matmul_precision(), _convolutions()
    except RuntimeError:
        pass
    else:
        torch.set_float32_matmul_precision("highest")
        yield _later(torch.set_float32_matmul_precision, products)
        torch._C._set_cudnn_allow_tf32(False)
        yield _later(torch._C._set_cudnn_allow_tf32, convolutions)
    if setter is not None:
        for place in _PLACES:
            setter(*place, "ieee")


def _convolutions() -> bool:
    return torch._C._get_cudnn_allow_tf32()


def _later(call: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: call(*arguments)
