"""Captions of files and of the hub's data set, in one order, with words for what is wrong."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scalekv.infinity_patch.evaluation.captions import COCO_REPO, coco_captions, read_captions
from scalekv.kv.errors import UserError
from tests.hub_server import Hub

pyarrow = pytest.importorskip("pyarrow")

FILE = "data/validation-00000-of-00001-e3c37e369512a3aa.parquet"
ROWS = [
    ["A black bear. ", "An animal."],
    [],
    ["A bench in a park."],
]


def parquet(captions: object) -> bytes:
    """A file in the shape of the data set's."""
    from pyarrow import parquet as writer

    columns = {
        "license": [3, 4, 1],
        "file_name": [f"val2017/00000000000{n}.jpg" for n in range(3)],
        "height": [480] * 3,
        "width": [640] * 3,
        "image_id": [397133, 37777, 252219],
        "ids": [[1, 2], [], [3]],
        "captions": captions,
    }
    to = io.BytesIO()
    writer.write_table(pyarrow.table(columns), to)
    return to.getvalue()


@pytest.fixture
def coco(hub: Hub, cache: Path) -> Hub:
    """A hub with the data set, and an empty cache."""
    hub.large += (".parquet",)
    hub.repos[COCO_REPO] = {
        "README.md": b"no captions",
        "data/train-00000-of-00001-5d2f0a.parquet": b"nobody asks for it" * 99,
        FILE: parquet(ROWS),
    }
    return hub


def test_the_first_caption_of_each_picture_in_the_data_sets_order(coco: Hub) -> None:
    found = coco_captions()
    assert found.texts == ("A black bear.", "A bench in a park.")
    assert "phiyodr/coco2017" in found.source
    assert list(coco.requests) == [FILE]
    assert coco_captions() == found
    assert coco.requests[FILE] == 1


def test_what_is_in_the_cache_needs_no_hub(coco: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    found = coco_captions()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert coco_captions() == found


def test_offline_it_says_how_to_do_without(coco: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="offline mode is on") as refused:
        coco_captions()
    assert "--captions FILE" in refused.value.fix


def test_a_file_that_arrives_damaged_is_refused(coco: Hub) -> None:
    coco.corrupt.add(FILE)
    with pytest.raises(UserError, match="arrived damaged"):
        coco_captions()
    coco.corrupt.clear()
    assert len(coco_captions().texts) == 2


def test_a_file_that_was_damaged_later_is_fetched_anew(coco: Hub, cache: Path) -> None:
    found = coco_captions()
    (blob,) = (path for path in cache.rglob("blobs/*") if path.is_file())
    blob.write_bytes(b"PAR1" + blob.read_bytes()[4:-1] + b"?")
    assert coco_captions() == found
    assert coco.requests[FILE] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1 and nothing else", "is damaged"),
        (parquet(["no", "lists", "here"]), "no list of captions in a row"),
        (parquet([[], [], []]), "there is no caption"),
    ],
)
def test_a_file_of_another_form_is_refused(coco: Hub, content: bytes, message: str) -> None:
    coco.repos[COCO_REPO][FILE] = content
    with pytest.raises(UserError, match=message):
        coco_captions()


def test_a_data_set_without_that_part_is_refused(coco: Hub) -> None:
    del coco.repos[COCO_REPO][FILE]
    with pytest.raises(UserError, match=r"the hub has no data/validation-\*\.parquet"):
        coco_captions()


def test_a_file_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("a cat\n\n  two dogs  \n", encoding="utf-8")
    found = read_captions(path)
    assert found.texts == ("a cat", "two dogs")
    assert found.source == "captions.txt"
    assert found.sha256 != read_captions(Path(__file__)).sha256


ANNOTATIONS = [
    {"image_id": 9, "id": 3, "caption": "A dog. "},
    {"image_id": 2, "id": 8, "caption": "second"},
    {"image_id": 2, "id": 7, "caption": "first"},
]


@pytest.mark.parametrize(
    ("images", "texts"),
    [(None, ("first", "A dog.")), ([9, 4, 2], ("A dog.", "first"))],
)
def test_coco_captions_one_a_picture_in_the_files_order(
    tmp_path: Path, images: list[int] | None, texts: tuple[str, ...]
) -> None:
    path = tmp_path / "captions.json"
    held: dict[str, object] = {"annotations": ANNOTATIONS}
    if images is not None:
        held["images"] = [{"id": number} for number in images]
    path.write_text(json.dumps(held))
    assert read_captions(path).texts == texts


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, "cannot read the captions"),
        ("empty.txt", "\n\n", "no caption"),
        ("list.json", "[1]", "not a file of COCO captions"),
        ("other.json", '{"annotations": [{"id": 1}]}', "not a file of COCO captions"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_captions(tmp_path / name)


def test_parts_that_begin_together_fetch_it_once(coco: Hub) -> None:
    coco.slow[FILE] = 0.2
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: coco_captions(), range(3)))
    assert found[0] == found[1] == found[2]
    assert coco.requests[FILE] == 1


def test_a_cache_that_cannot_be_written_is_said(coco: Hub, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write the files"):
        coco_captions()
