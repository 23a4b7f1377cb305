"""Decoding a coded cache by kernels against torch's own operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalekv.kv.coded import layout
from scalekv.kv.coded.codec import CodedMaps, LayerCodec
from scalekv.kv.coded.constants import ALONE, GUIDED
from scalekv.kv.coded.units import units_of
from scalekv.kv.kernels.operator import Operator
from scalekv.kv.schedule import Schedule
from tests.kv.coded.made import made_constants, smooth, turns_of
from tests.kv.kernels.both import EXACT, HALF, counted

SCHEDULE = Schedule(((1, 1), (2, 3), (3, 3), (4, 5), (7, 7)))


def coded(
    guided: bool, dim: int, pictures: int, threshold: int, turned: bool
) -> tuple[LayerCodec, CodedMaps, Tensor | None]:
    """All maps of a layer together."""
    codec = codec_on(torch.device("cpu"), guided, dim)
    sequences = pictures * (2 if guided else 1)
    k, v = smooth(SCHEDULE, SCHEDULE.history, 2 * sequences, 2, dim).split(sequences)
    turns = turns_of(SCHEDULE.history, dim) if turned else None
    values, gains, maps = [], [], units_of(SCHEDULE)
    for units in maps:
        rows = slice(SCHEDULE.before(units.number), SCHEDULE.before(units.number + 1))
        here = None if turns is None else turns[rows]
        k_map, v_map = k[:, :, rows], v[:, :, rows]
        value, gain = codec.encode(k_map, v_map, here, units, maps, threshold, codec.bases())
        values += value
        gains.append(gain)
    return codec, codec.packed(values, maps, tuple(gains), threshold), turns


def codec_on(device: torch.device, guided: bool, dim: int) -> LayerCodec:
    return LayerCodec(made_constants(1, 2, dim, groups=7), 0, GUIDED if guided else ALONE, device)


def decoded(
    codec: LayerCodec, held: CodedMaps, turns: Tensor | None, guided: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Keys and values that lie token by token, as in a cache's workspace."""
    basis = codec.bases()
    sequences = held.pictures * (2 if guided else 1)
    shape = (2, sequences, SCHEDULE.history, *basis.shape[1:3])
    outs = list(torch.zeros(shape, dtype=dtype, device=basis.device).transpose(2, 3))
    codec.decode(held, turns, outs[0], outs[1], basis)
    return outs


def assert_close(ours: list[Tensor], plain: list[Tensor]) -> None:
    wide = 2e-2 if plain[0].dtype == HALF else 2e-5
    for x, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(x.cpu(), expected, atol=wide, rtol=wide)


@settings(max_examples=4, deadline=None)
@given(
    guided=st.booleans(),
    dim=st.sampled_from([4, 20]),
    pictures=st.integers(1, 2),
    threshold=st.integers(-1500, 1200),
    small=st.booleans(),
    turned=st.booleans(),
    dtype=st.sampled_from([EXACT, HALF]),
    interpreted=st.booleans(),
)
def test_kernels_decode_what_torch_does(
    guided: bool,
    dim: int,
    pictures: int,
    threshold: int,
    small: bool,
    turned: bool,
    dtype: torch.dtype,
    interpreted: bool,
) -> None:
    """By Triton's interpreter, and by the formulas beside the kernels."""

    def run(operator: Operator, *args: Any) -> Any:
        return counted(operator, *args) if interpreted else operator.plain(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "is_small", lambda channels, tokens: small)
        codec, held, turns = coded(guided, dim, pictures, threshold, turned)
        plain = decoded(codec, held, turns, guided, dtype)
        patch.setattr(layout, "by_kernels", lambda device: True)
        patch.setattr(Operator, "__call__", run)
        ours = decoded(codec_on(torch.device("cpu"), guided, dim), held, turns, guided, dtype)
    assert_close(ours, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [EXACT, HALF])
def test_a_graph_decodes_on_a_device_what_a_processor_does(dtype: torch.dtype) -> None:
    codec, held, turns = coded(True, 64, 2, -500, True)
    plain = decoded(codec, held, turns, True, dtype)
    device = torch.device("cuda")
    there = codec_on(device, True, 64)
    assert turns is not None
    moved = replace(
        held, codes=held.codes.to(device), gains=tuple(gain.to(device) for gain in held.gains)
    )
    turned = turns.to(device)
    decoded(there, moved, turned, True, dtype)  # tables are made, kernels compiled
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours = decoded(there, moved, turned, True, dtype)
    graph.replay()
    assert_close(ours, plain)
