"""What a training step costs on more devices, at the same batch on each of them.

    python -m benchmarks.devices [--devices=1,2,4,8] [--graphs=16] [--repeats=10]
        [--config=FILE] [--config.model.width=64 ...]

Without --config the published network is measured at the paper's size. On CPU the
devices are made up: every count runs in a process of its own with as many as are
asked for, which share the cores, so that seconds grow with their number and only
the other columns tell of a pod. Of accelerators all that the process sees are used,
and --devices has to be their number. Printed for each count:

- graphs in a batch, over all devices;
- seconds to compile, then of a training step: median, and divided by the count;
- traces: how often the step was traced, over all batches; more than one is a fault;
- what a device hands to all others in a step, in MiB, counted in the compiled program,
  beside the size of the parameters, and in how many operations.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.step import paper_config, prepare, random_task
from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, split_config_arguments
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.metrics.table import Column, Row, format_table

COLUMNS = (
    Column("graphs", "graphs", 1, 0, "graphs in a batch, over all devices"),
    Column("compile", "compile s", 1, 1, "tracing, lowering and compiling"),
    Column("step", "step s", 1, 4, "median seconds of a step"),
    Column("each", "step s / devices", 1, 4, "the same over the number of devices"),
    Column("traces", "traces", 1, 0, "times the step was traced; 1 is right"),
    Column("volume", "exchanged MiB", 1, 4, "handed over by a device in a step"),
    Column("exchanges", "exchanges", 1, 0, "operations that do so"),
    Column("params", "parameters MiB", 1, 4, "size of the parameters"),
)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
COLLECTIVES += ("collective-permute", "collective-broadcast")
_OPERATION = re.compile(rf"= (.*?) (?:{'|'.join(COLLECTIVES)})(?:-start)?\(")
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]+(\d+))\[([\d,]*)\]")


def exchanges(program: str) -> list[int]:
    """Lists the sizes of what devices exchange.

    Args:
      program: Text of a compiled program (HLO).

    Returns:
      Bytes of the result of each collective operation, in the order of the text.
    """
    return [
        sum(_num_bytes(*shape) for shape in _SHAPE.findall(results))
        for results in _OPERATION.findall(program)
    ]


def _num_bytes(kind: str, bits: str, sizes: str) -> int:
    width = {"pred": 8, "bf16": 16}.get(kind) or int(bits)
    return int(np.prod([int(n) for n in sizes.split(",") if n], dtype=int)) * width // 8


def measure(config: ConfigDict, repeats: int) -> Row:
    """Measures the training step of a configuration on all devices of this process."""
    task, num_traces = random_task(config), 0
    loss = task.loss

    def counted(*args):
        nonlocal num_traces
        num_traces += 1
        return loss(*args)

    task.loss = counted
    steps, state, batch = prepare(task)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    began = time.perf_counter()
    sizes = exchanges(steps.lower(state, batch).compile().as_text())
    compile_seconds = time.perf_counter() - began
    seconds = []
    for number in range(3 + repeats):
        batch = steps.load(number)
        began = time.perf_counter()
        state, metrics = steps(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds[3:]))
    return {
        "graphs": config.train.batch_size,
        "compile": compile_seconds,
        "step": median,
        "each": median / parallel.num_devices(),
        "traces": num_traces,
        "volume": sum(sizes) / 2**20,
        "exchanges": len(sizes),
        "params": num_bytes / 2**20,
    }


def benchmark(
    counts: Sequence[int], graphs: int, repeats: int, configuration: Sequence[str]
) -> dict[str, Row]:
    """Measures each count in a process of its own and prints the table."""
    rows: dict[str, Row] = {}
    for count in counts:
        flags = f"--xla_force_host_platform_device_count={count}"
        environment = dict(os.environ)
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}"
        command = [sys.executable, "-m", "benchmarks.devices", f"--only={count}"]
        command += [f"--graphs={graphs}", f"--repeats={repeats}", *configuration]
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if result.returncode:
            sys.exit(f"error: {count} devices: exit status {result.returncode}")
        rows[f"{count} devices"] = json.loads(result.stdout.splitlines()[-1])
    print(format_table(rows, COLUMNS, f"{graphs} graphs a device"))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.devices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--graphs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = (argv or sys.argv)[1:]
    with one_line_errors():
        path, overrides, rest = split_config_arguments(arguments)
        options = parser.parse_args(rest)
        config = load_config(path) if path else paper_config()
        config = apply_overrides(config, overrides)
        if options.only:
            found = parallel.num_devices()
            if found != options.only:
                raise ConfigError(f"--devices={options.only}; allowed here: {found}")
            size = options.graphs * found
            config = apply_overrides(config, [f"train.batch_size={size}"])
        validate(config)
    if options.only:
        print(json.dumps(measure(config, options.repeats)))
        return
    try:
        counts = [int(count) for count in options.devices.split(",")]
    except ValueError:
        sys.exit(f"error: --devices={options.devices}; allowed: counts, as in 1,2,4,8")
    configuration = [f"--config={path}"] if path else []
    configuration += [f"--config.{override}" for override in overrides]
    benchmark(counts, options.graphs, options.repeats, configuration)


if __name__ == "__main__":
    main()
