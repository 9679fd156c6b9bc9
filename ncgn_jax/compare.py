"""Compares variants of one configuration under one budget, over several seeds.

    python -m ncgn_jax.compare --config=configs/modelnet.py [--workdir=runs/compare]
        --vary=dmp.connectivity=dmp,knn,long_short [--vary=model.num_layers=1,2,4]
        [--variant="published: dmp.clustering=voxel model.norm=batch"]
        [--seeds=3] [--seconds=600 | --tmac=5] [--config.train.num_steps=2000 ...]

Several --vary and --variant are crossed. The budget is train.num_steps for all; with
--seconds equal time: each variant's seconds per training step are measured once, and
it gets as many steps as fit; with --tmac equally many tera multiply-adds of training,
for tasks that count them (images). Every run is what ncgn_jax.main would have done with
that configuration, in <workdir>/<variant>/seed<k>; variants that only sample otherwise
share their training, and those with the same first stage share that. Run again, and
finished runs are skipped. Table, data and figure are
<workdir>/comparison.{md,json,csv,png}.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging

from ncgn_jax import parallel
from ncgn_jax.comparison.report import report
from ncgn_jax.comparison.runs import (
    Run,
    TaskMaker,
    anchors_path,
    make_stamp,
    read_json,
    write_json,
)
from ncgn_jax.comparison.speed import time_sampling, time_training_steps
from ncgn_jax.comparison.variants import Variant, make_variants, training_fields
from ncgn_jax.config import config_to_json, split_config_arguments, with_fields
from ncgn_jax.data.whole_files import check_writable
from ncgn_jax.domains import DOMAINS
from ncgn_jax.faults import (
    ConfigError,
    TrainingError,
    one_line_errors,
)
from ncgn_jax.generate import Samples, generate
from ncgn_jax.loop import train
from ncgn_jax.plugins import import_plugins
from ncgn_jax.run.logs import format_seconds
from ncgn_jax.run.state import num_params
from ncgn_jax.tasks.settings import sampling_notes

_UNKNOWN_SPEED = {"seconds_per_step": math.nan, "sampling_seconds": math.nan}


def compare(
    variants: Sequence[Variant],
    workdir: str | Path,
    num_seeds: int = 3,
    seconds: float | None = None,
    tmac: float | None = None,
) -> str:
    """Trains, samples and evaluates every variant with every seed.

    Args:
      variants: Validated variants.
      workdir: Folder of the comparison; what it holds already is used.
      num_seeds: Seeds, counted up from each configuration's `seed`.
      seconds: Training time of every run.
      tmac: 10^12 multiply-adds of every run's training. Without it and `seconds`, all
        get `train.num_steps`.

    Returns:
      The table; it is printed and written with JSON, CSV and figure too.

    Raises:
      ConfigError: Before anything is trained, if the folder holds runs of other
        configurations, or the budget cannot be kept.
    """
    check_budget(variants, seconds, tmac)
    workdir, tasks = Path(workdir), TaskMaker()
    # Before anything is measured, since a budget once measured must stay.
    plan_runs(variants, workdir, None, num_seeds, seconds, tmac)
    first = tasks.make(variants[0].config)
    print("\n".join(first.describe_data() + first.describe_model()), flush=True)
    for variant in variants:
        own = tasks.make(variant.config).notes()
        for note in (*sampling_notes(variant.config), *own):
            print(f"{variant.name}: {note}", flush=True)
    speeds = measure_speeds(variants, workdir, tasks)
    runs = plan_runs(variants, workdir, speeds, num_seeds, seconds, tmac)
    failed: dict[str, str] = {}
    pending: list[tuple[Run, Samples, int]] = []
    trained: dict[str, Path] = {}
    first_stages: dict[str | None, Path] = {}
    for number, run in enumerate(runs, start=1):
        source = trained.setdefault(run.training_stamp, run.folder)
        stage_source = first_stages.setdefault(run.first_stage_stamp, run.folder)
        if run.read_result() is not None:
            continue
        steps = run.config.train.num_steps
        print(f"[{number}/{len(runs)}] {run.name}: {steps} steps", flush=True)
        run.adopt_training(source)
        run.adopt_first_stage(stage_source)
        try:
            pending.append((run, *train_and_sample(run, tasks)))
        except TrainingError as error:
            print(f"{run.name} failed: {error}", flush=True)
            failed[run.name] = str(error)
    evaluate_runs(pending, workdir, tasks)
    finished = [run for run in runs if run.name not in failed]
    budget = "equal steps" if seconds is None else f"{seconds:g} s of training each"
    if tmac is not None:
        budget = f"{tmac:g} TMAC of training each"
    task = tasks.make(variants[0].config)
    return report(finished, workdir, failed, budget, task)


def check_budget(
    variants: Sequence[Variant], seconds: float | None, tmac: float | None
) -> None:
    """Raises ConfigError for a budget that no comparison of these variants can keep."""
    if seconds is not None and tmac is not None:
        raise ConfigError("--seconds and --tmac are two budgets; give one of them")
    for option, value in (("seconds", seconds), ("tmac", tmac)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{option}: found {value:g}; allowed: positive")
    counting = {name for name, task in DOMAINS.items() if task.counts_macs}
    uncounted = {v.config.task for v in variants} - counting
    if tmac is not None and uncounted:
        raise ConfigError(
            f"--tmac: task {', '.join(sorted(uncounted))} does not count its "
            f"multiply-adds; allowed: {', '.join(sorted(counting))}. --seconds "
            "compares at equal time"
        )


def measure_speeds(
    variants: Sequence[Variant], workdir: Path, tasks: TaskMaker
) -> dict[str, dict[str, Any]]:
    """Measures training steps and sampling of each variant, by its folder.

    Kept in `speed.json`, so that a resumed comparison keeps its budget.
    """
    path = workdir / "speed.json"
    speeds = read_json(path)
    for variant in variants:
        config = variant.config
        fields = training_fields(config) | {"seed": 0, "train.num_steps": 0}
        trained = make_stamp(fields)
        sampled = make_stamp([fields, config.sample.to_dict()])
        speed = speeds.setdefault(variant.folder, {})
        if speed.get("sampled") == sampled:
            continue
        task = tasks.make(config)
        if speed.get("trained") != trained:
            # Variants that are trained alike must get equal numbers of steps.
            alike = [s for s in speeds.values() if s.get("trained") == trained]
            seconds = (
                alike[0]["seconds_per_step"]
                if alike
                else time_training_steps(config, task)
            )
            speed |= {"seconds_per_step": seconds, "trained": trained}
        speed |= {"sampling_seconds": time_sampling(config, task), "sampled": sampled}
        counted = ""
        if task.counts_macs:
            speed["macs_per_step"] = task.step_macs()
            counted = f" and {speed['macs_per_step'] / 1e9:.3g} GMAC"
        print(
            f"{variant.name}: {format_seconds(speed['seconds_per_step'])}{counted} a "
            f"training step, {format_seconds(speed['sampling_seconds'])} for all "
            "samples",
            flush=True,
        )
        write_json(path, speeds)
        jax.clear_caches()
    return speeds


def plan_runs(
    variants: Sequence[Variant],
    workdir: Path,
    speeds: dict[str, dict[str, Any]] | None,
    num_seeds: int,
    seconds: float | None,
    tmac: float | None = None,
) -> list[Run]:
    """Lists all runs with their budgets, seed by seed.

    Args:
      variants: Validated variants.
      workdir: Folder of the comparison.
      speeds: As `measure_speeds` returns them; None before, to check folders only.
      num_seeds: Seeds of each variant.
      seconds: Training time of every run.
      tmac: 10^12 multiply-adds of every run's training. Without it and `seconds`,
        `train.num_steps` is left.

    Returns:
      The runs; without speeds, their number of steps does not follow a budget yet.

    Raises:
      ConfigError: With every run whose folder was trained with other fields; or for
        fewer multiply-adds than one step has.
    """
    runs = []
    for k in range(num_seeds):
        for variant in variants:
            speed: dict[str, Any] = speeds[variant.folder] if speeds else _UNKNOWN_SPEED
            fields = {"seed": variant.config.seed + k}
            if seconds is not None and speeds:
                num_steps = max(1, int(seconds // speed["seconds_per_step"]))
                fields["train.num_steps"] = num_steps
            if tmac is not None and speeds:
                fields["train.num_steps"] = _steps_within(tmac, variant, speed)
            config = with_fields(variant.config, fields)
            folder = workdir / variant.folder / f"seed{config.seed}"
            times = speed["seconds_per_step"], speed["sampling_seconds"]
            runs.append(Run(variant.name, config, folder, *times))
    is_open = not speeds and (seconds is not None or tmac is not None)
    open_fields = ("train.num_steps",) if is_open else ()
    faults = [f"  {line}" for run in runs for line in run.differences(open_fields)]
    if faults:
        raise ConfigError(
            "runs of other configurations are in the way; choose another --workdir:\n"
            + "\n".join(faults)
        )
    return runs


def _steps_within(tmac: float, variant: Variant, speed: dict[str, Any]) -> int:
    """Returns the number of steps whose multiply-adds come nearest to a budget."""
    num_steps = round(tmac * 1e12 / speed["macs_per_step"])
    if num_steps < 1:
        raise ConfigError(
            f"--tmac: found {tmac:g}; a single step of variant {variant.name!r} has "
            f"{speed['macs_per_step'] / 1e12:.3g}"
        )
    return num_steps


def train_and_sample(run: Run, tasks: TaskMaker) -> tuple[Samples, int]:
    """Trains and samples one run as `main` does.

    Returns:
      Samples by kind of weights, and the number of parameters.

    Raises:
      TrainingError: If training fails or the samples are not finite.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text(config_to_json(run.config) + "\n")
    task = tasks.make(run.config)
    state = train(run.config, run.folder, task)
    samples = generate(run.config, run.folder, task, state)
    # A comparison may build dozens of networks; none is run again.
    jax.clear_caches()
    for kind, arrays in samples.items():
        if not all(np.isfinite(leaf).all() for leaf in arrays.values()):
            raise TrainingError(f"samples of the {kind} weights are not finite")
    return samples, num_params(state.params)


def evaluate_runs(
    pending: Sequence[tuple[Run, Samples, int]], workdir: Path, tasks: TaskMaker
) -> None:
    """Measures sampled runs together, so that anchors are computed once.

    Writes `result.json` of each run and the anchors of each way to measure.
    """
    groups: dict[Path, list[tuple[Run, Samples, int]]] = {}
    for item in pending:
        groups.setdefault(anchors_path(workdir, item[0].config), []).append(item)
    for path, items in groups.items():
        print(f"evaluating {len(items)} runs", flush=True)
        named = {
            f"{run.name}, {kind}": arrays
            for run, samples, _ in items
            for kind, arrays in samples.items()
        }
        task = tasks.make(items[0][0].config)
        rows, meta = task.measure(named), task.caption()
        anchors = {name: row for name, row in rows.items() if name not in named}
        write_json(path, {"meta": meta, "rows": anchors})
        for run, samples, count in items:
            costs = tasks.make(run.config).costs(run.config.train.num_steps)
            own = {kind: rows[f"{run.name}, {kind}"] | costs for kind in samples}
            run.write_result(own, count)


def make_parser() -> argparse.ArgumentParser:
    """Describes the command line; `--config` and its fields are taken out before."""
    parser = argparse.ArgumentParser(
        prog="ncgn compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", default="runs/compare")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE")
    parser.add_argument("--vary", action="append", default=[], metavar="FIELD=A,B")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME: ...")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--tmac", type=float)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; expected errors become one message."""
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = make_parser().parse_args(rest)
        import_plugins(options.plugin)
        if path is None:
            raise ConfigError("--config=FILE is needed, such as configs/modelnet.py")
        if options.seeds < 1:
            raise ConfigError(f"--seeds: found {options.seeds}; allowed: at least 1")
        # Orbax reports every file it touches; its failures reach us as exceptions.
        absl_logging.set_verbosity(absl_logging.WARNING)
        parallel.keep_host_memory()
        parallel.check_devices()
        check_writable(options.workdir)
        variants = make_variants(path, overrides, options.vary, options.variant)
        compare(variants, options.workdir, options.seeds, options.seconds, options.tmac)


if __name__ == "__main__":
    main()
