#!/usr/bin/env bash
# A file of prompts on all GPUs of this machine: one process and one shard for each.
#
#   scripts/recipes/all-gpus.sh FILE OUT [options of scalekv batch]
#
# GPUS=0,2 takes some of them; without it, all that nvidia-smi lists. Runs again after any end: only
# missing pictures are made. Each process's messages go to OUT/gpu-N.log, paths to stdout. Ctrl-C
# stops all of them after the pictures they are at. The exit code is the largest of theirs.
set -euo pipefail

if (($# < 2)); then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
file=$1 out=$2
shift 2
scalekv=${SCALEKV:-scalekv}

if [[ -n ${GPUS:-} ]]; then
    IFS=, read -r -a gpus <<<"$GPUS"
else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
if ((${#gpus[@]} == 0)); then
    echo "no GPU: nvidia-smi lists none; name them: GPUS=0,1 $0 ..." >&2
    exit 2
fi
mkdir -p "$out"

# All shards read the same file and see the same mistakes: they are told once, before any starts.
"$scalekv" batch "$file" --out "$out" --resume --dry-run --quiet "$@" >/dev/null

pids=()
# shellcheck disable=SC2329 # the trap calls it
stop() { kill -INT "${pids[@]}" 2>/dev/null || true; }
trap stop INT TERM
for i in "${!gpus[@]}"; do
    # In the background a shell lets Ctrl-C be ignored; env gives it back, for stop to send it.
    CUDA_VISIBLE_DEVICES=${gpus[i]} env --default-signal=INT "$scalekv" batch "$file" --out "$out" \
        --shard "$((i + 1))/${#gpus[@]}" --resume "$@" 2>>"$out/gpu-${gpus[i]}.log" &
    pids+=($!)
done

worst=0
for i in "${!pids[@]}"; do
    code=0
    wait "${pids[i]}" || code=$?
    while kill -0 "${pids[i]}" 2>/dev/null; do # a signal ended the waiting, not the process
        code=0
        wait "${pids[i]}" || code=$?
    done
    if ((code)); then
        echo "GPU ${gpus[i]}: exit code $code, see $out/gpu-${gpus[i]}.log" >&2
    fi
    worst=$((code > worst ? code : worst))
done
exit "$worst"
