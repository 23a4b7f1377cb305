"""Where cfg stays 1 from some scale on, half of the work is left out and no bit is another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.scale_loop import Guidance
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.small import BITS, SHORT, ready, run, small_model

SCALES = len(SHORT)
# coded keeps no half's own values: it codes the two together
POLICIES = [name for name in policy_names() if name != "coded"]
LATE = (3.0,) * (SCALES - 3) + (1.0,) * 3


def test_until_when_there_is_guidance() -> None:
    def guided(*cfg: float) -> int:
        return Guidance(cfg, (1.0,) * len(cfg)).guided

    assert [guided(1, 1), guided(3, 1), guided(1, 3), guided(3, 1, 3, 1), guided(3, 3)] == [
        *(0, 1, 2, 3, 2)
    ]


def all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves to the end, as if nobody had looked at cfg."""
    monkeypatch.setattr(Guidance, "guided", property(lambda self: len(self.cfg)))


@pytest.mark.parametrize("layers", [(0,), (-1,)])
@pytest.mark.parametrize("policy", [*POLICIES, None])
def test_the_same_bits(
    policy: str | None, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    lengths: list[int] = []
    model.blocks[-1].register_forward_hook(lambda m, a, out: lengths.append(len(out)))

    def picture() -> tuple[Tensor, list[Tensor]]:
        inside = (
            None
            if policy is None
            else patched(
                model, ready(policy), "20%", SHORT, guided=True if policy == "coded" else None
            )
        )
        return run(model, cfg=LATE, layers=layers, inside=inside)

    codes, logits = picture()
    assert lengths == [2] * (SCALES - 3) + [1] * 3
    all_the_way(monkeypatch)
    both_codes, both_logits = picture()
    assert lengths[SCALES:] == [2] * SCALES
    assert torch.equal(codes, both_codes)
    for one, other in zip(logits, both_logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_the_caches_of_the_other_half_are_freed(kv_dtype: str) -> None:
    model = small_model()
    held: list[int] = []
    with patched(model, "scalekv", "20%", SHORT, kv_dtype=kv_dtype) as caches:
        hook = model.blocks[0].register_forward_pre_hook(lambda *_: held.append(caches.nbytes))
        run(model, cfg=LATE)
        hook.remove()
        assert caches.ledger is not None
        rows = caches.ledger.to_dict()["scales"]
        kept = caches.layers[0].kept
        assert held == [row["held_bytes"] for row in rows]
    with patched(model, "scalekv", "20%", SHORT, kv_dtype=kv_dtype) as caches:
        run(model, cfg=(3.0,) * SCALES)
        assert caches.ledger is not None
        whole = [row["held_bytes"] for row in caches.ledger.to_dict()["scales"]]
        assert torch.equal(kept, caches.layers[0].kept[:1])
    assert held[:-3] == whole[:-3]
    assert [2 * n for n in held[-3:]] == whole[-3:]


def test_drawing_ahead_draws_the_same() -> None:
    plain, ahead = (BitSampler([3, 4], 0.97) for _ in range(2))
    ahead.draw_ahead(SHORT, BITS, torch.device("cpu"))
    for scale, tokens in enumerate(SHORT.tokens):
        logits = torch.randn(2, tokens, BITS, 2)
        assert torch.equal(plain(scale, logits), ahead(scale, logits))
