"""Quality of samples against evaluations of the network, and the time they take.

    python -m benchmarks.evaluations RUN [RUN ...] [--samplers=euler,heun]
        [--evaluations=1,2,4,8,16,32,50] [--num_samples=442] [--output=STEM]
        [--config.FIELD=VALUE ...]

RUN is the folder of a trained run of any domain. Several are seeds of one variant, and
the table has mean and spread. For every sampler and number of evaluations: seconds to
draw all samples (compiled before), seconds of a first batch (compiled then, or read
from the cache), and the measures of the domain, with the anchors below. All draws of a
run start from the same noise. A sampler with two evaluations a step has rows for even
numbers only. STEM.json and STEM.csv get all values, STEM.md the table.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, split_config_arguments, with_fields
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.generate import load_run, read_run_config
from ncgn_jax.metrics.summary import format_summary, summarise, write_summary
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.run.state import TrainState
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.sampling import rows_per_call

COSTS = (
    Column("seconds", "seconds", 1, 1, "all samples, compilation excluded"),
    Column("first_batch", "1st batch s", 1, 1, "compilation included"),
    Column("evaluations", "NFE", 1, 0, "network evaluations for each sample"),
)
# Heun asks the network twice a step, all others once.
_PER_STEP = {"heun": 2}


class Setting(NamedTuple):
    """A row of the table.

    Attributes:
      sampler: Name of the sampler.
      steps: Its steps.
      evaluations: Evaluations of the network that they take.
    """

    sampler: str
    steps: int
    evaluations: int

    @property
    def name(self) -> str:
        """Names the row."""
        return f"{self.sampler} {self.steps}"

    def apply(self, config: ConfigDict) -> ConfigDict:
        """Returns the configuration with this sampler."""
        fields = {"sample.sampler": self.sampler, "sample.num_steps": self.steps}
        return with_fields(config, fields)


def make_settings(samplers: Sequence[str], evaluations: Sequence[int]) -> list[Setting]:
    """Lists the rows of samplers with numbers of evaluations that they can have."""
    return [
        Setting(sampler, count // _PER_STEP.get(sampler, 1), count)
        for sampler in samplers
        for count in evaluations
        if count % _PER_STEP.get(sampler, 1) == 0
    ]


def measure(
    task: Task, state: TrainState, settings: Sequence[Setting]
) -> dict[str, Row]:
    """Draws with each setting, and measures all sets together, anchors below.

    Args:
      task: The task of a run.
      state: Its weights, of which the averaged ones are sampled.
      settings: The rows.
    """
    samples, costs = {}, {}
    for setting in settings:
        config = setting.apply(task.config)
        own = task.with_config(config)
        number, seed = config.sample.num_samples, config.seed
        # One call has the shape that all have: the second compiles nothing.
        first = rows_per_call(number, config.sample.batch_size)
        began = time.perf_counter()
        own.sample(state.ema, state.model_state, first, seed)
        first_batch = time.perf_counter() - began
        began = time.perf_counter()
        samples[setting.name] = own.sample(state.ema, state.model_state, number, seed)
        seconds = time.perf_counter() - began
        costs[setting.name] = {
            "seconds": seconds,
            "first_batch": first_batch,
            "evaluations": setting.evaluations,
        }
        print(f"{setting.name}: {seconds:.1f} s", flush=True)
    rows = task.measure(samples)
    return {name: {**costs.get(name, {}), **row} for name, row in rows.items()}


def benchmark(
    runs: Mapping[Path, ConfigDict], settings: Sequence[Setting], output: Path | None
) -> dict[str, list[Row]]:
    """Draws, measures, prints and writes all rows.

    Args:
      runs: Validated configuration of each run, by its folder.
      settings: The rows.
      output: Path of the files without suffix; None for none.

    Returns:
      The rows of each setting, one for each run.
    """
    rows: dict[str, list[Row]] = {setting.name: [] for setting in settings}
    anchors: dict[str, Row] = {}
    for run, config in runs.items():
        task, state = load_run(config, run)
        measured = measure(task, state, settings)
        for name, seeds in rows.items():
            seeds.append({"seed": config.seed, **measured.pop(name)})
        anchors = anchors or measured
    meta = task.caption() | {
        "seeds": ", ".join(str(config.seed) for config in runs.values()),
        "weights": "ema",
        "steps": int(state.step),
        "device": f"{parallel.num_devices()} x {parallel.device_kind()}",
    }
    caption = "; ".join(f"{name}: {value}" for name, value in meta.items())
    summary = summarise(rows)
    text = format_summary(summary, anchors, (*COSTS, *task.all_columns), caption)
    print(text, flush=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".md").write_text(text + "\n")
        write_summary(output, rows, anchors, meta, {})
    return rows


def read_configs(
    runs: Sequence[Path], overrides: Sequence[str], settings: Sequence[Setting]
) -> dict[Path, ConfigDict]:
    """Reads the configurations of runs and checks them with every setting.

    Raises:
      ConfigError: If a folder holds no run, or a field is faulty.
    """
    configs = {}
    for run in runs:
        configs[run] = apply_overrides(read_run_config(run), overrides)
        for setting in settings:
            validate(setting.apply(configs[run]))
    return configs


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; expected errors become one message."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samplers", default="euler,heun")
    parser.add_argument("--evaluations", default="1,2,4,8,16,32,50")
    parser.add_argument("--num_samples", type=int, default=442)
    parser.add_argument("--output", type=Path)
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        if path:
            raise ConfigError("--config is read from the runs; set fields of it only")
        counts = options.evaluations.split(",")
        if not all(count.isdigit() and int(count) for count in counts):
            raise ConfigError(
                f"--evaluations: found {options.evaluations!r}; allowed: whole numbers "
                "from 1 on, with commas between them"
            )
        settings = make_settings(
            options.samplers.split(","), [int(count) for count in counts]
        )
        overrides = [f"sample.num_samples={options.num_samples}", *overrides]
        configs = read_configs(options.runs, overrides, settings)
        benchmark(configs, settings, options.output)


if __name__ == "__main__":
    main()
