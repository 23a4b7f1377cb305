"""The budgets that ship and budget files: what they say, and how wrong ones are refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from scalekv.configs.budget_files import FOLDER, default_budget, list_budgets, load_budget
from scalekv.kv.budgets.asked import resolve
from scalekv.kv.budgets.shares import Linear
from scalekv.kv.errors import UserError
from scalekv.kv.schedule import Schedule

SEVEN = Schedule.parse("1x1 2x2 4x4 6x6 8x8 12x12 16x16")
THIRTEEN = Schedule.parse("1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_file_is_whole(path: Path) -> None:
    spec = load_budget(path.stem, path.parent.name)
    assert spec.model == path.parent.name
    assert spec.name == path.stem
    assert spec == load_budget(f"{path.parent.name}/{path.stem}")
    for schedule in (SEVEN, THIRTEEN):
        budget = resolve(spec, schedule, spec.layers)
        assert budget.origin == spec.provenance


def test_the_list_has_every_file() -> None:
    listed = {f"{spec.model}/{spec.name}" for spec in list_budgets()}
    assert listed == {f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.yaml")}
    assert {spec.name for spec in list_budgets("infinity-2b")} == {
        "default",
        "paper-4",
        "paper-10",
        "paper-20",
    }


@pytest.mark.parametrize(
    ("name", "mean"), [("paper-4", 265), ("paper-10", 650), ("paper-20", 1300)]
)
@pytest.mark.parametrize("model", ["infinity-2b", "infinity-8b"])
def test_the_papers_budgets(model: str, name: str, mean: int) -> None:
    assert load_budget(name, model).mean == mean


def test_the_paper_budget_of_10_is_the_released_one() -> None:
    two = resolve(load_budget("paper-10", "infinity-2b"), THIRTEEN, 32)
    assert (two.capacities[11][23], two.capacities[12][0], two.capacities[12][23]) == (
        4100,
        6385,
        465,
    )
    eight = resolve(load_budget("paper-10", "infinity-8b"), THIRTEEN, 40)
    assert eight.capacities[12] == (6200, 6200, 6200, *[200] * 37)


def test_default_drafters() -> None:
    emoji = default_budget("emoji")
    assert emoji is not None
    assert emoji.layers == 8
    assert emoji.percent == Fraction(10)
    assert resolve(emoji, SEVEN, 8).mean == 26
    assert "calibrated" in emoji.provenance  # or "not calibrated": whichever measured better
    assert default_budget("infinity-125m") is None


def write(folder: Path, **changes: object) -> Path:
    """A sound file for a model of two layers, with keys changed, or taken out by None."""
    content: dict[str, object] = {
        "model": "toy",
        "layers": 2,
        "drafters": [0],
        "mean": 4,
        "provenance": "by hand",
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


LISTED: dict[str, object] = {
    "schedule": "1x1 2x2 3x3 4x4",
    "capacities": {3: [5, 3], 4: [6, 2]},
}


def test_a_file_is_read(tmp_path: Path) -> None:
    spec = load_budget(write(tmp_path, window=4), "toy")
    assert (spec.model, spec.layers, spec.mean, spec.window) == ("toy", 2, 4, 4)
    assert spec.drafters == (0,)
    assert spec.bound == "moment"
    assert load_budget(write(tmp_path, bound="scale"), "toy").bound == "scale"
    spec = load_budget(write(tmp_path, mean=None, percent=12.5, drafters={1: [0], 3: []}))
    assert spec.percent == Fraction(25, 2)
    assert spec.drafters == {1: (0,), 3: ()}


def test_a_file_may_list_capacities(tmp_path: Path) -> None:
    spec = load_budget(write(tmp_path, **LISTED), "toy")
    assert spec.schedule is not None
    budget = resolve(spec, spec.schedule, 2)
    assert budget.capacities == ((0, 0), (1, 1), (5, 3), (6, 2))
    assert budget.label.endswith("mine.yaml")


def test_a_file_may_ask_for_the_papers_linear_rule(tmp_path: Path) -> None:
    spec = load_budget(
        write(
            tmp_path,
            layers=32,
            mean=650,
            drafters=[0, 23],
            rule="linear",
            refiner_start=600,
            delta=70,
        )
    )
    assert spec.linear == Linear(600, 70)
    budget = resolve(spec, THIRTEEN, 32)
    assert budget.capacities[12] == (5600, *[320] * 22, 5600, *[320] * 8)
    assert budget.origin == "by hand; the linear rule, 600 - 70 k for layers that are no drafters"
    assert load_budget(write(tmp_path, rule="released")).linear is None


def test_a_linear_rule_that_a_size_cannot_keep_is_refused_when_used(tmp_path: Path) -> None:
    path = write(tmp_path, mean=100, rule="linear", refiner_start=90, delta=40)
    spec = load_budget(path)
    assert resolve(spec, SEVEN, 2).mean == 100
    with pytest.raises(UserError) as caught:
        resolve(spec, THIRTEEN, 2)
    assert str(path) in caught.value.where
    assert "at most 10" in caught.value.fix


LINEAR = {"rule": "linear", "refiner_start": 3, "delta": 1}


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"layer": 2}, "", "unknown key 'layer'"),
        ({"model": None}, "model", "missing"),
        ({"provenance": None}, "provenance", "missing"),
        ({"model": 3}, "model", "model is 3"),
        ({"layers": 0}, "layers", "layers is 0"),
        ({"layers": True}, "layers", "layers is True"),
        ({"window": "big"}, "window", "window is 'big'"),
        ({"bound": "picture"}, "bound", "bound is 'picture'"),
        ({"mean": 0}, "mean", "mean is 0"),
        ({"mean": None}, "mean", "neither"),
        ({"percent": 10}, "mean", "both"),
        ({"mean": None, "percent": 0}, "percent", "percent is 0"),
        ({"mean": None, "percent": 101}, "percent", "percent is 101"),
        ({"mean": None, "percent": "10%"}, "percent", "percent is '10%'"),
        ({"rule": "quadratic"}, "rule", "rule is 'quadratic'"),
        ({"rule": ["linear"]}, "rule", "rule is ['linear']"),
        ({"delta": 1}, "delta", "delta without rule: linear"),
        ({**LINEAR, "rule": "released"}, "refiner_start", "without rule: linear"),
        ({**LINEAR, "delta": None}, "delta", "rule: linear without delta"),
        ({**LINEAR, "delta": -1}, "delta", "delta is -1"),
        ({**LINEAR, "refiner_start": 0}, "refiner_start", "refiner_start is 0"),
        ({**LINEAR, "drafters": []}, "drafters", "rule: linear without drafters"),
        ({**LINEAR, **LISTED}, "rule", "both a rule and capacities"),
        ({"drafters": 0}, "drafters", "drafters hold 0"),
        ({"drafters": [2]}, "drafters", "drafter 2 is not a layer"),
        ({"drafters": [0, 0]}, "drafters", "twice"),
        ({"drafters": {0: [1]}}, "drafters", "no mapping from scale numbers"),
        ({"drafters": {9: [7]}}, "drafters", "drafter 7 is not a layer"),
        ({"schedule": "1x1 two"}, "schedule", "scale 2 of the schedule reads 'two'"),
        ({"capacities": [[1, 2]]}, "capacities", "no mapping"),
        ({"capacities": {3: [5, 3], 4: [6, 2]}}, "schedule", "capacities without schedule"),
        ({**LISTED, "mean": None, "percent": 10}, "mean", "capacities without mean"),
        ({**LISTED, "layers": 3}, "capacities", "2 capacities for 3 layers"),
        ({**LISTED, "mean": 3}, "capacities", "average 4 per layer, more than 3"),
        ({**LISTED, "capacities": {3: [5, 4], 4: [6, 2]}}, "capacities", "average 4.5 per layer"),
        ({**LISTED, "capacities": {3: [8, 0], 4: [6, 2]}}, "capacities", "capacity 8 for layer 0"),
        ({**LISTED, "capacities": {3: [5, 3]}}, "capacities", "average 14 per layer"),
    ],
)
def test_a_file_with_a_mistake_is_refused(
    tmp_path: Path, changes: dict[str, object], key: str, says: str
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_budget(path, "toy")
    error = caught.value
    assert says in error.what
    assert str(path) in error.where
    assert key in error.where
    assert error.rule or error.fix


def test_a_misspelt_key_is_offered_right(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_budget(write(tmp_path, drafter=[0]))
    assert "drafters" in caught.value.fix


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [", "\x00", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_budget(path)
    assert str(path) in caught.value.where


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_budget(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        load_budget(tmp_path / "folder.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    with pytest.raises(UserError, match="not readable"):
        load_budget(tmp_path / "latin.yaml")


def test_a_budget_for_another_model_is_refused(tmp_path: Path) -> None:
    for asked in (write(tmp_path), "infinity-2b/paper-10"):
        with pytest.raises(UserError) as caught:
            load_budget(asked, "emoji")
        assert "not for emoji" in caught.value.what
        assert caught.value.fix


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        load_budget("paper10", "infinity-2b")
    assert "paper-10" in caught.value.fix
    assert "10%" in caught.value.rule


def test_a_name_of_other_models_says_so() -> None:
    with pytest.raises(UserError) as caught:
        load_budget("paper-10", "emoji")
    assert "infinity-2b and infinity-8b" in caught.value.rule


def test_a_name_of_several_models_needs_the_model() -> None:
    with pytest.raises(UserError) as caught:
        load_budget("paper-10")
    assert "infinity-2b/paper-10" in caught.value.fix


def test_a_budget_for_another_depth_is_refused() -> None:
    with pytest.raises(UserError, match="made for 32 layers"):
        resolve(load_budget("paper-10", "infinity-2b"), THIRTEEN, 40)
