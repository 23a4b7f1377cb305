"""Plans beside what runs really take, one line a stage: `python -m scripts.bench.plan_accuracy`.

Every model runs in a process of its own, so that none finds memory another one has taken. On a
CUDA device the bytes are torch's allocated peak, elsewhere the process's resident one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scalekv.kv.sizes import human_bytes

PROMPT = "a red apple on a wooden table"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a Markdown table."""
    options = _parser().parse_args(arguments)
    if options.one:
        print(json.dumps(_measured(options, options.budgets[0], options.pictures[0])))
        return
    print("| pictures | budget | stage | planned | measured | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for pictures in options.pictures:
        for budget in options.budgets:
            for line in _lines(options, budget, pictures):
                print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pixels", help="0.06M; the model's own size unless given")
    parser.add_argument("--budgets", nargs="+", default=["full", "10%"])
    parser.add_argument("--pictures", nargs="+", type=int, default=[1])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def _lines(options: argparse.Namespace, budget: str, pictures: int) -> list[str]:
    command = [sys.executable, "-m", "scripts.bench.plan_accuracy", "--one"]
    for name in ("model", "device", "dtype"):
        command += [f"--{name}", getattr(options, name)]
    if options.weights_dir is not None:
        command += ["--weights-dir", str(options.weights_dir)]
    if options.pixels is not None:
        command += ["--pixels", options.pixels]
    command += ["--budgets", budget, "--pictures", str(pictures)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    lines = []
    for stage, (planned, measured) in json.loads(done.stdout).items():
        cells = [human_bytes(planned), human_bytes(measured), f"{planned / measured - 1:+.1%}"]
        lines.append(f"| {pictures} | {budget} | {stage} | {' | '.join(cells)} |")
    return lines


def _measured(options: argparse.Namespace, budget: str, pictures: int) -> dict[str, list[int]]:
    """Planned and measured bytes by stage."""
    from scalekv.infinity_patch import Request, generate, load
    from scalekv.infinity_patch.generation.pipeline import settled_on
    from scalekv.infinity_patch.loading.placement import Placement
    from scalekv.infinity_patch.planning.planner import Planner, text_spec_of

    placement = Placement(keep_text_encoder=False)
    pipeline = load(
        options.model,
        device=options.device,
        dtype=options.dtype,
        weights_dir=options.weights_dir,
        placement=placement,
    )
    request = Request(
        (PROMPT,),
        num_images=pictures,
        policy="full" if budget == "full" else "scalekv",
        budget=budget,
        pixels=options.pixels,
        batch_size=pictures,
        reproducible=False,
    )
    for _ in generate(pipeline, request):
        pass
    on_device = pipeline.device.type == "cuda"
    planner = Planner(
        settled_on(pipeline, request),
        placement,
        len(pipeline.text.counter.encode(PROMPT).ids),
        text_spec_of(pipeline.preset, options.weights_dir),
    )
    plan = planner.footprint()
    kind = "allocated_peak_bytes" if on_device else "resident_peak_bytes"
    runtime = 0 if on_device else plan.stages["load"]["runtime"]
    return {
        stage: [plan.totals[stage] + runtime, peaks[kind]]
        for stage, peaks in pipeline.stages.peaks().items()
    }


if __name__ == "__main__":
    main()
