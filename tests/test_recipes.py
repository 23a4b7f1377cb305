"""The shell recipes of scripts/: clean, and tried on the built-in model or on a stand-in for it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.infinity_patch.files.hub import BUILT_IN

SCRIPTS = Path(__file__).parents[1] / "scripts" / "recipes"
RECIPES = ["all-gpus.sh", "first-picture.sh", "nightly-batch.sh", "slurm-array.sh"]
REAL = """\
#!/bin/sh
exec "{python}" -m scalekv "$@"
"""
with_weights = pytest.mark.skipif(
    not (BUILT_IN / "emoji" / "transformer.safetensors").exists(),
    reason="the built-in model's weights are not here",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two prompts, and no settings of the user's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SCALEKV_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SCALEKV_CONFIG", "config.yaml")
    (tmp_path / "config.yaml").write_text("memory_report: json\ndevice: cpu\n")
    (tmp_path / "prompts.txt").write_text("a red apple\nan octopus\n")
    return tmp_path


def program(folder: Path, text: str = REAL) -> dict[str, str]:
    """The environment in which recipes call this program."""
    path = folder / "scalekv"
    path.write_text(text.format(python=sys.executable) if text is REAL else text)
    path.chmod(0o755)
    return {"SCALEKV": str(path)}


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").glob("*.png"))


ALL = ["00000-0-a-red-apple.png", "00001-1-an-octopus.png"]


def test_every_recipe_is_here_and_clean() -> None:
    assert sorted(path.name for path in SCRIPTS.glob("*.sh")) == RECIPES
    for path in SCRIPTS.glob("*.sh"):
        assert os.access(path, os.X_OK)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [shellcheck, *SCRIPTS.glob("*.sh")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["all-gpus.sh", "nightly-batch.sh", "slurm-array.sh"])
def test_without_arguments_they_say_how(name: str) -> None:
    done = run(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert "FILE OUT" in done.stderr


@with_weights
def test_a_task_of_a_slurm_array(folder: Path, encoded_before: Callable[..., None]) -> None:
    encoded_before(*(folder / "prompts.txt").read_text().splitlines())
    task = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "5"}
    done = run("slurm-array.sh", "prompts.txt", "out", **program(folder), **task)
    assert done.returncode == 0, done.stderr
    assert len(pictures(folder)) == len(done.stdout.split()) == 1


@pytest.mark.parametrize(
    ("task", "shard"),
    [(("1", "1", "3"), "1/3"), (("7", "5", "8"), "3/4"), (("0", "0", "1"), "1/2")],
)
def test_the_shard_of_a_slurm_task(folder: Path, task: tuple[str, ...], shard: str) -> None:
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
    environment = {**program(folder, "#!/bin/sh\necho $*\n"), **dict(zip(names, task, strict=True))}
    done = run("slurm-array.sh", "prompts.txt", "out", "--budget", "20%", **environment)
    assert done.stdout == f"batch prompts.txt --out out --shard {shard} --resume --budget 20%\n"


def test_all_gpus(folder: Path) -> None:
    environment = program(folder, "#!/bin/sh\necho $*\n")
    done = run("all-gpus.sh", "prompts.txt", "out", "--budget", "20%", **environment)
    asked = "--resume --engine ray --device cuda --budget 20%"
    assert done.stdout == f"batch prompts.txt --out out {asked}\n"


@with_weights
def test_a_night(folder: Path, encoded_before: Callable[..., None]) -> None:
    encoded_before(*(folder / "prompts.txt").read_text().splitlines())
    done = run("nightly-batch.sh", "prompts.txt", "out", **program(folder), MAX_HOURS="1")
    assert done.returncode == 0, (folder / "out" / "nightly.log").read_text()
    assert sorted(Path(line).name for line in done.stdout.split()) == ALL
    assert "exit code 0" in (folder / "out" / "nightly.log").read_text()


def test_never_two_nights_at_once(folder: Path) -> None:
    (folder / "out").mkdir()
    with (folder / "out" / ".nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("nightly-batch.sh", "prompts.txt", "out", **program(folder, "#!/bin/sh\n"))
    assert done.returncode == 75
    assert "going on already" in done.stderr


@pytest.mark.parametrize(
    ("codes", "expected", "runs"),
    [("0", 0, 1), ("1 0", 0, 2), ("1 1", 1, 2), ("2", 2, 1), ("130", 130, 1)],
)
def test_how_a_night_ends(folder: Path, codes: str, expected: int, runs: int) -> None:
    text = f"#!/bin/bash\necho x >> runs; set -- {codes}; shift $(($(wc -l < runs) - 1)); exit $1\n"
    done = run("nightly-batch.sh", "prompts.txt", "out", **program(folder, text))
    assert done.returncode == expected
    assert len((folder / "runs").read_text().split()) == runs


def test_time_is_up(folder: Path) -> None:
    text = "#!/bin/bash\ntrap 'exit 130' INT\nfor _ in {1..600}; do sleep 0.1; done\n"
    start = time.monotonic()
    done = run("nightly-batch.sh", "p.txt", "out", **program(folder, text), MAX_HOURS="0.0003")
    assert done.returncode == 130
    assert time.monotonic() - start < 30


@with_weights
def test_the_first_picture(folder: Path, encoded_before: Callable[..., None]) -> None:
    encoded_before("a red apple")
    done = run("first-picture.sh", "emoji", "a red apple", "--out", "out", **program(folder))
    assert (done.returncode, done.stdout) == (0, "out/0-a-red-apple.png\n"), done.stderr
    assert "checking the machine for emoji" in done.stderr


def test_what_the_first_picture_lacks_is_fetched(folder: Path) -> None:
    text = (
        '#!/bin/bash\necho "$*" >> calls\n'
        "case $1 in doctor) [[ -e fetched ]] ;; download) touch fetched ;; esac\n"
    )
    done = run("first-picture.sh", **program(folder, text))
    assert done.returncode == 0, done.stderr
    assert (folder / "calls").read_text().splitlines() == [
        "doctor --model infinity-2b",
        "download infinity-2b",
        "doctor --model infinity-2b",
        "generate a red apple on a wooden table --model infinity-2b",
    ]
