"""Learns reverse variances (Nichol & Dhariwal 2021, arXiv 2102.09672).

A DDPM step from t to t' adds a variance between the two bounds of
`posterior_variances`. Beside its prediction the network outputs the fraction f of the
way between their logarithms,

  log v = f log(forward) + (1 - f) log(posterior),

trained with the variational bound of that step while the mean is held fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from ncgn_jax.process.predictions import MIN_DENOMINATOR, expand_like
from ncgn_jax.process.schedules import Schedule
from ncgn_jax.process.steps import draw_normal, kept_noise, posterior_variances

LearnedDenoiser = Callable[
    [jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]
]

_TINY = 1e-20


def reverse_log_variance(
    schedule: Schedule, fraction: jax.Array, t: jax.Array, t_next: jax.Array
) -> jax.Array:
    """Returns log v of the step from t to t_next (arXiv 2102.09672, eq. 15).

    Where t_next has no noise the posterior variance is 0, and that of the previous
    step is used instead, as published.

    Args:
      schedule: The noise schedule.
      fraction: f, [batch, ...]; 0 gives the posterior variance, 1 the forward one.
      t: Current times, [batch].
      t_next: Later times, [batch].

    Returns:
      Logarithms, shape of `fraction`.
    """
    span = jnp.where(schedule.sigma(t_next) <= MIN_DENOMINATOR, t_next - t, 0.0)
    earlier = jnp.maximum(t - span, 0.0)
    posterior, _ = posterior_variances(schedule, earlier, t_next - span)
    _, forward = posterior_variances(schedule, t, t_next)
    low, high = (
        expand_like(jnp.log(jnp.maximum(v, _TINY)), fraction)
        for v in (posterior, forward)
    )
    return fraction * high + (1.0 - fraction) * low


def variational_bits(
    schedule: Schedule,
    fraction: jax.Array,
    data: jax.Array,
    data_hat: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
) -> jax.Array:
    """Returns the term of the variational bound that belongs to one step.

    KL(q(x_t' | x_t, data) || p(x_t' | x_t)) in bits per number, of two normal laws
    with variances `posterior` and v (arXiv 2102.09672, eq. 4 to 7; 10 to 12). The last
    step, to t' without noise, gives the negative log density of the data instead.

    Args:
      schedule: The noise schedule.
      fraction: f, [batch, ...].
      data: Clean samples, [batch, ...].
      data_hat: Prediction of `data`; no gradient passes to it.
      t: Current times, [batch].
      t_next: Later times, [batch].

    Returns:
      Bits, [batch].
    """
    chex.assert_equal_shape([fraction, data, data_hat])
    log_v = reverse_log_variance(schedule, fraction, t, t_next)
    posterior, _ = posterior_variances(schedule, t, t_next)
    sigma_next = schedule.sigma(t_next)
    is_last = sigma_next <= MIN_DENOMINATOR
    kept = kept_noise(sigma_next, posterior)
    # Distance of the two means per unit of distance between data and data_hat.
    slope = schedule.alpha(t_next) - schedule.alpha(t) * kept / schedule.sigma(t)
    apart = expand_like(slope, data) * (data - jax.lax.stop_gradient(data_hat))
    safe = jnp.where(is_last, 1.0, posterior)
    safe = expand_like(jnp.maximum(safe, _TINY), data)
    kl = log_v - jnp.log(safe) + (safe + apart**2) * jnp.exp(-log_v) - 1.0
    density = jnp.log(2 * jnp.pi) + log_v + apart**2 * jnp.exp(-log_v)
    nats = 0.5 * jnp.where(expand_like(is_last, data), density, kl)
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / jnp.log(2.0)


def learned_variance_step(
    denoise: LearnedDenoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
) -> jax.Array:
    """Samples x_t' like `ancestral_step`, with the variance from the network.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat, fraction).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Random key, or one per row.

    Returns:
      Samples at t_next; no noise is added where sigma(t') = 0.
    """
    data_hat, noise_hat, fraction = denoise(x_t, t)
    posterior, _ = posterior_variances(schedule, t, t_next)
    sigma_next = schedule.sigma(t_next)
    kept = kept_noise(sigma_next, posterior)
    mean = expand_like(schedule.alpha(t_next), x_t) * data_hat
    mean = mean + expand_like(kept, x_t) * noise_hat
    deviation = jnp.exp(0.5 * reverse_log_variance(schedule, fraction, t, t_next))
    is_last = expand_like(sigma_next <= MIN_DENOMINATOR, x_t)
    return mean + jnp.where(is_last, 0.0, deviation) * draw_normal(rng, x_t)
