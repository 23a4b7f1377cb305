"""Renders the drawings the built-in model learns from: `python -m scripts.builtin.dataset`.

As the shipped model learned from them: in two styles, at 128 pixels. `--all-styles --side 256` is
what the next one learns from.

Knows which emoji become concepts, what they are called and how they are drawn; nothing of
captions or training. Writes into DIR

    images.npy    (N, side, side, 3) uint8, RGB on white
    coverage.npy  (N, side, side) uint8, how much of each pixel the drawing covers
    index.jsonl   one row a picture, in the same order
    manifest.json sources, recipe and checksum; a complete folder is left as it is
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from scalekv.configs.whole_files import replace_text, replacing
from scalekv.infinity_patch.files.hashes import sha256_of
from scripts.builtin.captions import FIRST_STYLES, HeldOut, Row, load_heldout, load_names
from scripts.builtin.fetch import (
    EMOJIBASE,
    FLUENT,
    FLUENT_FLAT,
    NOTO,
    NOTO_V1,
    Package,
    fetch,
    read_json,
)

DEFAULT_FOLDER = Path("data/builtin")
SIZE = 128  # pixels of a side
PIXELS = "0.06M"  # the pixel class of that size
SUPERSAMPLED = 512  # rendered at this many, then averaged down
RECIPE = 3  # raise when the same sources would give other pictures

ARRAYS = ("images.npy", "coverage.npy")

STYLES: dict[str, tuple[Package, Package]] = {
    "flat": (FLUENT_FLAT, FLUENT_FLAT),
    "noto": (NOTO, NOTO),
    "fluent": (FLUENT, FLUENT_FLAT),
    "noto-v1": (NOTO_V1, NOTO),
}
"""By style the package of its drawings, and the one that says which character a name stands for."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Concept:
    """One thing the model can be asked for."""

    concept: str
    hexcode: str
    group: str
    subgroup: str
    tags: tuple[str, ...]


def bare(hexcode: str) -> str:
    """A hexcode as the drawing sets write it: lower case, without variation selectors."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def concept_name(label: str) -> str:
    """The name a concept goes by: emojibase's label in lower case and plain punctuation."""
    name = label.lower().replace("’", "'").replace("“", "").replace("”", "")
    name = load_names().renamed.get(name, name)
    return re.sub(r"^person: (\w+ hair)$", r"person with \1", name)


def is_gendered_copy(hexcode: str, known: set[str]) -> bool:
    """Whether this is the man's or woman's form of an emoji that has a neutral form too."""
    parts = hexcode.split("-")
    if "2640" in parts or "2642" in parts:  # female and male sign
        return True
    neutral = "-".join(["1f9d1", *parts[1:]])
    return len(parts) > 1 and parts[0] in {"1f468", "1f469"} and neutral in known


def choose_concepts(
    emoji: list[dict[str, Any]], groups: dict[str, Any], drawn: set[str]
) -> list[Concept]:
    """The concepts among emojibase's emoji, in its order.

    Args:
        emoji: rows of emojibase's `en/data.json`.
        groups: its `meta/groups.json`.
        drawn: bare hexcodes that every style has a drawing for.
    """
    names = load_names()
    known = {bare(row["hexcode"]) for row in emoji}
    chosen: dict[str, Concept] = {}
    for row in sorted(emoji, key=lambda row: row.get("order", 0)):
        hexcode = bare(row["hexcode"])
        if hexcode not in drawn or "group" not in row or "subgroup" not in row:
            continue
        subgroup = groups["subgroups"][str(row["subgroup"])]
        name = concept_name(row["label"])
        if subgroup in names.dropped_subgroups or name in names.dropped or "facing right" in name:
            continue
        if re.search(r"o'clock$|-thirty$", name) or is_gendered_copy(hexcode, known):
            continue
        assert name not in chosen, (name, hexcode, chosen[name].hexcode)
        chosen[name] = Concept(
            concept=name,
            hexcode=hexcode,
            group=groups["groups"][str(row["group"])],
            subgroup=subgroup,
            tags=tuple(tag.lower().replace("’", "'") for tag in row.get("tags", ())),
        )
    return list(chosen.values())


class Drawings:
    """The SVG drawings of one Iconify package, by bare hexcode."""

    def __init__(self, icons: dict[str, Any], characters: dict[str, str]) -> None:
        self._icons = icons
        known = {**icons["icons"], **icons.get("aliases", {})}
        # Aliases may turn or flip their parent, which no drawing chosen here needs.
        plain = {
            name
            for name, icon in known.items()
            if set(icon) <= {"body", "parent", "width", "height", "left", "top"}
        }
        self._names = {code: name for code, name in characters.items() if name in plain}

    def __contains__(self, hexcode: str) -> bool:
        return hexcode in self._names

    @property
    def hexcodes(self) -> set[str]:
        """Everything drawn."""
        return set(self._names)

    def svg(self, hexcode: str) -> str:
        """The drawing as a whole SVG document, in the middle of a square."""
        name = self._names[hexcode]
        while name in self._icons.get("aliases", {}):
            name = self._icons["aliases"][name]["parent"]
        icon = self._icons["icons"][name]
        width, height = (icon.get(side, self._icons[side]) for side in ("width", "height"))
        side = max(width, height)
        left = icon.get("left", 0) - (side - width) / 2
        top = icon.get("top", 0) - (side - height) / 2
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{side}" height="{side}" viewBox="{left:g} {top:g} {side} {side}">'
            f"{icon['body']}</svg>"
        )


def render(svg: str, side: int = SIZE) -> tuple[Pixels, Pixels]:
    """A drawing on white, (side, side, 3), and its coverage, (side, side).

    Drawn large and once, on nothing, then put on white and averaged down.
    """
    import resvg_py  # here, so that reading a built data set does not need it

    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=SUPERSAMPLED,
        height=SUPERSAMPLED,
        dpi=96,
        skip_system_fonts=True,
    )
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    assert drawn.size == (SUPERSAMPLED, SUPERSAMPLED), drawn.size
    page = Image.new("RGB", drawn.size, "white")
    page.paste(drawn, mask=drawn.getchannel("A"))
    small = (side, side), Image.Resampling.BOX
    return np.asarray(page.resize(*small)), np.asarray(drawn.getchannel("A").resize(*small))


def rendered(
    svgs: Sequence[str], side: int, jobs: int = 1
) -> Iterator[tuple[int, tuple[Pixels, Pixels]]]:
    """Number, picture and coverage of each drawing in order, drawn by so many processes."""
    if jobs == 1:
        yield from enumerate(render(svg, side) for svg in svgs)
        return
    with ProcessPoolExecutor(jobs) as workers:
        yield from enumerate(workers.map(render, svgs, [side] * len(svgs), chunksize=8))


def index_rows(
    concepts: list[Concept], held_out: HeldOut, drawn: dict[str, set[str]] | None = None
) -> list[Row]:
    """One row a picture: every concept in every style, concept by concept.

    `drawn` are the hexcodes that each style has; without it every first style has all.
    """
    return [
        {
            "id": f"{concept.hexcode}.{style}",
            **asdict(concept),
            "style": style,
            "heldout_concept": concept.concept in held_out.concepts,
            "heldout_style": held_out.style_of(concept.concept, style),
        }
        for concept in concepts
        for style in (FIRST_STYLES if drawn is None else drawn)
        if drawn is None or concept.hexcode in drawn[style]
    ]


def manifest_of(rows: list[Row], folder: Path, side: int = SIZE) -> dict[str, Any]:
    """What a folder was made from, and the checksums of its pictures."""
    styles = dict.fromkeys(row["style"] for row in rows)
    return {
        "recipe": RECIPE,
        "side": side,
        "packages": [f"{package.name}@{package.version}" for package in sources(styles)],
        "pictures": [row["id"] for row in rows],
        "sha256": {name: sha256_of(folder / name) for name in ARRAYS},
    }


def sources(styles: Iterable[str] = FIRST_STYLES) -> list[Package]:
    """Every package that a data set of these styles is made from."""
    needed = [package for style in styles for package in STYLES[style]]
    return list(dict.fromkeys([*needed, EMOJIBASE]))


def is_complete(folder: Path, rows: list[Row], side: int = SIZE) -> bool:
    """Whether the folder's pictures are exactly those of these rows."""
    manifest = folder / "manifest.json"
    if not all((folder / name).is_file() for name in (manifest.name, *ARRAYS)):
        return False
    return bool(json.loads(manifest.read_text()) == manifest_of(rows, folder, side))


def assemble(cache: Path, styles: Sequence[str] = FIRST_STYLES) -> tuple[list[Row], list[str]]:
    """The rows of a data set and their drawings as SVG, from the packages fetched into `cache`."""
    tarballs = {package: fetch(package, cache) for package in sources(styles)}
    drawings = {
        style: Drawings(
            read_json(tarballs[package], "icons.json"), read_json(tarballs[names], "chars.json")
        )
        for style, (package, names) in STYLES.items()
        if style in styles
    }
    concepts = choose_concepts(
        read_json(tarballs[EMOJIBASE], "en/data.json"),
        read_json(tarballs[EMOJIBASE], "meta/groups.json"),
        set.intersection(*(drawings[style].hexcodes for style in FIRST_STYLES)),
    )
    known = {concept.concept for concept in concepts}
    load_names().check(known)
    held_out = load_heldout()
    held_out.check(known, set(FIRST_STYLES))
    rows = index_rows(concepts, held_out, {style: d.hexcodes for style, d in drawings.items()})
    return rows, [drawings[row["style"]].svg(row["hexcode"]) for row in rows]


def write(folder: Path, rows: list[Row], svgs: Sequence[str], side: int, jobs: int = 1) -> None:
    """Renders and writes a data set; what is there already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(
        folder / "index.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    )
    if is_complete(folder, rows, side):
        print(f"{folder}: complete, {len(rows)} pictures", file=sys.stderr)
        return
    images = np.empty((len(rows), side, side, 3), np.uint8)
    coverage = np.empty((len(rows), side, side), np.uint8)
    for number, pair in rendered(svgs, side, jobs):
        images[number], coverage[number] = pair
        if (number + 1) % 200 == 0 or number + 1 == len(rows):
            print(f"rendered {number + 1} of {len(rows)}", file=sys.stderr)
    for name, array in zip(ARRAYS, (images, coverage), strict=True):
        with replacing(folder / name) as hidden, hidden.open("wb") as stream:
            np.save(stream, array)
    manifest = manifest_of(rows, folder, side)
    replace_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def load_rows(folder: Path = DEFAULT_FOLDER) -> list[Row]:
    """The rows of a built folder, in the order of its pictures."""
    with (folder / "index.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def main() -> None:
    """Builds the data set from the command line."""
    parser = argparse.ArgumentParser(description="Render the drawings of the built-in model.")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, metavar="DIR")
    parser.add_argument("--side", type=int, default=SIZE, help="pixels (default: %(default)s)")
    parser.add_argument("--all-styles", action="store_true", help="four instead of two")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    args = parser.parse_args()
    rows, svgs = assemble(args.out / "cache", tuple(STYLES) if args.all_styles else FIRST_STYLES)
    write(args.out, rows, svgs, args.side, args.jobs)
    concepts = len({row["concept"] for row in rows})
    print(f"{len(rows)} pictures of {concepts} concepts", file=sys.stderr)


if __name__ == "__main__":
    main()
