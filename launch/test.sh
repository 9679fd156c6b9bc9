#!/usr/bin/env bash
# Style, types and tests, as in CI: launch/test.sh [pytest arguments]
# For example: launch/test.sh -m "not slow"      launch/test.sh tests/pictures
set -euo pipefail
EXTRA=test
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --check --quiet .
"$PYTHON" -m mypy --no-error-summary
# Most of a test's time is compiling programs that run once: compile them quickly, and
# in one piece, since there are more workers than cores.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# Kills and restarts compile the same programs again.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1
# One more worker than cores: tests that start processes wait for them.
exec "$PYTHON" -m pytest -n "${NUM_WORKERS:-3}" --dist worksteal "$@"
