"""The container file and the recipes that use its image, as far as that shows without an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import bare_root

ROOT = Path(__file__).parents[1]
STEPS = list(bare_root.steps(ROOT / "Containerfile"))
JOB = ROOT / "scripts" / "recipes" / "kubernetes-job.yaml"


def of(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("there is no build of hadolint for this platform")
    done = subprocess.run(
        [hadolint, ROOT / "Containerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_is() -> None:
    (base,) = of("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d+\.\d+", base)
    (user,) = of("USER")
    assert int(user) > 0
    (check,) = of("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["scalekv", "doctor"]
    assert json.loads(of("VOLUME")[0]) == ["/models", "/work"]


def test_all_that_is_packaged_is_copied() -> None:
    copied = {source for rest in of("COPY") for source in rest.split()[:-1]}
    assert copied == {
        *("cli", "configs", "infinity_patch", "kv"),
        *("LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
    }
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{source}" for source in copied} <= set(ignored)


def test_steps_in_a_bare_root(tmp_path: Path) -> None:
    build = bare_root.Build(tmp_path, {"WHERE": "there"}, {})
    for step in (
        ("ARG", "WHERE=here"),
        ("ENV", "PATH=/opt/bin:$PATH HF_HOME=/models"),
        ("WORKDIR", "/src"),
        ("COPY", "LICENSE README.md ./"),
        ("COPY", "kv kv"),
        ("USER", "10001"),
    ):
        build.step(*step)
    assert build.environment["WHERE"] == "there"
    assert build.environment["PATH"].startswith("/opt/bin:/usr/sbin")
    assert (tmp_path / "src" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (tmp_path / "src" / "kv" / "sizes.py").is_file()
    assert build.user == "10001"
    with pytest.raises(SystemExit, match="no such step"):
        build.step("ONBUILD", "RUN x")


def test_the_job_of_kubernetes(tmp_path: Path) -> None:
    job: dict[str, Any] = yaml.safe_load(JOB.read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (batch,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in batch["env"]}
    assert int(environment["SHARDS"]) == spec["completions"]
    assert pod["securityContext"]["runAsUser"] == int(of("USER")[0])
    fake = tmp_path / "scalekv"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [*batch["command"], *batch["args"]],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "JOB_COMPLETION_INDEX": "7",
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "batch prompts.txt --out out --shard 8/8 --resume\n"


def test_a_slurm_task_in_an_image(tmp_path: Path) -> None:
    fake = tmp_path / "apptainer"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "recipes" / "slurm-array.sh", "p.txt", "out"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": "2",
            "IMAGE": "scalekv.sif",
            "MODELS": "/shared",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    run = "exec --nv --bind /shared:/models scalekv.sif scalekv"
    assert done.stdout == f"{run} batch p.txt --out out --shard 2/2 --resume\n"
