#!/usr/bin/env bash
#SBATCH --job-name=scalekv
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=INT@120
#SBATCH --requeue
#SBATCH --output=scalekv-%A_%a.log
# A file of prompts as a Slurm array: every task makes a shard, on a GPU of its own.
#
#   sbatch --array=1-16 scripts/recipes/slurm-array.sh FILE OUT [options of scalekv batch]
#
# OUT is on a file system that all nodes share. Two minutes before the end of its time a task is
# interrupted and keeps what it has; submitted or requeued again, only missing pictures are made.
# IMAGE=scalekv.sif runs the program of an Apptainer image, with models from MODELS (~/models).
set -euo pipefail

if (($# < 2)) || [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "sbatch --array=1-N $0 FILE OUT [options of scalekv batch]" >&2
    exit 2
fi
file=$1 out=$2
shift 2

first=${SLURM_ARRAY_TASK_MIN:-1}
last=${SLURM_ARRAY_TASK_MAX:-$SLURM_ARRAY_TASK_ID}
shard=$((SLURM_ARRAY_TASK_ID - first + 1))/$((last - first + 1))
program=("${SCALEKV:-scalekv}")
if [[ -n ${IMAGE:-} ]]; then
    program=(apptainer exec --nv --bind "${MODELS:-$HOME/models}:/models" "$IMAGE" scalekv)
fi
# exec: the signal before the end is for the program, not for this shell.
exec "${program[@]}" batch "$file" --out "$out" --shard "$shard" --resume "$@"
