#!/usr/bin/env bash
# A file of prompts on all GPUs of this machine: a worker for each (docs/cluster.md).
#
#   scripts/recipes/all-gpus.sh FILE OUT [options of scalekv batch]
#
# CUDA_VISIBLE_DEVICES=0,2 takes some of them. Needs the extra: pip install "scalekv[ray]". Runs again
# after any end: only missing pictures are made.
set -euo pipefail

if (($# < 2)); then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
exec "${SCALEKV:-scalekv}" batch "$1" --out "$2" --resume --engine ray --device cuda "${@:3}"
