"""Readers that leave, streams that are closed from the start, encodings that lack characters."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, StandIn
from tests.cli.test_main import PROGRAM, start

Program = Callable[..., Outcome]

LATIN = ["latin-1", "ascii"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of bash in which "$@" is the program."""
    given = {**os.environ, **environment}
    return subprocess.run(
        ["bash", "-c", command, "bash", *PROGRAM], capture_output=True, check=False, env=given
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "generate --help",
        "models",
        "plan --json",
    ],
)
@pytest.mark.parametrize("ending", [">&-", "| head -0", "2>&-", "<&-"])
def test_closed_streams_have_one_code(arguments: str, ending: str) -> None:
    done = shell(f'"$@" {arguments} {ending}; exit ${{PIPESTATUS[0]}}')
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_of_stderr_that_leaves_stops_no_batch() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Path("p.txt").write_text("a\nb\n")
    program = start("batch", "p.txt", pause=0, stderr=writer)
    os.close(writer)
    output, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    assert len(output.splitlines()) == len(list(Path("out").glob("*.png"))) == 2
    assert Path("out/report.json").exists()


def test_a_closed_stdout_takes_nobodys_place() -> None:
    """Without anything in its place the next file that is opened would be what print writes to."""
    Path("p.txt").write_text("a\nb\n")
    program = start("batch", "p.txt", "--quiet", pause=0, before=lambda: os.close(1))
    program.communicate(timeout=120)
    assert program.returncode == 0
    lines = Path("out/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize("encoding", LATIN)
def test_no_encoding_ends_a_run(encoding: str, scalekv: Program, stand_in: StandIn) -> None:
    Path("p.txt").write_text("猫の絵\nå\na fox\n")
    environment = {"PYTHONIOENCODING": encoding}
    program = start(
        "batch", "p.txt", "--name", "{slug}", pause=0, environment=environment, text=False
    )
    output, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    names = sorted(path.name for path in Path("out").glob("*.png"))
    assert names == sorted(["猫の絵.png", "å.png", "a-fox.png"])
    assert output.splitlines()[0].startswith(rb"out/\u732b")


@pytest.mark.parametrize("encoding", LATIN)
@pytest.mark.parametrize("arguments", ["generate --help", "plan --model infinity-2b"])
def test_help_and_tables_in_any_encoding(arguments: str, encoding: str) -> None:
    done = shell(f'"$@" {arguments}', PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")


def test_json_is_ascii() -> None:
    done = shell('"$@" generate x --budget é猫 --json', PYTHONIOENCODING="latin-1")
    assert done.returncode == 2
    assert "é猫" in json.loads(done.stderr.decode("ascii"))["error"]["what"]
    Path("é猫").mkdir()
    done = shell('"$@" config --json', PYTHONIOENCODING="latin-1", SCALEKV_OUT="é猫")
    settings = json.loads(done.stdout.decode("ascii"))["settings"]
    assert "é猫" in json.dumps(settings, ensure_ascii=False)


def test_a_name_that_is_no_text_comes_out_as_it_is(scalekv: Program, stand_in: StandIn) -> None:
    folder = os.fsdecode(b"out-\xff")
    program = start("generate", "a", "--quiet", "--out", folder, pause=0, text=False)
    output, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    assert output == b"out-\xff/0-a.png\n"


def test_file_names_in_the_posix_locale() -> None:
    """File names are ASCII there, whatever prompts are."""
    Path("p.txt").write_text("猫の絵\na fox\n", encoding="utf-8")
    posix = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    program = start("batch", "p.txt", "--quiet", pause=0, environment=posix)
    output, _ = program.communicate(timeout=300)
    assert program.returncode == 0
    assert output == "out/00000-0-picture.png\nout/00001-1-a-fox.png\n"
    Path("p.csv").write_text("prompt,name\na fox,猫\n", encoding="utf-8")
    program = start("batch", "p.csv", "--quiet", pause=0, environment=posix)
    _, output = program.communicate(timeout=300)
    assert (program.returncode, "a name has only characters" in output) == (2, True)
