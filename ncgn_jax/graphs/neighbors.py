"""Connects the (super)nodes of one graph, with static in-degree.

Each function returns senders as local indices [node, neighbor] with a mask of the
real edges. Edges run neighbour -> centre. All are meant to be vmapped.

`nearest_neighbors` compares all pairs of a small cloud and searches a large one block
by block (`block_neighbors`).
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.block_neighbors import block_neighbors, pays_off
from ncgn_jax.graphs.positions import check_positions

SEARCHES = ("auto", "all_pairs", "blocks")
# Pairs whose distances are in memory at a time.
_PAIRS_AT_ONCE = 2**24
# A dense matrix is made by up to so many comparisons, and else by a scatter.
_COMPARISONS_UP_TO = 2**24


def squared_distances(positions: jax.Array) -> jax.Array:
    """Returns |x_i - x_j|^2, [node, node], by differences (no cancellation).

    Args:
      positions: [node, dim].
    """
    chex.assert_rank(positions, 2)
    total = jnp.zeros((positions.shape[0],) * 2, positions.dtype)
    for axis in range(positions.shape[1]):
        column = positions[:, axis]
        total = total + (column[:, None] - column[None, :]) ** 2
    return total


def nearest_neighbors(
    positions: jax.Array,
    num_neighbors: int,
    node_mask: jax.Array | None = None,
    *,
    search: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Finds the k nearest other nodes of every node.

    The search compares all pairs, with ties going to the lower index, or works in
    blocks, in time and memory near linear in the number of nodes. Blocks find the same
    distances for any cloud, but break ties arbitrarily. Senders are whole numbers, so
    no gradient passes.

    Args:
      positions: [node, dim].
      num_neighbors: k, at most node - 1.
      node_mask: True for real nodes, [node]; None if all are.
      search: `all_pairs`, `blocks`, or `auto` for the faster one at this size.

    Returns:
      Senders, int32 [node, k], nearest first (in index order if k includes all others
      and none is masked); and edge mask, bool [node, k], False where a node
      is not real or has fewer than k real others.

    Raises:
      ValueError: If k is negative or exceeds node - 1, the search is unknown, or the
        positions have a type or scale that `positions.check_positions` refuses.
    """
    check_positions(positions)
    if search not in SEARCHES:
        raise ValueError(f"search: found {search!r}; allowed: {', '.join(SEARCHES)}")
    chex.assert_rank(positions, 2)
    num_nodes, dim = positions.shape
    if node_mask is not None:
        chex.assert_shape(node_mask, (num_nodes,))
    if not 0 <= num_neighbors <= num_nodes - 1:
        raise ValueError(
            f"num_neighbors must be in [0, {num_nodes - 1}] for {num_nodes} nodes, "
            f"found {num_neighbors}"
        )
    if num_neighbors == num_nodes - 1 and node_mask is None:
        return all_neighbors(num_nodes)
    if search == "auto":
        large = pays_off(num_nodes, num_neighbors, dim)
        search = "blocks" if large else "all_pairs"
    if search == "blocks" and num_neighbors:
        return block_neighbors(positions, num_neighbors, node_mask)[:2]
    if num_nodes**2 <= _PAIRS_AT_ONCE:
        distances = squared_distances(positions)
        return _nearest_of_all(distances, 0, num_neighbors, node_mask)
    # Under vmap clouds are searched one by one, so memory stays that of one.
    find = partial(_search_all_pairs, num_neighbors=num_neighbors)
    find = jax.custom_batching.sequential_vmap(find)
    if node_mask is None:
        node_mask = jnp.ones((num_nodes,), bool)
    return find(jax.lax.stop_gradient(positions), node_mask)


def _nearest_of_all(
    distances: jax.Array,
    first: int | jax.Array,
    num_neighbors: int,
    node_mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns senders and mask of some nodes from their distances to all.

    Args:
      distances: [row, node].
      first: Node of the first row.
      num_neighbors: k.
      node_mask: [node].
    """
    rows, num_nodes = distances.shape
    own = (first + jnp.arange(rows))[:, None] == jnp.arange(num_nodes)[None, :]
    distances = jnp.where(own, jnp.inf, distances)
    if node_mask is not None:
        distances = jnp.where(node_mask[None, :], distances, jnp.inf)
    negative, senders = jax.lax.top_k(-distances, num_neighbors)
    edge_mask = jnp.isfinite(negative)
    if node_mask is not None:
        own_mask = jax.lax.dynamic_slice(node_mask, (first,), (rows,))
        edge_mask = edge_mask & own_mask[:, None]
    return senders.astype(jnp.int32), edge_mask


def _search_all_pairs(
    positions: jax.Array, node_mask: jax.Array, num_neighbors: int
) -> tuple[jax.Array, jax.Array]:
    """Compares all pairs, some rows at a time."""
    num_nodes, dim = positions.shape
    rows = max(1, _PAIRS_AT_ONCE // num_nodes)
    num_chunks = -(-num_nodes // rows)
    rows = -(-num_nodes // num_chunks)

    def search_rows(first):
        own = jax.lax.dynamic_slice(positions, (first, 0), (rows, dim))
        distances = jnp.zeros((rows, num_nodes), positions.dtype)
        for axis in range(dim):
            offsets = own[:, axis, None] - positions[None, :, axis]
            distances = distances + offsets**2
        return _nearest_of_all(distances, first, num_neighbors, node_mask)

    # The last chunk starts early enough to be whole.
    starts = np.minimum(np.arange(num_chunks) * rows, num_nodes - rows)
    found = jax.lax.map(search_rows, jnp.asarray(starts, jnp.int32))
    # Place of each node in the chunks.
    place = np.arange(num_nodes)
    chunk = np.minimum(place // rows, num_chunks - 1)
    place = chunk * rows + place - starts[chunk]
    return jax.tree.map(lambda leaf: leaf.reshape(-1, num_neighbors)[place], found)


def all_neighbors(num_nodes: int) -> tuple[jax.Array, jax.Array]:
    """Joins every node to all others; returns senders and mask, [node, node - 1].

    Args:
      num_nodes: Nodes of a graph.
    """
    others = np.arange(num_nodes - 1)[None, :]
    centre = np.arange(num_nodes)[:, None]
    senders = jnp.asarray(others + (others >= centre), jnp.int32)
    return senders, jnp.ones(senders.shape, bool)


def long_short_neighbors(
    positions: jax.Array, num_neighbors: int, num_long_range: int, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Joins every node to its nearest and to uniformly drawn other nodes.

    This is the paper's long-short baseline. With num_long_range = num_neighbors it is
    the published code's, which keeps random edges only. A random edge that repeats
    another edge of the same node is masked out.

    Args:
      positions: [node, dim].
      num_neighbors: Number of neighbours, k, at most node - 1.
      num_long_range: Number of the k neighbours that are random.
      rng: Key of the random edges.

    Returns:
      Senders, int32 [node, k], and edge mask, bool [node, k].
    """
    num_nodes = positions.shape[0]
    short, _ = nearest_neighbors(positions, num_neighbors - num_long_range)
    centre = jnp.arange(num_nodes, dtype=jnp.int32)[:, None]
    offsets = jax.random.randint(
        rng, (num_nodes, num_long_range), 1, max(num_nodes, 2), jnp.int32
    )
    senders = jnp.concatenate([short, (centre + offsets) % num_nodes], axis=1)
    same = senders[:, :, None] == senders[:, None, :]  # [node, later, earlier]
    earlier = np.tril(np.ones((num_neighbors, num_neighbors), bool), -1)[None]
    return senders, ~jnp.any(same & earlier, axis=-1)


def adjacency(
    senders: jax.Array, edge_mask: jax.Array, *, self_loops: bool
) -> jax.Array:
    """Turns a neighbour list into a dense matrix, bool [receiver, sender].

    Args:
      senders: [node, neighbor].
      edge_mask: True for real edges, bool [node, neighbor].
      self_loops: Whether every node receives from itself too.
    """
    chex.assert_equal_shape([senders, edge_mask])
    num_nodes, num_neighbors = senders.shape
    if num_nodes**2 * num_neighbors <= _COMPARISONS_UP_TO:
        columns = jnp.arange(num_nodes, dtype=senders.dtype)[None, None, :]
        marked = (senders[:, :, None] == columns) & edge_mask[:, :, None]
        dense = jnp.any(marked, axis=1)
    else:
        rows = jnp.arange(num_nodes)[:, None]
        columns = jnp.where(edge_mask, senders, num_nodes)
        dense = jnp.zeros((num_nodes, num_nodes), bool)
        dense = dense.at[rows, columns].set(True, mode="drop")
    return dense | jnp.eye(num_nodes, dtype=bool) if self_loops else dense
