#!/bin/bash
# A Cloud TPU VM slice: the same command on each of its hosts.
#   TPU=my-slice ZONE=us-east5-a experiments/launch/tpu_vm.sh \
#     experiments/wan22_5b_memory.py /mnt/run --source=/mnt/footage --stage=denoiser
# The hosts hold a checkout in ~/mirage_jax with `pip install -e '.[tpu]'` done.
set -euo pipefail

: "${TPU:?name of the TPU slice}" "${ZONE:?its zone}"
config=${1:?a config, such as experiments/wan22_5b_memory.py}
workdir=${2:?a work directory on a file system that all hosts share}
shift 2

command=(mirage train --coordinator=auto --config="$config" --workdir="$workdir" "$@")
# Quoted once more, for the shell of the host.
remote="cd ~/mirage_jax && exec $(printf '%q ' "${command[@]}")"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$remote"
