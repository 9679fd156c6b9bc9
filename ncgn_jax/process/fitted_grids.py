"""Fits time grids to a network: to what it knows, or to what a sampler's steps err by.

The entropic time of a model (Stancevic, Handke & Ambrogioni 2025, arXiv 2504.13612)
rises by the same amount of information about the data in each step. By the relation
of Guo, Shamai and Verdu (2005), dI/dsnr = E|data - data_hat|^2 / 2, so it follows
from the error of the model at each level, which training measures anyway.

Example: for unit normal data I(t) = log(1 + snr) / 2 per coordinate, so two steps
meet where 1 + snr is the square root of its largest value.

>>> from ncgn_jax.process import make_schedule, make_time_grid
>>> schedule, t = make_schedule("linear"), np.linspace(0.0, 1.0, 1001)
>>> error = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
>>> table = fit_time_table(schedule, t, error)
>>> middle = make_time_grid("table", 2, table=table)[1]
>>> print(f"{1 + np.exp(schedule.log_snr(middle)):.0f}")
149
>>> print(f"{np.sqrt(1 + np.exp(LOG_SNR_RANGE[1])):.0f}")
148
"""

from __future__ import annotations

import jax
import numpy as np
from numpy.typing import ArrayLike

from ncgn_jax.process.schedules import Schedule
from ncgn_jax.process.time_grids import LOG_SNR_RANGE

_NUM_ROWS = 1001


def fit_time_table(
    schedule: Schedule, times: ArrayLike, data_error: ArrayLike
) -> tuple[tuple[float, float], ...]:
    """Fits the table of the time grid `make_time_grid("table", ...)`.

    The share of the steps done by time t is I(t) / I(1) with
    I(t) = 1/2 int error d snr, integrated over log-SNR within `LOG_SNR_RANGE`.

    Args:
      schedule: The noise schedule.
      times: Where the error was measured, rising, [time], at least two.
      data_error: Mean squared error of data_hat per coordinate, [time], not negative;
        held constant beyond the measured times.

    Returns:
      Pairs (t, share of the steps), rising from (0, 0) to (1, 1).

    Raises:
      ValueError: if times do not rise within [0, 1], or an error is negative, not
        finite, or 0 everywhere.
    """
    times = np.asarray(times, np.float64)
    error = np.asarray(data_error, np.float64)
    if times.ndim != 1 or len(times) < 2 or times.shape != error.shape:
        raise ValueError(f"need two or more times, got {times.shape}, {error.shape}")
    if not (np.diff(times) > 0).all() or times[0] < 0 or times[-1] > 1:
        raise ValueError(f"times must rise within [0, 1], got {times}")
    if not np.isfinite(error).all() or (error < 0).any() or not error.any():
        raise ValueError(f"errors must be finite, not negative, not all 0, got {error}")
    with jax.ensure_compile_time_eval():
        ends = np.asarray(jax.jit(schedule.log_snr)(np.array([0.0, 1.0])), np.float64)
        low, high = np.clip(ends, *LOG_SNR_RANGE)
        log_snr = np.linspace(low, high, _NUM_ROWS)
        level = 1.0 / (1.0 + np.exp(-0.5 * log_snr))
        t = np.asarray(jax.jit(schedule.time_of_signal_level)(level), np.float64)
    rate = np.interp(t, times, error) * np.exp(log_snr)
    gained = np.concatenate([[0.0], np.cumsum(rate[1:] + rate[:-1])])
    share = gained / gained[-1]
    t[0], t[-1] = 0.0, 1.0
    # A row whose step in t vanishes in float32 is useless.
    keep = np.concatenate([[True], np.diff(t) > 1e-9])
    keep[-1] = True
    return tuple(zip(t[keep].tolist(), share[keep].tolist(), strict=True))


def fit_error_table(
    times: ArrayLike, step_errors: ArrayLike, order: int
) -> tuple[tuple[float, float], ...]:
    """Fits the table of a time grid whose steps all err by the same amount.

    A step of length h of a sampler of order p errs by c(t) h^(p+1). Of all grids of
    as many steps, that with errors of least sum has a density of steps proportional to
    c(t)^(1/(p+1)) (de Boor 1973, Good approximation by splines with variable knots),
    and its steps err alike. A step of an old grid that errs by e gets a share of the
    new ones proportional to e^(1/(p+1)).

    Args:
      times: A time grid, [step + 1], rising from 0 to 1.
      step_errors: What its steps err by, in any unit, [step], not negative.
      order: p, the order of the sampler, of `samplers.ORDERS`.

    Returns:
      Pairs (t, share of the steps), rising from (0, 0) to (1, 1).

    Raises:
      ValueError: if times do not rise from 0 to 1, or an error is negative, not finite,
        or 0 everywhere.
    """
    times = np.asarray(times, np.float64)
    error = np.asarray(step_errors, np.float64)
    if times.shape != (len(error) + 1,) or times[0] != 0 or times[-1] != 1:
        raise ValueError(f"need times from 0 to 1 around steps, got {times}")
    if not (np.diff(times) > 0).all():
        raise ValueError(f"times must rise, got {times}")
    if not np.isfinite(error).all() or (error < 0).any() or not error.any():
        raise ValueError(f"errors must be finite, not negative, not all 0, got {error}")
    done = np.concatenate([[0.0], np.cumsum(error ** (1.0 / (order + 1)))])
    return tuple(zip(times.tolist(), (done / done[-1]).tolist(), strict=True))
