"""Compares neighbours with brute force, with ties and masks; tests random edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import (
    adjacency,
    all_neighbors,
    long_short_neighbors,
    nearest_neighbors,
    neighbors,
)
from ncgn_jax.graphs.neighbors import squared_distances

pytestmark = pytest.mark.usefixtures("compile_quickly")

_nearest = jax.jit(nearest_neighbors, static_argnums=1)
_long_short = jax.jit(long_short_neighbors, static_argnums=(1, 2))

NUM_NODES = 24
RANDOM = np.random.default_rng(0).normal(size=(NUM_NODES, 3)).astype(np.float32)
# Whole numbers give exact distances and many ties.
GRID = np.random.default_rng(1).integers(0, 3, (NUM_NODES, 3)).astype(np.float32)
CLOUDS = {"random": RANDOM, "grid": GRID, "identical": np.ones_like(RANDOM)}


def brute_force(positions, k, real):
    """Sorts the real others of every node by (distance, index)."""
    rows = []
    for i, centre in enumerate(positions):
        others = [
            (float(((centre - other) ** 2).sum()), j)
            for j, other in enumerate(positions)
            if j != i and real[j]
        ]
        rows.append([j for _, j in sorted(others)[:k]] if real[i] else [])
    return rows


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("k", [1, 7])
def test_nearest_neighbors_equal_brute_force(name, k):
    senders, mask = _nearest(CLOUDS[name], k)
    assert senders.dtype == jnp.int32
    assert np.asarray(mask).all()
    expected = brute_force(CLOUDS[name], k, np.ones(NUM_NODES, bool))
    np.testing.assert_array_equal(senders, expected)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("num_real", [0, 1, 3, 20])
def test_masked_nodes_neither_send_nor_receive(name, num_real):
    real = np.zeros(NUM_NODES, bool)
    real[np.random.default_rng(2).permutation(NUM_NODES)[:num_real]] = True
    senders, mask = _nearest(CLOUDS[name], 7, real)
    for i, expected in enumerate(brute_force(CLOUDS[name], 7, real)):
        assert list(np.asarray(senders[i])[mask[i]]) == expected


def test_a_full_mask_changes_nothing():
    ones = np.ones(NUM_NODES, bool)
    for k in (7, NUM_NODES - 1):
        senders, mask = _nearest(GRID, k, ones)
        assert np.asarray(mask).all()
        np.testing.assert_array_equal(senders, brute_force(GRID, k, ones))


def test_no_neighbors():
    senders, mask = _nearest(RANDOM, 0)
    assert senders.shape == mask.shape == (NUM_NODES, 0)


def test_all_other_nodes():
    for senders, mask in (_nearest(RANDOM, NUM_NODES - 1), all_neighbors(NUM_NODES)):
        expected = [[j for j in range(NUM_NODES) if j != i] for i in range(NUM_NODES)]
        np.testing.assert_array_equal(senders, expected)
        assert np.asarray(mask).all()


def test_one_node():
    for senders, mask in (_nearest(RANDOM[:1], 0), all_neighbors(1)):
        assert senders.shape == mask.shape == (1, 0)


@pytest.mark.parametrize("k", [-1, NUM_NODES])
def test_impossible_numbers_of_neighbors_are_refused(k):
    with pytest.raises(ValueError, match=r"num_neighbors must be in \[0, 23\]"):
        nearest_neighbors(RANDOM, k)


def test_distances_far_from_the_origin_do_not_cancel():
    near = RANDOM[:4] * 0.01
    far = squared_distances(near + np.float32(100.0))
    expected = ((near[:, None] - near[None]) ** 2).sum(-1)
    np.testing.assert_allclose(far, expected, atol=1e-6)


@pytest.mark.parametrize("num_long", [0, 3, 6])
def test_long_short_edges(num_long):
    k = 6
    senders, mask = map(np.asarray, _long_short(GRID, k, num_long, jax.random.key(3)))
    assert senders.shape == mask.shape == (NUM_NODES, k)
    short = brute_force(GRID, k - num_long, np.ones(NUM_NODES, bool))
    np.testing.assert_array_equal(senders[:, : k - num_long], np.asarray(short))
    assert mask[:, : k - num_long].all()
    for i in range(NUM_NODES):
        assert i not in senders[i]
        kept = senders[i][mask[i]]
        assert len(set(kept)) == len(kept)
        # Nothing is masked without a reason.
        assert set(kept) == set(senders[i])


def test_long_range_edges_are_uniform_over_the_other_nodes():
    keys = jax.jit(lambda: jax.random.split(jax.random.key(4), 2000))()
    draw = jax.jit(jax.vmap(lambda key: long_short_neighbors(RANDOM[:5], 4, 4, key)[0]))
    senders = np.asarray(draw(keys))
    for i in range(5):
        share = np.bincount(senders[:, i].ravel(), minlength=5) / senders[:, i].size
        assert share[i] == 0
        # Standard deviation 0.0048; the bound is five of them.
        np.testing.assert_allclose(np.delete(share, i), 0.25, atol=0.025)


def test_long_range_edges_depend_on_the_key_only():
    first, again, other = (
        np.asarray(_long_short(RANDOM, 6, 3, jax.random.key(seed))[0])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("comparisons", [2**24, 0])
@pytest.mark.parametrize("self_loops", [False, True])
def test_adjacency_equals_the_list(self_loops, comparisons, monkeypatch):
    monkeypatch.setattr(neighbors, "_COMPARISONS_UP_TO", comparisons)
    senders = np.asarray(_nearest(GRID, 7)[0])
    mask = np.random.default_rng(5).random(senders.shape) < 0.6
    expected = np.eye(NUM_NODES, dtype=bool) & self_loops
    for receiver in range(NUM_NODES):
        for sender, real in zip(senders[receiver], mask[receiver], strict=True):
            expected[receiver, sender] |= real
    found = jax.jit(lambda *edges: adjacency(*edges, self_loops=self_loops))(
        senders, mask
    )
    np.testing.assert_array_equal(found, expected)


def test_adjacency_without_edges():
    senders, mask = jnp.zeros((3, 0), jnp.int32), jnp.zeros((3, 0), bool)
    assert not adjacency(senders, mask, self_loops=False).any()
    np.testing.assert_array_equal(
        adjacency(senders, mask, self_loops=True), np.eye(3, dtype=bool)
    )
