"""Times training steps and sampling as they run in `train` and `generate`."""

import time

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import parallel
from ncgn_jax.config import with_fields
from ncgn_jax.faults import get_field
from ncgn_jax.loop import TrainingSteps, init_state
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.sampling import rows_per_call

# Shares of kinds of steps are counted among at least so many.
_MANY_STEPS = 10_000


def time_training_steps(
    config: ConfigDict, task: Task, num_steps: int = 10, num_warm_up: int = 3
) -> float:
    """Measures the mean seconds of a training step, compilation excluded.

    Steps of every kind that the training has are timed in turn, each as often; the
    median of a kind counts by its share of the steps. Like the training loop, each
    loads the next batch while the device works.

    Args:
      config: Validated configuration.
      task: Its task.
      num_steps: Calls of each kind to time, of as many steps as in the training.
      num_warm_up: Calls of each kind before, of which the first compiles.

    Returns:
      Seconds.
    """
    tx, count = make_optimizer(config), config.train.steps_per_call
    steps = TrainingSteps(task, tx, config)
    state = parallel.replicate(init_state(task, tx, config.seed))
    kinds = task.step_kinds(0, max(config.train.num_steps, _MANY_STEPS))
    seconds = np.empty((num_warm_up + num_steps, len(kinds)))
    batch = steps.load(kinds[0].step, count)
    for i, k in np.ndindex(seconds.shape):
        began = time.perf_counter()
        state, metrics = steps(state, batch, count)
        batch = steps.load(kinds[(k + 1) % len(kinds)].step, count)
        jax.block_until_ready((state, metrics))
        seconds[i, k] = (time.perf_counter() - began) / count
    medians = np.median(seconds[num_warm_up:], axis=0)
    return float(medians @ [kind.share for kind in kinds])


def time_sampling(config: ConfigDict, task: Task) -> float:
    """Estimates seconds to draw `sample.num_samples`, compilation excluded.

    All calls of `sample.batch_size` samples take equally long, and so do all
    steps of a noise bucket: one chunk is timed, with a tenth of the steps but at least
    20 (after one that compiles), and multiplied.

    Args:
      config: Validated configuration.
      task: Its task.

    Returns:
      Seconds for all samples.
    """
    # A fresh state is as fast as a trained one.
    state = init_state(task, make_optimizer(config), config.seed)
    sample = config.sample
    chunk = rows_per_call(sample.num_samples, sample.batch_size)
    num_steps = min(sample.num_steps, max(20, sample.num_steps // 10))
    fewer = {"sample.num_steps": num_steps}
    # Samples of these fields are drawn once; their time is not per sample.
    fewer |= dict.fromkeys(task.extra_samples, 0)
    if any(get_field(config, field) != value for field, value in fewer.items()):
        task = task.with_config(with_fields(config, fewer))
    task.sample(state.params, state.model_state, chunk, config.seed)
    began = time.perf_counter()
    task.sample(state.params, state.model_state, chunk, config.seed)
    seconds = time.perf_counter() - began
    num_chunks = -(-sample.num_samples // chunk)
    return seconds * num_chunks * sample.num_steps / num_steps
