"""Large maps in strips: the same pictures, in a fraction of the memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from scalekv.configs.models import model_named
from scalekv.infinity_patch.model import autoencoder
from scalekv.infinity_patch.model.autoencoder import Autoencoder, strips
from tests.golden.weights import tensor_value

SPEC = replace(model_named("emoji").tokenizer, ch=24, ch_mult=(1, 2, 3), res_blocks=1)


@pytest.fixture(scope="module")
def vae() -> Autoencoder:
    """Filled weights; 24 channels, which 32 does not divide, and 48 and 72."""
    model = Autoencoder(SPEC)
    model.eval().requires_grad_(False)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    model.load_state_dict({name: tensor_value(name, s, 5) for name, s in shapes.items()})
    return model


def latent() -> torch.Tensor:
    """Two maps of codes, higher than wide."""
    result = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (2, SPEC.bits, 7, 5), generator=result) * 2 - 1
    codes: torch.Tensor = signs / SPEC.bits**0.5
    return codes


@pytest.mark.parametrize("strip", [1, 5000, 20000, 1 << 30])
def test_strips_change_nothing_but_rounding(
    vae: Autoencoder, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        whole = vae.decode(latent())
        monkeypatch.setattr(autoencoder, "LARGE", 1)
        monkeypatch.setattr(autoencoder, "STRIP", {"cpu": strip})
        torch.testing.assert_close(vae.decode(latent()), whole, rtol=0, atol=2e-5)
    assert float(whole.std()) > 0.1


def test_gradients_see_whole_maps(vae: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "LARGE", 1)
    codes = latent().requires_grad_()
    vae.decoder(codes).sum().backward()
    assert codes.grad is not None
    assert bool(codes.grad.abs().sum() > 0)


def test_strips_cover_every_row_once() -> None:
    for height, width in ((1, 1), (7, 3), (4096, 4096)):
        covered = list(strips(torch.empty(1, 8, height, width, device="meta")))
        assert covered[0][0] == 0
        assert covered[-1][1] == height
        assert all(a[1] == b[0] for a, b in pairwise(covered))


def test_half_precision_pictures_are_close(vae: Autoencoder) -> None:
    half = Autoencoder(SPEC).eval().requires_grad_(False)
    half.load_state_dict(vae.state_dict())
    half.decoder.to(torch.bfloat16)
    with torch.inference_mode():
        exact, close = vae.decode(latent()), half.decode(latent())
    assert close.dtype == torch.float32
    assert float((close - exact).abs().mean()) < 0.02


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
def test_statistics_of_strips_are_those_of_the_whole_map(
    mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "STRIP", {"cpu": 5000})
    result = torch.Generator().manual_seed(0)
    x = mean + torch.randn(2, 48, 31, 17, generator=result)
    norm = autoencoder.Norm(48)
    assert len(list(strips(x))) > 5
    with torch.inference_mode():
        factor, shift = norm._factor_and_shift(x)
        exact = x.double().unflatten(1, (norm.norm.num_groups, -1)).flatten(2)
        spread = (exact.var(-1, correction=0) + autoencoder.NORM_EPS).rsqrt()
        each = 48 // norm.norm.num_groups
        torch.testing.assert_close(
            factor.double(), spread.repeat_interleave(each, 1), rtol=2e-7, atol=0
        )
        wanted = (-exact.mean(-1) * spread).repeat_interleave(each, 1)
        torch.testing.assert_close(shift.double(), wanted, rtol=2e-7, atol=2e-7)
