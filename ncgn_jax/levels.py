"""Measures the errors of a run at each noise level, and fits time grids to them.

    python -m ncgn_jax.levels --workdir=runs/modelnet [--num_levels=40] [--examples=64]
        [--sampler=ab2]

For runs of point clouds and of images. Measures the error on test data at levels from
noise to data, fits a time grid to it (`process.fit_time_table`: equal information in
each step), and prints the fields that sample with it. With `--sampler` also a grid with
equal errors of that sampler's steps (`process.fit_error_table`). Of a run with
`dmp.random_buckets`, which knows every graph shape, or patch size, at every level, it
also finds the range/resolution schedule with the least loss. Writes `levels.json` and
`levels.png` into the run's folder.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax import parallel
from ncgn_jax.data.whole_files import check_writable
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.generate import load_run, read_run_config
from ncgn_jax.graphs.fitted_schedules import least_loss_schedule, table_arguments
from ncgn_jax.metrics.table import align_table
from ncgn_jax.pictures import Panel, draw_panels, save_figure
from ncgn_jax.plugins import import_plugins
from ncgn_jax.process import (
    ORDERS,
    fit_error_table,
    fit_time_table,
    make_sampler,
    make_time_grid,
)
from ncgn_jax.tasks.level_errors import LevelProbe
from ncgn_jax.tasks.sampling import Sampling
from ncgn_jax.tasks.settings import make_sampling

# Enough for a curve without corners; short enough for a command line.
_TABLE_ROWS = 24


def measure_levels(
    workdir: Path, num_levels: int, num_examples: int, sampler: str | None = None
) -> dict[str, Any]:
    """Measures, prints, draws and writes the errors of a run, EMA weights.

    Args:
      workdir: Folder of a trained run of point clouds or images.
      num_levels: Levels, evenly spaced within (0, 1), at least 2.
      num_examples: Test clouds or images at each.
      sampler: Sampler whose steps are measured too, one of `process.ORDERS`; None for
        none.

    Returns:
      `level`, `t`, `data_error` and `target_error` [level], their means over t, and
      the fitted `time_table`, pairs (t, share of the steps). With `sampler` also
      `step_error` [step] between the times `step_times` [step + 1] of the run's time
      grid with `num_levels` steps, and the fitted `error_table`. With
      `dmp.random_buckets` also `bucket_errors`, those of the target in each bucket
      [level, bucket], and `dmp_table`, the schedule learned from them.

    Raises:
      ConfigError: If the folder holds no run of these tasks.
    """
    config = read_run_config(workdir)
    validate(config, to_train=False)
    task, state = load_run(config, workdir)
    probe = task.probe(state.ema, state.model_state, num_examples)
    if probe is None:
        raise ConfigError(
            f"{workdir}: task {config.task!r} has no noise buckets to measure"
        )
    levels, times = probe.even_levels(num_levels)
    data_error, target_error = probe.errors(times.tolist())
    # A level counts in training by the span of time that it stands for.
    spans = np.gradient(times)
    table = _thin(fit_time_table(probe.time.schedule, times, data_error))
    found = {
        "level": levels.tolist(),
        "t": times.tolist(),
        "data_error": data_error.tolist(),
        "target_error": target_error.tolist(),
        "mean_data_error": float(np.average(data_error, weights=spans)),
        "mean_target_error": float(np.average(target_error, weights=spans)),
        "time_table": table,
    }
    target = config.process.target
    cells = [["level", "t", "error of data_hat", f"error of {target}"]]
    rows = zip(levels, times, data_error, target_error, strict=True)
    cells += [[f"{value:.4g}" for value in row] for row in rows]
    print("\n".join(align_table(cells)))
    print(
        f"\nmean over t: data_hat {found['mean_data_error']:.4g}, {target} "
        f"{found['mean_target_error']:.4g}"
    )
    print(f"\nequal information in each step:\n{_fields(table)}")
    if sampler is not None:
        sampling = dataclasses.replace(
            make_sampling(config), sampler=sampler, num_steps=num_levels
        )
        found |= _fit_to_steps(probe, sampling)
    if config.dmp.random_buckets:
        found |= _learn_schedule(probe, levels, times, spans)
    (workdir / "levels.json").write_text(json.dumps(found, indent=2) + "\n")
    save_figure(_draw(found, target, config.sample.num_steps), workdir / "levels.png")
    return found


def _fit_to_steps(probe: LevelProbe, sampling: Sampling) -> dict[str, list]:
    """Measures the steps of a sampler along a time grid, prints, and fits a grid."""
    times = sampling.times(probe.time.schedule, probe.data[0].size)
    # A loop inside of a step would be compiled anew for each.
    how = {"unrolled": True} if sampling.sampler == "heun" else {}
    errors = probe.step_errors(
        make_sampler(sampling.sampler, **how), times, sampling.data_limit
    )
    table = _thin(fit_error_table(times, errors, ORDERS[sampling.sampler]))
    print(f"\nequal errors of the steps of {sampling.sampler}:\n{_fields(table)}")
    return {
        "step_times": times.tolist(),
        "step_error": errors.tolist(),
        "error_table": table,
    }


def _fields(table: Sequence[tuple[float, float]]) -> str:
    """Returns the fields that sample with a table."""
    pairs = ",".join(f"({t:.5g},{share:.5g})" for t, share in table)
    return f"  --config.sample.time_grid=table '--config.sample.time_table=({pairs})'"


def _learn_schedule(
    probe: LevelProbe, levels: np.ndarray, times: np.ndarray, spans: np.ndarray
) -> dict[str, list]:
    """Measures every graph shape at every level, prints, and chooses."""
    columns = [probe.errors(times.tolist(), i)[1] for i in range(len(probe.sizes))]
    # Coarsest first, whatever the order of the schedule of training.
    order = np.argsort(probe.sizes)
    errors = np.stack(columns, axis=1)[:, order]
    sizes, weights = (np.take(a, order).tolist() for a in (probe.sizes, probe.weights))
    table = least_loss_schedule(levels.tolist(), weights, errors * spans[:, None])
    cells = [["level", *(f"{size} supernodes" for size in sizes)]]
    for level, row in zip(levels, errors, strict=True):
        cells.append([f"{value:.4g}" for value in (level, *row)])
    print("\nerror of the target, by graph:")
    print("\n".join(align_table(cells)))
    print(f"\nrange/resolution schedule of least loss:\n  {table_arguments(table)}")
    return {
        "num_supernodes": sizes,
        "bucket_errors": errors.tolist(),
        "dmp_table": [list(pair) for pair in table],
    }


def _thin(table: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Keeps rows at even shares of the steps."""
    times, shares = np.asarray(table).T
    even = np.linspace(0.0, 1.0, _TABLE_ROWS)
    kept = np.round(np.interp(even, shares, times), 6)
    kept[0], kept[-1] = 0.0, 1.0
    return list(zip(kept.tolist(), np.round(even, 6).tolist(), strict=True))


def _draw(found: dict[str, Any], target: str, num_steps: int):
    level = found["level"]
    errors = {
        "data_hat": (level, found["data_error"]),
        f"{target} (target)": (level, found["target_error"]),
    }
    steps = np.arange(num_steps + 1)
    fitted = {"equal information": "time_table", "equal errors": "error_table"}
    grids = {
        **{
            name: make_time_grid("table", num_steps, table=found[key])
            for name, key in fitted.items()
            if key in found
        },
        "uniform": make_time_grid("uniform", num_steps),
        "cosine": make_time_grid("cosine", num_steps),
    }
    panels = []
    if "bucket_errors" in found:
        columns = np.asarray(found["bucket_errors"])
        over_best = (columns / columns.min(axis=1, keepdims=True)).T
        sizes = found["num_supernodes"]
        panels = [
            Panel(
                "Every graph at every level",
                "signal level",
                f"error of {target} over that of the best graph",
                {
                    f"{size} supernodes": (level, column)
                    for size, column in zip(sizes, over_best, strict=True)
                },
            )
        ]
    return draw_panels(
        [
            Panel(
                "Error on test data",
                "signal level",
                "mean squared error per number",
                errors,
                log_y=True,
            ),
            Panel(
                "Time grids",
                "steps done",
                "t (0 noise, 1 data)",
                {name: (steps, times) for name, times in grids.items()},
            ),
            *panels,
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; expected errors become one message."""
    parser = argparse.ArgumentParser(
        prog="ncgn levels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE")
    parser.add_argument("--num_levels", type=int, default=40)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument(
        "--sampler", choices=ORDERS, help="fit a grid to the errors of its steps too"
    )
    options = parser.parse_args((argv or sys.argv)[1:])
    if options.num_levels < 2 or options.examples < 1:
        parser.error("--num_levels must be at least 2 and --examples at least 1")
    with one_line_errors():
        parallel.start()
        import_plugins(options.plugin)
        check_writable(options.workdir)
        measure_levels(
            options.workdir, options.num_levels, options.examples, options.sampler
        )


if __name__ == "__main__":
    main()
