"""The folder of an evaluation: pictures as PNG, the full cache's bits, rows of measurements.

Knows names and formats; nothing of models or measures.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.evaluation.drawing import DrawnPicture
from scalekv.infinity_patch.evaluation.precisions import with_precisions
from scalekv.infinity_patch.evaluation.rows import (
    Part,
    Row,
    Rows,
    files_of_parts,
    part_file,
    rows_of_parts,
)
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.kv.errors import UserError

PICTURES = "pictures"
VARIANT = tuple(field.name for field in fields(CacheVariant))
KEY = ("number", *VARIANT)
"""What tells rows apart: the prompt's number, and how the cache was held."""

SCORES, SCORE_KEY = "scores", (*VARIANT, "score")
FIDS, FID_KEY = "fid", (*VARIANT, "pictures")
"""Files of rows that are not of one picture, and what tells these apart."""


@dataclass(frozen=True)
class EvaluationFolder:
    """Where an evaluation keeps what it has.

    pictures.jsonl has a row a picture and pictures/VARIANT/NUMBER.png the picture itself; part I of
    N adds to pictures-IofN.jsonl. Measures that are taken of kept pictures have a file each.
    """

    path: Path

    def picture_path(self, variant: CacheVariant, number: int) -> Path:
        """Where a picture is."""
        return self.path / PICTURES / variant.folder / f"{number:05d}.png"

    def keep(self, variant: CacheVariant, number: int, drawn: DrawnPicture) -> None:
        """Keeps a picture; of the full cache its bits too, which others are compared with."""
        path = self.picture_path(variant, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if variant == FULL_CACHE:
            with replacing(path.with_suffix(".npz")) as hidden, hidden.open("wb") as file:
                shapes = np.array([bits.shape for bits in drawn.bits])
                flat = np.concatenate([bits.numpy().ravel() for bits in drawn.bits])
                np.savez_compressed(file, shapes=shapes, packed=np.packbits(flat))
        with replacing(path) as hidden, hidden.open("wb") as file:
            Image.fromarray(drawn.picture).save(file, "png")

    def picture(self, variant: CacheVariant, number: int) -> npt.NDArray[np.uint8]:
        """A kept picture, (H, W, 3).

        Raises:
            UserError: it is gone, or damaged.
        """
        path = self.picture_path(variant, number)
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise _gone(path) from error

    def full_bits(self, number: int) -> list[Tensor]:
        """The bits of the full cache's picture, per scale (L, d) uint8.

        Raises:
            UserError: they are gone, or damaged.
        """
        path = self.picture_path(FULL_CACHE, number).with_suffix(".npz")
        try:
            with np.load(path) as held:
                shapes, packed = held["shapes"], held["packed"]
        except (OSError, ValueError, KeyError) as error:
            raise _gone(path) from error
        sizes = shapes.prod(1)
        flat = np.unpackbits(packed, count=int(sizes.sum()))
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return [
            torch.from_numpy(part.reshape(shape)) for part, shape in zip(parts, shapes, strict=True)
        ]

    def rows(self, name: str, settings: Row, part: Part | None, key: tuple[str, ...] = KEY) -> Rows:
        """Rows of a name to add to.

        Raises:
            UserError: those that are there are of other settings.
        """
        own = part_file(self.path, name, part)
        beside = [file for file in files_of_parts(self.path, name) if file != own]
        return Rows.open(own, settings, key, beside, with_precisions)

    def found(self, name: str, key: tuple[str, ...] = KEY) -> list[Row]:
        """All rows of a name; none where nobody wrote any."""
        return self.read(name, key).rows if files_of_parts(self.path, name) else []

    def settings(self, name: str) -> Row:
        """What all rows of a name have in common; nothing where nobody wrote any."""
        return self.read(name).settings if files_of_parts(self.path, name) else {}

    def read(self, name: str, key: tuple[str, ...] = KEY) -> Rows:
        """All rows of a name and their settings.

        Raises:
            UserError: there are none, or they are of different settings.
        """
        return rows_of_parts(self.path, name, key, with_precisions)


def variant_of(row: Row) -> CacheVariant:
    """The variant a row is about."""
    return CacheVariant(*(row[name] for name in VARIANT))


def key_of(number: int, variant: CacheVariant) -> tuple[object, ...]:
    """A row's key."""
    return (number, *(getattr(variant, name) for name in VARIANT))


def _gone(path: Path) -> UserError:
    return UserError(
        "a picture that was made is gone, or damaged",
        where=str(path),
        rule="pictures are compared with those of the full cache as they were kept",
        fix="name another --out, or delete the folder and begin anew",
    )
