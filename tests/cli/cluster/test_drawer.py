"""A worker, called as Ray would call it: what it sends, and what it writes into a shared folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli.batch.drawing import Failed, Finished
from scalekv.cli.batch.file import PromptFile
from scalekv.cli.batch.jobs import Job, jobs_of
from scalekv.cli.batch.rows import Row
from scalekv.cli.choices import Choices, Options, choose
from scalekv.cli.cluster.drawer import (
    Drawer,
    Errand,
    FolderLost,
    Ready,
    Shared,
    StretchDone,
    versions,
)
from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.names import NameTemplate
from scalekv.kv.errors import UserError
from tests.cli.conftest import StandIn

RECORDED = {"request": {}, "files": {"mine.yaml": "0123"}, "objects": []}


@pytest.fixture
def choices(stand_in: StandIn) -> Choices:
    return choose(Options((), {"out": Path("out"), "device": "cpu"}), {})


@pytest.fixture
def jobs(choices: Choices) -> list[Job]:
    rows = [Row(line, {"prompt": prompt}) for line, prompt in enumerate(("an owl", "a fox"), 1)]
    return jobs_of(PromptFile("p.txt", rows=rows), choices, NameTemplate("{index}"), "cpu")


@pytest.fixture
def shared() -> Shared:
    folder = OutputFolder(Path("out"), owner="manifest")
    folder.prepare()
    return Shared(Path("out").absolute(), "manifest", folder.leave_sign().name)


def loaded(choices: Choices, jobs: Sequence[Job], shared: Shared | None = None) -> Drawer:
    drawer = Drawer()
    order = Errand(choices, (jobs[0].settled,), shared)
    answer = drawer.load(pickle.loads(pickle.dumps(order)))  # as it travels
    assert isinstance(answer, Ready), answer
    return drawer


def told(drawer: Drawer, jobs: Sequence[Job]) -> dict[int, Any]:
    """What is said of every job."""
    *said, last = drawer.draw(pickle.loads(pickle.dumps(list(jobs))), RECORDED)
    assert isinstance(last, StretchDone)
    return {entry[0]: entry[1] for entry in said if isinstance(entry, tuple)}


def test_pictures_go_to_the_driver(choices: Choices, jobs: list[Job]) -> None:
    said = told(loaded(choices, jobs), jobs)
    assert list(said) == [0, 1]
    first = said[0]
    assert first.data.startswith(b"\x89PNG")
    assert first.size == len(first.data)
    assert first.sidecar["job"] == jobs[0].mark
    # the driver has the files that a request names, a node may not
    assert first.sidecar["settings"]["recorded"] == RECORDED
    assert pickle.loads(pickle.dumps(first)) == first
    assert not list(Path("out").glob("*"))


def test_a_picture_that_fails_takes_no_other_with_it(
    choices: Choices, jobs: list[Job], stand_in: StandIn
) -> None:
    stand_in.failing, stand_in.error = ("an owl",), ValueError("boom")
    said = told(loaded(choices, jobs), jobs)
    assert isinstance(said[0], Failed)
    assert said[0].reason == "ValueError: boom"
    assert "Traceback" in said[0].trace
    assert isinstance(said[1], Finished)


def test_workers_write(choices: Choices, jobs: list[Job], shared: Shared) -> None:
    said = told(loaded(choices, jobs, shared), jobs)
    for job in jobs:
        data = Path(f"out/{job.name}.png").read_bytes()
        assert (said[job.index].data, said[job.index].size) == (None, len(data))
        assert json.loads(Path(f"out/{job.name}.json").read_text())["job"] == job.mark


def test_what_a_dead_worker_had_written_is_not_drawn_again(
    choices: Choices, jobs: list[Job], shared: Shared, stand_in: StandIn
) -> None:
    before = told(loaded(choices, jobs, shared), jobs[:1])[0]
    stand_in.requests.clear()
    # of the other one there is the sidecar alone
    Path("out/1.json").write_text(json.dumps({"job": jobs[1].mark}))
    said = told(loaded(choices, jobs, shared), jobs)
    assert [request.prompts for request in stand_in.requests] == [("a fox",)]
    assert (said[0].size, said[0].sha256, said[0].seconds) == (before.size, before.sha256, 0.5)
    assert said[0].listed == before.listed
    assert said[0].common == before.common
    assert {path.suffix for path in Path("out").glob("1.*")} == {".png", ".json"}


def test_another_file_of_that_name_is_left(
    choices: Choices, jobs: list[Job], shared: Shared
) -> None:
    Path("out/0.png").write_bytes(b"somebody else's")
    said = told(loaded(choices, jobs, shared), jobs)
    assert isinstance(said[0], Failed)
    assert "came into the folder meanwhile" in said[0].reason
    assert Path("out/0.png").read_bytes() == b"somebody else's"


def test_a_folder_that_cannot_be_written_to_any_more(
    choices: Choices, jobs: list[Job], shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawer = loaded(choices, jobs, shared)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OutputFolder, "_write", full)
    (last,) = drawer.draw(jobs, RECORDED)
    assert isinstance(last, FolderLost)
    assert "No space left" in last.why


def test_a_folder_that_is_not_the_drivers(
    choices: Choices, jobs: list[Job], shared: Shared
) -> None:
    (shared.path / shared.sign).unlink()
    answer = Drawer().load(Errand(choices, (), shared))
    assert isinstance(answer, UserError)
    assert "not the folder that the command sees" in answer.what


def test_what_a_node_lacks_travels_as_it_is(choices: Choices, tmp_path: Path) -> None:
    from scalekv.infinity_patch.files.hub import WeightsMissing

    error = WeightsMissing("no file", where="x", fix="scalekv download infinity-2b")
    arrived = pickle.loads(pickle.dumps(error))
    assert (arrived.what, arrived.fix, arrived.kind) == (error.what, error.fix, "weights-missing")


def test_where_and_with_what() -> None:
    assert versions().keys() == {"scalekv", "torch", "pillow"}
