"""Finds exact nearest neighbours in large clouds, without all pairs of points.

Nested median splits sort the points into 2^q blocks of about 16 (more for more
neighbours). The blocks are the leaves of a tree whose nodes hold the bounding boxes of
their points. The group of four or more blocks around a block gives each of its points p
a radius r_p within which k others lie. Every closer point lies in a node X with
dist(p, X) < r_p for one of the points. So for each block we walk the tree from the top,
keep on every level the c nodes with the least

  score(X) = min_p dist(p, X)^2 / r_p^2,

and sort the distances to the points of the leaves that remain. If at most c nodes of
each level score below 1, nothing was lost and the block is done.

With c = 2 * 3^dim that holds for nearly all blocks. The others are packed together and
walk again, with the radii found so far and four times as many nodes. The blocks that
are still not exact walk with all nodes. This is a loop of static shapes with as many
rounds as there are such blocks, and its result equals that of all pairs at any density.

Every step is a sort, a reshape, a gather of whole blocks or a small dense product of
blocks, and blocks are walked in chunks. Time grows as N log N while few blocks need the
last round; memory always grows as N.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from ncgn_jax.graphs.sorting import argsort_floats, invert

# Points per block, and nodes from which the walk down the tree starts.
_BLOCK_SIZE = 16
_TOP_NODES = 64
_BRANCHING = 4
# Nodes that the second walk keeps per node of the first.
_WIDER = 4
# Distances in memory at a time, enough to keep an accelerator busy.
_CHUNK = 2**20
# All pairs are faster up to this many points (measured, as is the factor below).
_ALL_PAIRS_UP_TO = 4096
_PAIRS_PER_CANDIDATE = 2

T = TypeVar("T")


class _Blocks(NamedTuple):
    """Holds points in blocks.

    Attributes:
      points: [block, place, dim].
      node: Number of the point, int32 [block, place]; at least N for padding.
      real: False for masked points and padding, bool [block, place].
    """

    points: jax.Array
    node: jax.Array
    real: jax.Array


class _Boxes(NamedTuple):
    """Holds the boxes of the nodes of one level of the tree.

    Attributes:
      low: Least coordinates, [node, dim]; inf for a node without real points.
      high: Greatest coordinates, [node, dim]; -inf for such a node.
    """

    low: jax.Array
    high: jax.Array


class _Found(NamedTuple):
    """Holds the nearest other points found so far for the points of some blocks.

    Attributes:
      senders: int32 [block, place, k], nearest first.
      distances: Their squared distances, [block, place, k]; inf where there is none.
    """

    senders: jax.Array
    distances: jax.Array


def pays_off(num_nodes: int, num_neighbors: int, dim: int) -> bool:
    """Returns whether blocks are faster than the distances of all pairs.

    Args:
      num_nodes: Points per cloud, N.
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
) -> tuple[jax.Array, jax.Array]:
    """Finds the k nearest other nodes of every node; see the module docstring.

    Under `vmap` clouds are searched one after the other, because a single cloud fills
    the device. Memory stays that of one cloud.

    Args:
      positions: [node, dim].
      num_neighbors: k, in [1, node - 1].
      node_mask: True for real nodes, [node]; None if all are.
      block_size: Approximate points per block; None for the larger of 16 and k.

    Returns:
      Senders, int32 [node, k], nearest first, ties in any order; and edge mask,
      bool [node, k], False where a node is not real or has fewer than k real others.
    """
    chex.assert_rank(positions, 2)
    num_nodes = positions.shape[0]
    if node_mask is None:
        node_mask = jnp.ones((num_nodes,), bool)
    chex.assert_shape(node_mask, (num_nodes,))
    wanted = block_size or max(_BLOCK_SIZE, num_neighbors)
    num_blocks = 2 ** max(0, round(math.log2(num_nodes / wanted)))
    search = partial(_search, num_neighbors=num_neighbors, num_blocks=num_blocks)
    search = jax.custom_batching.sequential_vmap(search)
    return search(jax.lax.stop_gradient(positions), node_mask)


def _num_kept(dim: int) -> int:
    """Returns how many nodes the first walk keeps: twice a cube and its neighbours."""
    return 2 * 3**dim


def _search(
    positions: jax.Array, node_mask: jax.Array, num_neighbors: int, num_blocks: int
) -> tuple[jax.Array, jax.Array]:
    """Returns senders and edge mask, [node, k]."""
    num_nodes, dim = positions.shape
    blocks = _sort_into_blocks(positions, node_mask, num_blocks)
    levels = _make_levels(blocks)
    kept = _num_kept(dim)

    def begin(which):
        own = _rows(blocks, which)
        members = _group_of(which, blocks, num_neighbors)
        found = _nearest_of(own, _take(blocks, members), num_neighbors)
        return _improve(blocks, levels, which, found, kept)

    rows = _rows_at_once(blocks, kept)
    found, is_exact = jax.lax.map(begin, jnp.arange(num_blocks).reshape(-1, rows))
    found, is_exact = jax.tree.map(
        lambda leaf: leaf.reshape(num_blocks, *leaf.shape[2:]), (found, is_exact)
    )
    for more in (_WIDER * kept, num_blocks):
        if more > kept:
            improve = partial(_improve, blocks, levels, num_kept=more)
            rows = _rows_at_once(blocks, more)
            found, is_exact = _improve_inexact(improve, found, is_exact, rows)
    # Place of each node in the blocks.
    place = invert(blocks.node.reshape(-1))[:num_nodes]
    senders = found.senders.reshape(-1, num_neighbors)[place]
    edge_mask = jnp.isfinite(found.distances.reshape(-1, num_neighbors)[place])
    # A sender may be padding where there is no edge.
    return jnp.minimum(senders, num_nodes - 1), edge_mask & node_mask[:, None]


def _sort_into_blocks(
    positions: jax.Array, node_mask: jax.Array, num_blocks: int
) -> _Blocks:
    """Splits points at quantiles of their widest axis until every part is a block.

    Points that are not real lie beyond all others on the first axis, so they fall into
    the last blocks.
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
        members = jnp.take_along_axis(members, argsort_floats(keys), axis=1)
        index = members.reshape(-1)
        num_parts *= min(_BRANCHING, num_blocks // num_parts)
    shape = (num_blocks, -1)
    return _Blocks(
        points[index].reshape(*shape, dim),
        index.reshape(shape),
        real[index].reshape(shape),
    )


def _make_levels(blocks: _Blocks) -> list[_Boxes]:
    """Returns the levels of the tree, top first and leaves last."""
    real = blocks.real[..., None]
    low = jnp.min(jnp.where(real, blocks.points, jnp.inf), axis=1)
    high = jnp.max(jnp.where(real, blocks.points, -jnp.inf), axis=1)
    levels = [_Boxes(low, high)]
    while low.shape[0] > _TOP_NODES:
        low = low.reshape(-1, _BRANCHING, low.shape[-1]).min(axis=1)
        high = high.reshape(-1, _BRANCHING, high.shape[-1]).max(axis=1)
        levels.append(_Boxes(low, high))
    return levels[::-1]


def _rows_at_once(blocks: _Blocks, num_kept: int) -> int:
    """Returns the number of blocks walked at a time, a power of two."""
    num_blocks, size, _ = blocks.points.shape
    rows = _CHUNK // (size * size * min(num_kept, num_blocks))
    return min(num_blocks, 2 ** int(math.log2(max(1, rows))))


def _group_of(which: jax.Array, blocks: _Blocks, num_neighbors: int) -> jax.Array:
    """Returns the group of each block, [row, block], with 2 k points if possible."""
    num_blocks, size, _ = blocks.points.shape
    group = _BRANCHING
    while group * size < 2 * (num_neighbors + 1):
        group *= 2
    group = min(group, num_blocks)
    return (which // group * group)[:, None] + jnp.arange(group)[None]


def _rows(tree: T, which: jax.Array) -> T:
    """Returns the given rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[which], tree)


def _take(blocks: _Blocks, which: jax.Array) -> _Blocks:
    """Gathers blocks [row, block] and joins the blocks of each row."""
    rows = which.shape[0]
    dim = blocks.points.shape[-1]
    return _Blocks(
        blocks.points[which].reshape(rows, -1, dim),
        blocks.node[which].reshape(rows, -1),
        blocks.real[which].reshape(rows, -1),
    )


def _improve_inexact(
    improve: Callable[..., tuple[_Found, jax.Array]],
    found: _Found,
    is_exact: jax.Array,
    rows: int,
) -> tuple[_Found, jax.Array]:
    """Improves the blocks that are not known to be exact, some rows at a time.

    Args:
      improve: improve(which, found) for the blocks `which` [row], as `_improve`.
      found: Neighbours of all blocks.
      is_exact: Whether nothing was lost, [block].
      rows: Blocks at a time; divides the number of blocks.
    """
    queue = jnp.argsort(is_exact)
    count = jnp.sum(~is_exact)

    def advance(state):
        turn, found, is_exact = state
        # The last turn may improve blocks that are exact, which does no harm.
        which = jax.lax.dynamic_slice(queue, (turn * rows,), (rows,))
        own, exact = improve(which, _rows(found, which))
        found = jax.tree.map(lambda all_, new: all_.at[which].set(new), found, own)
        return turn + 1, found, is_exact.at[which].set(exact)

    state = jax.lax.while_loop(
        lambda state: state[0] * rows < count, advance, (0, found, is_exact)
    )
    return state[1], state[2]


def _improve(
    blocks: _Blocks,
    levels: list[_Boxes],
    which: jax.Array,
    found: _Found,
    num_kept: int,
) -> tuple[_Found, jax.Array]:
    """Searches the tree for closer neighbours of some blocks.

    Args:
      blocks: All blocks.
      levels: The tree.
      which: Number of each block, [row].
      found: Their neighbours so far, [row, place, k].
      num_kept: Nodes kept on every level.

    Returns:
      Their neighbours now, and whether these are exact, bool [row].
    """
    own = _rows(blocks, which)
    leaves, is_exact = _walk(own, found.distances[..., -1], levels, num_kept)
    others = _take(blocks, leaves)
    return _nearest_of(own, others, found.senders.shape[-1], found), is_exact


def _nearest_of(
    own: _Blocks, others: _Blocks, num_neighbors: int, found: _Found | None = None
) -> _Found:
    """Returns the nearest among candidates and earlier neighbours.

    Args:
      own: Receiving points, [row, place].
      others: Candidates, [row, candidate], at least k without earlier neighbours.
      num_neighbors: k.
      found: Earlier neighbours, [row, place, k].
    """
    rows, size = own.node.shape
    count = others.node.shape[1]
    distances = jnp.zeros((rows, size, count), own.points.dtype)
    for axis in range(own.points.shape[-1]):
        offsets = own.points[:, :, None, axis] - others.points[:, None, :, axis]
        distances = distances + offsets**2
    is_other = own.node[:, :, None] != others.node[:, None, :]
    distances = jnp.where(is_other & others.real[:, None, :], distances, jnp.inf)
    if found is not None:
        # Every point closer than the farthest neighbour found is a candidate; ties at
        # that distance only fill the remaining slots, so no point appears twice.
        reach = found.distances[..., -1:]
        as_far = jnp.where(found.distances == reach, found.distances, jnp.inf)
        distances = jnp.where(distances < reach, distances, jnp.inf)
        distances = jnp.concatenate([distances, as_far], axis=-1)
    # XLA sorts arrays of two axes fastest.
    negative, chosen = jax.lax.top_k(-distances.reshape(rows * size, -1), num_neighbors)
    chosen = chosen.reshape(rows, size * num_neighbors)
    fresh = jnp.minimum(chosen, count - 1)
    senders = jnp.take_along_axis(others.node, fresh, axis=1)
    shape = (rows, size, num_neighbors)
    senders, chosen = senders.reshape(shape), chosen.reshape(shape)
    if found is not None:
        before = jnp.maximum(chosen - count, 0)
        before = jnp.take_along_axis(found.senders, before, axis=2)
        senders = jnp.where(chosen < count, senders, before)
    return _Found(senders, -negative.reshape(shape))


def _walk(
    own: _Blocks, radii: jax.Array, levels: list[_Boxes], num_kept: int
) -> tuple[jax.Array, jax.Array]:
    """Walks down the tree for some blocks.

    Args:
      own: The blocks, [row, place].
      radii: Square of the radius within which k others of each point are known,
        [row, place]; inf where fewer than k are known.
      levels: Levels of the tree, top first.
      num_kept: Nodes kept on every level.

    Returns:
      Blocks that remain, [row, block], and whether all nodes that score below 1 were
      kept, [row].
    """
    # Points with fewer than k known others search everywhere, near nodes first.
    top = levels[0]
    low, high = jnp.min(top.low, axis=0), jnp.max(top.high, axis=0)
    everywhere = 4.0 * jnp.sum((high - low) ** 2) + 1.0
    radii = jnp.where(jnp.isfinite(radii), radii, everywhere)
    rows = radii.shape[0]
    nodes = jnp.tile(jnp.arange(top.low.shape[0])[None], (rows, 1))
    is_exact = jnp.ones((rows,), bool)
    for level in levels:
        if level is not top:
            nodes = nodes[..., None] * _BRANCHING + jnp.arange(_BRANCHING)[None, None]
            nodes = nodes.reshape(rows, -1)
        scores = _scores(own, radii, level.low[nodes], level.high[nodes])
        kept = min(num_kept, nodes.shape[1])
        is_exact = is_exact & (jnp.sum(jnp.isfinite(scores), axis=1) <= kept)
        if kept < nodes.shape[1]:
            best = jax.lax.top_k(-scores, kept)[1]
            nodes = jnp.take_along_axis(nodes, best, axis=1)
    return nodes, is_exact


def _scores(
    own: _Blocks, radii: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    """Returns min_p dist(p, X)^2 / r_p^2, [row, node], inf where it is not below 1.

    Args:
      own: Blocks, [row, place].
      radii: r_p^2, [row, place].
      low: Least coordinates of the boxes X, [row, node, dim].
      high: Greatest coordinates of the boxes X, [row, node, dim].
    """
    distances = jnp.zeros((*radii.shape, low.shape[1]), radii.dtype)
    for axis in range(low.shape[-1]):
        points = own.points[:, :, None, axis]
        below = low[:, None, :, axis] - points
        above = points - high[:, None, :, axis]
        distances = distances + jnp.maximum(jnp.maximum(below, above), 0.0) ** 2
    radii = radii[..., None]
    is_near = (distances < radii) & own.real[..., None]
    # No point is closer than a radius of zero, so it divides nothing.
    ratios = distances / jnp.where(radii > 0, radii, 1.0)
    return jnp.min(jnp.where(is_near, ratios, jnp.inf), axis=1)
