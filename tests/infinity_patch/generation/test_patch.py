"""The patch: exact where nothing is dropped, to the byte where something is, and always undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scalekv.infinity_patch.generation.patch import patched, self_attentions
from scalekv.infinity_patch.model.attention import (
    attend,
    attend_ragged,
    attends_raggedly,
    raw_queries,
)
from scalekv.infinity_patch.model.transformer import SelfAttention
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budgets.heat_order import order_from_mass, write_order
from scalekv.kv.budgets.moments import within
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import cache_bytes, full_cache_bytes
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.small import SHORT, SPEC, ready, run, small_model

WIDE = schedule_for("3:2", "0.06M")

KEEP_ALL = ("full", "coded")


def overrides(model: nn.Module) -> list[tuple[bool, bool]]:
    """Per self-attention, whether the object itself carries a forward and a kv_caching."""
    return [("forward" in m.__dict__, "kv_caching" in m.__dict__) for m in self_attentions(model)]


def run_and_interrupt(model: Any) -> None:
    """A picture, then what Ctrl-C raises."""
    run(model)
    raise KeyboardInterrupt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("schedule", [SHORT, WIDE], ids=["square", "wide"])
def test_full_is_the_unpatched_model_bit_for_bit(dtype: torch.dtype, schedule: Any) -> None:
    model = small_model(dtype)
    codes, logits = run(model, schedule)
    same, again = run(model, schedule, inside=patched(model, policy="full"))
    assert torch.equal(codes, same)
    assert all(torch.equal(a, b) for a, b in zip(logits, again, strict=True))


def test_a_full_budget_drops_nothing() -> None:
    model = small_model()
    codes, _ = run(model)
    same, _ = run(model, inside=patched(model, policy="scalekv", budget="100%"))
    assert torch.equal(codes, same)


def test_a_small_budget_changes_the_picture() -> None:
    model = small_model()
    _, logits = run(model)
    _, other = run(model, inside=patched(model, budget="10%"))
    assert torch.equal(logits[2], other[2])  # nothing is dropped before the history exceeds 26
    assert not torch.equal(logits[-1], other[-1])


@pytest.mark.parametrize("drafters", [(), (0,), (0, 3)])
@pytest.mark.parametrize("budget", ["10%", "20%", "50%", 40])
def test_held_bytes_are_the_formula(budget: Any, drafters: tuple[int, ...]) -> None:
    model = small_model()
    with patched(model, budget=budget, drafters=drafters) as caches:
        run(model)
        assert caches.budget is not None
        last = len(SHORT) - 1
        held = within(caches.budget)
        tokens = [held.held_tokens(last, layer) for layer in range(SPEC.depth)]
        for layer, cache in enumerate(caches.layers):
            assert cache.kept.shape == (2, SPEC.heads)
            assert (cache.kept == tokens[layer]).all()
            assert tokens[layer] <= caches.budget.capacity(last, layer)
        expected = sum(cache_bytes(1, 2, SPEC.heads, SPEC.head_dim, n, 4) for n in tokens)
        assert caches.nbytes == expected
        most = cache_bytes(SPEC.depth, 2, SPEC.heads, SPEC.head_dim, caches.budget.mean, 4)
        assert expected <= caches.peak_nbytes <= most


def test_bytes_are_for_the_batch_and_the_dtype_that_come() -> None:
    means: list[int] = []
    for dtype, cfg in ((torch.float32, 3.0), (torch.bfloat16, 3.0), (torch.float32, 1.0)):
        model = small_model(dtype)
        with patched(model, budget="100KiB") as caches:
            assert caches.budget is None  # nothing is known yet of what a token takes
            run(model, cfg=(cfg,) * len(SHORT))  # without guidance half as many sequences
            assert caches.budget is not None
            assert caches.ledger is not None
            token = caches.ledger.shape.bytes_of(1)
            assert caches.budget.mean == 100 * 1024 // token
            assert caches.budget.label == "100KiB"
            assert 100 * 1024 - token < caches.nbytes <= 100 * 1024
            means.append(caches.budget.mean)
    assert means[1] // 2 == means[2] // 2 == means[0]


@pytest.mark.parametrize("kv_dtype", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("policy", ["scalekv", "heatkv", "h2o"])
def test_bytes_are_kept_to_however_tokens_are_stored(policy: str, kv_dtype: str) -> None:
    model = small_model()
    asked = {"fp32": 300, "bf16": 150, "int8": 150, "int4": 100}[kv_dtype] * 1024
    with patched(model, ready(policy), f"{asked}B", kv_dtype=kv_dtype) as caches:
        run(model)
        assert caches.ledger is not None
        assert caches.budget is not None
        assert caches.ledger.held_peak_bytes <= asked
        if policy == "h2o":  # uniform, so that all of it is used
            assert caches.ledger.held_peak_bytes > asked * (1 - 1 / caches.budget.mean)


def test_too_few_bytes_are_refused_with_what_works() -> None:
    model = small_model()
    with pytest.raises(UserError) as caught:
        run(model, inside=patched(model, budget="1KiB"))
    offered = caught.value.fix.split()[4].rstrip(",")
    with patched(model, budget=offered) as caches:
        run(model)
        assert caches.budget is not None
        assert caches.budget.mean == 1


def test_a_model_that_knows_its_preset_takes_that_ones_budgets(tmp_path: Path) -> None:
    """Presets may have the same sizes. Of a model that says nothing any budget of its depth is
    good."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"model: mine\nlayers: {SPEC.depth}\nmean: 30\nprovenance: by hand\n")
    model = small_model()
    for name in (None, "mine"):
        model.preset_name = name
        with patched(model, budget=str(mine), schedule=SHORT) as caches:
            assert caches.budget is not None
            assert caches.budget.mean == 30
    model.preset_name = "theirs"
    with (
        pytest.raises(UserError, match="made for mine, not for theirs"),
        patched(model, budget=str(mine)),
    ):
        pass


def test_full_holds_the_history_and_not_the_last_scale() -> None:
    model = small_model()
    with patched(model, policy="full") as caches:
        run(model)
        history = full_cache_bytes(
            SHORT, SPEC.depth, 2, SPEC.heads, SPEC.head_dim, 4, include_last=False
        )
        assert caches.nbytes == caches.peak_nbytes == history
        caches.reset()
        assert caches.nbytes == 0


def test_guidance_halves_select_apart_and_pictures_do_not_mix() -> None:
    model = small_model()
    first, _ = run(model, seed=1, inside=patched(model))
    with patched(model):
        run(model, seed=2)
        again, _ = run(model, seed=1)
    assert torch.equal(first, again)


def test_every_forward_is_the_original_afterwards() -> None:
    model = small_model()
    before = [m.forward for m in self_attentions(model)]
    with patched(model):
        assert overrides(model) == [(True, True)] * SPEC.depth
    assert overrides(model) == [(False, False)] * SPEC.depth
    assert [m.forward for m in self_attentions(model)] == before


def test_every_forward_is_the_original_after_an_exception() -> None:
    model = small_model()
    before = [m.forward for m in self_attentions(model)]
    with pytest.raises(KeyboardInterrupt), patched(model) as caches:
        run_and_interrupt(model)
    assert overrides(model) == [(False, False)] * SPEC.depth
    assert [m.forward for m in self_attentions(model)] == before
    assert caches.nbytes == caches.transient_nbytes == 0


def test_an_override_that_was_there_comes_back() -> None:
    model = small_model()
    module = self_attentions(model)[1]
    mine = module.forward
    module.__dict__["forward"] = mine
    with patched(model):
        assert module.__dict__["forward"] is not mine
    assert module.__dict__["forward"] is mine


def test_patches_do_not_nest() -> None:
    model = small_model()
    with patched(model):
        with pytest.raises(UserError, match="patched already"), patched(model):
            pass
        assert overrides(model) == [(True, True)] * SPEC.depth
    assert overrides(model) == [(False, False)] * SPEC.depth


def test_a_model_without_self_attention_is_refused() -> None:
    with pytest.raises(UserError, match="no self-attention"), patched(nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("bad", ["0%", "nothing-like-this", "-3", "101%"])
def test_a_bad_budget_leaves_the_model_alone(bad: str) -> None:
    model = small_model()
    with pytest.raises(UserError), patched(model, budget=bad, schedule=SHORT):
        pass
    assert overrides(model) == [(False, False)] * SPEC.depth


class ForeignAttention(nn.Module):
    """Another implementation's module: the published names and calls, none of our code."""

    def __init__(self, like: SelfAttention) -> None:
        super().__init__()
        self.mat_qkv, self.proj = like.mat_qkv, like.proj
        self.q_bias, self.v_bias = like.q_bias, like.v_bias
        self.scale_mul_1H11 = like.scale_mul_1H11
        self.cached_k: Tensor | None = None
        self.cached_v: Tensor | None = None
        self.calls = 0

    def kv_caching(self, enable: bool) -> None:
        self.calls += 1

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("the patch did not replace this forward")


def test_modules_of_another_implementation_are_patched_by_their_names() -> None:
    model = small_model()
    codes, _ = run(model)
    for block in model.blocks:
        block.sa = ForeignAttention(block.sa)  # type: ignore[assignment]
    same, _ = run(model, inside=patched(model, policy="full"))
    assert torch.equal(codes, same)
    assert all(m.calls == 0 for m in self_attentions(model))


def test_raw_queries_are_the_projections_and_only_those_asked_for() -> None:
    sa: Any = self_attentions(small_model())[1]
    x = torch.randn(2, 9, SPEC.width, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([1, 4, 8])
    q, _, _ = sa.mat_qkv(x).unflatten(-1, (3, SPEC.heads, -1)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(raw_queries(sa, x, tokens), q[:, :, tokens])


def test_a_calibration_is_found_by_the_model_or_by_the_file_that_is_named(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(UserError, match=r"no heat-order\.json"), patched(model, policy="heatkv"):
        pass
    generator = torch.Generator().manual_seed(5)
    mass = torch.rand(len(SHORT) - 1, SPEC.depth, SPEC.heads, generator=generator).tolist()
    path = tmp_path / "order.json"
    path.write_text(write_order(order_from_mass(mass)))
    with patched(model, policy=f"heatkv:{path}", budget="20%") as caches:
        ours = run(model)[0]
        assert caches.policy.name == "heatkv"
    assert torch.equal(run(model, inside=patched(model, ready("heatkv"), "20%"))[0], ours)
    path.write_text("[[1]]")
    with pytest.raises(UserError, match="ranks 1"), patched(model, policy=f"heatkv:{path}"):
        pass
    with pytest.raises(UserError, match="cannot be read"), patched(model, policy="heatkv:no.json"):
        pass
    with pytest.raises(UserError, match="reads no file"), patched(model, policy=f"scalekv:{path}"):
        pass


@pytest.mark.parametrize("policy", [name for name in policy_names() if name not in KEEP_ALL])
def test_every_policy_works_under_a_model(policy: str) -> None:
    model = small_model()
    with patched(model, policy=ready(policy), budget="20%") as caches:
        run(model)
        assert caches.budget is not None
        last = len(caches.budget.schedule) - 1
        held = within(caches.budget)
        for layer, cache in enumerate(caches.layers):
            limits = held.limits(last, layer, SPEC.heads)
            assert cache.kept.tolist() == [list(limits)] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch sees none")
def test_unequal_heads_attend_in_one_kernel_as_they_do_one_by_one() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths, length = (5, 130, 64, 1), 36
    q = torch.randn(len(lengths) * length, 64, generator=generator).to("cuda", torch.bfloat16)
    k, v = torch.randn(2, sum(lengths), 64, generator=generator).to("cuda", torch.bfloat16)
    assert attends_raggedly(q)
    ours = attend_ragged(q, k, v, length, lengths)
    parts = zip(q.split(length), k.split(list(lengths)), v.split(list(lengths)), strict=True)
    theirs = torch.cat([attend(*(x[None, None] for x in part))[0, 0] for part in parts])
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)
