"""One run of `bench`: full and compressed in turns, and the results.

Knows the order of the steps and what is measured; pictures are made elsewhere.
"""

from __future__ import annotations

import json as json_module
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import FULL, Choices, Options, choose
from scalekv.cli.compare.run import labels, listed
from scalekv.cli.console.errors import Interrupted, kind_of
from scalekv.cli.console.interrupts import interruptible
from scalekv.cli.console.layout import Column, Paragraph, ResultTable, print_parts
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, show
from scalekv.cli.plan.room import Target, check_room, fits, target_of
from scalekv.cli.report.figures import peak_of
from scalekv.configs.values import AUTO
from scalekv.infinity_patch.schedules import size_of
from scalekv.kv.errors import BudgetTooSmall, UserError
from scalekv.kv.sizes import human_bytes

if TYPE_CHECKING:
    from scalekv.infinity_patch import Pipeline, Progress
    from scalekv.infinity_patch.asked.settled import Settled

BUSY_PROCESSORS = 0.5
"""Load average (1 minute) per usable core, from which on other work disturbs the figures."""
BUSY_GPU = 0.1
"""Share of time the GPU computes before anything is loaded, likewise."""


class Busy(UserError):
    """Other work would disturb what is measured."""

    kind = "busy"


class _DoesNotFit(Exception):
    """Memory ran out with this many pictures at once."""


@dataclass
class Side:
    """What one side of a comparison came to at one batch size; `fits` False: memory ran out, or is
    planned to."""

    label: str
    settled: Settled
    seconds: list[float] = field(default_factory=list)
    held_bytes: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    fits: bool = True

    def facts(self) -> dict[str, Any]:
        """Figures as JSON values; of time only where it fits."""
        facts: dict[str, Any] = {"label": self.label, "fits": self.fits}
        if self.fits and self.seconds:
            middle = median(self.seconds)
            facts |= {
                "seconds": {
                    "median": round(middle, 6),
                    "min": round(min(self.seconds), 6),
                    "max": round(max(self.seconds), 6),
                },
                "pictures_per_second": round(self.settled.request.num_images / middle, 6),
                "cache_held_peak_bytes": self.held_bytes,
                **self.peaks,
            }
        return facts


@dataclass
class Benchmark:
    """What a benchmark has so far.

    full, compressed, others: the sides, their requests for a single picture; sizes: batch sizes.
    """

    full: Choices
    compressed: Choices
    console: Console
    others: tuple[Choices, ...] = ()
    sizes: tuple[int, ...] = (1,)
    rounds: int = 5
    warmup: int = 1
    fail_on_busy: bool = False
    json: bool = False

    @classmethod
    def of(
        cls,
        options: Options,
        console: Console,
        *,
        budgets: Sequence[str] = (),
        kv_dtypes: Sequence[str] = (),
        **how: Any,
    ) -> Self:
        """Settles all sides; those are all of `options`, one of them with the full cache.

        Args:
            budgets, kv_dtypes: as typed, several in one with commas between; none: the one set.

        Raises:
            UserError: as `choose` does, several seeds, or a side that is the full cache again.
        """
        seed = choose(options).seeds.one("bench")
        options = options.changed(seed=seed)
        compressed = {
            (c.request.budget, c.request.kv_dtype): c
            for c in (
                choose(options.changed(budget=budget, kv_dtype=kv_dtype))
                for budget, kv_dtype in product(listed(budgets), listed(kv_dtypes))
            )
        }
        if any(c.request.policy == FULL for c in compressed.values()):
            raise UserError(
                "the full cache would be measured against itself",
                where="--policy and --budget",
                rule="one side is always the full cache, the other a compressed one",
                fix="--budget 10%",
            )
        full = choose(options.changed(policy=FULL, budget=None, kv_dtype=AUTO))
        first, *others = compressed.values()
        return cls(full, first, console, tuple(others), **how)

    def execute(self) -> None:
        """Does it all.

        Raises:
            UserError: refused; `Busy` where other work disturbs and that is to be refused.
            Interrupted: by Ctrl-C.
        """
        quiet = self.compressed.quiet
        disturbing = busy(self.compressed.device)
        if disturbing and self.fail_on_busy:
            raise Busy(
                f"this machine is busy: {'; '.join(disturbing)}",
                where="--fail-on-busy",
                rule=f"a load below {BUSY_PROCESSORS:g} a core, a GPU below {BUSY_GPU:.0%}",
                fix="wait until other work is done, or stop it",
            )
        try:
            measured = self._planned(target_of(self.compressed.device))
            with interruptible(), Display(self.console, quiet=quiet) as display:
                for text in disturbing:
                    display.note(f"other work disturbs the figures: {text}")
                c = self.compressed
                display.stage(f"loading {c.preset.name}")
                pipeline = engine.load(c.preset, c.device, c.dtype, c.weights_dir, c.placement)
                for size, sides in measured.items():
                    for side in sides:
                        if not side.fits:
                            display.note(
                                f"{size} at once  {side.label}: planned not to fit, not tried"
                            )
                    self._measure(pipeline, sides, size, display)
                display.clear()
        except KeyboardInterrupt:
            raise Interrupted from None
        facts = self._facts(pipeline, measured, disturbing)
        if self.json:
            say(json_module.dumps(facts) + "\n")
            if not quiet:
                print_parts(self.console, *self._table(facts))
        else:
            show(*self._table(facts))

    def _planned(self, target: Target) -> dict[int, list[Side]]:
        """All sides at every batch size, the full cache first, and whether they are planned to fit.

        Raises:
            UserError: something in the request is wrong, or nothing of it fits.
        """
        c = self.compressed
        full, *compressed = (
            engine.check(one.request, one.preset, one.weights_dir, one.dtype, target.device)
            for one in (self.full, c, *self.others)
        )
        kinds = [(c.policy_name, c.request.budget, c.request.kv_dtype) for c in compressed]
        named = list(zip((FULL, *labels(kinds)), (full, *compressed), strict=True))

        def side(label: str, settled: Settled, size: int) -> Side:
            try:
                many = _at_once(settled, size)
            except BudgetTooSmall:  # bytes, which so many pictures share
                return Side(label, settled, fits=False)
            return Side(label, many, fits=c.force or fits(many, target, c.placement, c.weights_dir))

        planned = {size: [side(*one, size) for one in named] for size in self.sizes}
        if not any(one.fits for sides in planned.values() for one in sides):
            least = _at_once(compressed[0], min(self.sizes))
            lighter = check_room(least, target, c.placement, c.weights_dir)
            self.compressed = replace(c, placement=lighter)
            return self._planned(target)
        return planned

    def _measure(
        self, pipeline: Pipeline, sides: Sequence[Side], size: int, display: Display
    ) -> None:
        """All sides in turns, every other round in the opposite order."""
        for number in range(-self.warmup, self.rounds):
            which = f"round {number + 1}/{self.rounds}" if number >= 0 else "warm-up"
            for side in sides if number % 2 == 0 else reversed(sides):
                if side.fits:
                    display.stage(f"{size} at once  {which}  {side.label}")
                    self._once(pipeline, side, counts=number >= 0)

    def _once(self, pipeline: Pipeline, side: Side, *, counts: bool) -> None:
        def too_many(size: int) -> None:
            raise _DoesNotFit

        def nothing(_: Progress) -> None: ...

        engine.forget_peaks(pipeline)
        start = time.perf_counter()
        pictures = engine.generate(pipeline, side.settled, nothing, too_many)
        try:
            held = [int(picture.cache["held_peak_bytes"]) for picture in pictures]
        except Exception as error:
            if not isinstance(error, _DoesNotFit) and kind_of(error) != "out-of-memory":
                raise
            side.fits = False
            return
        finally:
            engine.release(pictures)
        if counts:
            side.seconds.append(time.perf_counter() - start)
            side.held_bytes = max(side.held_bytes, *held)
            for name, peak in engine.highest_peaks(pipeline).items():
                side.peaks[name] = max(side.peaks.get(name, 0), peak)

    def _facts(
        self,
        pipeline: Pipeline,
        measured: Mapping[int, Sequence[Side]],
        disturbing: list[str],
    ) -> dict[str, Any]:
        request = self.compressed.request
        return {
            "scalekv": version("scalekv"),
            "torch": version("torch"),
            "model": self.compressed.preset.name,
            "policy": request.policy,
            "budget": self._joined("budget"),
            "kv_dtype": self._joined("kv_dtype"),
            "ratio": request.ratio,
            "pixels": request.pixels or self.compressed.preset.pixels,
            "device": str(pipeline.device),
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "weights_dtype": pipeline.weights,
            "machine": engine.machine(pipeline),
            "disturbed_by": disturbing,
            "rounds": self.rounds,
            "warmup": self.warmup,
            "batches": [
                {
                    "size": size,
                    "budget": compressed.settled.request.budget,
                    "kv_dtype": compressed.settled.request.kv_dtype,
                    "full": full.facts(),
                    "compressed": compressed.facts(),
                    **_speedup(full, compressed),
                }
                for size, (full, *others) in measured.items()
                for compressed in others
            ],
        }

    def _joined(self, name: str) -> str:
        """What the compressed sides were asked for, each once."""
        sides = (self.compressed, *self.others)
        return ",".join(dict.fromkeys(str(getattr(c.request, name)) for c in sides))

    def _table(self, facts: dict[str, Any]) -> tuple[Paragraph, ResultTable]:
        """What was measured, on what."""
        machine = facts["machine"]
        width, height = size_of(self.compressed.preset, facts["ratio"], facts["pixels"])
        what = machine.get("device_name") or f"{machine['processor']}, {machine['cores']} cores"
        title = (
            f"{facts['model']} on {what}, {facts['dtype']}; {width}x{height} pixels; "
            f"{facts['policy']} {facts['budget']}; medians of {facts['rounds']} rounds"
        )
        columns = (
            Column("at once"),
            Column("cache", right=False),
            Column("s a picture"),
            Column("pictures/s", rank=3),
            Column("speed"),
            Column("held", rank=1),
            Column("peak", rank=2),
        )
        rows = []
        told: set[int] = set()
        for row in facts["batches"]:
            speed = f"{row['speedup']['of_medians']:.2f}x" if "speedup" in row else ""
            for name, size, times in (("full", str(row["size"]), ""), ("compressed", "", speed)):
                if name == "full" and row["size"] in told:
                    continue
                told.add(row["size"])
                rows.append([size, *_cells(row[name], row["size"], times)])
        return Paragraph(title), ResultTable(columns, rows)


def _at_once(settled: Settled, size: int) -> Settled:
    """The same with `size` pictures in one batch."""
    return settled.of(
        replace(settled.request, num_images=size, batch_size=size, reproducible=size == 1)
    )


def _cells(side: dict[str, Any], size: int, speed: str) -> list[str]:
    if "seconds" not in side:
        return [side["label"], "does not fit", "", "", "", ""]
    peak = peak_of(side)
    return [
        side["label"],
        f"{side['seconds']['median'] / size:.3f}",
        f"{side['pictures_per_second']:.2f}",
        speed,
        human_bytes(side["cache_held_peak_bytes"]),
        human_bytes(peak),
    ]


def _speedup(full: Side, compressed: Side) -> dict[str, Any]:
    """How many times as fast the compressed side is: of the medians, and of the single rounds."""
    if not (full.fits and compressed.fits):
        return {}
    rounds = [a / b for a, b in zip(full.seconds, compressed.seconds, strict=True)]
    return {
        "speedup": {
            "of_medians": round(median(full.seconds) / median(compressed.seconds), 4),
            "least": round(min(rounds), 4),
            "most": round(max(rounds), 4),
        }
    }


def sizes(text: str) -> tuple[int, ...]:
    """Batch sizes from "1,2,4", each once.

    Raises:
        UserError: something in it is no whole number of at least 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UserError(
            f"cannot read the batch sizes {text!r}",
            where="--batch-size",
            rule="whole numbers of at least 1, with commas between",
            fix="--batch-size 1,2,4,8",
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def busy(device: str) -> list[str]:
    """What else this machine is doing, as far as it disturbs a measurement; [] if nothing."""
    from scalekv.infinity_patch.machine.gpus import gpu_of
    from scalekv.infinity_patch.machine.machine import usable_cores

    found = []
    load = os.getloadavg()[0] / usable_cores()
    if load >= BUSY_PROCESSORS:
        found.append(f"a load of {load:.2f} a core in the last minute")
    gpu = gpu_of(device) if device.startswith(("cuda", "auto")) else None
    if gpu is not None and gpu.busy >= BUSY_GPU:
        found.append(f"the GPU is {gpu.busy:.0%} busy")
    return found
