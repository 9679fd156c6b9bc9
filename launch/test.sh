#!/usr/bin/env bash
# Style, spelling, types and tests, as in CI: launch/test.sh [pytest arguments]
#   launch/test.sh -m "not slow"      launch/test.sh tests/pictures
#   launch/test.sh --matrix [pytest arguments]   the fast tests on every Python found
#   launch/test.sh --docs             runs the notebooks and builds the site strictly
set -euo pipefail
WHAT=--tests
case "${1:-}" in
  --matrix | --docs)
    WHAT="$1"
    shift
    ;;
esac

knows() { # python flags
  JAX_PLATFORMS=cpu XLA_FLAGS="$2" "$1" -c 'import jax; jax.devices()' >/dev/null 2>&1
}

# Most of a test's time is compiling programs that run once: flags that compile them
# quickly, and in one piece, since there are more workers than cores. XLA ends a program
# that has a flag it does not know, and which it knows depends on its version.
quick_flags() {
  local flags="--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
  local newer="--xla_cpu_use_fusion_emitters=false"
  if knows "$1" "$flags $newer"; then
    echo "$flags $newer"
  elif knows "$1" "$flags"; then
    echo "$flags"
  fi
}

run_tests() { # python, pytest arguments
  local python="$1" flags
  shift
  flags="$(quick_flags "$python")"
  # Workers, and restarts after kills, compile the same programs: those are kept. One
  # more worker than cores: tests that start processes wait for them.
  XLA_FLAGS="${XLA_FLAGS:-} $flags" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
    "$python" -m pytest -n "${NUM_WORKERS:-3}" --dist worksteal "$@"
}

build_site() {
  local folder code=0
  folder="$(mktemp -d)"
  NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict --quiet --site-dir "$folder" || code=$?
  rm -rf "$folder"
  if ((code == 0)); then echo "site: built strictly"; fi
  return "$code"
}

enter() { # extras
  EXTRA="$1"
  source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
}

case "$WHAT" in
  --tests)
    enter test
    "$PYTHON" -m ruff check --quiet .
    "$PYTHON" -m ruff format --check --quiet .
    "$PYTHON" -m codespell_lib
    # Types take a core for half a minute: beside the tests, and said after them.
    types="$(mktemp)"
    trap 'rm -f "$types"' EXIT
    "$PYTHON" -m mypy --no-error-summary >"$types" 2>&1 &
    code=0
    run_tests "$PYTHON" "$@" || code=$?
    if ! wait $!; then
      cat "$types" >&2
      code=1
    fi
    exit "$code"
    ;;
  --docs)
    enter all,docs
    "$PYTHON" -m docs.run_notebooks --check --no_limit
    build_site
    ;;
  --matrix)
    source "$(dirname "${BASH_SOURCE[0]}")/matrix.sh"
    run_matrix "$@"
    ;;
esac
