"""Defines noise schedules: the shares of data and noise in a sample at time t.

Every process of the library is x_t = alpha(t) * data + sigma(t) * noise with t = 0
noise and t = 1 data. A `Schedule` is the pair of functions. Derivatives come from
forward-mode differentiation, so a new schedule needs no formula for them.

Not every schedule reaches its ends exactly:

| name            | alpha(0) | sigma(0)  | alpha(1) | sigma(1)                     |
|-----------------|----------|-----------|----------|------------------------------|
| `linear`        | 0        | 1         | 1        | sigma_min (0)                |
| `trigonometric` | 0        | 1         | 1        | 0                            |
| `ddpm_linear`   | 6.4e-3   | 1 - 2e-5  | 1        | 0                            |
| `ddpm_cosine`   | 4.9e-5   | 1 - 1e-9  | 1        | 0                            |
| `vp`            | 6.6e-3   | 1 - 2e-5  | 1 - 5e-5 | 1.0e-2 (0 has infinite slope)|
| `ve`            | 1        | sigma_max | 1        | sigma_min                    |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.process import naming, tabulated

# Where alpha or sigma vanishes the log-SNR is infinite; they are floored here, which
# limits it to about +-46 and keeps it finite in float32.
MIN_COEFFICIENT = 1e-10


def _as_float(t: ArrayLike) -> jax.Array:
    """Returns t as a floating-point array of its own (or the default) precision."""
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def _clamp(x: jax.Array, low: ArrayLike, high: ArrayLike) -> jax.Array:
    """Clips x, with derivative 1 on the limits themselves (jnp.clip gives 1/2)."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


# A program evaluates one schedule many times (target, weight, each stage of a step),
# so its methods are traced and compiled once per schedule and shape of t.
_traced_once = functools.partial(jax.jit, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Holds the coefficients of x_t = alpha(t) * data + sigma(t) * noise.

    Attributes:
      name: For messages and tables.
      alpha: Elementwise function of t, not decreasing, at least 0.
      sigma: Elementwise function of t, not increasing, at least 0.
      num_steps: Number T of steps of a discrete process; None if continuous.
    """

    name: str
    alpha: Callable[[jax.Array], jax.Array]
    sigma: Callable[[jax.Array], jax.Array]
    num_steps: int | None = None

    @_traced_once
    def coefficients(
        self, t: ArrayLike
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns (alpha, sigma, d_alpha, d_sigma) at t, each of the shape of t.

        Args:
          t: Times in [0, 1], of any shape.
        """
        t = _as_float(t)
        ones = jnp.ones_like(t)
        alpha, d_alpha = jax.jvp(self.alpha, (t,), (ones,))
        sigma, d_sigma = jax.jvp(self.sigma, (t,), (ones,))
        return alpha, sigma, d_alpha, d_sigma

    @_traced_once
    def log_snr(self, t: ArrayLike) -> jax.Array:
        """Returns 2 (log alpha - log sigma), limited to about +-46, shape of t.

        Args:
          t: Times in [0, 1], of any shape.
        """
        t = _as_float(t)
        alpha = jnp.maximum(self.alpha(t), MIN_COEFFICIENT)
        sigma = jnp.maximum(self.sigma(t), MIN_COEFFICIENT)
        return 2.0 * (jnp.log(alpha) - jnp.log(sigma))

    @_traced_once
    def signal_level(self, t: ArrayLike) -> jax.Array:
        """Returns alpha / (alpha + sigma), in [0, 1], rising with t, shape of t.

        Args:
          t: Times in [0, 1], of any shape.
        """
        t = _as_float(t)
        alpha = self.alpha(t)
        return alpha / (alpha + self.sigma(t))

    @_traced_once
    def time_of_signal_level(self, level: ArrayLike) -> jax.Array:
        """Returns the t at which `signal_level(t)` equals `level`.

        It bisects, then takes one Newton step that also carries the derivative. It
        works inside jit, vmap and grad, and on Python or NumPy numbers.

        Args:
          level: Signal levels, any shape. A level that the schedule does not reach
            gives the nearest end.

        Returns:
          Times in [0, 1], shape of `level`.
        """
        level = _as_float(level)
        ends = self.signal_level(jnp.asarray([0.0, 1.0], level.dtype))
        level = _clamp(level, ends[0], ends[1])
        fixed = jax.lax.stop_gradient(level)

        def halve(
            _: jax.Array, bracket: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            low, high = bracket
            middle = 0.5 * (low + high)
            is_below = self.signal_level(middle) < fixed
            return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

        # This many halvings exhaust the mantissa.
        num_halvings = jnp.finfo(level.dtype).nmant + 2
        bracket = (jnp.zeros_like(fixed), jnp.ones_like(fixed))
        low, high = jax.lax.fori_loop(0, num_halvings, halve, bracket)
        t = jax.lax.stop_gradient(0.5 * (low + high))
        reached, slope = jax.jvp(self.signal_level, (t,), (jnp.ones_like(t),))
        return _clamp(t + (level - reached) / slope, 0.0, 1.0)

    def step_index(self, t: ArrayLike) -> jax.Array:
        """Returns the discrete process's index n = (1 - t) T, a float, shape of t.

        Args:
          t: Times in [0, 1].

        Returns:
          0 for clean data, T for the last (noisiest) step; fractional in between.

        Raises:
          ValueError: if the schedule is continuous.
        """
        return (1.0 - _as_float(t)) * self._require_num_steps()

    def time_of_step(self, step_index: ArrayLike) -> jax.Array:
        """Returns t = (T - n) / T for a discrete index n; inverse of `step_index`.

        Args:
          step_index: Indices in 0..T.

        Returns:
          Times, shape of `step_index`.

        Raises:
          ValueError: if the schedule is continuous.
        """
        num_steps = self._require_num_steps()
        return (num_steps - _as_float(step_index)) / num_steps

    def _require_num_steps(self) -> int:
        if self.num_steps is None:
            raise ValueError(f"schedule {self.name!r} is continuous: it has no steps")
        return self.num_steps


def _linear(sigma_min: float = 0.0) -> Schedule:
    """Makes flow matching's straight line (Lipman et al. 2023, eq. 22).

    alpha = t,  sigma = 1 - (1 - sigma_min) t
    """
    if not 0.0 <= sigma_min < 1.0:
        raise ValueError(f"sigma_min must be in [0, 1), got {sigma_min}")
    return Schedule("linear", lambda t: t, lambda t: (1.0 - t) + sigma_min * t)


def _trigonometric() -> Schedule:
    """Makes the quarter circle alpha = sin(pi t / 2), sigma = cos(pi t / 2).

    (Albergo & Vanden-Eijnden 2023, eq. 5.) The cosine is written as a sine of 1 - t,
    which is exactly 0 at t = 1.
    """
    return Schedule(
        "trigonometric",
        lambda t: jnp.sin(0.5 * jnp.pi * t),
        lambda t: jnp.sin(0.5 * jnp.pi * (1.0 - t)),
    )


def schedule_from_betas(betas: Sequence[float] | np.ndarray, name: str) -> Schedule:
    """Returns the schedule of a DDPM chain with the given betas.

    Args:
      betas: beta[1..T] in order of growing noise, each in (0, 1).
      name: Name of the schedule.

    Returns:
      A schedule with T steps that equals the chain at t = (T - n) / T, n = 0..T,
      where n = 0 is clean data (alpha 1, sigma 0); `tabulated` interpolates between.

    Raises:
      ValueError: if a beta lies outside (0, 1), or there is none.
    """
    alpha, sigma = tabulated.coefficients_from_betas(betas)
    return Schedule(name, alpha, sigma, num_steps=len(betas))


def _require_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")


def _ddpm_linear(
    num_steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    rescale_betas: bool = False,
) -> Schedule:
    """Makes DDPM's schedule of linear betas (Ho et al. 2020)."""
    _require_steps(num_steps)
    betas = tabulated.linear_betas(num_steps, beta_start, beta_end, rescale_betas)
    return schedule_from_betas(betas, "ddpm_linear")


def _ddpm_cosine(
    num_steps: int = 1000,
    offset: float = 0.008,
    max_beta: float = 0.999,
    power: float = 2.0,
) -> Schedule:
    """Makes the cosine table (Nichol & Dhariwal 2021), with any power."""
    _require_steps(num_steps)
    if not power > 0.0:
        raise ValueError(f"power must be positive, got {power}")
    betas = tabulated.cosine_betas(num_steps, offset, max_beta, power)
    return schedule_from_betas(betas, "ddpm_cosine")


def _vp(
    beta_min: float = 0.1, beta_max: float = 20.0, time_floor: float = 1e-3
) -> Schedule:
    """Makes the variance-preserving SDE (Song et al. 2021, eq. 32-33), t reversed.

    With s = time_floor + (1 - time_floor)(1 - t):
    B = beta_min s + (beta_max - beta_min) s^2 / 2,
    alpha = exp(-B / 2),  sigma = sqrt(1 - exp(-B)).
    Near s = 0 sigma grows like sqrt(s), so the floor keeps its slope finite at t = 1.
    """
    if not 0.0 < beta_min <= beta_max:
        raise ValueError(f"need 0 < beta_min <= beta_max, got {beta_min}, {beta_max}")
    if not 0.0 < time_floor < 1.0:
        raise ValueError(f"time_floor must be in (0, 1), got {time_floor}")

    def integral(t: jax.Array) -> jax.Array:
        s = time_floor + (1.0 - time_floor) * (1.0 - t)
        return s * (beta_min + 0.5 * (beta_max - beta_min) * s)

    return Schedule(
        "vp",
        lambda t: jnp.exp(-0.5 * integral(t)),
        lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
    )


def _ve(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """Makes the variance-exploding process (Song et al. 2021, eq. 30).

    alpha = 1,  sigma = sigma_max^(1-t) sigma_min^t
    """
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(
            f"need 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}"
        )
    log_max, log_min = float(np.log(sigma_max)), float(np.log(sigma_min))
    return Schedule(
        "ve", jnp.ones_like, lambda t: jnp.exp((1.0 - t) * log_max + t * log_min)
    )


_FACTORIES: dict[str, Callable[..., Schedule]] = {
    "linear": _linear,
    "trigonometric": _trigonometric,
    "ddpm_linear": _ddpm_linear,
    "ddpm_cosine": _ddpm_cosine,
    "vp": _vp,
    "ve": _ve,
}
SCHEDULES = tuple(_FACTORIES)
"""Names of noise schedules, the values of `process.schedule`."""


def make_schedule(name: str, **options: object) -> Schedule:
    """Returns the schedule called `name`.

    Args:
      name: One of `SCHEDULES`; see the table at the top of this file.
      **options: linear: sigma_min. ddpm_linear: num_steps, beta_start, beta_end,
        rescale_betas (by 1000 / num_steps). ddpm_cosine: num_steps, offset, max_beta,
        power. vp: beta_min, beta_max, time_floor. ve: sigma_min, sigma_max.

    Returns:
      The schedule, finite with finite derivatives on all of [0, 1].

    Raises:
      ValueError: if the name or an option does not exist, or a value is out of range.
    """
    return naming.build_named("schedule", _FACTORIES, name, options)
