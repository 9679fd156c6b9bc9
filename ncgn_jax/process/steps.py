"""Defines sampler steps, which move x_t from a time t to a later time t_next.

Each is a function

  step(denoise, schedule, x_t, t, t_next, rng) -> x_next,

where denoise(x_t, t) -> (data_hat, noise_hat), t and t_next are [batch],
t < t_next, and rng is one key or one per row, [batch]. `multistep.single_step` makes a
sampler of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from ncgn_jax.process import naming
from ncgn_jax.process.predictions import MIN_DENOMINATOR, expand_like
from ncgn_jax.process.schedules import Schedule

Denoiser = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""A network's prediction as (x_t, t) -> (data_hat, noise_hat)."""
SamplerStep = Callable[
    [Denoiser, Schedule, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array
]
"""A step (denoise, schedule, x_t, t, next t, key) -> x at the next t."""
VARIANCES = ("posterior", "forward", "none")


def draw_normal(rng: jax.Array, like: jax.Array) -> jax.Array:
    """Draws standard normal noise of the shape and type of `like`.

    Args:
      rng: One key, or one key per row of `like`, [batch], which makes a row's noise
        independent of the number of rows drawn together and of the device.
      like: Array with the shape and type of the noise, [batch, ...].

    Returns:
      Noise, shape of `like`.
    """
    if rng.ndim == 0:
        return jax.random.normal(rng, like.shape, like.dtype)
    chex.assert_equal_shape_prefix([like, rng], 1)
    draw = functools.partial(jax.random.normal, shape=like.shape[1:], dtype=like.dtype)
    return jax.vmap(draw)(rng)


def flow_velocity(
    denoise: Denoiser, schedule: Schedule, x_t: jax.Array, t: jax.Array
) -> jax.Array:
    """Returns the velocity of the probability flow, shape of `x_t`.

    u = d_alpha data_hat + d_sigma noise_hat.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Times, [batch].
    """
    data_hat, noise_hat = denoise(x_t, t)
    _, _, d_alpha, d_sigma = schedule.coefficients(t)
    return expand_like(d_alpha, x_t) * data_hat + expand_like(d_sigma, x_t) * noise_hat


def euler_step(
    denoise: Denoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
) -> jax.Array:
    """Moves along the velocity: x' = x + (t' - t) u(x, t), first order.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Not used: the step is deterministic.

    Returns:
      Samples at t_next, shape of `x_t`.
    """
    del rng
    return x_t + expand_like(t_next - t, x_t) * flow_velocity(denoise, schedule, x_t, t)


def heun_step(
    denoise: Denoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
    *,
    unrolled: bool = False,
) -> jax.Array:
    """Moves with the mean of the velocities at both ends, second order.

    x' = x + (t' - t)/2 (u(x, t) + u(x + (t' - t) u(x, t), t'))
    (Karras et al. 2022, algorithm 1). Where sigma(t') = 0 the velocity at t' is not
    known, because the sample holds no noise, and the step is Euler's. Only the last
    step is affected, so the order stays 2.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat); evaluated twice.
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Not used: the step is deterministic.
      unrolled: Whether to call `denoise` twice, as one with effects needs. Otherwise it
        is called once, in a loop of two rounds, so that it is compiled once.

    Returns:
      Samples at t_next, shape of `x_t`.
    """
    del rng
    span = expand_like(t_next - t, x_t)

    def evaluate(x, time):
        u = flow_velocity(denoise, schedule, x, time)
        return x_t + span * u, u

    if unrolled:
        x_next, u = evaluate(x_t, t)
        _, u_next = evaluate(x_next, t_next)
    else:
        _, (u, u_next) = jax.lax.scan(evaluate, x_t, jnp.stack([t, t_next]))
    is_singular = expand_like(schedule.sigma(t_next) <= MIN_DENOMINATOR, x_t)
    return x_t + span * jnp.where(is_singular, u, 0.5 * (u + u_next))


def posterior_variances(
    schedule: Schedule, t: jax.Array, t_next: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the two variances that a DDPM step from t to t_next may add.

    With r = SNR(t) / SNR(t') for any two times of any schedule, the posterior variance
    sigma(t')^2 (1 - r) is that of x_t' given x_t and data (DDPM's beta-tilde), and the
    forward variance sigma(t)^2 (1 - r) is that of x_t given x_t' (DDPM's beta).

    Args:
      schedule: The noise schedule.
      t: Current times, any shape.
      t_next: Later times, same shape.

    Returns:
      Posterior and forward variance, shape of t.
    """
    gap = -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(t_next))
    return schedule.sigma(t_next) ** 2 * gap, schedule.sigma(t) ** 2 * gap


def kept_noise(sigma_next: jax.Array, removed: jax.Array) -> jax.Array:
    """Returns the coefficient sqrt(sigma'^2 - removed) of noise_hat in a step.

    Args:
      sigma_next: sigma at the time moved to, any shape.
      removed: Part of the variance sigma'^2 not carried over from noise_hat, same
        shape; the coefficient is 0 where rounding makes it larger than sigma'^2.

    Returns:
      Coefficients, shape of `sigma_next`.
    """
    return jnp.sqrt(jnp.maximum(sigma_next**2 - removed, 0.0))


def _jump(
    denoise: Denoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
    removed: jax.Array,
    added: jax.Array | None,
) -> jax.Array:
    """Returns alpha' data_hat + kept_noise(sigma', removed) noise_hat + sqrt(added) z.

    `added` is the variance of the fresh noise z, None for none.
    """
    data_hat, noise_hat = denoise(x_t, t)
    kept = kept_noise(schedule.sigma(t_next), removed)
    mean = expand_like(schedule.alpha(t_next), x_t) * data_hat
    mean = mean + expand_like(kept, x_t) * noise_hat
    if added is None:
        return mean
    return mean + expand_like(jnp.sqrt(added), x_t) * draw_normal(rng, x_t)


def ddim_step(
    denoise: Denoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
    eta: float = 0.0,
) -> jax.Array:
    """Moves to t' as if data_hat and noise_hat were the true data and noise.

    x' = alpha' data_hat + sqrt(sigma'^2 - v) noise_hat + sqrt(v) z,
    v = eta^2 times the posterior variance (Song, Meng & Ermon 2021, eq. 12 and 16).
    eta = 0 is deterministic and first order, eta = 1 is `ancestral_step`.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Random key; not used if eta is 0.
      eta: Share of fresh noise, in [0, 1].

    Returns:
      Samples at t_next, shape of `x_t`.
    """
    if eta == 0.0:
        data_hat, noise_hat = denoise(x_t, t)
        return (
            expand_like(schedule.alpha(t_next), x_t) * data_hat
            + expand_like(schedule.sigma(t_next), x_t) * noise_hat
        )
    variance = eta**2 * posterior_variances(schedule, t, t_next)[0]
    return _jump(denoise, schedule, x_t, t, t_next, rng, variance, variance)


def ancestral_step(
    denoise: Denoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
    variance: str = "posterior",
) -> jax.Array:
    """Samples x_t' given x_t and data_hat: DDPM's step (Ho et al. 2020, eq. 7).

    It works between any two times and equals DDPM's on the schedule's own grid.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Random key; not used if variance is "none".
      variance: "posterior" (beta-tilde; exact for known data), "forward" (beta;
        exact for standard normal data) or "none" (the mean of x_t' alone, which
        shrinks the samples). No noise is added where sigma(t') = 0.

    Returns:
      Samples at t_next, shape of `x_t`.

    Raises:
      ValueError: if the variance does not exist.
    """
    naming.require_choice("variance", variance, VARIANCES)
    posterior, forward = posterior_variances(schedule, t, t_next)
    is_last = schedule.sigma(t_next) <= MIN_DENOMINATOR
    added: dict[str, jax.Array | None] = {
        "posterior": posterior,
        "forward": jnp.where(is_last, 0.0, forward),
        "none": None,
    }
    return _jump(denoise, schedule, x_t, t, t_next, rng, posterior, added[variance])


def renoise_step(
    denoise: Denoiser,
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
) -> jax.Array:
    """Predicts the data and adds new noise: x' = alpha' data_hat + sigma' z.

    It ignores noise_hat. It is exact for a consistency model, whose data_hat is a
    sample (Song et al. 2023, algorithm 1), and loses variance if data_hat is a mean.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at t, [batch, ...].
      t: Current times, [batch].
      t_next: Times to move to, [batch].
      rng: Random key.

    Returns:
      Samples at t_next, shape of `x_t`.
    """
    variance = schedule.sigma(t_next) ** 2
    return _jump(denoise, schedule, x_t, t, t_next, rng, variance, variance)
