"""Which emoji become concepts, how drawings become pixels, and what a folder holds."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.builtin import dataset
from scripts.builtin.captions import HeldOut
from scripts.builtin.dataset import (
    ARRAYS,
    SIZE,
    STYLES,
    Drawings,
    bare,
    choose_concepts,
    concept_name,
    index_rows,
    is_complete,
    is_gendered_copy,
    manifest_of,
    render,
    write,
)
from scripts.builtin.fetch import Package, fetch, integrity_of, read_json

GROUPS: dict[str, Any] = {
    "groups": {"0": "people-body", "1": "objects"},
    "subgroups": {"0": "person-role", "1": "tool", "2": "keycap"},
}
RED_SQUARE = '<path fill="#f00" d="M8 8h16v16H8z"/>'


def emoji(label: str, hexcode: str, group: int, subgroup: int, order: int) -> dict[str, Any]:
    return {
        "label": label,
        "hexcode": hexcode,
        "group": group,
        "subgroup": subgroup,
        "order": order,
        "tags": ["Tag", label],
    }


EMOJI = [
    emoji("hammer", "1F528", 1, 1, 5),
    emoji("cook", "1F9D1-200D-1F373", 0, 0, 1),
    emoji("man cook", "1F468-200D-1F373", 0, 0, 2),
    emoji("woman cook", "1F469-200D-1F373", 0, 0, 3),
    emoji("keycap: 1", "0031-FE0F-20E3", 1, 2, 4),
    emoji("one o’clock", "1F550", 1, 1, 6),
    emoji("three o’clock", "1F552", 1, 1, 7),
    emoji("undrawn", "1F000", 1, 1, 8),
]


def test_concepts_leave_out_copies_letters_and_what_is_not_drawn() -> None:
    drawn = {bare(row["hexcode"]) for row in EMOJI} - {"1f000"}
    concepts = choose_concepts(EMOJI, GROUPS, drawn)
    assert [concept.concept for concept in concepts] == ["cook", "hammer", "clock"]
    assert concepts[0].group == "people-body"
    assert concepts[0].subgroup == "person-role"
    assert concepts[1].tags == ("tag", "hammer")


def test_hexcodes_are_bared_and_names_are_plain() -> None:
    assert bare("2764-FE0F-200D-1F525") == "2764-200d-1f525"
    assert concept_name("Santa Claus") == "santa claus"
    assert concept_name("man’s shoe") == "man's shoe"
    assert concept_name("person: red hair") == "person with red hair"


def test_a_gendered_form_is_a_copy_only_beside_a_neutral_one() -> None:
    assert is_gendered_copy("1f575-200d-2640", set())
    assert is_gendered_copy("1f468-200d-1f373", {"1f9d1-200d-1f373"})
    assert not is_gendered_copy("1f468-200d-1f373", set())
    assert not is_gendered_copy("1f468", {"1f9d1"})


def drawings(**icon: Any) -> Drawings:
    icons = {
        "width": 32,
        "height": 32,
        "icons": {"square": {"body": RED_SQUARE, **icon}},
        "aliases": {"box": {"parent": "square"}, "flipped": {"parent": "square", "hFlip": True}},
    }
    return Drawings(icons, {"1f7e5": "square", "1f4e6": "box", "1f4e7": "flipped", "1f600": "gone"})


def test_drawings_know_plain_aliases_but_no_turned_ones() -> None:
    assert drawings().hexcodes == {"1f7e5", "1f4e6"}
    assert drawings().svg("1f4e6") == drawings().svg("1f7e5")


def test_a_narrow_drawing_stands_in_the_middle_of_a_square() -> None:
    assert 'width="32" height="32" viewBox="-8 0 32 32"' in drawings(width=16).svg("1f7e5")


def test_rendering_keeps_place_and_colour_on_white() -> None:
    pytest.importorskip("resvg_py")
    pixels, coverage = render(drawings().svg("1f7e5"))
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    expected = np.full((SIZE, SIZE, 3), 255, np.uint8)
    expected[32:96, 32:96] = (255, 0, 0)
    assert np.array_equal(pixels, expected)
    assert np.array_equal(coverage, 255 * (expected == (255, 0, 0)).all(-1))


def test_the_index_has_a_row_a_drawing_with_its_flags() -> None:
    concepts = choose_concepts(EMOJI, GROUPS, {"1f528", "1f552"})
    held_out = HeldOut(frozenset({"hammer"}), frozenset({("clock", "noto")}))
    rows = index_rows(concepts, held_out)
    assert [row["id"] for row in rows] == [
        "1f528.flat",
        "1f528.noto",
        "1f552.flat",
        "1f552.noto",
    ]
    assert [row["heldout_concept"] for row in rows] == [True, True, False, False]
    assert [row["heldout_style"] for row in rows] == [False, False, False, True]


def test_a_style_has_what_it_draws_and_holds_out_what_the_same_hand_does() -> None:
    concepts = choose_concepts(EMOJI, GROUPS, {"1f528", "1f552"})
    held_out = HeldOut(frozenset(), frozenset({("clock", "noto"), ("hammer", "flat")}))
    drawn = {style: {"1f528", "1f552"} for style in STYLES} | {"noto-v1": {"1f552"}}
    rows = {row["id"]: row["heldout_style"] for row in index_rows(concepts, held_out, drawn)}
    assert rows == {
        "1f528.flat": True, "1f528.noto": False, "1f528.fluent": True,
        "1f552.flat": False, "1f552.noto": True, "1f552.fluent": False, "1f552.noto-v1": True,
    }  # fmt: skip


def test_a_data_set_is_written_in_any_size_by_any_number_of_processes(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    rows = index_rows(choose_concepts(EMOJI, GROUPS, {"1f528"}), HeldOut(frozenset(), frozenset()))
    svgs = [drawings().svg("1f7e5"), drawings(width=16).svg("1f7e5")]
    for jobs in (1, 2):
        write(tmp_path / str(jobs), rows, svgs, 64, jobs)
    one, two = (np.load(tmp_path / name / "images.npy") for name in ("1", "2"))
    assert one.shape == (2, 64, 64, 3)
    assert np.array_equal(one, two)
    assert is_complete(tmp_path / "2", rows, 64)
    assert not is_complete(tmp_path / "2", rows, 128)


def test_a_folder_is_complete_only_with_the_very_pictures(tmp_path: Path) -> None:
    rows = index_rows(choose_concepts(EMOJI, GROUPS, {"1f528"}), HeldOut(frozenset(), frozenset()))
    assert not is_complete(tmp_path, rows)
    for name in ARRAYS:
        np.save(tmp_path / name, np.zeros((2, SIZE, SIZE), np.uint8))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_of(rows, tmp_path)))
    assert is_complete(tmp_path, rows)
    assert not is_complete(tmp_path, rows[:1])
    np.save(tmp_path / ARRAYS[-1], np.ones((2, SIZE, SIZE), np.uint8))
    assert not is_complete(tmp_path, rows)
    (tmp_path / ARRAYS[-1]).unlink()
    assert not is_complete(tmp_path, rows)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package that lies in the cache already, so that nothing is fetched."""
    content = json.dumps({"a": 1}).encode()
    path = tmp_path / "scope-drawings-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return Package("@scope/drawings", "1.0.0", integrity_of(path), "MIT")


def test_a_whole_tarball_is_not_fetched_again(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no npm
    path = fetch(package, tmp_path)
    assert path.name == package.filename
    assert read_json(path, "icons.json") == {"a": 1}


def test_a_damaged_tarball_is_never_used(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / package.filename).write_bytes(b"damaged")
    with pytest.raises(SystemExit, match=r"could not fetch @scope/drawings@1\.0\.0"):
        fetch(package, tmp_path)


def test_a_tarball_other_than_the_pinned_one_is_refused(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(_: list[str], *, cwd: str, **__: object) -> None:
        (Path(cwd) / package.filename).write_bytes(b"another")

    (tmp_path / package.filename).unlink()
    monkeypatch.setattr("scripts.builtin.fetch.subprocess.run", packed)
    with pytest.raises(SystemExit, match="checksum"):
        fetch(package, tmp_path)
    assert not (tmp_path / package.filename).exists()


def test_every_source_is_pinned_by_checksum() -> None:
    for source in dataset.sources():
        assert source.version.count(".") == 2
        assert source.integrity.startswith("sha512-")
        assert len(source.integrity) == 95
        assert source.licence in {"MIT", "Apache-2.0"}
