"""Prepares a model of images for measuring its errors by noise level."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.images.model import ImageModel
from ncgn_jax.tasks.level_errors import LevelProbe


def level_probe(
    model: ImageModel, params: Any, images: np.ndarray, labels: np.ndarray
) -> LevelProbe:
    """Returns the network with images to measure its errors by noise level.

    Args:
      model: The model.
      params: Its parameters.
      images: Clean images in the units of training, [image, height, width, channel].
      labels: Their classes, [image].
    """
    label, buckets = jnp.asarray(labels, jnp.int32), model.time.buckets
    params = jax.device_get(params)

    @partial(jax.jit, static_argnums=0)
    def run(bucket, params, x_t, t):
        return model.split_output(model.predict(params, buckets[bucket], x_t, t, label))

    pixels = np.prod(model.image_shape[:2])
    patches = [bucket.patch for bucket in buckets]
    coarsest, finest = (pixels / size(patches) ** 2 for size in (max, min))
    tokens = tuple(bucket.num_supernodes for bucket in buckets)
    data = jnp.asarray(images)
    return LevelProbe(
        model.time,
        model.objective.target,
        data,
        jax.random.normal(jax.random.key(0), data.shape),
        lambda bucket, x_t, t: run(bucket, params, x_t, t)[0],
        tokens,
        tuple((n - coarsest) / max(finest - coarsest, 1) for n in tokens),
    )
