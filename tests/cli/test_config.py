"""`scalekv config`: every default and who set it, and what no setting may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.configs.models import model_named
from scalekv.configs.option import NO_SETTINGS
from scalekv.configs.options import SETTINGS
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def test_every_setting_has_a_line_in_columns(scalekv: Program) -> None:
    done = scalekv("config")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()[: len(SETTINGS)]
    assert [line.split()[0] for line in lines] == list(SETTINGS)
    starts = {line.rindex("  ") for line in lines}
    assert len(starts) == 1, "who set it stands in one column"


def test_what_the_preset_says_is_shown(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "configs/models/infinity-2b.yaml").read_text()
    changed = text.replace("sampling: {", "sampling: {cfg_layer: -5, ")
    assert changed != text
    own = tmp_path / "own.yaml"
    own.write_text(changed)
    assert model_named(str(own)).sampling.cfg_layer == -5
    monkeypatch.setenv("SCALEKV_MODEL", str(own))
    facts = json.loads(scalekv("config", "--json").out)["settings"]
    for name, value in (("cfg_layer", "-5"), ("pixels", "1M"), ("top_p", "0.97")):
        assert (facts[name]["value"], facts[name]["from"]) == (value, "preset own")
    monkeypatch.setenv("SCALEKV_CFG_LAYER", "0")
    facts = json.loads(scalekv("config", "--json").out)["settings"]
    assert (facts["cfg_layer"]["value"], facts["cfg_layer"]["from"]) == ("0", "SCALEKV_CFG_LAYER")


BAD = [
    ("seed", "-4", "a whole number from 0"),
    ("seed", "9223372036854775808", "a whole number from 0"),
    ("budget", "200%", "at most 100"),
    ("budget", "0", "at least 1"),
    ("policy", "scalkv", "did you mean scalekv"),
    ("quiet", "maybe", "true or false"),
    ("top_p", "1.5", "between 0 and 1"),
    ("device", "gpu", "cuda:1"),
    ("kv_dtype", "fp8", "int8"),
    ("memory_report", "json,pdf", "table"),
    ("batch_size", "0", "or auto"),
    ("size", "big", "width x height"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
@pytest.mark.parametrize("command", [["config"], ["generate", "x", "--seed", "1"], ["models"]])
def test_a_bad_setting_is_refused_everywhere(
    scalekv: Program,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    name: str,
    value: str,
    words: str,
) -> None:
    Path("settings.yaml").write_text(f"{name}: '{value}'\n")
    monkeypatch.setenv("SCALEKV_CONFIG", "settings.yaml")
    in_file = scalekv(*command)
    monkeypatch.delenv("SCALEKV_CONFIG")
    monkeypatch.setenv(f"SCALEKV_{name.upper()}", value)
    in_environment = scalekv(*command)
    places = ("config file settings.yaml", f"SCALEKV_{name.upper()}")
    for done, place in zip((in_file, in_environment), places, strict=True):
        assert (done.code, done.out) == (2, "")
        assert f"where: {place}" in done.err
        assert words in done.err
    assert stand_in.loaded == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("SCALEKV_BUDGTE", "SCALEKV_BUDGET"),
        ("SCALEKV_KVDTYPE", "SCALEKV_KV_DTYPE"),
        ("SCALEKV_NUM_IMAGE", "SCALEKV_NUM_IMAGES"),
        ("SCALEKV_CONFG", "SCALEKV_CONFIG"),
    ],
)
def test_a_variable_with_a_typing_error(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    monkeypatch.setenv(typed, "20%")
    for command in (["config"], ["generate", "x"], ["plan"]):
        done = scalekv(*command)
        assert (done.code, done.out) == (2, "")
        assert f"did you mean {meant}?" in done.err


def test_other_variables_are_left_alone_and_named(
    scalekv: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes sets such for a service of that name."""
    others = ["SCALEKV_PORT", "SCALEKV_PORT_80_TCP_ADDR", "SCALEKV_SERVICE_HOST", "SCALEKV_VERSION"]
    for name in others:
        monkeypatch.setenv(name, "1")
    for name in NO_SETTINGS:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SCALEKV_API_KEY", "secret")
    done = scalekv("config")
    assert done.code == 0, done.err
    assert "secret" not in done.out
    assert done.out.splitlines()[-1] == f"not settings: {', '.join(others)}"
    assert json.loads(scalekv("config", "--json").out)["unused_variables"] == others


def test_the_doctor_finds_a_bad_setting(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEKV_SEED", "-4")
    done = scalekv("doctor")
    assert done.code == 1
    assert "seed is '-4' (SCALEKV_SEED)" in done.out


@pytest.mark.parametrize(
    ("name", "fix"), [("infinity-2", "infinity-2b"), ("Emoji", "emoji"), ("2b", "infinity-2b")]
)
def test_an_unknown_model_names_the_nearest_and_the_list_once(
    scalekv: Program, name: str, fix: str
) -> None:
    done = scalekv("generate", "x", "--model", name)
    assert done.code == 2
    assert f"did you mean {fix}" in done.err
    assert done.err.count("infinity-layer40") == 1
    assert scalekv("generate", "x", "--model", "sdxl").err.count("infinity-layer40") == 1


def test_a_saved_setting_is_checked(scalekv: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalekv.configs.settings import save_setting
    from scalekv.kv.errors import UserError

    with pytest.raises(UserError, match="200%"):
        save_setting("budget", "200%", {"SCALEKV_CONFIG": "settings.yaml"})
    assert not Path("settings.yaml").exists()
