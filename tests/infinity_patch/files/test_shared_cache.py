"""A complete cache that others look after is used as it is: nothing in it needs writing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files import cache_layout
from scalekv.infinity_patch.files.download import download
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.files.inventory import State, stored
from scalekv.infinity_patch.planning.health import Level, examine
from tests.hub_server import Hub

PRESET = model_named("infinity-2b")


def _read_only(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def shared(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole model in a cache in which no file can be written from now on."""
    download(PRESET)
    monkeypatch.setattr(cache_layout, "replace_text", _read_only)
    monkeypatch.setattr(Path, "mkdir", _read_only)
    return cache


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("refs", [True, False])
def test_a_whole_model_is_there(
    shared: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, refs: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if not refs:
        for folder in shared.glob("models--*/refs"):
            shutil.rmtree(folder)
    assert download(PRESET) == model_files(PRESET)
    assert stored(PRESET).state is State.DOWNLOADED


@pytest.mark.usefixtures("hub")
def test_of_two_versions_without_a_name_none_is_taken(cache: Path) -> None:
    path = download(PRESET).transformer
    for folder in cache.glob("models--*/refs"):
        shutil.rmtree(folder)
    shutil.copytree(path.parent, path.parent.with_name("0" * 40), symlinks=True)
    assert stored(PRESET).state is State.PARTLY


def test_the_doctor_takes_it_as_it_is(
    shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from scalekv.infinity_patch.planning import health

    monkeypatch.setattr(health, "_writable", lambda folder: folder != shared)
    monkeypatch.setattr(health, "_open", lambda _: None)
    findings = {f.name: f for f in examine(PRESET, None, tmp_path)}
    assert findings["cache folder"].level is Level.NOTE
