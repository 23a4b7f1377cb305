"""The measurement of fringes finds one that was put there, and changes no decoder for good."""

from __future__ import annotations

import torch

from scalekv.configs.models import model_named
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scripts.builtin.fringes import look, mirrored_edges, table, tamed


def test_a_coloured_speck_at_the_peak_is_found() -> None:
    wanted = torch.ones(1, 3, 64, 64)
    wanted[:, :, 16:48, 16:48] = 0.0  # the middle of what is drawn is at 31.5
    decoded = wanted.clone()
    decoded[:, 1, 30, 47] = 1.0  # neon green
    seen = look(decoded, wanted, torch.tensor([25.0]), torch.tensor([[30, 47]]))
    # a unit is 127.5 levels; green is 2/3 and either other 1/3 of it off the lightness
    assert abs(float(seen.at_peak) - 127.5 * 4 / 9 / 49) < 1e-4
    assert abs(float(seen.elsewhere) - 127.5 * 4 / 9 / 64**2) < 1e-4
    assert float(seen.right) == (47 - 31.5) / 16
    assert seen.corners.tolist() == [[0.0, 0.0, 0.0, 0.0]]
    assert "| as it is |" in table({"as it is": seen})


def test_a_changed_decoder_is_the_old_one_afterwards() -> None:
    torch.manual_seed(0)
    decoder = Autoencoder(model_named("emoji").tokenizer).decoder.eval()
    z = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        before = decoder(z)
        with mirrored_edges(decoder):
            replicated = decoder(z)
        with tamed(decoder, 0.5):
            clamped = decoder(z)
        after = decoder(z)
    assert not torch.equal(before, replicated)
    assert not torch.equal(before, clamped)
    assert torch.equal(before, after)
