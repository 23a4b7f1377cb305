"""One run of `compare`: the same seeds under every budget and policy, measured against the full
cache. Knows the order of the steps; likeness is measured and sheets are drawn elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import FULL, Choices, Options, choose
from scalekv.cli.compare.shown import show_variants
from scalekv.cli.console.errors import Interrupted
from scalekv.cli.console.interrupts import interruptible, told_how_it_ends
from scalekv.cli.console.progress import Display
from scalekv.cli.console.stdout import say, say_json, to_json
from scalekv.cli.generate.destination import refuse_file
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.names import slug
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.plan.room import check_room, target_of
from scalekv.configs.values import AUTO
from scalekv.kv.errors import UserError
from scalekv.kv.extras import needs

if TYPE_CHECKING:
    from scalekv.cli.pictures.sheet import PictureGroup
    from scalekv.infinity_patch import Picture, Pipeline, Progress
    from scalekv.infinity_patch.asked.settled import Settled
    from scalekv.infinity_patch.generation.forced import ForcedPicture
    from scalekv.infinity_patch.likeness import Likeness


@dataclass(frozen=True)
class Variant:
    """A policy with a budget; the first of a comparison is the full cache."""

    label: str
    choices: Choices


@dataclass(frozen=True)
class ComparisonRow:
    """One prompt and seed under every variant, and how alike the others are to the first; forced:
    every variant under the first one's bits, where that was asked for."""

    pictures: tuple[Picture, ...]
    scores: tuple[Likeness, ...]
    forced: tuple[ForcedPicture, ...] = ()


def variants(
    options: Options,
    policies: Sequence[str],
    budgets: Sequence[str],
    kv_dtypes: Sequence[str] = (),
) -> list[Variant]:
    """The full cache, then every policy under every budget with every dtype, each once.

    Args:
        options: all other options.
        policies, budgets, kv_dtypes: as typed, several in one with commas between; none: the one
            set.

    Raises:
        UserError: nothing is left to compare the full cache with, or as `choose` does.
    """
    reference = choose(options.changed(policy=FULL, kv_dtype=AUTO))
    refuse_file(reference.out, "compare")
    requests: dict[tuple[Any, ...], Choices] = {}
    several = product(*map(listed, (policies, budgets, kv_dtypes)))
    for policy, budget, kv_dtype in several:
        full = FULL in (policy, budget)
        if full and kv_dtype in (None, AUTO):
            continue
        if full:
            policy, budget = FULL, None
        c = choose(options.changed(policy=policy, budget=budget, kv_dtype=kv_dtype))
        # Prompts and seeds are drawn once, for all.
        asked = replace(
            reference.request,
            policy=c.request.policy,
            budget=c.request.budget,
            kv_dtype=c.request.kv_dtype,
        )
        key = (asked.policy, asked.budget, asked.kv_dtype)
        requests.setdefault(key, replace(c, request=asked))
    requests.pop((FULL, FULL, AUTO), None)
    if not requests:
        raise UserError(
            "the full cache would be compared with itself",
            where="--budget and --policy",
            rule="the full cache is always drawn; something else is needed beside it",
            fix="--budget 20%,10%",
        )
    others = [
        Variant(label, c) for label, c in zip(labels(requests), requests.values(), strict=True)
    ]
    return [Variant(FULL, reference), *others]


def labels(kinds: Iterable[tuple[Any, ...]]) -> list[str]:
    """What tells caches of (policy, budget, kv_dtype) apart, in words: the budget, and the others
    where they differ."""
    kinds = list(kinds)
    policies = {policy for policy, budget, _ in kinds if FULL not in (policy, budget)}
    dtypes = {dtype for _, _, dtype in kinds}
    found = []
    for policy, budget, dtype in kinds:
        words = [str(policy)] * (len(policies) > 1 and policy != budget) + [str(budget)]
        found.append(" ".join(words + [str(dtype)] * (len(dtypes) > 1 or FULL in (policy, budget))))
    return found


def listed(words: Sequence[str]) -> list[str | None]:
    """The words of options that may hold several, each once; [None] where there is none."""
    parts = [part.strip() for word in words for part in word.split(",")]
    return list(dict.fromkeys(part for part in parts if part)) or [None]


@dataclass
class Comparison:
    """What a comparison has so far.

    side: pixels of a picture on the sheet; across: prompts side by side; agreement: force the full
    cache's bits on every variant too; keep: keep all pictures; json: one object on stdout instead
    of paths.
    """

    variants: list[Variant]
    console: Console
    side: int = 256
    across: int = 1
    agreement: bool = False
    keep: bool = False
    json: bool = False
    rows: list[ComparisonRow] = field(default_factory=list)

    @property
    def choices(self) -> Choices:
        """Those of the reference: all but policy and budget are everybody's."""
        return self.variants[0].choices

    def execute(self) -> None:
        """Does it all. What was drawn for all variants when it ends early is kept.

        Raises:
            UserError: refused, before or during the run.
            Interrupted: by Ctrl-C.
        """
        folder = OutputFolder(self.choices.out)
        try:
            needs("torchmetrics", "the comparison")
            target = target_of(self.choices.device)
            place = self.choices.placement.for_known_prompts()
            settled = [
                engine.check(c.request, c.preset, c.weights_dir, c.dtype, target.device)
                for c in (variant.choices for variant in self.variants)
            ]
            if not self.choices.force:
                for one in settled:
                    place = check_room(
                        *(one, target, place, self.choices.weights_dir),
                        cache_is_given=True,
                        texts=one.request.texts,
                        device=self.choices.device,
                    )
            with interruptible(), Display(self.console, quiet=self.choices.quiet) as display:
                folder.prepare()
                display.note(self._headline())
                display.stage(f"loading {self.choices.preset.name}")
                c = self.choices
                pipeline = engine.load(
                    c.preset, c.device, c.dtype, c.weights_dir, place, c.request.texts
                )
                self._draw(pipeline, settled, folder, display)
        except KeyboardInterrupt:
            kept = len(self.rows) * len(self.variants) if self.keep else None
            raise Interrupted(kept, str(self.choices.out)) from None
        finally:
            folder.discard_if_empty()

    def _draw(
        self,
        pipeline: Pipeline,
        settled: Sequence[Settled],
        folder: OutputFolder,
        display: Display,
    ) -> None:
        def finish(outcome: str) -> None:
            display.clear()
            if self.rows:
                self._finish(pipeline, folder, outcome)

        with told_how_it_ends(finish):
            for row in self._rows(pipeline, settled, display):
                self.rows.append(row)
                if self.keep:
                    self._keep(row)

    def _rows(
        self, pipeline: Pipeline, settled: Sequence[Settled], display: Display
    ) -> Iterator[ComparisonRow]:
        """Every prompt and seed under all variants in turn: what is there is always comparable."""
        from scalekv.infinity_patch.likeness import likeness

        many = len(self.variants)
        wanted = self._rows_wanted
        with ExitStack() as stack:
            drawn = []
            for number, one in enumerate(settled):

                def show(progress: Progress, number: int = number) -> None:
                    place = progress.picture * many + number
                    display.scale_done(replace(progress, picture=place, pictures=wanted * many))

                pictures = engine.generate(pipeline, one, show, display.smaller_batch)
                stack.callback(engine.release, pictures)
                drawn.append(pictures)
            for number in range(wanted):
                pictures_of_row = tuple(next(pictures) for pictures in drawn)
                first, *others = (picture.image for picture in pictures_of_row)
                scores = tuple(likeness(picture, first) for picture in others)
                yield ComparisonRow(
                    pictures_of_row, scores, self._forced(pipeline, settled, pictures_of_row[0])
                )
                seconds = sum(picture.seconds for picture in pictures_of_row)
                display.picture_done(
                    number * many, wanted * many, seconds, pictures_of_row[0].prompt, many
                )

    def _forced(
        self, pipeline: Pipeline, settled: Sequence[Settled], first: Picture
    ) -> tuple[ForcedPicture, ...]:
        if not self.agreement:
            return ()
        full, *others = settled
        return tuple(engine.forced_on_all(pipeline, full, others, first.prompt, first.seed))

    def _keep(self, row: ComparisonRow) -> None:
        pairs = zip(self.variants, row.pictures, strict=True)
        for number, (variant, picture) in enumerate(pairs):
            folder = OutputFolder(self.choices.out / f"{number}-{slug(variant.label)}")
            folder.prepare()
            sidecar = {"settings": picture.settings, "seconds": round(picture.seconds, 3)}
            folder.save_picture(
                picture.image, picture.prompt, picture.seed, picture.settings, sidecar
            )

    def _finish(self, pipeline: Pipeline, folder: OutputFolder, outcome: str) -> None:
        facts: dict[str, Any] = {
            "version": version("scalekv"),
            "outcome": outcome,
            "model": self.choices.preset.name,
            "device": str(pipeline.device),
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "weights_dtype": pipeline.weights,
            "variants": [self._figures(number) for number in range(len(self.variants))],
            "pictures": [self._scores(row) for row in self.rows],
        }
        written: dict[str, Path | None] = {".png": None, ".json": None}
        try:
            written[".png"] = folder.save_numbered("compare", ".png", self._sheet(facts))
            report = to_json({"format": FORMAT, **facts}).encode()
            written[".json"] = folder.save_numbered("compare", ".json", report)
        finally:  # a disk that is full costs no figures, and what is there is named
            if not self.choices.quiet:
                show_variants(facts["variants"], len(self.rows), self.console)
            sheet, report_path = (None if path is None else str(path) for path in written.values())
            if self.json:
                say_json({"sheet": sheet, "report_path": report_path, **facts})
            else:
                say("".join(f"{path}\n" for path in (sheet, report_path) if path))

    def _figures(self, number: int) -> dict[str, Any]:
        """What a variant came to over all rows; PSNR over those that differ from the reference."""
        variant = self.variants[number]
        caches = [row.pictures[number].cache for row in self.rows]
        largest = max(caches, key=lambda cache: int(cache["held_peak_bytes"]))
        facts: dict[str, Any] = {
            "label": variant.label,
            "policy": variant.choices.request.policy,
            "budget": variant.choices.request.budget,
            "kv_dtype": largest["kv_dtype"],
            "seconds": {"median": round(median(r.pictures[number].seconds for r in self.rows), 3)},
            "held_peak_bytes": largest["held_peak_bytes"],
            "ratio_history": largest["ratio_history"],
            "ratio_all": largest["ratio_all"],
        }
        if self.agreement:
            from scalekv.infinity_patch.generation.forced import scale_means

            facts["bits"] = scale_means([row.forced[number] for row in self.rows])
        if number == 0:
            return facts
        scores = [row.scores[number - 1] for row in self.rows]
        differing = [score.psnr for score in scores if not score.identical]
        facts["identical"] = len(scores) - len(differing)
        if differing:
            facts["psnr_db"] = {
                "median": round(median(differing), 3),
                "min": round(min(differing), 3),
            }
        ssim = [score.ssim for score in scores]
        facts["ssim"] = {"mean": round(fmean(ssim), 5), "min": round(min(ssim), 5)}
        return facts

    def _scores(self, row: ComparisonRow) -> dict[str, Any]:
        first = row.pictures[0]
        scores = {
            variant.label: {
                "psnr_db": None if score.identical else round(score.psnr, 3),
                "ssim": round(score.ssim, 5),
            }
            for variant, score in zip(self.variants[1:], row.scores, strict=True)
        }
        seconds = {
            variant.label: round(picture.seconds, 3)
            for variant, picture in zip(self.variants, row.pictures, strict=True)
        }
        return {"prompt": first.prompt, "seed": first.seed, "scores": scores, "seconds": seconds}

    def _sheet(self, facts: dict[str, Any]) -> bytes:
        from scalekv.cli.pictures.sheet import contact_sheet, sheet_bytes
        from scalekv.cli.pictures.words import missing_fonts

        note = missing_fonts(row.pictures[0].prompt for row in self.rows)
        if note and not self.choices.quiet:
            self.console.print(note, markup=False, soft_wrap=True, style="dim")
        page = contact_sheet(
            [self._group(row) for row in self.rows],
            across=self.across,
            side=self.side,
            labels=[variant.label for variant in self.variants],
        )
        return sheet_bytes(page, to_json({"format": FORMAT, "variants": facts["variants"]}))

    def _group(self, row: ComparisonRow) -> PictureGroup:
        from scalekv.cli.pictures.sheet import PictureGroup

        first = row.pictures[0]
        remarks = ["equal" if s.identical else f"{s.psnr:.1f} dB" for s in row.scores]
        return PictureGroup(
            tuple(picture.image for picture in row.pictures),
            f"{first.prompt}, seed {first.seed}",
            ("", *remarks),
            (f"seed {first.seed}",),
        )

    def _headline(self) -> str:
        labels = ", ".join(variant.label for variant in self.variants)
        pictures = len(self.variants) * self._rows_wanted
        return (
            f"model {self.choices.preset.name} ({self.choices.model.origin}), {pictures} pictures: "
            f"{self._rows_wanted} with each of {labels}"
        )

    @property
    def _rows_wanted(self) -> int:
        request = self.choices.request
        return len(request.prompts) * request.num_images
