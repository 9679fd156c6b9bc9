"""Compares voxel clusters with the published ones and a loop; tests balanced runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.graphs import balanced_order, balanced_runs, voxel_clusters
from ncgn_jax.graphs.buckets import voxels_per_side

pytestmark = pytest.mark.usefixtures("compile_quickly")

_voxel = jax.jit(voxel_clusters, static_argnums=1)
_order = jax.jit(balanced_order, static_argnums=1)


def voxel_loop(positions, side):
    """Applies the published rule point by point: first axis fastest, ranked."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    flat = []
    for point in positions:
        place = 0
        for axis in reversed(range(len(point))):
            index = 0
            if high[axis] > low[axis]:
                width = np.float32(high[axis] - low[axis]) / np.float32(side)
                index = int((point[axis] - low[axis]) // width)
                index = min(max(index, 0), side - 1)
            place = place * side + index
        flat.append(place)
    ranks = {place: rank for rank, place in enumerate(sorted(set(flat)))}
    return np.asarray([ranks[place] for place in flat]), len(ranks)


def clouds(num_nodes=24):
    """Returns clouds that break naive clusterings, by name."""
    cloud = np.random.default_rng(0).normal(size=(num_nodes, 3)).astype(np.float32)
    planar, line, outlier = cloud.copy(), cloud.copy(), cloud.copy()
    planar[:, 2] = 0.7
    line[:, 1:] = -1.0
    outlier[0] = 1e4
    return {
        "random": cloud,
        "planar": planar,
        "line": line,
        "identical": np.full_like(cloud, 0.3),
        "duplicates": np.repeat(cloud[: num_nodes // 4], 4, axis=0),
        "outlier": outlier,
        "grid": np.stack(np.unravel_index(np.arange(num_nodes), (2, 3, 4)), 1).astype(
            np.float32
        ),
    }


CLOUDS = clouds()


@pytest.mark.parametrize("case", ["400_3_53", "400_3_130", "100_2_23", "100_2_60",
                                  "2048_3_500"])  # fmt: skip
def test_published_voxel_clusters(fixtures, case):
    _, dim, supernodes = (int(part) for part in case.split("_"))
    with np.load(fixtures / "voxel_clusters.npz") as file:
        positions, cluster, occupied = (
            file[f"{name}_{case}"] for name in ("pos", "cluster", "n")
        )
    found, num_occupied = _voxel(positions, voxels_per_side(supernodes, dim))
    np.testing.assert_array_equal(found, cluster)
    assert int(num_occupied) == int(occupied)


@pytest.mark.parametrize("name", CLOUDS)
def test_voxels_equal_a_loop(name):
    found, occupied = _voxel(CLOUDS[name], 3)
    cluster, num_occupied = voxel_loop(CLOUDS[name], 3)
    np.testing.assert_array_equal(found, cluster)
    assert int(occupied) == num_occupied


@pytest.mark.parametrize("name", ["planar", "line", "identical"])
def test_a_flat_direction_raises_no_nan(name):
    # A NaN cast to a whole number is undefined, so it could go unnoticed.
    with jax.debug_nans(True), jax.debug_infs(True), jax.disable_jit():
        voxel_clusters(jnp.asarray(CLOUDS[name]), 3)


def test_the_first_axis_runs_fastest():
    corners = np.asarray(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1],
         [1, 1, 1]], np.float32)  # fmt: skip
    shuffled = np.asarray([3, 7, 0, 5, 1, 6, 2, 4])
    found, occupied = _voxel(corners[shuffled], 2)
    np.testing.assert_array_equal(found, shuffled)
    assert int(occupied) == 8


def test_one_voxel_holds_everything():
    found, occupied = _voxel(CLOUDS["random"], 1)
    assert not found.any()
    assert int(occupied) == 1


def test_a_grid_far_larger_than_the_cloud():
    found, occupied = _voxel(CLOUDS["random"], 100)
    assert int(occupied) == len(set(np.asarray(found).tolist())) == 24


@pytest.mark.parametrize(("num_nodes", "parts"), [(10, 3), (7, 7), (5, 1), (400, 53)])
def test_runs_are_equal_to_within_one(num_nodes, parts):
    bounds = balanced_runs(num_nodes, parts)
    lengths = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == num_nodes
    assert len(lengths) == parts
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize(("num_nodes", "parts"), [(5, 0), (5, 6), (5, -1)])
def test_impossible_runs_are_refused(num_nodes, parts):
    with pytest.raises(ValueError, match=r"num_clusters must be in \[1, 5\]"):
        balanced_runs(num_nodes, parts)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.data())
def test_balanced_order_is_a_permutation_for_any_size(data):
    num_nodes = data.draw(st.integers(1, 40))
    num_clusters = data.draw(st.integers(1, num_nodes))
    dim = data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 100))
    # Whole numbers give many ties.
    cloud = np.random.default_rng(seed).integers(0, 4, (num_nodes, dim))
    order = _order(jnp.asarray(cloud, jnp.float32), num_clusters)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(num_nodes))


@pytest.mark.parametrize("num_clusters", [6, 7])
@pytest.mark.parametrize("name", CLOUDS)
def test_balanced_order_of_awkward_clouds(name, num_clusters):
    order = _order(CLOUDS[name], num_clusters)
    np.testing.assert_array_equal(np.sort(order), np.arange(24))


@pytest.mark.parametrize(("dim", "flat"), [(3, False), (2, False), (3, True)])
def test_balanced_clusters_are_compact(dim, flat):
    rng = np.random.default_rng(dim)
    cloud = rng.normal(size=(120, dim)).astype(np.float32)
    if flat:
        cloud[:, 1] = 2.0
    num_clusters = 17

    def within(order):
        runs = np.split(cloud[order], balanced_runs(120, num_clusters)[1:-1])
        return np.mean([run.var(axis=0).sum() for run in runs])

    at_random = np.mean([within(rng.permutation(120)) for _ in range(20)])
    found = within(np.asarray(_order(cloud, num_clusters)))
    # A grid of 17 cells over a box would leave the fraction 17^(-2/dim).
    assert found < 3 * 17 ** (-2 / (2 if flat else dim)) * at_random


def test_separate_clumps_are_found():
    # Sixteen clumps of three points on a square grid, shuffled.
    rng = np.random.default_rng(1)
    clump = np.repeat(np.arange(16), 3)
    places = np.stack(np.unravel_index(clump, (4, 4)), axis=1) * 10.0
    cloud = (places + rng.normal(size=(48, 2))).astype(np.float32)
    shuffle = rng.permutation(48)
    order = _order(cloud[shuffle], 16)
    runs = clump[shuffle][np.asarray(order)].reshape(16, 3)
    assert all(len(set(run)) == 1 for run in runs)
    assert set(runs[:, 0]) == set(range(16))


def test_clusters_do_not_depend_on_the_order_of_the_points():
    shuffle = np.random.default_rng(2).permutation(24)
    cloud = CLOUDS["random"]
    np.testing.assert_array_equal(
        cloud[_order(cloud, 7)], cloud[shuffle][_order(cloud[shuffle], 7)]
    )
