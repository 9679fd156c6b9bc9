"""Measures the errors of a trained network on noisy test data, level by level."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.process import interpolate, make_target, to_data_and_noise
from ncgn_jax.tasks.bucketed import BucketedTime


class LevelProbe(NamedTuple):
    """Holds a network, and test data to try it on with noise.

    Attributes:
      time: Time axis with its buckets.
      target: What the network predicts.
      data: Test data in the units of training, [row, ...].
      noise: Their noise, paired as in training, shape of `data`.
      predict: predict(bucket, x_t, t [row]) returns the prediction, shape of x_t.
      sizes: Supernodes, or tokens, of each bucket.
      weights: u at which a range/resolution schedule has these sizes, [bucket].
    """

    time: BucketedTime
    target: str
    data: jax.Array
    noise: jax.Array
    predict: Callable[[int, jax.Array, jax.Array], jax.Array]
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def errors(
        self, times: Sequence[float], bucket: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measures mean squared errors per number at some times.

        Args:
          times: In (0, 1), [time].
          bucket: The bucket of the graphs; that of each time if None.

        Returns:
          Errors of data_hat, and of the network's own target, each [time].
        """
        buckets = self.time.bucket_of_times(np.asarray(times))
        if bucket is not None:
            buckets = np.full_like(buckets, bucket)
        found = [
            self._errors_at(int(b), t) for b, t in zip(buckets, times, strict=True)
        ]
        data_errors, target_errors = np.asarray(found, np.float64).T
        return data_errors, target_errors

    def _errors_at(self, bucket, t):
        data, noise = self.data, self.noise
        schedule, target = self.time.schedule, self.target
        t = jnp.full(len(data), t, jnp.float32)
        x_t = interpolate(schedule, t, data, noise)
        prediction = self.predict(bucket, x_t, t)
        truth = make_target(target, schedule, t, data, noise)
        data_hat, _ = to_data_and_noise(target, prediction, x_t, schedule, t)
        return [jnp.mean((data_hat - data) ** 2), jnp.mean((prediction - truth) ** 2)]
