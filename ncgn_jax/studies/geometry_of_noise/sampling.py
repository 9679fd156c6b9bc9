"""Samples two circles with exact models, with and without the noise level as input.

Points on two concentric circles lie in a plane of a space of `dim` dimensions, so that
data of a low dimension meet noise of a high one. Every way of sampling is one walk of
`process.integrate`; a blind model is a predictor that ignores t.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.process import (
    Denoiser,
    Sampler,
    SamplerStep,
    Schedule,
    integrate,
    make_denoiser,
    make_sampler,
    make_time_grid,
    single_step,
)
from ncgn_jax.studies.geometry_of_noise.blind_fields import (
    NoisePrior,
    blind_prediction,
    told_prediction,
)

RADII = (1.0, 0.5)
DESCENT_STEP = 0.1


class Circles(NamedTuple):
    """Points on concentric circles in a plane of a larger space.

    Attributes:
      points: The data set, [point, dim].
      frame: Orthonormal basis of the plane, [dim, 2].
    """

    points: jax.Array
    frame: jax.Array


def make_circles(num_points: int, dim: int, rng: jax.Array) -> Circles:
    """Returns evenly spaced points on circles of the radii `RADII`, in a random plane.

    Args:
      num_points: Number of points of all circles, divided evenly between them.
      dim: Dimension of the space, at least 2.
      rng: Random key of the plane.

    Raises:
      ValueError: If the points do not divide evenly, or dim is below 2.
    """
    if num_points % len(RADII) or dim < 2:
        raise ValueError(
            f"need num_points divisible by {len(RADII)} and dim >= 2, got "
            f"{num_points}, {dim}"
        )
    angles = jnp.linspace(0, 2 * jnp.pi, num_points // len(RADII), endpoint=False)
    unit = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    flat = jnp.concatenate([radius * unit for radius in RADII])
    frame, _ = jnp.linalg.qr(jax.random.normal(rng, (dim, 2)))
    return Circles(flat @ frame.T, frame)


class Distances(NamedTuple):
    """Distances of samples from the circles, each [batch].

    Attributes:
      full: Distance to the nearest circle (the curve, not its points).
      in_plane: The same after projection onto the plane.
      nearest: Index of that circle in `RADII`.
    """

    full: jax.Array
    in_plane: jax.Array
    nearest: jax.Array


def circle_distances(x: jax.Array, frame: jax.Array) -> Distances:
    """Returns the distances of samples from the circles.

    Args:
      x: Samples, [batch, dim].
      frame: Basis of the plane, [dim, 2].
    """
    flat = x @ frame
    off_plane = jnp.sum((x - flat @ frame.T) ** 2, axis=-1)
    radius = jnp.linalg.norm(flat, axis=-1)
    gaps = jnp.abs(radius[:, None] - jnp.asarray(RADII)[None])
    in_plane = jnp.min(gaps, axis=-1)
    full = jnp.sqrt(in_plane**2 + off_plane)
    return Distances(full, in_plane, jnp.argmin(gaps, axis=-1))


class Way(NamedTuple):
    """Describes one way of sampling.

    Attributes:
      kind: Target of the model, one of `blind_fields.FIELD_KINDS`.
      process: Name of the schedule, "FM" (linear) or "VP".
      step: A sampler of `process.SAMPLERS`, or "descent".
      is_blind: Whether the model lacks t.
    """

    kind: str
    process: str
    step: str
    is_blind: bool


WAYS = {
    "told velocity FM": Way("velocity", "FM", "euler", False),
    "told noise VP": Way("noise", "VP", "ddim", False),
    "blind velocity FM": Way("velocity", "FM", "euler", True),
    "blind noise VP": Way("noise", "VP", "ddim", True),
    "blind noise VP, Euler": Way("noise", "VP", "euler", True),
    "blind data VP": Way("data", "VP", "ddim", True),
    "blind equilibrium": Way("equilibrium", "FM", "descent", True),
    "blind noise FM": Way("noise", "FM", "euler", True),
}


def make_descent(field: Callable[[jax.Array], jax.Array], size: float) -> SamplerStep:
    """Returns x' = x - size field(x) as a sampler step.

    This is equilibrium matching's gradient descent, without times or a denoiser.

    Args:
      field: (x [batch, dim]) -> the gradient, same shape.
      size: Step size.
    """

    def step(
        denoise: Denoiser,
        schedule: Schedule,
        x_t: jax.Array,
        t: jax.Array,
        t_next: jax.Array,
        rng: jax.Array,
    ) -> jax.Array:
        del denoise, schedule, t, t_next, rng
        return x_t - size * field(x_t)

    return step


def make_way(
    way: Way,
    data: jax.Array,
    schedule: Schedule,
    prior: NoisePrior,
    blind_from: ArrayLike | None = None,
) -> tuple[Sampler[Denoiser], Denoiser]:
    """Returns the sampler and the denoiser of a way of sampling.

    Args:
      way: The way.
      data: The data set, [point, dim].
      schedule: The noise schedule that goes with it.
      prior: Prior of the noise levels a blind model was trained on.
      blind_from: If given, a blind model sees all times before this one.
    """

    def blind(x, t):
        del t
        return blind_prediction(way.kind, x, data, schedule, prior)

    def told(x, t):
        return told_prediction(way.kind, x, t, data, schedule)

    def told_at_first(x, t):
        return jnp.where((t < blind_from)[:, None], told(x, t), blind(x, t))

    if way.step == "descent":
        return single_step(make_descent(lambda x: blind(x, None), DESCENT_STEP)), blind
    predict = told
    if way.is_blind:
        predict = blind if blind_from is None else told_at_first
    denoise = make_denoiser(predict, way.kind, schedule)
    return make_sampler(way.step), denoise


def walk(
    way: Way,
    start: jax.Array,
    data: jax.Array,
    schedule: Schedule,
    prior: NoisePrior,
    num_steps: int,
    blind_from: ArrayLike | None = None,
    keep_every: int | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Samples in one way, over evenly spaced times, deterministically.

    Args:
      way: The way.
      start: Samples at t = 0, [batch, dim].
      data: The data set, [point, dim].
      schedule: The noise schedule that goes with it.
      prior: Prior of the noise levels a blind model was trained on.
      num_steps: Number of steps from t = 0 to t = 1.
      blind_from: If given, a blind model sees all times before this one.
      keep_every: If given, the path is returned as well, every so many steps.

    Returns:
      Samples, or samples and path, as from `process.integrate`.
    """
    sampler, denoise = make_way(way, data, schedule, prior, blind_from)
    times = make_time_grid("uniform", num_steps)
    unused = jax.random.key(0)
    return integrate(sampler, denoise, schedule, start, times, unused, keep_every)


def summarise(distances: Distances, num_draws: int) -> dict[str, float]:
    """Summarises the distances of samples for the tables.

    Args:
      distances: Distances of all draws, one after the other, [draw * batch].
      num_draws: Number of draws.

    Returns:
      `rms` (mean over draws of each draw's root mean square) and `rms_sd` over
      draws; of all samples `median`, `p95`, `share` within 0.05 of a circle, `outer`
      (share within 0.05 of the outer one), `in_plane` and `in_plane_share` (median,
      and share within 0.05, in the plane).
    """
    full, in_plane, nearest = (np.asarray(d) for d in distances)
    rms = np.sqrt(np.mean(full.reshape(num_draws, -1) ** 2, axis=-1))
    is_close = full < 0.05
    return {
        "rms": rms.mean(),
        "rms_sd": rms.std(ddof=1) if num_draws > 1 else np.nan,
        "median": np.median(full),
        "p95": np.quantile(full, 0.95),
        "share": is_close.mean(),
        "outer": (is_close & (nearest == 0)).mean(),
        "in_plane": np.median(in_plane),
        "in_plane_share": (in_plane < 0.05).mean(),
    }
