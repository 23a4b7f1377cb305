#!/usr/bin/env bash
# A file of prompts over several nights: goes on where the last night ended, never twice at once.
#
#   0 22 * * *  MAX_HOURS=8 /path/to/nightly-batch.sh FILE OUT [options of scalekv batch]
#
# MAX_HOURS: after that many hours the run is interrupted and the rest is left for the next night.
# TRIES (2): runs in all where pictures fail. Messages go to OUT/nightly.log, paths to stdout.
# Exit codes: 0 all pictures are there; 1 some failed every time; 2 refused, see the log; 75 a run of
# this folder is going on already; 130 time was up or somebody stopped it, and the rest is to come.
set -euo pipefail

if (($# < 2)); then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
file=$1 out=$2
shift 2
scalekv=${SCALEKV:-scalekv}
tries=${TRIES:-2}
mkdir -p "$out"
log=$out/nightly.log

exec 9>"$out/.nightly.lock"
if ! flock --nonblock 9; then
    echo "a run of $out is going on already" >&2
    exit 75
fi

limit=()
if [[ -n ${MAX_HOURS:-} ]]; then
    limit=(timeout --signal=INT --kill-after=10m "${MAX_HOURS}h")
fi
say() { printf '%s  %s\n' "$(date '+%F %T')" "$*" >>"$log"; }

for ((try = 1; try <= tries; try++)); do
    say "try $try: $file"
    code=0
    "${limit[@]}" "$scalekv" batch "$file" --out "$out" --resume "$@" 2>>"$log" 9>&- || code=$?
    # 124: timeout sent its signal; 137: and had to kill
    if ((code == 124 || code == 137)); then code=130; fi
    say "exit code $code"
    if ((code != 1)); then break; fi
done
exit "$code"
