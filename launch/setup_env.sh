# Sourced by the other launch scripts: goes to the repository, makes or finds a
# virtual environment, installs what is missing, and leaves $PYTHON and $REPOSITORY
# set. A stamp in the environment makes every later start quick.
#
#   EXTRA=test . launch/setup_env.sh      installs the extra `test` as well
#
# An active virtual environment is used as it is; otherwise .venv in the repository.
# PYTHON=/path/to/python chooses the interpreter that .venv is made with.

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$REPOSITORY"

is_new_enough() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.13 python3.14 \
    python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 && is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  {
    echo "error: found no Python 3.11 or newer that can make virtual environments"
    echo "  looked for: ${PYTHON:+$PYTHON, }python3.11 to python3.14, python3, python"
    echo "  found: $(python3 --version 2>&1 || true)"
    echo "  install one (on Debian or Ubuntu: python3 and python3-venv), or name one:"
    echo "  PYTHON=/path/to/python $0"
  } >&2
  return 1
}

make_environment() {
  local base
  if [[ -n "${VIRTUAL_ENV:-}" ]]; then
    ENVIRONMENT="$VIRTUAL_ENV"
    if ! is_new_enough "$ENVIRONMENT/bin/python"; then
      echo "error: the active environment $ENVIRONMENT has no Python 3.11 or newer" >&2
      return 1
    fi
    return
  fi
  ENVIRONMENT="$REPOSITORY/.venv"
  # Also made anew when an earlier start was interrupted while making it.
  if ! "$ENVIRONMENT/bin/python" -m pip --version >/dev/null 2>&1; then
    base="$(find_python)"
    echo "making $ENVIRONMENT with $("$base" --version)" >&2
    "$base" -m venv --clear "$ENVIRONMENT"
  fi
}

install_packages() {
  local extra="${EXTRA:-}" stamp="$ENVIRONMENT/.ncgn_jax_installed" wanted
  # The folder is part of it: an editable install points to one.
  wanted="$(cat requirements.txt pyproject.toml | cksum) $REPOSITORY"
  if [[ -f "$stamp$extra" && "$(cat "$stamp$extra")" == "$wanted" ]]; then
    return
  fi
  echo "installing packages into $ENVIRONMENT (first start only)" >&2
  rm -f "$stamp" "$stamp$extra"
  # Some tools make environments without pip.
  "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip >/dev/null
  # In one call: versions are chosen once.
  "$PYTHON" -m pip install -q -r requirements.txt -e ".${extra:+[$extra]}"
  echo "$wanted" >"$stamp"
  echo "$wanted" >"$stamp$extra"
}

make_environment
PYTHON="$ENVIRONMENT/bin/python"
install_packages

# Compiled programs are kept between starts. Only slow ones: reading a small one back
# costs as much as compiling it.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-$REPOSITORY/.cache/jax}"
