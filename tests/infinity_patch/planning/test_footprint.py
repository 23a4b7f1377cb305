"""Plans against what the code allocates: the cache exactly, on shapes alone for large models and on
tensors for the built-in one; everything else by an allocator that counts."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from scalekv.configs.models import list_models, model_named
from scalekv.configs.spec import EIGHT_BITS, WEIGHTS
from scalekv.infinity_patch import Placement, generate, load, pieces
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.loading.fitting import skeletons
from scalekv.infinity_patch.loading.reading import hold_in_8_bits, kept_in
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.planning.footprint import LIBRARIES, Parts, weight_parts
from scalekv.infinity_patch.planning.planner import Planner, work_of
from scalekv.kv.caches.caches import Caches
from scalekv.kv.dtypes import TORCH_DTYPES
from scalekv.kv.policies.coded import CodedPolicy
from scalekv.kv.policies.registry import entry_named, policy_named, policy_names
from tests.infinity_patch.counting import Counting, shapes_only
from tests.kv.coded.made import made_constants

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHARES = ("cache_held", "cache_index", "cache_transient", "everything_else")

POLICIES = [
    name for name in policy_names() if (e := entry_named(name)) is None or not e.calibration
]  # the others need a file for each model


def cache_on_shapes(planner: Planner, pictures: int) -> dict[str, Any]:
    """The ledger of caches that went through all scales and layers with tensors without memory."""
    plan = planner.footprint(pictures)
    settled = planner.settled.allotted(pictures)
    shape, schedule = plan.work.shape, settled.schedule
    policy = policy_named(settled.policy)
    asked = None if settled.policy == "full" else settled.asked
    caches = Caches(
        shape.layers, policy, lambda _: asked, schedule, kv_dtype=settled.request.kv_dtype
    )
    dtype = DTYPES[settled.dtype]
    with torch.no_grad(), shapes_only():
        for scale, tokens in enumerate(schedule.tokens):
            q, k, v = (
                torch.empty(
                    (shape.sequences, shape.heads, tokens, shape.head_dim),
                    dtype=dtype,
                    device="meta",
                )
                for _ in range(3)
            )
            for layer in range(shape.layers):
                caches.attend(
                    layer,
                    scale,
                    schedule,
                    q,
                    k,
                    v,
                    lambda q, k, v: torch.empty_like(q),
                    raw_queries=lambda chosen: torch.empty(
                        (shape.sequences, shape.heads, len(chosen), shape.head_dim),
                        dtype=dtype,
                        device="meta",
                    ),
                )
    assert caches.ledger is not None
    return caches.ledger.to_dict()


GRID = [
    *(("infinity-125m", policy, "10%", "1:1", 1, "auto") for policy in POLICIES),
    *(("infinity-125m", "scalekv", b, "1:1", 3, "auto") for b in ("4%", "37%", "100", "3MiB")),
    *(("infinity-125m", "scalekv", "20%", "1:1", 1, kv) for kv in ("fp32", "int8", "int4")),
    ("infinity-2b", "scalekv", "paper-10", "1:1", 2, "auto"),
    ("infinity-8b", "scalekv", "10%", "3:1", 1, "auto"),
    ("infinity-8b-512", "scalekv", "20%", "4:5", 1, "int8"),
]


@pytest.mark.parametrize(("model", "policy", "budget", "ratio", "pictures", "kv_dtype"), GRID)
def test_predicted_cache_bytes_are_held_bytes(
    model: str, policy: str, budget: str, ratio: str, pictures: int, kv_dtype: str
) -> None:
    request = Request(("a",), policy=policy, budget=budget, ratio=ratio, kv_dtype=kv_dtype)
    planner = Planner(settle(request, model_named(model), "cuda"))
    predicted = planner.footprint(pictures).cache
    held = cache_on_shapes(planner, pictures)
    assert predicted.held_peak_bytes == held["held_peak_bytes"]
    assert predicted.index_peak_bytes == held["index_peak_bytes"]
    assert predicted.transient_peak_bytes == held["transient_peak_bytes"]
    assert list(predicted.scale_bytes) == [row["held_bytes"] for row in held["scales"]]


@pytest.mark.parametrize(
    ("policy", "budget"), [*product(("scalekv", "h2o", "coded"), ("10%", "60")), ("coded", "1%")]
)
def test_predicted_cache_bytes_of_real_pictures(policy: str, budget: str) -> None:
    pipeline = load("emoji", device="cpu")
    request = Request(("a red apple",), policy=policy, budget=budget)
    planner = Planner(settle(request, pipeline.preset, "cpu"))
    assert DTYPES[planner.settled.dtype] == pipeline.dtype
    predicted = planner.footprint().cache
    held = next(generate(pipeline, request)).cache
    assert predicted.held_peak_bytes == held["held_peak_bytes"]
    assert predicted.index_peak_bytes == held["index_peak_bytes"]
    assert predicted.transient_peak_bytes == held["transient_peak_bytes"]
    assert list(predicted.scale_bytes) == [row["held_bytes"] for row in held["scales"]]


def counted(planner: Planner, pictures: int) -> tuple[int, int]:
    """Bytes of tensors at the fullest moment of the scales and of decoding, weights apart."""
    settled = planner.settled.allotted(pictures)
    preset, schedule = settled.preset, settled.schedule
    transformer, vae = skeletons(preset)
    assert isinstance(transformer, Infinity)
    assert isinstance(vae, Autoencoder)
    transformer.eval().requires_grad_(False).block_chunks.to(DTYPES[settled.dtype])
    if planner.placement.weights in EIGHT_BITS:
        hold_in_8_bits(transformer, planner.placement.weights, DTYPES[settled.dtype])
    vae.eval().requires_grad_(False).decoder.to(DTYPES[settled.dtype])
    scales, cfg = len(schedule), preset.sampling.cfg
    guidance = Guidance((cfg,) * scales, (1.0,) * scales, (preset.sampling.cfg_layer,))

    def choose(scale: int, logits: Tensor) -> Tensor:
        return torch.zeros(logits.shape[:3], dtype=torch.uint8, device="meta")

    budget = settled.asked if settled.planned is not None else "full"
    with torch.inference_mode(), shapes_only(), Counting() as counting:
        shape = (planner.text_tokens, preset.transformer.text_width)
        texts = [torch.empty(shape, device="meta") for _ in range(pictures)]
        with patched(transformer, settled.policy, budget, guided=True):
            codes = generate_codes(
                transformer,
                conditions(transformer, texts, None, guidance),
                schedule,
                preset.tokenizer.patchify,
                guidance,
                choose,
            )
        while_scales = counting.peak
        counting.forget_peak()
        vae.decode(codes[:1])
        return while_scales, counting.peak


@pytest.mark.parametrize(
    ("model", "policy", "budget", "pictures", "dtype", "weights"),
    [
        ("emoji", "scalekv", "10%", 1, "fp32", "auto"),
        ("infinity-125m", "scalekv", "10%", 2, "bf16", "auto"),
        ("infinity-125m", "scalekv", "10%", 2, "bf16", "int8"),
        ("infinity-125m", "full", "full", 8, "bf16", "auto"),
        ("infinity-layer16", "pyramidkv", "20%", 3, "bf16", "auto"),
    ],
)
def test_everything_else_is_what_an_allocator_counts(
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    policy: str,
    budget: str,
    pictures: int,
    dtype: str,
    weights: str,
) -> None:
    monkeypatch.setitem(pieces.STRIP, "meta", pieces.STRIP["cuda"])
    request = Request(("a",), policy=policy, budget=budget)
    settled = settle(request, model_named(model), "cuda", dtype)
    planner = Planner(settled, Placement(weights=weights), text_tokens=64)
    stages = planner.footprint(pictures).stages
    scales, decode = counted(planner, pictures)
    planned = sum(stages["scales"][part] for part in SHARES) - LIBRARIES
    assert planned == pytest.approx(scales, rel=0.02)
    assert stages["decode"]["everything_else"] - LIBRARIES == pytest.approx(decode, rel=0.01)


def test_decoding_a_coded_history_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pieces.STRIP, "meta", pieces.STRIP["cuda"])
    monkeypatch.setattr("scalekv.kv.coded.held.by_kernels", lambda device: device.type == "meta")
    preset = model_named("infinity-125m")
    spec = preset.transformer
    policy = CodedPolicy(made_constants(spec.depth, spec.heads, spec.head_dim, 12, 7))
    request = Request(("a",), policy=policy, budget="10%")
    planner = Planner(settle(request, preset, "cuda", "bf16"), text_tokens=64)
    stages = planner.footprint(2).stages
    scales, _ = counted(planner, 2)
    planned = sum(stages["scales"][part] for part in SHARES) - LIBRARIES
    assert scales <= planned + stages["scales"]["cache_constants"]
    assert planned < 1.3 * scales


def test_what_is_recorded_stays_while_a_picture_is_decoded() -> None:
    def parts(graphs: str = "auto", device: str = "cuda", **asked: Any) -> dict[str, Parts]:
        settled = settle(Request(("a",), **asked), model_named("infinity-2b"), device)
        return Planner(settled, Placement(graphs=graphs)).footprint().stages

    once, again = parts(), parts(num_images=2)
    assert once["decode"]["recorded"] == 0
    scales = sum(n for part, n in again["scales"].items() if part in SHARES)
    recorded = again["decode"]["recorded"]
    assert 0.8 * scales < recorded < scales  # without what stays anyway
    assert again["scales"] == once["scales"]
    assert parts("on")["decode"]["recorded"] == recorded
    assert parts("off", num_images=2)["decode"]["recorded"] == 0
    assert parts("auto", "cpu", num_images=2)["decode"]["recorded"] == 0
    assert parts(num_images=2, kv_device="cpu")["decode"]["recorded"] == 0


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", list_models())
def test_planned_weights_are_held_weights(name: str, weights: str) -> None:
    """On shapes; tests of loading hold these to the tensors of the built-in model."""
    preset = model_named(name)
    in_8_bits = weights in EIGHT_BITS
    dtype = "bf16" if in_8_bits or weights == "auto" else weights
    work = work_of(settle(Request(("a",)), preset, "cuda", dtype), Placement(weights=weights))
    transformer, vae = skeletons(preset)
    if in_8_bits:
        hold_in_8_bits(transformer, weights, TORCH_DTYPES[dtype])
    held = {
        part: sum(
            p.numel() * kept_in(tensor, p, TORCH_DTYPES[dtype]).itemsize
            for tensor, p in module.named_parameters()
        )
        for part, module in (("transformer", transformer), ("vae", vae))
    }
    planned = weight_parts(work)
    assert {part: planned[part] for part in held} == held


@pytest.mark.gpu
def test_a_run_on_a_device_is_as_planned() -> None:
    pipeline = load("emoji", device="cuda")
    request = Request(("a red apple",))
    next(generate(pipeline, request))
    planner = Planner(settle(request, pipeline.preset, "cuda"), text_tokens=8)
    peak = pipeline.stages.highest()["allocated_peak_bytes"]
    assert planner.footprint().peak == pytest.approx(peak, rel=0.25)
