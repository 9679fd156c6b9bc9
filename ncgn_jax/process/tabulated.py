"""Makes continuous noise schedules from a table, that of DDPM's discrete steps.

DDPM (Ho et al. 2020) counts steps n = 0..T from data to noise and defines
alpha_bar[n] = prod_{m<=n} (1 - beta[m]), with alpha = sqrt(alpha_bar) and
sigma = sqrt(1 - alpha_bar). Here n = (1 - t) T is a real number, and the table is
interpolated so that the coefficients are continuously differentiable and hit the
table exactly at whole n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Coefficient = Callable[[jax.Array], jax.Array]


def linear_betas(
    num_steps: int, beta_start: float, beta_end: float, rescale: bool
) -> np.ndarray:
    """Returns DDPM's evenly spaced betas (Ho et al. 2020, section 4).

    Args:
      num_steps: Number T of steps, at least 1.
      beta_start: First beta, at the data end, in (0, 1).
      beta_end: Last beta, at the noise end, in (0, 1).
      rescale: Whether betas are multiplied by 1000 / T (clipped at 0.999), so that a
        short chain removes as much signal as one of 1000 steps.

    Returns:
      Betas of the steps 1..T, [num_steps], float64.
    """
    betas = np.linspace(beta_start, beta_end, num_steps, dtype=np.float64)
    return np.minimum(betas * (1000.0 / num_steps), 0.999) if rescale else betas


def cosine_betas(
    num_steps: int, offset: float, max_beta: float, power: float
) -> np.ndarray:
    """Returns the cosine schedule's betas (Nichol & Dhariwal 2021, eq. 17).

    f(n) = cos^p( (n/T + s)/(1 + s) pi/2 ),  beta[n] = min(1 - f(n)/f(n-1), max_beta)

    Args:
      num_steps: Number T of steps, at least 1.
      offset: Small shift s that keeps the first betas away from 0.
      max_beta: Upper limit of beta, below 1.
      power: Exponent p, positive; 2 as published. A larger p removes signal earlier.

    Returns:
      Betas of the steps 1..T, [num_steps], float64.
    """
    phase = (np.arange(num_steps + 1) / num_steps + offset) / (1.0 + offset)
    f = np.cos(phase * np.pi / 2) ** power
    return np.minimum(1.0 - f[1:] / f[:-1], max_beta)


def _monotone_slopes(values: np.ndarray) -> np.ndarray:
    """Returns slopes that keep a cubic through `values` monotone (Fritsch-Carlson)."""
    secants = np.diff(values)
    inner = 2.0 * secants[1:] * secants[:-1] / (secants[1:] + secants[:-1])
    return np.concatenate([secants[:1], inner, secants[-1:]])


def _log_snr_spline(alpha_bar: np.ndarray) -> np.ndarray:
    """Returns cubics of log-SNR; row n - 1 holds c with sum_p c[p] u^p at n + u."""
    log_snr = np.log(alpha_bar) - np.log1p(-alpha_bar)
    # With a steeper slope sigma, a parabola on [0, 1], would not be monotone there.
    steepest = -4.0 / alpha_bar[0]
    last = log_snr[-1] - log_snr[-2] if len(log_snr) > 1 else steepest / 2
    # One knot beyond T lets n = T, whose derivative is needed too, use the same
    # formula as every other n.
    log_snr = np.append(log_snr, log_snr[-1] + last)
    slopes = _monotone_slopes(log_snr)
    slopes[0] = max(slopes[0], steepest)
    left, right, step = slopes[:-1], slopes[1:], np.diff(log_snr)
    square, cube = 3 * step - 2 * left - right, left + right - 2 * step
    return np.stack([log_snr[:-1], left, square, cube], axis=1)


def coefficients_from_betas(
    betas: Sequence[float] | np.ndarray,
) -> tuple[Coefficient, Coefficient]:
    """Returns alpha(t) and sigma(t) through the table that `betas` define.

    For n >= 1 the log-SNR is a monotone cubic Hermite spline in n. Between n = 0
    (clean data, infinite log-SNR) and n = 1, sigma is the parabola through 0 that
    meets the spline with equal slope, and alpha = sqrt(1 - sigma^2). Both pieces
    keep alpha^2 + sigma^2 = 1.

    Args:
      betas: Betas of the steps 1..T, [num_steps], in (0, 1).

    Returns:
      Two functions of t in [0, 1], where n = (1 - t) T.

    Raises:
      ValueError: if a beta lies outside (0, 1), or there is none.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 1:
        raise ValueError(f"betas must be a non-empty list, got shape {betas.shape}")
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            f"betas must lie in (0, 1), got {betas.min():g} .. {betas.max():g}"
        )
    num_steps = len(betas)
    # Logs are summed because products would lose 1 - alpha_bar to rounding.
    alpha_bar = np.exp(np.cumsum(np.log1p(-betas)))
    cubics = _log_snr_spline(alpha_bar)
    first_sigma = np.sqrt(1.0 - alpha_bar[0])
    first_slope = -0.5 * first_sigma * alpha_bar[0] * cubics[0, 1]
    bend = first_slope - first_sigma
    rise = first_sigma - bend

    def split(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        n = (1.0 - t) * num_steps
        is_first = n < 1.0
        # Each branch gets an n that is legal for it, because `where` also passes on
        # the gradient of the branch not taken.
        return is_first, jnp.where(is_first, n, 0.0), jnp.where(is_first, 1.0, n)

    def first_step_sigma(n: jax.Array) -> jax.Array:
        return n * (rise + bend * n)

    def spline(n: jax.Array) -> jax.Array:
        i = jnp.clip(jnp.floor(n).astype(jnp.int32), 1, num_steps) - 1
        u = n - (i + 1).astype(n.dtype)
        c = jnp.asarray(cubics, n.dtype)[i]
        return c[..., 0] + u * (c[..., 1] + u * (c[..., 2] + u * c[..., 3]))

    def alpha(t: jax.Array) -> jax.Array:
        is_first, n_first, n_spline = split(t)
        near_data = jnp.sqrt(1.0 - first_step_sigma(n_first) ** 2)
        beyond = jnp.exp(0.5 * jax.nn.log_sigmoid(spline(n_spline)))
        return jnp.where(is_first, near_data, beyond)

    def sigma(t: jax.Array) -> jax.Array:
        is_first, n_first, n_spline = split(t)
        beyond = jnp.exp(0.5 * jax.nn.log_sigmoid(-spline(n_spline)))
        return jnp.where(is_first, first_step_sigma(n_first), beyond)

    return alpha, sigma
