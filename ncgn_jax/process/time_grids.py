"""Makes time grids, the times between t = 0 and t = 1 that a sampler visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from ncgn_jax.process import naming
from ncgn_jax.process.dilated_grids import make_dilated_grid
from ncgn_jax.process.schedules import Schedule

# The first and the last step cross the log-SNR beyond these limits.
LOG_SNR_RANGE = (-10.0, 10.0)
# Noise-to-data ratios of EDM (Karras et al. 2022, table 1) and its exponent.
EDM_RATIO_RANGE = (0.002, 80.0)
EDM_RHO = 7.0


def _times_of_ratio(schedule: Schedule, ratio: np.ndarray) -> np.ndarray:
    """Returns the times at which sigma / alpha takes the given values."""
    # The grid is a constant even when the caller is traced.
    with jax.ensure_compile_time_eval():
        t = jax.jit(schedule.time_of_signal_level)(1.0 / (1.0 + ratio))
    return np.array(t, np.float64)


def _end_log_snr(schedule: Schedule) -> tuple[float, float]:
    """Returns the log-SNR at t = 0 and at t = 1."""
    with jax.ensure_compile_time_eval():
        first, last = jax.jit(schedule.log_snr)(np.array([0.0, 1.0]))
    return float(first), float(last)


def _uniform(num_steps: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, num_steps + 1)


def _cosine(num_steps: int) -> np.ndarray:
    """Makes a grid denser at both ends, t = (1 - cos(pi s)) / 2."""
    return 0.5 * (1.0 - np.cos(np.pi * np.linspace(0.0, 1.0, num_steps + 1)))


def _quadratic(num_steps: int) -> np.ndarray:
    """Makes a grid denser towards data (Song, Meng & Ermon 2021, D.2)."""
    return 1.0 - np.linspace(1.0, 0.0, num_steps + 1) ** 2


def _log_snr(num_steps: int, schedule: Schedule) -> np.ndarray:
    """Spaces times evenly in log-SNR within `LOG_SNR_RANGE` (Lu et al. 2022)."""
    ends = np.clip(_end_log_snr(schedule), *LOG_SNR_RANGE)
    ratio = np.exp(-0.5 * np.linspace(ends[0], ends[1], num_steps + 1))
    return _times_of_ratio(schedule, ratio)


def _edm(num_steps: int, schedule: Schedule) -> np.ndarray:
    """Spaces times evenly in (sigma/alpha)^(1/7) (Karras et al. 2022, eq. 5)."""
    first, last = (np.exp(-0.5 * s) for s in _end_log_snr(schedule))
    lowest, highest = EDM_RATIO_RANGE
    # A schedule that goes below the lowest ratio takes its last step from there to
    # t = 1. One that does not (or only by rounding) ends at its own lowest ratio.
    goes_below = last < 0.999 * lowest
    ends = np.array([min(first, highest), max(last, lowest)]) ** (1.0 / EDM_RHO)
    ratio = np.linspace(ends[0], ends[1], num_steps + (not goes_below)) ** EDM_RHO
    t = _times_of_ratio(schedule, ratio)
    return np.append(t, 1.0) if goes_below else t


_PLAIN: dict[str, Callable[[int], np.ndarray]] = {
    "uniform": _uniform,
    "cosine": _cosine,
    "quadratic": _quadratic,
}
_OF_SCHEDULE: dict[str, Callable[[int, Schedule], np.ndarray]] = {
    "log_snr": _log_snr,
    "edm": _edm,
}
_DILATED = ("dilated_vp", "dilated_ve")
TIME_GRIDS = (*_PLAIN, *_OF_SCHEDULE, *_DILATED, "table")
"""Names of time grids, the values of `sample.time_grid`."""


def _check_times(
    given: Sequence[float] | np.ndarray, num_steps: int | None
) -> np.ndarray:
    times = np.asarray(given, np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a time grid needs at least 2 times, got {times.shape}")
    if num_steps is not None and num_steps != len(times) - 1:
        raise ValueError(
            f"num_steps is {num_steps}, but the time grid has {len(times) - 1} steps"
        )
    if times[0] != 0.0 or times[-1] != 1.0:
        raise ValueError(
            f"a time grid runs from 0 to 1, got {times[0]:g} .. {times[-1]:g}"
        )
    return times


def _from_table(table: Sequence[Sequence[float]], num_steps: int) -> np.ndarray:
    """Spaces times evenly in the second column of a table."""
    columns = np.asarray(table, np.float64)
    valid = (
        columns.ndim == 2
        and columns.shape[0] >= 2
        and columns.shape[1] == 2
        and (columns[0] == 0.0).all()
        and (columns[-1] == 1.0).all()
        and (np.diff(columns, axis=0) >= 0).all()
    )
    if not valid:
        raise ValueError(
            "time grid 'table' needs pairs (t, share of the steps) that rise from "
            f"(0, 0) to (1, 1), got {str(table)[:200]}"
        )
    times, shares = columns.T
    return np.interp(np.linspace(0.0, 1.0, num_steps + 1), shares, times)


def make_time_grid(
    name: str | Sequence[float] | np.ndarray,
    num_steps: int | None = None,
    schedule: Schedule | None = None,
    *,
    dim: int | None = None,
    kappa: float = 5.0,
    table: Sequence[Sequence[float]] = (),
) -> np.ndarray:
    """Returns the times that a sampler visits, from noise to data.

    Args:
      name: One of `TIME_GRIDS`: `uniform`; `cosine`, denser at both ends;
        `quadratic`, denser towards data; `log_snr`, even in log-SNR; `edm`, even in
        the 7th root of sigma / alpha; `dilated_vp` and `dilated_ve`, half of the steps
        next to noise or to data, see `dilated_grids`; `table`, as given by `table`.
        The times themselves are accepted too.
      num_steps: Number of steps, at least 1; optional if times are given.
      schedule: The noise schedule; only `log_snr` and `edm` need it.
      dim: Number of values in a sample; only dilated grids need it.
      kappa: Width of their dilated part in units of 1 / sqrt(dim).
      table: For `table`, pairs (t, share of the steps done by then) that rise from
        (0, 0) to (1, 1), linear between; `fitted_grids.fit_time_table` makes one.

    Returns:
      num_steps + 1 strictly rising times, the first 0, the last 1, float64.

    Raises:
      ValueError: if the name does not exist, num_steps is below 1 or disagrees with
        the times given, a schedule is missing, or times coincide in float32.
    """
    if not isinstance(name, str):
        times = _check_times(name, num_steps)
    else:
        naming.require_choice("time grid", name, TIME_GRIDS)
        if num_steps is None or num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        if name in _OF_SCHEDULE:
            if schedule is None:
                raise ValueError(f"time grid {name!r} needs a schedule")
            times = _OF_SCHEDULE[name](num_steps, schedule)
        elif name in _DILATED:
            if dim is None:
                raise ValueError(f"time grid {name!r} needs dim, that of the data")
            times = make_dilated_grid(name, num_steps, dim, kappa)
        elif name == "table":
            times = _from_table(table, num_steps)
        else:
            times = _PLAIN[name](num_steps)
        times[0], times[-1] = 0.0, 1.0
    gaps = np.diff(times.astype(np.float32))
    if not (gaps > 0).all():
        place = int(np.argmin(gaps))
        raise ValueError(
            f"time grid does not rise after step {place}: "
            f"{times[place]:.9g}, {times[place + 1]:.9g} (in float32)"
        )
    return times
