"""Computes the information of noisy neighbours about a node of a Gaussian field.

Section 3 of arXiv 2507.09391 claims that noisier features need a larger range (Lemma
3.1, Theorem 3.2) and allow a coarser resolution. Both are exact for a Gaussian field
x ~ N(0, K) with correlations K on a grid, observed as y = alpha x + sigma eps at
SNR = alpha^2 / sigma^2. With the n nodes within radius r of node i, itself included,
C = mean_j K_ij and S = mean_jk K_jk,

  I(x_i; mean_j y_j) = -1/2 log(1 - C^2 / (S + 1 / (n SNR)))   nats.

As SNR -> 0 it is SNR n C^2 / 2, which is largest at a finite radius; as SNR -> inf it
tends to -1/2 log(1 - C^2 / S), without bound for the node alone.

Example: the node alone is more informative at little noise, its surroundings at much.

>>> alone, around = (moments(r, 2, "exponential", 3.0) for r in (0.0, 3.0))
>>> mean_information(100.0, alone) > mean_information(100.0, around)
True
>>> mean_information(0.01, alone) < mean_information(0.01, around)
True
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

KERNELS = ("exponential", "squared_exponential")


class Moments(NamedTuple):
    """Moments of a neighbourhood in the lemma.

    Attributes:
      num_nodes: Number n of nodes, the centre included.
      to_centre: Mean correlation C with the centre.
      within: Mean correlation S of all pairs.
    """

    num_nodes: int
    to_centre: float
    within: float


def correlation(kernel: str, distance: ArrayLike, length: float) -> np.ndarray:
    """Returns exp(-d / length), or exp(-d^2 / (2 length^2)), elementwise.

    Args:
      kernel: One of `KERNELS`.
      distance: Distance in grid spacings, any shape.
      length: Correlation length in grid spacings.

    Raises:
      ValueError: If there is no such kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel: found {kernel!r}; allowed: {', '.join(KERNELS)}")
    scaled = np.asarray(distance, float) / length
    return np.exp(-scaled if kernel == "exponential" else -0.5 * scaled**2)


def offsets_within(radius: float, dim: int) -> np.ndarray:
    """Returns the grid points at most `radius` from the origin, [node, dim]."""
    reach = math.floor(radius)
    axis = np.arange(-reach, reach + 1)
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    # Squares of whole numbers; the tolerance keeps sqrt(2)^2 inside.
    return points[(points**2).sum(-1) <= radius**2 + 1e-9]


def pair_correlation(points: np.ndarray, kernel: str, length: float) -> np.ndarray:
    """Returns the correlations of all pairs of points [node, dim], [node, node]."""
    gaps = points[:, None] - points[None]
    return correlation(kernel, np.sqrt((gaps**2).sum(-1)), length)


@functools.lru_cache(maxsize=512)
def moments(radius: float, dim: int, kernel: str, length: float) -> Moments:
    """Returns n, C and S of the nodes within a radius on an endless grid.

    Args:
      radius: Radius in grid spacings, >= 0.
      dim: Dimension of the grid.
      kernel: One of `KERNELS`.
      length: Correlation length in grid spacings.
    """
    points = offsets_within(radius, dim)
    to_centre = correlation(kernel, np.sqrt((points**2).sum(-1)), length).mean()
    within = pair_correlation(points, kernel, length).mean()
    return Moments(len(points), float(to_centre), float(within))


def mean_information(snr: float, around: Moments) -> float:
    """Returns I(x_i; mean of noisy neighbours), nats (Lemma 3.1); see the module."""
    noise = 1.0 / (around.num_nodes * snr)
    return -0.5 * math.log1p(-(around.to_centre**2) / (around.within + noise))


def weighted_information(
    snr: float, radius: float, dim: int, kernel: str, length: float
) -> float:
    """Returns I(x_i; all noisy neighbours), nats, the information of the best weights.

    It is 1/2 log 1 / (1 - c' (K + I / SNR)^-1 c), c the correlations with the centre.
    Unlike that of the mean it never falls with the radius.

    Args:
      snr: Signal-to-noise ratio, > 0.
      radius: Radius in grid spacings.
      dim: Dimension of the grid.
      kernel: One of `KERNELS`.
      length: Correlation length in grid spacings.
    """
    points = offsets_within(radius, dim)
    to_centre = correlation(kernel, np.sqrt((points**2).sum(-1)), length)
    noisy = pair_correlation(points, kernel, length) + np.eye(len(points)) / snr
    return -0.5 * math.log1p(-to_centre @ np.linalg.solve(noisy, to_centre))


def best_radius(
    snr: float, radii: Sequence[float], dim: int, kernel: str, length: float
) -> float:
    """Returns the radius with the most informative mean."""
    found = [mean_information(snr, moments(r, dim, kernel, length)) for r in radii]
    return radii[int(np.argmax(found))]


def crossover_snr(near: Moments, far: Moments) -> float | None:
    """Returns the SNR below which the larger neighbourhood is more informative.

    SNR* = (C2^2 / n1 - C1^2 / n2) / (C1^2 S2 - C2^2 S1) exists where the larger (2)
    wins at SNR -> 0, n2 C2^2 > n1 C1^2, and loses at SNR -> inf, C1^2 / S1 > C2^2 / S2.

    Args:
      near: The smaller neighbourhood.
      far: The larger one.

    Returns:
      SNR*; None if the smaller wins as SNR -> 0, infinity if the larger wins at every
      SNR.
    """
    gain = far.to_centre**2 / near.num_nodes - near.to_centre**2 / far.num_nodes
    loss = near.to_centre**2 * far.within - far.to_centre**2 * near.within
    if gain <= 0:
        return None
    return gain / loss if loss > 0 else math.inf


def continuum_radius(kernel: str, dim: int) -> float:
    """Returns u* = r*/length of a fine grid as SNR -> 0, from its equation.

    n C^2 is proportional to f(u)^2 / u^dim with f(u) = int_0^u K(v) v^(dim-1) dv, so
    that 2 u^dim K(u) = dim f(u) at its maximum.

    Args:
      kernel: One of `KERNELS`.
      dim: Dimension of the grid, 1 or 2.
    """

    def slope(u: float) -> float:
        rise = 2.0 * u**dim * float(correlation(kernel, u, 1.0))
        return rise - dim * _kernel_mass(kernel, dim, u)

    return brentq(slope, 0.5, 5.0, xtol=1e-13)


def _kernel_mass(kernel: str, dim: int, u: float) -> float:
    """Returns int_0^u K(v) v^(dim-1) dv in closed form."""
    closed = {
        ("exponential", 1): lambda: -math.expm1(-u),
        ("exponential", 2): lambda: 1.0 - (1.0 + u) * math.exp(-u),
        ("squared_exponential", 1): lambda: (
            math.sqrt(math.pi / 2) * math.erf(u / math.sqrt(2))
        ),
        ("squared_exponential", 2): lambda: -math.expm1(-0.5 * u**2),
    }
    return closed[kernel, dim]()


def continuum_radius_by_search(kernel: str, dim: int) -> float:
    """Returns u* by maximising n C^2 on a fine grid, integrals by the trapezoid rule.

    A parabola through the largest value and its two neighbours refines the maximum.

    Args:
      kernel: One of `KERNELS`.
      dim: Dimension of the space.
    """
    step = 1e-4
    u = np.arange(1, int(5.0 / step)) * step
    density = correlation(kernel, u, 1.0) * u ** (dim - 1)
    at_zero = 1.0 if dim == 1 else 0.0
    before = np.concatenate([[at_zero], density[:-1]])
    value = np.cumsum(0.5 * step * (before + density)) ** 2 / u**dim
    top = int(np.argmax(value))
    below, peak, above = value[top - 1 : top + 2]
    return u[top] + 0.5 * step * (below - above) / (below - 2 * peak + above)


def grid_points(side: int) -> np.ndarray:
    """Returns the points of a square grid, [side * side, 2], second axis fastest."""
    return np.stack(np.divmod(np.arange(side**2), side), -1)


def block_means(side: int, shape: tuple[int, int]) -> np.ndarray:
    """Returns the matrix that averages a square grid over blocks, [block, node].

    Args:
      side: Number of nodes along each side of the grid.
      shape: Number of nodes along each side of a block.

    Raises:
      ValueError: If blocks of this shape do not tile the grid.
    """
    if side % shape[0] or side % shape[1]:
        raise ValueError(f"blocks of {shape} do not tile a grid of side {side}")
    row, column = np.divmod(np.arange(side**2), side)
    block = (row // shape[0]) * (side // shape[1]) + column // shape[1]
    member = block[None] == np.arange(block.max() + 1)[:, None]
    return member / (shape[0] * shape[1])


def block_spectrum(covariance: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the eigenvalues of n P K P', signal over noise of block means at SNR 1.

    The factor n arises because a mean of n nodes has 1/n of a node's noise variance.

    Args:
      covariance: Covariance K of the field, [node, node].
      means: Averages P over equal blocks, [block, node].
    """
    size = means.shape[1] / means.shape[0]
    values = np.linalg.eigvalsh(size * means @ covariance @ means.T)
    return np.maximum(values, 0.0)


def field_information(snr: float, spectrum: np.ndarray) -> float:
    """Returns I(X; P Y) = 1/2 log det(I + SNR n P K P'), nats, from the spectrum."""
    return 0.5 * float(np.log1p(snr * spectrum).sum())
