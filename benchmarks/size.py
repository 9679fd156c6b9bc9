"""How a training step's time and memory grow with the number of points of a graph.

    python -m benchmarks.size [--points=400,2000,10000,50000,100000] [--graphs=8]
        [--repeats=3] [--config=FILE] [--config.model.convolution=gcn ...]

Without --config the published network is measured (7 neighbours, width 64, 3 layers,
graph attention, batch norm), on random points: no data is needed, and time hardly
depends on them. Every size runs in a process of its own, whose largest resident size
is the peak memory: program, compiler and arrays. Printed for each size, and below the
table the exponent p of seconds ~ points^p, fitted to the logarithms from 2000 points:

- graphs in a batch and noise buckets among which they are divided;
- seconds to compile, then of a training step: median, and least;
- processor seconds of a step, which other programs on the machine disturb less;
- seconds of which a step builds graphs: clusters, neighbours;
- peak memory of the process, and scratch memory of the compiled step (XLA).

Numbers are those of one device.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from benchmarks.step import (
    measure_graphs,
    paper_config,
    prepare,
    random_task,
    time_steps,
)
from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, split_config_arguments
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError
from ncgn_jax.metrics.table import Column, Row, format_table

POINTS = (400, 2000, 10_000, 50_000, 100_000)
FIT_FROM = 2000
WARM_UP = 1

COLUMNS = (
    Column("graphs", "graphs", 1, 0, "graphs in a batch"),
    Column("buckets", "buckets", 1, 0, "noise buckets, shapes of graphs"),
    Column("compile", "compile s", 1, 1, "tracing, lowering and compiling"),
    Column("step", "step s", 1, 3, "median seconds of a step"),
    Column("fastest", "min s", 1, 3, "fastest step"),
    Column("processor", "CPU s", 1, 3, "median processor seconds of a step"),
    Column("building", "graphs s", 1, 3, "median seconds to build a batch's graphs"),
    Column("peak", "peak MiB", 1, 0, "largest resident size of the process"),
    Column("scratch", "scratch MiB", 1, 0, "temporary memory of the compiled step"),
)


def measure(config: ConfigDict, repeats: int) -> Row:
    """Compiles and times training steps of one size, in this process.

    Args:
      config: Validated configuration; `data.num_points` is the size.
      repeats: Steps to time, after one that warms up.
    """
    task = random_task(config)
    timing = time_steps(*prepare(task), WARM_UP, repeats)
    memory = timing.compiled.memory_analysis()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "points": config.data.num_points,
        "graphs": config.train.batch_size,
        "buckets": len(task.model.time.buckets),
        "compile": timing.compile_seconds,
        "step": float(np.median(timing.seconds)),
        "fastest": float(np.min(timing.seconds)),
        "processor": float(np.median(timing.processor)),
        "building": measure_graphs(task, repeats, WARM_UP),
        "peak": peak,
        "scratch": memory.temp_size_in_bytes / 2**20 if memory else float("nan"),
    }


def fit_exponent(points: Sequence[float], seconds: Sequence[float]) -> float:
    """Fits p of seconds ~ points^p by least squares of the logarithms."""
    return float(np.polyfit(np.log(points), np.log(seconds), 1)[0])


def measure_apart(arguments: Sequence[str], num_points: int) -> Row | None:
    """Measures one size in a process of its own; None if it fails, which it prints."""
    command = [sys.executable, "-m", "benchmarks.size", f"--only={num_points}"]
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print(f"{num_points} points: ended with {done.returncode}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: Sequence[Row]) -> str:
    """Returns the table, and the exponents where two sizes or more allow a fit."""
    named = {f"{row['points']:.0f}": row for row in rows}
    lines = [format_table(named, COLUMNS, "training step by points of a graph")]
    large = [row for row in rows if row["points"] >= FIT_FROM]
    if len(large) > 1:
        sizes = [row["points"] for row in large]
        fits = {
            key: fit_exponent(sizes, [row[key] for row in large])
            for key in ("step", "processor")
        }
        lines.append(
            f"exponent from {min(sizes):.0f} to {max(sizes):.0f} points: "
            f"{fits['step']:.3f} of seconds, {fits['processor']:.3f} of processor "
            "seconds"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", default=",".join(map(str, POINTS)))
    parser.add_argument("--graphs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", type=int, default=0, help=argparse.SUPPRESS)
    arguments = (argv or sys.argv)[1:]
    try:
        path, overrides, rest = split_config_arguments(arguments)
        options = parser.parse_args(rest)
        sizes = [int(size) for size in options.points.split(",")]
        config = load_config(path) if path else paper_config()
        config = apply_overrides(config, overrides)
        for size in sizes:
            config.data.num_points = size
            config.train.batch_size = options.graphs
            validate(config)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except ValueError:
        sys.exit(f"error: --points: found {options.points!r}; allowed: 400,2000,...")
    if options.only:
        config.data.num_points = options.only
        print(json.dumps(measure(config, options.repeats)))
        return
    rows = [measure_apart(arguments, size) for size in sizes]
    print(report([row for row in rows if row]))


if __name__ == "__main__":
    main()
