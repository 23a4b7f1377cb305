"""What a command line gets wrong is said as everything else: what was given, the rule, the fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

from scalekv.cli.main import app
from scalekv.kv.errors import UserError
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


def groups(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Groups of commands, with the words they are called by."""
    if hasattr(command, "commands"):
        yield path, command
        for name, one in command.commands.items():
            yield from groups(one, *path, name)


GROUPS = dict(groups(typer.main.get_command(app)))


def test_there_are_groups_with_options_of_their_own() -> None:
    assert {("eval",), ("models",), ("budgets",)} <= GROUPS.keys()


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_options_before_a_command_are_refused(path: tuple[str, ...]) -> None:
    """Every option of every group, before every command of it: none is left unread."""
    group, called = GROUPS[path], " ".join(["scalekv", *path])
    for option in group.params:
        if option.is_eager or not option.expose_value:  # --version and such: the end of it
            continue
        word = max(option.opts, key=len)
        typed = [word] if option.is_flag else [word, "1"]
        for name, command in group.commands.items():
            context = group.make_context(called, [*typed, name])
            with pytest.raises(UserError, match=f"{word} stands before {name}") as refused:
                group.resolve_command(context, [name])
            its = [one for param in command.params for one in param.opts]
            assert (f"are of: {called} {name} {word}" in refused.value.fix) == (word in its)


@pytest.mark.parametrize(
    ("typed", "fix"),
    [
        (
            ["eval", "--limit", "3", "export", "geneval"],
            "options stand behind the command they are of: scalekv eval export --limit",
        ),
        (["eval", "--limit=3", "import"], "leave it out: scalekv eval import has no --limit"),
        (["eval", "--no-offload", "import"], "import has no --no-offload"),
        (["budgets", "-m", "emoji", "show", "10%"], "are of: scalekv budgets show --model"),
        (["models", "--json", "show", "emoji"], "are of: scalekv models show --json"),
    ],
)
def test_options_before_a_command_belong_behind_it(
    scalekv: Program, typed: list[str], fix: str
) -> None:
    done = scalekv(*typed)
    assert done.code == 2
    assert fix in " ".join(done.err.split())


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
