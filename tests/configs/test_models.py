"""A user's own preset: read, and refused with file, key, rule and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scalekv.configs.models import FOLDER, model_named, read_preset
from scalekv.kv.errors import UserError


def shipped() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "infinity-2b.yaml").read_text())
    return content


def write(folder: Path, content: object) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_preset_is_called_what_its_file_is(tmp_path: Path) -> None:
    preset = model_named(str(write(tmp_path, shipped())))
    assert preset.name == "own"
    assert preset.downloadable
    assert preset.transformer == model_named("infinity-2b").transformer


def test_local_files_are_beside_the_preset(tmp_path: Path) -> None:
    content = shipped()
    content["files"].update(repo="", transformer="weights/mine.safetensors")
    preset = read_preset(write(tmp_path, content))
    assert preset.files.transformer == str(tmp_path / "weights" / "mine.safetensors")
    assert preset.files.text_encoder == "google/flan-t5-xl"
    assert not preset.built_in
    assert not preset.downloadable


@pytest.mark.parametrize(
    ("section", "key", "value", "what"),
    [
        ("", "pixels", "2M", "no pixel class '2M'"),
        ("", "ratios", "1:1", "'1:1' is no list"),
        ("", "weights", "x", "unknown key 'weights'"),
        ("", "sizes", {"transformer": 1}, "the key vae is missing"),
        ("transformer", "depth", "32", "'32' is no whole number"),
        ("transformer", "heads", 15, "in 15 heads"),
        ("transformer", "width", 0, "0 is too small"),
        ("sampling", "tau", 0, "tau is 0"),
        ("sampling", "top_p", 1.5, "top_p is 1.5"),
        ("sampling", "cfg", float("nan"), "cfg is nan"),
        ("files", "vae", "../secret", "is no name in a hub repository"),
        ("files", "vea", "x", "unknown key 'vea'"),
        ("tokenizer", "patchify", "yes", "is no truth value"),
    ],
)
def test_a_bad_value_is_refused(
    tmp_path: Path, section: str, key: str, value: object, what: str
) -> None:
    content = shipped()
    (content[section] if section else content)[key] = value
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_preset(path)
    assert what in error.value.what
    assert str(path) in error.value.where
    assert error.value.rule
    assert error.value.fix


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    content = shipped()
    del content["tokenizer"]
    with pytest.raises(UserError, match="the key tokenizer is missing"):
        read_preset(write(tmp_path, content))


def test_what_is_no_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the preset"):
        model_named(str(tmp_path / "none.yaml"))
    path = tmp_path / "broken.yaml"
    for text in ("[1, 2", "just text", ""):
        path.write_text(text)
        with pytest.raises(UserError) as error:
            read_preset(path)
        assert error.value.fix
