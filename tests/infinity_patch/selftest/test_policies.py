"""Policies on the built-in model: what holds, and what is named where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scalekv.infinity_patch import Pipeline
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.health import Level
from scalekv.infinity_patch.selftest.policies import (
    PolicyRun,
    draw_all,
    examine_policies,
    examine_unpatched,
    figures_of,
    force_all,
    policies_for,
)


@pytest.fixture(scope="module")
def runs(pipeline: Pipeline, settled: Settled) -> list[PolicyRun]:
    found = list(policies_for(settled))
    for run in found:
        draw_all(pipeline, run, Placement(), lambda _: None)
    force_all(pipeline, found, lambda _: None)
    return found


def test_everything_holds(pipeline: Pipeline, runs: list[PolicyRun]) -> None:
    assert [run.label for run in runs] == ["full", "scalekv 10%", "coded 10%"]
    assert examine_unpatched(pipeline, runs[0]).level is Level.FINE
    findings = list(examine_policies(pipeline, runs))
    assert not [one for one in findings if one.level is Level.PROBLEM]


def test_the_figures(runs: list[PolicyRun]) -> None:
    full, scalekv, coded = (figures_of(run, runs[0]) for run in runs)
    assert (full["agreement"], full["psnr_db"]) == (1.0, None)
    # nothing is dropped before the fifth scale
    assert scalekv["agreement_by_scale"][:4] == [1.0] * 4
    assert 0.8 < scalekv["agreement"] < coded["agreement"] < 1
    assert scalekv["surprise"] > coded["surprise"] > full["surprise"] - 0.05
    assert scalekv["held_peak_bytes"] < full["held_peak_bytes"] / 9
    assert scalekv["psnr_db"][0] < coded["psnr_db"][0]


def test_a_cache_that_holds_more_than_it_should(pipeline: Pipeline, runs: list[PolicyRun]) -> None:
    held = [bytes_ + 1 for bytes_ in runs[1].held]
    findings = examine_policies(pipeline, [runs[0], replace(runs[1], held=held)])
    (problem,) = [one for one in findings if one.level is Level.PROBLEM]
    assert problem.name == "policy scalekv 10%"
    assert "by arithmetic" in problem.found


def test_a_policy_that_loses_the_picture(pipeline: Pipeline, runs: list[PolicyRun]) -> None:
    lost = [
        replace(forced, scales=tuple(replace(scale, surprise=2.0) for scale in forced.scales))
        for forced in runs[2].forced
    ]
    findings = examine_policies(pipeline, [runs[0], replace(runs[2], forced=lost)])
    (problem,) = [one for one in findings if one.level is Level.PROBLEM]
    assert "has lost the picture" in problem.found


def test_caches_that_change_what_is_drawn(pipeline: Pipeline, runs: list[PolicyRun]) -> None:
    other = [1 - part for part in runs[0].forced[0].bits]
    planted = replace(runs[0], forced=[replace(runs[0].forced[0], bits=tuple(other))])
    finding = examine_unpatched(pipeline, planted)
    assert finding.level is Level.PROBLEM
    assert finding.found.startswith("0.0000%")
