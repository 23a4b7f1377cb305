"""The README's picture: the same prompts, all with one seed, under several budgets.

`scalekv compare` does the like for any prompts, with seeds of their own.

python -m scripts.evaluate.contact_sheet --out docs/images/contact-sheet.png

Without prompts: 48 held-out ones, the first of each kind: 24 drawings whose other style alone was
trained on, 12 drawings on a colour they were never seen on, 12 in nobody's wording. `--trained`:
24 that people try first, of drawings it was trained on.
"""

from __future__ import annotations

import argparse
import sys
from math import isinf
from pathlib import Path
from statistics import median

from PIL import Image

from scalekv.cli.pictures.sheet import PictureGroup, contact_sheet
from scalekv.infinity_patch import Request, generate, load
from scalekv.infinity_patch.likeness import likeness
from scripts.evaluate.prompts import background_prompts, free_prompts, other_style_prompts

PROMPTS = (
    "a red apple", "an octopus", "a dog face", "a cat face", "a pizza", "an umbrella",
    "a smiling face with sunglasses", "a red heart", "a rocket", "a sunflower", "a car",
    "a guitar", "a house", "a deciduous tree", "a penguin", "a strawberry", "a burger",
    "a soccer ball", "a crescent moon", "a fire", "a snowman", "a butterfly, flat style",
    "a lion, shaded style", "a crown",
)  # fmt: skip
DRAWINGS, COLOURED, FREE = 24, 12, 12
COLOURS = 256  # of the file's palette, which keeps it small
BUDGETS = ("full", "20%", "10%")


def draw(prompts: tuple[str, ...], model: str, seed: int) -> dict[str, list[Image.Image]]:
    """Pictures of all prompts, per budget; every prompt has the same seed."""
    pipeline = load(model)
    drawn: dict[str, list[Image.Image]] = {}
    for budget in BUDGETS:
        policy = "full" if budget == "full" else "scalekv"
        requests = (Request((p,), policy=policy, budget=budget, seed=seed) for p in prompts)
        drawn[budget] = [next(generate(pipeline, r)).image for r in requests]
    return drawn


def held_out() -> tuple[str, ...]:
    """The first held-out prompts of each kind."""
    drawings, coloured = other_style_prompts()[:DRAWINGS], background_prompts()[:COLOURED]
    return (*drawings, *coloured, *free_prompts()[:FREE])


def main() -> None:
    """Write the sheet, and print how far each budget is from the full cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--trained", action="store_true", help="prompts of drawings trained on")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--across", type=int, default=4, help="prompts side by side")
    parser.add_argument("--out", type=Path, default=Path("docs/images/contact-sheet.png"))
    args = parser.parse_args()
    prompts = tuple(args.prompts) or (PROMPTS if args.trained else held_out())
    drawn = draw(prompts, args.model, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    groups = [
        PictureGroup(tuple(drawn[budget][number] for budget in BUDGETS), prompt)
        for number, prompt in enumerate(prompts)
    ]
    side = drawn[BUDGETS[0]][0].width
    page = contact_sheet(groups, across=args.across, side=side, labels=BUDGETS)
    page.quantize(COLOURS, dither=Image.Dither.NONE).save(args.out, optimize=True)
    for budget in BUDGETS[1:]:
        pairs = zip(drawn["full"], drawn[budget], strict=True)
        against = [likeness(b, a).psnr for a, b in pairs]
        same = sum(map(isinf, against))
        middle = median(against)
        print(
            f"{budget} of history against full: median PSNR {middle:.1f} dB over "
            f"{len(prompts)} prompts, {same} identical",
            file=sys.stderr,
        )
    print(args.out)


if __name__ == "__main__":
    main()
