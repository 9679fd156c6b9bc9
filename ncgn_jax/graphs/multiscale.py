"""Builds batches of two-level graphs: points, their supernodes, and the coarse graph.

`build_graphs` turns the (noisy) positions of one bucket's clouds into a
`MultiscaleGraph`. It clusters, averages and connects inside jit, with the bucket's
static shapes. It calls `connect_graphs`, whose `Connectivity` counts nodes within each
graph, and then `assemble`; where positions are data, `layouts` stores the former.
`join_graphs` joins several buckets, so that a network runs its per-point layers once
over all of them. The coarse graph is a `jraph.GraphsTuple`.

Arrays are flat, as in jraph, with P points and Q supernodes of G graphs. Points are
kept in *cluster order*; `sort_points` and `unsort_points` convert between that and the
caller's order. `blocks` lists the stretches of the flat arrays that are one regular
[graph, node] array, so that pooling is a reshape and attention a dense matrix
product. A graph without blocks (of any sizes) uses segment operations instead.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.buckets import NoiseBucket
from ncgn_jax.graphs.cluster_sums import cluster_means
from ncgn_jax.graphs.clustering import balanced_order, balanced_runs, voxel_clusters
from ncgn_jax.graphs.message_passing import GraphsTuple
from ncgn_jax.graphs.neighbors import (
    all_neighbors,
    long_short_neighbors,
    nearest_neighbors,
)
from ncgn_jax.graphs.positions import check_positions
from ncgn_jax.graphs.sorting import argsort_integers, invert


@dataclasses.dataclass(frozen=True)
class Block:
    """A stretch of equally shaped graphs inside the flat arrays.

    Attributes:
      num_graphs: Graphs, B.
      num_nodes: Points per graph, N.
      num_supernodes: Supernodes per graph, M.
      num_neighbors: Incoming edges per supernode, K.
      equal_runs: Whether the clusters are consecutive runs of N / M points.
      balanced: Whether they are the `balanced_runs`, whose lengths may differ by one.
      complete: Whether every supernode is joined to all others.
    """

    num_graphs: int
    num_nodes: int
    num_supernodes: int
    num_neighbors: int
    equal_runs: bool
    balanced: bool
    complete: bool


@flax.struct.dataclass
class Connectivity:
    """Holds clusters and edges of a batch of graphs, nodes counted within each graph.

    Graphs smaller than the arrays are padded. Padding comes last in the order, belongs
    to cluster -1, and has neither supernodes nor edges.

    Attributes:
      positions: Points in cluster order, [graph, node, dim].
      centres: Mean of each cluster's points, [graph, supernode, dim].
      order: Point at each place of the cluster order, int32 [graph, node].
      inverse_order: The inverse permutation, int32 [graph, node].
      assignment: Supernode of each sorted point, int32 [graph, node].
      occupied: False for supernodes without points, bool [graph, supernode].
      senders: int32 [graph, supernode, neighbor].
      edge_mask: False where there is no edge, bool [graph, supernode, neighbor].
      point_mask: False for padding, in cluster order, bool [graph, node]; None if
        there is none.
      equal_runs: See `Block`.
      balanced: See `Block`.
      complete: See `Block`.
    """

    positions: jax.Array
    centres: jax.Array
    order: jax.Array
    inverse_order: jax.Array
    assignment: jax.Array
    occupied: jax.Array
    senders: jax.Array
    edge_mask: jax.Array
    point_mask: jax.Array | None = None
    equal_runs: bool = flax.struct.field(pytree_node=False, default=False)
    balanced: bool = flax.struct.field(pytree_node=False, default=False)
    complete: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class MultiscaleGraph:
    """Holds points, clusters and coarse graph of G graphs; see the module docstring.

    Attributes:
      positions: Points in cluster order, [point, dim].
      supernode_positions: Mean of each cluster's points, [supernode, dim].
      order: Place of each sorted point in the caller's flat order, int32 [point].
      inverse_order: The inverse permutation, int32 [point].
      assignment: Supernode of each sorted point, int32 [point].
      point_graph: Graph of each point, int32 [point].
      coarse: Coarse graphs; `nodes` holds `mask` [supernode] (False = empty),
        `edges` holds `mask` [edge]; senders, receivers, n_node, n_edge as in jraph.
      point_mask: False for sorted points that are padding, bool [point]; None if
        there are none.
      blocks: Regular stretches in order, or () if the graph is ragged.
    """

    positions: jax.Array
    supernode_positions: jax.Array
    order: jax.Array
    inverse_order: jax.Array
    assignment: jax.Array
    point_graph: jax.Array
    coarse: GraphsTuple
    point_mask: jax.Array | None = None
    blocks: tuple[Block, ...] = flax.struct.field(pytree_node=False, default=())

    @property
    def num_supernodes(self) -> int:
        """Returns the number of supernodes of all graphs, empty ones included."""
        return self.supernode_positions.shape[0]


def build_graphs(
    positions: jax.Array, bucket: NoiseBucket, rng: jax.Array | None = None
) -> MultiscaleGraph:
    """Clusters and connects a batch of clouds that share one noise bucket.

    Args:
      positions: Noisy positions, [graph, node, dim]; node must be the bucket's.
      bucket: Static shape of the graphs.
      rng: Key for random edges; needed by `long_short` only.

    Returns:
      The graphs, flattened, with one block.

    Raises:
      ValueError: If the number of nodes is not the bucket's, a key is missing, or the
        positions have a type or scale that `positions.check_positions` refuses.
    """
    return assemble(connect_graphs(positions, bucket, rng))


def connect_graphs(
    positions: jax.Array, bucket: NoiseBucket, rng: jax.Array | None = None
) -> Connectivity:
    """Clusters and connects clouds like `build_graphs`, without joining them.

    Args:
      positions: Noisy positions, [graph, node, dim]; node must be the bucket's.
      bucket: Static shape of the graphs.
      rng: Key for random edges; needed by `long_short` only.

    Raises:
      ValueError: If the number of nodes is not the bucket's, a key is missing, or the
        positions have a type or scale that `positions.check_positions` refuses.
    """
    chex.assert_rank(positions, 3)
    check_positions(positions)
    num_nodes, size = positions.shape[1], bucket.num_supernodes
    if num_nodes != bucket.num_nodes:
        raise ValueError(
            f"the noise bucket was made for {bucket.num_nodes} nodes per graph, "
            f"found {num_nodes}"
        )
    is_voxel = bucket.clustering == "voxel"
    order, assignment, num_occupied = _cluster(positions, bucket)
    in_order = jnp.take_along_axis(positions, order[..., None], axis=1)
    equal_runs = not is_voxel and num_nodes % size == 0
    if equal_runs:
        centres = in_order.reshape(len(positions), size, -1, positions.shape[-1])
        centres = centres.mean(axis=2)
    else:
        centres = cluster_means(in_order, assignment, size, balanced=not is_voxel)
    occupied = jnp.arange(size)[None, :] < num_occupied[:, None]
    senders, edge_mask = _connect(centres, occupied if is_voxel else None, bucket, rng)
    return Connectivity(
        positions=in_order,
        centres=centres,
        order=order,
        inverse_order=order if bucket.clustering == "identity" else invert(order),
        assignment=assignment,
        occupied=occupied,
        senders=senders,
        edge_mask=edge_mask,
        equal_runs=equal_runs,
        balanced=not is_voxel,
        complete=bucket.num_neighbors == size - 1
        and not is_voxel
        and not bucket.num_long_range,
    )


def assemble(connectivity: Connectivity) -> MultiscaleGraph:
    """Joins the graphs of a batch into flat arrays, as one block."""
    num_graphs, num_nodes, dim = connectivity.positions.shape
    size, degree = connectivity.senders.shape[1:]
    offsets = jnp.arange(num_graphs, dtype=jnp.int32)[:, None]
    receivers = np.repeat(np.arange(num_graphs * size, dtype=np.int32), degree)
    mask = connectivity.point_mask
    return MultiscaleGraph(
        positions=connectivity.positions.reshape(-1, dim),
        supernode_positions=connectivity.centres.reshape(-1, dim),
        order=(connectivity.order + offsets * num_nodes).reshape(-1),
        inverse_order=(connectivity.inverse_order + offsets * num_nodes).reshape(-1),
        assignment=(connectivity.assignment + offsets * size).reshape(-1),
        point_graph=jnp.repeat(offsets[:, 0], num_nodes),
        coarse=GraphsTuple(
            nodes={"mask": connectivity.occupied.reshape(-1)},
            edges={"mask": connectivity.edge_mask.reshape(-1)},
            senders=(connectivity.senders + offsets[:, :, None] * size).reshape(-1),
            receivers=jnp.asarray(receivers),
            n_node=jnp.full((num_graphs,), size, jnp.int32),
            n_edge=jnp.full((num_graphs,), size * degree, jnp.int32),
            globals=None,
        ),
        point_mask=None if mask is None else mask.reshape(-1),
        blocks=(
            Block(
                num_graphs=num_graphs,
                num_nodes=num_nodes,
                num_supernodes=size,
                num_neighbors=degree,
                equal_runs=connectivity.equal_runs,
                balanced=connectivity.balanced,
                complete=connectivity.complete,
            ),
        ),
    )


def join_graphs(graphs: Sequence[MultiscaleGraph]) -> MultiscaleGraph:
    """Joins batches of graphs; indices are shifted and blocks are kept.

    Args:
      graphs: Batches, in the order of their points.
    """
    if len(graphs) == 1:
        return graphs[0]
    points = np.cumsum([0] + [g.positions.shape[0] for g in graphs])
    supernodes = np.cumsum([0] + [g.num_supernodes for g in graphs])
    counts = np.cumsum([0] + [g.coarse.n_node.shape[0] for g in graphs])

    def join(pick, shifts=None):
        parts = [pick(graph) for graph in graphs]
        if shifts is not None:
            parts = [p + int(s) for p, s in zip(parts, shifts[:-1], strict=True)]
        return jnp.concatenate(parts)

    def point_mask(graph):
        if graph.point_mask is None:
            return jnp.ones(graph.positions.shape[:1], bool)
        return graph.point_mask

    is_padded = any(graph.point_mask is not None for graph in graphs)
    return MultiscaleGraph(
        positions=join(lambda g: g.positions),
        supernode_positions=join(lambda g: g.supernode_positions),
        order=join(lambda g: g.order, points),
        inverse_order=join(lambda g: g.inverse_order, points),
        assignment=join(lambda g: g.assignment, supernodes),
        point_graph=join(lambda g: g.point_graph, counts),
        coarse=GraphsTuple(
            nodes={"mask": join(lambda g: g.coarse.nodes["mask"])},
            edges={"mask": join(lambda g: g.coarse.edges["mask"])},
            senders=join(lambda g: g.coarse.senders, supernodes),
            receivers=join(lambda g: g.coarse.receivers, supernodes),
            n_node=join(lambda g: g.coarse.n_node),
            n_edge=join(lambda g: g.coarse.n_edge),
            globals=None,
        ),
        point_mask=join(point_mask) if is_padded else None,
        blocks=tuple(block for graph in graphs for block in graph.blocks),
    )


def sort_points(values: jax.Array, graph: MultiscaleGraph) -> jax.Array:
    """Moves per-point values [point, ...] from the caller's order to cluster order.

    Args:
      values: Values in the caller's order.
      graph: Graphs of the points.
    """
    chex.assert_equal_shape_prefix([values, graph.order], 1)
    return _permute(values, graph.order, graph.inverse_order)


def unsort_points(values: jax.Array, graph: MultiscaleGraph) -> jax.Array:
    """Moves per-point values [point, ...] from cluster order to the caller's order.

    Args:
      values: Values in cluster order.
      graph: Graphs of the points.
    """
    chex.assert_equal_shape_prefix([values, graph.order], 1)
    return _permute(values, graph.inverse_order, graph.order)


@jax.custom_vjp
def _permute(values: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns values[order]; its gradient is the inverse gather, not a scatter."""
    del inverse
    return values[order]


def _permute_forward(values, order, inverse):
    return values[order], inverse


def _permute_backward(inverse, cotangent):
    return cotangent[inverse], None, None


_permute.defvjp(_permute_forward, _permute_backward)


def _cluster(
    positions: jax.Array, bucket: NoiseBucket
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns order and assignment [graph, node], and clusters occupied [graph]."""
    num_graphs, num_nodes, _ = positions.shape
    size = bucket.num_supernodes
    if bucket.clustering == "voxel":
        clusters = partial(voxel_clusters, num_voxels_per_side=bucket.voxels_per_side)
        assignment, occupied = jax.vmap(clusters)(positions)
        order = argsort_integers(assignment, (num_nodes - 1).bit_length())
        return order, jnp.take_along_axis(assignment, order, axis=1), occupied
    place = np.arange(num_nodes)
    runs = np.searchsorted(balanced_runs(num_nodes, size), place, side="right") - 1
    assignment = jnp.asarray(np.tile(runs.astype(np.int32), (num_graphs, 1)))
    occupied = jnp.full((num_graphs,), size, jnp.int32)
    if bucket.clustering == "identity":
        order = jnp.asarray(np.tile(place.astype(np.int32), (num_graphs, 1)))
    else:
        order = jax.vmap(partial(balanced_order, num_clusters=size))(positions)
    return order, assignment, occupied


def _connect(
    centres: jax.Array,
    mask: jax.Array | None,
    bucket: NoiseBucket,
    rng: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns senders and edge mask, [graph, supernode, neighbor]."""
    num_graphs, size, _ = centres.shape
    degree = bucket.num_neighbors
    if bucket.num_long_range:
        if rng is None:
            raise ValueError("long_short draws random edges: rng is needed")
        join = partial(
            long_short_neighbors,
            num_neighbors=degree,
            num_long_range=bucket.num_long_range,
        )
        return jax.vmap(lambda p, key: join(p, rng=key))(
            centres, jax.random.split(rng, num_graphs)
        )
    if mask is None and degree == size - 1:
        senders, edge_mask = all_neighbors(size)
        return (
            jnp.tile(senders[None], (num_graphs, 1, 1)),
            jnp.tile(edge_mask[None], (num_graphs, 1, 1)),
        )
    if mask is None:
        return jax.vmap(partial(nearest_neighbors, num_neighbors=degree))(centres)
    return jax.vmap(lambda p, m: nearest_neighbors(p, degree, m))(centres, mask)
