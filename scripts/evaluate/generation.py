"""How good the pictures are, and what a compressed cache takes from them.

    python -m scripts.evaluate.generation --budgets 20% 10% --out runs/generation

For the built-in model. Three groups of prompts: concepts it was trained on, concepts it knows in
the other style only, and concepts it never saw. A judge trained apart (`builtin/train_scorer.py`)
picks each picture's caption among 100; against the held-out drawings the kernel distance of
ImageNet features is taken (the estimator of KID on another network: not KID's numbers).
Image k of prompt n has the seed `--seed` + n + 1000 k under every variant.
`OUT/pictures.jsonl` and `OUT/pictures/` are the truth: what is there is not made again,
another call adds to it, and `OUT/table.md` is made from all of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalekv.infinity_patch import Pipeline, Request, load
from scalekv.infinity_patch.asked.check import check
from scalekv.infinity_patch.evaluation.drawing import draw_with_bits
from scalekv.infinity_patch.evaluation.rows import Rows
from scalekv.infinity_patch.evaluation.statistics import interval, mean
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant, cache_variants
from scalekv.infinity_patch.files.hashes import model_hashes
from scalekv.infinity_patch.files.hub import model_files
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import policy_names
from scripts.builtin.captions import Row, heldout_rows, prompt
from scripts.builtin.dataset import DEFAULT_FOLDER, Pixels, load_rows
from scripts.builtin.scorer import Scorer, as_judged, load_scorer, pooled_features
from scripts.evaluate.exits import exit_code
from scripts.evaluate.measures import kernel_distance

RECIPE = 3  # raise when the same pictures would give other numbers
CHOICES = 100
LIMIT = 200  # prompts of a group, at most
SEED_STEP = 1000  # from an image of a prompt to its next one; more than there are prompts
KEY = ("id", "image", "policy", "budget")
GROUPS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "trained": ("trained on", lambda row: not (row["heldout_concept"] or row["heldout_style"])),
    "style": ("other style only", lambda row: bool(row["heldout_style"])),
    "new": ("never seen", lambda row: bool(row["heldout_concept"])),
}


def prompts_of(rows: Sequence[Row], limit: int) -> list[tuple[str, Row]]:
    """(group, row) of every picture to make: of each group up to `limit`, chosen once for all.

    Of a concept only one style is asked for, so that no two captions name the same thing.
    """
    chosen = []
    for group, (_, belongs) in GROUPS.items():
        members = [row for row in rows if belongs(row)]
        order = np.random.default_rng(0).permutation(len(members))
        once = {members[i]["concept"]: members[i] for i in order}
        chosen += [(group, row) for row in list(once.values())[:limit]]
    return chosen


def choices_for(row: Row, rows: Sequence[Row], number: int) -> list[str]:
    """The concepts whose captions the judge chooses from: the row's own first, then others.

    All of them in the row's style, so that the style tells nothing.
    """
    others = [r for r in rows if r["style"] == row["style"] and r["concept"] != row["concept"]]
    drawn = np.random.default_rng((1, number)).choice(len(others), CHOICES - 1, replace=False)
    return [row["concept"], *(others[i]["concept"] for i in drawn)]


@torch.inference_mode()
def rank(scorer: Scorer, picture: Pixels, concepts: list[str]) -> int:
    """How many concepts the judge likes better than the first one."""
    seen = scorer.pictures(pooled_features([as_judged(picture)]))
    scores = (seen @ scorer.captions(concepts).T)[0]
    return int((scores[1:] >= scores[0]).sum())


def make(
    pipeline: Pipeline, scorer: Scorer, rows: Sequence[Row], variant_list: list[CacheVariant],
    found: Rows, args: argparse.Namespace,
) -> None:  # fmt: skip
    """Draw and judge what is missing."""
    wanted = prompts_of(rows, args.limit)
    for image in range(args.num_images):
        for number, (group, row) in enumerate(wanted):
            text, seed = prompt(row), args.seed + number + SEED_STEP * image
            missing = [
                v for v in variant_list if (row["id"], image, v.policy, v.budget) not in found.done
            ]
            for variant in missing:
                picture = draw_with_bits(pipeline, request_for(text, seed, variant)).picture
                path = picture_path(args.out, variant.folder, row["id"], image)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
                found.add(
                    {
                        "id": row["id"],
                        "image": image,
                        "policy": variant.policy,
                        "budget": variant.budget,
                        "group": group,
                        "prompt": text,
                        "seed": seed,
                        "rank": rank(scorer, picture, choices_for(row, rows, number)),
                    }
                )
            if missing:
                done, count = image * len(wanted) + number + 1, args.num_images * len(wanted)
                print(f"{done} of {count}: {text}", file=sys.stderr, flush=True)


def request_for(prompt: str, seed: int, variant: CacheVariant) -> Request:
    """One picture under a variant."""
    return Request(
        (prompt,), policy=variant.policy, budget=variant.budget, seed=seed, truncate=True
    )


def picture_path(out: Path, folder: str, name: str, image: int) -> Path:
    """Where a variant's picture of a row is kept."""
    return out / "pictures" / folder / f"{name}-{image}.png"


def load_pictures(
    out: Path, variant: CacheVariant, wanted: Sequence[tuple[str, int]]
) -> list[Pixels]:
    """A variant's pictures, by (id, image).

    Raises:
        UserError: one that has a row is gone.
    """
    paths = [picture_path(out, variant.folder, name, image) for name, image in wanted]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise UserError(
            "a picture that was made is gone",
            where=str(missing),
            fix="delete --out, or name another",
        )
    return [as_judged(np.asarray(Image.open(path))) for path in paths]


def hits(
    found: Rows, groups: Collection[str], variant: CacheVariant
) -> dict[tuple[str, int], float]:
    """Whether the judge picked the right caption, by (id, image), for prompts of these groups."""
    return {
        (row["id"], row["image"]): float(row["rank"] == 0)
        for row in found.rows
        if (row["policy"], row["budget"]) == (variant.policy, variant.budget)
        and row["group"] in groups
    }


def by_prompt(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """The mean over each prompt's images, by id, of values by (id, image)."""
    its: dict[str, list[float]] = {}
    for (name, _), value in values.items():
        its.setdefault(name, []).append(value)
    return {name: sum(images) / len(images) for name, images in its.items()}


def shown(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """A mean with its interval."""
    value, low, high = interval(values, mean)
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def table(
    found: Rows, variant_list: list[CacheVariant], distances: dict[CacheVariant, float]
) -> str:
    """Markdown: retrieval by group and variant, differences to full paired by prompt."""
    lines = [
        f"Share of pictures whose own caption scores best among {CHOICES}, with 95 % bootstrap "
        "intervals over prompts; differences are paired by prompt and seed. Kernel distance: of "
        "EfficientNet-Lite0's features to the held-out drawings, over the prompts of the last two "
        "groups.",
        "",
        "| concepts | policy | budget | prompts | pictures | retrieval at 1 | difference to full |",
        "| --- " * 7 + "|",
    ]
    sets = [("all", tuple(GROUPS)), *((title, (group,)) for group, (title, _) in GROUPS.items())]
    for title, groups in sets:
        full = hits(found, groups, FULL_CACHE)
        for variant in variant_list:
            its = hits(found, groups, variant)
            if not its:
                continue
            prompts = by_prompt(its)
            apart = by_prompt({key: its[key] - full[key] for key in its if key in full})
            difference = (
                shown(list(apart.values()), sign="+") if variant != FULL_CACHE and apart else ""
            )
            cells = [title, variant.policy, variant.budget, str(len(prompts)), str(len(its))]
            lines.append(
                "| " + " | ".join([*cells, shown(list(prompts.values())), difference]) + " |"
            )
    lines += ["", "| pictures | kernel distance |", "| --- | --- |"]
    lines += [f"| {v.policy} {v.budget} | {value:.4f} |" for v, value in distances.items()]
    return "\n".join(lines) + "\n"


def distances_to(
    found: Rows, variant_list: list[CacheVariant], real: Tensor, out: Path
) -> dict[CacheVariant, float]:
    """Kernel distance of every variant's held-out pictures to the held-out drawings."""
    distances = {}
    for variant in variant_list:
        wanted = sorted(hits(found, ("style", "new"), variant))
        features = pooled_features(load_pictures(out, variant, wanted))
        distances[variant] = kernel_distance(features.numpy(), real.numpy())
    return distances


def settings_of(args: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    """What all rows of a file have in common."""
    return {
        "recipe": RECIPE,
        "weights": model_hashes(model_files(pipeline.preset, pipeline.weights_dir)),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "seed": args.seed,
        "torch": version("torch"),
    }


def run(args: argparse.Namespace) -> None:
    """Make what is missing, then write the table.

    Raises:
        UserError: no data set, no scorer, or a file of other settings.
    """
    if not (args.data / "images.npy").is_file():
        raise UserError(
            "the drawings are not there",
            where=str(args.data),
            rule="pictures are compared with held-out drawings, which the repository has not",
            fix="python -m scripts.builtin.dataset",
        )
    if not 2 <= args.limit <= LIMIT:
        raise UserError(f"{args.limit} prompts", where="--limit", rule=f"from 2 to {LIMIT}")
    if args.num_images < 1:
        raise UserError(f"{args.num_images} pictures", where="--num-images", rule="at least 1")
    scorer = load_scorer()
    variant_list = cache_variants(args.policies, args.budgets)
    pipeline = load("emoji", dtype=args.dtype, weights_dir=args.weights_dir)
    rows = load_rows(args.data)
    for variant in variant_list:
        check(request_for("a cat", args.seed, variant), pipeline.preset, pipeline.weights_dir)
    found = Rows.open(args.out / "pictures.jsonl", settings_of(args, pipeline), key=KEY)
    make(pipeline, scorer, rows, variant_list, found, args)
    variant_list = sorted(
        {CacheVariant(row["policy"], row["budget"]) for row in found.rows},
        key=lambda v: (v != FULL_CACHE, policy_names().index(v.policy), v.budget),
    )
    images = np.load(args.data / "images.npy", mmap_mode="r")
    places = {row["id"]: i for i, row in enumerate(rows)}
    drawings = [as_judged(np.asarray(images[places[row["id"]]])) for row in heldout_rows(rows)]
    real = pooled_features(drawings)
    distances = distances_to(found, variant_list, real, args.out)
    (args.out / "table.md").write_text(table(found, variant_list, distances), encoding="utf-8")
    print(args.out / "table.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--policies", nargs="+", default=["full", "scalekv"], choices=policy_names()
    )
    parser.add_argument("--budgets", nargs="+", default=["20%", "10%"])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--weights-dir", type=Path, help="instead of the shipped weights")
    parser.add_argument("--dtype", default="auto", help="fp32, bf16")
    parser.add_argument("--limit", type=int, default=LIMIT, help="prompts of a group")
    parser.add_argument("--num-images", type=int, default=3, help="pictures of a prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt")
    parser.add_argument("--out", type=Path, default=Path("runs/generation"))
    args = parser.parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
