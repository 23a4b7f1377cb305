"""The README's picture: the same prompts, all with one seed, under several budgets.

`scalekv compare` does the like for any prompts, with seeds of their own.

python -m scripts.contact_sheet --out docs/images/contact-sheet.png

Without prompts: 24 that people try first, then 24 of drawings no training saw, marked with a star.
"""

from __future__ import annotations

import argparse
import sys
from math import isinf
from pathlib import Path
from statistics import median

from PIL import Image

from scalekv.cli.sheet import Group, contact_sheet
from scalekv.infinity_patch import Request, generate, load
from scalekv.infinity_patch.likeness import likeness
from scripts.eval_prompts import drawing_prompts

PROMPTS = (
    "a red apple", "an octopus", "a dog face", "a cat face", "a pizza", "an umbrella",
    "a smiling face with sunglasses", "a red heart", "a rocket", "a sunflower", "a car",
    "a guitar", "a house", "a deciduous tree", "a penguin", "a strawberry", "a burger",
    "a soccer ball", "a crescent moon", "a fire", "a snowman", "a butterfly, flat style",
    "a lion, shaded style", "a crown",
)  # fmt: skip
HELD_OUT = 24
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


def main() -> None:
    """Write the sheet, and print how far each budget is from the full cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--across", type=int, default=4, help="prompts side by side")
    parser.add_argument("--out", type=Path, default=Path("docs/images/contact-sheet.png"))
    args = parser.parse_args()
    held_out = () if args.prompts else tuple(drawing_prompts()[:HELD_OUT])
    prompts = (*(args.prompts or PROMPTS), *held_out)
    drawn = draw(prompts, args.model, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    groups = [
        Group(
            tuple(drawn[budget][number] for budget in BUDGETS),
            f"{prompt} *" if prompt in held_out else prompt,
        )
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
