"""Builds graphs of fixed layouts, where positions are data and features are noised.

Clusters and neighbours depend on positions alone. `connect_layouts` finds them once
for every layout and noise bucket, and `take_graphs` gathers the graphs of a batch. A
jitted step that uses it contains no sorting and no search.

>>> import numpy as np
>>> from ncgn_jax.graphs.buckets import make_noise_buckets
>>> buckets = make_noise_buckets(num_nodes=100, num_neighbors=5, dim=2)
>>> grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(100, 2)
>>> connectivity = connect_layouts([grid], buckets)
>>> graph = take_graphs(connectivity[0], np.zeros(4, int))
>>> graph.coarse.n_node.tolist() == [buckets[0].num_supernodes] * 4
True
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.graphs.buckets import NoiseBucket
from ncgn_jax.graphs.multiscale import (
    Connectivity,
    MultiscaleGraph,
    assemble,
    connect_graphs,
)


def connect_layouts(
    positions: Sequence[np.ndarray],
    buckets: Sequence[NoiseBucket],
    num_nodes: int | None = None,
    *,
    keep_size: bool = False,
) -> tuple[Connectivity, ...]:
    """Clusters and connects layouts for every noise bucket.

    Layouts of another size than the bucket's get supernodes in proportion. All are
    padded to the largest, or to `num_nodes`.

    Args:
      positions: Points of each layout, [node, dim].
      buckets: Noise buckets; their number of nodes is the size they were made for.
      num_nodes: Length to pad to; None for the size of the largest layout.
      keep_size: Gives larger layouts the bucket's number of supernodes and not more in
        proportion. A denser layout of the same region is then coarsened to the same
        resolution.

    Returns:
      For each bucket the connectivity of all layouts, numpy arrays [layout, ...].

    Raises:
      ValueError: If there is no layout, or one is larger than `num_nodes`.
    """
    if not positions:
        raise ValueError("at least one layout is needed")
    sizes = np.asarray([len(points) for points in positions])
    num_nodes = int(sizes.max()) if num_nodes is None else num_nodes
    if sizes.max() > num_nodes:
        raise ValueError(
            f"num_nodes must be at least {sizes.max()}, the largest layout, "
            f"found {num_nodes}"
        )
    return tuple(
        _connect_all(positions, sizes, b, num_nodes, keep_size) for b in buckets
    )


def take_graphs(connectivity: Connectivity, index: ArrayLike) -> MultiscaleGraph:
    """Returns the graphs of a batch.

    Args:
      connectivity: Connectivity of all layouts for one bucket.
      index: Number of the layout of each graph, int [graph].
    """
    return assemble(jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], connectivity))


def scale_bucket(
    bucket: NoiseBucket, num_nodes: int, *, keep_size: bool = False
) -> NoiseBucket:
    """Returns an equally coarse and connected bucket for graphs of another size.

    Args:
      bucket: Noise bucket of some size.
      num_nodes: The other size.
      keep_size: As in `connect_layouts`.
    """
    share = bucket.num_supernodes / bucket.num_nodes
    size = max(1, math.ceil(share * num_nodes - 1e-9))
    clustering = bucket.clustering
    if keep_size and num_nodes > bucket.num_nodes:
        size = bucket.num_supernodes
        clustering = "balanced" if clustering == "identity" else clustering
    if bucket.clustering == "voxel":
        # The number of voxels depends on the box and not on the points.
        size = min(bucket.num_supernodes, num_nodes)
    was_complete = bucket.num_neighbors == bucket.num_supernodes - 1
    degree = size - 1 if was_complete else min(bucket.num_neighbors, size - 1)
    return dataclasses.replace(
        bucket,
        num_nodes=num_nodes,
        num_supernodes=size,
        num_neighbors=degree,
        clustering=clustering,
        num_long_range=min(bucket.num_long_range, degree),
    )


_connect = jax.jit(connect_graphs, static_argnames="bucket")


def _connect_all(
    positions: Sequence[np.ndarray],
    sizes: np.ndarray,
    bucket: NoiseBucket,
    num_nodes: int,
    keep_size: bool,
) -> Connectivity:
    distinct, first = np.unique(sizes, return_inverse=True)
    scaled = [scale_bucket(bucket, int(n), keep_size=keep_size) for n in distinct]
    shape = (
        num_nodes,
        max(b.num_supernodes for b in scaled),
        max(b.num_neighbors for b in scaled),
    )
    found: list[Connectivity | None] = [None] * len(sizes)
    for kind, own in enumerate(scaled):
        members = np.flatnonzero(first == kind).tolist()
        points = np.stack([positions[i] for i in members]).astype(np.float32)
        # The random edges of a baseline are part of the layout.
        result = jax.device_get(_connect(points, own, jax.random.key(0)))
        if len(distinct) > 1 or own.num_nodes != num_nodes:
            result = _pad(result, *shape)
        for row, i in enumerate(members):
            found[i] = jax.tree.map(lambda leaf, r=row: leaf[r], result)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def _pad(
    connectivity: Connectivity, num_nodes: int, size: int, degree: int
) -> Connectivity:
    """Pads every graph of a batch; padding has no effect anywhere."""
    num_graphs, real, _ = connectivity.positions.shape
    places = np.broadcast_to(np.arange(num_nodes), (num_graphs, num_nodes))

    def fill(values, shape, value=0):
        out = np.full((num_graphs, *shape), value, values.dtype)
        out[tuple(slice(extent) for extent in values.shape)] = values
        return out

    def keep_places(order):
        out = places.astype(np.int32)
        out[:, :real] = order
        return out

    dim = connectivity.positions.shape[-1]
    return Connectivity(
        positions=fill(connectivity.positions, (num_nodes, dim)),
        centres=fill(connectivity.centres, (size, dim)),
        order=keep_places(connectivity.order),
        inverse_order=keep_places(connectivity.inverse_order),
        assignment=fill(connectivity.assignment, (num_nodes,), -1),
        occupied=fill(connectivity.occupied, (size,), False),
        senders=fill(connectivity.senders, (size, degree)),
        edge_mask=fill(connectivity.edge_mask, (size, degree), False),
        point_mask=fill(np.ones((num_graphs, real), bool), (num_nodes,), False),
    )
