"""What a run of `generate` asks for is read once and allotted once, from the command to the
caches."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType

import pytest

from scalekv.infinity_patch.asked import policies, settled
from scalekv.kv.budgets import asked, shapes
from scalekv.kv.policies import registry
from tests.cli.conftest import Outcome

COUNTED = {
    function.__code__: name
    for name, function in {
        "parsed": asked.parse_budget,
        "settled": settled.settle,
        "resolved": asked.resolve,
        "planned by name": registry.plan_named,
        "planned by object": registry.planned,
        "uniform": shapes.uniform,
        "calibration": registry.read_calibration,
    }.items()
}


@pytest.mark.parametrize(
    ("policy", "budget", "own"),
    [
        ("scalekv", "10%", {}),
        ("snapkv", "1MiB", {"uniform": 1}),
        ("heatkv", "30", {"calibration": 1}),
    ],
)
def test_once(
    scalekv: Callable[..., Outcome], policy: str, budget: str, own: dict[str, int]
) -> None:
    calls: Counter[CodeType] = Counter()
    policies._read.cache_clear()  # kept from one picture to the next

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[frame.f_code] += 1

    sys.setprofile(count)
    try:
        done = scalekv("generate", "a red apple", "--policy", policy, "--budget", budget)
    finally:
        sys.setprofile(None)
    assert done.code == 0, done.err
    counted = {name: calls[code] for code, name in COUNTED.items() if calls[code]}
    assert counted == {"parsed": 1, "settled": 1, "resolved": 1, "planned by name": 1, **own}
