#!/usr/bin/env bash
# A pod on this machine: N processes that talk over loopback (gloo), on its CPU cores.
#
#   launch/local_pod.sh N --config=configs/quickstart.py [arguments of ncgn_jax.main]
#
# DEVICES=2   CPU devices of each process (1)
# PORT=1234   port of process 0 (a free one)
# DRY_RUN=1   prints what each process would run
# Each line of output begins with the number of its process. SIGTERM and Ctrl-C go to
# all processes. The exit code is 0 only if that of every process is.
set -euo pipefail
if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local_pod.sh NUMBER_OF_PROCESSES --config=FILE ..." >&2
  exit 2
fi
count="$1"
shift
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
port="${PORT:-$("$PYTHON" -c "$free_port")}"

export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo PYTHONUNBUFFERED=1
workers=()
trap 'kill -TERM "${workers[@]}" 2>/dev/null || true' TERM INT
for ((id = 0; id < count; id++)); do
  command=(env "JAX_NUM_CPU_DEVICES=${DEVICES:-1}"
    "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port"
    "JAX_NUM_PROCESSES=$count" "JAX_PROCESS_ID=$id"
    "$PYTHON" -m ncgn_jax.main "$@")
  if [[ -n "${DRY_RUN:-}" ]]; then
    echo "process $id: ${command[*]}"
    continue
  fi
  # Not a pipeline: the number to signal is that of the process itself.
  "${command[@]}" > >(trap '' TERM INT; exec sed -u "s/^/[$id] /") 2>&1 &
  workers+=("$!")
done
code=0
for worker in "${workers[@]}"; do
  # A signal to this script interrupts the wait, not the worker.
  while true; do
    result=0
    wait "$worker" || result=$?
    kill -0 "$worker" 2>/dev/null || break
  done
  [[ "$result" == 0 ]] || code="$result"
done
exit "$code"
