from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalekv.kv.coded.allocation import histogram
from scalekv.kv.coded.codec import CodedMaps, LayerCodec, Values
from scalekv.kv.coded.constants import ALONE, GUIDED, Constants
from scalekv.kv.coded.levels import LEVELS, code_bytes
from scalekv.kv.coded.packing import pack, unpack
from scalekv.kv.coded.signals import restored, signals_of, transformed, write_back
from scalekv.kv.coded.units import MapUnits, map_units, units_of
from scalekv.kv.schedule import Schedule
from tests.kv.coded.made import drawn, made_constants, smooth, turns_of

CPU = torch.device("cpu")


@given(st.sampled_from(LEVELS[1:]), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_codes_come_back_from_their_bytes(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes.to(torch.uint8), bits)
    assert len(packed) == code_bytes(count, bits)
    assert torch.equal(unpack(packed, bits, count), codes.to(torch.uint8))


@given(st.integers(0, 9), st.integers(1, 20), st.integers(1, 20))
def test_units_are_every_coefficient_once(number: int, height: int, width: int) -> None:
    units = map_units(number, height, width)
    assert sorted(units.order) == list(range(height * width))
    assert sum(units.sizes) == height * width
    assert list(units.bands) == sorted(set(units.bands))
    if units.transformed:
        assert (units.bands[0], units.sizes[0], units.order[0]) == (0, 1, 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (16, 16), (17, 16), (20, 30)])
def test_the_transform_is_orthonormal_and_comes_back(height: int, width: int) -> None:
    units = map_units(4, height, width)
    x = torch.randn((2, height * width, 3, 4), generator=torch.Generator().manual_seed(1))
    y = transformed(x, units)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1))
    torch.testing.assert_close(y[:, 0], x.mean(1) * (height * width) ** 0.5, atol=1e-5, rtol=0)
    torch.testing.assert_close(restored(y, units), x, atol=1e-5, rtol=0)
    for count, end in enumerate(units.ends[1:], 1):
        first = transformed(x, units, count)
        torch.testing.assert_close(first, y[:, :end], atol=1e-5, rtol=0)
        cut = torch.cat((first, torch.zeros_like(y[:, end:])), dim=1)
        torch.testing.assert_close(restored(first, units), restored(cut, units))


def test_a_large_map_is_transformed_as_a_small_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    units = map_units(4, 8, 6)
    x = torch.randn((2, 48, 1, 4))
    y = transformed(x, units)
    monkeypatch.setattr("scalekv.kv.coded.signals.WHOLE", 0)
    torch.testing.assert_close(transformed(x, units), y)
    torch.testing.assert_close(restored(y, units), x)


@pytest.mark.parametrize("parts", [1, 2])
def test_signals_come_back(parts: int) -> None:
    x = torch.randn((4, 2, 6, 8), generator=torch.Generator().manual_seed(0))
    for turns in (turns_of(6, 8), None):
        signals = signals_of(x, turns, parts)
        assert signals.shape == (2, parts, 6, 4 // parts, 8)
        out = torch.empty_like(x)
        write_back(signals.unbind(1), turns, out)
        torch.testing.assert_close(out, x)


def test_equal_halves_have_no_side() -> None:
    half = torch.randn((1, 2, 6, 8))
    both = half.repeat(2, 1, 1, 1)
    signals = signals_of(both, None, 2)
    assert not signals[:, 1].any()
    torch.testing.assert_close(signals[:, 0, :, 0], half[0])


def _coded(
    constants: Constants,
    schedule: Schedule,
    number: int,
    threshold: int,
    guided: bool,
    pictures: int,
) -> tuple[LayerCodec, CodedMaps, MapUnits, Tensor, Tensor]:
    units = units_of(schedule)[number]
    sequences = pictures * (2 if guided else 1)
    start, end = schedule.before(number), schedule.before(number + 1)
    x = smooth(schedule, end, 2 * sequences, constants.heads, constants.head_dim)[:, :, start:]
    k, v = x.split(sequences)
    turns = turns_of(end, constants.head_dim)[start:]
    codec = LayerCodec(constants, 1, GUIDED if guided else ALONE, CPU)
    return codec, _one(codec, k, v, turns, units, threshold), units, k, v


def _one(
    codec: LayerCodec, k: Tensor, v: Tensor, turns: Tensor, units: MapUnits, threshold: int
) -> CodedMaps:
    values: Values = []
    gains = codec.encode(values, k, v, turns, units, (units,), threshold, codec.bases())
    return codec.packed(values, (units,), (gains,), threshold)


def _coarser(codec: LayerCodec, coded: CodedMaps, threshold: int) -> CodedMaps:
    values = codec.begun(coded, coded.maps, threshold, coded.pictures)
    return codec.packed(values, coded.maps, coded.gains, threshold)


def _error(codec: LayerCodec, coded: CodedMaps, turns: Tensor, k: Tensor, v: Tensor) -> float:
    k_out, v_out = torch.empty_like(k), torch.empty_like(v)
    codec.decode(coded, turns, k_out, v_out, codec.bases())
    return float((k_out - k).square().mean() + (v_out - v).square().mean())


@settings(deadline=None, max_examples=40)
@given(
    sides=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=6),
    heads=st.integers(1, 3),
    dim=st.sampled_from([4, 8, 12]),
    pictures=st.integers(1, 3),
    guided=st.booleans(),
    groups=st.sampled_from([1, 7]),
    threshold=st.integers(-1200, 400),
    data=st.data(),
)
def test_bytes_are_as_counted_and_a_higher_threshold_is_coarser(
    sides: list[tuple[int, int]],
    heads: int,
    dim: int,
    pictures: int,
    guided: bool,
    groups: int,
    threshold: int,
    data: st.DataObject,
) -> None:
    schedule = Schedule(tuple(sides))
    constants = made_constants(2, heads, dim, maps=4, groups=groups)
    number = data.draw(st.integers(0, len(schedule) - 2))
    codec, coded, _, _, _ = _coded(constants, schedule, number, threshold, guided, pictures)
    counts = histogram(constants, schedule, guided).counts(len(schedule) - 1, threshold)
    expected = sum(
        code_bytes(int(of_level[number, 1]) * pictures, bits)
        for bits, of_level in zip(LEVELS[1:], counts, strict=True)
    )
    assert coded.codes.nbytes == coded.codes.untyped_storage().nbytes() == expected
    fewer = _coarser(codec, coded, threshold + data.draw(st.integers(0, 600)))
    assert fewer.codes.nbytes <= coded.codes.nbytes


@settings(deadline=None, max_examples=30)
@given(
    sides=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=4, max_size=6),
    heads=st.integers(1, 3),
    dim=st.sampled_from([4, 8, 12]),
    guided=st.booleans(),
    groups=st.sampled_from([1, 7]),
    data=st.data(),
)
def test_the_error_falls_with_the_bits(
    sides: list[tuple[int, int]],
    heads: int,
    dim: int,
    guided: bool,
    groups: int,
    data: st.DataObject,
) -> None:
    """Of signals as the constants say they are, in the mean over pictures and all coefficients; a
    single coefficient may come to lie further off with a bit more."""
    schedule = Schedule(tuple(sides))
    constants = made_constants(2, heads, dim, maps=4, groups=groups)
    units = units_of(schedule)[data.draw(st.integers(0, len(schedule) - 2))]
    parts = GUIDED if guided else ALONE
    codec = LayerCodec(constants, 1, parts, CPU)
    k, v = drawn(constants, 1, parts, units, pictures=64)
    turns = turns_of(units.tokens, dim)
    errors = [
        _error(codec, _one(codec, k, v, turns, units, threshold), turns, k, v)
        for threshold in (2000, 200, 0, -200, -400, -600, -5000)
    ]
    for fewer, more in pairwise(errors):
        assert more <= 1.02 * fewer
    assert errors[-1] < errors[0] / 100


def test_recoding_equals_coding_with_fewer_bits() -> None:
    schedule = Schedule(((1, 1), (2, 2), (3, 3), (6, 8), (9, 9)))
    constants = made_constants()
    turns = turns_of(schedule.before(4), 8)[schedule.before(3) :]
    codec, fine, _, k, v = _coded(constants, schedule, 3, -900, True, 1)
    _, coarse, _, _, _ = _coded(constants, schedule, 3, -300, True, 1)
    again = _coarser(codec, fine, -300)
    assert again.codes.nbytes == coarse.codes.nbytes
    direct, twice = (_error(codec, coded, turns, k, v) for coded in (coarse, again))
    assert twice < 1.3 * direct
    assert codec.changes(fine, -300)
    assert not codec.changes(fine, -900)
    assert torch.equal(_coarser(codec, fine, -900).codes, fine.codes)


def test_pictures_together_decode_as_each_alone() -> None:
    schedule = Schedule(((1, 1), (2, 2), (3, 3), (6, 8), (9, 9)))
    constants, units = made_constants(), units_of(schedule)[3]
    codec = LayerCodec(constants, 1, GUIDED, CPU)
    k, v = drawn(constants, 1, GUIDED, units, pictures=2)
    turns = turns_of(units.tokens, 8)
    together = _one(codec, k, v, turns, units, -500)
    k_out, v_out = torch.empty_like(k), torch.empty_like(v)
    codec.decode(together, turns, k_out, v_out, codec.bases())
    for picture in (0, 1):
        rows = [picture, 2 + picture]
        alone = _one(codec, k[rows], v[rows], turns, units, -500)
        k_one, v_one = torch.empty_like(k[rows]), torch.empty_like(v[rows])
        codec.decode(alone, turns, k_one, v_one, codec.bases())
        torch.testing.assert_close(k_one, k_out[rows], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(v_one, v_out[rows], atol=1e-5, rtol=1e-5)
