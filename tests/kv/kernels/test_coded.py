"""Coding a cache, and decoding it, by kernels against torch's own operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalekv.kv.coded.allocation import Allocation
from scalekv.kv.coded.codec import CodedMaps, LayerCodec
from scalekv.kv.coded.constants import ALONE, GUIDED
from scalekv.kv.coded.fused.codec import FusedCodec
from scalekv.kv.coded.history import Codec, CodedHistory
from scalekv.kv.coded.levels import LEVELS
from scalekv.kv.kernels import coded_codes
from scalekv.kv.kernels.coded_values import coded_values
from scalekv.kv.kernels.operator import OPERATORS, Operator
from scalekv.kv.schedule import Schedule
from tests.kv.coded.made import made_constants, smooth, turns_of
from tests.kv.kernels.both import EXACT, HALF, counted

MAPS = ((1, 1), (1, 2), (2, 2), (3, 6), (5, 2), (1, 1))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One layer's history through a picture: raw for two scales, then under rising thresholds."""

    guided: bool = True
    dim: int = 4
    heads: int = 2
    pictures: int = 1
    thresholds: tuple[int, ...] = (-1500, -1400, -1400, -700)
    turned: bool = True
    dtype: torch.dtype = EXACT
    sides: tuple[tuple[int, int], ...] = MAPS
    groups: int = 7
    together: int = 1 << 19

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.sides)

    def codec(self, kind: type[Codec], device: torch.device) -> Any:
        constants = made_constants(1, self.heads, self.dim, groups=self.groups)
        return kind(constants, 0, GUIDED if self.guided else ALONE, device)  # type: ignore[call-arg]

    def tokens(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values, smooth but for a little, so that no coefficient is exactly between two
        codes, and how they are turned."""
        schedule, sequences = self.schedule, self.pictures * (2 if self.guided else 1)
        x = smooth(schedule, schedule.history, 2 * sequences, self.heads, self.dim)
        x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        k, v = x.to(device, self.dtype).split(sequences)
        turns = turns_of(schedule.history, self.dim).to(device) if self.turned else None
        return k, v, turns


@dataclass
class Played:
    """What a history came to."""

    held: list[CodedMaps]
    nbytes: list[int]
    decoded: list[Tensor]


def played(case: Case, codec: Codec, device: torch.device) -> Played:
    schedule, first = case.schedule, 2
    thresholds = (0,) * first + case.thresholds
    allocation = Allocation(schedule, case.guided, case.pictures, 0, 0, first, thresholds, ())
    k, v, turns = case.tokens(device)
    history, nbytes = CodedHistory(codec, allocation, lambda x: x), []
    for scale in range(first, len(schedule)):
        known = schedule.before(scale)
        here = None if turns is None else turns[:known]
        history.hold(scale, k[:, :, :known], v[:, :, :known], here)
        nbytes.append(history.nbytes)
    shape = (2, k.shape[0], k.shape[2], k.shape[1], k.shape[3])  # as in a cache's workspace
    outs = list(torch.zeros(shape, dtype=case.dtype, device=device).transpose(2, 3))
    history.copy_to(outs[0], outs[1], turns)
    return Played(history._held, nbytes, outs)


def coefficients(codec: LayerCodec, coded: CodedMaps) -> Tensor:
    """(2, H, P, n, B, D) in units of gains, by torch."""
    layout = codec._layouts.of(coded.maps, coded.threshold)
    kinds, heads, dim, parts, _ = layout.weights[0].shape
    tokens = sum(units.tokens for units in coded.maps)
    found = torch.zeros((kinds, heads, dim, parts, tokens, coded.pictures))
    for block, value in zip(layout.blocks, codec._values(coded, layout), strict=True):
        first = sum(units.tokens for units in coded.maps[: block.number])
        inside = coded.maps[block.number].columns(block.units)
        columns = slice(first + inside.start, first + inside.stop)
        found[block.kinds, :, block.least :, block.parts, columns] = value
    return found.permute(0, 1, 3, 4, 5, 2)


def fused_coefficients(codec: FusedCodec, coded: CodedMaps) -> tuple[Tensor, Tensor, Tensor]:
    """The same of codes that kernels made, steps, and levels."""
    known = codec._quantisers.of(coded.maps, coded.threshold)
    starts, steps = codec._quantisers.tables(known)
    one = torch.ones_like(torch.stack(coded.gains))
    same = torch.eye(codec._basis.shape[-1], device=one.device).expand(codec._basis.shape)
    sections = known.sections(coded.pictures)
    found = coded_values(
        coded.codes, starts, steps, one, known.columns, sections, same.contiguous()
    )
    unit = known.columns[0].long()
    of_all = (found, steps[:, :, :, unit].unsqueeze(4), (starts & 7)[:, :, :, unit].unsqueeze(4))
    values, steps, levels = (x.cpu() for x in of_all)
    return values, steps, levels


def differing(case: Case, plain: Played, ours: Played, codecs: tuple[Any, Any]) -> tuple[int, int]:
    """How many codes are not torch's, one step away, and how many there are; of maps whose gains
    are the same, which all but a few are to be, those others by one rounding."""
    away = total = 0
    for expected, coded in zip(plain.held, ours.held, strict=True):
        assert (coded.maps, coded.threshold) == (expected.maps, expected.threshold)
        gains, other = (torch.stack(x.gains).cpu() for x in (expected, coded))
        torch.testing.assert_close(other.float(), gains.float(), rtol=1.1 * 2**-10, atol=0)
        assert int((gains != other).sum()) <= max(1, gains.numel() // 50)
        values, steps, levels = fused_coefficients(codecs[1], coded)
        apart = (values - coefficients(codecs[0], expected)) / steps.clamp_min(1e-9)
        same = (gains == other).repeat_interleave(
            torch.tensor([units.tokens for units in coded.maps]), dim=0
        )
        apart = apart * same.permute(1, 2, 3, 0, 4).unsqueeze(5)
        assert float(apart.abs().max()) < 1.01
        away += int((apart.abs() > 0.5).sum())
        total += int((levels > 0).sum()) * coded.pictures
    return away, total


def check(case: Case, device: torch.device = CPU, ours: Played | None = None) -> None:
    """Kernels, or what `Operator` calls instead, against torch's operations."""
    torch_codec, fused = case.codec(LayerCodec, CPU), case.codec(FusedCodec, device)
    plain = played(case, torch_codec, CPU)
    ours = ours or played(case, fused, device)
    assert ours.nbytes == plain.nbytes
    away, total = differing(case, plain, ours, (torch_codec, fused))
    assert away <= max(1, total // 1000), (away, total)
    if away == 0 and all(
        torch.equal(x.cpu(), y)
        for a, b in zip(ours.held, plain.held, strict=True)
        for x, y in zip(a.gains, b.gains, strict=True)
    ):
        wide = 2e-2 if case.dtype == HALF else 2e-5
        for x, expected in zip(ours.decoded, plain.decoded, strict=True):
            torch.testing.assert_close(x.cpu(), expected, atol=wide, rtol=wide)


thresholds = st.lists(st.integers(-1800, 900), min_size=4, max_size=4).map(sorted).map(tuple)
cases = st.builds(
    Case,
    guided=st.booleans(),
    dim=st.sampled_from([4, 20]),
    heads=st.integers(1, 3),
    pictures=st.integers(1, 3),
    thresholds=thresholds,
    turned=st.booleans(),
    dtype=st.sampled_from([EXACT, HALF]),
    groups=st.sampled_from([1, 7]),
    together=st.sampled_from([40, 1 << 19]),
)


@settings(max_examples=8, deadline=None)
@given(case=cases)
def test_the_formulas_beside_the_kernels_code_as_torch_does(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalekv.kv.coded.units.SMALL", case.together)
        patch.setattr(Operator, "__call__", by_formulas)
        check(case)


@pytest.mark.parametrize(
    "case",
    [
        Case(heads=1, pictures=2, sides=((1, 1), (1, 2), (2, 1), (3, 6), (1, 1))),
        Case(guided=False, heads=1, dim=6, turned=False, dtype=HALF, together=20),
    ],
)
def test_kernels_code_as_torch_does(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Triton's interpreter."""
    called = []

    def interpreted(operator: Operator, *args: Any) -> Any:
        called.append(operator.name)
        return counted(operator, *args)

    monkeypatch.setattr("scalekv.kv.coded.units.SMALL", case.together)
    monkeypatch.setattr(coded_codes, "_SUMS", 1)
    monkeypatch.setattr(Operator, "__call__", interpreted)
    check(case)
    assert set(called) == {name for name in OPERATORS if name.startswith("coded_")}


def by_formulas(operator: Operator, *args: Any) -> Any:
    return operator.plain(*args)


def test_the_cases_have_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operator, "__call__", by_formulas)
    case = Case()
    codec = case.codec(FusedCodec, CPU)
    [coded] = played(case, codec, CPU).held
    levels = fused_coefficients(codec, coded)[2]
    assert set(levels.flatten().tolist()) == set(range(len(LEVELS)))


def test_what_keeps_its_bits_is_not_coded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalekv.kv.coded.units.SMALL", 1)  # a map a group
    monkeypatch.setattr(Operator, "__call__", by_formulas)
    case = Case()
    k, v, turns = case.tokens(CPU)
    allocation = Allocation(case.schedule, True, 1, 0, 0, 2, (0, 0, -1500, -1500, -1400, -700), ())
    history = CodedHistory(case.codec(FusedCodec, CPU), allocation, lambda x: x)
    held = []
    for scale in (2, 3, 4):
        history.hold(scale, k, v, turns)
        held.append([coded.codes for coded in history._held[:2]])
    assert all(a is b for a, b in zip(held[0], held[1], strict=True))
    assert any(a is not b for a, b in zip(held[1], held[2], strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("dtype", [EXACT, HALF])
def test_a_graph_codes_on_a_device_as_a_processor_does(guided: bool, dtype: torch.dtype) -> None:
    case = Case(guided, 64, 4, 2, dtype=dtype)
    device = torch.device("cuda")
    codec = case.codec(FusedCodec, device)
    played(case, codec, device)  # tables are made, kernels compiled
    graph = torch.cuda.CUDAGraph()
    tokens = case.tokens(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Case, "tokens", lambda self, device: tokens)
        with torch.cuda.graph(graph):
            ours = played(case, codec, device)
    graph.replay()
    check(case, device, ours)
