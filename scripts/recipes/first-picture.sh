#!/usr/bin/env bash
# From a fresh machine to the first picture: installs into .venv unless scalekv is there already,
# checks the machine, fetches the model if it is not complete, draws.
#
#   scripts/recipes/first-picture.sh [MODEL] [PROMPT] [options of scalekv generate]
#
# MODEL is infinity-2b unless named. HF_HOME says where weights go, SCALEKV names another program.
# Exit codes are those of scalekv: 0 done, 1 something broke, 2 refused, with the reason.
set -euo pipefail

model=${1:-infinity-2b}
prompt=${2:-a red apple on a wooden table}
shift "$(($# < 2 ? $# : 2))"

say() { printf '%s\n' "$*" >&2; }

scalekv=${SCALEKV:-scalekv}
if ! command -v "$scalekv" >/dev/null; then
    cd "$(dirname "$0")/../.."
    scalekv=$PWD/.venv/bin/scalekv
    if [[ ! -x $scalekv ]]; then
        say "installing into $PWD/.venv"
        python3 -m venv .venv
        # torch comes from the index that pip is set up with; for an older driver install its build
        # into .venv first, and it stays.
        .venv/bin/pip install --quiet -c constraints.txt . >&2
    fi
fi

say "checking the machine for $model"
if ! "$scalekv" doctor --model "$model" >&2; then
    say "fetching what is missing"
    "$scalekv" download "$model" >&2
    "$scalekv" doctor --model "$model" >&2
fi
exec "$scalekv" generate "$prompt" --model "$model" "$@"
