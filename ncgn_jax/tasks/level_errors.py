"""Measures the errors of a trained network on noisy test data, level by level."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.process import (
    Denoiser,
    Sampler,
    interpolate,
    make_denoiser,
    make_target,
    to_data_and_noise,
)
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

    def even_levels(self, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns signal levels evenly within (0, 1), and their times, [level] each.

        Args:
          num_levels: Number of levels.
        """
        levels = (np.arange(num_levels) + 0.5) / num_levels
        times = self.time.schedule.time_of_signal_level(levels)
        return levels, np.asarray(times, np.float64)

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

    def step_errors(
        self,
        sampler: Sampler[Denoiser],
        times: np.ndarray,
        data_limit: float | None = None,
    ) -> np.ndarray:
        """Measures what the steps of a time grid err by, up to a common factor.

        Noisy test data go half of a step, so that the sampler has something to
        remember, and the other half at once and in two steps, all with the network of
        the bucket that the step starts in. The error is the root mean square of their
        difference (step doubling: Hairer, Norsett & Wanner 1993, section II.4) over the
        spread of x_t, sqrt(alpha^2 + sigma^2), with which the flow shrinks errors.

        Args:
          sampler: A sampler that draws no noise and calls its denoiser outside of
            loops.
          times: The grid, [step + 1].
          data_limit: See `process.make_denoiser`.

        Returns:
          Errors, [step].
        """
        # Samplers that draw no noise need no key.
        schedule, noise, rng = self.time.schedule, self.noise, jax.random.key(0)

        def step_error(bucket: int, start: float, end: float) -> float:
            denoise = make_denoiser(
                lambda x_t, t: self.predict(bucket, x_t, t),
                self.target,
                schedule,
                data_limit,
            )
            first, second, third, last = (
                jnp.full(len(self.data), start + share * (end - start), noise.dtype)
                for share in (0.0, 0.5, 0.75, 1.0)
            )
            x_t = interpolate(schedule, first, self.data, noise)
            state = sampler.begin(x_t)
            state = sampler.step(denoise, schedule, state, first, second, rng)
            whole = sampler.step(denoise, schedule, state, second, last, rng)
            half = sampler.step(denoise, schedule, state, second, third, rng)
            halves = sampler.step(denoise, schedule, half, third, last, rng)
            alpha, sigma = schedule.alpha(last[0]), schedule.sigma(last[0])
            mean = jnp.mean((whole.x - halves.x) ** 2)
            return float(jnp.sqrt(mean / (alpha**2 + sigma**2)))

        legs = zip(
            self.time.bucket_of_times(times[:-1]), times[:-1], times[1:], strict=True
        )
        return np.asarray([step_error(int(b), *ends) for b, *ends in legs])

    def _errors_at(self, bucket, t):
        data, noise = self.data, self.noise
        schedule, target = self.time.schedule, self.target
        t = jnp.full(len(data), t, jnp.float32)
        x_t = interpolate(schedule, t, data, noise)
        prediction = self.predict(bucket, x_t, t)
        truth = make_target(target, schedule, t, data, noise)
        data_hat, _ = to_data_and_noise(target, prediction, x_t, schedule, t)
        return [jnp.mean((data_hat - data) ** 2), jnp.mean((prediction - truth) ** 2)]
