"""Computes exact predictors for mixtures of Gaussians and for finite data sets.

For data from sum_k w_k N(mu_k, s^2 I) everything a network could learn is known.
With V = alpha^2 s^2 + sigma^2, r_k ~ w_k N(x_t; alpha mu_k, V I), m = sum_k r_k mu_k,

  data_hat  = m + (alpha s^2 / V) (x_t - alpha m)
  noise_hat = (sigma / V) (x_t - alpha m).

A finite data set has s = 0 and one mode per point.

Example: half way between two equally likely points the prediction is their mean.

>>> from ncgn_jax.process import make_schedule
>>> schedule = make_schedule("linear")
>>> denoise = mixture_denoiser([[-1.0], [1.0]], [0.5, 0.5], 0.0, schedule)
>>> print(denoise(jnp.zeros((1, 1)), jnp.array([0.5]))[0])
[[0.]]
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ncgn_jax.process import Denoiser, Schedule, expand_like


def mixture_denoiser(
    means: ArrayLike, weights: ArrayLike, std: float, schedule: Schedule
) -> Denoiser:
    """Returns the exact (x_t, t [batch]) -> (data_hat, noise_hat) of a mixture.

    Args:
      means: Means of the modes, [mode, dim].
      weights: Weights of the modes, [mode], positive, sum 1.
      std: Standard deviation within each mode, at least 0.
      schedule: The noise schedule; where std and sigma are both 0 noise_hat is
        not defined.
    """
    means = jnp.asarray(means)

    def denoise(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        alpha, sigma, _, _ = schedule.coefficients(t)
        alpha, sigma = expand_like(alpha, x_t), expand_like(sigma, x_t)
        shares = jax.nn.softmax(_log_joint(x_t, t, means, weights, std, schedule))
        centre = shares @ means
        variance = (alpha * std) ** 2 + sigma**2
        offset = (x_t - alpha * centre) / variance
        return centre + alpha * std**2 * offset, sigma * offset

    return denoise


def mixture_log_density(
    x_t: jax.Array,
    t: jax.Array,
    means: ArrayLike,
    weights: ArrayLike,
    std: float,
    schedule: Schedule,
) -> jax.Array:
    """Returns log p_t(x_t) of a mixture, nats, [batch].

    Args:
      x_t: Noisy samples, [batch, dim].
      t: Times, [batch]; alpha std and sigma may not both be 0.
      means: Means of the modes, [mode, dim].
      weights: Weights of the modes, [mode], positive, sum 1.
      std: Standard deviation within each mode, at least 0.
      schedule: The noise schedule.
    """
    means = jnp.asarray(means)
    joint = _log_joint(x_t, t, means, weights, std, schedule)
    return jax.nn.logsumexp(joint, axis=-1)


def _log_joint(x_t, t, means, weights, std, schedule):
    """Returns the log of w_k N(x_t; alpha mu_k, V I), [batch, mode]."""
    alpha, sigma, _, _ = schedule.coefficients(t)
    variance = (alpha * std) ** 2 + sigma**2
    gaps = x_t[:, None, :] - alpha[:, None, None] * means[None]
    squares = jnp.sum(gaps**2, axis=-1) / variance[:, None]
    scale = x_t.shape[-1] * jnp.log(2 * jnp.pi * variance)[:, None]
    return jnp.log(jnp.asarray(weights))[None] - 0.5 * (squares + scale)
