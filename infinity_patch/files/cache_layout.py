"""Files in the layout of the hub's cache: contents under their hash, names that point to them.

Knows links and names; nothing of models or of the network.
"""

from __future__ import annotations

import os
from pathlib import Path

from scalekv.configs.whole_files import replace_text

PARTIALS = "scalekv-incomplete"
"""Folder beside a repository's contents for what has not arrived whole."""


def partial_file(repo: Path, name: str, digest: str) -> Path:
    """Where a file of a repository's folder arrives; one of another version has another name."""
    return repo / PARTIALS / f"{name.replace('/', '--')}.{digest[:16]}"


def point_to(blob: Path, pointer: Path) -> None:
    """Names a content; where links cannot be made the content itself moves to the name."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        os.replace(blob, pointer)


def name_in_cache(repo: Path, revision: str, commit: str) -> None:
    """Makes a commit what a branch or tag means, now that all files of it are there."""
    ref = repo / "refs" / revision
    if revision == commit or (ref.is_file() and ref.read_text().strip() == commit):
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    replace_text(ref, commit)
