"""Runs what the command line asks for; `ncgn_jax.main` says what that may be.

It is a module of its own because its imports take seconds, within which a program may
be asked to stop.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from absl import logging as absl_logging

from ncgn_jax import parallel, processes
from ncgn_jax.config import (
    config_to_json,
    load_config,
    split_config_arguments,
)
from ncgn_jax.data.whole_files import check_writable
from ncgn_jax.domains import make_task, set_fields, validate
from ncgn_jax.evaluate import evaluate
from ncgn_jax.faults import (
    ConfigError,
    one_line_errors,
)
from ncgn_jax.fields import format_value
from ncgn_jax.generate import draw, generate, load_run, read_run_config
from ncgn_jax.help import format_help
from ncgn_jax.loop import train
from ncgn_jax.memory import check_names, go_on
from ncgn_jax.plugins import import_plugins, split_plugins
from ncgn_jax.run.early_stop import PREEMPTED_CODE
from ncgn_jax.run.lock import hold
from ncgn_jax.run.logs import keep_streams, timestamps
from ncgn_jax.run.preemption import Preempted, Preemption
from ncgn_jax.run.state import TrainState
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.settings import sampling_notes

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default runs/<configuration name>."
)
_MODE = flags.DEFINE_enum(
    "mode", "all", ["train", "sample", "evaluate", "all", "check"], "What to do."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "newest", "What --mode=sample and evaluate take: newest, best, STEP."
)
_SAMPLES = flags.DEFINE_string(
    "samples", None, "Name of the samples, in workdir/samples; none follows settings."
)
_PICTURES = flags.DEFINE_enum("pictures", "all", ["all", "none"], "What to draw.")
_ACCEPT = flags.DEFINE_list(
    "accept", [], "Fields, and data, that may differ from those of the run."
)
_PREEMPTED_CODE = flags.DEFINE_integer(
    "preempted_code",
    PREEMPTED_CODE,
    "Exit code after SIGTERM, to be started again; 0 where any other is a failure.",
    lower_bound=0,
    upper_bound=255,
)
_TIMESTAMPS = flags.DEFINE_bool(
    "timestamps", False, "Begin every line of the output with the time of day."
)
_FLAGS: tuple[flags.FlagHolder, ...] = (
    _WORKDIR, _MODE, _CHECKPOINT, _SAMPLES, _PICTURES, _ACCEPT, _PREEMPTED_CODE,
    _TIMESTAMPS,
)  # fmt: skip
_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}


def run(
    config_path: str | None,
    overrides: list[str],
    workdir: str | None,
    mode: str,
    *,
    checkpoint: str = "newest",
    samples: str | None = None,
    pictures: bool = True,
    accept: Sequence[str] = (),
    preempted_code: int = PREEMPTED_CODE,
) -> None:
    """Runs one configuration; raises the project's own errors for bad input.

    Args:
      config_path: Configuration file; None for that of the run in `workdir`.
      overrides: Fields to set, `FIELD=VALUE`.
      workdir: The run's folder; None for one named like the configuration.
      mode: `all`, `train`, `sample`, `evaluate`, or `check`, which reads configuration
        and data, says what they are, and stops.
      checkpoint: What to sample: `newest`, `best` or the number of a step.
      samples: Name of the samples; None for one that follows from the settings.
      pictures: Whether to draw.
      accept: Fields, and `data`, that may differ from those of the run.
      preempted_code: Exit code after SIGTERM.
    """
    parallel.keep_host_memory()
    parallel.start()
    with Preemption(preempted_code) as preemption:
        folder = _folder(config_path, workdir)
        if config_path is None:
            config = set_fields(read_run_config(folder), overrides)
        else:
            config = set_fields(load_config(config_path), overrides)
        trains = mode in ("all", "train", "check")
        validate(config, to_train=trains)
        check_names(accept, config)
        if checkpoint != "newest" and trains:
            raise ConfigError("--checkpoint goes with --mode=sample or --mode=evaluate")
        processes.from_main(lambda: _checked(folder))
        if mode == "check":
            _describe(make_task(config), folder)
            return
        after = _After(mode, samples, pictures, preemption)
        if trains:
            task = make_task(config)
            _describe(task, folder)
            with hold(folder):
                task = go_on(task, folder, accept).task
                state = train(config, folder, task, preemption, accept)
                if mode == "all":
                    after(folder, task, state)
            return
        task, state = load_run(
            config, folder, checkpoint, accept, with_data=mode != "sample"
        )
        _describe(task, folder)
        after(folder, task, state)


def _checked(folder: Path) -> bytes:
    check_writable(folder)
    return b""


def _folder(config_path: str | None, workdir: str | None) -> Path:
    if workdir == "":
        raise ConfigError("--workdir is empty; allowed: the folder of a run")
    if workdir is not None:
        return Path(workdir)
    if config_path is None:
        raise ConfigError(
            "--config=FILE is needed, for example configs/modelnet.py; for a run that "
            "exists --workdir=FOLDER is enough"
        )
    return Path("runs") / Path(config_path).stem


def _describe(task: Task, folder: Path) -> None:
    """Prints what will be done, the same on all processes."""
    notes = [*sampling_notes(task.config), *task.notes()]
    about = "\n".join([*task.about_data, *task.describe_model(), *notes])
    processes.check_same(
        {"configuration": config_to_json(task.config), "data and model": about}
    )
    if parallel.is_main_process():
        print(f"{about}\nrun: {folder}", flush=True)


class _After(NamedTuple):
    """What follows training."""

    mode: str
    samples: str | None
    pictures: bool
    preemption: Preemption

    def __call__(self, folder: Path, task: Task, state: TrainState) -> None:
        """Samples on all processes; process 0 goes on to measure and draw."""
        self.preemption.stop_at_once()
        samples = generate(task.config, folder, task, state, self.samples)
        if not parallel.is_main_process():
            return
        self.preemption.check()
        with parallel.alone():
            drawn = draw(folder, task, state, samples) if self.pictures else []
            if self.mode != "sample":
                evaluate(task.config, folder, task, samples, int(state.step))
        if drawn:
            paths = ", ".join(str(path) for path in drawn)
            print(f"pictures: {paths}", flush=True)


def print_help(usage: str, config_path: str | None, overrides: list[str]) -> None:
    """Prints usage, flags and fields; those of the configuration if one is named."""
    print(usage)
    for flag in _FLAGS:
        about = flags.FLAGS[flag.name].help
        print(f"--{flag.name}={format_value(flag.default)}\n      {about}")
    config = None
    if config_path is not None:
        config = set_fields(load_config(config_path), overrides)
        validate(config)
    print(format_help(config))


def start(argv: list[str], usage: str) -> None:
    """Parses a command line and turns expected errors into one message.

    Args:
      argv: The command line, the name of the program first.
      usage: Text for `--help`, above flags and fields.
    """
    keep_streams()
    # Notebooks pass on a backend that may not be there; pictures go to files alone.
    os.environ.pop("MPLBACKEND", None)
    with one_line_errors():
        path, overrides, rest = split_config_arguments(argv)
        plugins, rest = split_plugins(rest)
        import_plugins(plugins)
        if _HELP & set(rest):
            print_help(usage, path, overrides)
            return

    def act(extra: list[str]) -> None:
        # Orbax reports every file it touches; its failures reach us as exceptions.
        absl_logging.set_verbosity(absl_logging.WARNING)
        if len(extra) > 1:
            sys.exit(f"error: unknown arguments: {' '.join(extra[1:])}")
        stamped = timestamps() if _TIMESTAMPS.value else contextlib.nullcontext()
        with processes.together(), stamped, one_line_errors():
            try:
                run(
                    path,
                    overrides,
                    _WORKDIR.value,
                    _MODE.value,
                    checkpoint=_CHECKPOINT.value,
                    samples=_SAMPLES.value,
                    pictures=_PICTURES.value == "all",
                    accept=_ACCEPT.value,
                    preempted_code=_PREEMPTED_CODE.value,
                )
            except Preempted as stop:
                print(stop, flush=True)
                raise

    try:
        app.run(act, argv=rest)
    except Preempted as stop:
        # All that was finished is on disk, and the threads of a program that still
        # runs may crash while Python takes itself apart.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(str(stop.code)))
    except SystemExit as end:
        if flags.FLAGS.is_parsed() and _MODE.value == "check" and end.code:
            print(end.code, file=sys.stderr)
            sys.exit(2)
        raise
