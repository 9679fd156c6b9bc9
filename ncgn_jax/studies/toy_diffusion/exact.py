"""Computes exact properties of diffusion of a mixture of Gaussians, without training.

These are the signal left at each step, the least loss that any network can reach, and
the width of the samples of each method with an exact predictor (arXiv 2409.00374 poses
the questions, in two dimensions with two modes). A DDPM chain counts n = 0 (data) .. T
(noise) here, with alpha_bar = alpha^2, al_n = alpha_bar_n / alpha_bar_(n-1),
beta_n = 1 - al_n; primes mark n - 1.

Example: for data of unit variance single steps shrink samples to sqrt(alpha_bar_T).

>>> from ncgn_jax.process import make_schedule
>>> schedule = make_schedule("ddpm_cosine", num_steps=10)
>>> alpha, _ = chain_coefficients(schedule)
>>> bool(np.isclose(final_std("single_step", schedule, 1.0), alpha[-1]))
True
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ncgn_jax.process import Schedule, kept_noise, posterior_variances

METHODS = ("single_step", "ancestral", "renoise", "ddim")

# Beyond twelve standard deviations a normal density adds nothing in float64.
_NORMAL_GRID = np.linspace(-12.0, 12.0, 2401)
_CHAIN_LENGTH = 1024
# Multiples of the golden ratio, modulo 1, never leave a gap for long.
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


class Mixture(NamedTuple):
    """A mixture of Gaussians, sum_k w_k N(mu_k, s^2 I).

    Attributes:
      means: Means mu_k, [mode, dim].
      weights: Weights w_k, [mode], positive, sum 1.
      std: Standard deviation s, > 0.
    """

    means: NDArray[np.float64]
    weights: NDArray[np.float64]
    std: float


def two_modes(dim: int = 2) -> Mixture:
    """Returns weights .7 and .3 at +-(1.5, 1, 1.5, 1, ..), s = .3.

    arXiv 2409.00374 has two Gaussians in the plane and does not state their means and
    weights; these are our choice. `dim` must be even.
    """
    mean = np.tile([1.5, 1.0], dim // 2)
    return Mixture(np.stack([mean, -mean]), np.array([0.7, 0.3]), 0.3)


def ring_of_modes() -> Mixture:
    """Returns 8 equal modes on a circle of radius 2, s = .15."""
    num_modes = 8
    angles = 2 * np.pi * np.arange(num_modes) / num_modes
    means = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(means, np.full(num_modes, 1 / num_modes), 0.15)


def grid_of_modes() -> Mixture:
    """Returns 5 x 5 equal modes on a square grid, spacing 1, s = .1."""
    side = 5
    places = np.arange(side) - (side - 1) / 2
    means = np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)
    return Mixture(means, np.full(side**2, 1 / side**2), 0.1)


def draw_mixture(mixture: Mixture, rng: jax.Array, num: int) -> jax.Array:
    """Draws data, [num, dim]."""
    rng_mode, rng_point = jax.random.split(rng)
    return _draw_around(mixture, jax.random.uniform(rng_mode, (num,)), rng_point)


def draw_reference(mixture: Mixture, rng: jax.Array, num: int) -> jax.Array:
    """Draws reference data, [num, dim], with even shares in every leading part.

    The shares of thousands of independent draws err by about one percent, which is
    most of their distance to other draws.
    """
    places = (0.5 + _GOLDEN * np.arange(num)) % 1.0
    return _draw_around(mixture, jnp.asarray(places), rng)


def _draw_around(mixture: Mixture, quantiles: jax.Array, rng: jax.Array) -> jax.Array:
    """Draws one point per quantile of the modes, [num, dim]."""
    # Without the last bound, which rounding may put below 1.
    bounds = jnp.cumsum(jnp.asarray(mixture.weights))[:-1]
    centres = jnp.asarray(mixture.means)[jnp.searchsorted(bounds, quantiles)]
    return centres + mixture.std * jax.random.normal(rng, centres.shape)


def variance_of_mixture(mixture: Mixture) -> float:
    """Returns the variance of a coordinate, the mean over coordinates."""
    mean = mixture.weights @ mixture.means
    between = mixture.weights @ (mixture.means - mean) ** 2
    return mixture.std**2 + float(np.mean(between))


def num_chain_steps(schedule: Schedule) -> int:
    """Returns T of a discrete schedule."""
    if schedule.num_steps is None:
        raise ValueError(f"schedule {schedule.name!r} is continuous: it has no steps")
    return schedule.num_steps


def chain_coefficients(
    schedule: Schedule,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns alpha and sigma at n = 0..T of a discrete schedule, each [T + 1]."""
    num = num_chain_steps(schedule) + 1
    # Few lengths, and primitive by primitive, because `coefficients` would compile
    # again for each schedule of a sweep.
    steps = np.minimum(np.arange(num + -num % _CHAIN_LENGTH), num - 1)
    t = schedule.time_of_step(steps)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return np.asarray(alpha[:num], np.float64), np.asarray(sigma[:num], np.float64)


def final_std(method: str, schedule: Schedule, std: float) -> float:
    """Follows the standard deviation of samples of N(mu, s^2) through a chain.

    With an exact predictor every step is affine in x, so the variance v, 1 at n = T,
    obeys a scalar recursion. With V = alpha_bar s^2 + 1 - alpha_bar and
    A = (1 - beta / V) / sqrt(al) it is

      single_step  v' = A^2 v                       (the mean of x_(n-1) alone)
      ancestral    v' = A^2 v + beta-tilde          (Ho et al. 2020)
      renoise      v' = alpha_bar' (alpha s^2 / V)^2 v + 1 - alpha_bar'
      ddim         v' = ((alpha' alpha s^2 + sigma' sigma) / V)^2 v

    Where modes do not overlap this is also the width of each mode of a mixture.

    Args:
      method: One of `METHODS`.
      schedule: A discrete schedule.
      std: Standard deviation s.

    Returns:
      sqrt(v) at n = 0.

    Raises:
      ValueError: If there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method: found {method!r}; allowed: {METHODS}")
    alpha, sigma = chain_coefficients(schedule)
    before, after = (alpha[:0:-1], sigma[:0:-1]), (alpha[-2::-1], sigma[-2::-1])
    variance = 1.0
    for a, b, a_next, b_next in zip(*before, *after, strict=True):
        total = a**2 * std**2 + b**2
        if method == "renoise":
            factor, added = a_next * a * std**2 / total, b_next**2
        elif method == "ddim":
            factor, added = (a_next * a * std**2 + b_next * b) / total, 0.0
        else:
            ratio = a / a_next
            beta = 1 - ratio**2
            factor = (1 - beta / total) / ratio
            added = beta * b_next**2 / b**2 if method == "ancestral" else 0.0
        variance = factor**2 * variance + added
    return float(np.sqrt(variance))


def bayes_losses(
    mixture: Mixture, schedule: Schedule
) -> dict[str, NDArray[np.float64]]:
    """Computes the least mean squared error of each target at n = 1..T.

    With V = alpha^2 s^2 + sigma^2 and the probabilities r_k of the modes given x_n,
    E Var[data | x_n] = s^2 sigma^2 / V + (sigma^2 / V)^2 E tr Cov_r(mu) / D per
    coordinate; the other targets are affine in data given x_n. For two modes,
    tr Cov_r(mu) = r_0 r_1 |mu_0 - mu_1|^2, and its mean is an integral over a line.

    Args:
      mixture: A mixture of two modes.
      schedule: A discrete schedule.

    Returns:
      Losses per coordinate, [T], by target: `data`, `noise`, `score`, and `step`, the
      sample one step earlier in the same chain.

    Raises:
      ValueError: If the number of modes is not two.
    """
    if len(mixture.weights) != 2:
        raise ValueError(f"found {len(mixture.weights)} modes; needs 2")
    alpha, sigma = (c[1:] for c in chain_coefficients(schedule))
    total = alpha**2 * mixture.std**2 + sigma**2
    gap = np.linalg.norm(mixture.means[0] - mixture.means[1])
    doubt = _mean_mode_doubt(mixture.weights, alpha * gap / np.sqrt(total))
    dim = mixture.means.shape[1]
    data = mixture.std**2 * sigma**2 / total
    data = data + (sigma**2 / total) ** 2 * gap**2 * doubt / dim
    # x' given x and data is normal with variance beta-tilde, and data enters its mean
    # with this factor (Ho et al. 2020, eq. 7).
    alpha_next, sigma_next = (c[:-1] for c in chain_coefficients(schedule))
    beta = 1 - (alpha / alpha_next) ** 2
    factor = alpha_next * beta / sigma**2
    return {
        "data": data,
        "noise": (alpha / sigma) ** 2 * data,
        "score": (alpha / sigma**2) ** 2 * data,
        "step": beta * (sigma_next / sigma) ** 2 + factor**2 * data,
    }


def _mean_mode_doubt(
    weights: NDArray[np.float64], separation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns E r_0 r_1 for two unit normals `separation` apart, [T]."""
    density = np.exp(-0.5 * _NORMAL_GRID**2) / np.sqrt(2 * np.pi)
    doubt = np.zeros_like(separation)
    for weight, sign in zip(weights, (1.0, -1.0), strict=True):
        log_odds = np.log(weights[0] / weights[1]) + separation[:, None] * (
            sign * 0.5 * separation[:, None] + _NORMAL_GRID
        )
        # r_0 r_1 in a form that does not overflow at either end of the log-odds.
        product = 0.25 / np.cosh(0.5 * np.clip(log_odds, -700, 700)) ** 2
        doubt += weight * np.trapezoid(density * product, _NORMAL_GRID, axis=1)
    return doubt


def step_factors(
    schedule: Schedule, t: jax.Array, t_next: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns a, b of E[x_t' | x_t] = a data_hat + b noise_hat, shape of t."""
    posterior, _ = posterior_variances(schedule, t, t_next)
    return schedule.alpha(t_next), kept_noise(schedule.sigma(t_next), posterior)
