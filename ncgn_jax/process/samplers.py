"""Samples from noise at t = 0 to data at t = 1, with one `lax.scan` over a time grid.

`make_denoiser` turns a network into the denoiser that the steps of `steps` call,
`time_grids` makes the times, and `integrate` takes the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ncgn_jax.process.predictions import to_data_and_noise
from ncgn_jax.process.schedules import Schedule
from ncgn_jax.process.steps import Denoiser

D = TypeVar("D")
_Legs = tuple[jax.Array, jax.Array, jax.Array]


def make_denoiser(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    kind: str,
    schedule: Schedule,
    data_limit: float | None = None,
) -> Denoiser:
    """Turns a network into the denoiser that the samplers call.

    Args:
      predict: Network, (x_t, t [batch]) -> prediction of the shape of x_t.
      kind: Kind of prediction, one of `PREDICTION_KINDS`.
      schedule: The noise schedule.
      data_limit: If given, data_hat is clipped to +-data_limit and noise_hat is made
        to agree with it. This bounds noise predictions where alpha is nearly 0.

    Returns:
      denoise(x_t, t) -> (data_hat, noise_hat).

    Raises:
      ValueError: if `data_limit` is not positive. An unknown kind raises when used.
    """
    if data_limit is not None and not data_limit > 0:
        raise ValueError(f"data_limit must be positive, got {data_limit}")

    def denoise(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        pair = to_data_and_noise(kind, predict(x_t, t), x_t, schedule, t)
        if data_limit is None:
            return pair
        data_hat = jnp.clip(pair[0], -data_limit, data_limit)
        return to_data_and_noise("data", data_hat, x_t, schedule, t)

    return denoise


def sample_prior(
    schedule: Schedule,
    rng: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = float,
) -> jax.Array:
    """Draws the noise that sampling starts from, x_t at t = 0.

    It is normal with variance alpha(0)^2 + sigma(0)^2, that of x_0 for data of unit
    variance, which is 1 for all schedules but `ve`.

    Args:
      schedule: The noise schedule.
      rng: Random key.
      shape: Shape of the samples.
      dtype: Type of the samples.

    Returns:
      Samples of the given shape.
    """
    alpha, sigma, _, _ = schedule.coefficients(0.0)
    scale = jnp.sqrt(alpha**2 + sigma**2).astype(dtype)
    return scale * jax.random.normal(rng, shape, dtype)


def integrate(
    step: Callable[
        [D, Schedule, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array
    ],
    denoise: D,
    schedule: Schedule,
    x_t: jax.Array,
    times: ArrayLike,
    rng: jax.Array,
    step_offset: ArrayLike = 0,
    keep_every: int | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Takes one sampler step between each pair of adjacent times.

    Step i draws from fold_in(rng, step_offset + i) and nothing else. Hence a walk over
    times[:k+1] followed by one over times[k:] with step_offset = k gives the same bits
    as one walk over `times`.

    Args:
      step: The sampler step.
      denoise: The denoiser of that step, (x_t, t [batch]) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at times[0], [batch, ...].
      times: Rising times, [num_steps + 1].
      rng: Random key of the whole walk, or one per row, [batch], which makes each row
        independent of the others.
      step_offset: Number of steps done before.
      keep_every: If given, the path is returned too, with one state per so many steps.

    Returns:
      Samples at times[-1]; with `keep_every` also the path, [state, batch, ...]: the
      start, each keep_every-th state, and the end.

    Raises:
      ValueError: if `times` has fewer than two entries, or `keep_every` is below 1.
    """
    dtype = jnp.promote_types(x_t.dtype, jnp.float32)
    times = jnp.asarray(times, dtype)
    if rng.ndim:
        chex.assert_equal_shape_prefix([x_t, rng], 1)
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"times needs at least 2 entries in a row, got {times.shape}")
    if keep_every is not None and keep_every < 1:
        raise ValueError(f"keep_every must be at least 1, got {keep_every}")
    num_steps = times.shape[0] - 1
    legs = (times[:-1], times[1:], jnp.arange(num_steps) + step_offset)

    fold = jax.random.fold_in
    if rng.ndim:
        fold = jax.vmap(fold, in_axes=(0, None))

    def advance(x, leg):
        t, t_next, index = leg
        t, t_next = (jnp.full(x.shape[:1], s) for s in (t, t_next))
        key = fold(rng, index)
        return step(denoise, schedule, x, t, t_next, key).astype(x.dtype), None

    def walk(x, legs):
        if legs[0].shape[0] > 1:
            return jax.lax.scan(advance, x, legs)[0]
        # XLA would unroll a loop of one step, fold its times into constants and fuse
        # its arithmetic differently, which changes the last bits. A second step that
        # is not taken keeps it a loop; its times differ, or they would be constants.
        legs = jax.tree.map(lambda s: jnp.concatenate([s, s + 1]), legs)

        def advance_once(x, leg):
            is_first, leg = leg
            return jax.lax.cond(is_first, advance, lambda x, _: (x, None), x, leg)

        return jax.lax.scan(advance_once, x, (jnp.array([True, False]), legs))[0]

    if keep_every is None:
        return walk(x_t, legs)
    return _walk_and_keep(walk, x_t, legs, num_steps, keep_every)


def _walk_and_keep(
    walk: Callable[[jax.Array, _Legs], jax.Array],
    x_t: jax.Array,
    legs: _Legs,
    num_steps: int,
    keep_every: int,
) -> tuple[jax.Array, jax.Array]:
    """Walks in blocks of `keep_every` steps and keeps the state after each."""
    num_blocks, num_left = divmod(num_steps, keep_every)
    cut = num_blocks * keep_every

    def block(x, legs):
        x = walk(x, legs)
        return x, x

    blocks = jax.tree.map(lambda s: s[:cut].reshape((num_blocks, keep_every)), legs)
    x, kept = jax.lax.scan(block, x_t, blocks)
    path = [x_t[None], kept]
    if num_left:
        x = walk(x, jax.tree.map(lambda s: s[cut:], legs))
        path.append(x[None])
    return x, jnp.concatenate(path)
