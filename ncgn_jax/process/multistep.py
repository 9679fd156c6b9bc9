"""Defines samplers that remember the step before, and what all samplers are.

A sampler's state is x_t with a history, a tree of arrays [batch, ...] that is empty
where steps need nothing but x_t. It is carried from step to step and from stretch to
stretch, so that a walk gives the same bits however it is cut.

`ab2` and `dpmpp_2m` are second order with one evaluation of the network per step,
where Heun's rule takes two. Both extrapolate what the network said at the step before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ncgn_jax.process.predictions import MIN_DENOMINATOR, expand_like
from ncgn_jax.process.schedules import Schedule
from ncgn_jax.process.steps import Denoiser, flow_velocity

D = TypeVar("D")
Tree = Any


class SamplerState(NamedTuple):
    """What a sampler carries from step to step.

    Attributes:
      x: Samples, [batch, ...].
      history: Tree of what else it remembers, leaves [batch, ...]; () for nothing.
    """

    x: jax.Array
    history: Tree = ()


class Sampler(NamedTuple, Generic[D]):
    """A rule of steps, with what it remembers between them.

    Attributes:
      begin: begin(x) returns the state before the first step.
      step: step(denoise, schedule, state, t, t_next, rng) returns the state at t_next;
        t and t_next are [batch], rng is one key or one per row.
    """

    begin: Callable[[jax.Array], SamplerState]
    step: Callable[
        [D, Schedule, SamplerState, jax.Array, jax.Array, jax.Array], SamplerState
    ]


class Previous(NamedTuple):
    """What the network said at the step before.

    Attributes:
      value: Velocity or data_hat, shape of x.
      t: When, [batch]; -inf before the first step.
    """

    value: jax.Array
    t: jax.Array


def single_step(
    rule: Callable[
        [D, Schedule, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array
    ],
) -> Sampler[D]:
    """Returns the sampler whose steps follow a rule and remember nothing.

    Args:
      rule: rule(denoise, schedule, x_t, t, t_next, rng) returns x at t_next.
    """

    def step(denoise, schedule, state, t, t_next, rng):
        return SamplerState(rule(denoise, schedule, state.x, t, t_next, rng))

    return Sampler(SamplerState, step)


def _begin(x: jax.Array) -> SamplerState:
    """Returns the state before the first step, which knows of no step before."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    never = jnp.full(x.shape[:1], -jnp.inf, dtype)
    return SamplerState(x, Previous(jnp.zeros_like(x), never))


def _ratio(span: jax.Array, before: jax.Array) -> jax.Array:
    """Returns span / before, and 0, for a step of first order, where it has no value.

    So it is before the first step, and where either reaches to infinity.
    """
    is_known = jnp.isfinite(span) & jnp.isfinite(before) & (before != 0)
    return jnp.where(is_known, span / jnp.where(is_known, before, 1.0), 0.0)


def adams_bashforth_step(
    denoise: Denoiser,
    schedule: Schedule,
    state: SamplerState,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
) -> SamplerState:
    """Moves along the velocity at the middle of the step, extrapolated from two.

    x' = x + (t' - t) (u + r/2 (u - u_before)),  r = (t' - t) / (t - t_before)
    (Adams-Bashforth of second order for steps of any length: Hairer, Norsett & Wanner
    1993, Solving Ordinary Differential Equations I, section III.5). The first step is
    Euler's.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat); evaluated once.
      schedule: The noise schedule.
      state: Samples at t, with the velocity at the step before.
      t: Current times, [batch].
      t_next: Times to move to, [batch]; earlier ones on the way back to noise.
      rng: Not used: the step is deterministic.

    Returns:
      Samples at t_next, with the velocity at t.
    """
    del rng
    x, before = state.x, state.history
    u = flow_velocity(denoise, schedule, x, t)
    ratio = expand_like(_ratio(t_next - t, t - before.t), x)
    middle = u + 0.5 * ratio * (u - before.value)
    x_next = x + expand_like(t_next - t, x) * middle
    return SamplerState(x_next, Previous(u, t))


def _end_to_end_log_snr(schedule: Schedule, t: jax.Array) -> jax.Array:
    """Returns the log-SNR, infinite where there is no data or no noise."""
    log_snr = schedule.log_snr(t)
    log_snr = jnp.where(schedule.alpha(t) <= MIN_DENOMINATOR, -jnp.inf, log_snr)
    return jnp.where(schedule.sigma(t) <= MIN_DENOMINATOR, jnp.inf, log_snr)


def dpm_solver_step(
    denoise: Denoiser,
    schedule: Schedule,
    state: SamplerState,
    t: jax.Array,
    t_next: jax.Array,
    rng: jax.Array,
) -> SamplerState:
    """Moves with data_hat extrapolated in log-SNR: DPM-Solver++(2M).

    With l = log(alpha / sigma) and r = (l' - l) / (l - l_before),

      x' = sigma'/sigma x + (alpha' - alpha sigma'/sigma) D,
      D = data_hat + r/2 (data_hat - data_hat_before)

    (Lu et al. 2022, arXiv 2211.01095, algorithm 2, whose r_i is 1 / r). It is written
    as DDIM's step, alpha' data_hat + sigma' noise_hat, and a correction, which is
    exact at both ends: where l, l' or l_before is infinite, because there is no data
    or no noise, the correction is 0 and the step is DDIM's, as is the first. The error
    falls as the square of the steps in l. Those of a grid that is even in t do not get
    shorter next to an infinite end, which leaves h^2 log(1 / h) for steps h in t.

    Args:
      denoise: (x_t, t) -> (data_hat, noise_hat); evaluated once.
      schedule: The noise schedule.
      state: Samples at t, with data_hat at the step before.
      t: Current times, [batch].
      t_next: Times to move to, [batch]; earlier ones on the way back to noise.
      rng: Not used: the step is deterministic.

    Returns:
      Samples at t_next, with data_hat at t.
    """
    del rng
    x, before = state.x, state.history
    data_hat, noise_hat = denoise(x, t)
    # Heat has an alpha for each mode, so all that times give is widened first.
    alpha, sigma, alpha_next, sigma_next = (
        expand_like(coefficient(time), x)
        for time in (t, t_next)
        for coefficient in (schedule.alpha, schedule.sigma)
    )
    # Schedules have no value at -inf.
    is_first = jnp.isinf(before.t)
    t_before = jnp.where(is_first, t, before.t)
    now, after, then = (
        expand_like(_end_to_end_log_snr(schedule, time), x)
        for time in (t, t_next, t_before)
    )
    ratio = _ratio(
        after - now, jnp.where(expand_like(is_first, x), jnp.inf, now - then)
    )
    is_clean = sigma <= MIN_DENOMINATOR
    shrink = jnp.where(is_clean, 0.0, sigma_next / jnp.where(is_clean, 1.0, sigma))
    x_next = (
        alpha_next * data_hat
        + sigma_next * noise_hat
        + 0.5 * ratio * (alpha_next - alpha * shrink) * (data_hat - before.value)
    )
    return SamplerState(x_next, Previous(data_hat, t))


AB2: Sampler[Denoiser] = Sampler(_begin, adams_bashforth_step)
DPMPP_2M: Sampler[Denoiser] = Sampler(_begin, dpm_solver_step)
