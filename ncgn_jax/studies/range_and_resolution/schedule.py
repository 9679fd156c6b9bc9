"""Derives a range/resolution schedule from the gains of graphs of equal cost.

Section 4.1 of arXiv 2507.09391 fixes only the ends and the direction of the number
of supernodes s as a function of the noise. This module chooses, at each signal level,
the s whose graph, with k N / s neighbours, explains most of the data's variance; then
it takes the nearest choice that never falls as the signal level rises.

Example: coarse at much noise, fine at little, in the form that `RangeResolution` takes.

>>> gains = np.array([[0.3, 0.2, 0.1], [0.2, 0.3, 0.1], [0.1, 0.2, 0.3]])
>>> derive_schedule((0.25, 0.5, 0.75), (0.0, 0.25, 1.0), gains)
((0.0, 0.0), (0.25, 0.0), (0.5, 0.25), (0.75, 1.0), (1.0, 1.0))
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from ncgn_jax.graphs import RangeResolution, nearest_neighbors
from ncgn_jax.graphs.fitted_schedules import Table, check_rising, table_of_weights
from ncgn_jax.graphs.range_resolution import (
    num_supernodes_exact,
    supernodes_of_weight,
)
from ncgn_jax.studies.range_and_resolution.mutual_information import (
    block_means,
    grid_points,
)

# Least share beyond the point alone at which one choice counts as better.
_LEAST_GAIN = 1e-3


def field_gains(
    snrs: Sequence[float],
    covariance: np.ndarray,
    side: int,
    blocks: Sequence[tuple[int, int]],
    num_neighbors: int,
) -> np.ndarray:
    """Returns the gains of graphs of equal cost over the node alone, Gaussian fields.

    A node sees its own y_i, the mean of its block, and the mean over the
    ceil(k N / s) blocks nearest to its own. Its gain is

      1 - Var(x_i | y_i, block mean, neighbours' mean) / Var(x_i | y_i),

    variances averaged over the nodes of a square grid. It combines range (Lemma 3.1)
    and resolution at equal cost.

    Args:
      snrs: Signal-to-noise ratios alpha^2 / sigma^2, > 0, [level].
      covariance: Correlations of the field, [node, node].
      side: Number of nodes along each side of the grid.
      blocks: Shapes of the blocks, [size].
      num_neighbors: Number k of neighbours on the full graph.

    Returns:
      Share of the variance explained beyond the node, in [0, 1], [level, size].
    """
    gains = np.empty((len(snrs), len(blocks)))
    for place, shape in enumerate(blocks):
        features = _equal_cost_features(side, shape, num_neighbors)
        filtered = [matrix @ covariance for matrix in features]
        to_node = np.stack([np.diagonal(matrix) for matrix in filtered], axis=-1)
        signal = np.stack(
            [[(a * b).sum(-1) for b in features] for a in filtered], axis=0
        ).transpose(2, 0, 1)  # [node, feature, feature]
        noise = np.stack(
            [[(a * b).sum(-1) for b in features] for a in features], axis=0
        ).transpose(2, 0, 1)
        for row, snr in enumerate(snrs):
            weights = np.linalg.solve(signal + noise / snr, to_node[..., None])
            explained = np.einsum("nf,nf->n", to_node, weights[..., 0])
            gains[row, place] = 1.0 - (1.0 - explained).mean() * (1.0 + snr)
    return gains


def _equal_cost_features(
    side: int, shape: tuple[int, int], num_neighbors: int
) -> list[np.ndarray]:
    """Returns the matrices [node, node] from y to the features of each node."""
    means = block_means(side, shape)  # [block, node]
    num_blocks, num_nodes = means.shape
    member = (means > 0).T.astype(float)  # [node, block]
    degree = min(num_blocks - 1, math.ceil(num_neighbors * num_nodes / num_blocks))
    senders, _ = nearest_neighbors(means @ grid_points(side), degree)
    around = means[np.asarray(senders)].mean(axis=1)  # [block, node]
    own = [] if num_blocks == num_nodes else [member @ means]
    return [np.eye(num_nodes), *own, member @ around]


def relative_gains(gains: np.ndarray) -> np.ndarray:
    """Returns gains over the best of their level, zero where that is negligible.

    Args:
      gains: Share explained beyond the point, [level, size].
    """
    best = gains.max(axis=1, keepdims=True)
    relative = np.maximum(gains, 0.0) / np.maximum(best, _LEAST_GAIN)
    return np.where(best > _LEAST_GAIN, relative, 0.0)


def derive_schedule(
    levels: Sequence[float], weights: Sequence[float], gains: np.ndarray
) -> Table:
    """Chooses a range/resolution schedule from the gains of each size.

    Isotonic regression makes the best sizes of the levels non-decreasing. The weight
    of a level is the range of its relative gains.

    Args:
      levels: Signal levels, rising within (0, 1), [level].
      weights: Weights u of the sizes, rising, [size].
      gains: Gain of each size at each level, [level, size].

    Returns:
      Pairs (signal level, u) for `RangeResolution(name="table")`, constant beyond the
      outermost levels.

    Raises:
      ValueError: If the shapes do not fit, or levels or weights do not rise.
    """
    gains = np.asarray(gains, float)
    if gains.shape != (len(levels), len(weights)):
        raise ValueError(
            f"gains must be [{len(levels)}, {len(weights)}], found {gains.shape}"
        )
    check_rising(levels, weights)
    relative = relative_gains(gains)
    # Ties, and levels without gains, go to the coarsest.
    chosen = np.asarray(weights, float)[np.argmax(relative, axis=1)]
    stake = np.ptp(relative, axis=1)
    fitted = isotonic_regression(chosen, weights=np.maximum(stake, 1e-9)).x
    return table_of_weights(levels, fitted)


def resample_gains(
    weights: Sequence[float],
    gains: np.ndarray,
    at: ArrayLike,
    num_nodes: int,
    num_neighbors: int,
) -> np.ndarray:
    """Interpolates gains at other u, linearly in log s.

    Args:
      weights: Weights u of the columns of `gains`, rising, [size].
      gains: Gains, [level, size].
      at: Weights u of the result, [level, other] or [other].
      num_nodes: Number N of nodes of the graphs of size s.
      num_neighbors: Their number k of neighbours.

    Returns:
      Gains, [level, other].
    """

    def log_size(u: ArrayLike) -> np.ndarray:
        u = np.asarray(u, float)
        return np.log(supernodes_of_weight(u, num_nodes, num_neighbors))

    places = np.broadcast_to(log_size(at), (len(gains), np.shape(at)[-1]))
    known = log_size(weights)
    rows = zip(places, gains, strict=True)
    return np.stack([np.interp(place, known, row) for place, row in rows])


def share_kept(
    schedule: RangeResolution,
    levels: Sequence[float],
    weights: Sequence[float],
    gains: np.ndarray,
    num_nodes: int,
    num_neighbors: int,
) -> float:
    """Returns the total gain of a schedule over that of the best size of each level.

    Args:
      schedule: The schedule.
      levels: Signal levels, [level].
      weights: Weights u of the sizes, [size].
      gains: Gains, [level, size].
      num_nodes: Number N of nodes.
      num_neighbors: Number k of neighbours.
    """
    at = np.array([[schedule.weight(level)] for level in levels])
    found = resample_gains(weights, gains, at, num_nodes, num_neighbors)
    return float(found.sum() / gains.max(axis=1).sum())


def distance_in_octaves(
    schedule: RangeResolution,
    other: RangeResolution,
    levels: Sequence[float],
    num_nodes: int,
    num_neighbors: int,
) -> float:
    """Returns the mean over levels of |log2 s - log2 s'|, in halvings of the graph.

    Args:
      schedule: One schedule.
      other: Another schedule.
      levels: Signal levels, [level].
      num_nodes: Number N of nodes.
      num_neighbors: Number k of neighbours.
    """
    sizes = [
        [num_supernodes_exact(level, num_nodes, num_neighbors, s) for level in levels]
        for s in (schedule, other)
    ]
    return float(np.abs(np.diff(np.log2(sizes), axis=0)).mean())
