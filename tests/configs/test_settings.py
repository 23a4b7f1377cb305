"""Option, environment, config file, default: in that order, and each by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv.configs.options import SETTINGS
from scalekv.configs.settings import Settings, Source, config_path, save_setting
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
    assert {name: settings.get(name).value for name in SETTINGS} == {
        name: option.default for name, option in SETTINGS.items()
    }
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
        ("model: [", ["as YAML"]),
        ("model: \x00", ["as YAML"]),
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


def saved(tmp_path: Path, text: str | None, name: str = "model", value: str = "x") -> Path:
    """The config file after a setting was saved over `text` (None: there was no file)."""
    file = tmp_path / "folder" / "config.yaml"
    if text is not None:
        file.parent.mkdir()
        file.write_text(text)
    assert save_setting(name, value, {"XDG_CONFIG_HOME": "", "SCALEKV_CONFIG": str(file)}) == file
    assert Settings({"SCALEKV_CONFIG": str(file)}).get(name).value == value
    assert [path.name for path in file.parent.iterdir()] == ["config.yaml"]
    return file


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "model: x\n"),
        ("", "model: x\n"),
        ("# mine\nbudget: 650  # tokens\n", "# mine\nbudget: 650  # tokens\nmodel: x\n"),
        ("model: emoji # old\nout: pictures\n", "out: pictures\nmodel: x\n"),
        ("out: pictures", "out: pictures\nmodel: x\n"),
    ],
)
def test_saving_leaves_other_lines_alone(tmp_path: Path, before: str | None, after: str) -> None:
    assert saved(tmp_path, before).read_text() == after


def test_saving_into_another_style_keeps_the_values(tmp_path: Path) -> None:
    file = saved(tmp_path, "{model: emoji, out: pictures}\n")
    assert Settings({"SCALEKV_CONFIG": str(file)}).get("out").value == "pictures"


@pytest.mark.parametrize("value", ["650", "10%", "true", "a: b", "my models/x.yaml", "# no", "ä"])
def test_whatever_is_saved_is_read_again(tmp_path: Path, value: str) -> None:
    saved(tmp_path, "out: pictures\n", "budget", value)


@pytest.mark.parametrize(("name", "value"), [("modle", "x"), ("model", ""), ("model", "  ")])
def test_bad_settings_are_not_saved(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("out: pictures\n")
    with pytest.raises(UserError):
        save_setting(name, value, {"SCALEKV_CONFIG": str(file)})
    assert file.read_text() == "out: pictures\n"


def test_a_bad_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("modle: emoji\n")
    with pytest.raises(UserError, match="unknown key"):
        save_setting("model", "emoji", {"SCALEKV_CONFIG": str(file)})
    assert file.read_text() == "modle: emoji\n"


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="config file"):
        save_setting("model", "emoji", {"SCALEKV_CONFIG": str(tmp_path / "file" / "config.yaml")})
