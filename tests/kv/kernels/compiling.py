"""Compiles every kernel for a Hopper GPU, of which there need be none: run as a program, without
Triton's interpreter. Fails where one does not compile or was left out."""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from scalekv.infinity_patch.compute.kernels import (
    bias_and_gain,
    norm,
    queries_keys,
    residual,
    rows_in_fp8,
)
from scalekv.kv.kernels import (
    best,
    coded_bytes,
    coded_codes,
    coded_maps,
    coded_tables,
    coded_values,
    coded_waves,
    gather,
    mass,
    operator,
    pooling,
)

MODULES = (
    *(bias_and_gain, norm, queries_keys, residual, rows_in_fp8),
    *(coded_bytes, coded_codes, coded_maps, coded_tables, coded_values, coded_waves),
    *(best, gather, mass, pooling),
)
COMPILED: set[operator.Kernel] = set()


class Hopper:
    """What the compiler asks a driver."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", 90, 32)


def compile_instead(self: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """In place of a launch."""
    compiled = self._compile().warmup(*args, grid=grid, enable_fp_fusion=True, **constants)
    assert compiled.asm["ptx"]
    COMPILED.add(self)


def coded(k: torch.Tensor, v: torch.Tensor) -> None:
    """Every kernel of a coded cache, for one map of k and v."""
    _, heads, length, dim = k.shape
    kind = torch.int32
    units, channels = torch.zeros(6, 2, heads, 2, 6, dtype=kind), torch.zeros(2, heads, 2, 7, dim)
    weights, kinds = torch.zeros(2, heads, 2, dim).short(), torch.zeros(2, 6, dtype=kind)
    levels, sections = torch.zeros(2, 5), torch.zeros(5, 4, dtype=torch.int64)
    columns, codes = torch.zeros(3, length, dtype=kind), torch.zeros(9, dtype=torch.uint8)
    basis, few = torch.zeros(2, heads, dim, dim).half(), torch.zeros(9, 2, heads, 2, 1)
    starts, steps = coded_tables._fused(units, kinds, channels.short(), weights, levels, 128)
    found = coded_values._fused(codes, starts, steps, few.half(), columns, sections, basis)
    mean, angles = weights.half(), torch.zeros(length, dim // 2, 2)
    places = columns[0]
    for side, turns, of_map in (
        (1, angles, places),
        (20, None, places),
        (20, angles, places.long()),
    ):
        waves, everywhere, tokens = torch.zeros(side, side), turns is None, slice(side * side)
        to, back = (mean, waves, waves, turns), (mean, waves, waves, 1.5, everywhere)
        k_map, v_map = k[:, :, tokens], v[:, :, tokens]
        coded_maps._fused(found[:, :, :, tokens], of_map, *to, 1.5, everywhere, k_map, v_map)
        coded_waves._fused(k_map, v_map, turns, of_map, *back)
    energies = coded_codes._fused_energies(found, basis, starts, steps, columns, levels)
    coded_codes._fused_codes(
        found, energies, few[0, ..., 0], starts, steps, columns, sections, 0.25, 4.0, codes
    )
    coded_bytes._fused_again(
        codes, starts, steps, sections, columns, starts, steps, sections, 1, codes
    )
    coded_bytes._fused_packed(codes, sections, 9)


def main() -> None:
    driver.set_active(Hopper())
    operator.Kernel.launch = compile_instead  # type: ignore[method-assign]
    half, heads, dim, length = torch.bfloat16, 28, 128, 400
    q = torch.zeros(2, length, heads, dim, dtype=half).transpose(1, 2)
    kv = torch.zeros(2, 2, 700, heads, dim, dtype=half).transpose(2, 3)
    mass._fused_mass(q, kv[0], torch.arange(16))
    mass._fused_logits(torch.zeros(2, heads, 1, dim), kv[0])
    gather._fused(kv, torch.zeros(2, heads, 77, dtype=torch.int64), kv[:, :, :, :77])
    scores = torch.zeros(2, heads, 700)
    best._fused(scores, 77)
    pooling._fused(scores, None, [10, 10, 20, 30], 5)
    pooling._fused(scores, scores.int(), [20, 20, 20, 30], 5)
    x, vectors = torch.zeros(2, length, heads * dim), torch.zeros(2, 1, heads * dim)
    norm._fused(x, vectors, vectors, half)
    residual._fused(x, x.to(half), vectors, vectors, vectors, half)
    residual._fused(x, x.to(half), None, vectors[0, 0].to(half), vectors[0, 0].to(half), half)
    rows_in_fp8._fused(torch.zeros(length, 4 * heads * dim, dtype=half))
    bias_and_gain._fused(
        vectors[0, 0].to(half), vectors[0, 0].to(half), torch.zeros(1, heads, 1, 1)
    )
    turns = torch.zeros(length, 1, dim // 2, dtype=torch.complex64)
    qkv = torch.zeros(2, length, 3, heads, dim, dtype=half)
    k, v = kv[:, :, :, :length]
    queries_keys._fused(qkv, torch.ones(2, heads, 1), turns, q, k, v)
    coded(k, v)
    everything = {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, operator.Kernel)
    }
    assert everything == COMPILED, everything - COMPILED


if __name__ == "__main__":
    main()
