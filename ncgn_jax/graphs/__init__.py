"""Builds graphs that follow the noise: schedules, buckets, clusters, neighbours.

Graph code sees one noise variable, `signal_level` in [0, 1], rising with cleanliness.

>>> import jax
>>> from ncgn_jax.graphs import bucket_index, build_graphs, make_noise_buckets
>>> buckets = make_noise_buckets(num_nodes=400, num_neighbors=7, dim=3)
>>> clouds = jax.random.normal(jax.random.key(0), (2, 400, 3))
>>> build = jax.jit(build_graphs, static_argnames="bucket")
>>> graphs = build(clouds, buckets[bucket_index(buckets, 0.8)])
>>> int(graphs.coarse.n_node[0]), int(graphs.coarse.n_edge[0])
(100, 2800)
"""

from ncgn_jax.graphs.buckets import (
    CLUSTERINGS,
    CONNECTIVITIES,
    NoiseBucket,
    allocate_batch,
    bucket_index,
    make_noise_buckets,
)
from ncgn_jax.graphs.clustering import balanced_order, balanced_runs, voxel_clusters
from ncgn_jax.graphs.layouts import connect_layouts, take_graphs
from ncgn_jax.graphs.multiscale import (
    Block,
    Connectivity,
    MultiscaleGraph,
    build_graphs,
    join_graphs,
    sort_points,
    unsort_points,
)
from ncgn_jax.graphs.neighbors import (
    adjacency,
    all_neighbors,
    long_short_neighbors,
    nearest_neighbors,
)
from ncgn_jax.graphs.pairing import PAIRINGS, Pairing, match_by_transport
from ncgn_jax.graphs.pooling import block_slices, coarsen, on_coarse_graph, spread
from ncgn_jax.graphs.range_resolution import (
    RANGE_SCHEDULES,
    RangeResolution,
    range_and_resolution,
)

__all__ = [
    "CLUSTERINGS",
    "CONNECTIVITIES",
    "PAIRINGS",
    "RANGE_SCHEDULES",
    "Block",
    "Connectivity",
    "MultiscaleGraph",
    "NoiseBucket",
    "Pairing",
    "RangeResolution",
    "adjacency",
    "all_neighbors",
    "allocate_batch",
    "balanced_order",
    "balanced_runs",
    "block_slices",
    "bucket_index",
    "build_graphs",
    "coarsen",
    "connect_layouts",
    "join_graphs",
    "long_short_neighbors",
    "make_noise_buckets",
    "match_by_transport",
    "nearest_neighbors",
    "on_coarse_graph",
    "range_and_resolution",
    "sort_points",
    "spread",
    "take_graphs",
    "unsort_points",
    "voxel_clusters",
]
