"""Two-dimensional rotary positions on the grid of the largest schedule of the same ratio.

Knows positions and angles; nothing of weights or caches. Tables have the shape the published code
uses, (2, 1, 1, 1, L, D / 2), cosine first, and are found by `str(tuple(schedule))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from scalekv.kv.to_device import to_device

BASE = 10000.0
Scales3 = Sequence[tuple[int, int, int]]
"""Scales as the published code passes them: (1, h, w)."""

_turns: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Per table all its angles as complex numbers, by device."""


def positions(side: int, full: int) -> list[int]:
    """Where the `side` rows of a scale lie on a grid of `full` rows, rounded half to even."""
    return [round(Fraction(row * full, side)) for row in range(side)]


def rotary_table(scales: Sequence[tuple[int, int]], grid: tuple[int, int], head_dim: int) -> Tensor:
    """Cosines and sines of all tokens of a schedule, (2, 1, 1, 1, L, head_dim / 2), float32.

    `grid` is (rows, columns) of the last scale of the 1M schedule of the same ratio, whatever
    schedule is generated.
    """
    if head_dim % 4:
        raise ValueError(f"head width {head_dim}: rotary positions need a multiple of 4")
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half
    inverse = 1.0 / (BASE**exponent)
    parts = []
    for h, w in scales:
        rows, cols = (
            torch.outer(
                torch.tensor(positions(side, full), dtype=torch.float32, device="cpu"), inverse
            )
            for side, full in zip((h, w), grid, strict=True)
        )
        both = torch.cat([rows[:, None].expand(h, w, -1), cols[None].expand(h, w, -1)], dim=-1)
        parts.append(both.reshape(h * w, half))
    angles = torch.cat(parts)
    return torch.stack([angles.cos(), angles.sin()])[:, None, None, None]


def rotary_tables(
    scales: Sequence[tuple[int, int]],
    grid: tuple[int, int],
    head_dim: int,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """The dictionary of tables that the blocks take, with the one schedule in use.

    The table is not to be written to: it is kept for the next picture of the same schedule.
    """
    key = str(tuple((1, h, w) for h, w in scales))
    return {key: _kept_table(tuple(scales), grid, head_dim, device or torch.device("cpu"))}


@lru_cache(maxsize=16)
def _kept_table(
    scales: tuple[tuple[int, int], ...], grid: tuple[int, int], head_dim: int, device: torch.device
) -> Tensor:
    # An ordinary tensor even under inference mode: later calls outside it get the same one.
    with torch.inference_mode(False):
        return to_device(rotary_table(scales, grid, head_dim), device)


def table_of_scale(
    tables: Mapping[str, Tensor],
    schedule: Scales3,
    scale: int,
    device: torch.device | None = None,
) -> Tensor:
    """The part of a table that belongs to the tokens of one scale, (2, 1, 1, 1, L_k, D / 2).

    On `device`, or where the table is: the published code makes its tables on the host.
    """
    table, (start, end) = _found(tables, schedule, scale)
    return table[:, :, :, :, start:end].to(device or table.device)


def _found(
    tables: Mapping[str, Tensor], schedule: Scales3, scale: int
) -> tuple[Tensor, tuple[int, int]]:
    """The table of a schedule, and the rows of one scale in it."""
    key = str(tuple(tuple(s) for s in schedule))
    table = tables.get(key)
    if table is None:  # a table of a longer schedule of the same ratio serves as well
        stem = key[:-1]
        table = next((t for name, t in tables.items() if name.startswith(stem)), None)
    if table is None:
        raise KeyError(f"no rotary table for the schedule {key}")
    start = sum(h * w for _, h, w in schedule[:scale])
    _, h, w = schedule[scale]
    return table, (start, start + h * w)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the interleaved pairs of x (B, H, L, D), float32, by `table` (2, 1, 1, 1, L, D/2)."""
    cos, sin = table[0, 0], table[1, 0]
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([cos * first - sin * second, sin * first + cos * second], dim=-1)
    return turned.flatten(-2)


def turns_of_scale(
    tables: Mapping[str, Tensor],
    schedule: Scales3,
    scale: int,
    device: torch.device | None = None,
) -> Tensor:
    """The angles of one scale's tokens as complex numbers of length one, (L_k, 1, D / 2).

    On `device`, or where the table is. Multiplying by them is `rotate` in one pass. They are part
    of all the schedule's, which are made once a table.
    """
    table, (start, end) = _found(tables, schedule, scale)
    place = device or table.device
    known: dict[torch.device, Tensor] = _turns.setdefault(table, {})
    if place not in known:
        with torch.inference_mode(False):
            cos, sin = to_device(table[:, 0, 0, 0], place)
            known[place] = torch.complex(cos, sin).unsqueeze(1)
    return known[place][start:end]
