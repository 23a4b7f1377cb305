"""The program as a process: start-up, exit codes, signals and pipes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalekv.cli import main as main_module
from scalekv.cli.console import errors
from scalekv.cli.main import main
from scalekv.kv import extras
from scalekv.kv.errors import UserError
from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]

PROGRAM = [sys.executable, "-m", "scalekv"]

# The heavy half as a process of its own sees it: pictures at a set pace, and nothing imported.
SLOW = """
import sys, time
import scalekv.cli.console.interrupts as interrupts
interrupts.leave_at_once()
import tests.cli.conftest as stand_ins
from pathlib import Path
from scalekv.cli import engine
from scalekv.cli.main import main
from scalekv.infinity_patch.asked.settled import settle
fake = stand_ins.StandIn()
def slowly(*arguments):
    for picture in fake.generate(*arguments):
        yield picture
        time.sleep({pause})
def check(request, preset, folder, dtype, device):
    return settle(request, preset, device, dtype)
engine.check, engine.load, engine.generate = check, fake.load, slowly
engine.encode = lambda _, texts: None
sys.exit(main())
"""
ROOT = Path(__file__).parents[2]


def start(
    *arguments: str,
    pause: float,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    text: bool = True,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[Any]:
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT)]  # the same scalekv as in this process
    given = {**os.environ, **(environment or {})}
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.format(pause=pause), *arguments],
        stdout=stdout,
        stderr=stderr,
        text=text,
        env={**given, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        preexec_fn=before,
    )


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys; from scalekv.cli.main import main; code = main(['generate', '--help']);"
        "heavy = {'torch', 'transformers', 'tokenizers', 'PIL', 'numpy'} & set(sys.modules);"
        "sys.exit(code or ' '.join(heavy) or 0)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Processor time, which other programs do not stretch much; the half second promised is of an
    # idle machine, where this takes 0.2 s.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_checks_come_before_torch() -> None:
    code = (
        "import sys; from scalekv.cli.main import main; code = main(['generate', 'x', '--model',"
        "'infinity-2b']); sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "infinity_2b_reg.pth" in done.stderr


def test_a_refused_request_is_light() -> None:
    code = (
        "import sys; from scalekv.cli.main import main; code = main(['generate', 'x', '--budget',"
        "'150%']); heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "at most 100" in done.stderr) == (2, True), done.stderr


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("scalekv 0.")
    assert main(["--help"]) == 0
    assert "generate" in capsys.readouterr().out
    assert main(["generate", "-h"]) == 0
    output = capsys.readouterr().out
    for word in ("Cache", "Sampling", "Output", "Examples", "SCALEKV_MODEL", "--budget"):
        assert word in output


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["no-such-command"], ["generate"], ["generate", "x", "--nothing"], []):
        assert main(arguments) == 2, arguments
        assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr(main_module, "_program_command", lambda: broken)
    assert main(["generate", "x"]) == 1
    assert capsys.readouterr().err.startswith("failed: KeyError: 'what'\n  --verbose")


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["generate", "x", "--nothing", "--json"], 2, "usage"),
        (["generate", "x", "-n", "0", "--json"], 2, "usage"),
        (["generate", "x", "--seed", "-1", "--json"], 2, "refused"),
        (["no-such-command", "--json"], 2, "usage"),
        (["generate", "x", "--budget", "150%", "--json"], 2, "refused"),
        (["generate", "x", "--model", "infinity-2b", "--json"], 2, "weights-missing"),
    ],
)
def test_errors_for_programs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, kind: str
) -> None:
    assert main(arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    error = json.loads(output.err.splitlines()[-1])["error"]
    assert (error["code"], error["kind"]) == (code, kind)
    assert kind in errors.KINDS
    assert error["what"]


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (MemoryError(), 1, "out-of-memory"),
        (KeyError("what"), 1, "failed"),
        (errors.Interrupted(1, "out"), 130, "interrupted"),
        (errors.Unsuccessful("2 problems", "problems"), 1, "problems"),
    ],
)
def test_failures_for_programs(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    kind: str,
) -> None:
    def broken(**_: object) -> None:
        raise error

    monkeypatch.setattr(main_module, "_program_command", lambda: broken)
    assert main(["generate", "x", "--json"]) == code
    facts = json.loads(capsys.readouterr().err)["error"]
    assert (facts["code"], facts["kind"]) == (code, kind)
    assert main(["generate", "x"]) == code
    assert "{" not in capsys.readouterr().err
    assert kind in errors.KINDS


def test_a_prompt_that_looks_like_an_option_asks_for_nothing() -> None:
    assert not errors.json_wanted(["generate", "--", "--json"])


def test_every_kind_of_refusal_is_listed() -> None:
    from scalekv.infinity_patch.files.hub import WeightsMissing
    from scalekv.infinity_patch.files.transfer import DownloadRefused
    from scalekv.infinity_patch.loading.checkpoint import WeightsDamaged

    for error in (UserError, WeightsDamaged, WeightsMissing, DownloadRefused):
        assert error.kind in errors.KINDS


def test_a_config_file_that_is_not_there() -> None:
    done = run("generate", "x", SCALEKV_CONFIG="/nowhere/config.yaml")
    assert done.returncode == 2
    assert "unset SCALEKV_CONFIG" in done.stderr
    assert run("generate", "--help", SCALEKV_CONFIG="/nowhere/config.yaml").returncode == 0


def test_help_into_a_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "generate", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_costs_no_picture() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = start("generate", "a", "b", "c", "--quiet", pause=0, stdout=writer)
    os.close(writer)
    _, output = program.communicate(timeout=120)
    assert (program.returncode, output) == (0, "")
    assert sorted(p.name for p in Path("out").glob("*.png")) == ["0-a.png", "1-b.png", "2-c.png"]
    assert Path("out/report.json").exists()


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("command", ["generate", "batch"])
def test_a_signal_keeps_what_is_finished(command: str, number: int, code: int) -> None:
    Path("p.txt").write_text("a\nb\n")
    given = ["a", "b"] if command == "generate" else ["p.txt", "--name", "{seed}-{slug}"]
    program = start(command, *given, "--quiet", pause=600)
    assert program.stdout is not None
    assert program.stdout.readline() == "out/0-a.png\n"
    program.send_signal(number)
    _, output = program.communicate(timeout=120)
    assert program.returncode == code
    assert output == "interrupted; 1 picture kept in out\n"
    assert not list(Path("out").glob(".*"))
    assert json.loads(Path("out/report.json").read_text())["outcome"] == "interrupted"


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a fox", "--memory-report", "html"),
        ("compare", "a fox", "--budget", "10%"),
    ],
)
def test_a_missing_extra_is_refused_before_anything_is_made(
    scalekv: Program,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    done = scalekv(*arguments, "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "it comes with the extra" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a cat", "--budget", "{}.yaml"),
        ("generate", "a cat", "--out", "{}/pictures"),
        ("report", "{}"),
        ("models", "show", "{}.yaml"),
    ],
)
@pytest.mark.parametrize("kind", ["too long", "a link to itself"])
def test_a_path_that_cannot_be_looked_for(
    scalekv: Program, tmp_path: Path, arguments: tuple[str, ...], kind: str
) -> None:
    path = tmp_path / ("x" * 300 if kind == "too long" else "loop")
    if kind != "too long":
        for name in ("loop", "loop.yaml"):
            (tmp_path / name).symlink_to(tmp_path / name)
    outcome = scalekv(*(a.format(path) for a in arguments))
    assert outcome.code == errors.REFUSED, outcome.err
    assert str(path) in outcome.err
    assert "Traceback" not in outcome.err
