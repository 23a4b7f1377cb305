"""`scalekv download` and `scalekv models`, as people and programs see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from scalekv.cli import download as download_command
from scalekv.cli.console.bytes import ByteDisplay
from scalekv.cli.console.errors import Interrupted
from scalekv.cli.models import models
from scalekv.configs.settings import Settings
from scalekv.infinity_patch.files.transfer import DownloadRefused
from scalekv.kv.errors import UserError
from tests.hub_server import Hub

app = typer.Typer(context_settings={"terminal_width": 200})
app.command("download")(download_command.download)
app.add_typer(models)


def run(*arguments: str, stdin: str | None = None) -> Result:
    """Runs a command; a refusal is raised, as the program's boundary gets it."""
    result = CliRunner().invoke(app, arguments, input=stdin)
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def test_download_says_where_the_files_are(hub: Hub, cache: Path) -> None:
    result = run("download", "infinity-2b")
    assert result.exit_code == 0
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.name for path in paths[:2]] == ["infinity_2b_reg.pth", "infinity_vae_d32reg.pth"]
    assert all(path.exists() for path in paths)
    assert "to fetch" in result.stderr


def test_the_first_download_becomes_the_default_and_says_so(hub: Hub, cache: Path) -> None:
    first = run("download", "infinity-2b")
    assert "infinity-2b is now the default model" in first.stderr
    second = run("download", "infinity-8b")
    assert "default" not in second.stderr
    assert Settings().get("model").value == "infinity-2b"
    assert "infinity-8b is now the default" in run("models", "default", "infinity-8b").stdout
    assert Settings().get("model").value == "infinity-8b"


def test_a_chosen_model_stays_the_default(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEKV_MODEL", "emoji")
    assert "default" not in run("download", "infinity-2b").stderr
    assert not Settings().path.exists()


def test_dry_run_lists_and_fetches_nothing(hub: Hub, cache: Path) -> None:
    result = run("download", "infinity-2b", "--dry-run")
    assert "FoundationVision/Infinity/infinity_2b_reg.pth" in result.stdout
    assert not hub.requests
    assert not Settings().path.exists()
    facts = json.loads(run("download", "infinity-2b", "--dry-run", "--json").stdout)
    assert (
        facts["to_fetch_bytes"] == facts["total_bytes"] == sum(f["bytes"] for f in facts["files"])
    )
    assert not cache.exists()


def test_json_and_quiet(hub: Hub, cache: Path) -> None:
    result = run("download", "infinity-2b", "--json", "--quiet")
    assert result.stderr == ""
    facts = json.loads(result.stdout)
    assert facts["default"] is True
    assert Path(facts["paths"]["vae"]).is_file()
    again = json.loads(run("download", "infinity-2b", "--json").stdout)
    assert (again["fetched_bytes"], again["default"]) == (0, False)


def test_ctrl_c_says_that_nothing_is_lost(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ByteDisplay, "show", press)
    result = run("download", "infinity-2b")
    assert isinstance(result.exception, Interrupted)
    assert "goes on from there" in result.stderr
    assert not Settings().path.exists()


def test_refusals_reach_the_boundary(hub: Hub, cache: Path) -> None:
    hub.corrupt.add("infinity_2b_reg.pth")
    with pytest.raises(DownloadRefused, match="arrived damaged"):
        run("download", "infinity-2b")
    with pytest.raises(UserError, match="no model named 'infinity-3b'"):
        run("download", "infinity-3b")


def test_models_lists_all_and_what_is_here(hub: Hub, cache: Path) -> None:
    run("download", "infinity-2b")
    facts = {m["name"]: m for m in json.loads(run("models", "--json").stdout)["models"]}
    assert facts["infinity-2b"]["state"] == "downloaded"
    assert facts["infinity-2b"]["default"] is True
    assert facts["infinity-8b"]["state"] == "not downloaded"
    assert facts["infinity-20b"]["state"] == "no weights"
    listed = run("models").stdout
    assert all(name in listed for name in facts)
    assert "infinity-2b *" in listed


def test_models_show(cache: Path) -> None:
    text = run("models", "show", "infinity-8b").stdout
    assert "40 layers, width 3584, 28 heads" in text
    facts = json.loads(run("models", "show", "infinity-8b", "--json").stdout)
    assert facts["files"]["repo"] == "FoundationVision/Infinity"


def test_models_verify(hub: Hub, cache: Path) -> None:
    paths = run("download", "infinity-2b").stdout.splitlines()
    assert run("models", "verify", "infinity-2b").stdout.count("whole") == 10
    Path(paths[0]).resolve().write_bytes(b"x")
    with pytest.raises(UserError, match=r"infinity_2b_reg\.pth is damaged") as error:
        run("models", "verify", "infinity-2b")
    assert "models remove" in error.value.fix


def test_models_remove_asks_or_is_told(hub: Hub, cache: Path) -> None:
    run("download", "infinity-2b")
    with pytest.raises(UserError, match="needs a yes"):
        run("models", "remove", "infinity-2b", stdin="")
    result = run("models", "remove", "infinity-2b", "--yes")
    assert "freed" in result.stdout
    assert "still the default model" in result.stdout
    with pytest.raises(UserError, match="nothing of infinity-2b is downloaded"):
        run("models", "remove", "infinity-2b", "--yes")


def test_a_model_that_is_not_here_cannot_be_the_default(cache: Path) -> None:
    with pytest.raises(UserError, match="cannot be the default") as error:
        run("models", "default", "infinity-2b")
    assert error.value.fix == "scalekv download infinity-2b"


def test_the_hubs_variables_are_heeded(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    script = (
        "import sys\n"
        "from scalekv.configs.models import model_named\n"
        "from scalekv.infinity_patch.files.download import download\n"
        "print(download(model_named('infinity-2b')).transformer)\n"
        "assert 'torch' not in sys.modules\n"
    )
    unset = ("HF_HUB_OFFLINE", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_secret",
    }
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / "home" / "hub" / "models--FoundationVision"))
    assert result.stderr == ""
