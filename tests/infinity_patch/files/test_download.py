"""Downloads from a hub on loopback: only what is needed, every byte checked, every failure said."""

from __future__ import annotations

import fcntl
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from scalekv.configs.models import ModelPreset, model_named
from scalekv.infinity_patch.files.cache_layout import PARTIALS
from scalekv.infinity_patch.files.download import DownloadProgress, download, plan_download
from scalekv.infinity_patch.files.hub import WeightsMissing, model_files
from scalekv.infinity_patch.files.transfer import DownloadRefused
from tests.hub_server import COMMIT, Hub

TRANSFORMER = "infinity_2b_reg.pth"
REPO = "FoundationVision/Infinity"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def preset() -> ModelPreset:
    """A published model; the hub on loopback has tiny files under its names."""
    return model_named("infinity-2b")


def repo(cache: Path) -> Path:
    return cache / "models--FoundationVision--Infinity"


def named(cache: Path) -> list[str]:
    """Names of the files that the cache claims to have of the model's repository."""
    return sorted(p.name for p in repo(cache).glob("snapshots/*/*") if p.is_file())


def test_only_needed_files_are_fetched_and_found(
    hub: Hub, cache: Path, preset: ModelPreset
) -> None:
    seen: list[DownloadProgress] = []
    paths = download(preset, on_progress=seen.append)
    assert paths == model_files(preset)
    assert paths.transformer.read_bytes() == hub.repos[REPO][TRANSFORMER]
    assert paths.text_encoder.joinpath("spiece.model").read_bytes() == b"pieces"
    assert sum(hub.requests.values()) == 10
    assert not {"README.md", "tf_model.h5", "infinity_vae_d56_f8_14_patchify.pth"} & {*hub.requests}
    assert seen[-1].done == seen[-1].total == plan_download(preset).total
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (repo(cache) / "refs" / "main").read_text() == COMMIT


def test_the_hubs_own_library_finds_the_files(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    paths = download(preset)
    assert try_to_load_from_cache(REPO, TRANSFORMER, cache_dir=cache) == str(paths.transformer)
    assert not scan_cache_dir(cache).warnings


def test_a_second_run_fetches_nothing(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    download(preset)
    hub.requests.clear()
    assert plan_download(preset).to_fetch == 0
    download(preset)
    assert not hub.requests


def test_shards_are_fetched_and_missed(hub: Hub, cache: Path) -> None:
    preset = model_named("infinity-8b")
    paths = download(preset)
    assert sorted(p.name for p in paths.transformer.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    (paths.transformer / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="infinity_8b_weights/model-00002-of-00002"):
        model_files(preset)


def test_what_is_there_is_not_asked_for_again(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    download(preset)
    hub.requests.clear()
    plan = plan_download(model_named("infinity-8b"))
    assert {file.part.label for file in plan.absent} == {"transformer", "vae"}


def test_a_plan_counts_and_fetches_nothing(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    plan = plan_download(preset)
    assert plan.total == plan.to_fetch == sum(file.size for file in plan.files)
    assert not hub.requests
    assert not cache.exists()


def test_a_broken_connection_is_taken_up_again(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    hub.cut[TRANSFORMER] = [4000, 100]
    assert download(preset).transformer.read_bytes() == hub.repos[REPO][TRANSFORMER]
    assert hub.ranges == [f"{TRANSFORMER} from 4000", f"{TRANSFORMER} from 4100"]


def test_an_interrupted_download_goes_on_where_it_was(
    hub: Hub, cache: Path, preset: ModelPreset
) -> None:
    hub.cut[TRANSFORMER] = [4000, 0, 0, 0, 0]
    with pytest.raises(DownloadRefused, match=r"broke after 4,000 of 10,240 bytes") as error:
        download(preset)
    assert "run the command again" in error.value.fix
    assert named(cache) == []
    with pytest.raises(WeightsMissing, match=f"{TRANSFORMER} is missing"):
        model_files(preset)
    plan = plan_download(preset)
    assert plan.total - plan.to_fetch == 4000
    hub.ranges.clear()
    download(plan)
    assert hub.ranges == [f"{TRANSFORMER} from 4000"]
    assert not list(repo(cache).glob(f"{PARTIALS}/*"))


def test_ctrl_c_leaves_a_partial_file_and_no_name(
    hub: Hub, cache: Path, preset: ModelPreset
) -> None:
    def press(progress: DownloadProgress) -> None:
        if progress.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(preset, on_progress=press)
    assert not (repo(cache) / "refs").exists()
    hub.requests.clear()
    download(preset)
    assert TRANSFORMER not in hub.requests


@pytest.mark.parametrize("name", [TRANSFORMER, "tokenizer.json"])
def test_a_corrupted_file_is_refused(hub: Hub, cache: Path, preset: ModelPreset, name: str) -> None:
    hub.corrupt.add(name)
    with pytest.raises(DownloadRefused, match=f"{name} arrived damaged") as error:
        download(preset)
    assert "the hub says" in error.value.what
    assert name not in named(cache)
    assert not list(cache.glob(f"*/{PARTIALS}/*"))
    hub.corrupt.clear()
    download(preset)


def test_a_damaged_beginning_is_fetched_again(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    hub.cut[TRANSFORMER] = [4000, 0, 0, 0, 0]
    with pytest.raises(DownloadRefused):
        download(preset)
    (partial,) = repo(cache).glob(f"{PARTIALS}/*")
    partial.write_bytes(b"x" * 4000)
    assert download(preset).transformer.read_bytes() == hub.repos[REPO][TRANSFORMER]


def test_a_cut_file_in_the_cache_is_not_taken_for_whole(
    hub: Hub, cache: Path, preset: ModelPreset
) -> None:
    blob = download(preset).transformer.resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    assert [file.name for file in plan_download(preset).absent] == [TRANSFORMER]
    assert download(preset).transformer.read_bytes() == hub.repos[REPO][TRANSFORMER]


def test_a_repository_that_is_not_there(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    del hub.repos["google/flan-t5-xl"]
    with pytest.raises(DownloadRefused, match=r"no such repository \(404\)") as error:
        download(preset)
    assert error.value.where.endswith("google/flan-t5-xl")
    assert not hub.requests


def test_a_revision_that_is_not_there(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    files = replace(preset.files, revision="v9")
    with pytest.raises(DownloadRefused, match=r"no such revision of the repository \(404\)"):
        download(replace(preset, files=files))


def test_a_file_that_is_not_listed_names_the_nearest(
    hub: Hub, cache: Path, preset: ModelPreset
) -> None:
    files = replace(preset.files, vae="infinity_vae_d32_reg.pth")
    with pytest.raises(DownloadRefused, match=r"no infinity_vae_d32_reg\.pth") as error:
        download(replace(preset, files=files))
    assert "infinity_vae_d32reg.pth" in error.value.fix


def test_a_file_that_vanished(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    hub.gone.add(TRANSFORMER)
    with pytest.raises(DownloadRefused, match=r"no such file \(404\)"):
        download(preset)


def test_access_needs_the_token(
    hub: Hub, cache: Path, preset: ModelPreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(DownloadRefused, match=r"refuses access \(401\)") as error:
        download(preset)
    assert "HF_TOKEN" in error.value.fix
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(preset)


@pytest.mark.parametrize(
    ("status", "message"), [(403, r"refuses access \(403\)"), (500, r"an error \(500\)")]
)
def test_other_answers(
    hub: Hub, cache: Path, preset: ModelPreset, status: int, message: str
) -> None:
    hub.statuses[TRANSFORMER] = status
    with pytest.raises(DownloadRefused, match=message):
        download(preset)


def test_no_disk_is_said_before_anything_is_fetched(
    hub: Hub, cache: Path, preset: ModelPreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 5000))
    with pytest.raises(DownloadRefused, match="no room for infinity-2b") as error:
        download(preset)
    assert "HF_HOME" in error.value.fix
    assert not hub.requests
    assert not cache.exists()


def test_a_disk_that_fills_up_keeps_what_arrived(
    hub: Hub, cache: Path, preset: ModelPreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalekv.infinity_patch.files import download as module

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "transfer", full)
        with pytest.raises(DownloadRefused, match="the disk is full"):
            download(preset)
    download(preset)


def test_offline_mode_is_heeded_and_finds_what_is_there(
    hub: Hub, cache: Path, preset: ModelPreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    asked = plan_download(preset)
    paths = download(preset)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    plan = plan_download(preset)
    assert (plan.to_fetch, plan.total) == (0, asked.total)
    assert {(f.name, f.checksum) for f in plan.files} == {(f.name, f.checksum) for f in asked.files}
    assert download(preset) == model_files(preset) == paths
    paths.vae.unlink()
    with pytest.raises(DownloadRefused, match="offline mode is on") as error:
        download(preset)
    assert "HF_HUB_OFFLINE" in error.value.fix
    assert not hub.requests


def test_nobody_listens(cache: Path, hub: Hub, preset: ModelPreset) -> None:
    with pytest.raises(DownloadRefused, match="cannot reach the hub"):
        download(preset, endpoint="http://127.0.0.1:1")


def test_two_downloads_of_a_file_do_not_mix(hub: Hub, cache: Path, preset: ModelPreset) -> None:
    partial = plan_download(preset).files[0].partial(cache)
    partial.parent.mkdir(parents=True)
    with partial.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadRefused, match="another download is fetching"):
            download(preset)


@pytest.mark.parametrize(("name", "message"), [("emoji", "needs no"), ("infinity-20b", "no weigh")])
def test_nothing_to_download(name: str, message: str) -> None:
    with pytest.raises(DownloadRefused, match=message):
        plan_download(model_named(name))
