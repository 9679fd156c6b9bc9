"""Computes simple statistics of clouds, and compares two sets by them.

They show in which way samples are wrong: too narrow, too blurred, not flat where
surfaces should be flat, or with clumped points.

Example:
  >>> import numpy as np
  >>> clouds = np.random.default_rng(0).normal(size=(8, 50, 3))
  >>> statistics = cloud_statistics(clouds)
  >>> statistics_distance(statistics, statistics)["std"]
  0.0
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

CloudStatistics = Mapping[str, NDArray[np.float64]]


def cloud_statistics(clouds: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Computes statistics of every cloud, lengths in the unit of the coordinates.

    - `std`: root of the squared distance to the centroid, averaged over points and
      axes; `std_0`, `std_1`, ...: the same for one axis.
    - `extent`: longest side of the bounding box; `extent_0`, ...: each side.
    - `planarity`: smallest over largest eigenvalue of the covariance, in [0, 1]. 0
      for a flat cloud or a single place, near 1 for a ball.
    - `nearest_distance`: mean distance from a point to its nearest other point
      (coinciding points count with 0).
    - `num_stray`: points further from all others than three times that distance.

    Args:
      clouds: Clouds, [S, N, D] with N > 1, finite.

    Returns:
      Statistics by name, each [S].

    Raises:
      ValueError: If the shape is wrong or a coordinate is not finite.
    """
    clouds = np.asarray(clouds, np.float64)
    if clouds.ndim != 3 or clouds.shape[1] < 2:
        raise ValueError(f"clouds must be [S, N > 1, D]; got {clouds.shape}")
    if not np.isfinite(clouds).all():
        raise ValueError("clouds hold coordinates that are not finite")
    centred = clouds - clouds.mean(axis=1, keepdims=True)
    nearest = np.stack([_nearest_distances(cloud) for cloud in clouds])
    usual = nearest.mean(axis=1)
    variance = np.square(centred).mean(axis=1)  # [cloud, dim]
    sides = np.ptp(clouds, axis=1)
    statistics = {
        "std": np.sqrt(variance.mean(axis=1)),
        "extent": sides.max(axis=1),
        "planarity": _planarity(centred),
        "nearest_distance": usual,
        "num_stray": np.sum(nearest > 3 * usual[:, None], axis=1, dtype=np.float64),
    }
    for axis in range(clouds.shape[2]):
        statistics[f"std_{axis}"] = np.sqrt(variance[:, axis])
        statistics[f"extent_{axis}"] = sides[:, axis]
    return statistics


def statistics_distance(
    generated: CloudStatistics, reference: CloudStatistics
) -> dict[str, float]:
    """Compares the distribution of every statistic over two sets.

    Uses the one-dimensional 1-Wasserstein distance int |F_g - F_r|, in the unit of the
    statistic: 0.01 for `std` is as if every cloud were 0.01 too wide.

    Args:
      generated: Output of `cloud_statistics`, [S] each.
      reference: The same for the reference, [T] each.

    Returns:
      Distance by name of the statistic.

    Raises:
      ValueError: If the two hold different statistics.
    """
    if set(generated) != set(reference):
        raise ValueError(
            f"statistics differ: {sorted(generated)} and {sorted(reference)}"
        )
    # Takes as long to import as all of jax.
    from scipy.stats import wasserstein_distance

    return {
        name: float(wasserstein_distance(values, reference[name]))
        for name, values in generated.items()
    }


def _planarity(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    covariance = np.einsum("snd,sne->sde", centred, centred) / centred.shape[1]
    eigenvalues = np.linalg.eigvalsh(covariance)  # ascending
    smallest, largest = np.maximum(eigenvalues[:, 0], 0.0), eigenvalues[:, -1]
    return np.divide(smallest, largest, out=np.zeros_like(smallest), where=largest > 0)


def _nearest_distances(cloud: NDArray[np.float64]) -> NDArray[np.float64]:
    distances, _ = cKDTree(cloud).query(cloud, k=2)
    return distances[:, 1]
