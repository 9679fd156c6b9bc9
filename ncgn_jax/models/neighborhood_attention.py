"""Attends within the window around each token of a grid.

This is exact neighbourhood attention (Hassani et al. 2023) with static shapes. Queries
are cut into square tiles, and a tile reads one block of keys that holds all windows of
its queries; a constant mask marks the windows. All work is dense batched matrix
products, over about (tile + window - 1)^2 keys per query, and no keys are copied for
one query alone. Where the window covers the grid this is plain full attention.

>>> query = key = value = jnp.ones((2, 8 * 8, 6, 64))  # [batch, node, head, feature]
>>> neighborhood_attention(query, key, value, (8, 8), (3, 3)).shape
(2, 64, 6, 64)
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.windows import AxisTiles, Grid, tile_axis

_TILE = 4
_HIDDEN = -1e9  # a logit whose softmax is 0


def neighborhood_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, grid: Grid, window: Grid
) -> jax.Array:
    """Attends within the window around each token.

    out_i = sum_j softmax_j(q_i . k_j / sqrt(feature)) v_j over the j in window(i)
    (Hassani et al. 2023); windows are those of `graphs.windows`. Logits and softmax
    are at least float32.

    Args:
      query: [batch, node, head, feature], nodes row by row.
      key: Same shape.
      value: Same shape.
      grid: Tokens along height and width; static.
      window: Keys that a token sees along height and width, at most all; static.

    Returns:
      The result of each token, shape and type of `value`.

    Raises:
      ValueError: If the nodes do not fill the grid or a number is not positive.
    """
    chex.assert_equal_shape([query, key, value])
    batch, num_nodes, heads, features = query.shape
    if num_nodes != grid[0] * grid[1]:
        raise ValueError(
            f"grid: {grid[0]} x {grid[1]} tokens wanted, found {num_nodes} nodes"
        )
    rows, columns = (
        tile_axis(length, size, _TILE)
        for length, size in zip(grid, window, strict=True)
    )

    def on_grid(nodes):  # [batch, head, height, width, feature]
        nodes = nodes.reshape(batch, *grid, heads, features)
        return nodes.transpose(0, 3, 1, 2, 4)

    queries = _join_tiles(_tile_queries(on_grid(query), rows, columns))
    keys = _join_tiles(_key_blocks(on_grid(key), rows, columns))
    values = _join_tiles(_key_blocks(on_grid(value), rows, columns))
    out = _attend(queries, keys, values, _block_mask(rows, columns))
    out = _untile(out, rows, columns)
    return out.transpose(0, 2, 3, 1, 4).reshape(value.shape)


def _tile_queries(x: jax.Array, rows: AxisTiles, columns: AxisTiles) -> jax.Array:
    """Cuts [b, head, h, w, c] into [b, head, tile, query, tile, query, c]."""
    for axis, tiles in ((2, rows), (4, columns)):
        size = tiles.num_tiles * tiles.tile
        x = _split(_pad(x, axis, 0, size), axis, tiles.num_tiles)
    return x


def _key_blocks(x: jax.Array, rows: AxisTiles, columns: AxisTiles) -> jax.Array:
    """Reads [b, head, h, w, c] as [b, head, tile, key, tile, key, c]."""
    for axis, tiles in ((2, rows), (4, columns)):
        num_tiles, tile = tiles.num_tiles, tiles.tile
        num_parts = -(-tiles.block // tile)
        x = _pad(x, axis, tiles.halo, (num_tiles + num_parts - 1) * tile)
        # Part i of every block is the tiled axis shifted by i tiles. Unlike a gather
        # of blocks, this has no scatter in its gradient.
        shifted = [
            jax.lax.slice_in_dim(x, i * tile, (i + num_tiles) * tile, axis=axis)
            for i in range(num_parts)
        ]
        parts = [_split(part, axis, num_tiles) for part in shifted]
        blocks = jnp.concatenate(parts, axis + 1)
        x = jax.lax.slice_in_dim(blocks, 0, tiles.block, axis=axis + 1)
    return x


def _pad(x: jax.Array, axis: int, low: int, size: int) -> jax.Array:
    """Pads an axis with `low` zeros before it and with zeros after it, to a size."""
    if x.shape[axis] == size:
        return x
    padding = [(0, 0)] * x.ndim
    padding[axis] = (low, size - low - x.shape[axis])
    return jnp.pad(x, padding)


def _split(x: jax.Array, axis: int, num_tiles: int) -> jax.Array:
    """Splits an axis into [tile, token]."""
    return x.reshape(*x.shape[:axis], num_tiles, -1, *x.shape[axis + 1 :])


def _join_tiles(x: jax.Array) -> jax.Array:
    """Turns [b, head, T, t, S, s, c] into [b, head, T, S, t * s, c]."""
    x = x.transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(*x.shape[:4], x.shape[4] * x.shape[5], x.shape[6])


def _block_mask(rows: AxisTiles, columns: AxisTiles) -> np.ndarray | None:
    """Returns a mask of the keys a query sees, [1, 1, T, S, query, key], or None."""
    if rows.mask.all() and columns.mask.all():
        return None
    mask = np.einsum("tik,sjl->tsijkl", rows.mask, columns.mask)
    return mask.reshape(
        1,
        1,
        rows.num_tiles,
        columns.num_tiles,
        rows.tile * columns.tile,
        rows.block * columns.block,
    )


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: np.ndarray | None
) -> jax.Array:
    """Attends over the last axis but one; all others are batch axes."""
    precise = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum(
        "bhtsqc,bhtskc->bhtsqk", query, key, preferred_element_type=precise
    )
    logits = logits / math.sqrt(query.shape[-1])
    if mask is not None:
        logits = jnp.where(mask, logits, _HIDDEN)
    share = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhtsqk,bhtskc->bhtsqc", share, value)


def _untile(x: jax.Array, rows: AxisTiles, columns: AxisTiles) -> jax.Array:
    """Turns [b, head, T, S, t * s, c] into [b, head, h, w, c]."""
    x = x.reshape(*x.shape[:4], rows.tile, columns.tile, x.shape[-1])
    x = x.transpose(0, 1, 2, 4, 3, 5, 6)
    height, width = rows.num_tiles * rows.tile, columns.num_tiles * columns.tile
    x = x.reshape(*x.shape[:2], height, width, x.shape[-1])
    return x[:, :, : rows.length, : columns.length]
