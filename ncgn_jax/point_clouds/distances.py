"""Measures point clouds in ways that do not depend on the order of the points.

Distances between clouds (`chamfer_matrix`, `emd_matrix`) feed scores of whole sets
(1-NN accuracy, coverage, MMD), as in PointFlow (Yang et al. 2019, section 5.1).
All of them scale with the coordinates, or with their square.

Example:
  >>> import numpy as np
  >>> a = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)
  >>> d = chamfer_matrix(a)                             # [4, 4], zero diagonal
  >>> coverage(d), minimum_matching_distance(d)
  (1.0, 0.0)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ncgn_jax.metrics.transport import all_pairs, emd_pairs

# Clouds per vector operation. Coordinates and running minima of 64 clouds of 400
# points fit a core's cache.
_CLOUDS_PER_BLOCK = 64
# Share of reference points outside of the cube of the JSD.
_MOST_OUTSIDE = 0.1


def chamfer_matrix(a: ArrayLike, b: ArrayLike | None = None) -> NDArray[np.float64]:
    """Computes the Chamfer distance between every cloud of a and every cloud of b.

    CD(P, Q) = 1/|P| sum_p min_q |p - q|^2 + 1/|Q| sum_q min_p |p - q|^2, with squared
    distances as in PointFlow, so that it scales with the square of the coordinates.
    Differences are squared directly, because |p|^2 - 2pq + |q|^2 cancels in float32.
    Equal clouds are at exactly 0.

    Args:
      a: Clouds, [S, N, D].
      b: Clouds, [T, M, D]; None compares a with itself at half the cost.

    Returns:
      Distances, [S, T], >= 0, computed in float32, after centring where clouds lie
      far from the origin.

    Raises:
      ValueError: If the shapes do not fit, or a set is empty.
    """
    a = np.asarray(a)
    if b is None:
        _check_ranks(a, a)
        (a,) = _near_origin(a)
        forth = _directed(a, a)
        return forth + forth.T
    b = np.asarray(b)
    _check_ranks(a, b)
    a, b = _near_origin(a, b)
    return _directed(a, b) + _directed(b, a).T


def one_way_distances(points: NDArray, clouds: NDArray) -> NDArray[np.float64]:
    """Computes how far points lie from each of some clouds: half of a Chamfer distance.

    d(P, Q) = 1/|P| sum_p min_q |p - q|^2, small where P is a part of Q. Trees compile
    nothing, so that any number of points costs no waiting.

    Args:
      points: [point, D].
      clouds: [cloud, N, D].

    Returns:
      Distances, [cloud].
    """
    return np.asarray(
        [np.mean(cKDTree(cloud).query(points)[0] ** 2) for cloud in clouds]
    )


def emd_matrix(a: ArrayLike, b: ArrayLike | None = None) -> NDArray[np.float64]:
    """Computes the exact earth mover's distance between all pairs of two sets.

    EMD(P, Q) = min_sigma 1/N sum_n |p_n - q_sigma(n)|_2, the mean distance between
    points under the optimal matching, in the unit of the coordinates (PointFlow
    reports an approximation). A pair of 400-point clouds takes about 5 ms on two
    cores, so use it on subsets.

    Args:
      a: Clouds, [S, N, D].
      b: Clouds with as many points, [T, N, D]; None compares a with itself at half
        the cost.

    Returns:
      Distances, [S, T].

    Raises:
      ValueError: If the shapes do not fit or a coordinate is not finite.
    """
    a = np.asarray(a)
    if b is not None:
        b = np.asarray(b)
        pairs = all_pairs(len(a), len(b))
        return emd_pairs(a, b, pairs).reshape(len(a), len(b))
    rows, columns = np.triu_indices(len(a), k=1)
    pairs = np.stack([rows, columns], axis=1)
    matrix = np.zeros((len(a), len(a)))
    matrix[rows, columns] = emd_pairs(a, a, pairs)
    return matrix + matrix.T


def nearest_neighbor_halves(
    d_gg: ArrayLike, d_gr: ArrayLike, d_rr: ArrayLike
) -> tuple[float, float]:
    """Scores how well a leave-one-out 1-NN classifier knows each of the two sets.

    Share of the S clouds of each set whose nearest other cloud belongs to their own
    (1-NNA, Lopez-Paz & Oquab 2017, is the mean of both). Of two samples of one law each
    is 0.5; **a mean of 0.5 is perfect.** 1 means that the sets are always separated
    (blurred, collapsed or foreign samples). Below 0.5, generated clouds are closer to
    single reference clouds than those are to each other, as copies are. Generated
    clouds known too often are too much alike, or unlike all real ones. Reference clouds
    known too often have no sample near them: the samples cover too little. Tied nearest
    neighbours share their vote. The 0.5 holds for sets of equal size only, so other
    sizes are refused.

    Args:
      d_gg: Distances among generated clouds, [S, S].
      d_gr: Distances from generated to reference clouds, [S, S].
      d_rr: Distances among reference clouds, [S, S].

    Returns:
      Accuracy on generated and on reference clouds, in [0, 1]; NaN if a distance is.

    Raises:
      ValueError: If the three matrices are not all [S, S] with S > 1.
    """
    d_gg, d_gr, d_rr = (np.asarray(d) for d in (d_gg, d_gr, d_rr))
    size = len(d_gr)
    shapes = {d_gg.shape, d_gr.shape, d_rr.shape}
    if shapes != {(size, size)} or size < 2:
        raise ValueError(
            "1-NN accuracy needs two sets of equal size > 1; got d_gg "
            f"{d_gg.shape}, d_gr {d_gr.shape}, d_rr {d_rr.shape}"
        )
    distances = np.block([[d_gg, d_gr], [d_gr.T, d_rr]]).astype(np.float64)
    if np.isnan(distances).any():
        return float("nan"), float("nan")
    np.fill_diagonal(distances, np.inf)
    nearest = distances == distances.min(axis=1, keepdims=True)
    is_reference = np.arange(2 * size) >= size
    same_set = is_reference[:, None] == is_reference[None, :]
    votes = (nearest & same_set).sum(axis=1) / nearest.sum(axis=1)
    return float(votes[:size].mean()), float(votes[size:].mean())


def coverage(d_gr: ArrayLike) -> float:
    """Measures the share of reference clouds that are nearest to some sample.

    COV = |{argmin_r d(g, r) : g}| / T (PointFlow). Higher is better. It depends on the
    sizes: it is at most S / T, and two halves of real data reach only about 0.5.

    Args:
      d_gr: Distances from generated to reference clouds, [S, T].

    Returns:
      Share in [0, 1]; NaN if a distance is.
    """
    d_gr = np.asarray(d_gr)
    if np.isnan(d_gr).any():
        return float("nan")
    return len(np.unique(d_gr.argmin(axis=1))) / d_gr.shape[1]


def minimum_matching_distance(d_gr: ArrayLike) -> float:
    """Averages the distance from reference clouds to their nearest sample.

    MMD = 1/T sum_r min_g d(g, r) (PointFlow), in the unit of the distances. Lower is
    better. It falls with the number of samples and ignores bad ones.

    Args:
      d_gr: Distances from generated to reference clouds, [S, T].

    Returns:
      Mean distance, >= 0.
    """
    return float(np.asarray(d_gr).min(axis=0).mean())


def jensen_shannon_divergence(
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    resolution: int = 28,
    half_width: float = 1.0,
) -> float:
    """Compares the distributions of single points of two sets.

    JSD(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2 in **bits**, of the shares of points
    in resolution^D equal cells of the cube [-half_width, half_width]^D; points
    outside count in the nearest cell. It is 0 for equal shares and 1 for disjoint
    ones. PointFlow uses grid points in place of cells. Shuffling points between the
    clouds of a set leaves it unchanged.

    Args:
      generated: Generated clouds, [S, N, D].
      reference: Reference clouds, [T, M, D], in the same scaling.
      resolution: Cells per side.
      half_width: Half the side of the cube, in the unit of the coordinates.

    Returns:
      Divergence in [0, 1] bits.

    Raises:
      ValueError: If the shapes do not fit, a set is empty, or much of the reference
        lies outside of the cube, where all counts for the same.
    """
    generated, reference = np.asarray(generated), np.asarray(reference)
    _check_ranks(generated, reference)
    outside = np.mean(np.abs(reference).max(axis=-1) > half_width)
    if outside > _MOST_OUTSIDE:
        raise ValueError(
            f"half_width: found {half_width:g}, and {100 * outside:.0f}% of the "
            f"reference points outside of the cube; allowed: up to "
            f"{100 * _MOST_OUTSIDE:.0f}%; centre and scale both sets, or widen it"
        )
    p = _occupancy(generated, resolution, half_width)
    q = _occupancy(reference, resolution, half_width)
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return float(np.clip(divergence, 0.0, 1.0))  # rounding may leave [0, 1]


def _occupancy(
    clouds: NDArray[np.floating], resolution: int, half_width: float
) -> NDArray[np.float64]:
    points = clouds.reshape(-1, clouds.shape[-1])
    cells = np.floor((points / half_width + 1.0) / 2.0 * resolution)
    cells = np.clip(cells, 0, resolution - 1).astype(np.int64)
    shape = (resolution,) * points.shape[1]
    flat = np.ravel_multi_index(tuple(cells.T), shape)
    return np.bincount(flat, minlength=resolution ** len(shape)) / len(points)


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _directed(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the mean squared distance from points of a to their nearest in b."""
    block = min(_CLOUDS_PER_BLOCK, len(a))
    padding = -len(a) % block
    padded = np.pad(a, ((0, padding), (0, 0), (0, 0)), mode="edge")
    rows = _directed_blocks(padded, b, block)
    return np.asarray(rows, np.float64)[: len(a)]


@functools.partial(jax.jit, static_argnames="block")
def _directed_blocks(a: jax.Array, b: jax.Array, block: int) -> jax.Array:
    """Computes `_directed` with a running minimum for a whole block of a at once.

    The long axis (all points of a block) stays innermost, so that the compiler emits
    plain vector code. On CPU it is 5 to 10 times faster than reducing a matrix of
    distances along its rows.
    """
    num_clouds, num_points, dim = a.shape
    blocks = a.reshape(num_clouds // block, block * num_points, dim)
    blocks = jnp.swapaxes(blocks, 1, 2)  # [blocks, D, block * N]

    def to_cloud(targets: jax.Array, points: jax.Array) -> jax.Array:
        def to_point(best: jax.Array, point: jax.Array) -> tuple[jax.Array, None]:
            squared = sum(jnp.square(points[d] - point[d]) for d in range(dim))
            return jnp.minimum(best, squared), None

        best = jnp.full(points.shape[1], jnp.inf, points.dtype)
        best, _ = lax.scan(to_point, best, targets, unroll=8)
        return best.reshape(block, num_points).mean(axis=1)

    def to_set(points: jax.Array) -> jax.Array:
        return lax.map(lambda targets: to_cloud(targets, points), b)  # [T, block]

    return jnp.swapaxes(lax.map(to_set, blocks), 1, 2).reshape(num_clouds, -1)


def _near_origin(*sets: NDArray) -> tuple[NDArray[np.float32], ...]:
    """Returns sets as float32, moved together if they lie farther off than they reach.

    Coordinates of surveys have six digits before those that matter.
    """
    # Samples may be infinite; they stay where they are.
    with np.errstate(invalid="ignore"):
        middle = np.mean([s.mean(axis=(0, 1), dtype=float) for s in sets], axis=0)
        reach = max(float(np.ptp(s, axis=(0, 1)).max()) for s in sets)
    if np.abs(middle).max() > reach:
        sets = tuple(s - middle for s in sets)
    return tuple(np.asarray(s, np.float32) for s in sets)


def _check_ranks(a: NDArray, b: NDArray) -> None:
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != b.shape[2]:
        raise ValueError(
            "sets must be [clouds, points, dimensions] with equal dimensions; got "
            f"{a.shape} and {b.shape}"
        )
    if not (a.size and b.size):
        raise ValueError(f"sets must not be empty; got {a.shape} and {b.shape}")
