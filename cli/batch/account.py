"""What a batch made and what failed, told on the terminal, as JSON and in the report.

Knows figures and files of a run; nothing of how pictures are made.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from scalekv.cli.batch.drawing import PictureSource
from scalekv.cli.batch.jobs import Job, as_row
from scalekv.cli.batch.manifest import STEM, Manifest
from scalekv.cli.batch.rows import shown
from scalekv.cli.batch.tally import Tally, human_rate, human_time
from scalekv.cli.choices import Choices
from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.console.stdout import say_json
from scalekv.cli.generate.run import show_report, with_names, write_report
from scalekv.cli.pictures.folder import CannotWrite, OutputFolder
from scalekv.cli.report.kinds import Kinds

MOST_LISTED = 20  # failures on the terminal; the report has all


@dataclass
class Account:
    """What a run has so far.

    Attributes:
        source: the file that its pictures came from, for people.
        json: one object on stdout at the end instead of a path for every picture.
        pictures: made by this run, as the report lists them; failures: with the reason.
        kinds: of caches, by policy and budget; settings: what all pictures have in common.
        stopped: why no more could be drawn or written, if so.
        load_seconds: that loading took; started: when, by `time.perf_counter`; clock: as a date.
    """

    choices: Choices
    source: str
    console: Console
    tally: Tally
    json: bool = False
    pictures: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[Job, str]] = field(default_factory=list)
    kinds: Kinds = field(default_factory=Kinds)
    settings: dict[str, Any] = field(default_factory=dict)
    stopped: Unsuccessful | None = None
    load_seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    clock: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def report(
        self, source: PictureSource | None, folder: OutputFolder, manifest: Manifest, outcome: str
    ) -> None:
        """Writes and tells what became of it; a full disk costs the report alone."""
        choices = self.choices
        report = None
        written: list[Path] = []
        retry = None
        if source is not None and (self.tally.made or self.failures):
            report = self.figures(source, manifest, outcome)
            try:
                retry = self._save_retry(folder, manifest)
                written = write_report(report, folder, choices)
            except CannotWrite as error:  # costs the report alone
                self.stopped = self.stopped or error
                self.console.print(f"no report: {error}", markup=False, soft_wrap=True)
            if not choices.quiet:
                show_report(report, written, choices, self.console)
        self._tell(retry)
        if self.json:
            say_json(
                {
                    "outcome": outcome,
                    "paths": [picture["file"] for picture in self.pictures],
                    "there_before": self.tally.before,
                    "failed": self._failed(),
                    "manifest_path": str(manifest.path),
                    "report_path": str(written[0]) if written else None,
                    "retry_path": str(retry) if retry else None,
                    "report": report,
                }
            )

    def figures(self, source: PictureSource, manifest: Manifest, outcome: str) -> dict[str, Any]:
        """The report of what there is so far."""
        tally = self.tally
        return {
            **source.measured(self.choices, self.kinds),
            "outcome": outcome,
            "started": self.clock,
            "settings": self.settings,
            "source": self.source,
            "manifest": manifest.path.name,
            "pictures_wanted": tally.wanted,
            "pictures_there_before": tally.before,
            "pictures_a_second": round(tally.per_second, 4),
            "failed": self._failed(),
            "pictures": [with_names(picture) for picture in self.pictures],
            "seconds": {
                "load": round(self.load_seconds, 3),
                "all": round(time.perf_counter() - self.started, 3),
            },
        }

    def _failed(self) -> list[dict[str, Any]]:
        return [{**as_row(job), "line": job.line, "error": reason} for job, reason in self.failures]

    def _tell(self, retry: Path | None) -> None:
        tally = self.tally
        lines = []
        if not self.choices.quiet:
            rate = human_rate(tally.per_second) if tally.made else ""
            took = human_time(time.perf_counter() - self.started)
            summary = f"{tally.done} of {tally.wanted} pictures in {self.choices.out}"
            lines = [f"{summary}, {tally.made} made in {took}" + (f" at {rate}" if rate else "")]
            if tally.done < tally.wanted:
                lines.append("the same command with --resume makes the rest")
        for job, error in self.failures[:MOST_LISTED]:
            lines.append(f"failed: {job.place}, seed {job.seed}, {shown(job.prompt)}: {error}")
        if len(self.failures) > MOST_LISTED:
            lines.append(f"failed: {len(self.failures) - MOST_LISTED} more, see the report")
        if retry is not None:
            lines.append(f"retry file: {retry}")
        for line in lines:
            self.console.print(line, markup=False, soft_wrap=True, style="dim")

    def _save_retry(self, folder: OutputFolder, manifest: Manifest) -> Path | None:
        """The failed pictures as a file of prompts."""
        if not self.failures:
            return None
        rows = [json.dumps(as_row(job), ensure_ascii=False) + "\n" for job, _ in self.failures]
        stem = manifest.path.stem.replace(STEM, "retry", 1)
        return folder.save_numbered(stem, ".jsonl", "".join(rows).encode())

    def check(self) -> None:
        """Ends well or not.

        Raises:
            Unsuccessful: a picture failed, or no more could be drawn or written.
        """
        wanted = self.tally.wanted
        if self.stopped is not None:
            raise Unsuccessful(
                f"{self.stopped}; {self.tally.done} of {wanted} pictures are there, "
                "the same command with --resume makes the rest",
                "failed",
            )
        if self.failures:
            failed = len(self.failures)
            raise Unsuccessful(f"{failed} of {wanted} pictures failed", "pictures-failed")
