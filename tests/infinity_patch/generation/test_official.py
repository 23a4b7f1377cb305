"""Models built by the published repository, patched: their calls, their tables, their failures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from scalekv.infinity_patch.generation.patch import patched, self_attentions
from scalekv.infinity_patch.model.rotary import table_of_scale, turns_of_scale
from scalekv.kv.memory.predicted import cache_bytes
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.official import Attention, OfficialInfinity, all_tables, scales3
from tests.infinity_patch.small import SPEC, features, ready, small_model

PAGE = Path(__file__).parents[3] / "docs" / "official-code.md"
SCHEDULE = scales3("1:1", "0.06M")


@pytest.fixture
def model() -> OfficialInfinity:
    return OfficialInfinity(small_model())


def draw(
    model: OfficialInfinity, schedule: Any = SCHEDULE, seed: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Codes and logits of a picture, made as the published code makes one."""
    count = len(schedule)
    codes, logits, _ = model.autoregressive_infer_cfg(
        scale_schedule=schedule,
        label_B_or_BLT=features(),
        g_seed=seed,
        cfg_list=[3.0] * count,
        tau_list=[0.8] * count,
    )
    return codes, logits


def untouched(model: OfficialInfinity) -> bool:
    """Whether no attention carries anything of a patch, or anything that was cached."""
    return all(
        "forward" not in m.__dict__
        and "kv_caching" not in m.__dict__
        and m.cached_k is None
        and m.cached_v is None
        for m in attentions(model)
    )


def attentions(model: OfficialInfinity) -> Iterator[Attention]:
    for module in self_attentions(model):
        assert isinstance(module, Attention)
        yield module


@pytest.mark.parametrize("ratio", ["1:1", "3:2", "1:3"])
def test_full_is_what_the_model_computes_by_itself(model: OfficialInfinity, ratio: str) -> None:
    schedule = scales3(ratio, "0.06M")
    codes, logits = draw(model, schedule)
    with patched(model, policy="full"):
        same, again = draw(model, schedule)
    assert torch.equal(codes, same)
    for a, b in zip(logits, again, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)
    assert untouched(model)


def test_attentions_are_found_in_order_and_only_the_models_own(model: OfficialInfinity) -> None:
    assert list(attentions(model)) == [block.sa for block in model.unregistered_blocks]


@pytest.mark.parametrize("name", policy_names())
def test_every_policy(model: OfficialInfinity, name: str) -> None:
    with patched(model, policy=ready(name), budget="20%", guided=True) as caches:
        _, logits = draw(model)
        assert all(values.isfinite().all() for values in logits)
        assert caches.ledger is not None
    assert untouched(model)


def test_held_bytes_are_the_formula(model: OfficialInfinity) -> None:
    held = []
    with patched(model, budget="10%", drafters=(0,)) as caches:
        reset = caches.layers[0].reset

        def note(*arguments: Any) -> None:
            held.append(caches.nbytes)
            reset(*arguments)

        caches.layers[0].reset = note  # type: ignore[method-assign]
        draw(model)
        budget = caches.budget
    assert budget is not None
    tokens = [budget.held_tokens(len(SCHEDULE) - 1, layer) for layer in range(SPEC.depth)]
    expected = sum(cache_bytes(1, 2, SPEC.heads, SPEC.head_dim, n, 4) for n in tokens)
    assert max(held) == expected  # when kv_caching(False) came, at the end of the picture


def test_pictures_do_not_mix(model: OfficialInfinity) -> None:
    with patched(model):
        first, _ = draw(model, seed=1)
    with patched(model):
        draw(model, scales3("3:2", "0.06M"), seed=2)
        again, _ = draw(model, seed=1)
    assert torch.equal(first, again)


@pytest.mark.parametrize("where", [(0, 2), (3, 0), (6, 3)])
def test_a_picture_after_an_exception_starts_anew(
    model: OfficialInfinity, where: tuple[int, int]
) -> None:
    with patched(model):
        expected, _ = draw(model)
    with patched(model) as caches:
        model.fail_at = where
        with pytest.raises(RuntimeError, match="in the middle"):
            draw(model)
        assert caches.nbytes > 0
        model.fail_at = None
        again, _ = draw(model)
    assert torch.equal(expected, again)


def test_scale_zero_resets_where_nobody_calls_kv_caching(model: OfficialInfinity) -> None:
    with patched(model):
        expected, _ = draw(model)
    with patched(model):
        for module in attentions(model):
            module.__dict__["kv_caching"] = lambda enable: None
        model.fail_at = (4, 1)
        with pytest.raises(RuntimeError):
            draw(model)
        model.fail_at = None
        again, _ = draw(model)
    assert torch.equal(expected, again)
    assert untouched(model)


def test_an_exception_leaves_the_model_as_it_was(model: OfficialInfinity) -> None:
    expected, _ = draw(model)
    model.fail_at = (3, 1)
    with pytest.raises(RuntimeError, match="in the middle"), patched(model) as caches:
        draw(model)
    assert untouched(model)
    assert caches.nbytes == 0
    model.fail_at = None
    assert torch.equal(draw(model)[0], expected)


def test_what_an_exception_left_cached_before_the_patch_is_dropped(model: OfficialInfinity) -> None:
    model.fail_at = (3, 1)
    with pytest.raises(RuntimeError):
        draw(model)
    assert not untouched(model)
    with patched(model):
        pass
    assert untouched(model)


def test_what_is_returned_may_be_written_to(model: OfficialInfinity) -> None:
    """The published block multiplies it in place."""
    (attention, *_) = attentions(model)
    inputs = [torch.randn(2, h * w, SPEC.width) for _, h, w in SCHEDULE]

    def outputs(spoil: bool) -> list[Tensor]:
        found = []
        with patched(model, policy="full"), torch.no_grad():
            for si, x in enumerate(inputs):
                out = attention(x, None, None, SCHEDULE, model.rope2d_freqs_grid, scale_ind=si)
                found.append(out.clone())
                if spoil:
                    out.fill_(torch.nan)
        return found

    for a, b in zip(outputs(spoil=False), outputs(spoil=True), strict=True):
        assert torch.equal(a, b)


def test_tables_of_every_schedule_are_found() -> None:
    tables = all_tables(SPEC.head_dim)
    assert len(tables) == 15 * 4
    schedule = scales3("2:1", "0.25M")
    for si, (_, h, w) in enumerate(schedule):
        assert table_of_scale(tables, schedule, si).shape[4] == h * w
        assert turns_of_scale(tables, schedule, si).shape[0] == h * w


def test_tables_on_the_host_serve_a_model_on_a_device() -> None:
    tables = all_tables(SPEC.head_dim)
    meta = torch.device("meta")
    assert turns_of_scale(tables, SCHEDULE, 3, meta).device == meta
    assert turns_of_scale(tables, SCHEDULE, 3).device.type == "cpu"
    assert table_of_scale(tables, SCHEDULE, 3, meta).device == meta


def test_gains_in_the_shape_of_the_flash_kernel(model: OfficialInfinity) -> None:
    with patched(model, policy="full"):
        expected, _ = draw(model)
    for module in attentions(model):
        gains: Any = module.scale_mul_1H11
        module.scale_mul_1H11 = torch.nn.Parameter(gains.detach().transpose(1, 2), False)
    with patched(model, policy="full"):
        same, _ = draw(model)
    assert torch.equal(expected, same)


def test_under_autocast_with_blocks_in_bf16() -> None:
    ours = small_model(torch.bfloat16)
    model = OfficialInfinity(ours)
    with torch.autocast("cpu", torch.bfloat16):
        with patched(model, policy="full") as caches:
            _, logits = draw(model)
            assert caches.ledger is not None
            assert caches.ledger.shape.k_bytes == 2
        _, exact = draw(model)
    for a, b in zip(logits[:3], exact[:3], strict=True):
        torch.testing.assert_close(a, b, atol=0.3, rtol=0.1)


def test_the_example_of_the_page_runs(
    model: OfficialInfinity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

    def gen_one_img(asked: Any, *_: Any, scale_schedule: Any, **options: Any) -> Tensor:
        """What the published function does with a model, on a smaller schedule."""
        assert asked is model
        assert str(tuple(scale_schedule)) in model.rope2d_freqs_grid
        count = len(SCHEDULE)
        result = asked.autoregressive_infer_cfg(
            scale_schedule=SCHEDULE,
            label_B_or_BLT=features(),
            g_seed=options["g_seed"],
            cfg_list=[options["cfg_list"]] * count,
            tau_list=[options["tau_list"]] * count,
        )
        picture: Tensor = result[2][0]
        return picture

    run_infinity = ModuleType("tools.run_infinity")
    for name, value in {
        "load_tokenizer": lambda t5_path: ("tokenizer", "encoder"),
        "load_visual_tokenizer": lambda args: "vae",
        "load_transformer": lambda vae, args: model,
        "gen_one_img": gen_one_img,
    }.items():
        setattr(run_infinity, name, value)
    resolution = ModuleType("infinity.utils.dynamic_resolution")
    resolution.dynamic_resolution_h_w = {1.0: {"1M": {"scales": scales3("1:1")}}}  # type: ignore[attr-defined]
    for module in (run_infinity, resolution):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parent = module.__name__.split(".")
        for i in range(1, len(parent)):
            monkeypatch.setitem(sys.modules, ".".join(parent[:i]), ModuleType(parent[i - 1]))
    monkeypatch.chdir(tmp_path)
    text: list[str] = []
    exec(compile(example, str(PAGE), "exec"), {"print": lambda *words: text.append(str(words))})
    assert "held" in text[0]
    with Image.open("apple.png") as picture:
        assert picture.size == (16, 16)
    assert untouched(model)
