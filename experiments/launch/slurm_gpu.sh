#!/bin/bash
# SLURM: one process for each node, which takes all of its GPUs.
#   sbatch --nodes=4 experiments/launch/slurm_gpu.sh experiments/worlds_128.py runs/worlds_128 [...]
#SBATCH --job-name=mirage
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -euo pipefail

config=${1:?a config, such as experiments/worlds_128.py}
workdir=${2:?a work directory on a file system that all nodes share}
shift 2

# SIGTERM reaches every process three minutes before the time is up: state saved, status 143.
# Left to itself JAX gives a process of SLURM one GPU.
JAX_LOCAL_DEVICE_IDS=$(seq --separator=, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS
status=0
srun --kill-on-bad-exit=1 \
  mirage train --coordinator=auto --config="$config" --workdir="$workdir" "$@" || status=$?
if [[ $status -eq 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
