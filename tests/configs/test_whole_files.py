"""Files and folders that appear whole or not at all, also where the writing fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.configs.whole_files import replace_text, replacing


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")
    with replacing(path) as hidden:
        hidden.write_text("new")
        assert path.read_text() == "old"
        assert hidden.parent == tmp_path
        assert hidden.name.startswith(".")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def fail_halfway(path: Path, is_folder: bool) -> None:
    with replacing(path) as hidden:
        if is_folder:
            hidden.mkdir()
        (hidden / "half" if is_folder else hidden).write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "kept"
    if not is_folder:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        fail_halfway(path, is_folder)
    assert [p.name for p in tmp_path.iterdir()] == ([] if is_folder else ["kept"])
    assert is_folder or path.read_text() == "old"


def test_a_folder_is_moved_into_its_place(tmp_path: Path) -> None:
    with replacing(tmp_path / "folder") as hidden:
        hidden.mkdir()
        (hidden / "file").write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "whole"
