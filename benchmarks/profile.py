"""What a training step and a sampler step spend their time on.

    python -m benchmarks.profile [--config=FILE] [--config.model.convolution=gcn ...]
        [--repeats=5] [--sample_graphs=8] [--sampler_steps=20]

Without --config the published network is profiled, on random points, as in
benchmarks.step. A few steps run under JAX's profiler; every operation of the compiled
program is counted by its own time, without what it calls. Printed for the training
step, and for sampler steps in the coarsest and the finest noise bucket:

- by kind: matrix products (with what XLA fused to them), sorting, gathers, scatters,
  reductions, copies, other arithmetic; of a fused operation the first of these in it;
- by place: the file of the package that asked for the operation;
- the largest single operations.

Milliseconds are summed over the threads that run operations side by side, so they may
exceed those of the clock, printed above each table.
"""

import argparse
import collections
import functools
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

from benchmarks.step import WARM_UP, paper_config, prepare, random_task, sampler_program
from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, split_config_arguments
from ncgn_jax.domains import validate
from ncgn_jax.faults import one_line_errors
from ncgn_jax.metrics.table import Column, format_table

# In order: a fusion is of the first kind that anything in it has.
KINDS = {
    "matrix product": ("dot", "convolution"),
    "sort": ("sort", "topk"),
    "scatter": ("scatter", "select-and-scatter"),
    "gather": ("gather", "dynamic-slice", "dynamic-update-slice"),
    "exchange": ("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    "random numbers": ("rng-bit-generator", "rng"),
    "reduction": ("reduce", "reduce-window"),
    "copy": ("copy", "transpose", "concatenate", "pad", "slice", "reverse"),
}
OTHER = "arithmetic"
# Files whose functions stand for others: what counts is who called them.
_ASKED_BY_OTHERS = ("graphs/precision.py",)

COLUMNS = (
    Column("milliseconds", "ms", 1e3, 3, "a step, summed over threads"),
    Column("share", "%", 100, 1, "of all operations"),
    Column("calls", "calls", 1, 1, "operations a step"),
)

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_ENTRY = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')


class Operation(NamedTuple):
    """What the text of a program says of one operation.

    Attributes:
      kind: One of KINDS, or OTHER.
      place: File of the package that it stems from, `elsewhere` if from none.
    """

    kind: str
    place: str


def read_program(text: str) -> dict[str, Operation]:
    """Reads kind and origin of every operation off a compiled program.

    Args:
      text: HLO, as `compiled.as_text()` gives it.

    Returns:
      Operations by name.
    """
    codes: dict[str, list[str]] = collections.defaultdict(list)
    lines, computation = {}, ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            computation = head[1]
        elif found := _INSTRUCTION.match(line):
            name, code = found.groups()
            if code == "custom-call" and (target := _TARGET.search(line)):
                code = target[1]
            codes[computation].append(code)
            lines[name] = code, line
    place_of = _places(text)
    operations = {}
    for name, (code, line) in lines.items():
        called = _CALLED.search(line) if code in ("fusion", "call") else None
        inside = [code, *(codes[called[1]] if called else ())]
        frame = _FRAME.search(line)
        place = place_of(int(frame[1])) if frame else "elsewhere"
        operations[name] = Operation(_kind_of(inside), place)
    return operations


def _kind_of(codes: Sequence[str]) -> str:
    for kind, members in KINDS.items():
        if any(code.lower() in members or _is_library(code, kind) for code in codes):
            return kind
    return OTHER


def _is_library(code: str, kind: str) -> bool:
    """Recognises calls of libraries: `__onednn$matmul`, `__cublas$gemm`, `TopK`."""
    pattern = {"matrix product": r"matmul|gemm|conv", "sort": r"topk|sort"}.get(kind)
    return bool(pattern and re.search(pattern, code.lower()) and "convert" not in code)


def _places(text: str) -> Callable[[int], str]:
    """Reads the tables of stack frames; returns the file of a frame."""
    tables: dict[str, dict[int, str]] = collections.defaultdict(dict)
    title = ""
    for line in text.splitlines():
        if entry := _ENTRY.match(line):
            tables[title][int(entry[1])] = entry[2] or entry[3]
        elif line.strip():
            title = line.strip()

    def field(name, entry):
        found = re.search(rf"{name}=(\d+)", entry)
        return int(found[1]) if found else 0

    # The first frame has no parent: XLA may write that as 0, and as 1, one too many.
    first_parent = field("parent_frame_id", tables["StackFrames"].get(1, ""))

    @functools.cache
    def place(frame: int) -> str:
        while entry := tables["StackFrames"].get(frame):
            location = tables["FileLocations"][field("file_location_id", entry)]
            path = tables["FileNames"][field("file_name_id", location)]
            file = path.rpartition("/ncgn_jax/")[2]
            if file != path and file not in _ASKED_BY_OTHERS:
                return file
            frame = field("parent_frame_id", entry) - first_parent
        return "elsewhere"

    return place


def own_times(folder: str | Path) -> Iterator[tuple[str, float]]:
    """Yields (operation, seconds) of all that a trace recorded of compiled programs.

    Seconds are an operation's own: without operations that ran inside, on its thread.
    """
    for path in Path(folder).rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                yield from _without_inner(_events_of(line))


def _events_of(line) -> list[tuple[float, float, str]]:
    """Returns (start, -duration, operation) of a thread's events, sorted."""
    # jaxlib makes a type here of which newer Pythons warn. Where warnings are errors,
    # one raised in its C++ ends the process.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return sorted(
            (event.start_ns, -event.duration_ns, stats["hlo_op"])
            for event in line.events
            if "hlo_op" in (stats := dict(event.stats))
        )


def _without_inner(events):
    """Yields own seconds of nested (start, -duration, name), sorted."""
    open_events: list[list[Any]] = []  # name, end, own nanoseconds
    for start, minus, name in events:
        while open_events and open_events[-1][1] <= start:
            name_, _, own = open_events.pop()
            yield name_, own / 1e9
        if open_events:
            open_events[-1][2] += minus
        open_events.append([name, start - minus, -minus])
    for name, _, own in open_events:
        yield name, own / 1e9


def profile(
    compiled: jax.stages.Compiled, run: Callable[[], Any], num_steps: int
) -> tuple[float, dict[str, dict[str, dict[str, float]]]]:
    """Profiles one call of `run`, which starts a compiled program.

    Args:
      compiled: The program.
      run: Runs it and waits.
      num_steps: Steps that the call takes; what is returned is of one.

    Returns:
      Seconds of the clock, and rows of three tables: `kind`, `place`, `operation`.
    """
    operations = read_program(compiled.as_text())
    unknown = Operation(OTHER, "elsewhere")
    tables = {name: collections.defaultdict(lambda: [0.0, 0]) for name in
              ("kind", "place", "operation")}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with jax.profiler.trace(folder):
            run()
            clock = time.perf_counter() - began
        for name, seconds in own_times(folder):
            operation = operations.get(name, unknown)
            keys = (operation.kind, operation.place, f"{name} ({operation.place})")
            for table, key in zip(tables.values(), keys, strict=True):
                table[key][0] += seconds
                table[key][1] += 1
    return clock / num_steps, {
        title: _rows(table, num_steps) for title, table in tables.items()
    }


def _rows(table, num_steps):
    total = sum(seconds for seconds, _ in table.values()) or float("nan")
    ordered = sorted(table.items(), key=lambda item: -item[1][0])
    return {
        key: {
            "milliseconds": seconds / num_steps,
            "share": seconds / total,
            "calls": calls / num_steps,
        }
        for key, (seconds, calls) in ordered
    }


def report(title: str, clock: float, tables: dict[str, Any], largest: int = 8) -> str:
    """Formats the tables of one program."""
    parts = [f"## {title}: {clock * 1e3:.1f} ms by the clock"]
    for name, rows in tables.items():
        shown = dict(list(rows.items())[:largest])
        text = format_table(shown, COLUMNS, f"by {name}")
        parts.append(text[: text.rindex("\n\n")])
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample_graphs", type=int, default=8)
    parser.add_argument("--sampler_steps", type=int, default=20)
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        config = load_config(path) if path else paper_config()
        config = apply_overrides(config, overrides)
        validate(config)
    # Between a product and the layer that asked for it lie many frames of flax.
    jax.config.update("jax_traceback_in_locations_limit", 100)
    task = random_task(config)
    steps, state, batch = prepare(task)
    compiled = jax.jit(steps, donate_argnums=0).lower(state, batch).compile()
    # The first calls take memory from the kernel.
    for _ in range(WARM_UP):
        state, _ = jax.block_until_ready(compiled(state, batch))

    def train(state=state):
        for _ in range(options.repeats):
            state, metrics = compiled(state, batch)
            jax.block_until_ready(metrics)

    print(report("training step", *profile(compiled, train, options.repeats)))
    last = len(task.bucket_names) - 1
    for index in sorted({0, last}):
        walk, x, times = sampler_program(
            task, index, options.sample_graphs, options.sampler_steps
        )
        compiled = walk.lower(x, times).compile(parallel.forward_options())
        run = functools.partial(_call, compiled, x, times)
        run()
        title = f"sampler step, bucket {task.bucket_names[index]}"
        print(f"\n{report(title, *profile(compiled, run, options.sampler_steps))}")


def _call(compiled, *args):
    jax.block_until_ready(compiled(*args))


if __name__ == "__main__":
    main()
