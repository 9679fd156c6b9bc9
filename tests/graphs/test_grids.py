"""Tests that grid buckets tile [0, 1] and keep the number of pairs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.graphs import RANGE_SCHEDULES, RangeResolution, bucket_index
from ncgn_jax.graphs.grids import grid_of, make_grid_buckets

NAMES = tuple(name for name in RANGE_SCHEDULES if name != "table")
JUMP = RangeResolution("table", table=((0, 0), (0.5, 0), (0.5 + 1e-8, 1), (1, 1)))
NEVER_FINE = RangeResolution("table", table=((0, 0), (1, 0.3)))
NEVER_COARSE = RangeResolution("table", table=((0, 0.2), (1, 1)))


def assert_tile(buckets):
    assert buckets[0].low == 0.0
    assert buckets[-1].high == 1.0
    for before, after in itertools.pairwise(buckets):
        assert before.high == after.low
    assert all(bucket.low < bucket.high for bucket in buckets)


def test_buckets_of_the_paper():
    buckets = make_grid_buckets((32, 32), (4, 2, 1), num_neighbors=4)
    assert [b.patch for b in buckets] == [4, 2, 1]
    assert [b.grid for b in buckets] == [(8, 8), (16, 16), (32, 32)]
    # Nominally 64, 16 and 4 neighbours, so sides 8, 4 and 2, made odd or whole.
    assert [b.window for b in buckets] == [8, 5, 3]
    assert [b.num_neighbors for b in buckets] == [64, 25, 9]
    assert [b.num_supernodes for b in buckets] == [64, 256, 1024]
    assert [b.num_edges for b in buckets] == [4096, 6400, 9216]


def test_grids_meet_at_the_geometric_mean_of_their_tokens():
    buckets = make_grid_buckets((32, 32), (4, 2, 1), num_neighbors=4)
    # 64 + 960 (e^{10 a} - 1)/(e^10 - 1) = sqrt(64 * 256), sqrt(256 * 1024).
    for bucket, tokens in zip(buckets[1:], (128, 512), strict=True):
        level = math.log1p((tokens - 64) / 960 * math.expm1(10)) / 10
        assert bucket.low == pytest.approx(level, abs=1e-9)
    wide = make_grid_buckets((16, 48), (8, 2), 9, RangeResolution("linear"))
    assert wide[1].low == pytest.approx((math.sqrt(12 * 192) - 12) / 180, abs=1e-9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    side=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    patches=st.permutations((1, 2, 3, 4, 6, 12)),
    num_patches=st.integers(1, 6),
    num_neighbors=st.integers(0, 70),
    schedule=st.one_of(
        st.sampled_from(NAMES).map(RangeResolution),
        st.sampled_from((JUMP, NEVER_FINE, NEVER_COARSE)),
        st.floats(0.1, 40).map(lambda c: RangeResolution("exp", curvature=c)),
    ),
    reverse=st.booleans(),
)
def test_every_bucket_is_possible_and_they_tile(
    side, patches, num_patches, num_neighbors, schedule, reverse
):
    size, patches = (12 * side[0], 12 * side[1]), tuple(patches[:num_patches])
    buckets = make_grid_buckets(size, patches, num_neighbors, schedule, reverse)
    assert_tile(buckets)
    for bucket in buckets:
        assert bucket.patch in patches
        assert bucket.grid == (size[0] // bucket.patch, size[1] // bucket.patch)
        assert 1 <= bucket.window <= max(bucket.grid)
        assert bucket.window % 2 or bucket.window == max(bucket.grid)
        assert bucket.window != max(bucket.grid) - 1
        assert 1 <= bucket.num_neighbors <= bucket.num_supernodes
    counts = [bucket.num_supernodes for bucket in buckets]
    assert counts == sorted(set(counts), reverse=reverse)
    # At every level the number of tokens is the nearest to n(u) in the logarithm.
    coarsest, finest = (math.prod(grid_of(size, pick(patches))) for pick in (max, min))
    allowed = sorted({math.prod(grid_of(size, patch)) for patch in patches})
    for level in np.linspace(0.013, 0.987, 19):
        weight = schedule.weight(1 - level if reverse else level)
        wanted = coarsest + (finest - coarsest) * weight
        found = buckets[bucket_index(buckets, level)].num_supernodes
        nearest = min(abs(math.log(count / wanted)) for count in allowed)
        assert abs(math.log(found / wanted)) <= nearest + 1e-4


@pytest.mark.parametrize("num_neighbors", [1, 2, 4, 9, 16, 30, 49])
def test_every_bucket_attends_to_about_as_many_pairs(num_neighbors):
    for bucket in make_grid_buckets((64, 64), (1, 2, 4, 8), num_neighbors):
        side = math.sqrt(num_neighbors * 64**2 / bucket.num_supernodes)
        if bucket.window == max(bucket.grid):
            assert side >= bucket.window - 2  # odd: sees all, or all but one
        else:
            assert bucket.window % 2 == 1
            assert -1 <= side - bucket.window < 1
            fewest, most = (bucket.num_supernodes * (side + d) ** 2 for d in (-1, 1))
            assert fewest <= bucket.num_edges <= most


def test_windows_of_oblong_images_are_clipped_to_the_short_side():
    coarse, fine = make_grid_buckets((16, 64), (1, 4), 4, RangeResolution("linear"))
    assert (coarse.grid, coarse.window, coarse.num_neighbors) == ((4, 16), 9, 36)
    assert (fine.grid, fine.window, fine.num_neighbors) == ((16, 64), 3, 9)


@pytest.mark.parametrize("name", NAMES)
def test_reverse_is_the_mirror_image(name):
    arguments = (32, 64), (1, 2, 4, 8), 5, RangeResolution(name)
    forward = make_grid_buckets(*arguments)
    backward = make_grid_buckets(*arguments, reverse=True)
    for one, other in zip(forward, reversed(backward), strict=True):
        assert (one.patch, one.grid, one.window) == (
            other.patch,
            other.grid,
            other.window,
        )
        assert (one.low, one.high) == pytest.approx(
            (1 - other.high, 1 - other.low), abs=1e-12
        )


def test_one_patch_with_all_neighbors_is_full_attention():
    for patch, reverse in itertools.product((1, 2, 4), (False, True)):
        (bucket,) = make_grid_buckets((8, 16), (patch,), 0, None, reverse)
        assert (bucket.low, bucket.high) == (0.0, 1.0)
        assert bucket.window == 16 // patch
        assert bucket.num_neighbors == bucket.num_supernodes == 128 // patch**2
    assert all(
        bucket.num_neighbors == bucket.num_supernodes
        for bucket in make_grid_buckets((8, 8), (1, 2), 0)
    )


@pytest.mark.parametrize(
    ("schedule", "patches"),
    [
        (RangeResolution("constant"), [1]),
        (JUMP, [4, 1]),
        (NEVER_FINE, [4, 2]),
        (NEVER_COARSE, [2, 1]),
        (RangeResolution("relu"), [4, 2, 1]),
    ],
)
def test_grids_that_no_level_uses_are_left_out(schedule, patches):
    buckets = make_grid_buckets((32, 32), (1, 2, 4), 4, schedule)
    assert [bucket.patch for bucket in buckets] == patches
    assert_tile(buckets)
    mirrored = make_grid_buckets((32, 32), (1, 2, 4), 4, schedule, reverse=True)
    assert [bucket.patch for bucket in mirrored] == patches[::-1]
    assert_tile(mirrored)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"patches": (1, 3)}, "found patch 3 and image_size 8 x 16"),
        ({"patches": (16,)}, "found patch 16 and image_size 8 x 16"),
        ({"patches": (0,)}, "positive, found 8 x 16 and 0"),
        ({"patches": (2, -1)}, "positive, found 8 x 16 and -1"),
        ({"patches": ()}, r"patches .* found \(\)"),
        ({"patches": (2, 1, 2)}, r"patches .* found \(2, 1, 2\)"),
        ({"image_size": (0, 16)}, "image_size .* found 0 x 16 and 2"),
        ({"num_neighbors": -1}, "num_neighbors .* found -1"),
    ],
)
def test_impossible_requests_are_refused(fields, words):
    valid = {"image_size": (8, 16), "patches": (1, 2), "num_neighbors": 4}
    with pytest.raises(ValueError, match=words):
        make_grid_buckets(**valid | fields)
