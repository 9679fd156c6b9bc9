"""How much of what a device can do a training step gets out of it.

    python -m benchmarks.accelerator [--dtypes=float32,bfloat16] [--calls=1,8]
        [--repeats=10] [--size=8192] [--config=FILE] [--config.model.width=256 ...]

Without --config the published network is measured at the paper's size, on random
points. First what the device reaches: products of square matrices of each type, and
memory read and written by an addition of large arrays. Then for each type of the
network's arithmetic (`model.dtype`) and number of steps at a call
(`train.steps_per_call`), on a line each:

- seconds to compile, and of a training step: median, and fastest;
- GFLOP of its matrix products a second, and their share of the reached peak of that
  type;
- bytes that XLA counts as read and written by its operations, a second, and their
  share of the reached bandwidth (above 100 % where caches serve them again);
- scratch memory.

Numbers are those of one device. It runs on a CPU too: choose a --size it can do.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.step import (
    WARM_UP,
    matmul_gflop,
    paper_config,
    prepare,
    random_task,
    time_steps,
)
from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, split_config_arguments
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.metrics.table import Column, Row, format_table
from ncgn_jax.tasks.settings import DTYPES

COLUMNS = (
    Column("compile", "compile s", 1, 1, "tracing, lowering and compiling"),
    Column("step", "step s", 1, 5, "median seconds of a step"),
    Column("fastest", "min s", 1, 5, "fastest step"),
    Column("rate", "GFLOP/s", 1, 0, "matrix products of a step over its seconds"),
    Column("of_peak", "of peak %", 100, 1, "the same over what large products reach"),
    Column("bandwidth", "GB/s", 1, 0, "bytes XLA counts, over the seconds of a step"),
    Column("of_bandwidth", "of memory %", 100, 1, "over what an addition reaches"),
    Column("scratch", "scratch MiB", 1, 0, "temporary memory of the program"),
)


def product_rate(dtype: str, size: int, repeats: int = 10) -> float:
    """Measures GFLOP/s of a product of two square matrices."""
    matrix = jnp.ones((size, size), dtype)
    seconds = _fastest(jax.jit(jnp.matmul), matrix, matrix, repeats=repeats)
    return 2 * size**3 / seconds / 1e9


def memory_rate(size: int, repeats: int = 10) -> float:
    """Measures GB/s that an addition of two arrays reads and writes."""
    array = jnp.ones((size, size))
    seconds = _fastest(jax.jit(jnp.add), array, array, repeats=repeats)
    return 3 * array.nbytes / seconds / 1e9


def _fastest(call: Callable[..., Any], *args: Any, repeats: int) -> float:
    seconds = []
    for _ in range(3 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(call(*args))
        seconds.append(time.perf_counter() - began)
    return min(seconds[3:])


def measure(
    config: ConfigDict, num_steps: int, repeats: int, peak: float, bandwidth: float
) -> Row:
    """Measures calls of `num_steps` training steps.

    Args:
      config: Validated configuration.
      num_steps: Steps of a call.
      repeats: Calls to time.
      peak: GFLOP/s of large products.
      bandwidth: GB/s of memory.
    """
    task = random_task(config)
    single = prepare(task)
    gflop = matmul_gflop(*single)
    # XLA counts the body of a loop once, so bytes are those of one step, too.
    cost = single[0].lower(*single[1:]).compile().cost_analysis()
    gigabytes = cost.get("bytes accessed", float("nan")) / 1e9
    prepared = prepare(task, num_steps)
    timing = time_steps(*prepared, WARM_UP, repeats, num_steps)
    step, memory = float(np.median(timing.seconds)), timing.compiled.memory_analysis()
    return {
        "compile": timing.compile_seconds,
        "step": step,
        "fastest": float(np.min(timing.seconds)),
        "rate": gflop / step,
        "of_peak": gflop / step / peak,
        "bandwidth": gigabytes / step,
        "of_bandwidth": gigabytes / step / bandwidth,
        "scratch": memory.temp_size_in_bytes / 2**20 if memory else float("nan"),
    }


def benchmark(
    config: ConfigDict,
    dtypes: Sequence[str],
    calls: Sequence[int],
    repeats: int,
    size: int,
) -> dict[str, Row]:
    """Measures and prints everything; returns the rows."""
    peaks = {dtype: product_rate(dtype, size) for dtype in dtypes}
    bandwidth = memory_rate(size)
    reached = ", ".join(f"{peaks[dtype]:,.0f} GFLOP/s in {dtype}" for dtype in dtypes)
    print(f"{parallel.device_kind()}: {reached}; {bandwidth:,.0f} GB/s of memory")
    rows = {}
    for dtype in dtypes:
        for count in calls:
            fields = [f"model.dtype={dtype}", f"train.steps_per_call={count}"]
            narrow = apply_overrides(config, fields)
            name = f"{dtype}, {count} at a call"
            rows[name] = measure(narrow, count, repeats, peaks[dtype], bandwidth)
    print(format_table(rows, COLUMNS, f"training step of {config.train.batch_size}"))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--calls", default="1,8")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--size", type=int, default=8192)
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        dtypes, calls = options.dtypes.split(","), options.calls.split(",")
        if not all(count.isdecimal() and int(count) for count in calls):
            raise ConfigError(f"--calls={options.calls}; allowed: counts, as in 1,8")
        config = load_config(path) if path else paper_config()
        config = apply_overrides(config, overrides)
        config.train.checkpoint_every_steps = int(np.prod([int(n) for n in calls]))
        for dtype in dtypes:
            validate(apply_overrides(config, [f"model.dtype={dtype}"]))
    counts = [int(count) for count in calls]
    benchmark(config, dtypes, counts, options.repeats, options.size)


if __name__ == "__main__":
    main()
