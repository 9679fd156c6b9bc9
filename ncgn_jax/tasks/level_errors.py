"""What a trained network gets wrong on noisy test data, level by level."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.range_resolution import weight_of_supernodes
from ncgn_jax.images.sampling import split_output
from ncgn_jax.point_clouds.views import NetworkView, draw_test_clouds
from ncgn_jax.process import interpolate, make_target, to_data_and_noise
from ncgn_jax.tasks.bucketed import BucketedTime

_SEED = 0


class LevelProbe(NamedTuple):
    """A network, and test data with noise to try it on.

    Attributes:
      time: Time axis with its buckets.
      target: What the network predicts.
      data: Test data in the units of training, [row, ...].
      predict: predict(bucket, x_t, t [row]) returns the prediction, shape of x_t.
      sizes: Supernodes, or tokens, of each bucket.
      weights: u at which a range/resolution schedule has these sizes, [bucket].
    """

    time: BucketedTime
    target: str
    data: jax.Array
    predict: Callable[[int, jax.Array, jax.Array], jax.Array]
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def errors(
        self, times: Sequence[float], bucket: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measures mean squared errors per number at some times.

        Args:
          times: In (0, 1), [time].
          bucket: In whose graphs; those of each time's own bucket if None.

        Returns:
          Errors of data_hat, and of the network's own target, each [time].
        """
        buckets = self.time.bucket_of_times(np.asarray(times))
        if bucket is not None:
            buckets = np.full_like(buckets, bucket)
        noise = jax.random.normal(jax.random.key(_SEED), self.data.shape)
        found = [
            self._errors_at(int(b), t, noise)
            for b, t in zip(buckets, times, strict=True)
        ]
        return tuple(np.asarray(found, np.float64).T)

    def _errors_at(self, bucket, t, noise):
        data, schedule, target = self.data, self.time.schedule, self.target
        t = jnp.full(len(data), t, jnp.float32)
        x_t = interpolate(schedule, t, data, noise)
        prediction = self.predict(bucket, x_t, t)
        truth = make_target(target, schedule, t, data, noise)
        data_hat, _ = to_data_and_noise(target, prediction, x_t, schedule, t)
        return [jnp.mean((data_hat - data) ** 2), jnp.mean((prediction - truth) ** 2)]


def make_level_probe(
    task: Any, params: Any, model_state: Any, count: int
) -> LevelProbe:
    """Returns a probe of a task's network on some of its test data.

    Args:
      task: One of `PROBED`.
      params: Parameters of its network.
      model_state: Batch statistics.
      count: Rows of test data, drawn at random.
    """
    return PROBED[task.config.task](task, params, model_state, count)


def _probe_point_clouds(task, params, model_state, count) -> LevelProbe:
    data, label = draw_test_clouds(task, count)
    view = NetworkView(task, params, model_state)
    buckets, num_neighbors = task.time.buckets, task.config.dmp.num_neighbors
    weights = [
        weight_of_supernodes(b.num_supernodes, b.num_nodes, num_neighbors)
        for b in buckets
    ]
    return LevelProbe(
        task.time,
        task.config.process.target,
        data,
        lambda bucket, x_t, t: view(bucket, x_t, t, label)[0],
        tuple(bucket.num_supernodes for bucket in buckets),
        tuple(weights),
    )


def _probe_images(task, params, model_state, count) -> LevelProbe:
    del model_state  # The network has none.
    test = task.dataset.rows("test")
    chosen = np.random.default_rng(_SEED).permutation(len(test))
    chosen = np.sort(np.resize(chosen, count))
    label = jnp.asarray(np.asarray(task.dataset.test_labels)[chosen], jnp.int32)
    params = jax.device_get(params)
    buckets = task.time.buckets

    @partial(jax.jit, static_argnums=0)
    def run(bucket, params, x_t, t):
        return split_output(task, task.predict(params, buckets[bucket], x_t, t, label))

    pixels = np.prod(task.dataset.image_shape[:2])
    coarsest, finest = (
        pixels / size(task.config.dmp.patches) ** 2 for size in (max, min)
    )
    tokens = tuple(bucket.num_supernodes for bucket in buckets)
    return LevelProbe(
        task.time,
        task.config.process.target,
        jnp.asarray(test[chosen]),
        lambda bucket, x_t, t: run(bucket, params, x_t, t)[0],
        tokens,
        tuple((n - coarsest) / max(finest - coarsest, 1) for n in tokens),
    )


PROBED = {"point_clouds": _probe_point_clouds, "images": _probe_images}
