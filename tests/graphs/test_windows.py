"""Compares attention windows with NATTEN's formula in loops; tests tiles."""

import itertools

import numpy as np
import pytest

from ncgn_jax.graphs.windows import tile_axis, window_mask, window_starts


def keys_of(i, length, window):
    """Returns NATTEN's keys, around the centre clip(i, w/2, L-1-(w/2+w%2-1))."""
    window = min(window, length)
    half, odd = window // 2, window % 2
    center = i
    if center > length - 1 - (half + odd - 1):
        center = length - 1 - (half + odd - 1)
    if center < half:
        center = half
    return list(range(center - half, center + half + odd))


def test_windows_by_hand():
    assert window_starts(8, 8).tolist() == [0] * 8
    assert window_starts(5, 2).tolist() == [0, 0, 1, 2, 3]
    assert window_starts(5, 3).tolist() == [0, 0, 1, 2, 2]
    assert window_starts(6, 4).tolist() == [0, 0, 0, 1, 2, 2]
    assert window_starts(3, 99).tolist() == [0, 0, 0]


@pytest.mark.parametrize("length", range(1, 12))
def test_windows_are_shifted_inwards_as_in_natten(length):
    for window in range(1, 15):
        starts = window_starts(length, window)
        size = min(window, length)
        found = [list(range(start, start + size)) for start in starts]
        assert found == [keys_of(i, length, window) for i in range(length)]
        assert all(i in keys for i, keys in enumerate(found))


@pytest.mark.parametrize(
    ("grid", "window"),
    [((1, 1), (1, 1)), ((3, 5), (3, 2)), ((6, 4), (1, 3)), ((4, 7), (9, 4))],
)
def test_a_mask_is_the_product_of_its_axes(grid, window):
    mask = window_mask(grid, window)
    (height, width), (tall, wide) = grid, window
    assert mask.shape == (height * width, height * width)
    assert mask.dtype == bool
    places = list(itertools.product(range(height), range(width)))  # row by row
    for (one, (y, x)), (other, (v, u)) in itertools.product(
        enumerate(places), enumerate(places)
    ):
        sees = v in keys_of(y, height, tall) and u in keys_of(x, width, wide)
        assert mask[one, other] == sees
    assert set(mask.sum(1)) == {min(tall, height) * min(wide, width)}


@pytest.mark.parametrize("tile", [1, 2, 4, 5])
def test_blocks_hold_the_windows_of_their_tiles(tile):
    for length, window in itertools.product(range(1, 23), range(1, 25)):
        tiles = tile_axis(length, window, tile)
        assert (tiles.num_tiles - 1) * tiles.tile < length
        assert tiles.num_tiles * tiles.tile >= length
        for i, j in itertools.product(range(tiles.num_tiles), range(tiles.tile)):
            query = min(i * tiles.tile + j, length - 1)
            seen = i * tiles.tile - tiles.halo + np.nonzero(tiles.mask[i, j])[0]
            assert seen.tolist() == keys_of(query, length, window)


@pytest.mark.parametrize(
    ("tile", "window"),
    [(1, 1), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2), (4, 3), (4, 5), (4, 6), (4, 7)],
)
def test_blocks_are_no_larger_than_they_must_be(tile, window):
    tiles = tile_axis(16, window, tile)
    assert (tiles.tile, tiles.num_tiles) == (tile, 16 // tile)
    assert (tiles.halo, tiles.block) == (window // 2, tile + window - 1)


@pytest.mark.parametrize("window", [5, 7, 8, 20])
def test_an_axis_that_a_block_covers_is_one_tile(window):
    tiles = tile_axis(8, window, 4)
    assert (tiles.num_tiles, tiles.tile, tiles.block, tiles.halo) == (1, 8, 8, 0)
    assert tiles.mask.all() == (window >= 8)


def test_tiles_are_made_once_and_stay_as_they_are():
    tiles = tile_axis(16, 3, 4)
    assert tile_axis(16, 3, 4) is tiles
    with pytest.raises(ValueError, match="read-only"):
        tiles.mask[0, 0, 0] = True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0, 3, 4), "0 and 3"), ((8, 0, 4), "8 and 0"), ((8, 3, 0), "tile .* found 0")],
)
def test_counts_must_be_positive(arguments, words):
    with pytest.raises(ValueError, match=words):
        tile_axis(*arguments)
