"""Write docs/cli.md from the commands themselves: their help, options, settings and error kinds.

python -m scripts.cli_docs            # writes it
python -m scripts.cli_docs --check    # exits with 1 where it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer

from scalekv.cli.console import errors
from scalekv.cli.console.help import (
    examples_of,
    is_argument,
    panels_of,
    placeholder,
    summary_of,
    usage_of,
    words_of,
)
from scalekv.cli.main import app
from scalekv.configs.option import Option
from scalekv.configs.options import SETTINGS
from scalekv.configs.settings import variable_name

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

TOP = """\
<!-- Written by `python -m scripts.cli_docs` from the commands' own help; do not edit. -->

# The command line

Results go to stdout: a path a line, a table, or with `--json` one JSON object. Everything else goes
to stderr: progress, notes, errors. On a terminal progress moves; elsewhere it is plain lines, and
nothing is ever asked. `--quiet` leaves only errors on stderr, `--verbose` (or `SCALEKV_DEBUG=1`)
adds where a failure happened. `NO_COLOR`, `TERM=dumb` and `COLUMNS` are heeded; a table in
a pipe has a row a line, however long. Nothing is overwritten, and a file appears whole or not at
all.

A reader of stdout or stderr that leaves (`| head -1`, `2> >(head -1)`), or either closed from the
start (`>&-`), costs nothing: the work is done, and the exit code is the work's. A disk that is full
under stdout is exit code 1, after the work. What an encoding lacks is written as an escape
(`\\u732b`), and JSON is ASCII. Control characters in prompts and names reach no terminal.
"""

CODES = {
    errors.OK: "done",
    errors.FAILED: "something broke, or a check found problems; what was finished is kept",
    errors.REFUSED: "refused before any work: what, where, the rule it breaks and how to mend it",
    errors.HUNG_UP: "the terminal closed (SIGHUP); what was finished is kept",
    errors.INTERRUPTED: "interrupted (Ctrl-C); what was finished is kept",
    errors.TERMINATED: "ended from outside (SIGTERM: docker stop, systemd, Slurm); likewise",
}

ABOUT_SETTINGS = """\
Every default can be set as an environment variable, or in a config file: lines such as
`model: emoji` in `~/.config/scalekv/config.yaml`, or where the platform has such files;
`SCALEKV_CONFIG` names another one. The first that says something holds: option, variable, file, the
model's preset. `scalekv config` shows every value and where it comes from. Every command refuses a
value that no option takes, an unknown key, and a variable that is nearly called like one of these;
other variables that begin with `SCALEKV_` are left alone, and `scalekv config` names them.
"""

COMPLETION = """\
Every option and argument with a list completes: models, the budgets, ratios, pixel classes and
sizes of the model that is typed or set, policies, dtypes, devices, formats, and the parts of a list
with commas.

`scalekv --install-completion` installs completion for the shell it is called from (bash, zsh or
fish), `scalekv --show-completion` prints it. Where the shell is not that of the terminal, in an
image or a dotfile repository, ask for a shell by name:

```sh
_SCALEKV_COMPLETE=source_bash scalekv > ~/.local/share/bash-completion/completions/scalekv
_SCALEKV_COMPLETE=source_zsh scalekv > ~/.zfunc/_scalekv
_SCALEKV_COMPLETE=source_fish scalekv > ~/.config/fish/completions/scalekv.fish
```
"""

RECIPES = """\
Shell scripts to use as they are or to begin with; each says at its top how it is called. All of
them go on where an earlier run ended, and make only the pictures that are missing.

| in `scripts/recipes` | for |
| --- | --- |
| `first-picture.sh [MODEL]` | a fresh machine: install, check, download, draw |
| `all-gpus.sh FILE OUT` | a file of prompts on all GPUs of a machine |
| `slurm-array.sh FILE OUT` | a file of prompts as a Slurm array, in a container or not |
| `kubernetes-job.yaml` | a file of prompts as an indexed Job of Kubernetes |
| `nightly-batch.sh FILE OUT` | a file of prompts over several nights, never twice at once |
"""


def page() -> str:
    """The whole page."""
    program: Any = typer.main.get_command(app)
    parts = [TOP, "## Commands", "\n".join(_contents(program))]
    parts += ["## Exit codes", _table(("code", "meaning"), CODES.items())]
    parts += [
        "With `--json` a failure is one line of JSON, the last on stderr: "
        '`{"error": {"kind": ..., "code": ..., "what": ..., "where": ..., "rule": ..., '
        '"fix": ...}}`. A kind stays when wording changes:\n',
        _table(("kind", "meaning"), ((f"`{k}`", v) for k, v in errors.KINDS.items())),
    ]
    settings = ((f"`{n}`", f"`{variable_name(n)}`", _default(o)) for n, o in SETTINGS.items())
    parts += ["## Settings", ABOUT_SETTINGS, _table(("key", "variable", "default"), settings)]
    parts += ["## Completion", COMPLETION, "## Recipes", RECIPES]
    for path, command in _commands(program, "scalekv"):
        parts += [f"## {path}\n", *_command(path, command)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for part, command in group.commands.items():
        path = f"{name} {part}"
        yield path, command
        if hasattr(command, "commands"):
            yield from _commands(command, path)


def _contents(program: Any) -> Iterator[str]:
    for path, command in _commands(program, "scalekv"):
        anchor = path.replace(" ", "-")
        yield f"- [`{path}`](#{anchor}): {summary_of(command)}"


def _command(path: str, command: Any) -> Iterator[str]:
    yield cleandoc(command.help)
    yield f"```text\n{usage_of(path, command)}\n```"
    rows = [(f"`{placeholder(p)}`", words_of(p)) for p in command.params if is_argument(p)]
    if rows:
        yield _table(("argument", ""), rows)
    for panel, options in panels_of(command).items():
        yield _table((panel, ""), ((_names(option), words_of(option)) for option in options))
    examples = examples_of(command)
    if examples:
        yield "```sh\n" + "\n".join(examples) + "\n```"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = placeholder(option)
    return f"{names} `{value}`" if value else names


def _default(option: Option) -> str:
    return f"`{option.default}`" if option.default else option.shown_default


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def main() -> int:
    """Writes the page, or compares it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is not up to date: python -m scripts.cli_docs", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
