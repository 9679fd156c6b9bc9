"""Time to shapes: how few sampler steps a trained run needs, and how long they take.

    python -m benchmarks.shapes --workdir=runs/modelnet [--steps=5,10,20,50]
        [--samplers=euler,heun,ddim] [--num_samples=442] [--weights=ema]
        [--config.sample.batch_size=32 ...]

For every sampler and number of steps: seconds to draw all samples (compiled before),
seconds of a first batch (compiled then, or read from the cache), network evaluations,
and W, 1-NN accuracy, coverage and MMD of what was drawn, with the anchors below. All
draws start from the same noise. The table is written to
`<workdir>/shapes_benchmark.json`, `.csv` and `.md` too.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, split_config_arguments, with_fields
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.generate import load_run, read_run_config
from ncgn_jax.metrics.table import (
    Column,
    Row,
    format_table,
    write_table,
)
from ncgn_jax.point_clouds.columns import POINT_CLOUD_COLUMNS
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.sampling import rows_per_call

COLUMNS = (
    Column("seconds", "seconds", 1, 1, "all samples, compilation excluded"),
    Column("first_batch", "1st batch s", 1, 1, "compilation included"),
    Column("evaluations", "NFE", 1, 0, "network evaluations for each sample"),
    *POINT_CLOUD_COLUMNS,
)
# Heun asks the network twice a step, all others once.
_EVALUATIONS = {"heun": 2}


@dataclasses.dataclass(frozen=True)
class Draw:
    """Samples and what they cost.

    Attributes:
      arrays: As `task.sample` returns them.
      costs: `seconds`, `first_batch` and `evaluations`.
    """

    arrays: dict[str, np.ndarray]
    costs: Row


def draw(task: Task, weights: tuple[Any, Any], sampler: str, num_steps: int) -> Draw:
    """Draws `sample.num_samples` with a sampler and a number of steps, and times it."""
    fields = {"sample.sampler": sampler, "sample.num_steps": num_steps}
    config = with_fields(task.config, fields)
    task = task.with_config(config)
    number, seed = config.sample.num_samples, config.seed
    # One call has the shape that all have: the second compiles nothing.
    first = rows_per_call(number, config.sample.batch_size)
    began = time.perf_counter()
    task.sample(*weights, first, seed)
    first_batch = time.perf_counter() - began
    began = time.perf_counter()
    arrays = task.sample(*weights, number, seed)
    seconds = time.perf_counter() - began
    evaluations = num_steps * _EVALUATIONS.get(sampler, 1)
    costs = {
        "seconds": seconds, "first_batch": first_batch, "evaluations": evaluations
    }  # fmt: skip
    return Draw(arrays, costs)


def benchmark(
    workdir: Path,
    config: ConfigDict,
    samplers: Sequence[str],
    steps: Sequence[int],
    kind: str = "ema",
) -> dict[str, Row]:
    """Draws, measures, prints and writes all rows.

    Args:
      workdir: Folder of a trained run.
      config: Its configuration, validated.
      samplers: Samplers to compare.
      steps: Numbers of steps to compare.
      kind: `ema` or `raw` weights.

    Returns:
      Rows by `<sampler> <steps>`, then the anchors.
    """
    task, state = load_run(config, workdir)
    weights = (state.ema if kind == "ema" else state.params), state.model_state
    draws = {}
    for sampler in samplers:
        for num_steps in steps:
            name = f"{sampler} {num_steps}"
            draws[name] = draw(task, weights, sampler, num_steps)
            seconds = draws[name].costs["seconds"]
            print(f"{name}: {seconds:.1f} s", flush=True)
    rows = task.evaluate({name: d.arrays for name, d in draws.items()})
    rows = {
        name: {**(draws[name].costs if name in draws else {}), **row}
        for name, row in rows.items()
    }
    meta = task.caption() | {
        "seed": config.seed,
        "weights": kind,
        "steps": int(state.step),
        "device": f"{parallel.num_devices()} x {parallel.device_kind()}",
    }
    caption = "; ".join(f"{name}: {value}" for name, value in meta.items())
    notes = task.warnings(rows)
    text = format_table(rows, COLUMNS, caption, notes)
    print(text, flush=True)
    write_table(rows, workdir / "shapes_benchmark", meta, notes)
    (workdir / "shapes_benchmark.md").write_text(text + "\n")
    return rows


def read_config(
    workdir: Path,
    overrides: Sequence[str],
    samplers: Sequence[str],
    steps: Sequence[int],
) -> ConfigDict:
    """Reads the configuration of a run and checks it with every sampler and number.

    Transport of points (minutes a row) is left out unless an override asks for it.

    Raises:
      ConfigError: If the folder holds no run, or a field is faulty.
    """
    quick = ["evaluate.max_matched_clouds=0", "evaluate.max_emd_clouds=0"]
    config = apply_overrides(read_run_config(workdir), [*quick, *overrides])
    for sampler in samplers:
        for number in steps:
            fields = [f"sample.sampler={sampler}", f"sample.num_steps={number}"]
            validate(apply_overrides(config, fields))
    return config


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; expected errors become one message."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", default="5,10,20,50")
    parser.add_argument("--samplers", default="euler,heun,ddim")
    parser.add_argument("--num_samples", type=int, default=442)
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        if path:
            raise ConfigError("--config is read from --workdir; set fields of it only")
        overrides = [f"sample.num_samples={options.num_samples}", *overrides]
        samplers, steps = options.samplers.split(","), options.steps.split(",")
        config = read_config(options.workdir, overrides, samplers, steps)
        numbers = [int(number) for number in steps]
        benchmark(options.workdir, config, samplers, numbers, options.weights)


if __name__ == "__main__":
    main()
