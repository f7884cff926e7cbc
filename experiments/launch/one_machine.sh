#!/bin/sh
# One machine: one process takes all of its devices.
#   experiments/launch/one_machine.sh experiments/worlds_128.py runs/worlds_128 [--stage=denoiser ...]
set -eu

config=${1:?a config, such as experiments/worlds_128.py}
workdir=${2:?a work directory}
shift 2

# After a crash: the run goes on from its newest checkpoint. Mistakes (2), Ctrl-C (130) and
# SIGTERM (143) end it.
attempt=1
while :; do
  status=0
  mirage train --config="$config" --workdir="$workdir" "$@" || status=$?
  case $status in 0 | 2 | 130 | 143) exit "$status" ;; esac
  attempt=$((attempt + 1))
  [ "$attempt" -le 5 ] || exit "$status"
  echo "mirage train ended with status $status; attempt $attempt" >&2
  sleep 10
done
