"""Our logits and bits beside those of a checkout of the published code, on the same forced bits.

Both run with the full cache, in fp32 and as published, one after the other, so that two copies of a
model are never in memory. Knows pipelines and a child process; the published interface is known to
`official_child`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.batching import free_memory
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.quantiser import tokens_to_map
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.infinity_patch.model.transformer import mix_halves
from scalekv.infinity_patch.planning.health import Finding, Level
from scalekv.infinity_patch.selftest.parts import rounded

PRECISIONS = {"fp32": "fp32", "bf16": "as published"}
CHILD = "scalekv.infinity_patch.selftest.official_child"
LEAST_AGREEMENT = 0.999
"""Share of bits that are drawn alike in fp32; where one is not, its draw was near a draw."""
MOST_APART = 1e-3
"""Root mean square of the difference in fp32, over that of the logits. flash-attn takes no float32,
so that the published attention on the text is in bf16 even then: where that shows, ours may be as
far from the published logits in fp32 as the published ones in bf16 are."""
TIMES_ROUNDING = 2.0
"""How much farther from the published logits in fp32 ours in bf16 may be than theirs in bf16."""
_TYPES = {"infinity_125m": "infinity_layer12", "infinity_8b_512": "infinity_8b"}


@dataclass(frozen=True)
class _Ours:
    """What our model says: text features, guided logits of every prompt and scale; and its files as
    the published options name them."""

    text: list[Tensor]
    logits: list[list[Tensor]]
    settled: Settled
    files: dict[str, str]


@dataclass(frozen=True)
class Apart:
    """How far two models' logits are apart; `agreement` of the bits drawn from equal noise."""

    rms: float
    largest: float
    size: float
    agreement: float

    def to_dict(self) -> dict[str, float | None]:
        """As JSON values."""
        names = ("rms", "largest", "size", "agreement")
        return {name: rounded(getattr(self, name)) for name in names}


def compare_with_official(
    checkout: Path,
    load: Callable[[str], Pipeline],
    request: Request,
    bits: Sequence[Sequence[Tensor]],
    on_stage: Callable[[str], None],
) -> tuple[dict[str, Any], list[Finding]]:
    """Runs both and compares them.

    Args:
        checkout: the root of a clone of the published repository.
        load: our model in "fp32" and "bf16"; nothing else of it is in memory meanwhile.
        request: prompts and seeds, with the full cache.
        bits: of every prompt and scale, (1, L, d) uint8, forced on both.

    Returns:
        Figures as JSON values, and what is to be said of them.
    """
    ours: dict[str, _Ours] = {}
    theirs: dict[str, list[list[Tensor]]] = {}
    with TemporaryDirectory(prefix="scalekv-selftest-") as folder:
        for dtype, words in PRECISIONS.items():
            on_stage(f"our model in {dtype}")
            pipeline = load(dtype)
            device = pipeline.device
            ours[dtype] = _ours(pipeline, request, bits)
            del pipeline
            free_memory(device)
            on_stage(f"the published code, {words}")
            try:
                theirs[dtype] = _theirs(checkout, Path(folder), dtype, ours[dtype], bits)
            except _ChildFailed as error:
                finding = Finding(
                    f"published code, {words}",
                    Level.PROBLEM,
                    f"could not be run: {error}",
                    "an environment in which the checkout runs by itself, and its own "
                    "checkpoint; docs/official-code.md",
                )
                return {"failed": str(error)}, [finding]
    return _judged(ours, theirs, request)


class _ChildFailed(Exception):
    """The process of the published code ended with an error; its last words."""


def _ours(pipeline: Pipeline, request: Request, bits: Sequence[Sequence[Tensor]]) -> _Ours:
    settled = settled_on(pipeline, request)
    everything: list[list[Tensor]] = []
    for index, prompt in enumerate(request.prompts):
        logits: list[Tensor] = []

        def keep(_: int, values: Tensor, logits: list[Tensor] = logits) -> None:
            logits.append(values.float().cpu())

        force_bits(pipeline, settled, prompt, request.seed_of(index), bits[index], keep)
        everything.append(logits)
    text = [features.cpu() for features in pipeline.text.encode(list(request.prompts))]
    paths = model_files(pipeline.preset, pipeline.weights_dir)
    files = {
        "model_path": str(paths.transformer.absolute()),
        "vae_path": str(paths.vae.absolute()),
    }
    return _Ours(text, everything, settled, files)


def _theirs(
    checkout: Path, folder: Path, dtype: str, ours: _Ours, bits: Sequence[Sequence[Tensor]]
) -> list[list[Tensor]]:
    """Guided logits of every prompt and scale, as the published code has them."""
    settled = ours.settled
    asked, given, told = (folder / f"{dtype}-{name}" for name in ("asked.json", "in", "out"))
    patchify = settled.preset.tokenizer.patchify
    inputs = {f"text.{i}": features for i, features in enumerate(ours.text)}
    for i, of_prompt in enumerate(bits):
        for k, part in enumerate(of_prompt):
            mapped = tokens_to_map(part.unflatten(1, settled.schedule.scales[k]), patchify)
            inputs[f"bits.{i}.{k}"] = mapped.permute(0, 2, 3, 1)[:, None].contiguous()
    save_file(inputs, given)
    arguments = _arguments(settled.preset, settled.request, dtype) | ours.files
    facts = {
        "arguments": arguments,
        "schedule": [(1, h, w) for h, w in settled.schedule.scales],
        "cfg": list(settled.cfg),
        "tau": list(settled.tau),
        "top_p": settled.top_p,
        "cfg_insertion_layer": list(settled.cfg_layers),
        "prompts": len(bits),
    }
    asked.write_text(json.dumps(facts), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        CHILD,
        str(checkout.absolute()),
        *map(str, (asked, given, told)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _ChildFailed(lines[-1])
    found = load_file(told)
    guided = []
    for i in range(len(bits)):
        scales = []
        for k, (cfg, tau) in enumerate(zip(settled.cfg, settled.tau, strict=True)):
            logits = found[f"logits.{i}.{k}"] / tau
            scales.append(mix_halves(logits, cfg) if len(logits) == 2 else logits)
        guided.append(scales)
    return guided


def _arguments(preset: ModelPreset, request: Request, dtype: str) -> dict[str, Any]:
    """The options of the published scripts for a model."""
    name = preset.name.replace("-", "_")
    sharded = not Path(preset.files.transformer).suffix
    return {
        "pn": request.pixels or preset.pixels,
        "model_type": _TYPES.get(name, name),
        "checkpoint_type": "torch_shard" if sharded else "torch",
        "vae_type": preset.tokenizer.bits,
        "text_channels": preset.transformer.text_width,
        "apply_spatial_patchify": int(preset.tokenizer.patchify),
        "add_lvl_embeding_only_first_block": int(not preset.transformer.level_embed_every_chunk),
        "use_bit_label": 1,
        "rope2d_each_sa_layer": 1,
        "rope2d_normalized_by_hw": 2,
        "use_scale_schedule_embedding": 0,
        "use_flex_attn": 0,
        "sampling_per_bits": 1,
        "enable_model_cache": 0,
        "cache_dir": "/dev/shm",
        "bf16": int(dtype == "bf16"),
    }


def apart(
    mine: Sequence[Sequence[Tensor]],
    other: Sequence[Sequence[Tensor]],
    seeds: Sequence[int],
    top_p: float,
) -> Apart:
    """How far logits (1, L, d, 2) of every prompt and scale are apart."""
    squares = size = torch.zeros((), dtype=torch.float64)
    largest, alike, count, numbers = 0.0, 0, 0, 0
    for a_scales, b_scales, seed in zip(mine, other, seeds, strict=True):
        samplers = BitSampler([seed], top_p), BitSampler([seed], top_p)
        for scale, (a, b) in enumerate(zip(a_scales, b_scales, strict=True)):
            difference = (a - b).double()
            squares = squares + difference.square().sum()
            size = size + b.double().square().sum()
            largest = max(largest, float(difference.abs().max()))
            numbers += difference.numel()
            drawn = samplers[0](scale, a), samplers[1](scale, b)
            alike += int((drawn[0] == drawn[1]).sum())
            count += drawn[0].numel()
    return Apart(
        float((squares / numbers).sqrt()), largest, float((size / numbers).sqrt()), alike / count
    )


def _judged(
    ours: dict[str, _Ours], theirs: dict[str, list[list[Tensor]]], request: Request
) -> tuple[dict[str, Any], list[Finding]]:
    seeds = [request.seed_of(i) for i in range(len(request.prompts))]
    top_p = ours["fp32"].settled.top_p
    exact = apart(ours["fp32"].logits, theirs["fp32"], seeds, top_p)
    published = apart(ours["bf16"].logits, theirs["bf16"], seeds, top_p)
    rounding = apart(theirs["bf16"], theirs["fp32"], seeds, top_p)
    mine = apart(ours["bf16"].logits, theirs["fp32"], seeds, top_p)
    findings = []
    for name, one, holds in (
        (
            "published code, fp32",
            exact,
            exact.rms <= max(MOST_APART * exact.size, rounding.rms)
            and exact.agreement >= min(LEAST_AGREEMENT, rounding.agreement),
        ),
        (
            "published code, as published",
            published,
            mine.rms <= TIMES_ROUNDING * rounding.rms + MOST_APART * exact.size,
        ),
    ):
        found = (
            f"{one.agreement:.3%} of the bits drawn alike; logits {one.rms:.2g} apart in the mean "
            f"square, {one.largest:.2g} at most, of {one.size:.3g}"
        )
        fix = "" if holds else "send this result back, with the commit of the checkout"
        findings.append(Finding(name, Level.FINE if holds else Level.PROBLEM, found, fix))
    facts = {
        "fp32": exact.to_dict(),
        "as_published": published.to_dict(),
        "rounding_of_the_published_code": rounding.to_dict(),
        "rounding_of_ours": mine.to_dict(),
    }
    return facts, findings
