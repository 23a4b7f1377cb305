"""Train the built-in model's transformer and text encoder together.

    python -m scripts.builtin.train_transformer --data data/builtin --out data/builtin/transformer

Needs the data set, the text tokenizer and a trained picture tokenizer in --data. Resumable: an
interrupt or SIGTERM ends it at the next step with a checkpoint, and a second call goes on from
there; `--from-shipped` begins with the weights the package carries instead. The learning rate
stays up until the last `--cooldown` steps before `--steps`, so a run may be given any end while
it runs: stop it and call it again with the end. `--preset OWN.yaml` trains another transformer,
from nothing, behind the package's picture tokenizer and text encoder as they are, and leaves a
whole model in --out: `--model OUT/OWN.yaml`. Coarse scales are learned first and most: a step
trains on the first 5, 6 or 7 scales. A fifth of the pictures is composed of drawings; three in ten
of the others are asked for among words that name nothing.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from scalekv.configs.models import ModelPreset, model_named
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.quantiser import map_to_tokens, quantise_latents, vae_sizes
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import caption, is_held_out
from scripts.builtin.compositions import Composer, stacked
from scripts.builtin.dataset import PIXELS, Pixels, load_rows
from scripts.builtin.teacher import Teacher
from scripts.builtin.training import (
    Averaged,
    bit_losses,
    held_rate,
    in_float,
    load_checkpoint,
    optimizers_for,
    save_checkpoint,
    shipped,
)
from scripts.builtin.wordings import Wordings

BATCH = {5: 64, 6: 32, 7: 16}  # pictures a step by scales: about 8,000 tokens each
STAGES = ((0.9, 0.1, 0.0), (0.35, 0.45, 0.2), (0.25, 0.3, 0.45))  # shares of these, stage by stage
COMPOSED = 0.2  # share of the pictures
LOOSE = 0.3  # share of the drawings whose caption has other words beside the name
FLIPS = 0.25  # bitwise self-correction: the largest share of bits flipped in a scale
TEXT_TOKENS = 32
TEXT_DROPPED = 0.1


def text_encoder(vocabulary: int, width: int) -> T5EncoderModel:
    """An untrained two-layer T5 encoder."""
    config = T5Config(
        vocab_size=vocabulary, d_model=width, d_kv=64, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5EncoderModel(config)


@torch.no_grad()
def initialise(model: Infinity) -> None:
    """Starting values: residual branches small, gates open, modulation near the identity."""
    width, depth = model.spec.width, model.spec.depth
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=(1 / width / 3) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in model.blocks:
        block.ada_gss.zero_()
        block.ada_gss[:, :, :2] = 1.0
        for out in (block.sa.proj, block.ca.proj, block.ffn.fc2):
            out.weight.div_((2 * depth) ** 0.5)
    nn.init.normal_(model.word_embed.weight, std=0.5)
    nn.init.normal_(model.lvl_embed.weight, std=0.1)
    nn.init.normal_(model.pos_start, std=0.1)
    nn.init.normal_(model.cfg_uncond, std=0.1)
    nn.init.normal_(model.text_proj_for_sos.ca.mat_q, std=0.2)
    table = model.shared_ada_lin[1]
    assert isinstance(table, nn.Linear)
    table.weight.mul_(0.3)
    model.head.weight.mul_(0.5)


class Bits:
    """Targets and inputs of training pictures, made anew each time with other bits flipped."""

    def __init__(self, data: Path, preset: ModelPreset, vae_file: Path, device: torch.device):
        self.patchify = preset.tokenizer.patchify
        self.schedule = schedule_for("1:1", PIXELS)
        self.sizes = vae_sizes(self.schedule.scales, self.patchify)
        vae = Autoencoder(preset.tokenizer)
        vae.load_state_dict(in_float(vae_file))
        self.vae = vae.to(device)
        self.rows = [row for row in load_rows(data) if not is_held_out(row)]
        known = {row["id"]: i for i, row in enumerate(load_rows(data))}
        images = np.load(data / "images.npy", mmap_mode="r")
        latents = []
        for start in range(0, len(self.rows), 32):
            chosen = [known[row["id"]] for row in self.rows[start : start + 32]]
            latents.append(self.encode(np.stack([images[i] for i in chosen])))
        self.latents = torch.cat(latents)

    @torch.no_grad()
    def encode(self, pictures: Pixels) -> Tensor:
        """Pictures (B, H, W, 3) to latent maps (B, b, h, w) float32."""
        device = self.vae.encoder.conv_out.conv.weight.device
        x = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16):
            latent: Tensor = self.vae.encode(x)
        return latent.float()

    def batch(self, latents: Tensor, scales: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs (B, L - 1, d) and target bits (B, L, d) of the first `scales` scales."""

        def flip(scale: int, bits: Tensor) -> Tensor:
            share = torch.rand((len(bits), 1, 1, 1), generator=noise) * FLIPS
            mask = torch.rand(bits.shape, generator=noise) < share
            return bits ^ mask.to(bits.device)

        q = quantise_latents(latents, self.sizes, flip)
        targets = [map_to_tokens(b, self.patchify) for b in q.bits[:scales]]
        inputs = [map_to_tokens(x, self.patchify) for x in q.inputs[: scales - 1]]
        return torch.cat(inputs, dim=1), torch.cat(targets, dim=1)


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--out", type=Path, default=Path("data/builtin/transformer"))
    parser.add_argument("--steps", type=int, default=5700)
    parser.add_argument("--cooldown", type=int, default=700, help="steps the rate falls over")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.998, help="of the averaged weights")
    parser.add_argument(
        "--stages", nargs=2, type=int, default=(800, 1400), help="steps that the first two end at"
    )
    parser.add_argument(
        "--from-shipped", action="store_true", help="begin with the weights in the package"
    )
    parser.add_argument("--preset", type=Path, help="another transformer: its preset, own.yaml")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    device = torch.device(args.device)
    preset = model_named(str(args.preset or "emoji"))
    shipped_files = BUILT_IN / "emoji"
    tokenizer_files = shipped_files if args.preset else args.data / "tokenizer"
    bits = Bits(args.data, preset, tokenizer_files / "vae.safetensors", device)
    composer = Composer(args.data, bits.rows)
    wordings = Wordings(load_rows(args.data))
    words_files = shipped_files / "text_encoder" if args.preset else args.data / "text_tokenizer"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(words_files)
    encoder = text_encoder(len(tokenizer), preset.transformer.text_width)
    model = Infinity(preset.transformer, preset.tokenizer.token_bits)
    if args.from_shipped:
        model.load_state_dict(in_float(shipped_files / "transformer.safetensors"))
    else:
        initialise(model)
    if args.from_shipped or args.preset:
        words = in_float(shipped_files / "text_encoder" / "model.safetensors")
        encoder.load_state_dict(words | {"encoder.embed_tokens.weight": words["shared.weight"]})
    encoder.requires_grad_(not args.preset)
    both = nn.ModuleDict({"transformer": model, "text": encoder}).to(device)
    parameters = {name: p for name, p in both.named_parameters() if p.requires_grad}
    optimizers = optimizers_for(parameters, args.lr)
    average = Averaged(parameters, args.decay)
    checkpoint = args.out / "transformer.pt"
    state = load_checkpoint(checkpoint)
    first = 0
    if state is not None:
        both.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average.values = {n: state["average"][n].to(device) for n in parameters}
        first = state["step"]
    teacher = Teacher(model, bits.schedule, device)
    if args.compile:
        teacher.compile()

    def save(step: int) -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": both.state_dict(),
                "average": average.values,
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
            },
        )
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in average.values.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        save_file(shipped(parts["transformer"]), args.out / "transformer.safetensors")
        if args.preset:
            return
        folder = args.out / "text_encoder"
        encoder.config.save_pretrained(folder)
        save_file(shipped(parts["text"]), folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(folder)

    stopped = False

    def stop(signum: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.preset:
        shutil.copytree(
            shipped_files / "text_encoder", args.out / "text_encoder", dirs_exist_ok=True
        )
        shutil.copyfile(shipped_files / "vae.safetensors", args.out / "vae.safetensors")
        shutil.copyfile(args.preset, args.out / args.preset.name)
    start = time.time()
    losses: dict[int, list[float]] = defaultdict(list)
    for step in range(first, args.steps):
        rng = np.random.default_rng((1, step))
        noise = torch.Generator().manual_seed(step)
        share = STAGES[sum(step >= end for end in args.stages)]
        scales = int(rng.choice(list(BATCH), p=share))
        chosen = rng.choice(len(bits.rows), BATCH[scales], replace=False)
        composed = [composer.draw(rng) for _ in range(round(COMPOSED * len(chosen)))]
        chosen = chosen[len(composed) :]
        single = bits.latents[torch.from_numpy(chosen)]
        latents = torch.cat([bits.encode(stacked(composed)), single])
        inputs, targets = bits.batch(latents, scales, noise)
        captions = [c.caption for c in composed]
        for i in chosen:
            worded = wordings.draw if rng.random() < LOOSE else caption
            captions.append(worded(bits.rows[i], rng))
        tokens = tokenizer(
            captions, return_tensors="pt", padding="max_length", truncation=True,
            max_length=TEXT_TOKENS,
        ).to(device)  # fmt: skip
        dropped = torch.from_numpy(rng.random(len(captions)) < TEXT_DROPPED).to(device)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = held_rate(step, args.steps, args.lr, 100, args.cooldown)
        with torch.autocast(device.type, torch.bfloat16):
            seen = encoder(**tokens).last_hidden_state.float()
            unconditional = model.unconditional(TEXT_TOKENS).expand_as(seen)
            rows = model.text_norm(torch.where(dropped[:, None, None], unconditional, seen))
            text = TextRows(rows, tokens["attention_mask"][:, None, None].bool())
            logits = teacher.logits(text, inputs)
        per_token = bit_losses(logits, targets)
        weights = teacher.weights[: len(per_token)]
        loss = (per_token * weights).sum() / weights.sum()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(parameters, step)
        for k, end in enumerate(teacher.ends[:scales]):
            losses[k].append(float(per_token.detach()[bits.schedule.before(k) : end].mean()))
        if (step + 1) % 50 == 0:
            text_losses = " ".join(f"{np.mean(v):.3f}" for _, v in sorted(losses.items()))
            print(
                f"step {step + 1} loss by scale {text_losses} "
                f"{(time.time() - start) / (step + 1 - first):.2f} s/step",
                file=sys.stderr,
                flush=True,
            )
            losses.clear()
        if (step + 1) % 100 == 0 or step + 1 == args.steps or stopped:
            save(step + 1)
        if stopped:
            print(f"stopped after step {step + 1}", file=sys.stderr)
            break


if __name__ == "__main__":
    main()
