"""Measured parts of pages: what stands between two comments, and is replaced as a whole.

Knows text and files; nothing of what was measured.
"""

from __future__ import annotations

from pathlib import Path

from scalekv.configs.whole_files import replace_text

END = "<!-- end of the measured part -->"


def begin(what: str) -> str:
    """The comment that a measured part begins with."""
    return f"<!-- measured by {what} -->"


def replaced(page: str, what: str, text: str) -> str:
    """The page with that part replaced.

    Raises:
        ValueError: no such part, or more than one.
    """
    before, mark, rest = page.partition(begin(what))
    _, end, after = rest.partition(END)
    if not (mark and end) or begin(what) in after:
        raise ValueError(f"the page has not one part {begin(what)!r} that ends in {END!r}")
    return f"{before}{mark}\n\n{text.strip()}\n\n{end}{after}"


def replace(path: Path, what: str, text: str) -> None:
    """The same in a file."""
    replace_text(path, replaced(path.read_text(encoding="utf-8"), what, text))
