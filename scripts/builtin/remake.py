"""Everything that depends on the built-in model's weights, made anew.

    python -m scripts.builtin.remake            # hours of one core; goes on where it was stopped
    python -m scripts.builtin.remake --list

After `ship`: the drawings at the model's size, budgets and orders and the page of calibration,
constants of the coded cache, fidelity of all policies, the leaderboard's rows, retrieval,
reconstruction, fringes, both contact sheets, and what the pages say of them. Every step is a
command of its own; what was made for these weights is not made again. Knows commands and pages;
nothing of what they measure.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scalekv.configs.models import ModelPreset, model_named
from scalekv.configs.whole_files import replace_text, replacing
from scalekv.infinity_patch.evaluation.tables import what_was_measured
from scalekv.infinity_patch.files.hashes import SUMS, sha256_of
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.model import parameters
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.policies.registry import policy_names
from scripts.builtin import pages

ROOT = Path(__file__).parents[2]
MODEL = "emoji"
BUDGETS = ("50%", "20%", "10%", "5%", "2%")
JUDGED = ("full", "scalekv", "scalekv-anchored", "heatkv")
PUBLISHED = ("as-published-10", "as-published-20")
RANKED_AT = "10%"
RANKED = ("20%", RANKED_AT)
PAPER = ("scalekv", "pyramidkv", "snapkv", "streaming-llm", "sliding-window")
"""ScaleKV's table at 10 % of the 2B model, best first (arXiv 2505.19602)."""
CARD, FIDELITY = Path("docs/builtin-model.md"), Path("docs/fidelity.md")
SELF = "scripts/builtin/remake.py"
CLI = "from scalekv.cli.main import main; main()"


@dataclass(frozen=True)
class Chapter:
    """A command, and what is done with what it left: `after` is called with the results' folder."""

    name: str
    command: Sequence[str]
    after: Callable[[Path], None] = lambda runs: None


def facts(preset: ModelPreset, shipped: int) -> str:
    """The card's table of sizes."""
    spec, schedule = preset.transformer, schedule_for("1:1", preset.pixels)
    side = schedule.scales[-1][0] * preset.tokenizer.stride
    tokens, history = sum(schedule.tokens), schedule.before(len(schedule) - 1)
    millions = [
        count / 1e6
        for count in (
            parameters.blocks(spec) + parameters.around_blocks(spec, preset.tokenizer.token_bits),
            sum(parameters.autoencoder(preset.tokenizer)),
            sum(parameters.text_encoder(preset.text, spec.text_width)) if preset.text else 0,
        )
    ]
    rows = {
        "architecture": f"the published one, under its tensor names: {spec.depth} layers in "
        f"{spec.chunks} chunks, {spec.heads} heads, width {spec.width}",
        "pictures": f"{side} x {side}, {len(schedule)} scales ({preset.pixels} schedule), stride "
        f"{preset.tokenizer.stride}, {preset.tokenizer.bits} bits a token",
        "tokens": f"{tokens:,}, of which {history:,} are history: 10 % is {history // 10}",
        "parameters": "transformer {:.2f} M, picture tokenizer {:.2f} M, text encoder (T5, two "
        "layers) {:.2f} M".format(*millions),
        "shipped": f"{shipped / 1e6:.1f} MB, bfloat16, averaged weights; as float32 in memory",
        "licence": "MIT, as the program",
    }
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items())


def ranking(rows: Sequence[dict[str, object]], budget: str) -> str:
    """Whether the paper's order of policies is that of the medians, in words."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get("budget") == budget and row.get("kv_dtype") == "auto":
            psnr = row["psnr"]
            found.setdefault(str(row["policy"]), []).append(
                float("inf") if psnr is None else float(psnr)  # type: ignore[arg-type]
            )
    medians = {policy: median(values) for policy, values in found.items()}
    order = sorted(medians, key=lambda policy: -medians[policy])
    here = [policy for policy in order if policy in PAPER]
    same = "the same" if here == [p for p in PAPER if p in here] else "not the same"
    best = ", ".join(f"{policy} {medians[policy]:.1f}" for policy in order)
    return (
        f"At {budget} of the history, by median PSNR in dB, best first: {best}. The paper's order "
        f"on the 2B model is {', '.join(PAPER)}: among these five it is {same} here."
    )


def _table(folder: str, page: Path, name: str) -> Callable[[Path], None]:
    def after(runs: Path) -> None:
        text = (runs / folder / "table.md").read_text(encoding="utf-8")
        pages.replace(ROOT / page, f"{SELF}: {name}", text)

    return after


def _fidelity(runs: Path) -> None:
    result = json.loads((runs / "fidelity" / "result.json").read_text(encoding="utf-8"))
    pages.replace(ROOT / FIDELITY, f"{SELF}: fidelity", what_was_measured(result))
    shutil.copyfile(runs / "fidelity" / "plot.png", ROOT / "docs/images/fidelity.png")
    lines = (runs / "fidelity" / "pictures.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[1:]]  # the first line is the settings
    pages.replace(ROOT / FIDELITY, f"{SELF}: ranking", ranking(rows, RANKED_AT))


def _leaderboard(runs: Path) -> None:
    with replacing(ROOT / "results" / f"{MODEL}-scalekv.json") as hidden:
        shutil.copyfile(runs / "leaderboard" / "result.json", hidden)


def _printed(name: str) -> Callable[[Path], None]:
    def after(runs: Path) -> None:
        text = (runs / f"{name}.out").read_text(encoding="utf-8")
        pages.replace(ROOT / CARD, f"{SELF}: {name}", text)

    return after


def _constants(runs: Path) -> None:
    place = ROOT / "configs/budgets" / MODEL / "coded.safetensors"
    with replacing(place) as hidden:
        shutil.copyfile(runs / "coded" / "emoji-coded.safetensors", hidden)


def steps(preset: ModelPreset, runs: Path) -> list[Chapter]:
    """All of them, in order; results go below `runs`."""
    python = [sys.executable, "-m"]
    side = schedule_for("1:1", preset.pixels).scales[-1][0] * preset.tokenizer.stride
    data = ["--data", str(runs / "drawings")]
    budgets = ["--budgets", *BUDGETS]
    policies = [name for name in policy_names() if name != "full"]
    sheet = [*python, "scripts.evaluate.contact_sheet"]

    def measured(protocol: str, out: str, which: Sequence[str], at: Sequence[str]) -> list[str]:
        words = ["eval", "--protocol", protocol, "--captions", str(runs / "captions.out")]
        words += ["--limit", "64", "--dtype", "bf16", "--out", str(runs / out)]
        words += ["--policy", ",".join(which), "--budget", ",".join(at)]
        return [sys.executable, "-c", CLI, *words]

    def evaluate(name: str, *more: str) -> list[str]:
        return [*python, f"scripts.evaluate.{name}", "--out", str(runs / name), *more]

    return [
        Chapter(
            "drawings",
            [*python, "scripts.builtin.dataset", "--out", data[1], "--side", str(side)],
        ),
        Chapter("calibration", [*python, "scripts.builtin.calibrate"]),
        Chapter(
            "coded",
            [sys.executable, "-c", CLI, "calibrate", "--coded", "--no-plots",
             "--out", str(runs / "coded" / "emoji.yaml")],
            _constants,
        ),
        Chapter("captions", [*python, "scripts.evaluate.prompts"]),
        Chapter("fidelity", measured("preset", "fidelity", policies, BUDGETS)),
        Chapter("published budgets", measured("preset", "fidelity", ["scalekv"], PUBLISHED)),
        Chapter("bits of held tokens", [
            *measured("preset", "fidelity", ["full", "scalekv", "heatkv"], ["10%", "20%"]),
            "--kv-dtype", "int8,int4",
        ], _fidelity),
        Chapter("leaderboard", measured("scalekv", "leaderboard", policies, RANKED), _leaderboard),
        Chapter("generation", evaluate("generation", *data, "--policies", *JUDGED, *budgets),
             _table("generation", CARD, "generation")),
        Chapter("reconstruction", evaluate("reconstruction", *data),
             _table("reconstruction", CARD, "reconstruction")),
        Chapter("fringes", [*python, "scripts.builtin.fringes", *data], _printed("fringes")),
        Chapter("sheet", [*sheet, "--out", "docs/images/contact-sheet.png"]),
        Chapter("trained sheet", [*sheet, "--trained", "--out",
                               "docs/images/contact-sheet-trained.png"]),
    ]  # fmt: skip


def run(step: Chapter, runs: Path) -> None:
    """Run a step unless it is done; its output is kept and its pages written.

    Raises:
        SystemExit: the command failed.
    """
    done = runs / f"{step.name}.done"
    if done.is_file():
        print(f"{step.name}: done before", file=sys.stderr)
        return
    print(f"{step.name}: {shlex.join(step.command)}", file=sys.stderr, flush=True)
    with (runs / f"{step.name}.out").open("wb") as out:
        code = subprocess.run(step.command, stdout=out, cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(f"{step.name} ended with {code}\nfix: mend it and call again")
    step.after(runs)
    replace_text(done, "")


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the commands and do nothing")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "remake")
    args = parser.parse_args()
    preset = model_named(MODEL)
    folder = BUILT_IN / MODEL
    weights = sha256_of(folder / SUMS)[:12]
    runs = args.runs.absolute() / weights
    if args.list:
        for step in steps(preset, runs):
            print(f"{step.name}: {shlex.join(step.command)}")
        return
    (runs / "coded").mkdir(parents=True, exist_ok=True)
    for step in steps(preset, runs):
        run(step, runs)
    shipped = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    pages.replace(ROOT / CARD, f"{SELF}: sizes", facts(preset, shipped))


if __name__ == "__main__":
    main()
