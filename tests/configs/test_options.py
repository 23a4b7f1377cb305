"""The table of options: what follows from it, everywhere it is used."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from typing import Any

import pytest

from scalekv.cli.batch.command import batch
from scalekv.cli.bench.command import bench
from scalekv.cli.calibrate.command import calibrate
from scalekv.cli.choices import Choices
from scalekv.cli.compare.command import compare
from scalekv.cli.eval.command import evaluate
from scalekv.cli.generate.command import generate
from scalekv.cli.plan.command import plan
from scalekv.cli.selftest.command import selftest
from scalekv.cli.serve.command import serve
from scalekv.configs.models import list_models, model_named
from scalekv.configs.option import Owner, Scope
from scalekv.configs.options import COLUMNS, OPTIONS, SETTINGS
from scalekv.configs.settings import Setting, Settings, Source
from scalekv.configs.values import Unreadable
from scalekv.infinity_patch import Placement, Request
from scalekv.kv.errors import UserError

COMMANDS = {
    f.__name__: f for f in (generate, batch, compare, bench, calibrate, plan, serve, selftest)
} | {"eval": evaluate}
ONE_BY_ONE = {"record"}
"""For a few pictures that are looked at: a file of megabytes beside each is no batch's."""
HOMES: dict[Owner, Any] = {
    Owner.REQUEST: Request,
    Owner.PLACEMENT: Placement,
    Owner.RUN: Choices,
}
NAMES = [option.name for option in OPTIONS]


def test_names_are_there_once() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_a_row(option: Any) -> None:
    assert option.help.endswith(".")
    if option.owner in HOMES:
        assert option.name in {field.name for field in fields(HOMES[option.owner])}
    for command in option.commands:
        assert option.name in signature(COMMANDS[command]).parameters, command
    for word in option.kind.known("emoji"):
        assert option.kind.read(word) is not None, word
    assert (option.kind.metavar == "") == (option.kind.shell is bool)
    if option.default:
        assert option.kind.read(option.default) is not None
    if option.preset is not None:
        for model in list_models():
            option.kind.read(option.preset(model_named(model)))


def test_all_of_a_request_and_a_placement_can_be_said() -> None:
    """Drafters, seeds and when texts are encoded are for programs; prompts are arguments, or a
    batch's rows."""
    words = {option.name for option in OPTIONS}
    assert {field.name for field in fields(Request)} - words == {"prompts", "drafters", "seeds"}
    assert {field.name for field in fields(Placement)} - words == {"text_read", "text_first"}


def test_what_generate_takes_batch_takes() -> None:
    for option in OPTIONS:
        if option.name not in ONE_BY_ONE:
            assert ("generate" in option.commands) == ("batch" in option.commands), option.name
    missing = {"seed", "num_images", "size", "cfg_layer", "positive_prompt", "kv_dtype"}
    assert missing - COLUMNS.keys() == set()
    assert all(option.scope is not Scope.CALL for option in SETTINGS.values())


def test_what_makes_another_picture_does_not_stand_beside_from() -> None:
    assert not {option.name for option in OPTIONS if option.repeats} & COLUMNS.keys()


BAD: dict[str, tuple[object, ...]] = {
    "seed": ("-4", "x", "1.5", True, None, 2**63),
    "num_images": ("0", 0, "-1"),
    "cfg": ("x", "1,,2", [], [1, "b"], "nan", "inf", True, {}),
    "cfg_layer": ("a", "0.5", [1, 0.5]),
    "top_p": ("1.5", -0.1, "0.1,0.2", "nan", True, None),
    "truncate": ("maybe", 2, None),
    "ratio": ("round", "1x1", 1),
    "size": ("big", "10", "1024x"),
    "pixels": ("9M", 1),
    "device": ("gpu", "cuda:", "cuda:x"),
    "dtype": ("bf17", "int8"),
    "kv_dtype": ("fp8",),
    "kv_device": ("cuda",),
    "batch_size": ("0", "many"),
    "memory_report": ("json,xml", ""),
    "out": ("", "  ", 3),
    "negative": (5, "an \x1b[31mowl", "x\ud800"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_option_reads(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(Unreadable) as refused:
            SETTINGS[name].kind.read(value)
        assert refused.value.rule


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("seed", " 7 ", 7),
        ("cfg", "3", 3.0),
        ("cfg", [1, "2.5"], (1.0, 2.5)),
        ("cfg_layer", "-1,-5", (-1, -5)),
        ("cfg_layer", -1, -1),
        ("top_p", 0, 0.0),
        ("truncate", "Yes", True),
        ("positive_prompt", False, False),
        ("budget", 50, "50"),
        ("batch_size", "auto", "auto"),
        ("batch_size", "8", 8),
        ("memory_report", "html, json,html", ("html", "json")),
        ("size", "1248x832", "1248x832"),
    ],
)
def test_what_options_read(name: str, value: object, read: object) -> None:
    assert SETTINGS[name].kind.read(value) == read


def test_what_is_not_set_is_none() -> None:
    settings = Settings({})
    for name in ("cfg", "negative", "size", "weights_dir", "reproducible", "pixels"):
        assert settings.get(name).read() is None
    assert settings.get("negative", "").read() is None


def test_a_value_that_cannot_be_read_names_its_place() -> None:
    with pytest.raises(UserError) as refused:
        Setting("dtype", "bf17", Source.ENVIRONMENT, "SCALEKV_DTYPE").read()
    assert (refused.value.where, refused.value.fix) == (
        "SCALEKV_DTYPE",
        "did you mean bf16?",
    )
