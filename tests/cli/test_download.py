"""Every way a download ends, with the message on stderr and the exit code a script sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.infinity_patch.files.cache_layout import PARTIALS
from tests.cli.conftest import Outcome
from tests.hub_server import Hub

Program = Callable[..., Outcome]
TRANSFORMER = "infinity_2b_reg.pth"
Usage = namedtuple("Usage", "total used free")


def whole(cache: Path, hub: Hub) -> bool:
    """Whether everything the cache has a name for is what the hub has."""
    contents = {name: data for repo in hub.repos.values() for name, data in repo.items()}
    named = [path for path in cache.glob("*/snapshots/*/**/*") if path.is_file()]
    return all(path.read_bytes() in contents.values() for path in named)


def no_repository(hub: Hub) -> None:
    del hub.repos["google/flan-t5-xl"]


def no_file(hub: Hub) -> None:
    hub.gone.add(TRANSFORMER)


def no_token(hub: Hub) -> None:
    hub.token = "hf_secret"


def damaged(hub: Hub) -> None:
    hub.corrupt.add(TRANSFORMER)


def broken(hub: Hub) -> None:
    hub.cut[TRANSFORMER] = [4000, 0, 0, 0, 0]


FAULTS: dict[Callable[[Hub], None], list[str]] = {
    no_repository: ["no such repository (404)", "google/flan-t5-xl"],
    no_file: ["no such file (404)", TRANSFORMER],
    no_token: ["refuses access (401)", "HF_TOKEN"],
    damaged: ["arrived damaged", "SHA-256", "scalekv download infinity-2b again"],
    broken: ["the connection broke after 4,000 of 10,240 bytes", "goes on where it was"],
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_of_the_hub(
    scalekv: Program, hub: Hub, cache: Path, fault: Callable[[Hub], None]
) -> None:
    fault(hub)
    done = scalekv("download", "infinity-2b")
    assert (done.code, done.out) == (2, "")
    for word in FAULTS[fault]:
        assert word in done.err
    assert "Traceback" not in done.err
    assert whole(cache, hub)
    generated = scalekv("generate", "a red apple", "--model", "infinity-2b")
    assert generated.code == 2
    assert "scalekv download infinity-2b" in generated.err


def test_no_disk(scalekv: Program, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 5000))
    done = scalekv("download", "infinity-2b")
    assert (done.code, done.out) == (2, "")
    assert "the disk has no room for infinity-2b" in done.err
    assert "HF_HOME" in done.err
    assert not hub.requests
    assert not cache.exists()


def test_offline_with_nothing_here(
    scalekv: Program, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = scalekv("download", "infinity-2b")
    assert (done.code, done.out) == (2, "")
    assert "offline mode is on" in done.err
    assert "HF_HUB_OFFLINE" in done.err


def test_offline_with_everything_here(
    scalekv: Program, hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    first = scalekv("download", "infinity-2b")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    done = scalekv("download", "infinity-2b")
    assert (done.code, done.out) == (0, first.out)
    assert "everything is here already (offline mode: the hub was not asked)" in done.err
    planned = scalekv("download", "infinity-2b", "--dry-run", "--json")
    assert json.loads(planned.out)["to_fetch_bytes"] == 0
    assert not hub.requests


def test_a_second_run_downloads_nothing(scalekv: Program, hub: Hub, cache: Path) -> None:
    first = scalekv("download", "infinity-2b")
    assert first.code == 0
    hub.requests.clear()
    second = scalekv("download", "infinity-2b")
    assert (second.code, second.out) == (0, first.out)
    assert "everything is here already" in second.err
    assert not hub.requests


def test_a_broken_connection_is_taken_up_by_the_next_run(
    scalekv: Program, hub: Hub, cache: Path
) -> None:
    broken(hub)
    assert scalekv("download", "infinity-2b").code == 2
    hub.ranges.clear()
    done = scalekv("download", "infinity-2b")
    assert done.code == 0
    assert hub.ranges == [f"{TRANSFORMER} from 4000"]
    assert whole(cache, hub)
    assert not list(cache.glob(f"*/{PARTIALS}/*"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_interruption_is_taken_up_by_the_next_run(
    hub: Hub, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    content = os.urandom(3 << 20)
    hub.repos["FoundationVision/Infinity"][TRANSFORMER] = content
    hub.slow[TRANSFORMER] = 0.05
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "SCALEKV_CONFIG": "",
    }
    command = [sys.executable, "-m", "scalekv"]
    command += ["download", "infinity-2b"]
    running = subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
    repository = tmp_path / "home" / "hub" / "models--FoundationVision--Infinity"
    give_up = time.monotonic() + 60
    while not (left := [p for p in repository.glob(f"{PARTIALS}/*") if p.stat().st_size > 1 << 18]):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < give_up, "nothing arrived"
        time.sleep(0.02)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (code, "")
    assert number == signal.SIGKILL or "the same command goes on from there" in err
    assert not list(repository.glob("snapshots/*/*"))
    kept = left[0].stat().st_size
    assert 0 < kept < len(content)
    hub.slow.clear()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert hub.ranges == [f"{TRANSFORMER} from {kept}"]
    assert Path(again.stdout.splitlines()[0]).read_bytes() == content


def test_what_comes_with_the_program_is_there(scalekv: Program, hub: Hub, cache: Path) -> None:
    done = scalekv("download", "emoji")
    assert done.code == 0
    assert "emoji: everything is here already, it comes with scalekv" in done.err
    paths = [Path(line) for line in done.out.splitlines()]
    assert [path.name for path in paths] == [
        "transformer.safetensors",
        "vae.safetensors",
        "text_encoder",
    ]
    assert all(path.exists() for path in paths)
    answer = scalekv("download", "emoji", "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    facts = json.loads(answer.out)
    assert facts["paths"]["vae"] == str(paths[1])
    assert (facts["to_fetch_bytes"], facts["files"]) == (0, [])
    assert scalekv("download", "emoji", "--dry-run").code == 0
    unreleased = scalekv("download", "infinity-layer16")
    assert unreleased.code == 2
    assert "ever released" in unreleased.err
