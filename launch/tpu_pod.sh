#!/usr/bin/env bash
# A run on every worker of a TPU slice; start it wherever gcloud is set up.
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/modelnet.py --workdir=/mnt/runs/mine
#
# Copies this repository to ~/ncgn_jax of all workers, makes the environment with JAX for
# TPUs, and runs the same command everywhere; the workers find each other. Only worker 0
# reads and writes --workdir, which has to outlive the slice to be resumed from: a disk
# or bucket mounted there. After an interruption, start the same command again.
# PROJECT=mine   gcloud project, if it is not the default
# DRY_RUN=1      prints what would be run here and on each worker
set -euo pipefail
if (($# < 3)); then
  echo "usage: launch/tpu_pod.sh NAME ZONE --config=FILE ..." >&2
  exit 2
fi
name="$1" zone="$2"
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
where=("$name" "--zone=$zone" --worker=all ${PROJECT:+"--project=$PROJECT"})
archive=ncgn_jax.tar.gz

run() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    echo "here: $(printf '%q ' "$@")"
  else
    "$@"
  fi
}

worker="set -e; mkdir -p ncgn_jax; tar -xzf $archive -C ncgn_jax; cd ncgn_jax"
worker+="; . launch/setup_env.sh; \"\$PYTHON\" -m pip install -q 'jax[tpu]>=0.8,<0.13'"
worker+="; export JAX_COORDINATOR_ADDRESS=auto PYTHONUNBUFFERED=1"
worker+="; exec \"\$PYTHON\" -m ncgn_jax.main$(printf ' %q' "$@")"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
run tar -czf "$folder/$archive" --exclude=.git --exclude=.venv --exclude=.cache \
  --exclude=runs .
run gcloud compute tpus tpu-vm scp "$folder/$archive" "$name:" "${where[@]:1}"
if [[ -n "${DRY_RUN:-}" ]]; then
  echo "every worker: bash -c $(printf '%q' "$worker")"
  exit
fi
gcloud compute tpus tpu-vm ssh "${where[@]}" --command="bash -c $(printf '%q' "$worker")"
