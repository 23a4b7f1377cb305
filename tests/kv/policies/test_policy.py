"""Policies by name, and the error people see."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scalekv.kv.errors import UserError
from scalekv.kv.policies import registry as policies
from scalekv.kv.policies.full import FullPolicy
from scalekv.kv.policies.registry import (
    check_policy_name,
    policy_named,
    policy_names,
    register,
    takes_budget,
)

TORCH_FREE = (
    "errors",
    "schedule",
    "sizes",
    "precision",
    "budgets.asked",
    "budgets.budget",
    "budgets.drafters",
    "budgets.head_shares",
    "budgets.heat_order",
    "budgets.moments",
    "budgets.shapes",
    "budgets.shares",
    "calibration.profile",
    "memory.denominators",
    "memory.ledger",
    "memory.predicted",
    "policies.policy",
    "policies.registry",
)


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_registered", {})


@pytest.mark.parametrize("name", policy_names())
def test_every_name_makes_a_policy_of_that_name(name: str) -> None:
    result = policy_named(name)
    assert result.name == name
    assert policy_named(name) is not result


def test_an_object_is_taken_as_it_is() -> None:
    policy = FullPolicy()
    assert policy_named(policy) is policy
    assert not takes_budget(policy)
    assert takes_budget(policy_named("scalekv"))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        check_policy_name("scale-kv")
    assert "scalekv" in caught.value.fix
    assert "full" in caught.value.rule
    assert "scale-kv" in str(caught.value)


@pytest.mark.usefixtures("clean_registry")
def test_a_policy_can_be_registered_once() -> None:
    register("mine", FullPolicy)
    assert isinstance(policy_named("mine"), FullPolicy)
    assert policy_names()[-1] == "mine"
    for taken in ("mine", "full"):
        with pytest.raises(UserError, match="exists already"):
            register(taken, FullPolicy)


def test_arithmetic_and_names_need_no_torch() -> None:
    modules = [f"scalekv.kv.{name}" for name in TORCH_FREE] + ["scalekv.configs.budget_files"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_error_shows_only_what_it_has() -> None:
    assert str(UserError("no", rule="yes or yes")) == "no\n  rule: yes or yes"
    assert str(UserError("no", where="x", fix="y")) == "no\n  where: x\n  fix: y"
