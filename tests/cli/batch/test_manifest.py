"""The manifest: whole lines on the disk, one writer, and what a kill leaves of it mended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli.batch.manifest import Manifest, ManifestEntry, manifest_name, read_manifests
from scalekv.cli.pictures.folder import CannotWrite
from scalekv.kv.errors import UserError


def line(file: str = "a.png", job: str = "1") -> dict[str, Any]:
    return {"file": file, "job": job, "bytes": 5}


def test_lines_are_appended() -> None:
    path = Path("manifest.jsonl")
    with Manifest(path) as manifest:
        manifest.append(line())
        assert path.read_text() == json.dumps(line()) + "\n"
    with Manifest(path) as manifest:
        assert manifest.lines == 1
        manifest.append(line("é.png"))
    assert read_manifests(Path()) == {
        "a.png": ManifestEntry("a.png", "1", 5),
        "é.png": ManifestEntry("é.png", "1", 5),
    }


def test_a_manifest_without_a_line_is_not_left() -> None:
    with Manifest(Path("manifest.jsonl")):
        pass
    assert os.listdir() == []


@pytest.mark.parametrize("torn", ['{"file": "b.p', json.dumps(line("b.png")), "\0\0\0"])
def test_a_torn_last_line_is_dropped(torn: str) -> None:
    path = Path("manifest.jsonl")
    path.write_text(json.dumps(line()) + "\n" + torn)
    assert list(read_manifests(Path())) == ["a.png"]
    with Manifest(path) as manifest:
        assert manifest.lines == 1
        assert path.read_text() == json.dumps(line()) + "\n"


@pytest.mark.parametrize("wrong", ["", "{}", "[]", "null", '{"file": "a", "job": "1"}', "\0"])
def test_a_line_that_somebody_changed_is_named(wrong: str) -> None:
    Path("manifest.jsonl").write_text(f"{json.dumps(line())}\n{wrong}\n{json.dumps(line())}\n")
    with pytest.raises(UserError) as refusal:
        read_manifests(Path())
    assert refusal.value.where == "manifest.jsonl, line 2"


def test_the_last_line_about_a_file_counts_and_every_part_has_its_own() -> None:
    for shard, job in ((None, "1"), ((1, 2), "2"), ((2, 2), "3")):
        with Manifest(Path(manifest_name(shard))) as manifest:
            manifest.append(line("a.png" if shard is None else f"{shard[0]}.png", job))
    with Manifest(Path("manifest.jsonl")) as manifest:
        manifest.append(line("a.png", "4"))
    jobs = {name: entry.job for name, entry in read_manifests(Path()).items()}
    assert jobs == {"a.png": "4", "1.png": "2", "2.png": "3"}


def test_one_writer() -> None:
    path = Path("manifest.jsonl")
    with Manifest(path), pytest.raises(UserError, match="another run") as refusal:
        Manifest(path)
    assert "--shard" in refusal.value.fix
    with Manifest(path):
        pass


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with Manifest(Path("manifest.jsonl")) as manifest:
        assert not manifest.locked


def test_a_full_disk_leaves_no_part_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("manifest.jsonl")
    write = os.write
    with Manifest(path) as manifest:
        manifest.append(line())
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda file, data: write(file, data[:7]))
            with pytest.raises(CannotWrite, match="No space left"):
                manifest.append(line("b.png"))
        manifest.append(line("c.png"))
    assert list(read_manifests(path.parent)) == ["a.png", "c.png"]


def test_a_manifest_that_cannot_be_written() -> None:
    Path("manifest.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot write the manifest"):
        Manifest(Path("manifest.jsonl"))
