"""Measures the errors of field and drift of models without the noise level as input.

On samples of x_t of circles in a plane of a larger space, it measures the drift
perturbation error |nu| |f - f_t| (arXiv 2602.18428, eq. 22), the Jensen gap
sigma E[1 / sigma | x] - 1 (eq. 66), how well a sample determines its noise level, and
the size of the transport correction of eq. 14.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi

from ncgn_jax.process import Schedule, interpolate
from ncgn_jax.studies.geometry_of_noise.blind_fields import (
    NoisePrior,
    blind_prediction,
    decompose_field,
    noise_posterior,
    sampler_gains,
    told_prediction,
)
from ncgn_jax.studies.geometry_of_noise.near_data import mean_noise_length

_CHUNK = 128


def _in_chunks(
    function: Callable[..., dict[str, jax.Array]], size: int, *arrays: jax.Array
) -> dict[str, jax.Array]:
    """Maps a function of batches over long batches, `size` rows at a time."""
    parts = [a.reshape((-1, size) + a.shape[1:]) for a in arrays]
    outputs = jax.lax.map(lambda part: function(*part), parts)
    return jax.tree.map(lambda a: a.reshape((-1,) + a.shape[2:]), outputs)


def noised_samples(
    points: jax.Array, schedule: Schedule, noise_time: float, num: int, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws x_t of data points at one noise time, with the same draws at every time.

    Args:
      points: The data set, [point, dim].
      schedule: The noise schedule.
      noise_time: 1 - t.
      num: Number of samples.
      rng: Random key.

    Returns:
      x_t and the data behind it, each [num, dim].
    """
    rng_point, rng_noise = jax.random.split(rng)
    data = points[jax.random.randint(rng_point, (num,), 0, len(points))]
    noise = jax.random.normal(rng_noise, data.shape)
    return interpolate(schedule, 1.0 - noise_time, data, noise), data


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def drift_errors(
    kinds: tuple[str, ...],
    schedule: Schedule,
    points: jax.Array,
    prior: NoisePrior,
    noise_time: float,
    num: int,
    rng: jax.Array,
) -> dict[str, jax.Array]:
    """Returns the drift perturbation errors |nu| |f - f_t| of samples (eq. 22).

    Args:
      kinds: Kinds of prediction.
      schedule: The noise schedule.
      points: The data set, [point, dim].
      prior: Prior of the noise levels.
      noise_time: 1 - t, the input of f_t.
      num: Number of samples, a multiple of 128 or fewer.
      rng: Random key.

    Returns:
      Errors by kind, [num].
    """
    x, _ = noised_samples(points, schedule, noise_time, num, rng)

    def errors(x):
        t = jnp.full(len(x), 1.0 - noise_time)
        found = {}
        for kind in kinds:
            gap = blind_prediction(kind, x, points, schedule, prior)
            gap -= told_prediction(kind, x, t, points, schedule)
            gain = sampler_gains(kind, schedule, t)[1]
            found[kind] = jnp.abs(gain) * jnp.linalg.norm(gap, axis=-1)
        return found

    return _in_chunks(errors, min(num, _CHUNK), x)


@functools.partial(jax.jit, static_argnums=(0, 4))
def jensen_gaps(
    schedule: Schedule,
    points: jax.Array,
    prior: NoisePrior,
    noise_time: float,
    num: int,
    rng: jax.Array,
) -> dict[str, jax.Array]:
    """Returns measures of the doubt about the noise level of samples.

    Args:
      schedule: The noise schedule.
      points: The data set, [point, dim].
      prior: Prior of the noise levels.
      noise_time: 1 - t.
      num: Number of samples, a multiple of 128 or fewer.
      rng: Random key.

    Returns:
      Arrays [num]: `gap`, |sigma E[1/sigma | x] - 1| (the factor of eq. 66); `drift`,
      |x - data| |d_sigma / sigma| times that (eq. 66); `log_sd`, the standard
      deviation of log sigma given x.
    """
    x, data = noised_samples(points, schedule, noise_time, num, rng)
    _, sigma, _, d_sigma = schedule.coefficients(1.0 - noise_time)

    def gaps(x, data):
        posterior = noise_posterior(x, points, schedule, prior)
        levels = schedule.sigma(prior.times)
        gap = jnp.abs(sigma * (posterior @ (1.0 / levels)) - 1.0)
        length = jnp.linalg.norm(x - data, axis=-1)
        mean = posterior @ jnp.log(levels)
        spread = jnp.log(levels)[None] - mean[:, None]
        return {
            "gap": gap,
            "drift": length * jnp.abs(d_sigma / sigma) * gap,
            "log_sd": jnp.sqrt(jnp.sum(posterior * spread**2, axis=-1)),
        }

    return _in_chunks(gaps, min(num, _CHUNK), x, data)


@functools.partial(jax.jit, static_argnums=(0, 4))
def correction_shares(
    schedule: Schedule,
    points: jax.Array,
    prior: NoisePrior,
    noise_time: float,
    num: int,
    rng: jax.Array,
) -> jax.Array:
    """Returns |transport correction| / |field| of noise predictions, [num].

    Args:
      schedule: The noise schedule.
      points: The data set, [point, dim].
      prior: Prior of the noise levels; alpha must be positive at its nodes.
      noise_time: 1 - t.
      num: Number of samples.
      rng: Random key.
    """
    x, _ = noised_samples(points, schedule, noise_time, num, rng)
    parts = decompose_field("noise", x, points, schedule, prior)
    field = blind_prediction("noise", x, points, schedule, prior)
    return jnp.linalg.norm(parts.correction, axis=-1) / jnp.linalg.norm(field, axis=-1)


def expected_field_error(dim: int, codimension: float) -> float:
    """Returns E|chi_dim - c_k|, the error of a blind noise prediction near a point.

    The noise has length chi_dim, the blind prediction the length c_k at every
    distance. k is dim if sigma is proportional to the noise time, and dim - 1 if
    sigma is proportional to its root, as in a VP process near data.

    Args:
      dim: Dimension of the space.
      codimension: Codimension k.
    """
    length = mean_noise_length(codimension)
    return float(chi(dim).expect(lambda r: np.abs(r - length)))
