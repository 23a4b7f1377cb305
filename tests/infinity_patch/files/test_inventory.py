"""What is on this machine: states, sizes, hashes, and removing no more than one model's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scalekv.configs.models import model_named
from scalekv.infinity_patch.files import hub as hub_module
from scalekv.infinity_patch.files.download import download, plan_download
from scalekv.infinity_patch.files.hub import WeightsMissing, model_files
from scalekv.infinity_patch.files.inventory import (
    State,
    Verdict,
    full_cache,
    removable,
    remove,
    stored,
    verify,
)
from scalekv.infinity_patch.files.transfer import DownloadRefused
from scalekv.kv.errors import UserError
from tests.hub_server import Hub

TRANSFORMER = "infinity_2b_reg.pth"


def test_states_and_sizes(hub: Hub, cache: Path) -> None:
    small, large = model_named("infinity-2b"), model_named("infinity-8b")
    assert stored(small).state is State.ABSENT
    hub.cut["infinity_vae_d32reg.pth"] = [700, 0, 0, 0, 0]
    with pytest.raises(DownloadRefused):
        download(small)
    assert stored(small).state is State.PARTLY
    assert stored(small).nbytes == len(hub.repos[small.files.repo][TRANSFORMER]) + 700
    download(small)
    assert stored(small).state is State.DOWNLOADED
    assert stored(small).nbytes == plan_download(small).total
    assert stored(large).state is State.ABSENT  # though its text encoder is here
    assert stored(model_named("infinity-20b")).state is State.UNRELEASED


def test_verify_reads_what_is_stored(hub: Hub, cache: Path) -> None:
    preset = model_named("infinity-2b")
    with pytest.raises(WeightsMissing):
        verify(preset)
    blob = download(preset).transformer.resolve()
    assert {verdict for _, verdict in verify(preset)} == {Verdict.WHOLE}
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    damaged = [path.name for path, verdict in verify(preset) if verdict is Verdict.DAMAGED]
    assert damaged == [TRANSFORMER]


def test_removing_leaves_what_others_use(hub: Hub, cache: Path) -> None:
    small, large = model_named("infinity-2b"), model_named("infinity-8b")
    download(small)
    download(large)
    before = stored(small).nbytes
    files = removable(small)
    assert {path.name for path in files} == {TRANSFORMER, "infinity_vae_d32reg.pth"}
    freed = remove(files)
    assert freed == sum(len(hub.repos[small.files.repo][path.name]) for path in files)
    assert stored(small).nbytes == before - freed
    model_files(large)
    with pytest.raises(WeightsMissing):
        model_files(small)
    remove(removable(large))
    assert not [path for path in cache.glob("*/blobs/*") if path.is_file()]


def test_removing_takes_an_interrupted_download_away(hub: Hub, cache: Path) -> None:
    preset = model_named("infinity-2b")
    hub.cut[TRANSFORMER] = [700, 0, 0, 0, 0]
    with pytest.raises(DownloadRefused):
        download(preset)
    assert remove(removable(preset)) == 700
    assert stored(preset).state is State.ABSENT


def test_without_links_the_files_are_still_found(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    preset = model_named("infinity-2b")
    download(preset)
    assert plan_download(preset).to_fetch == 0
    assert {verdict for _, verdict in verify(preset)} == {Verdict.UNCHECKED}
    remove(removable(preset))
    assert stored(preset).state is State.ABSENT


def test_the_built_in_model_cannot_be_removed(cache: Path) -> None:
    assert removable(model_named("emoji")) == ()


def test_full_cache_is_the_arithmetic() -> None:
    # 6425 tokens of history, 32 layers, two sequences, width 2048, k and v, two bytes each
    assert full_cache(model_named("infinity-2b")) == 6425 * 32 * 2 * 2048 * 2 * 2


def test_the_built_in_model_is_verified_by_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = model_named("emoji")
    assert {verdict for _, verdict in verify(preset)} == {Verdict.WHOLE}
    copy = Path(shutil.copytree(hub_module.BUILT_IN / "emoji", tmp_path / "emoji"))
    monkeypatch.setattr(hub_module, "BUILT_IN", tmp_path)
    vae = copy / "vae.safetensors"
    content = vae.read_bytes()
    vae.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (copy / "text_encoder" / "tokenizer_config.json").unlink()
    (copy / "text_encoder" / "more.json").write_text("{}")
    verdicts = {path.relative_to(copy).as_posix(): verdict for path, verdict in verify(preset)}
    odd = {name: verdict for name, verdict in verdicts.items() if verdict is not Verdict.WHOLE}
    assert odd == {
        "vae.safetensors": Verdict.DAMAGED,
        "text_encoder/tokenizer_config.json": Verdict.DAMAGED,
        "text_encoder/more.json": Verdict.UNCHECKED,
    }
    (copy / "SHA256SUMS").write_text("no list")
    with pytest.raises(UserError, match="SHA256SUMS is damaged"):
        verify(preset)
