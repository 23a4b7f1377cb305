"""What the picture tokenizer loses: held-out drawings to bits and back.

    python -m scripts.evaluate.reconstruction --data data/builtin --out runs/reconstruction

PSNR, SSIM and the feature distance of every held-out drawing against its reconstruction, as rows
in `OUT/drawings.jsonl`; `OUT/table.md` is made from them. What is there is not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from scalekv.infinity_patch import Pipeline, load
from scalekv.infinity_patch.evaluation.backbone import as_input, backbone
from scalekv.infinity_patch.evaluation.rows import Row, Rows
from scalekv.infinity_patch.evaluation.statistics import interval, mean
from scalekv.infinity_patch.files.hashes import model_hashes
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.model.quantiser import quantise_latents, vae_sizes
from scalekv.infinity_patch.model.scale_loop import to_uint8
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.errors import UserError
from scripts.builtin.captions import heldout_rows
from scripts.builtin.dataset import DEFAULT_FOLDER, Pixels, load_rows
from scripts.evaluate.exits import exit_code
from scripts.evaluate.measures import alike, perceptual_distance

MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "features": "feature distance"}
RECIPE = 1  # raise when the same pictures would give other numbers


@torch.inference_mode()
def reconstruct(pipeline: Pipeline, picture: Pixels) -> Pixels:
    """A picture through encoder, bits and decoder."""
    preset = pipeline.preset
    sizes = vae_sizes(schedule_for("1:1", preset.pixels).scales, preset.tokenizer.patchify)
    latent = pipeline.vae.encode(as_input([picture]).to(pipeline.device))
    decoded: Pixels = (
        to_uint8(pipeline.vae.decode(quantise_latents(latent, sizes).total))[0].cpu().numpy()
    )
    return decoded


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a style, and one for all."""
    groups = {"all": list(rows)}
    for row in rows:
        groups.setdefault(row["style"], []).append(row)
    lines = [
        "Held-out drawings against their reconstructions; means with 95 % bootstrap intervals. The "
        "feature distance is that of EfficientNet-Lite0's maps, not LPIPS.",
        "",
        "| style | drawings | " + " | ".join(MEASURES.values()) + " |",
        "| --- " * (2 + len(MEASURES)) + "|",
    ]
    for name, its in groups.items():
        cells = []
        for measure in MEASURES:
            value, low, high = interval([row[measure] for row in its], mean)
            digits = 2 if measure == "psnr" else 4
            cells.append(f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        lines.append(f"| {name} | {len(its)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> None:
    """Measure what is missing, then write the table.

    Raises:
        UserError: no data set, or a file of other settings.
    """
    if not (args.data / "images.npy").is_file():
        raise UserError(
            "the drawings are not there",
            where=str(args.data),
            rule="held-out drawings are compared, and they are not part of the repository",
            fix="python -m scripts.builtin.dataset",
        )
    rows = load_rows(args.data)
    places = {row["id"]: i for i, row in enumerate(rows)}
    images = np.load(args.data / "images.npy", mmap_mode="r")
    pipeline = load("emoji", weights_dir=args.weights_dir)
    backbone()
    settings = {
        "recipe": RECIPE,
        "vae": model_hashes(model_files(pipeline.preset, pipeline.weights_dir))["vae"],
        "torch": version("torch"),
    }
    found = Rows.open(args.out / "drawings.jsonl", settings, key=("id",))
    for row in heldout_rows(rows):
        if (row["id"],) in found.done:
            continue
        picture = np.asarray(images[places[row["id"]]])
        decoded = reconstruct(pipeline, picture)
        both = alike(decoded, picture)
        found.add(
            {
                "id": row["id"],
                "style": row["style"],
                "psnr": round(both.psnr, 4),
                "ssim": round(both.ssim, 6),
                "features": round(perceptual_distance(picture, decoded), 6),
            }
        )
    (args.out / "table.md").write_text(table(found.rows), encoding="utf-8")
    print(args.out / "table.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--weights-dir", type=Path, help="instead of the shipped weights")
    parser.add_argument("--out", type=Path, default=Path("runs/reconstruction"))
    args = parser.parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
