"""Command line: trains, samples and evaluates one configuration.

    python -m ncgn_jax.main --config=configs/modelnet.py [--workdir=runs/mine]
        [--mode=all|train|sample|evaluate] [--config.dmp.schedule=linear ...]

Run it again and it resumes. Nothing is written before the configuration and the data
have been checked.
"""

import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from ncgn_jax import parallel
from ncgn_jax.checkpoint import CheckpointError
from ncgn_jax.config import (
    apply_overrides,
    load_config,
    split_config_arguments,
)
from ncgn_jax.data.point_sets import DataError
from ncgn_jax.evaluate import evaluate
from ncgn_jax.faults import ConfigError
from ncgn_jax.generate import draw, generate, restore_state
from ncgn_jax.tasks import make_task, task_notes
from ncgn_jax.tasks.settings import sampling_notes
from ncgn_jax.train import TrainingError, train, validate

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default runs/<configuration name>."
)
_MODE = flags.DEFINE_enum(
    "mode", "all", ["train", "sample", "evaluate", "all"], "What to do."
)
_EXPECTED = (ConfigError, DataError, CheckpointError, TrainingError)


def run(config_path: str, overrides: list[str], workdir: str | None, mode: str) -> None:
    """Runs one configuration; raises the project's own errors for bad input."""
    parallel.keep_host_memory()
    parallel.start()
    config = apply_overrides(load_config(config_path), overrides)
    validate(config)
    workdir = Path(workdir or Path("runs") / Path(config_path).stem)
    task = make_task(config)
    if parallel.is_main_process():
        notes = [*sampling_notes(config), *task_notes(task)]
        print("\n".join([*task.describe(), *notes, f"run: {workdir}"]), flush=True)
    if mode in ("train", "all"):
        state = train(config, workdir, task)
    else:
        state = restore_state(config, workdir, task)
    if mode == "train" or not parallel.is_main_process():
        return
    samples = generate(config, workdir, task, state)
    pictures = draw(workdir, task, state, samples)
    if mode in ("evaluate", "all"):
        evaluate(config, workdir, task, samples, int(state.step))
    print("pictures: " + ", ".join(str(path) for path in pictures), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and turns expected errors into one message."""
    try:
        path, overrides, rest = split_config_arguments(argv or sys.argv)
    except ConfigError as error:
        sys.exit(f"error: {error}")

    def start(extra: list[str]) -> None:
        # Orbax reports every file it touches; its failures reach us as exceptions.
        absl_logging.set_verbosity(absl_logging.WARNING)
        if len(extra) > 1:
            sys.exit(f"error: unknown arguments: {' '.join(extra[1:])}")
        if path is None:
            sys.exit("error: --config=FILE is needed, for example configs/modelnet.py")
        try:
            run(path, overrides, _WORKDIR.value, _MODE.value)
        except _EXPECTED as error:
            sys.exit(f"error: {error}")

    app.run(start, argv=rest)


if __name__ == "__main__":
    main()
