"""One run of `calibrate`: check, load, measure, write everything at once, tell.

Knows the order of the steps and the names of the files; their content is made elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.calibrate.heat_maps import index_map, mass_maps
from scalekv.cli.choices import FULL, Choices
from scalekv.cli.console.errors import Interrupted
from scalekv.cli.console.interrupts import interruptible, interrupts_wait
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, say_json
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.plan.room import check_room, target_of
from scalekv.configs.budget_files import budget_text
from scalekv.configs.sparsity import BESIDE
from scalekv.kv.budgets.heat_order import write_order
from scalekv.kv.coded.constants import write_constants
from scalekv.kv.errors import UserError
from scalekv.kv.extras import needs

if TYPE_CHECKING:
    from scalekv.infinity_patch import Picture
    from scalekv.infinity_patch.calibration.measure import Calibration
    from scalekv.infinity_patch.calibration.plan import CalibrationRequest

SUFFIXES = (".yaml", ".yml")
ORDER, NUMBERS, INDEX_MAP, MASS_MAPS, CONSTANTS = (
    "-heat-order.json",
    BESIDE,
    "-index.png",
    "-s-cas.png",
    "-coded.safetensors",
)
"""What the names of the files beside a budget end in, after the budget's own."""


@dataclass
class CalibrationRun:
    """What a run needs.

    Args:
        out: the budget file.
        overwrite: replace what is there.
        plots: draw heat maps.
        json: one object on stdout instead of a path a line.
    """

    choices: Choices
    request: CalibrationRequest
    out: Path
    console: Console
    overwrite: bool = False
    plots: bool = True
    json: bool = False

    def execute(self) -> None:
        """Does it all. Files are written when everything is known: all of them, or none.

        Raises:
            UserError: refused, before or during the run.
            Interrupted: by Ctrl-C; nothing was written.
        """
        choices = self.choices
        folder = OutputFolder(self.out.parent)
        try:
            self._check_names()
            if self.plots:
                needs("matplotlib", "heat maps", "--no-plots to go without")
            target = target_of(choices.device)
            settled = engine.check_calibration(
                self.request,
                choices.preset,
                choices.weights_dir,
                choices.dtype,
                target.device,
                choices.placement.offload,
            )
            placement = choices.placement
            if not choices.force:
                full = settled.under(FULL)
                if self.request.coded:
                    target = target.beside(*engine.measuring_bytes(full, self.request.gradients))
                placement = check_room(
                    full,
                    target,
                    placement,
                    choices.weights_dir,
                    cache_is_given=True,
                )
            with interruptible(), Display(self.console, quiet=choices.quiet) as display:
                folder.prepare()
                count = len(choices.request.prompts)
                display.note(
                    f"model {choices.preset.name} ({choices.model.origin}), {count} prompts, "
                    f"full cache, seed {choices.request.seed}"
                )
                display.stage(f"loading {choices.preset.name}")
                pipeline = engine.load(
                    choices.preset,
                    choices.device,
                    choices.dtype,
                    choices.weights_dir,
                    placement,
                )

                drawings = range(count + self.request.pictures_coded)
                drawn = iter(drawings)

                def done(picture: Picture) -> None:
                    display.picture_done(
                        next(drawn), len(drawings), picture.seconds, picture.prompt
                    )

                calibration = engine.calibrate(pipeline, self.request, display.scale_done, done)
                display.stage("writing")
                files = files_of(calibration, self.out, plots=self.plots)
                with interrupts_wait():
                    folder.save_together(files, replace=self.overwrite)
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:
            folder.discard_if_empty()
        self._tell(calibration, [folder.path / name for name in files])

    def _check_names(self) -> None:
        if self.out.suffix not in SUFFIXES:
            raise UserError(
                f"{self.out} is no name of a budget file",
                where="--out",
                rule="a budget file is told by its suffix, .yaml",
                fix=f"--out {self.out.with_suffix('.yaml') if self.out.name else 'budget.yaml'}",
            )
        names = [self.out.name, self.out.stem + ORDER, self.out.stem + NUMBERS]
        names += [self.out.stem + INDEX_MAP, self.out.stem + MASS_MAPS] if self.plots else []
        names += [self.out.stem + CONSTANTS] if self.request.coded else []
        for path in (self.out.parent / name for name in names):
            if path.is_dir():
                raise UserError(f"{path} is a folder", where="--out", fix="choose another name")
            if path.exists() and not self.overwrite:
                raise UserError(
                    f"{path} is there already",
                    where="--out",
                    rule="nothing is overwritten",
                    fix="--overwrite to replace it, or another name with --out",
                )

    def _tell(self, calibration: Calibration, paths: list[Path]) -> None:
        summary = calibration.summary()
        if not self.choices.quiet:
            for line in lines_of(summary):
                self.console.print(line, markup=False, soft_wrap=True)
        ordered = [path for path in paths if path.name == self.out.name]
        ordered += [path for path in paths if path.name != self.out.name]
        if self.json:
            say_json({"paths": [str(path) for path in ordered], **summary})
        else:
            say("".join(f"{path}\n" for path in ordered))


def files_of(calibration: Calibration, out: Path, *, plots: bool) -> dict[str, bytes]:
    """The content of every file by its name, the budget last."""
    numbers = calibration.to_dict()
    files = {
        out.stem + ORDER: write_order(calibration.order()).encode(),
        out.stem + NUMBERS: json.dumps({"format": FORMAT, **numbers}).encode() + b"\n",
    }
    if plots:
        files[out.stem + INDEX_MAP] = index_map(numbers)
        files[out.stem + MASS_MAPS] = mass_maps(numbers)
    if calibration.constants is not None:
        files[out.stem + CONSTANTS] = write_constants(calibration.constants)
    files[out.name] = budget_text(
        calibration.spec(out.stem), "Drafters found by scalekv calibrate."
    ).encode()
    return files


def lines_of(summary: dict[str, Any]) -> list[str]:
    """What was found, for people."""
    drafters = "; ".join(
        f"scale {scale}: {', '.join(map(str, layers)) or 'none'}"
        for scale, layers in summary["drafters"].items()
    )
    sparsity, bits = summary["sparsity"], summary["entropy"]
    share = sparsity["earlier"]
    lines = [f"drafters (layers from 0)  {drafters}"]
    if summary["halves_agree"] is not None:
        agree = summary["halves_agree"]
        lines.append(f"the two halves of the prompts agree with each other on {agree:.0%}")
    lines += [
        f"{sparsity['carried']:.0%} of the attention on earlier scales is carried by {share:.1%} "
        "of all (layer, head, source scale)",
        "entropy of a query's attention by scale, bits  "
        + " ".join(f"{value:.1f}" for value in bits["bits_by_scale"]),
        "  at most  " + " ".join(f"{value:.1f}" for value in bits["most_by_scale"]),
    ]
    return lines
