"""Measures sliced optimal transport between large sets of points.

Exact transport between two sets of n points costs about n^3. Between their projections
on a line it is a sort. The sliced distance averages over lines (Bonneel et al. 2015,
"Sliced and Radon Wasserstein barycenters of measures").

Example:
  >>> import numpy as np
  >>> points = np.random.default_rng(0).normal(size=(500, 2))
  >>> round(sliced_wasserstein(points, points[::-1]), 12)
  0.0
"""

import numpy as np
from numpy.typing import ArrayLike


def sliced_wasserstein(
    a: ArrayLike, b: ArrayLike, num_projections: int = 128, seed: int = 0
) -> float:
    """Measures the sliced 2-Wasserstein distance between two sets of points.

    SW2 = sqrt( mean_u W2(u . a, u . b)^2 ) over directions u drawn uniformly from
    the sphere. W2 on a line is exact, by quantile functions, also for sets of
    different size. SW2 has the unit of the coordinates and is not divided by the
    dimension D. A shift by v gives |v| / sqrt(D) on average over directions, where W2
    itself is |v|. Finite sets of one distribution do not give 0, so compare with fresh
    data of the same size.

    Args:
      a: Points, [S, D].
      b: Points, [T, D].
      num_projections: Number of directions, >= 1.
      seed: Seed of the directions; equal seeds compare along equal directions.

    Returns:
      SW2 >= 0.

    Raises:
      ValueError: If shapes do not fit, a set is empty, a coordinate is not finite or
        there is no projection.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            "sets must be [points, dimensions] with equal dimensions; "
            f"got {a.shape} and {b.shape}"
        )
    if not (a.size and b.size):
        raise ValueError(f"sets must not be empty; got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a coordinate is not finite")
    if num_projections < 1:
        raise ValueError(f"num_projections must be at least 1, got {num_projections}")
    directions = np.random.default_rng(seed).normal(size=(num_projections, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Imported here because it takes seconds and looks for every array library.
    import ot

    return float(ot.sliced_wasserstein_distance(a, b, projections=directions.T))
