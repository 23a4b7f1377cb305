"""How well a model knows drawings that no training saw: the bit loss of each scale.

    python -m scripts.builtin.held_out --model emoji
    python -m scripts.builtin.held_out --model data/builtin/emoji-192/emoji-192.yaml

Teacher-forced, no bits flipped, each drawing under its plain caption; cross entropy in nats a bit.
Needs the data set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from scalekv.infinity_patch.loading.loader import load
from scalekv.infinity_patch.model.quantiser import map_to_tokens, quantise_latents, vae_sizes
from scalekv.infinity_patch.model.text_rows import TextRows
from scalekv.infinity_patch.schedules import schedule_for
from scripts.builtin.captions import heldout_rows, prompt
from scripts.builtin.dataset import PIXELS, load_rows
from scripts.builtin.teacher import Teacher
from scripts.builtin.training import bit_losses

BATCH = 16


@torch.no_grad()
def held_out_losses(model: str, data: Path, limit: int) -> list[float]:
    """Mean loss of each scale over so many held-out drawings."""
    pipeline = load(model, dtype="fp32")
    rows = load_rows(data)
    places = {row["id"]: i for i, row in enumerate(rows)}
    held = heldout_rows(rows)[:limit]
    images = np.load(data / "images.npy", mmap_mode="r")
    schedule = schedule_for("1:1", PIXELS)
    sizes = vae_sizes(schedule.scales, pipeline.preset.tokenizer.patchify)
    teacher = Teacher(pipeline.model, schedule, pipeline.device)
    total = torch.zeros(schedule.total)
    for begin in range(0, len(held), BATCH):
        some = held[begin : begin + BATCH]
        pictures = torch.from_numpy(np.stack([images[places[row["id"]]] for row in some]))
        x = pictures.to(pipeline.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        q = quantise_latents(pipeline.vae.encode(x).float(), sizes)
        inputs = torch.cat([map_to_tokens(x, patchify=False) for x in q.inputs], dim=1)
        targets = torch.cat([map_to_tokens(b, patchify=False) for b in q.bits], dim=1)
        text = TextRows.pad(pipeline.text.encode([prompt(row) for row in some]))
        text = TextRows(pipeline.model.text_norm(text.rows), text.mask)
        total += bit_losses(teacher.logits(text, inputs), targets).cpu() * len(some)
    mean = total / len(held)
    starts = [schedule.before(k) for k in range(len(schedule))]
    return [
        round(float(mean[start : start + n].mean()), 4)
        for start, n in zip(starts, schedule.tokens, strict=True)
    ]


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji", help="a preset's name or file")
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--limit", type=int, default=292, help="how many drawings")
    args = parser.parse_args()
    losses = held_out_losses(args.model, args.data, args.limit)
    print(f"held-out loss by scale: {' '.join(f'{loss:.3f}' for loss in losses)}")


if __name__ == "__main__":
    main()
