"""Replays one recorded case with our code and compares, by the criteria kept here as constants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from scalekv.configs.spec import TokenizerSpec, TransformerSpec
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import map_to_tokens, quantise_latents, vae_sizes
from scalekv.infinity_patch.model.sampling import BitSampler, probabilities
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes, to_uint8
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.kv.schedule import Schedule
from tests.golden.weights import state_dict

LOGITS_WITHIN = 1e-4  # with the recorded bits fed back
ENCODED_WITHIN = 1e-4
DRAW_WITHIN = 1e-4  # a free run may first differ at a draw this close to its threshold
IMAGE_STEP = 1  # where all bits agree, no value is further off
IMAGE_EQUAL = 0.998  # … and at least this share is equal
THREADS = 2  # on one thread sums are split in another way, and more values round to a neighbour


@dataclass
class Outcome:
    """What a replay found; None where a criterion does not apply to the case."""

    name: str
    failures: list[str]
    logits: float | None = None
    bits: tuple[int, int] | None = None
    image_max: int | None = None
    equal: float | None = None

    @property
    def ok(self) -> bool:
        """Whether every criterion held."""
        return not self.failures

    def line(self) -> str:
        """One line for people and scripts."""
        logits = "-" if self.logits is None else f"{self.logits:.2e}"
        bits = "-" if self.bits is None else f"{self.bits[0]}/{self.bits[1]}"
        image_max = "-" if self.image_max is None else str(self.image_max)
        equal = "-" if self.equal is None else f"{self.equal:.5f}"
        return (
            f"{self.name} {'ok' if self.ok else 'FAIL'} logits={logits} bits={bits} "
            f"image_max={image_max} equal={equal}"
        )


def cases(folder: Path) -> list[Path]:
    """The configuration files of the cases in a folder."""
    return sorted(p for p in folder.glob("*.json") if p.with_suffix(".safetensors").exists())


def replay(path: Path, device: str = "cpu") -> Outcome:
    """Replay the case whose configuration is `path`."""
    config = json.loads(path.read_text(encoding="utf-8"))
    recorded = load_file(path.with_suffix(".safetensors"))
    outcome = Outcome(path.stem, [])
    torch.set_num_threads(max(THREADS, torch.get_num_threads()))
    with torch.no_grad():
        if config.get("kind") == "encode":
            _replay_encoding(config, recorded, outcome)
        else:
            _Generation(config, recorded, outcome, device).replay()
    return outcome


def _schedule(config: dict[str, Any]) -> Schedule:
    return Schedule(tuple((h, w) for _, h, w in config["scale_schedule"]))


def _autoencoder(config: dict[str, Any], patchify: bool) -> Autoencoder:
    vae = config["vae"]
    spec = TokenizerSpec(
        bits=vae["codebook_dim"],
        stride=vae["patch_size"],
        patchify=patchify,
        ch=vae["base_ch"],
        ch_mult=tuple(vae["ch_mult"]),
        res_blocks=vae["num_res_blocks"],
    )
    model = Autoencoder(spec)
    model.load_state_dict(
        state_dict(config["vae_keys"], config["seed"], config.get("fill_offset")), strict=True
    )
    return model.eval()


def _replay_encoding(config: dict[str, Any], recorded: dict[str, Tensor], out: Outcome) -> None:
    patchify = bool(config["apply_spatial_patchify"])
    model = _autoencoder(config, patchify)
    schedule = _schedule(config)
    sizes = vae_sizes(schedule.scales, patchify)
    encoded = model.encode(recorded["image"])
    away = float((encoded - recorded["encoded"]).abs().max())
    if away > ENCODED_WITHIN:
        out.failures.append(f"encoded is {away:.2e} away")
    q = quantise_latents(encoded, sizes)
    inputs = torch.cat([map_to_tokens(x, patchify) for x in q.inputs], dim=1)
    for name, ours in (("quantised", q.total), ("teacher_inputs", inputs)):
        theirs = recorded[name].reshape(ours.shape)
        if float((ours - theirs).abs().max()) > ENCODED_WITHIN:
            out.failures.append(f"{name} differs")
    same = total = 0
    for k, bits in enumerate(q.bits):
        vae_bits = bits.permute(0, 2, 3, 1)[:, None]
        tokens = map_to_tokens(bits, patchify)
        for ours, theirs in (
            (vae_bits, recorded[f"encode_bits.{k}"]),
            (tokens, recorded[f"teacher_bits.{k}"]),
        ):
            same += int((ours == theirs.reshape(ours.shape)).sum())
            total += ours.numel()
    out.bits = (same, total)
    if same != total:
        out.failures.append("bits differ")


class _Generation:
    """One generation case: teacher-forced logits, the sampler alone, and a free run."""

    def __init__(
        self, config: dict[str, Any], recorded: dict[str, Tensor], outcome: Outcome, device: str
    ):
        self.recorded, self.out, self.device = recorded, outcome, torch.device(device)
        inf = config["inf"]
        self.patchify = bool(inf["apply_spatial_patchify"])
        self.vae = _autoencoder(config, self.patchify).to(self.device)
        spec = TransformerSpec(
            depth=inf["depth"],
            width=inf["embed_dim"],
            heads=inf["num_heads"],
            chunks=inf["block_chunks"],
            text_width=inf["text_channels"],
            text_max=inf["text_maxlen"],
            level_embed_every_chunk=not inf["add_lvl_embeding_only_first_block"],
        )
        self.model = Infinity(spec, self.vae.spec.token_bits).eval()
        values = state_dict(config["transformer_keys"], config["seed"], config.get("fill_offset"))
        self.model.load_state_dict(values, strict=True)
        self.model.to(self.device)
        self.schedule = _schedule(config)
        self.guidance = Guidance(
            tuple(config["cfg"]), tuple(config["tau"]), (config["cfg_insertion_layer"],)
        )
        self.top_p = config["top_p"]
        self.texts = [t.to(self.device) for t in recorded["text"].split(config["text_lens"])]
        self.negative = recorded.get("negative_text")
        if self.negative is not None:
            self.negative = self.negative.to(self.device)
        self.seed = config["seed"]
        # pictures of a recorded batch shared one stream; ours have one each
        self.compare_draws = len(self.texts) == 1

    def tokens(self, scale: int) -> Tensor:
        """Recorded bits of a scale as the transformer's tokens, (B, L, d) uint8."""
        bits = self.recorded[f"bits.{scale}"].squeeze(1).permute(0, 3, 1, 2)
        return map_to_tokens(bits, self.patchify)

    def run(self, choose: Any) -> Tensor:
        condition = conditions(self.model, self.texts, self.negative, self.guidance)
        return generate_codes(
            self.model, condition, self.schedule, self.patchify, self.guidance, choose
        )

    def replay(self) -> None:
        forced = self.teacher_forced()
        if not self.compare_draws:
            self.picture(forced)
            return
        self.sampler_alone()
        freely = self.free()
        if freely is not None:
            self.picture(freely)

    def teacher_forced(self) -> Tensor:
        worst = [0.0]

        def choose(scale: int, logits: Tensor) -> Tensor:
            away = float((logits.cpu() - self.recorded[f"logits.{scale}"]).abs().max())
            worst[0] = max(worst[0], away)
            return self.tokens(scale).to(self.device)

        latent = self.run(choose)
        self.out.logits = worst[0]
        if worst[0] > LOGITS_WITHIN:
            self.out.failures.append(f"logits are {worst[0]:.2e} away")
        return latent

    def sampler_alone(self) -> None:
        sampler = BitSampler([self.seed], self.top_p)
        for scale in range(len(self.schedule)):
            drawn = sampler(scale, self.recorded[f"logits.{scale}"])
            if not torch.equal(drawn, self.tokens(scale)):
                self.out.failures.append(f"the sampler draws other bits at scale {scale}")

    def free(self) -> Tensor | None:
        sampler = BitSampler([self.seed], self.top_p)
        same = total = 0
        excused: bool | None = None

        def choose(scale: int, logits: Tensor) -> Tensor:
            nonlocal same, total, excused
            stream = sampler.generators[0].get_state()
            bits = sampler(scale, logits)
            theirs = self.tokens(scale).to(self.device)
            same += int((bits == theirs).sum())
            total += bits.numel()
            if excused is None and not torch.equal(bits, theirs):
                excused = self._is_close(logits, bits != theirs, stream)
            return bits

        latent = self.run(choose)
        self.out.bits = (same, total)
        if same == total:
            return latent
        if not excused:
            self.out.failures.append("bits differ at a draw that was not close")
        return None

    def _is_close(self, logits: Tensor, differs: Tensor, stream: Tensor) -> bool:
        """Whether the first different draw was within DRAW_WITHIN of its threshold."""
        p = probabilities(logits.float().cpu(), self.top_p)[0].reshape(-1, 2)
        generator = torch.Generator()
        generator.set_state(stream)
        noise = torch.empty(p.shape).exponential_(generator=generator)
        first = int(differs.cpu().reshape(-1).nonzero()[0])
        threshold = noise[first, 1] / (noise[first, 0] + noise[first, 1])
        return abs(float(p[first, 1] - threshold)) < DRAW_WITHIN

    def picture(self, latent: Tensor) -> None:
        if float((latent.cpu() - self.recorded["latent"]).abs().max()) > LOGITS_WITHIN:
            self.out.failures.append("the summed codes differ")
        ours = to_uint8(self.vae.decode(latent)).cpu().flip(-1).int()  # recorded as BGR
        theirs = self.recorded["image_u8_bgr"].int()
        self.out.image_max = int((ours - theirs).abs().max())
        self.out.equal = float((ours == theirs).float().mean())
        if self.out.image_max > IMAGE_STEP or self.out.equal < IMAGE_EQUAL:
            self.out.failures.append("the picture differs")
