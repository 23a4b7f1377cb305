"""Draw the same prompts and seeds under several budgets, side by side, as one picture.

python scripts/contact_sheet.py --out docs/images/contact-sheet.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scalekv.infinity_patch import Request, generate, load

PROMPTS = (
    "a red apple", "an octopus", "a dog face", "a cat face", "a pizza", "an umbrella",
    "a smiling face with sunglasses", "a red heart", "a rocket", "a sunflower", "a car",
    "a guitar", "a house", "a deciduous tree", "a penguin", "a strawberry", "a burger",
    "a soccer ball", "a crescent moon", "a fire", "a snowman", "a butterfly, flat style",
    "a lion, shaded style", "a crown",
)  # fmt: skip
BUDGETS = ("full", "20%", "10%")
GAP, CAPTION, HEADER = 6, 16, 18


def draw(prompts: tuple[str, ...], model: str, seed: int) -> dict[str, list[Image.Image]]:
    """Pictures of all prompts, per budget; every prompt has the same seed."""
    pipeline = load(model)
    drawn: dict[str, list[Image.Image]] = {}
    for budget in BUDGETS:
        policy = "full" if budget == "full" else "scalekv"
        requests = (Request((p,), policy=policy, budget=budget, seed=seed) for p in prompts)
        drawn[budget] = [next(generate(pipeline, r)).image for r in requests]
    return drawn


def sheet(
    prompts: tuple[str, ...], drawn: dict[str, list[Image.Image]], across: int
) -> Image.Image:
    """One cell per prompt: its pictures under all budgets, the prompt below."""
    side = drawn[BUDGETS[0]][0].width
    width = len(BUDGETS) * side + 3 * GAP
    height = side + CAPTION + 2 * GAP
    rows = -(-len(prompts) // across)
    page = Image.new("RGB", (across * width, rows * height + HEADER), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, prompt in enumerate(prompts):
        left, top = number % across * width, number // across * height + HEADER
        for column, budget in enumerate(BUDGETS):
            x = left + GAP + column * side
            if number < across:
                pen.text((x + side // 2, 3), budget, fill="black", font=font, anchor="mt")
            page.paste(drawn[budget][number], (x, top))
        pen.text((left + width // 2, top + side + 2), prompt, fill="black", font=font, anchor="mt")
    return page


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = np.mean((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def main() -> None:
    """Write the sheet, and print how far each budget is from the full cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--across", type=int, default=4, help="prompts side by side")
    parser.add_argument("--out", type=Path, default=Path("docs/images/contact-sheet.png"))
    args = parser.parse_args()
    prompts = tuple(args.prompts)
    drawn = draw(prompts, args.model, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(prompts, drawn, args.across).save(args.out, optimize=True)
    for budget in BUDGETS[1:]:
        against = [psnr(a, b) for a, b in zip(drawn["full"], drawn[budget], strict=True)]
        same = sum(np.isinf(against))
        middle = np.median(against)
        print(
            f"{budget} of history against full: median PSNR {middle:.1f} dB over "
            f"{len(prompts)} prompts, {same} identical",
            file=sys.stderr,
        )
    print(args.out)


if __name__ == "__main__":
    main()
