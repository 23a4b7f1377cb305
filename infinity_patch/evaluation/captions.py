"""Captions to evaluate with: COCO 2017's from the hub, or those of a file.

Knows COCO's form and the hub's data set; nothing of pictures. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from scalekv.infinity_patch.files.datasets import dataset_files
from scalekv.infinity_patch.files.transfer import DownloadRefused
from scalekv.kv.errors import UserError
from scalekv.kv.extras import needs

COCO_REPO = "phiyodr/coco2017"
"""A data set on the hub: a row a picture of COCO 2017, with its captions; no pictures."""
COCO_FILES = "data/validation-*.parquet"
COLUMN = "captions"
INSTEAD = "--captions FILE (captions_val2017.json, or a line each), or call again online"


@dataclass(frozen=True)
class Captions:
    """Captions in a fixed order; number n is drawn with the n-th seed.

    source: where they are from, without folders of this machine.
    """

    texts: tuple[str, ...]
    source: str

    @property
    def sha256(self) -> str:
        """Of all of them, a line each: what tells one list from another."""
        return sha256("\n".join(self.texts).encode()).hexdigest()


def read_captions(path: Path) -> Captions:
    """The captions of a file: a line each, or a COCO annotations file (.json).

    Of a COCO file the first caption of each picture is taken, in the order of its list of pictures,
    or of picture ids where it has none.

    Raises:
        UserError: no such file, not text, not COCO's form, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the captions: {error}",
            where=str(path),
            rule="a text file with one caption a line, or COCO's captions as .json",
        ) from error
    if path.suffix == ".json":
        found = _coco(text, path)
    else:
        found = [line.strip() for line in text.splitlines()]
    return _captions(found, path.name, str(path))


def coco_captions() -> Captions:
    """The first caption of each picture of COCO 2017's validation set, in the data set's order.

    From the hub's cache; fetched where they are not there: lists of captions, no pictures.

    Raises:
        UserError: pyarrow is not installed, the hub is not reached, or what it sent is damaged.
    """
    needs("pyarrow", "the list of COCO's captions", INSTEAD)
    try:
        files = dataset_files(COCO_REPO, COCO_FILES)
    except DownloadRefused as refused:
        refused.fix = INSTEAD
        raise
    rows = [row for file in files for row in _rows_of(file)]
    if not all(isinstance(row, list) for row in rows):
        raise _damaged(files[0], "no list of captions in a row")
    found = [str(row[0]).strip() if row else "" for row in rows]
    return _captions(found, f"{COCO_REPO}, validation", files[0].name)


def _captions(texts: Sequence[str], source: str, where: str) -> Captions:
    kept = tuple(text for text in texts if text)
    if not kept:
        raise UserError("there is no caption in it", where=where)
    return Captions(kept, source)


def _coco(text: str, path: Path) -> list[str]:
    try:
        held = json.loads(text)
        first: dict[int, tuple[int, str]] = {}
        for row in held["annotations"]:
            entry = (int(row["id"]), str(row["caption"]).strip())
            picture = int(row["image_id"])
            first[picture] = min(first.get(picture, entry), entry)
        listed = [int(image["id"]) for image in held.get("images", ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "not a file of COCO captions",
            where=str(path),
            rule='{"annotations": [{"image_id": 1, "id": 1, "caption": "…"}, …]}',
            fix="name captions_val2017.json, or a text file with one caption a line",
        ) from error
    return [first[picture][1] for picture in listed or sorted(first) if picture in first]


def _rows_of(file: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file, columns=[COLUMN])
        return list(table.column(COLUMN).to_pylist())
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(file, str(error).splitlines()[0]) from error


def _damaged(file: Path, why: str) -> DownloadRefused:
    return DownloadRefused(
        f"{file.name} of {COCO_REPO} is damaged: {why}",
        where=str(file),
        rule=f"a parquet file with a list of captions a row, under {COLUMN}",
        fix=INSTEAD,
    )
