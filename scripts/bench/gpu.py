"""What a GPU makes of this checkout, in one command and under five minutes:

    python scripts/bench/gpu.py --out gpu.json

Recorded runs of the official code, the tests that need a device, every kernel against its plain
formula; then the scales of a picture of 2B and 8B with random weights, the full cache against
ScaleKV and the coded cache, alone and in batches, computed and replayed, with peaks beside the
plan, kernels, the time the device was busy, and the bound by structure; the coded cache also by
torch's own operations instead of its kernels, once where two minutes are left. Nothing has to be
installed but torch: what is missing is named and what needs it left out. Progress goes to stderr,
the table comes last, everything is in the JSON.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "configs", "infinity_patch", "kv")
NEEDED = {"the table": ("yaml",), "tests": ("pytest", "hypothesis", "safetensors", "numpy")}
TESTS = (
    "tests/kv/kernels",
    "tests/kv/caches",
    "tests/infinity_patch/compute",
    "tests/infinity_patch/generation/test_graphs.py",
    "tests/infinity_patch/generation/test_patch.py",
    "tests/infinity_patch/planning/test_footprint.py",
)
KERNELS = ("tests/kv/kernels", "tests/infinity_patch/compute/kernels")


def importable() -> None:
    """Makes `scalekv` importable, here and in programs started from here, where it is not
    installed."""
    paths = [str(ROOT)]
    if importlib.util.find_spec("scalekv") is None:
        tree = Path(tempfile.mkdtemp(prefix="scalekv-"))
        (tree / "scalekv").mkdir()
        for package in PACKAGES:
            (tree / "scalekv" / package).symlink_to(ROOT / package)
        paths.append(str(tree))
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])


def sides(budget: str) -> tuple[str, str]:
    """What is compared: the full cache, and ScaleKV's with a budget."""
    return "full", f"scalekv:{budget}"


def measured(budget: str, batch: int) -> tuple[str, ...]:
    """The rows of a batch: these, and the coded cache with the same bytes."""
    from scripts.bench.gpu_rows import BY_TORCH

    coded = f"coded:{budget}"
    return (*sides(budget), coded, *((coded + BY_TORCH,) if batch == 1 else ()))


def missing(names: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def said(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


class GpuRun:
    """The parts in turn, within a time; what is left out says why.

    Attributes:
        found: what each part found.
    """

    def __init__(self, device: str, limit: float) -> None:
        self.device, self.limit = device, limit
        self.start = time.perf_counter()
        self.found: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.limit - (time.perf_counter() - self.start)

    def part(self, name: str, least: float, work: Callable[[], Any]) -> None:
        """Does one part if at least so many seconds are left; a failure is noted, not passed on."""
        if self.left < least:
            self.found[name] = {"skipped": f"{self.left:.0f} s were left"}
        else:
            try:
                self.found[name] = work()
            except Exception as error:
                self.found[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        said(f"{name}: {json.dumps(self.found[name])}")

    def program(self, *arguments: str) -> dict[str, Any]:
        """A Python program to its end, or to the end of the time."""
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=max(self.left, 1),
            )
        except subprocess.TimeoutExpired:
            return {"failed": "ran out of time"}
        lines = (done.stdout + done.stderr).strip().splitlines()
        return {"exit": done.returncode, "lines": lines[-12:]}


def pytest_arguments(*arguments: str) -> tuple[str, ...]:
    """Of a run that is brief and writes nothing."""
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def rows_of(name: str, options: argparse.Namespace, run: GpuRun) -> Any:
    """All rows of a model; a batch for which memory is too small is the last."""
    import torch

    from scalekv.configs.models import model_named
    from scripts.bench.gpu_rows import BY_TORCH, coding_as, replayed, row
    from scripts.bench.transformer import filled

    preset = model_named(name)
    device = torch.device(options.device)
    model = filled(preset, preset.transformer.depth, torch.bfloat16, device)
    rows: list[dict[str, Any]] = []
    for batch in options.batches:
        for side in measured(options.budget, batch):
            by_torch = side.endswith(BY_TORCH)
            if run.left < (120 if by_torch else 20):
                continue
            try:
                with coding_as(side):
                    rows.append(row(model, preset, side, options.pixels, batch, options.device))
                if device.type == "cuda" and not by_torch:  # that brings tables from the host
                    rows[-1] |= replayed(model, preset, side, options.pixels, batch, options.device)
            except torch.OutOfMemoryError:
                rows.append({"side": side, "batch": batch, "failed": "out of memory"})
            said(json.dumps(rows[-1]))
    return rows


def bounds_of(name: str, options: argparse.Namespace) -> Any:
    """The bound by structure of each side."""
    import torch

    from scalekv.configs.models import model_named
    from scalekv.infinity_patch.asked.budgets import read_budget
    from scalekv.infinity_patch.schedules import schedule_for
    from scripts.bench.bound import Bound, measure_bound

    preset, schedule, found = model_named(name), schedule_for("1:1", options.pixels), {}
    device = torch.device(options.device)
    for side in sides(options.budget):
        policy, _, text = side.partition(":")
        read = read_budget(text or policy, preset.transformer.depth, preset.name)
        budget = None if policy == "full" else read.on(schedule)
        bound = Bound(preset, schedule, budget, 1, torch.bfloat16, device)
        found[side] = measure_bound(bound)
        del bound
        gc.collect()
    return found


def short_table(found: dict[str, Any], models: Sequence[str]) -> str:
    """What a person wants to see: one line a row."""
    from scripts.bench.sides import table

    columns = [
        "model",
        "side",
        "batch",
        "seconds",
        "replayed",
        "x full",
        "bound",
        "busy",
        "kernels",
        "peak GB",
        "plan GB",
    ]
    lines = []
    for name in models:
        rows, bounds = found.get(name), found.get(f"bound of {name}", {})
        rows = rows if isinstance(rows, list) else []
        full = {one["batch"]: one.get("replayed") for one in rows if one["side"] == "full"}
        for one in rows:
            bound = bounds.get(one["side"], {}) if one["batch"] == 1 else {}
            cells = [name, one["side"], str(one["batch"]), _cell(one, "seconds", "{:.3f}")]
            cells += [
                _cell(one, "replayed", "{:.3f}") + ("" if one.get("same", True) else ", other")
            ]
            whole = full.get(one["batch"])
            cells += [_cell(one, "replayed", "{:.2f}", whole) if whole else "-"]
            least = min(bound.values(), default=None)
            cells += ["-" if least is None else f"{least:.3f}", _cell(one, "busy", "{:.3f}")]
            cells += [_cell(one, "kernels", "{}")]
            cells += [_cell(one, key, "{:.2f}", 1e9) for key in ("peak", "planned")]
            lines.append(cells)
    return table(columns, lines)


def _cell(one: dict[str, Any], key: str, text: str, by: float = 1) -> str:
    if key not in one:
        return "-"
    return text.format(one[key] / by if by != 1 else one[key])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["infinity-2b", "infinity-8b"])
    parser.add_argument("--pixels", default="1M")
    parser.add_argument("--budget", default="paper-10", help="of the compressed side")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=290, help="for everything")
    parser.add_argument("--no-tests", action="store_true", help="the table alone")
    parser.add_argument("--out", type=Path, help="the JSON; stdout where left out")
    return parser.parse_args()


def main() -> int:
    """Exit status: 1 where a part failed, 2 where nothing could be done."""
    args = arguments()
    importable()
    if absent := missing(("torch", *NEEDED["the table"])):
        print(f"not installed: {', '.join(absent)}", file=sys.stderr)
        return 2
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no CUDA device", file=sys.stderr)
        return 2
    run = GpuRun(args.device, args.seconds)
    name = torch.cuda.get_device_name(args.device) if args.device != "cpu" else "cpu"
    run.found |= {"device": name, "torch": torch.__version__, "date": date.today().isoformat()}
    absent = missing(NEEDED["tests"])
    if absent:
        run.found["tests"] = {"skipped": f"not installed: {', '.join(absent)}"}
        said(f"tests: {run.found['tests']['skipped']}")
    elif not args.no_tests:
        golden = ("-m", "tests.golden", "--device", args.device)
        run.part("golden", 30, lambda: run.program(*golden))
        marked = pytest_arguments("-m", "gpu", *TESTS)
        run.part("gpu tests", 30, lambda: run.program(*marked))
        run.part("kernels", 30, lambda: run.program(*pytest_arguments(*KERNELS)))
    for model in args.models:
        run.part(f"bound of {model}", 20, partial(bounds_of, model, args))
        run.part(model, 20, partial(rows_of, model, args, run))
    text = json.dumps(run.found, indent=2)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text + "\n", encoding="utf-8")
    print("\n" + short_table(run.found, args.models), file=sys.stderr)
    parts = [part for part in run.found.values() if isinstance(part, dict)]
    return int(any("failed" in part or part.get("exit", 0) != 0 for part in parts))


if __name__ == "__main__":
    sys.exit(main())
