"""Clusters the points of one graph into supernodes, with static shapes.

`voxel_clusters` is the published clustering, a grid of v^D voxels over the bounding box
without the empty voxels. Outliers stretch the box, so most voxels are empty at high
noise. `balanced_order` sorts the points along nested median splits instead. M equal
runs of that order are M compact clusters, none of them empty, and pooling becomes a
reshape and a mean.

All functions act on one graph and are meant to be vmapped.
"""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.sorting import argsort_floats

_BRANCHING = 4
# Voxels are numbered by int32.
_MOST_VOXELS = 2**31 - 1


def voxel_clusters(
    positions: jax.Array, num_voxels_per_side: int
) -> tuple[jax.Array, jax.Array]:
    """Assigns points to the occupied voxels of a grid over their bounding box.

    index = floor((x - min) / (range / v)), clipped to v - 1, first axis fastest
    (NCGN's published clustering). Occupied voxels are numbered by rank. An axis on
    which all points agree uses its first slice instead of dividing by zero.

    Args:
      positions: Points of one graph, [node, dim].
      num_voxels_per_side: Voxels per side, v.

    Returns:
      Cluster of each point, int32 [node], in [0, num_occupied); and num_occupied, an
      int32 scalar of at most min(v^dim, node).

    Raises:
      ValueError: If v is less than 1, or the grid has more than 2^31 - 1 voxels.
    """
    num_nodes, dim = positions.shape
    side = num_voxels_per_side
    if side < 1 or side**dim > _MOST_VOXELS:
        most = int(_MOST_VOXELS ** (1 / dim))
        raise ValueError(
            f"num_voxels_per_side: found {side}; allowed: 1 to {most} in {dim} "
            "dimensions"
        )
    low = jnp.min(positions, axis=0, keepdims=True)
    extent = jnp.max(positions, axis=0, keepdims=True) - low
    width = jnp.where(extent > 0, extent, 1.0) / side
    index = jnp.clip(jnp.floor((positions - low) / width), 0, side - 1)
    strides = np.asarray([[side**axis for axis in range(dim)]], np.int32)
    flat = jnp.sum(index.astype(jnp.int32) * strides, axis=1)
    # The rank among the occupied voxels comes from sorting the N indices and not from
    # marking v^D cells, because a grid may have far more cells than N.
    order = jnp.argsort(flat)
    ordered = flat[order]
    is_new = jnp.concatenate(
        [jnp.zeros((1,), jnp.int32), (ordered[1:] != ordered[:-1]).astype(jnp.int32)]
    )
    rank = jnp.cumsum(is_new)
    assignment = jnp.zeros((num_nodes,), jnp.int32).at[order].set(rank)
    return assignment, rank[-1] + 1


def balanced_runs(num_nodes: int, num_clusters: int) -> np.ndarray:
    """Returns the M + 1 bounds of equal runs, whose lengths differ by at most one.

    Args:
      num_nodes: Points, N.
      num_clusters: Runs, M, in [1, N].

    Raises:
      ValueError: If M is outside [1, N].
    """
    if not 1 <= num_clusters <= num_nodes:
        raise ValueError(
            f"num_clusters must be in [1, {num_nodes}], found {num_clusters}"
        )
    return (np.arange(num_clusters + 1) * num_nodes) // num_clusters


def balanced_order(positions: jax.Array, num_clusters: int) -> jax.Array:
    """Orders points so that `balanced_runs` of the order are compact clusters.

    The points are split at quantiles along their widest axis into up to four parts,
    and each part again, until every part is one cluster. This k-d tree with four
    branches needs half the sorts of a binary one.

    Args:
      positions: Points of one graph, [node, dim].
      num_clusters: M; part sizes follow `balanced_runs`.

    Returns:
      A permutation, int32 [node]: order[i] is the point at place i.
    """
    num_nodes = positions.shape[0]
    order = jnp.arange(num_nodes, dtype=jnp.int32)
    # What is not a number stays in its part, before the padding.
    positions = jnp.where(jnp.isnan(positions), jnp.inf, positions)
    for places, back in _split_plan(num_nodes, num_clusters):
        members = jnp.where(places >= 0, order[places], -1)  # [part, place]
        inside = members >= 0
        points = positions[members]  # [part, place, dim]
        masked_low = jnp.where(inside[..., None], points, jnp.inf)
        masked_high = jnp.where(inside[..., None], points, -jnp.inf)
        extent = jnp.max(masked_high, axis=1) - jnp.min(masked_low, axis=1)
        axis = jnp.argmax(extent, axis=-1)  # [part]
        keys = jnp.take_along_axis(points, axis[:, None, None], axis=2)[..., 0]
        keys = jnp.where(inside, keys, jnp.inf)
        members = jnp.take_along_axis(members, argsort_floats(keys), axis=1)
        order = members.reshape(-1)[back]
    return order


@lru_cache(maxsize=64)
def _split_plan(
    num_nodes: int, num_clusters: int
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Lists, per level, the places that each part holds and where they end up.

    Each entry is (places [part, longest part], -1 where a part is shorter; back
    [node], the flat index into the sorted parts of every place).
    """
    bounds = balanced_runs(num_nodes, num_clusters)
    parts = [(0, num_clusters)]
    plan = []
    while any(stop - start > 1 for start, stop in parts):
        lengths = [bounds[stop] - bounds[start] for start, stop in parts]
        places = np.full((len(parts), max(lengths)), -1, np.int32)
        back = np.empty(num_nodes, np.int32)
        for row, ((start, _), length) in enumerate(zip(parts, lengths, strict=True)):
            first = bounds[start]
            places[row, :length] = np.arange(first, first + length)
            back[first : first + length] = row * places.shape[1] + np.arange(length)
        plan.append((places, back))
        parts = [piece for part in parts for piece in _split(*part)]
    return tuple(plan)


def _split(start: int, stop: int) -> list[tuple[int, int]]:
    pieces = min(_BRANCHING, stop - start)
    # Three clusters are more compact as two and one than as three slabs.
    if pieces == 3:
        pieces = 2
    cuts = [start + math.ceil(i * (stop - start) / pieces) for i in range(pieces + 1)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))
