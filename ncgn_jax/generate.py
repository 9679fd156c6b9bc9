"""Samples from a trained run: restore, sample, save arrays and pictures.

`workdir/samples/<name>/ema.npz` and `raw.npz` hold the arrays (no pickles), and
`about.json` beside them says of which weights, settings and data they are. Such a set
is made once, and none is overwritten by another; one that was stopped goes on after
the last call of the sampler that it finished. Pictures go to `workdir/pictures`.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import parallel, processes
from ncgn_jax.config import config_from_json, config_to_json
from ncgn_jax.data.array_files import read_npz, write_npz
from ncgn_jax.data.digest import digest
from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.domains import (
    complete_config,
    make_task,
    plain_fields,
    task_without_data,
)
from ncgn_jax.faults import CheckpointError, ConfigError, DataError
from ncgn_jax.fields import Role
from ncgn_jax.loop import init_state
from ncgn_jax.memory import (
    check_data,
    check_sampling,
    field_differences,
    read_checkpoint,
    stored_config,
    with_stored_facts,
    with_training_of,
)
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import format_seconds
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.run.state import TrainState
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.facts import to_plain
from ncgn_jax.tasks.finished import keep_parts

Samples = dict[str, dict[str, np.ndarray]]
# What fields decide that samples depend on, besides weights and facts; model.dtype is
# one of training.
_SAMPLED: tuple[Role, ...] = ("model", "size", "training")
_ABOUT = "about.json"


def read_run_config(workdir: str | Path) -> ConfigDict:
    """Reads the configuration that a run was made with.

    Raises:
      ConfigError: If the folder holds no run, or one of no task that there is.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{workdir} holds no run: there is no {path.name}")
    try:
        return complete_config(*config_from_json(path.read_text()))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def restore_state(
    config: ConfigDict, workdir: str | Path, task: Task, step: int
) -> TrainState:
    """Restores a checkpoint of a run.

    Args:
      config: The run's configuration.
      workdir: Its folder.
      task: The configuration's task.
      step: Steps of the checkpoint, as `memory.read_checkpoint` finds them.

    Raises:
      CheckpointError: If it is absent, unreadable or of another model.
    """
    store = Checkpoints(workdir, config_to_json(config), read_only=True)
    tx = make_optimizer(config)
    abstract = jax.eval_shape(lambda: init_state(task, tx, config.seed))
    restored = store.restore(abstract, step=step)
    store.close()
    if restored is None:
        raise CheckpointError(f"there is no checkpoint {step} in {workdir}")
    return restored[0]


def load_run(
    config: ConfigDict,
    workdir: str | Path,
    checkpoint: str = "newest",
    accept: Sequence[str] = (),
    *,
    with_data: bool = True,
) -> tuple[Task, TrainState]:
    """Loads a trained run: its task and its state.

    Args:
      config: The run's configuration; fields of sampling and measuring may differ.
      workdir: Its folder.
      checkpoint: `newest`, `best` or the number of a stored step.
      accept: `data`, if others than the run's own may be measured against.
      with_data: Whether the task needs its data set. Without, it only samples.

    Returns:
      The task, whose `about_data` says what the run was trained on, and the state.

    Raises:
      ConfigError: If the configuration is of another model, or the data are others.
      CheckpointError: If there is no such checkpoint.
    """
    stored = read_checkpoint(workdir, checkpoint)
    config = with_training_of(stored, config)
    check_sampling(config, stored, workdir)
    if "facts" not in stored.record:
        task = make_task(config)
        if parallel.is_main_process():
            print(
                "NOTE: this run is of a version that did not store what its data "
                "taught it; that is taken from the data that are there now",
                flush=True,
            )
    elif with_data:
        task = make_task(config)
        check_data(task, stored, workdir, accept)
        task = with_stored_facts(task, stored)
    else:
        task = task_without_data(config, stored.record)
        unread = field_differences(stored_config(stored), config, ("data",))
        if unread and parallel.is_main_process():
            listed = "; ".join(map(str, unread))
            print(
                f"NOTE: samples need no data, only what the run's own taught it; not "
                f"used: {listed}",
                flush=True,
            )
    return task, restore_state(config, workdir, task, stored.step)


def generate(
    config: ConfigDict,
    workdir: str | Path,
    task: Task,
    state: TrainState,
    name: str | None = None,
) -> Samples:
    """Generates with EMA and raw weights, saves arrays.

    With several processes each generates its share of the samples, process 0 saves.

    Args:
      config: Validated configuration.
      workdir: The run's folder.
      task: The configuration's task.
      state: Trained state.
      name: Folder within `workdir/samples`; None for one that follows from weights,
        settings and data.

    Returns:
      Arrays by kind of weights (`evaluate.weights`). On other processes than 0, only
      of kinds that were not stored already.

    Raises:
      ConfigError: If that folder holds other samples.
    """
    about = _describe(config, task, state)
    stamp = _stamp(about)
    folder = Path(workdir) / "samples" / (name or f"step{int(state.step)}-{stamp[:6]}")
    processes.from_main(lambda: _check_folder(folder, stamp))
    samples = {}
    for kind in config.evaluate.weights:
        path = folder / f"{kind}.npz"
        stored = _load(path, stamp) if parallel.is_main_process() else None
        if not _is_true_on_main(stored is not None):
            params = state.ema if kind == "ema" else state.params
            began = time.monotonic()
            # Calls of another number of devices have other rows.
            parts_of = folder / f".unfinished-{kind}-{stamp}-{parallel.num_devices()}"
            with keep_parts(parts_of) as parts:
                stored = task.sample(
                    params, state.model_state, config.sample.num_samples, config.seed
                )
            seconds = time.monotonic() - began
            if parallel.is_main_process():
                if parts.num_found:
                    print(
                        f"{parts.num_found} of {parts.num_asked} calls of the sampler "
                        "were finished before",
                        flush=True,
                    )
                print(
                    f"{config.sample.num_samples} samples ({kind} weights, "
                    f"{config.sample.num_steps} {config.sample.sampler} steps) in "
                    f"{format_seconds(seconds)}, compilation included: {path}",
                    flush=True,
                )
                _save(path, stored, stamp)
                text = json.dumps({"stamp": stamp, **about}, indent=2)
                write_whole(folder / _ABOUT, text + "\n")
                shutil.rmtree(parts_of, ignore_errors=True)
        elif parallel.is_main_process():
            print(f"stored samples ({kind} weights): {path}", flush=True)
        if stored is not None:
            samples[kind] = stored
    return samples


def draw(
    workdir: str | Path, task: Task, state: TrainState, samples: Samples
) -> list[Path]:
    """Saves the pictures of a run; returns their paths."""
    kind = next(iter(samples))
    params = state.ema if kind == "ema" else state.params
    folder = Path(workdir) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return task.draw(params, state.model_state, samples[kind], folder)


def _is_true_on_main(answer: bool) -> bool:
    """Returns what process 0 answers."""
    return bool(processes.from_main(lambda: bytes([answer]))[0])


def _describe(config: ConfigDict, task: Task, state: TrainState) -> dict[str, Any]:
    """Returns all that samples depend on."""
    about = {
        "task": config.task,
        "step": int(state.step),
        "weights": digest(jax.device_get([state.params, state.ema, state.model_state])),
        "seed": config.seed,
        "sample": config.sample.to_dict(),
        "fields": plain_fields(config, _SAMPLED),
        "facts": to_plain(task.facts),
    }
    if task.samples_beside_data and task.has_data:
        about["data"] = task.digest
    return json.loads(json.dumps(about))


def _stamp(about: Mapping[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_folder(folder: Path, stamp: str) -> bytes:
    """Refuses a folder of other samples."""
    path = folder / _ABOUT
    try:
        found = json.loads(path.read_text()).get("stamp")
    except FileNotFoundError:
        return b""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove {folder}") from error
    if found != stamp:
        raise ConfigError(
            f"{folder} holds samples of other weights, settings or data (see "
            f"{_ABOUT} in it); give these another name"
        )
    return b""


def _save(path: Path, arrays: dict[str, np.ndarray], stamp: str) -> None:
    write_npz(path, {"stamp": np.asarray(stamp), **arrays})


def _load(path: Path, stamp: str) -> dict[str, np.ndarray] | None:
    """Reads stored samples if they are whole and still the ones asked for.

    Damaged ones are made anew, with a line on what is wrong with them.
    """
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path)
    except DataError as error:
        print(f"stored samples are damaged and made anew: {error}", flush=True)
        return None
    if str(arrays.pop("stamp", "")) != stamp:
        return None
    return arrays
