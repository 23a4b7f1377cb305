"""Custom operators: a plain formula, a Triton kernel for CUDA devices, and shapes alone for tensors
without memory. Knows how to register and launch; nothing of what is computed.

Nothing here or in a kernel's file imports Triton before a kernel is launched; it comes with torch's
CUDA builds. Where it is missing, CUDA devices compute the plain formula too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "scalekv"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")

OPERATORS: dict[str, Operator] = {}
"""Every operator that was made, by its name."""


class Operator:
    """One operator under `torch.ops.scalekv`, so that fake tensors, compilation and graphs see it.

    Attributes:
        name: of the operator.
        launches: how many kernels `fused` launches, which are all that it computes with.
        plain: the formula in torch's own operations.
        fused: the same by Triton.
    """

    def __init__(
        self,
        schema: str,
        *,
        plain: Callable[..., Any],
        fused: Callable[..., Any],
        shapes: Callable[..., Any],
        launches: int,
    ) -> None:
        """
        Args:
            schema: name, arguments and results, in torch's own notation.
            shapes: empty results of the right shape, dtype and device.
        """
        self.name = schema.partition("(")[0]
        self.launches = launches
        self.plain = plain
        self.fused = fused
        _library.define(schema)
        _library.impl(self.name, plain, "CompositeExplicitAutograd")
        _library.impl(self.name, self._on_cuda, "CUDA")
        torch.library.register_fake(f"{NAMESPACE}::{self.name}", shapes, lib=_library)
        self._operator = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        OPERATORS[self.name] = self

    def __call__(self, *args: Any) -> Any:
        """By the plain formula or the kernel, as the tensors' device has it. No gradients."""
        return self._operator(*args)

    def _on_cuda(self, *args: Any) -> Any:
        return (self.fused if has_triton() else self.plain)(*args)


class Kernel:
    """A Triton kernel, compiled when it is first launched; a decorator of its body.

    The body refers to `triton.language` as `tl`, which its file imports for type checkers alone.
    """

    def __init__(self, body: Callable[..., None]) -> None:
        self._body = body
        self._compiled: Any = None

    def launch(self, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        """Runs the body once for each place of the grid, on the device of the first argument."""
        if self._compiled is None:
            self._compiled = self._compile()
        with _current(args[0].device):
            self._compiled[grid](*args, enable_fp_fusion=True, **constants)

    def _compile(self) -> Any:
        import triton
        import triton.language

        self._body.__globals__["tl"] = triton.language
        # Lengths differ from scale to scale: a kernel of its own for each kind of number would
        # have to be compiled for it.
        code = self._body.__code__
        arguments = code.co_varnames[: code.co_argcount]
        lengths = [name for name in arguments if name.startswith(("count", "length"))]
        return triton.jit(self._body, do_not_specialize=lengths)


def _current(device: torch.device) -> Any:
    """Makes a CUDA device the current one, which is where Triton launches."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def pieces(whole: int, part: int) -> int:
    """How many parts of that size cover the whole."""
    return -(-whole // part)


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << max(least - 1, 0).bit_length()


def strides(x: Tensor) -> tuple[int, ...]:
    """All of x's strides but the last, which must be 1: numbers of a vector lie side by side."""
    assert x.stride(-1) == 1 or x.shape[-1] == 1, x.stride()
    return tuple(x.stride()[:-1])
