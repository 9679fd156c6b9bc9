"""Converts between the kinds of prediction that a network can make.

Given x_t = alpha data + sigma noise, any one of the four targets determines the
others. All conversions go through one pivot, the pair (data_hat, noise_hat):

  velocity = d_alpha data + d_sigma noise      (dx_t/dt; Lipman et al. 2023)
  score    = -noise / sigma                    (grad log p_t; Song et al. 2021)

"Velocity" is the time derivative of x_t, not the v = alpha noise - sigma data of
Salimans & Ho (2022).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ncgn_jax.process import naming
from ncgn_jax.process.schedules import Schedule

PREDICTION_KINDS = ("data", "noise", "velocity", "score")
"""What a network may predict, the values of `process.target`."""

# Denominators (alpha, sigma) no larger than this count as zero.
MIN_DENOMINATOR = 1e-7


def expand_like(t: ArrayLike, x: jax.Array) -> jax.Array:
    """Appends axes of length 1 to t until it has the rank of x.

    Args:
      t: One value per example, [batch], or a scalar.
      x: Array whose leading axis is the batch, [batch, ...].

    Returns:
      t as [batch, 1, ..., 1], which broadcasts against x; a scalar stays one.
    """
    t = jnp.asarray(t)
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def _divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Divides, with 0 and finite gradients where the denominator vanishes."""
    is_zero = jnp.abs(denominator) <= MIN_DENOMINATOR
    return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1.0, denominator))


def _coefficients(
    schedule: Schedule, t: ArrayLike, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the schedule's four coefficients at t, shaped to broadcast with x."""
    alpha, sigma, d_alpha, d_sigma = schedule.coefficients(t)
    return (
        expand_like(alpha, x),
        expand_like(sigma, x),
        expand_like(d_alpha, x),
        expand_like(d_sigma, x),
    )


def interpolate(
    schedule: Schedule, t: ArrayLike, data: jax.Array, noise: jax.Array
) -> jax.Array:
    """Mixes data and noise: x_t = alpha(t) * data + sigma(t) * noise.

    Args:
      schedule: The noise schedule.
      t: Times, [batch] or scalar, 0 = noise, 1 = data.
      data: Clean samples, [batch, ...].
      noise: Standard normal of the same shape.

    Returns:
      x_t, shape of `data`. Entries zero in both stay zero.
    """
    chex.assert_equal_shape([data, noise])
    alpha, sigma, _, _ = _coefficients(schedule, t, data)
    return alpha * data + sigma * noise


def make_target(
    kind: str, schedule: Schedule, t: ArrayLike, data: jax.Array, noise: jax.Array
) -> jax.Array:
    """Returns the regression target at x_t of a network of this kind.

    Args:
      kind: One of `PREDICTION_KINDS`.
      schedule: The noise schedule.
      t: Times, [batch] or scalar.
      data: Clean samples, [batch, ...].
      noise: Standard normal of the same shape.

    Returns:
      The target, shape of `data`. The score, -noise / sigma, is unbounded as
      sigma -> 0; where sigma = 0 the target is 0.

    Raises:
      ValueError: if `kind` does not exist.
    """
    naming.require_choice("prediction kind", kind, PREDICTION_KINDS)
    chex.assert_equal_shape([data, noise])
    if kind == "data":
        return data
    if kind == "noise":
        return noise
    _, sigma, d_alpha, d_sigma = _coefficients(schedule, t, data)
    if kind == "velocity":
        return d_alpha * data + d_sigma * noise
    return _divide(-noise, sigma)


def linear_skip(
    kind: str, schedule: Schedule, t: ArrayLike, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Splits a target into a part linear in x_t and a rest of known size.

    For data of mean square 1 and target a data + b noise, the prediction
    skip x_t + scale * output has, at output 0, the least error of any multiple of x_t:

      skip = (a alpha + b sigma) / (alpha^2 + sigma^2),
      scale = |a sigma - b alpha| / sqrt(alpha^2 + sigma^2),

    and the ideal output has mean square 1 at every noise level (Karras et al. 2022,
    arXiv 2206.00364, equations 7 and 8, for every schedule and target). The network
    then need not carry the noise of x_t from its input to its output.

    Args:
      kind: Kind of prediction, one of `PREDICTION_KINDS`.
      schedule: The noise schedule.
      t: Times, [batch] or scalar.
      x: Array that both broadcast against, [batch, ...].

    Returns:
      skip and scale; both 0 for the score where sigma = 0.

    Raises:
      ValueError: if `kind` does not exist.
    """
    naming.require_choice("prediction kind", kind, PREDICTION_KINDS)
    alpha, sigma, d_alpha, d_sigma = _coefficients(schedule, t, x)
    factors: dict[str, tuple[float | jax.Array, float | jax.Array]] = {
        "data": (1.0, 0.0),
        "noise": (0.0, 1.0),
        "velocity": (d_alpha, d_sigma),
        "score": (0.0, _divide(-jnp.ones_like(sigma), sigma)),
    }
    a, b = factors[kind]
    variance = alpha**2 + sigma**2
    scale = jnp.abs(a * sigma - b * alpha) / jnp.sqrt(variance)
    return (a * alpha + b * sigma) / variance, scale


def to_data_and_noise(
    kind: str, prediction: jax.Array, x_t: jax.Array, schedule: Schedule, t: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Turns a prediction of any kind into the pair (data_hat, noise_hat).

    From velocity u, with w = alpha d_sigma - sigma d_alpha (0 only for modes that heat
    has removed):
      data_hat = (d_sigma x_t - sigma u) / w,  noise_hat = (alpha u - d_alpha x_t) / w.

    Args:
      kind: Kind of `prediction`, one of `PREDICTION_KINDS`.
      prediction: Output of the network, shape of `x_t`.
      x_t: Noisy samples, [batch, ...].
      schedule: The noise schedule.
      t: Times, [batch] or scalar.

    Returns:
      data_hat and noise_hat with x_t = alpha data_hat + sigma noise_hat. Three cases
      have no answer and give 0, the mean of standardised data or noise: data_hat from
      noise or score where alpha = 0 (t = 0 of some schedules), noise_hat from data
      where sigma = 0 (t = 1), and both from velocity where w = 0. No result is inf or
      nan.

    Raises:
      ValueError: if `kind` does not exist.
    """
    naming.require_choice("prediction kind", kind, PREDICTION_KINDS)
    chex.assert_equal_shape([prediction, x_t])
    alpha, sigma, d_alpha, d_sigma = _coefficients(schedule, t, x_t)
    if kind == "data":
        return prediction, _divide(x_t - alpha * prediction, sigma)
    if kind == "velocity":
        wronskian = alpha * d_sigma - sigma * d_alpha
        data_hat = _divide(d_sigma * x_t - sigma * prediction, wronskian)
        return data_hat, _divide(alpha * prediction - d_alpha * x_t, wronskian)
    noise_hat = prediction if kind == "noise" else -sigma * prediction
    return _divide(x_t - sigma * noise_hat, alpha), noise_hat


def to_velocity(
    kind: str, prediction: jax.Array, x_t: jax.Array, schedule: Schedule, t: ArrayLike
) -> jax.Array:
    """Turns a prediction into the velocity d_alpha data_hat + d_sigma noise_hat.

    Args:
      kind: Kind of `prediction`, one of `PREDICTION_KINDS`.
      prediction: Output of the network, shape of `x_t`.
      x_t: Noisy samples, [batch, ...].
      schedule: The noise schedule.
      t: Times, [batch] or scalar.

    Returns:
      Velocity dx_t/dt, shape of `x_t`. It is finite at both ends, where the parts
      without an answer in `to_data_and_noise` are 0.

    Raises:
      ValueError: if `kind` does not exist.
    """
    if kind == "velocity":
        return prediction
    data_hat, noise_hat = to_data_and_noise(kind, prediction, x_t, schedule, t)
    _, _, d_alpha, d_sigma = _coefficients(schedule, t, x_t)
    return d_alpha * data_hat + d_sigma * noise_hat


def to_score(
    kind: str, prediction: jax.Array, x_t: jax.Array, schedule: Schedule, t: ArrayLike
) -> jax.Array:
    """Turns a prediction into the score grad log p_t(x_t) = -noise_hat / sigma.

    Args:
      kind: Kind of `prediction`, one of `PREDICTION_KINDS`.
      prediction: Output of the network, shape of `x_t`.
      x_t: Noisy samples, [batch, ...].
      schedule: The noise schedule.
      t: Times, [batch] or scalar.

    Returns:
      Score, shape of `x_t`; 0 where sigma = 0, unless a score was predicted.

    Raises:
      ValueError: if `kind` does not exist.
    """
    if kind == "score":
        return prediction
    _, noise_hat = to_data_and_noise(kind, prediction, x_t, schedule, t)
    _, sigma, _, _ = _coefficients(schedule, t, x_t)
    return _divide(-noise_hat, sigma)
