"""The README names every policy, and the example of docs/policies.md runs as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.generation.patch import patched
from scalekv.kv.policies import registry as policies
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.small import run, small_model

README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "docs" / "policies.md"
WEIGHTS = BUILT_IN / "emoji" / "transformer.safetensors"


def test_the_table_lists_the_policies_there_are() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", README.read_text(encoding="utf-8"), re.M)
    assert tuple(rows) == policy_names()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_registered", {})


def example() -> tuple[str, str]:
    """The policy of one's own, and its use."""
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    policy, use = code
    return policy, use


@pytest.mark.usefixtures("registry")
def test_the_policy_of_ones_own_works_under_a_model() -> None:
    exec(compile(example()[0], str(PAGE), "exec"), {})
    model = small_model()
    with patched(model, policy="largest-values", budget="20%") as caches:
        run(model)
        assert caches.budget is not None
        assert {int(cache.kept.min()) for cache in caches.layers} == {caches.budget.mean}


@pytest.mark.usefixtures("registry")
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the built-in model's weights are not here")
def test_its_use_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    for block in example():
        exec(compile(block, str(PAGE), "exec"), scope)
    name, ratio = capsys.readouterr().out.split()
    assert name == "largest-values"
    assert 0.15 < float(ratio) <= 0.2
