"""Samples from a trained run: restore, sample, save arrays and pictures.

`workdir/samples/ema.npz` and `raw.npz` hold the arrays (no pickles), made anew only
if the checkpoint or the sampling fields have changed; pictures go to
`workdir/pictures`.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import parallel, processes
from ncgn_jax.config import config_from_json, config_to_json
from ncgn_jax.data.array_files import read_npz, write_npz
from ncgn_jax.domains import complete_config
from ncgn_jax.faults import CheckpointError, ConfigError, DataError
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import format_seconds
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.run.state import TrainState
from ncgn_jax.tasks import Task
from ncgn_jax.train import init_state

Samples = dict[str, dict[str, np.ndarray]]
Step = Literal["newest", "best"] | int
# Sections that samples do not depend on, once it is known how far training went.
_NOT_SAMPLED = ("train", "evaluate", "data")


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
    config: ConfigDict,
    workdir: str | Path,
    task: Task,
    checkpoint: str = "newest",
) -> TrainState:
    """Restores a checkpoint of a run.

    Args:
      config: The run's configuration.
      workdir: Its folder.
      task: The configuration's task.
      checkpoint: `newest`, `best` (of least loss) or the number of a stored step.

    Raises:
      CheckpointError: If there is none, or it was made by another model.
    """
    if checkpoint not in ("newest", "best") and not checkpoint.isdecimal():
        raise ConfigError(f"checkpoint {checkpoint!r}; allowed: newest, best or a step")
    store = Checkpoints(workdir, config_to_json(config), read_only=True)
    tx = make_optimizer(config)
    abstract = jax.eval_shape(lambda: init_state(task, tx, config.seed))
    step: Step = "best" if checkpoint == "best" else "newest"
    if checkpoint.isdecimal():
        step = int(checkpoint)
    restored = store.restore(abstract, step=step)
    store.close()
    if restored is None:
        raise CheckpointError(
            f"{workdir} holds no checkpoint; train first (--mode=train or --mode=all)"
        )
    return restored[0]


def generate(
    config: ConfigDict, workdir: str | Path, task: Task, state: TrainState | None = None
) -> Samples:
    """Generates with EMA and raw weights, saves arrays.

    With several processes each generates its share of the samples, process 0 saves.

    Args:
      config: Validated configuration.
      workdir: The run's folder.
      task: The configuration's task.
      state: Trained state; restored from `workdir` if None.

    Returns:
      Arrays by kind of weights (`evaluate.weights`). On other processes than 0, only
      of kinds that were not stored already.
    """
    state = state if state is not None else restore_state(config, workdir, task)
    folder = Path(workdir) / "samples"
    stamp = _stamp(config, int(state.step))
    samples = {}
    for kind in config.evaluate.weights:
        path = folder / f"{kind}.npz"
        stored = _load(path, stamp) if parallel.is_main_process() else None
        if not _is_true_on_main(stored is not None):
            params = state.ema if kind == "ema" else state.params
            began = time.monotonic()
            stored = task.sample(
                params, state.model_state, config.sample.num_samples, config.seed
            )
            seconds = time.monotonic() - began
            if parallel.is_main_process():
                print(
                    f"{config.sample.num_samples} samples ({kind} weights, "
                    f"{config.sample.num_steps} {config.sample.sampler} steps) in "
                    f"{format_seconds(seconds)}, compilation included",
                    flush=True,
                )
                _save(path, stored, stamp)
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


def _stamp(config: ConfigDict, step: int) -> str:
    """Identifies what samples depend on: the checkpoint and how it is sampled."""
    fields = {name: part for name, part in config.items() if name not in _NOT_SAMPLED}
    fields = {"step": step, **ConfigDict(fields).to_dict()}
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
