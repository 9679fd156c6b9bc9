"""Small image tasks for tests."""

import functools
from pathlib import Path

import jax

from ncgn_jax.config import load_config
from ncgn_jax.domains import make_task, set_fields, validate
from ncgn_jax.images.task import ImageTask
from tests.weights import drawn

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (
    "model.width=8", "model.num_layers=1", "model.num_heads=2", "train.batch_size=16",
    "sample.num_samples=6", "sample.num_steps=5", "sample.batch_size=8",
    "train.warmup_steps=0", "evaluate.classifier_steps=20", "evaluate.max_images=64",
)  # fmt: skip
LEARNED = (
    "model.learned_variance=True", "process.schedule=ddpm_linear",
    "process.target=noise", "sample.sampler=ancestral",
)  # fmt: skip


def small_config(*overrides):
    config = load_config(REPOSITORY / "configs" / "digits.py")
    return set_fields(config, [*SMALL, *overrides])


@functools.cache
def small_task(*overrides) -> ImageTask:
    config = small_config(*overrides)
    validate(config)
    return make_task(config)


def stubbed(task, predict, params=None) -> ImageTask:
    """Returns such a task whose network is predict(params, bucket, x_t, t, label).

    Args:
      task: A task, left as it is.
      predict: The network.
      params: Its initial parameters, if they are asked for.
    """
    task = ImageTask(task.config, task.dataset)
    vars(task.model).update(predict=predict, init=lambda rng: (params, {}))
    return task


@functools.cache
def init_params(task):
    return drawn(task.init, jax.random.key(0))[0]
