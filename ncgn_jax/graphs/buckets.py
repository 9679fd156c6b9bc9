"""Divides [0, 1] into noise buckets, a few intervals with one static graph shape each.

XLA needs shapes that never change, but a range/resolution schedule changes with the
noise level. Voxel grids have whole numbers of voxels per side, and a balanced
clustering has whole run lengths, so signal levels fall into a handful of intervals
with one graph shape each. Every bucket uses (nearly) the same k*N edges, so a static
shape costs almost nothing.

>>> for bucket in make_noise_buckets(num_nodes=400, num_neighbors=7, dim=3):
...     print(bucket.num_supernodes, bucket.num_neighbors, round(bucket.low, 3))
50 49 0.0
100 28 0.703
200 14 0.863
400 7 0.959
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from ncgn_jax.graphs.range_resolution import RangeResolution, num_supernodes_exact

CLUSTERINGS = ("balanced", "voxel")
"""Ways to form clusters, the values of `dmp.clustering`."""
CONNECTIVITIES = ("dmp", "knn", "long_short", "fully_connected")
"""Kinds of graphs, the values of `dmp.connectivity`; all but dmp are baselines."""


@dataclasses.dataclass(frozen=True)
class NoiseBucket:
    """One static graph shape and the interval of signal levels that uses it.

    Attributes:
      low: Smallest signal level of the bucket, inclusive.
      high: Largest signal level, exclusive (inclusive where it is 1).
      num_nodes: Points per graph, N.
      num_supernodes: Capacity of the coarse graph, M <= N; `voxel` may leave part of
        it empty, the other clusterings fill it.
      num_neighbors: Incoming edges of each supernode, at most M - 1.
      clustering: `identity` (M = N), `balanced` or `voxel`.
      voxels_per_side: For `voxel`, v with v^dim >= M; else 0.
      num_long_range: Number of neighbours drawn at random (`long_short`).
    """

    low: float
    high: float
    num_nodes: int
    num_supernodes: int
    num_neighbors: int
    clustering: str = "identity"
    voxels_per_side: int = 0
    num_long_range: int = 0

    @property
    def num_edges(self) -> int:
        """Returns the number of edges of one coarse graph, without self loops."""
        return self.num_supernodes * self.num_neighbors


def make_noise_buckets(
    num_nodes: int,
    num_neighbors: int,
    dim: int,
    *,
    schedule: RangeResolution | None = None,
    clustering: str = "balanced",
    connectivity: str = "dmp",
    reverse_schedule: bool = False,
    short_fraction: float = 0.5,
) -> tuple[NoiseBucket, ...]:
    """Cuts [0, 1] into the buckets of a schedule, coarsest noise level first.

    Args:
      num_nodes: Points per graph, N.
      num_neighbors: Neighbours per node on the full graph, k; the budget is k*N.
      dim: Dimension of the positions (only `voxel` depends on it).
      schedule: Range/resolution schedule; the paper's `exp` if None.
      clustering: `balanced` (equal runs of a k-d ordering) or `voxel` (published).
      connectivity: `dmp`, or a baseline on the full graph at every noise level:
        `knn`, `long_short` (short_fraction of the k edges to the nearest, the rest to
        random nodes; 0 is the published code) or `fully_connected`.
      reverse_schedule: Fine when noisy and coarse when clean, as the published point
        cloud code does by mistake; for comparison only.
      short_fraction: Share of short edges of `long_short`, in [0, 1].

    Returns:
      Buckets that tile [0, 1] in order of rising signal level.

    Raises:
      ValueError: For an unknown name or a graph with no points.
    """
    if connectivity not in CONNECTIVITIES:
        raise ValueError(
            f"connectivity: found {connectivity!r}; "
            f"allowed: {', '.join(CONNECTIVITIES)}"
        )
    if clustering not in CLUSTERINGS:
        raise ValueError(
            f"clustering: found {clustering!r}; allowed: {', '.join(CLUSTERINGS)}"
        )
    if num_nodes < 1 or num_neighbors < 1 or dim < 1:
        raise ValueError(
            "num_nodes, num_neighbors and dim must be positive, found "
            f"{num_nodes}, {num_neighbors} and {dim}"
        )
    if not 0 <= short_fraction <= 1:
        raise ValueError(f"short_fraction must be in [0, 1], found {short_fraction}")
    if connectivity != "dmp":
        return (_full_graph(num_nodes, num_neighbors, connectivity, short_fraction),)
    schedule = schedule or RangeResolution()
    resolution = _resolution_curve(num_nodes, num_neighbors, schedule, reverse_schedule)
    if clustering == "voxel":
        return _voxel_buckets(num_nodes, num_neighbors, dim, resolution)
    return _balanced_buckets(num_nodes, num_neighbors, resolution)


def bucket_index(buckets: Sequence[NoiseBucket], signal_level: float) -> int:
    """Returns the index of the bucket of a signal level.

    Args:
      buckets: Noise buckets that tile [0, 1].
      signal_level: Signal level, in [0, 1].

    Raises:
      ValueError: If the level is outside [0, 1].
    """
    if not 0 <= signal_level <= 1:
        raise ValueError(f"signal_level must be in [0, 1], found {signal_level}")
    lows = [bucket.low for bucket in buckets]
    return int(np.searchsorted(lows, signal_level, side="right")) - 1


def allocate_batch(shares: Sequence[float], batch_size: int) -> tuple[int, ...]:
    """Splits a batch over buckets in whole numbers close to their shares of time.

    Every bucket gets at least one graph; the rest goes by largest remainders.

    Args:
      shares: Probability of each bucket under the training law of t; sums to 1.
      batch_size: Graphs to divide.

    Returns:
      Graphs of each bucket, summing to batch_size.

    Raises:
      ValueError: If there are fewer graphs than buckets.
    """
    if batch_size < len(shares):
        raise ValueError(
            f"batch_size must be at least the number of noise buckets "
            f"({len(shares)}), found {batch_size}"
        )
    wanted = np.maximum(np.asarray(shares, float) * batch_size, 1.0)
    counts = np.floor(wanted).astype(int)
    while counts.sum() > batch_size:
        # The minimum of one made the sum too large: reduce the count most in excess.
        ahead = counts - np.asarray(shares) * batch_size
        counts[np.argmax(np.where(counts > 1, ahead, -np.inf))] -= 1
    while counts.sum() < batch_size:
        counts[np.argmax(wanted - counts)] += 1
    return tuple(int(count) for count in counts)


def _full_graph(
    num_nodes: int, num_neighbors: int, connectivity: str, short_fraction: float
) -> NoiseBucket:
    others = num_nodes - 1
    degree = others if connectivity == "fully_connected" else min(num_neighbors, others)
    num_long = 0
    if connectivity == "long_short":
        num_long = degree - math.ceil(short_fraction * degree)
    return NoiseBucket(0.0, 1.0, num_nodes, num_nodes, degree, num_long_range=num_long)


def _resolution_curve(
    num_nodes: int, num_neighbors: int, schedule: RangeResolution, reverse: bool
) -> Callable[[float], float]:
    def curve(signal_level: float) -> float:
        level = 1.0 - signal_level if reverse else signal_level
        return num_supernodes_exact(level, num_nodes, num_neighbors, schedule)

    return curve


def level_of_crossing(curve: Callable[[float], float], value: float) -> float:
    """Finds the level in [0, 1] at which a monotone curve passes a value, by bisection.

    Args:
      curve: Function of the signal level, rising or falling.
      value: The value passed.

    Returns:
      The level; the end nearest to it if the curve stays on one side.
    """
    low, high = 0.0, 1.0
    rising = curve(1.0) >= curve(0.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if (curve(middle) < value) == rising:
            low = middle
        else:
            high = middle
    return high


def _balanced_buckets(
    num_nodes: int, num_neighbors: int, curve: Callable[[float], float]
) -> tuple[NoiseBucket, ...]:
    """Makes buckets of N, N/2, N/4, ... supernodes down to the schedule's coarsest."""
    ends = curve(0.0), curve(1.0)
    num_halvings = max(0, round(math.log2(num_nodes / min(ends))))
    skipped = max(0, round(math.log2(num_nodes / max(ends))))
    sizes = [
        math.ceil(num_nodes / 2**halving)
        for halving in range(skipped, num_halvings + 1)
    ]
    sizes = sorted(set(sizes), reverse=ends[0] > ends[1])
    edges = [
        level_of_crossing(curve, math.sqrt(a * b))
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    return _tile(num_nodes, num_neighbors, edges, [(size, 0) for size in sizes])


def _voxel_buckets(
    num_nodes: int, num_neighbors: int, dim: int, curve: Callable[[float], float]
) -> tuple[NoiseBucket, ...]:
    """Makes one bucket per whole number of voxels per side that the schedule visits."""
    ends = [voxels_per_side(curve(level), dim) for level in (0.0, 1.0)]
    if min(curve(0.0), curve(1.0)) >= num_nodes:
        return _tile(num_nodes, num_neighbors, [], [(num_nodes, 0)])
    step = 1 if ends[1] >= ends[0] else -1
    sides = list(range(ends[0], ends[1] + step, step))
    edges = [
        level_of_crossing(curve, float(max(a, b) ** dim))
        for a, b in zip(sides[:-1], sides[1:], strict=True)
    ]
    shapes = [(min(side**dim, num_nodes), side) for side in sides]
    return _tile(num_nodes, num_neighbors, edges, shapes)


def voxels_per_side(num_supernodes: float, dim: int) -> int:
    """Returns floor(s^(1/D)) without the rounding that turns 64^(1/3) into 3.

    Args:
      num_supernodes: s, at least 1.
      dim: Dimension of the positions, D.
    """
    side = max(1, round(num_supernodes ** (1 / dim)))
    while side > 1 and side**dim > num_supernodes:
        side -= 1
    return side


def _tile(
    num_nodes: int,
    num_neighbors: int,
    edges: Sequence[float],
    shapes: Sequence[tuple[int, int]],
) -> tuple[NoiseBucket, ...]:
    bounds = [0.0, *edges, 1.0]
    # A steep schedule may skip a shape; the intervals beside it then join.
    visited = [
        (high, *shape)
        for low, high, shape in zip(bounds[:-1], bounds[1:], shapes, strict=True)
        if high - low >= 1e-6
    ]
    buckets = []
    low = 0.0
    for place, (high, size, side) in enumerate(visited):
        if place + 1 == len(visited):
            high = 1.0
        clustering = "voxel" if side else "balanced"
        if size == num_nodes and not side:
            clustering = "identity"
        degree = min(size - 1, math.ceil(num_neighbors * num_nodes / size))
        buckets.append(
            NoiseBucket(low, high, num_nodes, size, degree, clustering, side)
        )
        low = high
    return tuple(buckets)
