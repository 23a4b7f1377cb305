"""What a command line gets wrong is said as everything else: what was given, the rule, the fix."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cli.conftest import Outcome

Program = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("typed", "what", "rule", "fix"),
    [
        (["generate", "-a fox"], "'-a fox' begins with", "--", "scalekv generate -- '-a fox'"),
        (["generate", "--a fox=1"], "'--a fox=1' begins", "--", "scalekv generate -- '--a fox=1'"),
        (["generate", "-fox"], "no option -fox", "--help lists", "-- -fox, if it is a PROMPT"),
        (["generate", "x", "--bugdet", "3"], "no option --bugdet", "--help", "mean --budget?"),
        (["generate", "x", "-budget", "3"], "no option -budget", "--help", "mean --budget?"),
        (["--model", "emoji", "plan"], "no option --model", "--help", "scalekv generate --model"),
        (["a red apple"], "no command 'a red apple'", "one of generate", "generate 'a red apple'"),
        (["genrate", "x"], "no command 'genrate'", "one of generate", "mean generate?"),
        (["models", "emoji"], "no command 'emoji'", "one of show", "scalekv models show emoji"),
        (["generate"], "no prompt", "", 'scalekv generate "a red apple"'),
        (["compare"], "PROMPT is missing", "scalekv compare [OPTIONS] PROMPT...", "compare "),
        (["batch"], "FILE is missing", "scalekv batch [OPTIONS] FILE", "batch prompts.txt"),
        (["batch", "a", "b", "c"], "b c is more than", "[OPTIONS] FILE", "in quotes"),
        (["generate", "x", "-n0"], "--num-images is '0'", "of at least 1", "--num-images 1"),
        (["generate", "x", "--top-p=3"], "--top-p is '3'", "between 0 and 1", "--help"),
        (["plan", "--text-tokens", "900"], "is '900'", "from 1 to 512", "--text-tokens 128"),
        (["plan", "--fit", "batsh"], "--fit is 'batsh'", "one of batch, budget", "mean batch?"),
        (["bench", "--rounds", "x"], "--rounds is 'x'", "a whole number of", "--rounds 5"),
        (["budgets", "new", "a.yaml", "--percent", "x"], "is 'x'", "a number", "--help"),
        (["generate", "x", "--seed"], "--seed has no value", "--seed N", "--seed 0"),
        (["generate", "x", "--json=1"], "--json takes no value", "--json", "alone"),
    ],
)
def test_what_rule_and_fix(
    scalekv: Program, typed: list[str], what: str, rule: str, fix: str
) -> None:
    done = scalekv(*typed)
    assert (done.code, done.out) == (2, "")
    first, *others = done.err.splitlines()
    said = {line.strip().partition(":")[0]: line.strip() for line in others}
    assert first.startswith("error: ")
    assert what in first
    assert rule in said.get("rule", "")
    assert fix in said["fix"]


def test_what_it_advises_works(scalekv: Program) -> None:
    """The fix for a prompt with a dash is refused for its budget alone."""
    done = scalekv("generate", "--budget", "150%", "--", "-a fox")
    assert "at most 100" in done.err


def test_programs_get_the_same(scalekv: Program) -> None:
    error = json.loads(scalekv("generate", "x", "--bugdet", "3", "--json").err)["error"]
    assert (error["kind"], error["code"]) == ("usage", 2)
    assert {"what", "where", "rule", "fix"} <= error.keys()


def test_nothing_at_all_is_answered_with_the_help(scalekv: Program) -> None:
    done = scalekv()
    assert (done.code, done.err) == (2, "")
    assert done.out == scalekv("--help").out
