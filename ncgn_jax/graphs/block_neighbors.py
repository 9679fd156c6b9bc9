"""Nearest neighbours of large clouds, without all pairs of points.

The points are sorted along nested median splits into 2^q blocks of about 16 (more for
more neighbours), the leaves of a tree whose nodes know the boxes around their points.
A block's own group of four or more gives each of its points p a radius r_p within which
k others lie. All that can be nearer lies in nodes X with dist(p, X) < r_p for one of
the points, so for each block the tree is walked from the top, of every level the
2 * 3^dim nodes are kept for which

  score(X) = min_p dist(p, X)^2 / r_p^2

is least, and the distances to the points of the leaves that remain are sorted. Where no
more nodes than that ever score below 1 the result is proven exact, and `is_exact` says
so; elsewhere the nodes lost are those that the radii hardly reach.

Nothing grows faster than N log N: every step is a sort, a reshape, a gather of whole
blocks or a small dense product of blocks, and blocks are walked in chunks so that
memory is O(N) too.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Points of a block, and nodes from which the walk down the tree starts.
_BLOCK_SIZE = 16
_TOP_NODES = 64
_BRANCHING = 4
# Distances that exist at a time: enough to keep an accelerator busy.
_CHUNK = 2**20
# All pairs are faster up to this many points (measured, as is the factor below).
_ALL_PAIRS_UP_TO = 4096
_PAIRS_PER_CANDIDATE = 2


class _Level(NamedTuple):
    """Boxes of the nodes of one level of the tree.

    Attributes:
      span: Blocks of a node.
      low: Least coordinates, [node, dim]; inf for a node without real points.
      high: Greatest coordinates, [node, dim]; -inf for such a node.
    """

    span: int
    low: jax.Array
    high: jax.Array


class _Blocks(NamedTuple):
    """Points in blocks.

    Attributes:
      points: [block, place, dim].
      index: Which point it is, int32 [block, place]; at least N for padding.
      real: False for masked points and padding, bool [block, place].
    """

    points: jax.Array
    index: jax.Array
    real: jax.Array


def pays_off(num_nodes: int, num_neighbors: int, dim: int) -> bool:
    """Says whether blocks are faster than the distances of all pairs.

    Args:
      num_nodes: Points of a cloud, N.
      num_neighbors: k.
      dim: Dimension of the positions.
    """
    candidates = _num_kept(dim) * max(_BLOCK_SIZE, num_neighbors)
    enough = max(_ALL_PAIRS_UP_TO, _PAIRS_PER_CANDIDATE * candidates)
    return num_neighbors > 0 and num_nodes >= enough


def block_neighbors(
    positions: jax.Array,
    num_neighbors: int,
    node_mask: jax.Array | None = None,
    *,
    block_size: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the k nearest other nodes of every node; see the module docstring.

    Args:
      positions: [node, dim].
      num_neighbors: k, in [1, node - 1].
      node_mask: True for real nodes, [node]; None if all are.
      block_size: Points of a block, roughly; None for the larger of 16 and k.

    Returns:
      Senders, int32 [node, k], nearest first, ties in any order; edge mask,
      bool [node, k], False where a node is not real or has fewer than k real others;
      and `is_exact`, bool [node], True where no nearer node can have been missed.
    """
    positions = jax.lax.stop_gradient(positions)
    num_nodes, dim = positions.shape
    if node_mask is None:
        node_mask = jnp.ones((num_nodes,), bool)
    wanted = block_size or max(_BLOCK_SIZE, num_neighbors)
    num_blocks = 2 ** max(0, round(math.log2(num_nodes / wanted)))
    blocks = _sort_into_blocks(positions, node_mask, num_blocks)
    senders, distances, is_exact = _search(blocks, num_neighbors, _num_kept(dim))
    # Where in the blocks each node went.
    place = jnp.argsort(blocks.index.reshape(-1))[:num_nodes]
    senders = senders.reshape(-1, num_neighbors)[place]
    edge_mask = jnp.isfinite(distances.reshape(-1, num_neighbors)[place])
    is_exact = jnp.repeat(is_exact, blocks.real.shape[1])[place]
    return senders, edge_mask & node_mask[:, None], is_exact | ~node_mask


def _num_kept(dim: int) -> int:
    """Nodes kept of a level: twice a cube and those that touch it."""
    return 2 * 3**dim


def _sort_into_blocks(
    positions: jax.Array, node_mask: jax.Array, num_blocks: int
) -> _Blocks:
    """Splits points at quantiles of their widest axis until every part is a block.

    What is not real lies beyond all others on the first axis, and so in the last
    blocks.
    """
    num_nodes, dim = positions.shape
    total = num_blocks * -(-num_nodes // num_blocks)
    low, high = (
        pick(jnp.where(node_mask[:, None], positions, sign * jnp.inf), axis=0)
        for pick, sign in ((jnp.min, 1), (jnp.max, -1))
    )
    low, high = (jnp.where(jnp.isfinite(end), end, 0.0) for end in (low, high))
    beyond = high.at[0].add(1.0 + jnp.sum(high - low))[None]
    points = jnp.concatenate(
        [
            jnp.where(node_mask[:, None], positions, beyond),
            jnp.broadcast_to(beyond, (total - num_nodes, dim)),
        ]
    )
    real = jnp.concatenate([node_mask, jnp.zeros((total - num_nodes,), bool)])
    index = jnp.arange(total, dtype=jnp.int32)
    num_parts = 1
    while num_parts < num_blocks:
        parts = points[index].reshape(num_parts, -1, dim)
        axis = jnp.argmax(parts.max(axis=1) - parts.min(axis=1), axis=-1)
        keys = jnp.take_along_axis(parts, axis[:, None, None], axis=2)[..., 0]
        members = index.reshape(num_parts, -1)
        _, members = jax.lax.sort((keys, members), dimension=1, num_keys=1)
        index = members.reshape(-1)
        num_parts *= min(_BRANCHING, num_blocks // num_parts)
    shape = (num_blocks, -1)
    return _Blocks(
        points[index].reshape(*shape, dim), index.reshape(shape), real[index].reshape(shape)
    )


def _boxes(blocks: _Blocks) -> list[_Level]:
    """Returns the levels of the tree, top first and leaves last."""
    real = blocks.real[..., None]
    low = jnp.min(jnp.where(real, blocks.points, jnp.inf), axis=1)
    high = jnp.max(jnp.where(real, blocks.points, -jnp.inf), axis=1)
    levels = [_Level(1, low, high)]
    while low.shape[0] > _TOP_NODES:
        low = low.reshape(-1, _BRANCHING, low.shape[-1]).min(axis=1)
        high = high.reshape(-1, _BRANCHING, high.shape[-1]).max(axis=1)
        levels.append(_Level(levels[-1].span * _BRANCHING, low, high))
    return levels[::-1]


def _search(
    blocks: _Blocks, num_neighbors: int, num_kept: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns senders and squared distances [block, place, k], and exact [block]."""
    num_blocks, size, _ = blocks.points.shape
    levels = _boxes(blocks)
    # A group holds k others at the least, and two or three times as many if it can.
    group = _BRANCHING
    while group * size < 2 * (num_neighbors + 1):
        group *= 2
    group = min(group, num_blocks)
    per_chunk = _CHUNK // (size * size * num_kept)
    per_chunk = min(num_blocks, 2 ** int(math.log2(max(1, per_chunk))))

    def search_chunk(chunk):
        own = jax.tree.map(lambda leaf: leaf[chunk], blocks)
        members = (chunk // group * group)[:, None] + jnp.arange(group)
        radii = _nearest_of(own, _take(blocks, members), num_neighbors)[1][..., -1]
        leaves, is_exact = _walk(own, radii, chunk, levels, group, num_kept)
        senders, distances = _nearest_of(own, _take(blocks, leaves), num_neighbors)
        return senders, distances, is_exact

    found = jax.lax.map(search_chunk, jnp.arange(num_blocks).reshape(-1, per_chunk))
    return jax.tree.map(lambda leaf: leaf.reshape(num_blocks, *leaf.shape[2:]), found)


def _take(blocks: _Blocks, which: jax.Array) -> _Blocks:
    """Gathers blocks [row, block] and lays those of a row end to end."""
    rows = which.shape[0]
    dim = blocks.points.shape[-1]
    return _Blocks(
        blocks.points[which].reshape(rows, -1, dim),
        blocks.index[which].reshape(rows, -1),
        blocks.real[which].reshape(rows, -1),
    )


def _nearest_of(
    own: _Blocks, others: _Blocks, num_neighbors: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the nearest of some candidates and their squared distances.

    Args:
      own: Points that receive, [row, place].
      others: Candidates, [row, candidate], k at the least.
      num_neighbors: k.

    Returns:
      Index of the senders, and squared distances, inf where there is none; both
      [row, place, k].
    """
    rows, size = own.index.shape
    distances = jnp.zeros((rows, size, others.index.shape[1]), own.points.dtype)
    for axis in range(own.points.shape[-1]):
        offsets = own.points[:, :, None, axis] - others.points[:, None, :, axis]
        distances = distances + offsets**2
    is_other = own.index[:, :, None] != others.index[:, None, :]
    distances = jnp.where(is_other & others.real[:, None, :], distances, jnp.inf)
    # Sorts of two axes are the fastest of XLA's.
    flat = distances.reshape(rows * size, -1)
    negative, chosen = jax.lax.top_k(-flat, num_neighbors)
    chosen = chosen.reshape(rows, size * num_neighbors)
    senders = jnp.take_along_axis(others.index, chosen, axis=1)
    shape = (rows, size, num_neighbors)
    return senders.reshape(shape), -negative.reshape(shape)


def _walk(
    own: _Blocks,
    radii: jax.Array,
    chunk: jax.Array,
    levels: list[_Level],
    group: int,
    num_kept: int,
) -> tuple[jax.Array, jax.Array]:
    """Goes down the tree for a chunk of blocks.

    Args:
      own: The blocks of the chunk.
      radii: Square of the radius that holds k others of each point, [row, place];
        inf where fewer than k others were found.
      chunk: Number of each block, [row].
      levels: Of the tree, top first.
      group: Blocks of a group: these are kept, whatever their score.
      num_kept: Nodes kept of every level.

    Returns:
      Blocks that remain, [row, block], and whether nothing that scored below 1 was
      lost, [row].
    """
    # Points without k others in their group must look everywhere, near nodes first.
    top = levels[0]
    low, high = jnp.min(top.low, axis=0), jnp.max(top.high, axis=0)
    everywhere = 4.0 * jnp.sum((high - low) ** 2) + 1.0
    radii = jnp.where(jnp.isfinite(radii), radii, everywhere)
    nodes = jnp.tile(jnp.arange(top.low.shape[0])[None], (chunk.shape[0], 1))
    is_exact = jnp.ones(chunk.shape, bool)
    for level in levels:
        if level is not top:
            nodes = nodes[..., None] * _BRANCHING + jnp.arange(_BRANCHING)[None, None]
            nodes = nodes.reshape(chunk.shape[0], -1)
        scores = _scores(own, radii, level.low[nodes], level.high[nodes])
        common = max(level.span, group)
        is_own = nodes * level.span // common == (chunk // common)[:, None]
        scores = jnp.where(is_own, -1.0, scores)
        kept = min(num_kept, nodes.shape[1])
        is_exact = is_exact & (jnp.sum(scores < 1, axis=1) <= kept)
        nodes = jnp.take_along_axis(nodes, jax.lax.top_k(-scores, kept)[1], axis=1)
    return nodes, is_exact


def _scores(
    own: _Blocks, radii: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    """Returns min_p dist(p, X)^2 / r_p^2, [row, node], inf where it is not below 1.

    Args:
      own: Blocks, [row, place].
      radii: r_p^2, [row, place].
      low: Of the boxes X, [row, node, dim].
      high: Likewise.
    """
    distances = jnp.zeros((*radii.shape, low.shape[1]), radii.dtype)
    for axis in range(low.shape[-1]):
        points = own.points[:, :, None, axis]
        below = low[:, None, :, axis] - points
        above = points - high[:, None, :, axis]
        distances = distances + jnp.maximum(jnp.maximum(below, above), 0.0) ** 2
    radii = radii[..., None]
    is_near = (distances < radii) & own.real[..., None]
    # A radius of zero has nothing nearer, and nothing is divided by it.
    ratios = distances / jnp.where(radii > 0, radii, 1.0)
    return jnp.min(jnp.where(is_near, ratios, jnp.inf), axis=1)
