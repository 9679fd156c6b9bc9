"""Reduces sampling of two Gaussians in d dimensions to one dimension, exactly.

The data is p N(r, s^2 I) + (1 - p) N(-r, s^2 I) with |r|^2 = d (arXiv 2501.00988).
With V = sigma^2 + s^2 alpha^2 and h = log(p / (1 - p)) / 2 its velocity is

  u(x, t) = g x + q tanh(h + alpha r.x / V) r,
  g = (sigma sigma' + s^2 alpha alpha') / V,
  q = sigma (sigma alpha' - sigma' alpha) / V.

Only y = r.x / |r| enters the tanh. So the steps of a sampler move y by a map of one
number and multiply the d - 1 other coordinates by a constant, and the outcome in
dimension d follows without a sample. Every step map

  y -> gain y + push tanh(h + slope y),   gain > 0, push >= 0, slope >= 0,

rises, so their composition has one zero y*. The samples that start above it, and no
others, end in the majority mode.

Example: ten equal steps with noise of variance 1 lose a quarter of the variance.

>>> from ncgn_jax.process import make_schedule, make_time_grid
>>> mixture = Mixture(dim=100)
>>> times = make_time_grid("uniform", 10)
>>> steps = reduce_steps(mixture, make_schedule("linear"), times)
>>> print(round(float(variance_within(steps, 1.0)), 3))
0.773
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from scipy.special import ndtri

from ncgn_jax.process import Schedule
from ncgn_jax.process.naming import require_choice

RULES = ("euler", "euler_midpoint", "ddim")
# Starts are bracketed within this many standard deviations, then halved.
_BRACKET, _NUM_HALVINGS = 40.0, 60
# Numbers of steps tried at once.
_NUM_LANES = 128


class Mixture(NamedTuple):
    """The mixture p N(r, s^2 I) + (1 - p) N(-r, s^2 I), r the vector of ones.

    Attributes:
      dim: Dimension d = |r|^2.
      share: The weight p of the mode at +r.
      std: Standard deviation s within each mode.
    """

    dim: float
    share: float = 0.8
    std: float = 1.0

    @property
    def bias(self) -> float:
        """Returns h = log(p / (1 - p)) / 2."""
        return 0.5 * math.log(self.share / (1.0 - self.share))


class ReducedSteps(NamedTuple):
    """The maps y -> gain y + push tanh(h + slope y) of a sampler's steps.

    The other coordinates are multiplied by gain. All arrays are [..., step].
    """

    gain: np.ndarray
    push: np.ndarray
    slope: np.ndarray


def reduce_steps(
    mixture: Mixture, schedule: Schedule, times: ArrayLike, rule: str = "euler"
) -> ReducedSteps:
    """Returns a sampler's steps as maps of y = r.x / |r|.

    Args:
      mixture: The data.
      schedule: The noise schedule.
      times: Times from 0 to 1, [..., step + 1]; a step between equal times is void.
      rule: One of `RULES`: `euler`, velocity at the start of the step;
        `euler_midpoint`, the same step with the velocity of its middle time;
        `ddim`, x' = alpha' data_hat + sigma' noise_hat. The last equals Euler's where
        alpha and sigma are linear in t.

    Returns:
      The maps, each array [..., step].

    Raises:
      ValueError: If the rule does not exist.
    """
    require_choice("rule", rule, RULES)
    times = np.asarray(times, np.float64)
    start, end = times[..., :-1], times[..., 1:]
    at = 0.5 * (start + end) if rule == "euler_midpoint" else start
    is_step = end > start
    # The velocity may be infinite at t = 1, where no step starts.
    at = np.where(is_step, at, 0.0)
    alpha, sigma, d_alpha, d_sigma = map(np.asarray, schedule.coefficients(at))
    variance = sigma**2 + (mixture.std * alpha) ** 2
    if rule == "ddim":
        alpha_end, sigma_end, _, _ = map(np.asarray, schedule.coefficients(end))
        gain = sigma * sigma_end + mixture.std**2 * alpha * alpha_end
        gain = gain / variance
        push = alpha_end - gain * alpha
    else:
        growth = (sigma * d_sigma + mixture.std**2 * alpha * d_alpha) / variance
        gain = 1.0 + (end - start) * growth
        wronskian = sigma * d_alpha - d_sigma * alpha
        push = (end - start) * sigma * wronskian / variance
    root = math.sqrt(mixture.dim)
    return ReducedSteps(
        np.where(is_step, gain, 1.0),
        np.where(is_step, push * root, 0.0),
        np.where(is_step, alpha * root / variance, 0.0),
    )


@jax.jit
def walk_along(steps: ReducedSteps, bias: float, y: ArrayLike) -> jax.Array:
    """Takes all steps from y at t = 0 and returns y at t = 1.

    Args:
      steps: The maps, [..., step].
      bias: The mixture's h.
      y: Starts, [..., start], with the leading axes of `steps`.

    Returns:
      Ends, shape of `y`.
    """

    def advance(y, step):
        gain, push, slope = (part[..., None] for part in step)
        return gain * y + push * jnp.tanh(bias + slope * y), None

    by_step = jax.tree.map(lambda part: jnp.moveaxis(part, -1, 0), steps)
    return jax.lax.scan(advance, jnp.asarray(y), by_step)[0]


@jax.jit
def _share_above_zero(steps: ReducedSteps, bias: float, noise_scale: float):
    shape = (*steps.gain.shape[:-1], 1)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        is_below = walk_along(steps, bias, noise_scale * middle) < 0.0
        return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

    bracket = (jnp.full(shape, -_BRACKET), jnp.full(shape, _BRACKET))
    low, high = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, bracket)
    return ndtr(-0.5 * (low + high)[..., 0])


def majority_share(
    mixture: Mixture, steps: ReducedSteps, noise_scale: float
) -> np.ndarray:
    """Returns the exact share of samples that end in the mode at +r.

    It is 1 - Phi(y* / c), where bisection finds the start y* that ends at 0.

    Args:
      mixture: The data.
      steps: The maps, [..., step].
      noise_scale: Standard deviation c of the starts.

    Returns:
      Shares, [...].

    Raises:
      ValueError: If a step's gain is not positive, because a map that falls may have
        several zeros.
    """
    _require_rising(steps)
    return np.asarray(_share_above_zero(steps, mixture.bias, noise_scale))


def _require_rising(steps: ReducedSteps) -> None:
    if not (steps.gain > 0).all():
        raise ValueError(f"gains must be positive, the least is {steps.gain.min():g}")


def variance_within(steps: ReducedSteps, noise_scale: float) -> np.ndarray:
    """Returns the exact variance of the d - 1 coordinates other than y, [...].

    Args:
      steps: The maps, [..., step].
      noise_scale: Standard deviation c of the starts.
    """
    return (noise_scale * np.prod(steps.gain, axis=-1)) ** 2


class StepsNeeded(NamedTuple):
    """Least even numbers of steps that meet a tolerance; None if too many.

    Attributes:
      share: Number for the share of the majority mode.
      variance: Number for the variance within the modes.
      both: Number for both at once.
    """

    share: int | None
    variance: int | None
    both: int | None


def steps_needed(
    mixture: Mixture,
    schedule: Schedule,
    make_times: Callable[[int], np.ndarray],
    share_tolerance: float = 0.02,
    variance_tolerance: float = 0.05,
    most: int = 8192,
) -> StepsNeeded:
    """Finds the least even number of Euler steps that samples well enough.

    It tries all even numbers in turn and assumes nothing about how errors fall. The
    share is below p + tolerance if the start at that quantile ends below zero, and
    above p - tolerance if the start at that quantile ends above zero.

    Args:
      mixture: The data; its variance s^2 and share p are the targets.
      schedule: The noise schedule.
      make_times: Number of steps -> its time grid, [step + 1].
      share_tolerance: Largest |share - p|, exclusive.
      variance_tolerance: Largest |variance / s^2 - 1|, exclusive.
      most: Largest number tried.

    Raises:
      ValueError: If a step's gain is not positive, as for `majority_share`.
    """
    noise_scale = float(schedule.sigma(jnp.zeros(())))
    edges = mixture.share + share_tolerance * np.array([1.0, -1.0])
    starts = noise_scale * -ndtri(edges)
    found: list[int | None] = [None, None, None]
    for first in range(2, most + 1, 2 * _NUM_LANES):
        counts = range(first, first + 2 * _NUM_LANES, 2)
        steps = _reduce_padded(mixture, schedule, make_times, counts)
        _require_rising(steps)
        ends = walk_along(steps, mixture.bias, np.broadcast_to(starts, (_NUM_LANES, 2)))
        is_share = np.asarray((ends[:, 0] < 0) & (ends[:, 1] > 0))
        error = np.abs(variance_within(steps, noise_scale) / mixture.std**2 - 1.0)
        is_variance = error < variance_tolerance
        for place, fits in enumerate((is_share, is_variance, is_share & is_variance)):
            if found[place] is None and fits.any():
                found[place] = counts[int(np.argmax(fits))]
        if None not in found:
            break
    return StepsNeeded(*(n if n is None or n <= most else None for n in found))


def _reduce_padded(
    mixture: Mixture,
    schedule: Schedule,
    make_times: Callable[[int], np.ndarray],
    counts: Sequence[int],
) -> ReducedSteps:
    """Returns the steps of several grids, padded to one length, [grid, step].

    Lengths are powers of two, so that the walk is compiled once per power.
    """
    length = 2 ** math.ceil(math.log2(counts[-1]))
    times = np.ones((len(counts), length + 1))
    for row, num_steps in zip(times, counts, strict=True):
        row[: num_steps + 1] = make_times(num_steps)
    return reduce_steps(mixture, schedule, times)


def limit_variance_of_dilated_ve(
    kappa: float, num_steps: int | None, std: float = 1.0
) -> float:
    """Returns the variance within modes of a dilated VE as d grows.

    Before the window, where x is noise up to a vanishing part, Euler's steps are exact
    for noise alone and bring its variance to kappa^2, without the s^2 of the data. In
    the window, with u = sqrt(d) (1 - t) and K/2 steps,

      var = kappa^2 prod_j (1 - (2 kappa / K) u_j / (s^2 + u_j^2))^2,
      u_j = kappa (1 - 2 j / K),   ->  s^2 kappa^2 / (kappa^2 + s^2)  as K grows.

    Args:
      kappa: Width of the window, > 0.
      num_steps: Even number K of steps; None for its limit.
      std: Standard deviation s within each mode.
    """
    if num_steps is None:
        return std**2 * kappa**2 / (kappa**2 + std**2)
    u = kappa * (1.0 - 2.0 * np.arange(num_steps // 2) / num_steps)
    gain = 1.0 - (2.0 * kappa / num_steps) * u / (std**2 + u**2)
    return float((kappa * np.prod(gain)) ** 2)


def limit_share_of_dilated_vp(kappa: float, share: float) -> float:
    """Returns the share of the majority mode of a dilated VP as d, then K grows.

    At the end of the window y has the law p N(kappa, 1) + (1 - p) N(-kappa, 1). The
    next step, of length sqrt(d) in y, fixes the side of each sample by the sign of
    h + kappa y, so that the share is

      P(y > -h / kappa) = p Phi(kappa + h / kappa) + (1 - p) Phi(-kappa + h / kappa).

    Args:
      kappa: Width of the window, > 0.
      share: The weight p of the majority mode.
    """
    shift = Mixture(1, share).bias / kappa
    either = ndtr(jnp.array([kappa + shift, shift - kappa]))
    return float(share * either[0] + (1.0 - share) * either[1])
