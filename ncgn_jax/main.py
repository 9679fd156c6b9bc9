"""Command line: trains, samples and evaluates one configuration.

    python -m ncgn_jax.main --config=configs/modelnet.py [--workdir=runs/mine]
        [--mode=all|train|sample|evaluate] [--checkpoint=newest|best|STEP]
        [--config.dmp.schedule=linear ...]
    python -m ncgn_jax.main --help [--config=configs/modelnet.py]

Run it again and it resumes; SIGTERM saves and ends it. Nothing is written before the
configuration and the data have been checked. On several machines the same command
runs on all of them (see ncgn_jax/processes.py, and the scripts in launch/): they train
and sample together, process 0 then measures and draws while the others wait.
"""

import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from ncgn_jax import parallel, processes
from ncgn_jax.config import (
    config_to_json,
    load_config,
    split_config_arguments,
)
from ncgn_jax.domains import make_task, set_fields, validate
from ncgn_jax.evaluate import evaluate
from ncgn_jax.faults import (
    ConfigError,
    one_line_errors,
)
from ncgn_jax.fields import format_value
from ncgn_jax.generate import draw, generate, restore_state
from ncgn_jax.help import format_help
from ncgn_jax.run.lock import hold
from ncgn_jax.run.preemption import Preempted, Preemption
from ncgn_jax.tasks.settings import sampling_notes
from ncgn_jax.train import train

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default runs/<configuration name>."
)
_MODE = flags.DEFINE_enum(
    "mode", "all", ["train", "sample", "evaluate", "all"], "What to do."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "newest", "What --mode=sample and evaluate take: newest, best, STEP."
)
_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


def run(
    config_path: str,
    overrides: list[str],
    workdir: str | None,
    mode: str,
    checkpoint: str = "newest",
) -> None:
    """Runs one configuration; raises the project's own errors for bad input."""
    parallel.keep_host_memory()
    parallel.start()
    with Preemption() as preemption:
        config = set_fields(load_config(config_path), overrides)
        validate(config)
        if checkpoint != "newest" and mode not in ("sample", "evaluate"):
            raise ConfigError("--checkpoint goes with --mode=sample or --mode=evaluate")
        folder = Path(workdir or Path("runs") / Path(config_path).stem)
        task = make_task(config)
        notes = [*sampling_notes(config), *task.notes()]
        about = "\n".join([*task.describe(), *notes])
        processes.check_same(
            {"configuration": config_to_json(config), "data and model": about}
        )
        if parallel.is_main_process():
            print(f"{about}\nrun: {folder}", flush=True)
        if mode == "train":
            train(config, folder, task, preemption)
        elif mode == "all":
            with hold(folder):
                state = train(config, folder, task, preemption)
                _sample(config, folder, task, state, mode, preemption)
        else:
            state = restore_state(config, folder, task, checkpoint)
            _sample(config, folder, task, state, mode, preemption)


def _sample(config, workdir, task, state, mode, preemption) -> None:
    """Samples on all processes; process 0 goes on to measure and draw."""
    preemption.stop_at_once()
    samples = generate(config, workdir, task, state)
    if not parallel.is_main_process():
        return
    with parallel.alone():
        pictures = draw(workdir, task, state, samples)
        if mode in ("evaluate", "all"):
            evaluate(config, workdir, task, samples, int(state.step))
    print("pictures: " + ", ".join(str(path) for path in pictures), flush=True)


def print_help(config_path: str | None, overrides: list[str]) -> None:
    """Prints usage, flags and fields; those of the configuration if one is named."""
    print(__doc__)
    for flag in (_WORKDIR, _MODE, _CHECKPOINT):
        about = flags.FLAGS[flag.name].help
        print(f"--{flag.name}={format_value(flag.default)}\n      {about}")
    config = None
    if config_path is not None:
        config = set_fields(load_config(config_path), overrides)
        validate(config)
    print(format_help(config))


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and turns expected errors into one message."""
    with one_line_errors():
        path, overrides, rest = split_config_arguments(argv or sys.argv)
        if _HELP & set(rest):
            print_help(path, overrides)
            return

    def start(extra: list[str]) -> None:
        # Orbax reports every file it touches; its failures reach us as exceptions.
        absl_logging.set_verbosity(absl_logging.WARNING)
        if len(extra) > 1:
            sys.exit(f"error: unknown arguments: {' '.join(extra[1:])}")
        if path is None:
            sys.exit("error: --config=FILE is needed, for example configs/modelnet.py")
        with processes.together(), one_line_errors():
            try:
                run(path, overrides, _WORKDIR.value, _MODE.value, _CHECKPOINT.value)
            except Preempted as stop:
                print(stop, flush=True)
                raise

    app.run(start, argv=rest)


if __name__ == "__main__":
    main()
