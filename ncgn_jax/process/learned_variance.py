"""Reverse variances that a network learns (Nichol & Dhariwal 2021, arXiv 2102.09672).

A DDPM step from t to t' adds a variance between two bounds, those of
`posterior_variances`. Beside its prediction the network gives a fraction f of the way
between their logarithms,

  log v = f log(forward) + (1 - f) log(posterior),

trained by the variational bound of that step with the mean held fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ncgn_jax.process.predictions import MIN_DENOMINATOR, expand_like
from ncgn_jax.process.schedules import Schedule
from ncgn_jax.process.steps import draw_normal, posterior_variances

LearnedDenoiser = Callable[
    [jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]
]

_TINY = 1e-20


def reverse_log_variance(
    schedule: Schedule, fraction: jax.Array, t: jax.Array, t_next: jax.Array
) -> jax.Array:
    """Returns log v of the step from t to t_next (arXiv 2102.09672, eq. 15).

    Where t_next has no noise the posterior variance is 0; that of the step before
    stands in for it, as published.

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

    KL(q(x_t' | x_t, data) || p(x_t' | x_t)) in bits a number, of two normal laws with
    variances `posterior` and v (arXiv 2102.09672, eq. 4 to 7; 10 to 12). For the step
    to t' without noise, the negative log density of the data instead.

    Args:
      schedule: The noise schedule.
      fraction: f, [batch, ...].
      data: Clean samples, [batch, ...].
      data_hat: Their prediction; no gradient passes to it.
      t: Current times, [batch].
      t_next: Later times, [batch].

    Returns:
      Bits, [batch].
    """
    log_v = reverse_log_variance(schedule, fraction, t, t_next)
    posterior, _ = posterior_variances(schedule, t, t_next)
    sigma_next = schedule.sigma(t_next)
    is_last = sigma_next <= MIN_DENOMINATOR
    kept = jnp.sqrt(jnp.maximum(sigma_next**2 - posterior, 0.0))
    # How far the two means lie apart for each unit that data and data_hat do.
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
    """Samples x_t' as `ancestral_step`, with the variance the network gives.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat, fraction).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Random key, or one for each row.

    Returns:
      Samples at t_next; no noise is added where sigma(t') = 0.
    """
    data_hat, noise_hat, fraction = denoise(x_t, t)
    posterior, _ = posterior_variances(schedule, t, t_next)
    sigma_next = schedule.sigma(t_next)
    kept = jnp.sqrt(jnp.maximum(sigma_next**2 - posterior, 0.0))
    mean = expand_like(schedule.alpha(t_next), x_t) * data_hat
    mean = mean + expand_like(kept, x_t) * noise_hat
    deviation = jnp.exp(0.5 * reverse_log_variance(schedule, fraction, t, t_next))
    is_last = expand_like(sigma_next <= MIN_DENOMINATOR, x_t)
    return mean + jnp.where(is_last, 0.0, deviation) * draw_normal(rng, x_t)
