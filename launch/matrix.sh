# Sourced by test.sh: runs the fast tests on every Python from 3.11 on that it finds, in
# an environment each below .cache/matrix, and prints a table. The oldest Python has the
# lowest versions that the bounds allow, the others the newest.

find_pythons() {
  local minor path
  for minor in 11 12 13 14; do
    # Those that a manager keeps beside each other need not be on PATH, and names on PATH
    # may be stubs of a version that is not active.
    for path in "$(command -v "python3.$minor" || true)" \
      "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"3.$minor".*/bin/"python3.$minor"; do
      if [[ -n "$path" ]] && "$path" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        echo "$path"
        break
      fi
    done
  done
}

# Prints all dependencies, those of the extra `all` too, at their lower bounds.
lowest_versions() { # python
  "$1" - <<'END'
import re
import tomllib
from pathlib import Path

extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = extras["optional-dependencies"]
lines = Path("requirements.txt").read_text().splitlines()
for name in re.search(r"\[(.*)\]", extras["all"][0])[1].split(","):
    lines += extras[name]
for line in lines:
    if found := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", line):
        # A bound of two numbers means the first release of that series.
        series = re.fullmatch(r"\d+\.\d+", found[2])
        print(f"{found[1]}{'~=' if series else '=='}{found[2]}{'.0' if series else ''}")
END
}

install_into() { # environment, python, oldest
  local stamp="$1/.ncgn_jax_matrix" wanted
  wanted="$(cat requirements.txt pyproject.toml | cksum)"
  if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then return; fi
  "$2" -m venv --clear "$1"
  "$1/bin/python" -m pip install -q --upgrade pip
  if [[ -n "$3" ]]; then
    lowest_versions "$1/bin/python" >"$1/lowest.txt"
  else
    : >"$1/lowest.txt"
  fi
  "$1/bin/python" -m pip install -q -e '.[test]' -c "$1/lowest.txt"
  echo "$wanted" >"$stamp"
}

# Prints a row of the table from the last line of pytest.
row_of() { # python, log, code
  "$1" - "$2" "$3" <<'END'
import importlib.metadata as metadata
import platform
import re
import sys
from pathlib import Path

lines = Path(sys.argv[1]).read_text(errors="replace").splitlines()
last = next((line for line in reversed(lines) if re.search(r" in [\d.]+s", line)), "")
counts = {word: number for number, word in re.findall(r"(\d+) (\w+)", last)}
seconds = re.search(r" in ([\d.]+)s", last)
failed = int(counts.get("failed", 0)) + int(counts.get("errors", counts.get("error", 0)))
print(
    "| " + " | ".join(
        [
            platform.python_version(),
            metadata.version("jax"),
            counts.get("passed", "0"),
            str(failed),
            counts.get("skipped", "0"),
            seconds[1] if seconds else "-",
            sys.argv[2],
        ]
    ) + " |"
)
END
}

run_matrix() { # pytest arguments
  local root python name environment log code worst=0 oldest=yes rows=()
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  cd "$root"
  mkdir -p .cache/matrix
  while read -r python <&3; do
    name="$(basename "$python")"
    environment="$root/.cache/matrix/$name"
    log="$root/.cache/matrix/$name.log"
    echo "$name: $python, output in $log"
    code=0
    if install_into "$environment" "$python" "$oldest" >"$log" 2>&1; then
      JAX_COMPILATION_CACHE_DIR="$root/.cache/matrix/jax-$name" \
        run_tests "$environment/bin/python" -q -m "not slow" "$@" >>"$log" 2>&1 ||
        code=$?
      rows+=("$(row_of "$environment/bin/python" "$log" "$code")")
    else
      code=1
      rows+=("| $name | could not be installed | - | - | - | - | $code |")
    fi
    ((code == 0)) || worst=1
    oldest=""
  done 3< <(find_pythons)
  if ((${#rows[@]} == 0)); then
    echo "error: found no Python from 3.11 on that can make virtual environments" >&2
    return 1
  fi
  printf '\n| Python | jax | passed | failed | skipped | seconds | exit code |\n'
  printf '|---|---|---|---|---|---|---|\n'
  printf '%s\n' "${rows[@]}"
  return "$worst"
}
