"""Calibrate the built-in model, compare the drafters found with drafters tried out, and write what
ships: its budgets, its HeatKV order, its heads' profile, its constants, the maps and the tables of
docs/calibration.md.

python -m scripts.builtin.calibrate
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scalekv.cli.batch.file import prompts_alone
from scalekv.cli.calibrate.heat_maps import index_map, mass_maps
from scalekv.cli.pictures.writing import FORMAT
from scalekv.configs.budget_files import budget_text
from scalekv.configs.models import calibration_prompts
from scalekv.configs.sparsity import SHIPPED
from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.calibration.measure import Calibration, calibrate
from scalekv.infinity_patch.calibration.plan import INDICES, TOP, CalibrationRequest
from scalekv.infinity_patch.likeness import likeness
from scalekv.kv.budgets.asked import BudgetSpec
from scalekv.kv.budgets.budget import Drafters
from scalekv.kv.budgets.heat_order import write_order
from scalekv.kv.coded.constants import write_constants
from scripts.builtin import pages
from scripts.evaluate import contact_sheet

ROOT = Path(__file__).parents[2]
MODEL = "emoji"
CHOOSING = contact_sheet.PROMPTS
BUDGETS = ("10%", "20%")
SEED = 1
MOST_DB = 60.0  # what equal pictures count as
TOPS = (4, 8, TOP, 32)
DRAFTERS = (1, 2, 3)  # per scale

TRIED: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (2,), (0, 1), (0, 2), (0, -1), (0, 1, 2), (0, 1, -1), (0, 1, 2, 3),
)  # fmt: skip
"""Sets that somebody without a calibration would try: the first layers, as in the released budgets
of infinity-8b, and a few others. Negative numbers count from the last layer."""

COMPARING = (
    "a whale", "a cactus", "a teapot", "a doughnut", "a locomotive", "a helicopter, shaded style",
    "a hot dog", "a panda", "a lemon", "a carrot", "grapes, shaded style", "a trophy", "a violin",
    "a police car", "a tractor", "a mountain", "a rainbow", "an anchor", "a light bulb", "a pencil",
    "a crab", "an eagle, shaded style", "a spider", "an astronaut",
)  # fmt: skip
"""Prompts on which nothing was measured and nothing chosen before."""

MEASURED = "scripts/builtin/calibrate.py"  # what the page's measured part is called
PUBLISHED = ("10%", "20%")
FIRST_THREE: Drafters = (0, 1, 2)  # the closest of those tried where only scales are bound


@dataclass(frozen=True)
class Candidate:
    """Drafters, where they come from, and the calibration that found them, if one did."""

    name: str
    drafters: Drafters
    calibration: Calibration | None = None


class Closeness:
    """How close pictures under a budget come to those of the full cache, on one list of prompts."""

    def __init__(self, pipeline: Pipeline, prompts: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.prompts = prompts
        self.full = self._draw(policy="full")

    def of(self, drafters: Drafters) -> NDArray[np.float64]:
        """PSNR in dB, (budget, prompt)."""
        return np.array(
            [
                [
                    min(likeness(full, drawn).psnr, MOST_DB)
                    for full, drawn in zip(
                        self.full,
                        self._draw(policy="scalekv", budget=budget, drafters=drafters),
                        strict=True,
                    )
                ]
                for budget in BUDGETS
            ]
        )

    def _draw(
        self, policy: str, budget: str | None = None, drafters: Drafters | None = None
    ) -> list[Image.Image]:
        requests = (
            Request((prompt,), policy=policy, budget=budget, drafters=drafters, seed=SEED)
            for prompt in self.prompts
        )
        return [next(generate(self.pipeline, request)).image for request in requests]


def concluded(found: Calibration, index: str, per_scale: int) -> Calibration:
    """The same measurement with another conclusion."""
    pairs = per_scale * len(found.plan.scales)
    return replace(
        found,
        plan=replace(found.plan, pairs=pairs),
        provenance=replace(found.provenance, index=index, pairs=pairs),
    )


def candidates(found: Calibration) -> list[Candidate]:
    """Sets tried out, then those of the calibration."""
    tried = [tuple(layer % found.layers for layer in layers) for layers in TRIED]
    sets = [Candidate("tried" if layers else "uniform", layers) for layers in tried]
    for index in INDICES:
        for per_scale in DRAFTERS:
            calibration = concluded(found, index, per_scale)
            drafters = calibration.spec("").drafters
            sets.append(Candidate(f"index {index}, {per_scale} per scale", drafters, calibration))
    return sets


def chosen_of(
    tried: list[Candidate], scores: list[NDArray[np.float64]], calibrated: bool
) -> Candidate:
    """The candidate of one kind whose pictures are the closest in the mean."""
    kind = [
        (scores[i].mean(), -i) for i, c in enumerate(tried) if bool(c.calibration) == calibrated
    ]
    return tried[-max(kind)[1]]


def said(drafters: Drafters) -> str:
    """Drafters in words: "4" or "5: 3 4; 6: 4"."""
    if isinstance(drafters, dict):
        return "; ".join(
            f"from scale {number}: {' '.join(map(str, row)) or 'none'}"
            for number, row in drafters.items()
        )
    return " ".join(map(str, drafters)) or "none"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def decibels(scores: NDArray[np.float64]) -> list[str]:
    """The mean over prompts at each budget."""
    return [f"{value:.2f}" for value in scores.mean(1)]


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> str:
    """a - b per prompt, mean over budgets: its mean and 95 % interval."""
    apart = (a - b).mean(0)
    half = 1.96 * apart.std(ddof=1) / len(apart) ** 0.5
    return f"{apart.mean():+.2f} ± {half:.2f} dB"


def on_own_map(found: Calibration) -> str:
    """How much of their attention drafters and the others keep on the current map, in words."""
    own = found.means.own.mean((0, 3))  # (scale, layer)
    chosen = np.zeros(own.shape, dtype=bool)
    for scale, layers in found.drafters.items():
        chosen[scale, list(layers)] = True
    others = ~chosen
    others[: found.plan.scales[0]] = False
    return (
        f"the drafters of index {found.provenance.index} keep {own[chosen].mean():.0%} of their "
        f"attention on the current map, the others {own[others].mean():.0%}"
    )


def measured_text(
    by_top: dict[int, Calibration],
    candidates: list[Candidate],
    scores: list[NDArray[np.float64]],
    compared: dict[str, tuple[Candidate, NDArray[np.float64]]],
    default: str,
) -> str:
    """The measured part of docs/calibration.md."""
    found = by_top[TOP]
    provenance = found.provenance
    head = ["drafters", "layers", *(f"PSNR at {budget}" for budget in BUDGETS)]
    tried, calibrated = (compared[kind][1] for kind in ("tried", "calibrated"))
    uniform = compared["uniform"][1]
    sparsity, entropy = found.sparsity(), found.entropy()
    own, schedule = found.means.own.mean((0, 2, 3)), found.means.schedule
    indices = {top: [concluded(one, i, 2) for i in INDICES] for top, one in by_top.items()}
    parts = [
        f"Weights sha256 `{provenance.weights}`, {provenance.prompts} prompts, "
        f"{provenance.program}, {provenance.date}.",
        "### Where attention goes",
        f"{sparsity['carried']:.0%} of the attention that later scales pay to earlier ones is "
        f"carried by {sparsity['earlier']:.1%} of all (layer, head, source scale). Mean over "
        "layers and heads:",
        table(
            ["scale", "tokens", "on the own map", "entropy, bits", "at most", "carry 99 %"],
            [
                [
                    scale + 1,
                    schedule.before(scale + 1),
                    f"{own[scale]:.0%}",
                    f"{entropy['bits_by_scale'][scale]:.2f}",
                    f"{entropy['most_by_scale'][scale]:.2f}",
                    f"{sparsity['earlier_by_scale'][scale]:.1%}" if scale else "",
                ]
                for scale in range(len(schedule))
            ],
        ),
        "### What K' changes",
        "Drafters at two per scale; and the share that the two halves of the prompts agree on.",
        table(
            ["K'", *(word for index in INDICES for word in (f"index {index}", "agreed on"))],
            [
                [
                    top,
                    *(
                        word
                        for one in row
                        for word in (said(one.spec("").drafters), f"{one.halves_agree:.0%}")
                    ),
                ]
                for top, row in indices.items()
            ],
        ),
        f"At K' {TOP}, " + "; ".join(on_own_map(one) for one in indices[TOP]) + ".",
        "### Which drafters keep pictures closest",
        f"PSNR against the full cache, mean over the {len(CHOOSING)} prompts of "
        f"`contact_sheet --trained`, seed {SEED}; the best set of either kind goes on.",
        table(
            head,
            [
                [c.name, said(c.drafters), *decibels(s)]
                for c, s in zip(candidates, scores, strict=True)
            ],
        ),
        f"On {len(COMPARING)} other prompts:",
        table(
            head,
            [[c.name, said(c.drafters), *decibels(s)] for c, s in compared.values()],
        ),
        f"Calibrated against tried {difference(calibrated, tried)}, against uniform "
        f"{difference(calibrated, uniform)}; tried against uniform {difference(tried, uniform)} "
        f"(95 % interval over prompts, mean of both budgets). So `default` is the best set "
        f"{default}, and `calibrated` the best one of a calibration.",
    ]
    return "\n\n".join(parts)


def spec_of(candidate: Candidate, scores: NDArray[np.float64], found: Calibration) -> BudgetSpec:
    """A budget file's content, with how the set was come by."""
    how = "the closest pictures of six sets of a calibration: "
    origin = found.provenance
    if candidate.calibration is not None:
        how += candidate.calibration.provenance.line()
    else:
        how = (
            f"the closest pictures of {len(TRIED)} sets tried, on weights sha256 {origin.weights}, "
            f"{origin.date}; not calibrated"
        )
    results = " and ".join(
        f"{value} dB at {budget}" for value, budget in zip(decibels(scores), BUDGETS, strict=True)
    )
    return BudgetSpec(
        name="",
        model=MODEL,
        layers=found.layers,
        drafters=candidate.drafters,
        percent=Fraction(10),
        provenance=f"{how}; PSNR against the full cache over {len(COMPARING)} other prompts "
        f"{results}",
    )


def as_published(percent: str, layers: int) -> BudgetSpec:
    """A budget kept to as in the released code, which lets more be held between two scales."""
    return BudgetSpec(
        name="",
        model=MODEL,
        layers=layers,
        drafters=FIRST_THREE,
        percent=Fraction(percent.rstrip("%")),
        bound="scale",
        provenance="the first three layers, the closest of ten sets tried on the first weights "
        f"where only scales are bound; between two scales more than {percent} may be held; not "
        "calibrated",
    )


def sparsity_text(found: Calibration) -> str:
    """The file that says how sparse attention is, as plans and reports read it."""
    summary = found.summary()
    provenance = {k: v for k, v in summary["provenance"].items() if k != "settings"}
    kept = {"format": FORMAT, "provenance": provenance, "sparsity": summary["sparsity"]}
    return json.dumps(kept, indent=2) + "\n"


def profile_text(found: Calibration) -> str:
    """The file that policies read which give heads or layers budgets of their own."""
    provenance = {k: v for k, v in found.summary()["provenance"].items() if k != "settings"}
    return json.dumps({"format": FORMAT, "provenance": provenance, **found.profile()}) + "\n"


def write(path: Path, content: bytes) -> None:
    """Replaces a file, whole at any moment, and says so."""
    with replacing(path) as hidden:
        hidden.write_bytes(content)
    print(path.relative_to(ROOT))


def main() -> None:
    """Measure, compare, write."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    pipeline = load(MODEL, device="cpu")
    pictures = Request(prompts_alone(calibration_prompts(MODEL)))
    by_top = {}
    for top in TOPS:
        print(f"measuring, K' {top}", file=sys.stderr)
        by_top[top] = calibrate(pipeline, CalibrationRequest(pictures, top=top, coded=top == TOP))
    found = by_top[TOP]

    tried, scores = candidates(found), []
    choosing = Closeness(pipeline, CHOOSING)
    for candidate in tried:
        scores.append(choosing.of(candidate.drafters))
        print(candidate.name, *decibels(scores[-1]), file=sys.stderr)
    finalists = {
        "tried": chosen_of(tried, scores, calibrated=False),
        "calibrated": chosen_of(tried, scores, calibrated=True),
        "uniform": tried[0],
    }
    comparing = Closeness(pipeline, COMPARING)
    compared = {kind: (c, comparing.of(c.drafters)) for kind, c in finalists.items()}
    for kind, (_, closeness) in compared.items():
        print(kind, *decibels(closeness), file=sys.stderr)
    better = compared["calibrated"][1].mean() >= compared["tried"][1].mean()
    default = "calibrated" if better else "tried"

    folder, images = ROOT / "configs/budgets" / MODEL, ROOT / "docs/images"
    files = {"default": default, "calibrated": "calibrated"}
    for name, kind in files.items():
        comment = "The drafters that serve percentages and token counts."
        if name != "default":
            comment = "The best drafters of a calibration; see docs/calibration.md."
        spec = spec_of(*compared[kind], found)
        write(folder / f"{name}.yaml", budget_text(spec, comment).encode())
    for percent in PUBLISHED:
        comment = "Capacities kept to while each scale is generated, as in ScaleKV's released code."
        text = budget_text(as_published(percent, found.layers), comment)
        write(folder / f"as-published-{percent.rstrip('%')}.yaml", text.encode())
    write(folder / "heat-order.json", write_order(found.order()).encode())
    assert found.constants is not None, "they were asked for"
    write(folder / "coded.safetensors", write_constants(found.constants))
    write(folder / SHIPPED, sparsity_text(found).encode())
    write(folder / "attention.json", profile_text(found).encode())
    for index in INDICES:
        numbers = concluded(found, index, 2).to_dict()
        write(images / f"calibration-index-{index}.png", index_map(numbers))
    write(images / "calibration-s-cas.png", mass_maps(found.to_dict()))
    page = ROOT / "docs/calibration.md"
    text = measured_text(by_top, tried, scores, compared, default)
    write(page, pages.replaced(page.read_text(encoding="utf-8"), MEASURED, text).encode())


if __name__ == "__main__":
    main()
