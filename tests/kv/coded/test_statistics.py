from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scalekv.kv.coded.constants import ALONE, GUIDED
from scalekv.kv.coded.fitting import constants_from
from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.plan import calibration_bytes
from scalekv.kv.coded.signals import signals_of, transformed
from scalekv.kv.coded.statistics import Measured, Moments, Spectra, measured, reach_of_errors
from scalekv.kv.coded.units import BANDS, units_of
from scalekv.kv.memory.predicted import CacheShape
from scalekv.kv.schedule import Schedule
from tests.infinity_patch.counting import Counting, shapes_only
from tests.kv.coded.made import smooth, turns_of

SCHEDULE = Schedule.parse("1x1 2x2 3x3 6x6 8x8 4x4")
LAYERS, HEADS, DIM = 2, 2, 8


def picture(seed: int, sequences: int = 2) -> tuple[Tensor, Tensor]:
    """k and v (sequences, H, T, D) whose halves are alike, and whose channels differ."""
    x = smooth(SCHEDULE, SCHEDULE.history, 2, HEADS, DIM, seed)
    x = x * torch.linspace(0.2, 2, DIM) + torch.linspace(-1, 1, DIM)
    k, v = x.split(1)
    noise = smooth(SCHEDULE, SCHEDULE.history, sequences, HEADS, DIM, 99 + seed)
    return k + 0.1 * noise, v + 0.1 * noise


def found(pictures: list[tuple[Tensor, Tensor]], parts: int = 2) -> tuple[Measured, Spectra]:
    moments = Moments(SCHEDULE, LAYERS, HEADS, DIM, parts)
    turns = turns_of(SCHEDULE.history, DIM)

    def through(add: object) -> None:
        assert callable(add)
        for k, v in pictures:
            for layer in range(LAYERS):
                for units in units_of(SCHEDULE):
                    first = SCHEDULE.before(units.number)
                    rows = slice(first, first + units.tokens)
                    add(layer, units.number, k[:, :, rows], v[:, :, rows], turns[rows])

    through(moments.add)
    spectra = Spectra(SCHEDULE, moments.means(), moments.basis())
    through(spectra.add)
    q = torch.randn((parts, HEADS, 16, DIM), generator=torch.Generator().manual_seed(3))
    output = torch.randn((HEADS * DIM, HEADS * DIM), generator=torch.Generator().manual_seed(4))
    for k, v in pictures:
        for layer in range(LAYERS):
            spectra.weigh(layer, q, k, v, output)
    return measured(SCHEDULE, len(pictures), moments, spectra), spectra


def test_means_bases_and_variances_are_those_of_all_signals_at_once() -> None:
    pictures = [picture(seed) for seed in range(3)]
    measure, _ = found(pictures)
    k, v = (torch.cat([p[i][half : half + 1] for half in (0, 1) for p in pictures]) for i in (0, 1))
    turns = turns_of(SCHEDULE.history, DIM)
    units = units_of(SCHEDULE)[3]
    rows = slice(SCHEDULE.before(3), SCHEDULE.before(4))
    both = (signals_of(k[:, :, rows], turns[rows], 2), signals_of(v[:, :, rows], None, 2))
    for which, signals in enumerate(both):  # (H, P, n, B, D)
        mean = signals.mean((2, 3))
        torch.testing.assert_close(
            measure.means[0, which, :, :, 3].transpose(0, 1), mean.double(), atol=1e-5, rtol=1e-4
        )
        basis = measure.basis[0, which].float()
        torch.testing.assert_close(basis.mT @ basis, torch.eye(DIM).expand_as(basis))
        y = transformed(signals - mean[:, :, None, None], units) @ basis[:, None, None]
        for band, span in zip(units.bands, units.spans, strict=True):
            expected = y[:, :, span].square().mean((2, 3)).transpose(0, 1).double()
            if band == 0:
                expected = expected / units.tokens
            torch.testing.assert_close(
                measure.variance[0, which, :2, :, 3, band], expected, atol=1e-6, rtol=1e-3
            )


def test_the_basis_puts_the_energy_into_few_channels() -> None:
    measure, _ = found([picture(seed) for seed in range(3)])
    energy = (measure.variance[0, 1, 0] * measure.sizes[..., None]).sum((1, 2))  # (H, D)
    assert (energy[:, 4:].sum(-1) > 0.8 * energy.sum(-1)).all()


def test_importance_follows_the_attention_that_is_paid() -> None:
    _, spectra = found([picture(0)])
    k, v = picture(0)
    generator = torch.Generator().manual_seed(4)
    output = torch.randn((HEADS * DIM, HEADS * DIM), generator=generator)
    q = torch.randn((2, HEADS, 16, DIM), generator=torch.Generator().manual_seed(3))
    a = (q @ k.mT).softmax(-1)
    o = a @ v
    for head in range(HEADS):
        w = output[:, head * DIM : (head + 1) * DIM]
        on_v = a[:, head].square().sum(1) * w.square().sum() / DIM  # (S, T)
        far = ((v[:, head, None] - o[:, head, :, None]) @ w.T).square().sum(-1)  # (S, L, T)
        lengths = q[:, head].square().sum(-1) / DIM
        on_k = (a[:, head].square() * far * lengths[..., None]).sum(1)
        for units in units_of(SCHEDULE):
            first = SCHEDULE.before(units.number)
            rows = slice(first, first + units.tokens)
            for which, on in enumerate((on_k, on_v)):
                expected = float(on[:, rows].mean(1).sum())
                ours = float(spectra.weight[0, which, head, units.number])
                assert ours == pytest.approx(expected, rel=1e-3)


def test_constants_say_what_was_measured_the_better_the_more_groups_they_have() -> None:
    measure, _ = found([picture(seed) for seed in range(3)])
    many = replace(measure, pictures=10**6)  # nothing has to be steadied
    units = units_of(SCHEDULE)[4]
    expected = np.log2(many.variance[0, :, :2, :, 4].numpy()[..., list(units.bands), :])
    expected[..., 0, :] += np.log2(units.tokens)
    errors = []
    for groups in (1, 1 + BANDS, (len(SCHEDULE) - 1) * BANDS):
        constants = constants_from(many, groups, {"model": "made"})
        error = np.abs(constants.variances(0, GUIDED, units) / OCTAVE - expected)
        errors.append(float(error[expected > -9].mean()))  # smooth maps lack some bands
        assert constants.variances(0, ALONE, units).shape == (2, 1, HEADS, len(units.bands), DIM)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_without_guidance_the_conditional_part_is_all_there_is() -> None:
    measure, _ = found([picture(seed, 1) for seed in range(2)], parts=1)
    constants = constants_from(measure, 1 + BANDS, {})
    units = units_of(SCHEDULE)[3]
    alone, both = (constants.variances(0, parts, units) for parts in (ALONE, GUIDED))
    assert np.array_equal(alone[:, 0], both[:, 0])
    assert np.array_equal(constants.means(0, ALONE, 3), constants.means(0, GUIDED, 3)[:, :1])


@pytest.mark.parametrize(
    ("heads", "most"), [(16, 2 << 30), (28, 4 << 30)], ids=["infinity-2b", "infinity-8b"]
)
def test_one_layers_statistics_at_1m_take_little_memory(heads: int, most: int) -> None:
    schedule = Schedule.parse("1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64")
    dim = 128
    with shapes_only(), torch.device("meta"):
        k, v = torch.empty((2, 2, heads, schedule.total, dim), dtype=torch.bfloat16)
        q = torch.empty((2, heads, schedule.tokens[-1], dim), dtype=torch.bfloat16)
        output = torch.empty((heads * dim, heads * dim), dtype=torch.bfloat16)
    with torch.inference_mode(), shapes_only(), Counting() as counting:
        reach_of_errors(q, k, v, output)
    assert counting.peak < most
    planned, _ = calibration_bytes(schedule, CacheShape(1, 2, heads, dim, 2, 2))
    assert counting.peak <= planned <= 1.5 * counting.peak
