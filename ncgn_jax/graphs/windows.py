"""Computes neighbourhood-attention windows on a grid, the keys that a token sees.

Along each axis a token sees exactly w keys around it. At the borders the window is
shifted inwards, neither cut off nor padded (Hassani et al. 2023, as in NATTEN). An even
window has one more key before the token than after it. Nodes of a grid (height, width)
are numbered row by row. Everything is numpy and computed ahead of time.

>>> window_starts(length=6, window=3)
array([0, 0, 1, 2, 3, 3])
>>> window_mask((2, 3), (1, 2)).astype(int)[1]
array([1, 1, 0, 0, 0, 0])
>>> tiles = tile_axis(length=10, window=3, tile=4)
>>> tiles.halo, tiles.mask.shape
(1, (3, 4, 6))
"""

import dataclasses
import functools

import numpy as np

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class AxisTiles:
    """Holds equal tiles of queries along an axis, and the block of keys of each.

    Tile i holds queries i * tile ... (i + 1) * tile - 1, and its block starts `halo`
    keys before them. No query sees keys off the axis.

    Attributes:
      length: Tokens along the axis.
      halo: Keys of a block before the first query of its tile.
      mask: True for the keys of its tile's block that a query sees, bool
        [tile, query, key]. Queries past the end of the axis copy its last token.
    """

    length: int
    halo: int
    mask: np.ndarray

    @property
    def num_tiles(self) -> int:
        """Returns the number of tiles along the axis."""
        return self.mask.shape[0]

    @property
    def tile(self) -> int:
        """Returns the number of queries per tile."""
        return self.mask.shape[1]

    @property
    def block(self) -> int:
        """Returns the number of keys per block."""
        return self.mask.shape[2]


def window_starts(length: int, window: int) -> np.ndarray:
    """Returns the first key that each token of an axis sees.

    start_i = clip(i - floor(w / 2), 0, L - w); the keys are start_i ... start_i + w - 1
    (NATTEN's formula; Hassani et al. 2023).

    Args:
      length: Tokens along the axis, L.
      window: Keys that a token sees, w; all keys if there are at most w.

    Returns:
      First keys, int [length].

    Raises:
      ValueError: If a number is not positive.
    """
    if length < 1 or window < 1:
        raise ValueError(
            f"length and window must be positive, found {length} and {window}"
        )
    window = min(window, length)
    return np.clip(np.arange(length) - window // 2, 0, length - window)


def window_mask(grid: Grid, window: Grid) -> np.ndarray:
    """Returns a mask over pairs of tokens, True where the row sees the column.

    Args:
      grid: Tokens along height and width.
      window: Keys along height and width.

    Returns:
      bool [node, node]; every row has the same number of True.

    Raises:
      ValueError: If a number is not positive.
    """
    rows, columns = (
        _sees(window_starts(length, size), min(size, length), np.arange(length))
        for length, size in zip(grid, window, strict=True)
    )
    return np.kron(rows, columns)


@functools.cache
def tile_axis(length: int, window: int, tile: int) -> AxisTiles:
    """Cuts an axis into tiles of queries that read one block of keys each.

    The windows of neighbouring queries overlap, so t of them together see little more
    than t + w - 1 keys and a dense product within a tile wastes little. Every block has
    the same place relative to its tile, so shifted copies of the axis make all blocks.
    Windows shifted at a border widen the blocks if w is at least 2 t or the last tile
    has few queries. An axis that a block would cover is one tile.

    Args:
      length: Tokens along the axis, L.
      window: Keys that a token sees, w; all keys if there are at most w.
      tile: Queries per tile, t.

    Returns:
      ceil(L / t) tiles with blocks of t + w - 1 keys or more, or one tile with all L.

    Raises:
      ValueError: If a number is not positive.
    """
    if tile < 1:
        raise ValueError(f"tile must be positive, found {tile}")
    starts = window_starts(length, window)
    window = min(window, length)
    num_tiles = -(-length // tile)
    queries = np.minimum(np.arange(num_tiles * tile), length - 1)
    firsts = tile * np.arange(num_tiles)
    seen = starts[queries].reshape(num_tiles, tile)
    halo = int(np.max(firsts - seen[:, 0]))
    block = halo + int(np.max(seen[:, -1] + window - firsts))
    if block >= length:
        mask = _sees(starts, window, np.arange(length))[None]
        halo = 0
    else:
        keys = np.repeat(firsts - halo, tile)[:, None] + np.arange(block)
        mask = _sees(starts[queries], window, keys).reshape(num_tiles, tile, block)
    mask.flags.writeable = False
    return AxisTiles(length, halo, mask)


def _sees(starts: np.ndarray, window: int, keys: np.ndarray) -> np.ndarray:
    """Returns whether keys, [key] or [query, key], lie in each query's window."""
    starts = starts[:, None]
    return (keys >= starts) & (keys < starts + window)
