"""Calls of the library with positions that it cannot tell apart, and other values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import (
    balanced_order,
    build_graphs,
    make_noise_buckets,
    nearest_neighbors,
    voxel_clusters,
)

CLOUD = np.random.default_rng(0).normal(size=(300, 3)).astype("f4")
BUCKETS = make_noise_buckets(num_nodes=300, num_neighbors=7, dim=3)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((CLOUD * 20_000).astype("i4"), "positions: found int32; allowed: float32"),
        ((CLOUD * 300).astype("f2"), "positions: found float16; allowed: float32"),
        (CLOUD * np.float32(1e-20), r"extent of \d.*e-20; allowed: 1e-15 to 1e\+15"),
        (CLOUD * np.float32(1e20), r"extent of \d.*e\+20; allowed: 1e-15"),
    ],
)
def test_positions_without_distances_are_refused(points, said):
    with pytest.raises(ValueError, match=said):
        nearest_neighbors(jnp.asarray(points), 3)
    with pytest.raises(ValueError, match=said):
        build_graphs(jnp.asarray(points)[None], BUCKETS[0])


@pytest.mark.parametrize("scale", [1e-14, 1e-6, 1e6, 1e13])
def test_neighbors_do_not_depend_on_the_scale(scale):
    expected, _ = nearest_neighbors(jnp.asarray(CLOUD), 3)
    found, mask = nearest_neighbors(jnp.asarray(CLOUD * np.float32(scale)), 3)
    distance = np.linalg.norm(CLOUD[:, None] - CLOUD[np.asarray(found)], axis=-1)
    exact = np.linalg.norm(CLOUD[:, None] - CLOUD[np.asarray(expected)], axis=-1)
    np.testing.assert_allclose(distance, exact, rtol=1e-5)
    assert np.asarray(mask).all()


def test_equal_points_and_compiled_calls_pass():
    same = jnp.ones((5, 3))
    assert nearest_neighbors(same, 2)[1].all()
    compiled = jax.jit(lambda x: nearest_neighbors(x, 3)[0])
    np.testing.assert_array_equal(
        compiled(jnp.asarray(CLOUD)), nearest_neighbors(jnp.asarray(CLOUD), 3)[0]
    )


def test_points_that_are_no_numbers_stay_in_the_graph():
    one, some, many = (CLOUD.copy() for _ in range(3))
    one[5], some[[0, 17, 299], 0], many[:40] = np.nan, np.nan, np.nan
    spoilt = jnp.asarray([one, some, many])
    for num_clusters in (7, 40):
        chosen = partial(balanced_order, num_clusters=num_clusters)
        order = jax.jit(jax.vmap(chosen))(spoilt)
        np.testing.assert_array_equal(np.sort(order), [np.arange(300)] * 3)
    graph = jax.jit(lambda x: build_graphs(x, BUCKETS[0]))(spoilt)
    lost = np.isnan(np.asarray(graph.positions)).any(axis=-1).reshape(3, 300)
    np.testing.assert_array_equal(lost.sum(axis=1), [1, 3, 40])


@pytest.mark.parametrize(
    ("side", "dim", "most"), [(0, 3, 1290), (2000, 3, 1290), (60_000, 2, 46_340)]
)
def test_grids_that_no_number_fits_are_refused(side, dim, most):
    said = rf"num_voxels_per_side: found {side}; allowed: 1 to {most}"
    with pytest.raises(ValueError, match=said):
        voxel_clusters(jnp.asarray(CLOUD[:, :dim]), side)


def test_the_finest_grid_counts_right():
    far = [[0, 0, 0], [836.2, 956.8, 692.4], [1290, 1290, 1290]]
    assert int(voxel_clusters(jnp.asarray(far, jnp.float32), 1290)[1]) == 3
