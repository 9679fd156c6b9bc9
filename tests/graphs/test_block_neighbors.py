"""Compares search in blocks with a k-d tree and all pairs, on clouds of all sorts."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ncgn_jax.graphs import block_neighbors as blocks_file
from ncgn_jax.graphs import nearest_neighbors, neighbors
from ncgn_jax.graphs.block_neighbors import block_neighbors, pays_off

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES = 1500
_search = jax.jit(block_neighbors, static_argnums=1, static_argnames="block_size")


def make_cloud(kind: str, num_nodes: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    """Draws a cloud of some density, float32 [node, dim]."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(num_nodes, dim))
    if kind == "uniform":
        points = rng.random((num_nodes, dim))
    elif kind == "sphere":
        points = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    elif kind == "clusters":
        # Clumps of very different widths, far apart.
        which = rng.integers(0, 12, num_nodes)
        centres, widths = rng.normal(size=(12, dim)) * 3, 10.0 ** rng.uniform(-4, 0, 12)
        points = centres[which] + widths[which, None] * normal
    elif kind == "heavy_tails":
        points = rng.standard_t(1.5, size=(num_nodes, dim))
    elif kind == "lattice":
        points = rng.integers(0, 7, (num_nodes, dim))
    elif kind == "line":
        points = rng.random((num_nodes, 1)) * np.arange(1, dim + 1)
    elif kind == "coincident":
        points = np.ones((num_nodes, dim))
    elif kind == "half_coincident":
        points = np.where(rng.random((num_nodes, 1)) < 0.5, 0.25, normal)
    elif kind == "shells":
        # An outer shell whose points are as far from the dense middle as can be.
        unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        points = unit * np.where(rng.random((num_nodes, 1)) < 0.9, 1e-3, 1.0)
    else:
        points = normal
    return points.astype(np.float32)


KINDS = (
    "normal", "uniform", "sphere", "clusters", "heavy_tails", "lattice", "line",
    "coincident", "half_coincident", "shells",
)  # fmt: skip


def check_against_tree(cloud, k, senders, mask, real=None):
    """Compares distances, neighbour by neighbour, with those of a k-d tree."""
    senders, mask = np.asarray(senders), np.asarray(mask)
    real = np.ones(len(cloud), bool) if real is None else real
    places = np.flatnonzero(real)
    assert senders.dtype == np.int32
    assert ((senders >= 0) & (senders < len(cloud))).all()
    assert not mask[~real].any()
    if not len(places):
        return
    # A point is its own nearest neighbour; coincident points come in any order.
    exact = cloud[places].astype(np.float64)
    expected = cKDTree(exact).query(exact, min(k + 1, len(places)))[0]
    expected = expected.reshape(len(places), -1)[:, 1:]
    num_others = expected.shape[1]
    np.testing.assert_array_equal(
        mask[places], np.tile(np.arange(k) < num_others, (len(places), 1))
    )
    chosen = senders[places][:, :num_others]
    assert real[chosen].all()
    assert (chosen != places[:, None]).all()
    assert (np.diff(np.sort(chosen, axis=1), axis=1) > 0).all(), "a sender repeats"
    found = np.linalg.norm(cloud[chosen].astype(np.float64) - exact[:, None], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 7, 40])
def test_distances_are_those_of_a_tree(kind, k):
    cloud = make_cloud(kind, NUM_NODES)
    check_against_tree(cloud, k, *_search(cloud, k))


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("kind", ["normal", "clusters", "lattice"])
def test_other_dimensions(kind, dim):
    cloud = make_cloud(kind, NUM_NODES, dim)
    check_against_tree(cloud, 6, *_search(cloud, 6))


@pytest.mark.parametrize("kind", ["normal", "clusters", "half_coincident"])
@pytest.mark.parametrize("num_real", [0, 1, 5, 100, 1397])
def test_masked_nodes_neither_send_nor_receive(kind, num_real):
    cloud = make_cloud(kind, NUM_NODES)
    real = np.zeros(NUM_NODES, bool)
    real[np.random.default_rng(1).permutation(NUM_NODES)[:num_real]] = True
    check_against_tree(cloud, 7, *_search(cloud, 7, real), real)


@pytest.mark.parametrize(
    ("num_nodes", "k"),
    [
        (2, 1), (3, 1), (3, 2), (17, 7), (17, 16), (64, 60), (65, 1), (65, 60),
        (257, 7), (1023, 60), (1025, 7),
    ],
)  # fmt: skip
def test_any_number_of_nodes(num_nodes, k):
    cloud = make_cloud("normal", num_nodes)
    check_against_tree(cloud, k, *_search(cloud, k, block_size=4))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_cloud(data):
    # Small whole numbers and far outliers give ties, coincident points, empty space.
    # Few values of k and N, because each compiles anew.
    num_nodes = data.draw(st.sampled_from([96, 160]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    levels = data.draw(st.integers(1, 40))
    power = data.draw(st.floats(0.2, 6.0))
    cloud = rng.integers(0, levels, (num_nodes, 3)) / levels
    cloud = (np.sign(cloud - 0.5) * np.abs(cloud - 0.5) ** power).astype(np.float32)
    far = rng.random(num_nodes) < data.draw(st.sampled_from([0.0, 0.05, 0.5]))
    cloud[far] *= np.float32(data.draw(st.sampled_from([1.0, 100.0, 1e6])))
    real = rng.random(num_nodes) < data.draw(st.sampled_from([0.1, 0.9, 1.0]))
    # Far more blocks, of two points, than are kept, so that every round has work.
    check_against_tree(cloud, 5, *_search(cloud, 5, real, block_size=2), real)


def test_the_later_rounds_are_needed_and_suffice(monkeypatch):
    cloud = make_cloud("heavy_tails", NUM_NODES)
    later = blocks_file._improve_inexact
    # With one node of each level most blocks lose something; then four are kept.
    monkeypatch.setattr(blocks_file, "_num_kept", lambda dim: 1)

    @jax.jit
    def search(positions, mask):
        rounds = []

        def watch(improve, found, is_exact, rows):
            rounds.append(jnp.sum(~is_exact))
            return later(improve, found, is_exact, rows)

        monkeypatch.setattr(blocks_file, "_improve_inexact", watch)
        return blocks_file._search(positions, mask, 7, num_blocks=128), rounds

    found, rounds = search(cloud, np.ones(NUM_NODES, bool))
    assert rounds[0] >= rounds[1] > 64
    check_against_tree(cloud, 7, *found)


@pytest.mark.parametrize("pairs", [40_000, 300_000, 600**2])
def test_all_pairs_in_parts_are_all_pairs(pairs, monkeypatch):
    clouds = np.stack([make_cloud(kind, 600) for kind in ("normal", "lattice")])
    real = np.random.default_rng(2).random((2, 600)) < 0.9
    whole = jax.vmap(lambda p: nearest_neighbors(p, 9))(clouds)
    masked = jax.vmap(lambda p, m: nearest_neighbors(p, 9, m))(clouds, real)
    monkeypatch.setattr(neighbors, "_PAIRS_AT_ONCE", pairs)
    parts = jax.vmap(lambda p: nearest_neighbors(p, 9))(clouds)
    chex.assert_trees_all_equal(parts, whole)
    parts = jax.vmap(lambda p, m: nearest_neighbors(p, 9, m))(clouds, real)
    chex.assert_trees_all_equal(parts, masked)


def test_search_is_chosen_by_size():
    assert not pays_off(4000, 7, 3)
    assert pays_off(4096, 7, 3)
    assert not pays_off(4096, 112, 3)
    assert pays_off(100_000, 112, 3)
    assert not pays_off(100_000, 0, 3)
    assert not pays_off(100_000, 7, 12)  # 3^12 nodes are nearly all
    cloud = make_cloud("normal", 5000)
    choose = jax.jit(nearest_neighbors, static_argnums=1, static_argnames="search")
    automatic, by_blocks, all_pairs = (
        choose(cloud, 7, search=search) for search in ("auto", "blocks", "all_pairs")
    )
    chex.assert_trees_all_equal(automatic, by_blocks)
    # No two distances of this cloud agree, so the order does not depend on ties.
    assert (np.asarray(by_blocks[0]) == np.asarray(all_pairs[0])).mean() > 0.9999
    check_against_tree(cloud, 7, *all_pairs)
    few = jax.jit(nearest_neighbors, static_argnums=1)(cloud[:2000], 7)
    chex.assert_trees_all_equal(few, choose(cloud[:2000], 7, search="all_pairs"))


def test_unknown_searches_are_refused():
    with pytest.raises(ValueError, match="allowed: auto, all_pairs, blocks"):
        nearest_neighbors(jnp.zeros((5, 3)), 2, search="tree")


def test_under_vmap_each_cloud_is_searched_alone():
    clouds = np.stack([make_cloud(kind, 700) for kind in ("normal", "heavy_tails")])
    together = jax.jit(jax.vmap(lambda p: block_neighbors(p, 7)))(clouds)
    for i, cloud in enumerate(clouds):
        alone = _search(cloud, 7)
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf, i=i: leaf[i], together), alone
        )
        check_against_tree(cloud, 7, *alone)


def test_one_trace_serves_clouds_of_one_size():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def search(cloud):
        return block_neighbors(cloud, 5)

    for kind in ("normal", "clusters", "coincident"):
        search(make_cloud(kind, 300))


def test_gradients_pass_through_positions_and_not_the_search():
    cloud = jnp.asarray(make_cloud("normal", 300))

    def spread(positions):
        senders, mask = nearest_neighbors(positions, 4, search="blocks")
        squares = jnp.sum((positions[senders] - positions[:, None]) ** 2, axis=-1)
        return jnp.sum(jnp.where(mask, squares, 0.0))

    gradient = jax.jit(jax.grad(spread))(cloud)
    senders = np.asarray(_search(cloud, 4)[0])
    expected = np.zeros(cloud.shape)
    for i, row in enumerate(senders):
        for j in row:
            expected[i] += 2 * (cloud[i] - cloud[j])
            expected[j] += 2 * (cloud[j] - cloud[i])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)
    batched = jax.jit(jax.vmap(jax.grad(spread)))(cloud[None])
    np.testing.assert_allclose(batched[0], gradient, rtol=1e-6)


def test_pmap_runs_the_search():
    clouds = np.stack([make_cloud("normal", 300, seed=i) for i in range(2)])
    found = jax.pmap(
        partial(block_neighbors, num_neighbors=5), devices=jax.devices()[:2]
    )(clouds)
    for i, cloud in enumerate(clouds):
        check_against_tree(cloud, 5, found[0][i], found[1][i])
