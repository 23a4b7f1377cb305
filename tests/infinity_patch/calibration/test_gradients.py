"""Gradients of the last scale's bits: those of the model, and what becomes of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.calibration.coded import ConstantsMeasure
from scalekv.infinity_patch.calibration.gradients import LastScaleGradients
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.kv.coded.levels import OCTAVE
from scalekv.kv.coded.units import BANDS


class Moved(LastScaleGradients):
    """Also finds the sum with a layer's keys, or values, a step along their gradients, and back."""

    LAYER, STEP = 3, 1e-2
    found: dict[tuple[int, int], Tensor]
    slopes: list[float]

    def _differentiate(self, *args: Any) -> Tensor:
        total = super()._differentiate(*args)
        self.slopes, copies, x = [], dict(self._copies), args[1]
        take, self._take = self._take, lambda *_: None
        for which in (0, 1):
            along = self.found[self.LAYER, which]
            sums = []
            for sign in (1, -1):
                self._copies = {
                    layer: (k.detach().clone(), v.detach().clone())
                    for layer, (k, v) in copies.items()
                }
                moved = self._copies[self.LAYER][which]
                moved += sign * self.STEP * along / along.norm()
                self._generator.manual_seed(0)
                sums.append(float(super()._differentiate(args[0], x.clone(), *args[2:])))
            self.slopes.append((sums[0] - sums[1]) / (2 * self.STEP))
        self._take = take
        return total


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32")


def test_gradients_are_slopes_and_the_model_is_as_it_was(pipeline: Pipeline) -> None:
    request = Request(("a frog",), seed=3, policy="full", top_p=0.0)
    settled = settled_on(pipeline, request)

    def take(layer: int, which: int, gradients: Tensor) -> None:
        moved.found[layer, which] = gradients.clone()

    moved = Moved(pipeline, settled, take)
    moved.found = {}
    before = dict(vars(pipeline.model))

    def observe(layer: int, scale: int, _schedule: Any, _q: Tensor, k: Tensor, v: Tensor) -> None:
        if scale + 1 == len(settled.schedule):
            moved.seen(layer, k, v)

    (plain,) = generate(pipeline, request)
    with moved.watching(), patched(pipeline.model, "full") as caches:
        caches.observer = observe
        (watched,) = generate(pipeline, Request(("a frog",), seed=3, top_p=0.0))
    assert watched.image.tobytes() == plain.image.tobytes()
    assert vars(pipeline.model) == before
    assert not any("forward" in vars(block) for block in pipeline.model.blocks)
    assert len(moved.found) == 2 * len(pipeline.model.blocks)
    for which, slope in enumerate(moved.slopes):
        expected = float(moved.found[Moved.LAYER, which].norm())
        assert slope == pytest.approx(expected, rel=0.02)


def test_what_is_differentiated_is_what_was_drawn(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = settled_on(pipeline, Request(("a frog",), policy="full"))
    gradients = LastScaleGradients(pipeline, settled, lambda *_: None)
    found, logits = [], pipeline.model.logits

    def told(*args: Any) -> Tensor:
        found.append(logits(*args))
        return found[-1]

    def observe(layer: int, scale: int, _schedule: Any, _q: Tensor, k: Tensor, v: Tensor) -> None:
        if scale + 1 == len(settled.schedule):
            gradients.seen(layer, k, v)

    monkeypatch.setattr(pipeline.model, "logits", told)
    with gradients.watching(), patched(pipeline.model, "full") as caches:
        caches.observer = observe
        list(generate(pipeline, Request(("a frog",))))
    *_, differentiated, drawn = found
    assert len(found) == len(settled.schedule) + 1
    torch.testing.assert_close(differentiated.detach(), drawn, atol=1e-3, rtol=1e-3)


def test_constants_by_gradients_weigh_units_and_channels(pipeline: Pipeline) -> None:
    settled = settled_on(pipeline, Request(("a frog",), policy="full"))
    measure = ConstantsMeasure(pipeline, settled, gradients=True)
    passes = ((measure.first, nullcontext()), (measure.second, measure.watching()))
    for observer, watching in passes:
        with watching, patched(pipeline.model, "full") as caches:
            caches.observer = observer
            list(generate(pipeline, Request(("a frog",))))
    constants = measure.constants({})
    assert constants.about["importance"] == "gradients of the last scale's bits"
    assert constants.weight_channel.std() > 0
    assert constants.weight_map.shape[2::3] == (3, BANDS)
    middle, side = constants.weight_map[:, :, :2].mean((0, 1, 3, 4, 5))
    assert side > middle + OCTAVE  # as guidance makes it
