"""A report that is kept up to date while pictures come. Knows when; nothing of what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from scalekv.cli.pictures.folder import OutputFolder

ALWAYS = 100
"""Pictures up to which a report is written with every one."""
SHARE = 20
"""Beyond them it is written as often as takes one part of so many of a run's time."""


class Running:
    """Writes a run's report again and again, so that one that is killed leaves what it had."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._next = 0.0

    def update(self, pictures: int, figures: Callable[[], Mapping[str, Any]]) -> None:
        """Writes what `figures` gives, where it is due.

        Raises:
            CannotWrite: the folder cannot be written to.
        """
        start = time.monotonic()
        if pictures > ALWAYS and start < self._next:
            return
        self._folder.save_report(figures())
        end = time.monotonic()
        self._next = end + SHARE * (end - start)
