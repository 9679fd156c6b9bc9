"""Tests that noise buckets tile [0, 1], follow the schedule and keep the budget."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.graphs import (
    CLUSTERINGS,
    CONNECTIVITIES,
    RangeResolution,
    allocate_batch,
    bucket_index,
    make_noise_buckets,
)
from ncgn_jax.graphs.buckets import voxels_per_side
from ncgn_jax.graphs.range_resolution import num_supernodes_exact

NAMES = ("exp", "linear", "relu", "log", "power", "constant")
# Schedules that rise within a hundred-millionth of the axis, at several places.
JUMP = RangeResolution("table", table=((0, 0), (0.5, 0), (0.5 + 1e-8, 1), (1, 1)))
JUMP_LATE = RangeResolution("table", table=((0, 0), (1 - 1e-8, 0), (1, 1)))
JUMP_EARLY = RangeResolution("table", table=((0, 0), (1e-8, 1), (1, 1)))


def assert_tile(buckets):
    assert buckets[0].low == 0.0
    assert buckets[-1].high == 1.0
    for before, after in itertools.pairwise(buckets):
        assert before.high == after.low
    assert all(bucket.low < bucket.high for bucket in buckets)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    num_nodes=st.integers(1, 1000),
    k=st.integers(1, 20),
    dim=st.integers(1, 3),
    schedule=st.one_of(st.sampled_from(NAMES).map(RangeResolution), st.just(JUMP)),
    clustering=st.sampled_from(CLUSTERINGS),
    connectivity=st.sampled_from(CONNECTIVITIES),
    reverse=st.booleans(),
)
def test_every_bucket_is_possible_and_they_tile(
    num_nodes, k, dim, schedule, clustering, connectivity, reverse
):
    buckets = make_noise_buckets(
        num_nodes,
        k,
        dim,
        schedule=schedule,
        clustering=clustering,
        connectivity=connectivity,
        reverse_schedule=reverse,
    )
    assert_tile(buckets)
    for bucket in buckets:
        assert bucket.num_nodes == num_nodes
        assert 1 <= bucket.num_supernodes <= num_nodes
        assert 0 <= bucket.num_neighbors <= bucket.num_supernodes - 1
        assert 0 <= bucket.num_long_range <= bucket.num_neighbors
        if bucket.clustering == "voxel":
            assert bucket.voxels_per_side**dim >= bucket.num_supernodes
        if bucket.clustering == "identity":
            assert bucket.num_supernodes == num_nodes
    sizes = [bucket.num_supernodes for bucket in buckets]
    assert sizes == sorted(sizes, reverse=reverse)
    for level in (0.0, 0.3, 1.0, *(bucket.low for bucket in buckets)):
        index = bucket_index(buckets, level)
        assert 0 <= index < len(buckets)
        assert buckets[index].low <= level <= buckets[index].high


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("name", NAMES)
def test_every_bucket_spends_about_the_same_edges(clustering, name):
    buckets = make_noise_buckets(
        400, 7, 3, schedule=RangeResolution(name), clustering=clustering
    )
    for bucket in buckets:
        if bucket.num_neighbors == bucket.num_supernodes - 1:  # all there are
            assert bucket.num_edges <= 2800 + bucket.num_supernodes
        else:
            assert 2800 <= bucket.num_edges < 2800 + bucket.num_supernodes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("name", NAMES)
def test_sizes_follow_the_schedule(clustering, name, reverse):
    schedule = RangeResolution(name)
    buckets = make_noise_buckets(
        400, 7, 3, schedule=schedule, clustering=clustering, reverse_schedule=reverse
    )
    for level in np.linspace(0.001, 0.999, 57):
        bucket = buckets[bucket_index(buckets, level)]
        wanted = num_supernodes_exact(1 - level if reverse else level, 400, 7, schedule)
        if bucket.voxels_per_side:
            side = bucket.voxels_per_side
            assert side**3 <= wanted * (1 + 1e-9)
            assert wanted <= (side + 1) ** 3 * (1 + 1e-9)
        else:  # the nearest power of two on a logarithmic scale, rounded up
            assert abs(math.log2(bucket.num_supernodes / wanted)) < 0.52


def test_voxel_buckets_of_the_paper():
    buckets = make_noise_buckets(400, 7, 3, clustering="voxel")
    assert [bucket.voxels_per_side for bucket in buckets] == [3, 4, 5, 6, 7]
    # Where s0 + (N - s0)(e^{10 a} - 1)/(e^10 - 1) passes v^3.
    coarsest = math.sqrt(2800)
    weights = (np.asarray([64, 125, 216, 343]) - coarsest) / (400 - coarsest)
    bounds = np.log1p(weights * math.expm1(10)) / 10
    np.testing.assert_allclose(bounds, [0.656, 0.843, 0.924, 0.982], atol=6e-4)
    np.testing.assert_allclose([b.low for b in buckets[1:]], bounds, atol=1e-9)


def test_sixty_four_supernodes_are_four_voxels_a_side():
    # floor(64 ** (1 / 3)) is 3 in floating point.
    assert voxels_per_side(64, 3) == 4
    assert voxels_per_side(63.999, 3) == 3
    for side, dim in itertools.product(range(1, 60), (1, 2, 3, 4)):
        assert voxels_per_side(side**dim, dim) == side
        assert voxels_per_side(side**dim + 0.5, dim) == side


def test_reverse_is_the_mirror_image():
    forward = make_noise_buckets(400, 7, 3)
    backward = make_noise_buckets(400, 7, 3, reverse_schedule=True)
    assert [b.num_supernodes for b in backward] == [400, 200, 100, 50]
    for one, other in zip(forward, reversed(backward), strict=True):
        assert one.num_neighbors == other.num_neighbors
        assert one.low == pytest.approx(1 - other.high, abs=1e-12)


@pytest.mark.parametrize("num_nodes", [27, 64, 125])
def test_a_shape_reached_at_one_point_only_leaves_no_gap(num_nodes):
    # N = 4^3 supernodes are asked for at exactly one end.
    for reverse in (False, True):
        buckets = make_noise_buckets(
            num_nodes, 4, 3, clustering="voxel", reverse_schedule=reverse
        )
        assert_tile(buckets)
        assert bucket_index(buckets, 0.0) == 0


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize(
    ("schedule", "count"), [(JUMP, 2), (JUMP_LATE, 1), (JUMP_EARLY, 1)]
)
def test_a_jumping_schedule_leaves_no_gap(clustering, schedule, count):
    buckets = make_noise_buckets(400, 7, 3, schedule=schedule, clustering=clustering)
    assert len(buckets) == count
    assert_tile(buckets)


def test_bucket_index_at_the_bounds():
    buckets = make_noise_buckets(400, 7, 3)
    for i, bucket in enumerate(buckets):
        assert bucket_index(buckets, bucket.low) == i
        assert bucket_index(buckets, math.nextafter(bucket.high, 0)) == i
    assert bucket_index(buckets, 1.0) == len(buckets) - 1
    for level in (-1e-9, 1 + 1e-9):
        with pytest.raises(ValueError, match="signal_level"):
            bucket_index(buckets, level)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_tiny_graphs(num_nodes, k):
    for clustering, connectivity in itertools.product(CLUSTERINGS, CONNECTIVITIES):
        buckets = make_noise_buckets(
            num_nodes, k, 3, clustering=clustering, connectivity=connectivity
        )
        assert buckets[-1].num_neighbors <= min(k, num_nodes - 1) or (
            connectivity == "fully_connected"
        )


def test_baselines_have_one_bucket_on_all_points():
    shapes = {
        name: make_noise_buckets(40, 5, 3, connectivity=name)
        for name in CONNECTIVITIES
        if name != "dmp"
    }
    assert all(len(buckets) == 1 for buckets in shapes.values())
    degree = {name: b.num_neighbors for name, (b,) in shapes.items()}
    assert degree == {"knn": 5, "long_short": 5, "fully_connected": 39}
    assert shapes["knn"][0].num_long_range == 0
    assert shapes["long_short"][0].num_long_range == 2
    for share, long in ((0.0, 5), (1.0, 0), (0.2, 4)):
        (bucket,) = make_noise_buckets(
            40, 5, 3, connectivity="long_short", short_fraction=share
        )
        assert bucket.num_long_range == long


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=9), st.integers(0, 200))
def test_a_batch_is_divided_completely(raw, extra):
    shares = np.asarray(raw) / np.sum(raw)
    counts = allocate_batch(shares, len(shares) + extra)
    assert sum(counts) == len(shares) + extra
    assert min(counts) >= 1
    # No bucket lacks a whole graph, unless the minimum of one took it.
    wanted = shares * (len(shares) + extra)
    if wanted.min() >= 1:
        assert np.all(np.abs(np.asarray(counts) - wanted) < 1)


def test_a_batch_is_divided_by_largest_remainders():
    assert allocate_batch((0.7, 0.2, 0.1), 10) == (7, 2, 1)
    assert allocate_batch((0.5, 0.26, 0.24), 6) == (3, 2, 1)
    assert allocate_batch((0.98, 0.01, 0.01), 4) == (2, 1, 1)
    with pytest.raises(ValueError, match="at least the number of noise buckets"):
        allocate_batch((0.5, 0.5), 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"connectivity": "radius"},
        {"clustering": "kmeans"},
        {"num_nodes": 0},
        {"num_neighbors": 0},
        {"dim": 0},
        {"short_fraction": 1.5},
    ],
)
def test_impossible_requests_are_refused(fields):
    valid = {"num_nodes": 10, "num_neighbors": 2, "dim": 3}
    with pytest.raises(ValueError, match=f"{next(iter(fields))}"):
        make_noise_buckets(**valid | fields)
