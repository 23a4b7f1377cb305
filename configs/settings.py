"""The user's own defaults: a small YAML file and environment variables, under the options.

Says for every setting what it is and where it comes from; what the values mean is others' business.
No torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from platformdirs import user_config_path

from scalekv.configs.option import NO_SETTINGS, PATH_VARIABLE, PREFIX
from scalekv.configs.options import SETTINGS
from scalekv.configs.values import Unreadable
from scalekv.configs.whole_files import replace_text
from scalekv.configs.yaml_files import parse_yaml, read_text, read_yaml
from scalekv.kv.errors import UserError, close_matches

NEARLY = 0.75  # likeness of two words above which one is the other with a typing error


class Source(Enum):
    """Who said it, the strongest first."""

    OPTION = "option"
    ENVIRONMENT = "environment"
    FILE = "config file"
    DEFAULT = "default"


@dataclass(frozen=True)
class Setting:
    """One value and where it comes from; `origin` is for people: "SCALEKV_MODEL"."""

    name: str
    value: str
    source: Source
    origin: str

    def read(self) -> Any:
        """The value as its kind reads it; None where it is "" and nothing holds by default.

        Raises:
            UserError: it has another form.
        """
        option = SETTINGS[self.name]
        if not self.value and not option.default:
            return None
        try:
            return option.kind.read(self.value)
        except Unreadable as error:
            what = f"{self.name} is {self.value!r}"
            raise UserError(what, where=self.origin, rule=error.rule, fix=error.fix) from None

    def check(self) -> None:
        """Refuses a value that cannot be read, or be meant whatever else holds.

        Raises:
            UserError: it names the place the value comes from.
        """
        self.read()
        check = SETTINGS[self.name].kind.check
        if check is None or not self.value:
            return
        try:
            check(self.value)
        except UserError as error:
            raise UserError(error.what, where=self.origin, rule=error.rule, fix=error.fix) from None


class Settings:
    """All settings but the options, read once, and each checked by itself.

    Args:
        environment: variables; None takes the process's. An empty variable counts as not set.

    Raises:
        UserError: the config file cannot be read; it or a variable holds a value it may not; an
            unknown key, or a variable that is nearly called like a setting's.

    Attributes:
        unused: variables called SCALEKV_... that are no setting's and like none's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self.path = config_path(self._environment)
        named = bool(self._environment.get(PATH_VARIABLE))
        self._file = _read(self.path, must_exist=named)
        self.unused = _unused_variables(self._environment)
        for name in SETTINGS:
            for setting in (self._in_file(name), self._in_environment(name)):
                if setting is not None:
                    setting.check()

    def get(self, name: str, option: object = None) -> Setting:
        """The setting, from the first of: option, environment, file, default.

        Args:
            option: what was typed, as text, number or flag; None where nothing was.
        """
        if option is not None:
            text = str(option).lower() if isinstance(option, bool) else str(option)
            return Setting(name, text, Source.OPTION, option_name(name))
        default = Setting(name, SETTINGS[name].default, Source.DEFAULT, "default")
        return self._in_environment(name) or self._in_file(name) or default

    def _in_environment(self, name: str) -> Setting | None:
        variable = variable_name(name)
        value = self._environment.get(variable)
        return Setting(name, value, Source.ENVIRONMENT, variable) if value else None

    def _in_file(self, name: str) -> Setting | None:
        if name not in self._file:
            return None
        return Setting(name, self._file[name], Source.FILE, f"config file {self.path}")


def _unused_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that look like ours and are not, such as those that Kubernetes sets for a service.

    Raises:
        UserError: one is nearly called like a setting's.
    """
    known = {*NO_SETTINGS, *map(variable_name, SETTINGS)}
    words = [name.removeprefix(PREFIX) for name in known]
    unused = sorted(n for n in environment if n.startswith(PREFIX) and n not in known)
    for name in unused:
        near = get_close_matches(name.removeprefix(PREFIX), words, n=1, cutoff=NEARLY)
        if near and environment[name]:
            raise UserError(
                f"there is no setting {name}",
                where=name,
                rule="a variable is SCALEKV_ and the name of a setting; scalekv config lists them",
                fix=f"did you mean {PREFIX}{near[0]}?",
            )
    return tuple(unused)


def option_name(name: str) -> str:
    """The command-line option of a setting: "--weights-dir"."""
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    """The environment variable of a setting: "SCALEKV_MODEL"."""
    return PREFIX + name.upper()


def config_path(environment: Mapping[str, str]) -> Path:
    """Where the config file is, whether or not there is one."""
    if named := environment.get(PATH_VARIABLE):
        return Path(named).expanduser()
    return user_config_path("scalekv") / "config.yaml"


def save_setting(name: str, value: str, environment: Mapping[str, str] | None = None) -> Path:
    """Writes one default into the config file, leaving its other lines and comments as they are.

    Returns:
        The file, made if there was none.

    Raises:
        UserError: the file cannot be read or written, or would hold what it may not.
    """
    path = config_path(os.environ if environment is None else environment)
    others = _read(path, must_exist=False)
    Setting(name, _checked(name, value, path), Source.FILE, f"config file {path}").check()
    wanted = {**others, name: value}
    line = yaml.safe_dump({name: value}, allow_unicode=True, width=10_000)
    try:
        old = read_text(path) if path.exists() else ""
        lines = [row for row in old.splitlines(keepends=True) if not row.startswith(f"{name}:")]
        text = "".join(lines)
        text += line if not text or text.endswith("\n") else "\n" + line
        if not _says(text, wanted):  # in some other style of YAML: written anew
            text = yaml.safe_dump(wanted, allow_unicode=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise UserError(
            f"cannot write the config file: {error.strerror}",
            where=str(path),
            fix=f"make it writable, or name another in {PATH_VARIABLE}",
        ) from None
    return path


def _says(text: str, wanted: Mapping[str, str]) -> bool:
    try:
        content = parse_yaml(text, "", words=True)
    except UserError:
        return False
    return isinstance(content, Mapping) and dict(content) == wanted


def _read(path: Path, *, must_exist: bool) -> dict[str, str]:
    try:
        content = read_yaml(path, words=True, fix=f"mend it, or name another in {PATH_VARIABLE}")
    except FileNotFoundError:
        if not must_exist:
            return {}
        raise UserError(
            f"there is no file {path}",
            where=PATH_VARIABLE,
            rule="it names a YAML file of settings",
            fix=f"make the file, or unset {PATH_VARIABLE}",
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot read the config file: {error.strerror}",
            where=str(path),
            fix=f"make it readable, or name another in {PATH_VARIABLE}",
        ) from None
    if not content:
        return {}
    if not isinstance(content, Mapping):
        raise UserError("the config file is no mapping", where=str(path), rule=_RULE)
    return {key: _checked(key, value, path) for key, value in content.items()}


def _checked(key: object, value: object, path: Path) -> str:
    if not isinstance(key, str) or key not in SETTINGS:
        raise UserError(
            f"unknown key {key!r}",
            where=str(path),
            rule="keys are " + ", ".join(SETTINGS),
            fix=close_matches(str(key), SETTINGS),
        )
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        value = ",".join(value)  # one number per scale
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{key} is {value!r}",
            where=f"{path}, key {key}",
            rule="a setting is one word, number or line of text",
            fix=f"{key}: {SETTINGS[key].default or '...'}, or take the line out",
        )
    return value


_RULE = f"lines such as model: emoji; keys are {', '.join(SETTINGS)}"
