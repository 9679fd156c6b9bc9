"""Arranges edges of the coarse graph as regular arrays of (receiver, sender) pairs.

A block of small graphs is a dense [graph, receiver, sender] array with a mask, in
which sums over senders are matrix products. A block of large graphs lists each node's K
senders and itself. Attention uses both through the same interface, `PairList`.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ncgn_jax.graphs import Block, MultiscaleGraph, adjacency, block_slices
from ncgn_jax.graphs.precision import einsum, take_rows

# A dense product of M x M is faster than gathering K rows while M is below about this
# many times K (measured on CPU; see benchmarks/step.py). Pairs with features have a
# lower limit.
_DENSE_UP_TO = 16
_DENSE_PAIRS_UP_TO = 4


@dataclasses.dataclass(frozen=True)
class PairList:
    """Holds the (receiver, sender) pairs of one block, self loops included.

    Arrays are [group, receiver, sender, ...]. In a dense block a group is a graph, and
    all its nodes are senders. In a listed block all nodes are one group, and the sender
    axis runs over each node's own list.

    Attributes:
      nodes: The block's slice of the flat supernode arrays.
      offsets: Sender's position minus receiver's, [group, receiver, sender, dim].
      mask: True for real edges, broadcastable to [group, receiver, sender].
      senders: Local sender of each listed pair, [node, sender]; None if dense.
      num_groups: Number of groups.
    """

    nodes: slice
    offsets: jax.Array
    mask: jax.Array
    senders: jax.Array | None
    num_groups: int

    def group(self, values: jax.Array) -> jax.Array:
        """Reshapes node values [node, ...] to [group, receiver, ...].

        Args:
          values: Values of the nodes.
        """
        return values.reshape((self.num_groups, -1, *values.shape[1:]))

    def dot(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Returns query_i . key_j per head, [group, receiver, head, sender].

        Sums of bfloat16 are float32, here and in `mix`.

        Args:
          query: Grouped queries, [group, receiver, head, f].
          key: Keys of the nodes, [node, head, f].
        """
        if self.senders is None:
            return einsum("grhf,gshf->grhs", query, self.group(key))
        keys = take_rows(key, self.senders)[None]
        return einsum("grhf,grshf->grhs", query, keys)

    def mix(self, weights: jax.Array, values: jax.Array) -> jax.Array:
        """Returns sum_j weight_ij value_j, [group, receiver, head, f].

        Args:
          weights: [group, receiver, head, sender].
          values: Values of the nodes, [node, head, f].
        """
        if self.senders is None:
            return einsum("grhs,gshf->grhf", weights, self.group(values))
        sent = take_rows(values, self.senders)[None]
        return einsum("grhs,grshf->grhf", weights, sent)


def is_dense(block: Block, up_to: int = _DENSE_UP_TO) -> bool:
    """Returns whether a block's sums run as dense matrix products.

    Args:
      block: The block.
      up_to: Largest size of a block as a multiple of its in-degree; smaller if a pair
        costs more than one number.
    """
    return block.num_supernodes <= up_to * (block.num_neighbors + 1)


def block_edges(
    graph: MultiscaleGraph,
) -> Iterator[tuple[Block, slice, jax.Array, jax.Array]]:
    """Yields each block, its slice of the supernodes, and its edges.

    Edges are their senders, counted from the block's first supernode, and the mask of
    the real ones, both [graph * supernode * neighbor].

    Args:
      graph: Graphs with regular blocks.
    """
    edge = 0
    for block, _, nodes in block_slices(graph):
        count = block.num_graphs * block.num_supernodes * block.num_neighbors
        edges = slice(edge, edge + count)
        edge = edges.stop
        senders = graph.coarse.senders[edges] - nodes.start
        yield block, nodes, senders, graph.coarse.edges["mask"][edges]


def pairs_of_blocks(graph: MultiscaleGraph) -> Iterator[PairList]:
    """Yields the pairs of each block.

    Args:
      graph: Graphs with regular blocks.

    Raises:
      ValueError: If the graph is ragged.
    """
    if not graph.blocks:
        raise ValueError("pairs need regular blocks; this graph is ragged")
    for block, nodes, senders, mask in block_edges(graph):
        positions = graph.supernode_positions[nodes]
        dense = is_dense(block, _DENSE_PAIRS_UP_TO)
        make = _dense_pairs if dense else _listed_pairs
        yield make(block, nodes, positions, senders, mask)


def dense_adjacency(senders: jax.Array, mask: jax.Array, block: Block) -> jax.Array:
    """Returns the adjacency of a block, self loops included, bool [graph or 1, M, M].

    Args:
      senders: As from `block_edges`.
      mask: As from `block_edges`.
      block: The block.
    """
    if block.complete:
        return jnp.ones((1, block.num_supernodes, block.num_supernodes), bool)
    shape = (block.num_graphs, block.num_supernodes, block.num_neighbors)
    first = jnp.arange(block.num_graphs)[:, None, None] * block.num_supernodes
    local = senders.reshape(shape) - first
    return jax.vmap(lambda s, m: adjacency(s, m, self_loops=True))(
        local, mask.reshape(shape)
    )


def listed_edges(
    senders: jax.Array, mask: jax.Array, block: Block
) -> tuple[jax.Array, jax.Array]:
    """Returns senders and mask, [node, K + 1], with each node's self loop last.

    Args:
      senders: As from `block_edges`.
      mask: As from `block_edges`.
      block: The block.
    """
    num_nodes = block.num_graphs * block.num_supernodes
    own = jnp.arange(num_nodes, dtype=senders.dtype)[:, None]
    senders = jnp.concatenate([senders.reshape(num_nodes, -1), own], axis=1)
    real = jnp.ones((num_nodes, 1), bool)
    return senders, jnp.concatenate([mask.reshape(num_nodes, -1), real], axis=1)


def _dense_pairs(
    block: Block,
    nodes: slice,
    positions: jax.Array,
    senders: jax.Array,
    mask: jax.Array,
) -> PairList:
    points = positions.reshape(block.num_graphs, block.num_supernodes, -1)
    offsets = points[:, None, :, :] - points[:, :, None, :]
    joined = dense_adjacency(senders, mask, block)
    return PairList(nodes, offsets, joined, None, block.num_graphs)


def _listed_pairs(
    block: Block,
    nodes: slice,
    positions: jax.Array,
    senders: jax.Array,
    mask: jax.Array,
) -> PairList:
    senders, mask = listed_edges(senders, mask, block)
    offsets = positions[senders] - positions[:, None, :]
    return PairList(nodes, offsets[None], mask[None], senders, 1)
