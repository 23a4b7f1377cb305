"""How far compressed caches move pictures from the full cache's, at equal prompts and seeds.

    python -m scripts.evaluate.fidelity --policies scalekv streaming-llm --budgets 20% 10% \\
        --prompts captions.txt --model infinity-2b --out runs/fidelity

Every picture is compared with the one of the full cache: PSNR, SSIM, a distance of ImageNet
features, and the share of equal bits per scale. Policies, budgets and dtypes of held tokens are
crossed. `OUT/pictures.jsonl` holds a row a picture and is the truth: what is in it is not made
again, another call adds to it, and `OUT/table.md` and `OUT/plot.png` are made from it alone.
Prompts are the built-in model's held-out ones (the first 64 in no caption's wording), or those
of a file (a line each, or COCO's captions as .json).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scalekv.infinity_patch import Pipeline, load
from scalekv.infinity_patch.asked.check import check
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import policy_and_file, policy_names
from scripts.builtin.backbone import as_input, backbone, feature_distance
from scripts.evaluate.fidelity_report import write_report
from scripts.evaluate.measures import alike
from scripts.evaluate.pictures import (
    FULL,
    CacheVariant,
    DrawnPicture,
    draw,
    request_for,
    variants,
    weights_of,
)
from scripts.evaluate.prompts import heldout_prompts, read_prompts
from scripts.evaluate.rows import Rows, exit_code

RECIPE = 2  # raise when the same pictures would give other numbers
EXTRAS = {
    "lpips": ("torchvision",),
    "fid": ("cleanfid",),
}


def settings_of(args: argparse.Namespace, pipeline: Pipeline, prompts: list[str]) -> dict[str, Any]:
    """What all rows of a file have in common; a file of other settings is not added to."""
    return {
        "recipe": RECIPE,
        "model": pipeline.preset.name,
        "weights": weights_of(pipeline),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
        "threads": torch.get_num_threads() if pipeline.device.type == "cpu" else None,
        "ratio": args.ratio,
        "pixels": args.pixels,
        "seed": args.seed,
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16],
        "torch": version("torch"),
    }


def agreement(full: DrawnPicture, other: DrawnPicture) -> list[float]:
    """The share of equal bits, per scale."""
    return [float((a == b).double().mean()) for a, b in zip(full.bits, other.bits, strict=True)]


class AgainstFull:
    """One prompt's picture under the full cache, and others against it."""

    def __init__(self, full: DrawnPicture, lpips: Any | None):
        self.full = full
        self.lpips = lpips
        with torch.inference_mode():
            self.maps = backbone().stages(as_input([full.picture]))

    def row(self, other: DrawnPicture) -> dict[str, Any]:
        """The measures of one picture; PSNR is null where the pictures are equal."""
        found = alike(other.picture, self.full.picture)
        with torch.inference_mode():
            maps = backbone().stages(as_input([other.picture]))
            far = float(feature_distance(self.maps, maps))
        measured: dict[str, Any] = {
            "psnr": None if found.identical else round(found.psnr, 4),
            "ssim": round(found.ssim, 6),
            "features": round(far, 6),
            "bits": [round(share, 6) for share in agreement(self.full, other)],
        }
        if self.lpips is not None:
            pictures = (as_input([d.picture]) for d in (self.full, other))
            measured["lpips"] = round(float(self.lpips(*pictures)), 6)
        cache = other.cache
        return measured | {
            "held_peak_bytes": cache["held_peak_bytes"],
            "full_bytes": cache["full_bytes"],
            "seconds": round(other.seconds, 3),
            "full_seconds": round(self.full.seconds, 3),
        }


def compare(
    pipeline: Pipeline,
    prompts: list[str],
    chosen: list[CacheVariant],
    rows: Rows,
    args: argparse.Namespace,
) -> Iterator[str]:
    """Make what is missing, prompt by prompt; yields a line to show after each."""
    lpips = lpips_of() if args.lpips else None
    for number, prompt in enumerate(prompts):
        wanted = [v for v in chosen if (number, v.policy, v.budget, v.kv_dtype) not in rows.done]
        if not wanted:
            continue
        seed = args.seed + number
        full = draw(pipeline, request_for(prompt, seed, FULL, args.ratio, args.pixels))
        comparison = AgainstFull(full, lpips)
        keep(args, full, FULL.folder, number)
        for variant in wanted:
            drawn = draw(pipeline, request_for(prompt, seed, variant, args.ratio, args.pixels))
            keep(args, drawn, variant.folder, number)
            rows.add(
                {
                    "number": number,
                    "policy": variant.policy,
                    "budget": variant.budget,
                    "kv_dtype": variant.kv_dtype,
                    "prompt": prompt,
                    "seed": seed,
                    **comparison.row(drawn),
                }
            )
        yield f"{number + 1} of {len(prompts)}: {prompt}"


def keep(args: argparse.Namespace, drawn: DrawnPicture, folder: str, number: int) -> None:
    """Keep a picture, where pictures are asked for."""
    if args.pictures is not None:
        from PIL import Image

        path = args.pictures / folder / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.picture).save(path)


def check_extras(args: argparse.Namespace) -> None:
    """Refuse measures whose libraries are not here, before anything is loaded.

    Raises:
        UserError: what to install.
    """
    from importlib.util import find_spec

    for option, modules in EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        if getattr(args, option) and missing:
            packages = {"cleanfid": "clean-fid"}
            raise UserError(
                f"--{option} needs {' and '.join(missing)}",
                where=f"--{option}",
                rule="its networks are fetched by libraries that are not part of scalekv",
                fix="pip install " + " ".join(packages.get(name, name) for name in modules),
            )
    if args.fid and args.pictures is None:
        raise UserError(
            "--fid compares folders of pictures", where="--fid", fix="add --pictures DIR"
        )


def lpips_of() -> Any:
    """LPIPS (AlexNet) of torchmetrics; its first use fetches weights."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex")


def fid_table(pictures: Path, chosen: list[CacheVariant]) -> dict[str, float]:
    """FID of every variant's folder against the full cache's, by clean-fid."""
    from cleanfid import fid

    return {
        v.folder: float(fid.compute_fid(str(pictures / FULL.folder), str(pictures / v.folder)))
        for v in chosen
        if v != FULL
    }


def _policy(text: str) -> str:
    """A policy's name, with the file it works from where it is not the model's own."""
    if policy_and_file(text)[0] not in policy_names():
        raise argparse.ArgumentTypeError(f"{text!r}: one of {', '.join(policy_names())}")
    return text


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--policies", nargs="+", default=["scalekv"], type=_policy, metavar="NAME[:FILE]"
    )
    parser.add_argument("--budgets", nargs="+", default=["20%", "10%"])
    parser.add_argument(
        "--kv-dtypes", nargs="+", default=["auto"], help="how held tokens are stored: auto, int8 …"
    )
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--dtype", default="auto", help="fp32, bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ratio", default="1:1")
    parser.add_argument("--pixels")
    parser.add_argument("--prompts", type=Path, help="a line each, or COCO captions as .json")
    parser.add_argument("--limit", type=int, default=200, help="how many of the prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt")
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"))
    parser.add_argument("--pictures", type=Path, help="keep all pictures in this folder")
    parser.add_argument("--lpips", action="store_true", help="LPIPS too, by torchmetrics")
    parser.add_argument("--fid", action="store_true", help="FID too, by clean-fid")
    parser.add_argument("--report-only", action="store_true", help="table and plot, no pictures")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    """Measure what is missing, then write table and plot.

    Raises:
        UserError: a request that cannot be fulfilled, or a file of other settings.
    """
    if args.report_only:
        rows = Rows.read(args.out / "pictures.jsonl")
        print(write_report(rows.settings, rows.rows, args.out))
        return
    check_extras(args)
    if args.limit < 1:
        raise UserError(f"{args.limit} prompts", where="--limit", rule="at least 1")
    prompts = heldout_prompts() if args.prompts is None else read_prompts(args.prompts)
    chosen = variants(args.policies, args.budgets, args.kv_dtypes)
    pipeline = load(args.model, device=args.device, dtype=args.dtype, weights_dir=args.weights_dir)
    for variant in chosen:
        request = request_for(prompts[0], args.seed, variant, args.ratio, args.pixels)
        check(request, pipeline.preset, pipeline.weights_dir)
    backbone()
    rows = Rows.open(
        args.out / "pictures.jsonl",
        settings_of(args, pipeline, prompts),
        key=("number", "policy", "budget", "kv_dtype"),
    )
    for line in compare(pipeline, prompts[: args.limit], chosen, rows, args):
        print(line, file=sys.stderr, flush=True)
    print(write_report(rows.settings, rows.rows, args.out))
    if args.fid:
        for name, value in fid_table(args.pictures, chosen).items():
            print(f"FID of {name} against full: {value:.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    args = parse(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
