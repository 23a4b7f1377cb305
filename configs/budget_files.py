"""Named budgets and budget files: finds, reads and checks them. Knows YAML and the folder they
ship in; what a budget comes to is `scalekv.kv.budgets.budget`'s business. Imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from scalekv.configs.yaml_files import read_yaml
from scalekv.kv.budgets.asked import BudgetSpec, resolve
from scalekv.kv.budgets.budget import BOUNDS, WAYS, WINDOW
from scalekv.kv.budgets.drafters import Drafters, drafters_by_scale
from scalekv.kv.budgets.shares import Linear
from scalekv.kv.errors import UserError, close_matches
from scalekv.kv.schedule import Schedule

FOLDER = Path(__file__).parent / "budgets"
"""Where the named budgets ship: MODEL/NAME.yaml."""

DEFAULT = "default"
"""The budget whose drafters serve percentages and token counts."""

_REQUIRED = ("model", "layers", "provenance")
_AMOUNTS = ("mean", "percent", "capacities")
_MOST = 1 << 31  # of anything that is counted; pictures have thousands of tokens
_LINEAR = ("refiner_start", "delta")
_KEYS = (*_REQUIRED, "drafters", *_AMOUNTS, "schedule", "rule", *_LINEAR, "window", "bound")
_RULES = ("released", "linear")


def list_budgets(model: str | None = None) -> tuple[BudgetSpec, ...]:
    """The budgets that ship, by model and name; with `model`, that model's alone."""
    return tuple(_read(path, path.stem) for path in sorted(FOLDER.glob(f"{model or '*'}/*.yaml")))


def load_budget(name_or_path: str | Path, model: str | None = None) -> BudgetSpec:
    """Reads a budget.

    Args:
        name_or_path: a name such as "paper-10", looked up for `model`; "MODEL/NAME"; or the path
            of a YAML file, told by its suffix.
        model: the preset it is to be used with; None accepts any that is unambiguous.

    Raises:
        UserError: no such budget or file, a file that breaks a rule, or one made for another
            model.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        spec = _read(Path(text).expanduser(), text)
    else:
        path = _named(text, model)
        spec = _read(path, path.stem)
    check_model(spec, model, text)
    return spec


def check_model(spec: BudgetSpec, model: str | None, name: str) -> None:
    """Refuses a budget, known to the caller as `name`, that was made for another model.

    Raises:
        UserError: it was, and `model` is known.
    """
    if model is not None and spec.model != model:
        raise UserError(
            f"this budget was made for {spec.model}, not for {model}",
            where=f"budget {name}",
            rule="drafters and capacities belong to one model",
            fix=f"ask for a percentage such as 10%, or {_offer(model)}",
        )


@cache
def default_budget(model: str) -> BudgetSpec | None:
    """The budget whose drafters and provenance hold for `model` when none is named; None: the
    model has no known drafters."""
    path = FOLDER / model / f"{DEFAULT}.yaml"
    return _read(path, DEFAULT) if path.is_file() else None


def calibration_file(name: str, model: str | None) -> Path | None:
    """A file that calibration made for a model and that comes with it; None: there is none."""
    path = FOLDER / (model or "") / name
    return path if model and path.is_file() else None


def alternative_for(model: str) -> str | None:
    """The policy that keeps every token in as many bytes, where a model comes with constants for
    it."""
    return "coded" if calibration_file("coded.safetensors", model) is not None else None


_LISTED = "scalekv budgets lists the names"


def _named(name: str, model: str | None) -> Path:
    """The shipped file of NAME (for `model`) or MODEL/NAME."""
    shipped = {f"{path.parent.name}/{path.stem}": path for path in FOLDER.glob("*/*.yaml")}
    if name in shipped:
        return shipped[name]
    if model is not None and f"{model}/{name}" in shipped:
        return shipped[f"{model}/{name}"]
    others = sorted(full for full in shipped if full.endswith(f"/{name}"))
    if model is None and len(others) == 1:
        return shipped[others[0]]
    if model is None:
        fix = close_matches(name, {*shipped, *(full.split("/")[1] for full in shipped)})
        fix = f"name its model too: {' or '.join(others)}" if others else fix or _LISTED
    else:
        own = [full.split("/")[1] for full in shipped if full.startswith(f"{model}/")]
        fix = close_matches(name, own) or f"ask for a percentage such as 10%; {_LISTED}"
    made_for = [full.split("/")[0] for full in others]
    raise UserError(
        f"there is no budget named {name!r}" + (f" for {model}" if model else ""),
        where="budget",
        rule=WAYS + (f"; {name} was made for {' and '.join(made_for)}" if made_for else ""),
        fix=fix,
    )


def _offer(model: str) -> str:
    names = [path.stem for path in sorted((FOLDER / model).glob("*.yaml"))]
    return f"one of {model}'s own: {', '.join(names)}" if names else "a file made for it"


def _read(path: Path, name: str) -> BudgetSpec:
    """One file, checked as far as it can be without a picture to use it for."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", where="budget", fix="check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", where="budget") from None
    return _Reader(path, content).spec(name)


class _Reader:
    """Turns a file's content into a `BudgetSpec`, naming file and key in every complaint."""

    def __init__(self, path: Path, content: object) -> None:
        self.path = path
        if not isinstance(content, dict):
            raise UserError(
                "the file is no mapping of keys to values",
                where=str(path),
                rule=f"keys are {', '.join(_KEYS)}",
            )
        self.content: dict[Any, Any] = content

    def spec(self, name: str) -> BudgetSpec:
        self._check_keys()
        layers = self._count("layers")
        amounts = [key for key in ("mean", "percent") if key in self.content]
        if len(amounts) != 1:
            raise self._refusal(
                "mean",
                "both mean and percent are given"
                if amounts
                else "neither mean nor percent is given",
                "one of them says how much; capacities go with mean",
            )
        capacities = self._capacities()
        spec = BudgetSpec(
            name=name,
            model=self._text("model"),
            layers=layers,
            drafters=self._drafters(layers),
            mean=self._count("mean") if "mean" in self.content else None,
            percent=self._percent() if "percent" in self.content else None,
            capacities=capacities,
            schedule=self._schedule(),
            linear=self._linear(),
            window=self._count("window") if "window" in self.content else WINDOW,
            bound=self._bound(),
            provenance=self._text("provenance"),
        )
        if capacities is not None:
            if spec.schedule is None or spec.mean is None:
                missing = "schedule" if spec.schedule is None else "mean"
                raise self._refusal(
                    missing,
                    f"capacities without {missing}",
                    "capacities need a schedule and a mean",
                )
            self._check_capacities(spec, spec.schedule)
        return spec

    def _bound(self) -> str:
        bound = self.content.get("bound", BOUNDS[0])
        if bound not in BOUNDS:
            raise self._refusal(
                "bound",
                f"bound is {bound!r}",
                "moment (no moment sees more than the mean) or scale (no scale does)",
            )
        return str(bound)

    def _check_capacities(self, spec: BudgetSpec, schedule: Schedule) -> None:
        try:
            resolve(spec, schedule, spec.layers)
        except UserError as error:
            raise UserError(
                error.what,
                where=f"{self.path}, key capacities ({error.where})",
                rule=error.rule,
                fix=error.fix,
            ) from None

    def _check_keys(self) -> None:
        for key in self.content:
            if key not in _KEYS:
                raise UserError(
                    f"unknown key {key!r}",
                    where=str(self.path),
                    rule=f"keys are {', '.join(_KEYS)}",
                    fix=close_matches(str(key), _KEYS),
                )
        for key in _REQUIRED:
            if key not in self.content:
                raise self._refusal(key, "the key is missing", f"{', '.join(_REQUIRED)} are needed")

    def _refusal(self, key: str, what: str, rule: str) -> UserError:
        return UserError(
            what,
            where=f"{self.path}, key {key}",
            rule=rule,
            fix="mend the file, or ask for a percentage such as 10%",
        )

    def _text(self, key: str) -> str:
        value = self.content[key]
        if not isinstance(value, str) or not value.strip():
            raise self._refusal(key, f"{key} is {value!r}", f"{key} is text")
        return " ".join(value.split())

    def _count(self, key: str, least: int = 1) -> int:
        value = self.content[key]
        if type(value) is not int or not least <= value <= _MOST:
            shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
            raise self._refusal(
                key, f"{key} is {shown}", f"{key} is a whole number of at least {least}"
            )
        return value

    def _percent(self) -> Fraction:
        value = self.content["percent"]
        if type(value) not in (int, float) or not 0 < value <= 100:
            raise self._refusal(
                "percent",
                f"percent is {value!r}",
                "a number above 0 and at most 100, of the history tokens",
            )
        return Fraction(str(value))

    def _schedule(self) -> Schedule | None:
        if "schedule" not in self.content:
            return None
        try:
            return Schedule.parse(self._text("schedule"))
        except UserError as error:
            raise self._refusal("schedule", error.what, error.rule) from None

    def _drafters(self, layers: int) -> Drafters:
        value = self.content.get("drafters", [])
        drafters: Drafters = (
            self._rows("drafters", value)
            if isinstance(value, Mapping)
            else self._numbers("drafters", value)
        )
        # Any schedule will do: the layers named are checked for every scale there is an entry for.
        drafters_by_scale(drafters, Schedule(((1, 1),)), layers, f"{self.path}, key drafters")
        return drafters

    def _linear(self) -> Linear | None:
        given = [key for key in _LINEAR if key in self.content]
        rule = self.content.get("rule", "released")
        if rule not in _RULES:
            raise self._refusal("rule", f"rule is {rule!r}", f"one of {', '.join(_RULES)}")
        if rule != "linear":
            if given:
                raise self._refusal(
                    given[0], f"{given[0]} without rule: linear", f"{given[0]} is of that rule"
                )
            return None
        if "capacities" in self.content:
            raise self._refusal(
                "rule", "both a rule and capacities are given", "a rule makes the capacities"
            )
        if not self.content.get("drafters"):
            raise self._refusal(
                "drafters", "rule: linear without drafters", "drafters get what others do not"
            )
        if missing := [key for key in _LINEAR if key not in self.content]:
            raise self._refusal(
                missing[0],
                f"rule: linear without {missing[0]}",
                "it needs refiner_start, tokens of a layer that is no drafter at the first scale "
                "that drops any, and delta, how many fewer at every scale after it",
            )
        start, delta = self._count("refiner_start"), self._count("delta", least=0)
        return Linear(start, delta)

    def _capacities(self) -> dict[int, tuple[int, ...]] | None:
        value = self.content.get("capacities")
        return None if value is None else self._rows("capacities", value)

    def _rows(self, key: str, value: object) -> dict[int, tuple[int, ...]]:
        if not isinstance(value, Mapping) or any(
            type(number) is not int or number < 1 for number in value
        ):
            raise self._refusal(
                key,
                f"{key} are no mapping from scale numbers",
                "scales are numbered from 1: {9: [0, 23], 13: [0]}",
            )
        return {number: self._numbers(key, row) for number, row in value.items()}

    def _numbers(self, key: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, list) or any(type(entry) is not int for entry in value):
            raise self._refusal(key, f"{key} hold {value!r}", "a list of whole numbers: [0, 23]")
        return tuple(value)


_WIDTH = 100


def budget_text(spec: BudgetSpec, comment: str = "") -> str:
    """The YAML of a budget file that reads back as `spec` but for its name, which is the file's.

    Args:
        comment: put above, one line.
    """
    lines = [f"# {comment}"] if comment else []
    lines += [_line("model", spec.model), _line("layers", spec.layers)]
    if not _none(spec.drafters):
        lines.append(_line("drafters", _plain(spec.drafters)))
    if spec.mean is not None:
        lines.append(_line("mean", spec.mean))
    if spec.percent is not None:
        whole = spec.percent.denominator == 1
        lines.append(_line("percent", int(spec.percent) if whole else float(spec.percent)))
    if spec.schedule is not None:
        lines.append(_line("schedule", str(spec.schedule)))
    if spec.capacities is not None:
        lines += ["capacities:"]
        lines += [f"  {number}: {list(row)}" for number, row in spec.capacities.items()]
    lines.append(_line("window", spec.window))
    if spec.bound != BOUNDS[0]:
        lines.append(_line("bound", spec.bound))
    lines.append("provenance: >-")
    lines += textwrap.wrap(
        spec.provenance,
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) + "\n"


def drafters_from(rows: Mapping[int, tuple[int, ...]]) -> Drafters:
    """The drafters of single scales, as briefly as a budget file can say it.

    Args:
        rows: {scale from 0: its drafters}, of consecutive scales up to the last.

    Returns:
        Layers for every scale where they are always the same, else {scale number from 1: layers
        from that scale on}.
    """
    changes: dict[int, tuple[int, ...]] = {}
    for scale in sorted(rows):
        if not changes or tuple(changes.values())[-1] != rows[scale]:
            changes[scale + 1] = rows[scale]
    return changes if len(changes) > 1 else next(iter(changes.values()), ())


def _none(drafters: Drafters) -> bool:
    return not isinstance(drafters, Mapping) and not drafters


def _plain(drafters: Drafters) -> object:
    if isinstance(drafters, Mapping):
        return {number: list(row) for number, row in drafters.items()}
    return [row if isinstance(row, int) else list(row) for row in drafters]


def _line(key: str, value: object) -> str:
    """One line of YAML; collections within brackets."""
    flow = isinstance(value, list | dict)
    text = yaml.safe_dump(value, default_flow_style=flow, width=10**6, allow_unicode=True)
    return f"{key}: " + text.removesuffix("\n").removesuffix("\n...")
