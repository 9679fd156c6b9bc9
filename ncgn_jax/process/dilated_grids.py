"""Makes dilated time grids: half of the steps where high-dimensional data is decided.

For data of dimension d whose modes have norm sqrt(d), sampled along
x_t = t data + c (1 - t) noise, the sample is decided in a window that narrows with d:

  c = 1 (VP)        the choice of the mode, while t is about 1 / sqrt(d);
  c = sqrt(d) (VE)  the shape of the mode, while 1 - t is about 1 / sqrt(d).

A grid of equal steps needs about sqrt(d) of them to resolve that window. A dilated grid
(arXiv 2501.00988) gives one half of its steps to the window, of width
kappa / sqrt(d), and the other half to the rest of [0, 1]:

>>> make_dilated_grid("dilated_ve", 4, dim=400, kappa=5.0).tolist()
[0.0, 0.375, 0.75, 0.875, 1.0]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ncgn_jax.process import naming


def constant_times(pace: ArrayLike, dim: float, kappa: float) -> np.ndarray:
    """Returns the pace itself, so that t rises by the same amount in each step."""
    del dim, kappa
    return np.asarray(pace, np.float64)


def dilate_vp(pace: ArrayLike, dim: float, kappa: float) -> np.ndarray:
    """Slows time down next to noise, for noise of variance 1.

    With w = kappa / sqrt(d):  t = 2 w s                    for s < 1/2,
                               t = w + (1 - w) (2 s - 1)    otherwise.

    Args:
      pace: The share s of the steps done, in [0, 1], any shape.
      dim: Dimension d of the data.
      kappa: Width of the window in units of 1 / sqrt(d), in (0, sqrt(d)).

    Returns:
      Times t, shape of `pace`.
    """
    pace, window = np.asarray(pace, np.float64), kappa / np.sqrt(dim)
    beyond = window + (1.0 - window) * (2.0 * pace - 1.0)
    return np.where(pace < 0.5, 2.0 * window * pace, beyond)


def dilate_ve(pace: ArrayLike, dim: float, kappa: float) -> np.ndarray:
    """Slows time down next to data, for noise of variance d.

    With w = kappa / sqrt(d):  t = (1 - w) 2 s       for s < 1/2,
                               t = 1 - w (2 - 2 s)   otherwise.

    Args:
      pace: The share s of the steps done, in [0, 1], any shape.
      dim: Dimension d of the data.
      kappa: Width of the window in units of 1 / sqrt(d), in (0, sqrt(d)).

    Returns:
      Times t, shape of `pace`.
    """
    pace, window = np.asarray(pace, np.float64), kappa / np.sqrt(dim)
    inside = 1.0 - window * (2.0 - 2.0 * pace)
    return np.where(pace < 0.5, (1.0 - window) * 2.0 * pace, inside)


def dilate_ve_trigonometric(pace: ArrayLike, dim: float, kappa: float) -> np.ndarray:
    """Slows time down next to data, for sigma = sqrt(d) sqrt(1 - t^2).

    With w = kappa / sqrt(d):  t = sqrt(1 - w^2) 2 s              for s < 1/2,
                               t = sqrt(1 - w^2 (2 - 2 s)^2)      otherwise,
    so that sigma falls by equal amounts inside the window.

    Args:
      pace: The share s of the steps done, in [0, 1], any shape.
      dim: Dimension d of the data.
      kappa: Width of the window in units of 1 / sqrt(d), in (0, sqrt(d)).

    Returns:
      Times t, shape of `pace`.
    """
    pace, window = np.asarray(pace, np.float64), kappa / np.sqrt(dim)
    inside = np.sqrt(1.0 - (window * np.clip(2.0 - 2.0 * pace, 0.0, 1.0)) ** 2)
    return np.where(pace < 0.5, np.sqrt(1.0 - window**2) * 2.0 * pace, inside)


_DILATIONS: dict[str, Callable[[ArrayLike, float, float], np.ndarray]] = {
    "constant": constant_times,
    "dilated_vp": dilate_vp,
    "dilated_ve": dilate_ve,
    "dilated_ve_trigonometric": dilate_ve_trigonometric,
}
DILATED_GRIDS = tuple(_DILATIONS)
"""Names of the time grids that `make_dilated_grid` makes."""


def make_dilated_grid(
    name: str, num_steps: int, dim: float, kappa: float = 5.0
) -> np.ndarray:
    """Returns the times that a sampler visits, from noise to data.

    Args:
      name: One of `DILATED_GRIDS`: `constant`, equal steps; `dilated_vp` for noise
        of variance 1; `dilated_ve` for noise of variance d that falls linearly, and
        `dilated_ve_trigonometric` for one that falls as sqrt(1 - t^2).
      num_steps: Number of steps, at least 1; if even, one time is the window's edge.
      dim: Dimension d of the data, at least 1.
      kappa: Width of the window in units of 1 / sqrt(d), above 0; the published
        experiments use 3 and 5. From sqrt(d) on the window is all of [0, 1] and the
        steps are equal.

    Returns:
      num_steps + 1 strictly rising times, the first 0, the last 1, float64. In a
      very high dimension they may coincide in float32.

    Raises:
      ValueError: if the name does not exist or a number is out of range.
    """
    naming.require_choice("dilated grid", name, DILATED_GRIDS)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not dim >= 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    dilate = _DILATIONS[name if kappa**2 < dim else "constant"]
    times = dilate(np.linspace(0.0, 1.0, num_steps + 1), dim, kappa)
    times[0], times[-1] = 0.0, 1.0
    return times
