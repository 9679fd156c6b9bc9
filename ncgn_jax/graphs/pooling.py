"""Averages points to supernodes and copies supernodes to points.

Regular blocks with equal runs need a reshape. `cluster_sums` handles other regular
blocks, and jraph's segment operations handle ragged graphs.
"""

from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp

from ncgn_jax.graphs.cluster_sums import cluster_means, copy_to_members
from ncgn_jax.graphs.message_passing import GraphsTuple, segment_mean
from ncgn_jax.graphs.multiscale import (
    Block,
    MultiscaleGraph,
    sort_points,
    unsort_points,
)
from ncgn_jax.graphs.precision import narrowed, take_rows, widen


def coarsen(values: jax.Array, graph: MultiscaleGraph) -> jax.Array:
    """Averages point values over each cluster: [point, f] -> [supernode, f].

    Empty supernodes get zero. Means of bfloat16 are float32.

    Args:
      values: Values of the points, in cluster order.
      graph: Graphs of the points.
    """
    chex.assert_equal_shape_prefix([values, graph.assignment], 1)
    if not graph.blocks:
        return segment_mean(widen(values), graph.assignment, graph.num_supernodes)
    return jnp.concatenate(
        [
            _coarsen_block(values[points], graph.assignment[points], supernodes, block)
            for block, points, supernodes in block_slices(graph)
        ]
    )


def spread(values: jax.Array, graph: MultiscaleGraph) -> jax.Array:
    """Copies supernode values to their points: [supernode, f] -> [point, f].

    Args:
      values: Values of the supernodes.
      graph: Graphs of the points.
    """
    chex.assert_axis_dimension(values, 0, graph.num_supernodes)
    if not graph.blocks:
        return take_rows(values, graph.assignment)
    return jnp.concatenate(
        [
            _spread_block(values[nodes], graph.assignment[points], nodes, block)
            for block, points, nodes in block_slices(graph)
        ]
    )


def on_coarse_graph(
    network: Callable[[GraphsTuple], GraphsTuple],
    values: jax.Array,
    graph: MultiscaleGraph,
) -> jax.Array:
    """Runs any jraph network on the coarse graph, between `coarsen` and `spread`.

    Args:
      network: Function of the coarse graph with features [supernode, f] as its nodes
        that returns one with features [supernode, g]. Its `edges` hold `mask` [edge],
        all True except with `voxel` clusters and `long_short` edges.
      values: Features in the caller's order, [point, f] or [graph, node, f].
      graph: Graphs built on the (noisy) positions.

    Returns:
      Features of each point's supernode in the caller's order, [..., g].
    """
    flat = values.reshape(-1, values.shape[-1])
    nodes = coarsen(sort_points(flat, graph), graph)
    nodes = network(graph.coarse._replace(nodes=nodes)).nodes
    out = unsort_points(spread(nodes, graph), graph)
    return out.reshape(*values.shape[:-1], out.shape[-1])


def block_slices(graph: MultiscaleGraph) -> Iterator[tuple[Block, slice, slice]]:
    """Yields each block with its slices of the point and supernode arrays.

    Args:
      graph: Graphs of a batch.
    """
    point = supernode = 0
    for block in graph.blocks:
        points = slice(point, point + block.num_graphs * block.num_nodes)
        supernodes = slice(
            supernode, supernode + block.num_graphs * block.num_supernodes
        )
        yield block, points, supernodes
        point, supernode = points.stop, supernodes.stop


def _local(assignment: jax.Array, first: slice, block: Block) -> jax.Array:
    """Returns clusters counted within each graph, [graph, node]; -1 for padding."""
    local = assignment.reshape(block.num_graphs, block.num_nodes) - first.start
    return local - jnp.arange(block.num_graphs)[:, None] * block.num_supernodes


def _coarsen_block(
    values: jax.Array, assignment: jax.Array, supernodes: slice, block: Block
) -> jax.Array:
    width = values.shape[-1]
    if block.num_nodes == block.num_supernodes and block.equal_runs:
        return widen(values)
    if block.equal_runs:
        rows = block.num_graphs * block.num_supernodes
        return widen(values).reshape(rows, -1, width).mean(axis=1)
    means = cluster_means(
        values.reshape(block.num_graphs, block.num_nodes, width),
        _local(assignment, supernodes, block),
        block.num_supernodes,
        balanced=block.balanced,
    )
    return means.reshape(-1, width)


def _spread_block(
    values: jax.Array, assignment: jax.Array, supernodes: slice, block: Block
) -> jax.Array:
    width = values.shape[-1]
    if block.num_nodes == block.num_supernodes and block.equal_runs:
        return values
    if block.equal_runs:
        shape = values.shape[0], block.num_nodes // block.num_supernodes, width
        # The gradient of a copy is a sum.
        rows = jnp.broadcast_to(widen(values)[:, None, :], shape)
        return narrowed(rows.reshape(-1, width), values.dtype)
    copies = copy_to_members(
        values.reshape(block.num_graphs, block.num_supernodes, width),
        _local(assignment, supernodes, block),
        balanced=block.balanced,
    )
    return copies.reshape(-1, width)
