"""Drawings and compositions of a run, rendered on its machine from the bundle's SVGs.

Knows rows, pixels and captions; nothing of models. Imports no torch, so that its processes start
quickly and before any device is in use.
"""

from __future__ import annotations

import json
import lzma
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scalekv.configs.whole_files import replace_text, replacing
from scalekv.infinity_patch.files.hashes import sha256_of
from scripts.builtin.bundle import DRAWINGS
from scripts.builtin.captions import FIRST_STYLES, Row, heldout_rows, training_rows
from scripts.builtin.compositions import Composer
from scripts.builtin.dataset import Pixels, load_rows, write

SIDE = 256
COMPOSITIONS = "compositions"
SEED = 3


@dataclass(frozen=True)
class Pictures:
    """Everything a run learns from and is measured on.

    images: (N, SIDE, SIDE, 3) uint8, drawings first, then compositions; rows: of the drawings a
    training may see, `drawn` their numbers in `images`; captions: of the compositions, which follow
    from number `composed` on; held: numbers of the held-out drawings of the first styles, and
    `held_rows` what they are.
    """

    images: npt.NDArray[np.uint8]
    rows: list[Row]
    drawn: list[int]
    captions: list[str]
    composed: int
    held_rows: list[Row]
    held: list[int]


def read_drawings(bundle: Path, limit: int | None) -> tuple[list[Row], list[str]]:
    """Rows and SVGs of a bundle; with `limit` so many, evenly spread over all."""
    with lzma.open(bundle / DRAWINGS, "rt", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    if limit is not None:
        lines = lines[:: max(1, len(lines) // limit)][:limit]
    return [line["row"] for line in lines], [line["svg"] for line in lines]


@cache
def _composer(folder: Path) -> Composer:
    return Composer(folder, training_rows(load_rows(folder)))


def _compose(folder: Path, number: int) -> tuple[Pixels, str]:
    drawing = _composer(folder).draw(np.random.default_rng((SEED, number)))
    return drawing.picture, drawing.caption


def compose(folder: Path, count: int, jobs: int) -> None:
    """Write so many compositions of a folder's drawings beside them; done once."""
    notes, manifest = folder / f"{COMPOSITIONS}.json", sha256_of(folder / "manifest.json")
    if notes.is_file():
        found = json.loads(notes.read_text())
        if found["drawings"] == manifest and len(found["captions"]) == count:
            return
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    texts = []
    with ProcessPoolExecutor(jobs) as workers:
        composed = workers.map(_compose, [folder] * count, range(count), chunksize=16)
        for number, (picture, text) in enumerate(composed):
            images[number] = picture
            texts.append(text)
    with replacing(folder / f"{COMPOSITIONS}.npy") as hidden, hidden.open("wb") as stream:
        np.save(stream, images)
    replace_text(notes, json.dumps({"drawings": manifest, "captions": texts}))


def prepare(
    bundle: Path, folder: Path, compositions: int, jobs: int, limit: int | None = None
) -> Pictures:
    """Render what is not rendered yet, and read it."""
    rows, svgs = read_drawings(bundle, limit)
    write(folder, rows, svgs, SIDE, jobs)
    compose(folder, compositions, jobs)
    places = {row["id"]: i for i, row in enumerate(rows)}
    trained, held = training_rows(rows), heldout_rows(rows)
    held = [row for row in held if row["style"] in FIRST_STYLES]
    drawings = np.load(folder / "images.npy", mmap_mode="r")
    composed = np.load(folder / f"{COMPOSITIONS}.npy", mmap_mode="r")
    return Pictures(
        images=np.concatenate([drawings, composed]),
        rows=trained,
        drawn=[places[row["id"]] for row in trained],
        captions=json.loads((folder / f"{COMPOSITIONS}.json").read_text())["captions"],
        composed=len(rows),
        held_rows=held,
        held=[places[row["id"]] for row in held],
    )
