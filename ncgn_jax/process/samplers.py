"""Samples from noise at t = 0 to data at t = 1, with one `lax.scan` over a time grid.

`make_denoiser` turns a network into the denoiser that samplers call, `time_grids` makes
the times, `make_sampler` the sampler (its steps are those of `steps` and `multistep`),
and `integrate` takes the steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ncgn_jax.process import naming
from ncgn_jax.process.multistep import (
    AB2,
    DPMPP_2M,
    Sampler,
    SamplerState,
    single_step,
)
from ncgn_jax.process.predictions import to_data_and_noise
from ncgn_jax.process.schedules import Schedule
from ncgn_jax.process.steps import (
    VARIANCES,
    Denoiser,
    ancestral_step,
    ddim_step,
    euler_step,
    heun_step,
    renoise_step,
)

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
    sampler: Sampler[D],
    denoise: D,
    schedule: Schedule,
    x_t: jax.Array,
    times: ArrayLike,
    rng: jax.Array,
    keep_every: int | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Walks with a sampler from the first to the last of some times.

    Args:
      sampler: The sampler.
      denoise: Its denoiser, (x_t, t [batch]) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      x_t: Samples at times[0], [batch, ...].
      times: Rising times, [num_steps + 1].
      rng: Random key of the whole walk, or one per row, [batch], which makes each row
        independent of the others.
      keep_every: If given, the path is returned too, with one state per so many steps.

    Returns:
      Samples at times[-1]; with `keep_every` also the path, [state, batch, ...]: the
      start, each keep_every-th state, and the end.

    Raises:
      ValueError: if `times` has fewer than two entries, or `keep_every` is below 1.
    """
    if keep_every is not None and keep_every < 1:
        raise ValueError(f"keep_every must be at least 1, got {keep_every}")
    legs = _legs(x_t, times)
    walk = functools.partial(_walk, sampler, denoise, schedule, rng)
    state = sampler.begin(x_t)
    if keep_every is None:
        return walk(state, legs).x
    return _walk_and_keep(walk, state, legs, keep_every)


def take_steps(
    sampler: Sampler[D],
    denoise: D,
    schedule: Schedule,
    state: SamplerState,
    times: ArrayLike,
    rng: jax.Array,
    step_offset: ArrayLike = 0,
) -> SamplerState:
    """Takes one sampler step between each pair of adjacent times.

    Step i draws from fold_in(rng, step_offset + i), and what steps remember is in the
    state. Hence a walk over times[:k+1] followed by one over times[k:] with
    step_offset = k gives the same bits as one walk over `times`.

    Args:
      sampler: The sampler.
      denoise: Its denoiser, (x_t, t [batch]) -> (data_hat, noise_hat).
      schedule: The noise schedule.
      state: State at times[0], from `sampler.begin` or from the steps before.
      times: Rising times, [num_steps + 1].
      rng: As in `integrate`, the same for all parts of a walk.
      step_offset: Number of steps done before.

    Returns:
      The state at times[-1].

    Raises:
      ValueError: if `times` has fewer than two entries.
    """
    return _walk(
        sampler, denoise, schedule, rng, state, _legs(state.x, times, step_offset)
    )


def _legs(x_t: jax.Array, times: ArrayLike, step_offset: ArrayLike = 0) -> _Legs:
    """Returns where each step begins and ends, and its number."""
    times = jnp.asarray(times, jnp.promote_types(x_t.dtype, jnp.float32))
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"times needs at least 2 entries in a row, got {times.shape}")
    return times[:-1], times[1:], jnp.arange(times.shape[0] - 1) + step_offset


def _walk(
    sampler: Sampler[D],
    denoise: D,
    schedule: Schedule,
    rng: jax.Array,
    state: SamplerState,
    legs: _Legs,
) -> SamplerState:
    """Takes some steps in a loop."""
    fold = jax.random.fold_in
    if rng.ndim:
        chex.assert_equal_shape_prefix([state.x, rng], 1)
        fold = jax.vmap(fold, in_axes=(0, None))

    def advance(state, leg):
        t, t_next, index = leg
        t, t_next = (jnp.full(state.x.shape[:1], s) for s in (t, t_next))
        found = sampler.step(denoise, schedule, state, t, t_next, fold(rng, index))
        return jax.tree.map(lambda new, old: new.astype(old.dtype), found, state), None

    if legs[0].shape[0] > 1:
        return jax.lax.scan(advance, state, legs)[0]
    # XLA would unroll a loop of one step, fold its times into constants and fuse
    # its arithmetic differently, which changes the last bits. A second step that
    # is not taken keeps it a loop; its times differ, or they would be constants.
    legs = jax.tree.map(lambda s: jnp.concatenate([s, s + 1]), legs)

    def advance_once(state, leg):
        is_first, leg = leg
        return jax.lax.cond(is_first, advance, lambda s, _: (s, None), state, leg)

    return jax.lax.scan(advance_once, state, (jnp.array([True, False]), legs))[0]


def _walk_and_keep(
    walk: Callable[[SamplerState, _Legs], SamplerState],
    state: SamplerState,
    legs: _Legs,
    keep_every: int,
) -> tuple[jax.Array, jax.Array]:
    """Walks in blocks of `keep_every` steps and keeps the samples after each."""
    num_blocks, num_left = divmod(legs[0].shape[0], keep_every)
    cut = num_blocks * keep_every

    def block(state, legs):
        state = walk(state, legs)
        return state, state.x

    blocks = jax.tree.map(lambda s: s[:cut].reshape((num_blocks, keep_every)), legs)
    path = [state.x[None]]
    state, kept = jax.lax.scan(block, state, blocks)
    path.append(kept)
    if num_left:
        state = walk(state, jax.tree.map(lambda s: s[cut:], legs))
        path.append(state.x[None])
    return state.x, jnp.concatenate(path)


def _make_heun(unrolled: bool = False) -> Sampler[Denoiser]:
    return single_step(functools.partial(heun_step, unrolled=unrolled))


def _make_ddim(eta: float = 0.0) -> Sampler[Denoiser]:
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    return single_step(functools.partial(ddim_step, eta=eta))


def _make_ancestral(variance: str = "posterior") -> Sampler[Denoiser]:
    naming.require_choice("variance", variance, VARIANCES)
    return single_step(functools.partial(ancestral_step, variance=variance))


_FACTORIES: dict[str, Callable[..., Sampler[Denoiser]]] = {
    "euler": lambda: single_step(euler_step),
    "heun": _make_heun,
    "ab2": lambda: AB2,
    "dpmpp_2m": lambda: DPMPP_2M,
    "ddim": _make_ddim,
    "ancestral": _make_ancestral,
    "renoise": lambda: single_step(renoise_step),
}
SAMPLERS = tuple(_FACTORIES)
"""Names of samplers, the values of `sample.sampler`."""
ORDERS = {"euler": 1, "heun": 2, "ab2": 2, "dpmpp_2m": 2, "ddim": 1}
"""Orders of convergence of the samplers that draw no noise."""


def make_sampler(name: str, **options: object) -> Sampler[Denoiser]:
    """Returns the sampler called `name`.

    Args:
      name: One of `SAMPLERS`.
      **options: heun: unrolled, see `heun_step`. ddim: eta in [0, 1]. ancestral:
        variance, one of `VARIANCES`.

    Returns:
      What `integrate` and `take_steps` walk with.

    Raises:
      ValueError: if the name or an option does not exist, or a value is out of range.
    """
    return naming.build_named("sampler", _FACTORIES, name, options)
