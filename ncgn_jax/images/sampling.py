"""Sampler steps of images within one noise bucket, guidance and variances included."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.grids import GridBucket
from ncgn_jax.process import integrate, make_denoiser, make_sampler_step
from ncgn_jax.process.learned_variance import learned_variance_step


def walk_stretch(
    task: Any,
    bucket: GridBucket,
    x: jax.Array,
    labels: jax.Array,
    keys: jax.Array,
    params: Any,
    times: jax.Array,
    offset: jax.Array,
) -> jax.Array:
    """Takes the sampler's steps from times[0] to times[-1] with a bucket's patches.

    Every evaluation is the bucket's, also those at the end of a step.

    Args:
      task: A `tasks.images.ImageTask`.
      bucket: Whose patches and window; static.
      x: Images at times[0], [row, height, width, channel].
      labels: Classes, int [row].
      keys: A key a row, of the whole walk.
      params: Of the network.
      times: Rising times, [num_steps + 1].
      offset: Number of steps done before.

    Returns:
      Images at times[-1], shape of `x`.
    """
    process, sample = task.config.process, task.config.sample
    schedule = task.time.schedule

    def network(x_t, t):
        return guided_prediction(task, params, bucket, x_t, t, labels)

    if not task.config.model.learned_variance:
        denoise = make_denoiser(network, process.target, schedule, sample.data_limit)
        step = make_sampler_step(sample.sampler)
        return integrate(step, denoise, schedule, x, times, keys, offset)

    def denoise_and_vary(x_t, t):
        output, fraction = split_output(task, network(x_t, t))
        known = make_denoiser(
            lambda *_: output, process.target, schedule, sample.data_limit
        )
        return *known(x_t, t), fraction

    return integrate(
        learned_variance_step, denoise_and_vary, schedule, x, times, keys, offset
    )


def guided_prediction(
    task: Any,
    params: Any,
    bucket: GridBucket,
    x_t: jax.Array,
    t: jax.Array,
    label: jax.Array,
) -> jax.Array:
    """Predicts with guidance: from no class to the class and beyond (Ho 2022).

    Args:
      task: A `tasks.images.ImageTask`.
      params: Of the network.
      bucket: Whose patches and window; static.
      x_t: Noisy images, [row, height, width, channel].
      t: Times, [row].
      label: Classes, int [row].

    Returns:
      As `ImageTask.predict`. Variances, where there are any, are those of the class.
    """
    if not task.is_guided:
        return task.predict(params, bucket, x_t, t, label)
    none = jnp.full_like(label, task.num_classes)
    twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
    both = task.predict(params, bucket, *twice, jnp.concatenate([label, none]))
    told, free = jnp.split(both, 2)
    moved = free + task.config.sample.guidance * (told - free)
    many = task.config.sample.guidance_channels or task.num_channels
    chosen = np.arange(told.shape[-1]) < many
    return jnp.where(chosen[None, None, None], moved, told)


def split_output(task: Any, output: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Splits a network's output into the prediction and the fraction of variances.

    The fraction, see `process.learned_variance`, is None if none are learned.
    """
    if not task.config.model.learned_variance:
        return output, None
    output, raw = jnp.split(output, 2, axis=-1)
    return output, 0.5 * (raw + 1.0)
