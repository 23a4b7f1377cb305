"""Option, environment, config file, default: in that order, and each by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.configs.settings import DEFAULTS, Settings, Source, config_path
from scalekv.kv.errors import UserError


def test_the_order(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: infinity-8b\nbudget: 650\n")
    environment = {"SCALEKV_CONFIG": str(file), "SCALEKV_MODEL": "infinity-2b"}
    settings = Settings(environment)
    option = settings.get("model", "infinity-125m")
    assert (option.value, option.source, option.origin) == (
        "infinity-125m",
        Source.OPTION,
        "--model",
    )
    variable = settings.get("model")
    assert (variable.value, variable.origin) == ("infinity-2b", "SCALEKV_MODEL")
    in_file = Settings({"SCALEKV_CONFIG": str(file)}).get("model")
    assert (in_file.value, in_file.origin) == ("infinity-8b", f"config file {file}")
    assert settings.get("budget").value == "650"
    default = settings.get("policy")
    assert (default.value, default.source) == ("scalekv", Source.DEFAULT)
    assert settings.get("weights_dir", "w").origin == "--weights-dir"


def test_an_empty_variable_is_not_set() -> None:
    assert Settings({"SCALEKV_MODEL": "", "SCALEKV_CONFIG": ""}).get("model").value == "emoji"


def test_without_a_file_there_are_defaults() -> None:
    settings = Settings({})
    assert {name: settings.get(name).value for name in DEFAULTS} == DEFAULTS
    assert config_path({}).name == "config.yaml"


def test_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = config_path({})
    if path != tmp_path / "scalekv" / "config.yaml":
        pytest.skip("this platform has its own place for configuration")
    path.parent.mkdir()
    path.write_text("model: infinity-2b\n")
    assert Settings({}).get("model").value == "infinity-2b"


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert Settings({"SCALEKV_CONFIG": str(file)}).get("model").value == "emoji"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: emoji", ["unknown key 'modle'", "did you mean model"]),
        ("1: emoji", ["unknown key '1'"]),
        ("model: {name: emoji}", ["key model", "one word"]),
        ("model: ", ["key model"]),
        ("cfg: [1, [2, 3]]", ["key cfg"]),
        ("- model", ["no mapping", "model: emoji"]),
        ("model: [", ["no YAML"]),
        ("model: \x00", ["no YAML"]),
    ],
)
def test_bad_files(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        Settings({"SCALEKV_CONFIG": str(file)})
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"model: \xff")
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / "bytes.yaml"):
        with pytest.raises(UserError) as caught:
            Settings({"SCALEKV_CONFIG": str(path)})
        assert str(path) in str(caught.value)
