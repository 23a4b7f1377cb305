"""One evaluation: draws what is missing, takes the measures, and says what it came to.

Knows the order of the steps; what a measure is and where things are kept is known elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.evaluation.captions import Captions
from scalekv.infinity_patch.evaluation.drawing import DrawnPicture, draw_with_bits
from scalekv.infinity_patch.evaluation.kept import (
    FID_KEY,
    FIDS,
    KEY,
    PICTURES,
    SCORE_KEY,
    SCORES,
    VARIANT,
    EvaluationFolder,
    key_of,
    variant_of,
)
from scalekv.infinity_patch.evaluation.networks import (
    NETWORKS,
    Missing,
    PairDistance,
    Pixels,
    fid,
)
from scalekv.infinity_patch.evaluation.precisions import precisions_of
from scalekv.infinity_patch.evaluation.rows import Part, Row, Rows, numbers_of
from scalekv.infinity_patch.evaluation.summary import joined, result
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.infinity_patch.files.hashes import model_hashes, quick_hash
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.likeness import likeness
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.errors import UserError

RECIPE = 3
"""Raised when the same pictures would give other numbers."""
EXACT = 8  # decimals that are kept of what is measured


@dataclass
class Evaluation:
    """A run over captions and variants, into a folder.

    Attributes:
        folder: where everything is kept.
        captions: all of them; `limit` of them are drawn.
        settled: how each variant is drawn, `FULL_CACHE` among them; prompts and seeds are set here.
        seed: of the first caption.
        settings: what all rows have in common; see `evaluation_settings`.
        part: of the captions, where others do the rest.
    """

    folder: EvaluationFolder
    captions: Captions
    limit: int
    settled: Mapping[CacheVariant, Settled]
    seed: int
    settings: Row
    part: Part | None = None

    def __post_init__(self) -> None:
        self._rows = self.folder.rows(PICTURES, self.settings, self.part)
        self._check_files()

    @property
    def numbers(self) -> list[int]:
        """The captions of this part."""
        count = min(self.limit, len(self.captions.texts))
        return list(numbers_of(self.part, count))

    @property
    def missing(self) -> int:
        """Pictures that are still to be drawn, the full cache's among them."""
        return sum(len(self._missing(number)) for number in self.numbers)

    def _missing(self, number: int) -> list[CacheVariant]:
        wanted = dict.fromkeys((FULL_CACHE, *self.settled))
        return [v for v in wanted if key_of(number, v) not in self._rows.done]

    def draw(self, pipeline: Pipeline, machine: str) -> Iterator[Row]:
        """Draws every picture that is missing, once, and measures it; yields its row.

        Raises:
            UserError: a picture that was drawn before is gone.
        """
        place = pipeline.device if pipeline.device.type == "cuda" else torch.device("cpu")
        for number in self.numbers:
            missing = self._missing(number)
            full: _Full | None = None
            for variant in missing:
                drawn = draw_with_bits(pipeline, self._of(variant, number))
                if variant == FULL_CACHE:
                    full = _Full(drawn.picture, drawn.bits, place)
                elif full is None:
                    kept = self.folder.picture(FULL_CACHE, number)
                    full = _Full(kept, self.folder.full_bits(number), place)
                self.folder.keep(variant, number, drawn)
                row = self._row(variant, number) | full.measured(drawn) | _held(drawn)
                row |= {"seconds": round(drawn.seconds, 3), "machine": machine}
                self._rows.add(row)
                yield row

    def force(self, pipeline: Pipeline) -> Iterator[Row]:
        """Forces the full cache's bits on every variant where that was not done yet; yields the
        share of each scale's that it would have drawn from the same noise."""
        rows = self._values("forced")
        for row in self._own_rows(rows):
            variant, number = variant_of(row), int(row["number"])
            bits = [part[None] for part in self.folder.full_bits(number)]
            settled = self._of(variant, number)
            found = force_bits(pipeline, settled, row["prompt"], row["seed"], bits)
            shares = [round(scale.agreement, EXACT) for scale in found.scales]
            rows.add(self._value(row, shares))
            yield row

    @property
    def unforced(self) -> int:
        """Pictures that `force` has still to do."""
        return len(self._own_rows(self._values("forced")))

    def look(self, name: str, distance: Callable[[], PairDistance]) -> Iterator[Row]:
        """Takes a measure of kept pictures, pair by pair, where it was not taken yet.

        Args:
            distance: makes what measures, if there is something to measure.

        Raises:
            Missing: what it needs is not here.
        """
        rows = self._values(name)
        wanted = self._own_rows(rows)
        made = distance() if wanted else None
        for row in wanted:
            assert made is not None
            number = int(row["number"])
            pictures = (self.folder.picture(v, number) for v in (FULL_CACHE, variant_of(row)))
            rows.add(self._value(row, round(made.of(*pictures), EXACT)))
            yield row

    def compare_folders(self) -> Iterator[Row]:
        """FID of every variant's folder against the full cache's, when all pictures are there.

        Raises:
            Missing: pictures are still to come, or its network is not here.
        """
        counts = Counter(variant_of(row) for row in self._rows.rows)
        done = {row["number"] for row in self._rows.rows if variant_of(row) == FULL_CACHE}
        whole = counts.pop(FULL_CACHE, 0)
        wanted = range(min(self.limit, len(self.captions.texts)))
        if not done.issuperset(wanted) or any(count != whole for count in counts.values()):
            raise Missing("it is of whole folders, and not all pictures are there yet")
        rows = self.folder.rows(FIDS, self.settings, self.part, FID_KEY)
        for variant in counts:
            names = {name: getattr(variant, name) for name in VARIANT}
            if (*names.values(), whole) not in rows.done:
                full, own = (self.folder.picture_path(v, 0).parent for v in (FULL_CACHE, variant))
                row = {**names, "pictures": whole, "value": round(fid(full, own), EXACT)}
                rows.add(row)
                yield row

    def _values(self, name: str) -> Rows:
        return self.folder.rows(name, self.settings, self.part)

    def _own_rows(self, rows: Rows) -> list[Row]:
        """Rows of pictures of this part that a measure was not taken of."""
        mine = set(self.numbers)
        return [
            row
            for row in self._rows.rows
            if row["number"] in mine
            and variant_of(row) != FULL_CACHE
            and variant_of(row) in self.settled
            and key_of(row["number"], variant_of(row)) not in rows.done
        ]

    def _of(self, variant: CacheVariant, number: int) -> Settled:
        settled = self.settled[variant]
        prompt, seed = self.captions.texts[number], self.seed + number
        return settled.of(replace(settled.request, prompts=(prompt,), seed=seed))

    def _row(self, variant: CacheVariant, number: int) -> Row:
        return {
            "number": number,
            **{name: getattr(variant, name) for name in VARIANT},
            "prompt": self.captions.texts[number],
            "seed": self.seed + number,
            "files": _files_of(variant),
        }

    @staticmethod
    def _value(row: Row, value: Any) -> Row:
        return {**{name: row[name] for name in KEY}, "value": value}

    def _check_files(self) -> None:
        """Refuses to add to rows that were drawn from another file of the same name.

        Raises:
            UserError: a budget or a policy's file has changed since.
        """
        now = {variant: _files_of(variant) for variant in self.settled}
        for row in self._rows.rows:
            variant = variant_of(row)
            if variant in now and row["files"] != now[variant]:
                raise UserError(
                    f"a file of {variant.policy} {variant.budget} is another now",
                    where=str(self._rows.path),
                    rule="rows of one variant are of one file",
                    fix="name another --out, or give the new file another name",
                )


@dataclass(frozen=True)
class _Full:
    """The full cache's picture of a caption, which others are compared with on a device."""

    picture: Pixels
    bits: Sequence[Tensor]
    place: torch.device

    def measured(self, drawn: DrawnPicture) -> Row:
        """PSNR is null where the pictures are equal."""
        own, reference = (Image.fromarray(pixels) for pixels in (drawn.picture, self.picture))
        found = likeness(own, reference, device=self.place)
        pairs = zip(self.bits, drawn.bits, strict=True)
        return {
            "psnr": None if found.identical else round(found.psnr, EXACT),
            "ssim": round(found.ssim, EXACT),
            "bits": [round(float((a == b).double().mean()), EXACT) for a, b in pairs],
        }


def _held(drawn: DrawnPicture) -> Row:
    cache = drawn.cache
    names = ("held_peak_bytes", "full_bytes", "full_bytes_all")
    return {"stored_as": cache["kv_dtype"], **{name: cache[name] for name in names}}


def _files_of(variant: CacheVariant) -> dict[str, str]:
    """The files of somebody's that a variant works from -> their hash."""
    return {path.name: quick_hash(path) for path in variant.files}


def evaluation_settings(
    full: Settled,
    captions: Captions,
    protocol: str,
    weights_dir: Path | None,
    placement: Placement,
    threads: int | None,
) -> Row:
    """What all rows of a folder have in common; rows of other settings are not added.

    Args:
        full: how the full cache is drawn.
        placement: that the model is loaded with.
        threads: of a CPU, which its last bits depend on; None elsewhere.
    """
    request = full.request
    return {
        "recipe": RECIPE,
        "scalekv": version("scalekv"),
        "protocol": protocol,
        "model": full.preset.name,
        "weights": model_hashes(model_files(full.preset, weights_dir)),
        "dtype": full.dtype,
        **precisions_of(full, placement, weights_dir),
        "device": full.device,
        "threads": threads,
        "ratio": request.ratio,
        "pixels": request.pixels or full.preset.pixels,
        "tokens": list(full.schedule.tokens),
        "cfg": list(full.cfg),
        "tau": list(full.tau),
        "top_p": full.top_p,
        "negative": request.negative,
        "positive_prompt": request.positive_prompt,
        "seed": request.seed,
        "captions": captions.source,
        "captions_sha256": captions.sha256,
        "torch": version("torch"),
    }


def summed_up(folder: EvaluationFolder, left_out: Mapping[str, str]) -> dict[str, Any]:
    """The result of everything in a folder, whoever drew it.

    Args:
        left_out: measures that were not taken -> why; of those that are there nothing is said.

    Raises:
        UserError: nothing was measured there, or with different settings.
    """
    pictures = folder.read(PICTURES)
    names = ("forced", *(name for name, network in NETWORKS.items() if network.make is not None))
    more = {name: folder.found(name) for name in names}
    rows = joined(pictures.rows, more)
    if not any(variant_of(row) == FULL_CACHE for row in rows):
        raise UserError("no picture of the full cache is there yet", where=str(folder.path))
    fids = folder.found(FIDS, FID_KEY)
    scores = folder.found(SCORES, SCORE_KEY)
    told = result(pictures.settings, rows, fids, {}, scores)
    taken = {name for facts in told["variants"] for name in facts}
    return told | {"left_out": {n: why for n, why in left_out.items() if n not in taken}}
