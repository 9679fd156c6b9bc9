"""Sampling two circles with exact models that are, or are not, told the noise level.

Points on two concentric circles lie in a plane of a space of `dim` dimensions: data
of a low dimension, seen through noise of a high one. Every way of sampling is one
walk of `process.integrate`; a blind model is a predictor that ignores t.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.process import (
    Denoiser,
    SamplerStep,
    Schedule,
    integrate,
    make_denoiser,
    make_sampler_step,
    make_time_grid,
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
      num_points: Of all circles together; each gets its share.
      dim: Dimension of the space, at least 2.
      rng: Random key of the plane.

    Raises:
      ValueError: if the points do not divide evenly, or dim is below 2.
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
    """How far samples are from the circles, each [batch].

    Attributes:
      full: To the nearest circle (the curve, not its points).
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
    """One way of sampling.

    Attributes:
      kind: What the model predicts, one of `blind_fields.FIELD_KINDS`.
      process: Which schedule: "FM" (linear) or "VP".
      step: A sampler of `process.SAMPLERS`, or "descent".
      is_blind: Whether t is withheld.
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
    """Returns x' = x - size field(x) as a sampler step, so that `integrate` walks it.

    (Equilibrium matching's gradient descent: it has neither times nor a denoiser.)

    Args:
      field: (x [batch, dim]) -> the gradient, same shape.
      size: Of the step.
    """

    def step(denoise, schedule, x_t, t, t_next, rng):
        del denoise, schedule, t, t_next, rng
        return x_t - size * field(x_t)

    return step


def make_way(
    way: Way,
    data: jax.Array,
    schedule: Schedule,
    prior: NoisePrior,
    blind_from: ArrayLike | None = None,
) -> tuple[SamplerStep, Denoiser]:
    """Returns the step and the denoiser of a way of sampling.

    Args:
      way: The way.
      data: The data set, [point, dim].
      schedule: The noise schedule that goes with it.
      prior: Of the noise levels a blind model was trained on.
      blind_from: If given, a blind model is told all times before this one.
    """

    def blind(x, t):
        del t
        return blind_prediction(way.kind, x, data, schedule, prior)

    def told(x, t):
        return told_prediction(way.kind, x, t, data, schedule)

    def told_at_first(x, t):
        return jnp.where((t < blind_from)[:, None], told(x, t), blind(x, t))

    if way.step == "descent":
        return make_descent(lambda x: blind(x, None), DESCENT_STEP), blind
    predict = told
    if way.is_blind:
        predict = blind if blind_from is None else told_at_first
    denoise = make_denoiser(predict, way.kind, schedule)
    return make_sampler_step(way.step), denoise


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
    """Samples in a way, over evenly spaced times; deterministic.

    Args:
      way: The way.
      start: Samples at t = 0, [batch, dim].
      data: The data set, [point, dim].
      schedule: The noise schedule that goes with it.
      prior: Of the noise levels a blind model was trained on.
      num_steps: From t = 0 to t = 1.
      blind_from: If given, a blind model is told all times before this one.
      keep_every: If given, return the path as well.

    Returns:
      As `process.integrate`.
    """
    step, denoise = make_way(way, data, schedule, prior, blind_from)
    times = make_time_grid("uniform", num_steps)
    unused = jax.random.key(0)
    return integrate(
        step, denoise, schedule, start, times, unused, keep_every=keep_every
    )


def summarise(distances: Distances, num_draws: int) -> dict[str, float]:
    """Returns what the tables say of samples.

    Args:
      distances: Of all draws, one after the other, [draw * batch].
      num_draws: Draws whose spread is wanted.

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
