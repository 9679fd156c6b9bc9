"""Compares means over clusters and copies to members with loops, for every way."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import cluster_sums
from ncgn_jax.graphs.cluster_sums import cluster_means, copy_to_members
from ncgn_jax.graphs.clustering import balanced_runs

NUM_GRAPHS, NUM_NODES, WIDTH = 2, 23, 4


def balanced(size):
    lengths = np.diff(balanced_runs(NUM_NODES, size))
    return np.tile(np.repeat(np.arange(size), lengths), (NUM_GRAPHS, 1)).astype("i4")


# Clusters of any length, some empty, and padding at the end.
RAGGED = np.asarray(
    [[0] * 9 + [1, 1, 3, 3, 3] + [4] * 9, [1] * 5 + [2] * 6 + [-1] * 12]
)
CASES = {
    "balanced_1": (balanced(1), 1, True),
    "balanced_5": (balanced(5), 5, True),
    "balanced_22": (balanced(22), 22, True),
    "balanced_23": (balanced(23), 23, True),
    "ragged": (RAGGED.astype("i4"), 6, False),
}


@pytest.fixture(params=["membership", "linear"])
def way(request, monkeypatch):
    """Sums small graphs by a matrix, or as if they were large."""
    if request.param == "linear":
        monkeypatch.setattr(cluster_sums, "_MEMBERSHIP_UP_TO", 0)
    return request.param


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype("f4")


@pytest.mark.parametrize("case", CASES)
def test_means_and_copies_equal_a_loop(case, way):
    assignment, size, is_balanced = CASES[case]
    points, nodes = draw(NUM_GRAPHS, NUM_NODES, WIDTH), draw(NUM_GRAPHS, size, WIDTH)
    means = cluster_means(points, assignment, size, balanced=is_balanced)
    copies = copy_to_members(nodes, assignment, balanced=is_balanced)
    assert means.shape == nodes.shape
    for g in range(NUM_GRAPHS):
        for cluster in range(size):
            members = points[g][assignment[g] == cluster]
            expected = members.mean(axis=0) if len(members) else np.zeros(WIDTH)
            np.testing.assert_allclose(means[g, cluster], expected, atol=1e-6)
        for i, cluster in enumerate(assignment[g]):
            expected = nodes[g, cluster] if cluster >= 0 else np.zeros(WIDTH)
            np.testing.assert_array_equal(copies[g, i], expected)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_matrix(case, monkeypatch):
    assignment, size, is_balanced = CASES[case]
    points, nodes = draw(NUM_GRAPHS, NUM_NODES, WIDTH), draw(NUM_GRAPHS, size, WIDTH)

    def slopes():
        means = jax.grad(
            lambda v: jnp.sum(
                cluster_means(v, assignment, size, balanced=is_balanced) * nodes
            )
        )
        copies = jax.grad(
            lambda v: jnp.sum(
                copy_to_members(v, assignment, balanced=is_balanced) * points
            )
        )
        return jax.jit(means)(points), jax.jit(copies)(nodes)

    by_matrix = slopes()
    monkeypatch.setattr(cluster_sums, "_MEMBERSHIP_UP_TO", 0)
    chex.assert_trees_all_close(slopes(), by_matrix, atol=1e-5)


def test_large_balanced_clusters_need_neither_scatter_nor_matrix(monkeypatch):
    monkeypatch.setattr(cluster_sums, "_MEMBERSHIP_UP_TO", 0)
    assignment, size, _ = CASES["balanced_5"]

    def loss(points):
        means = cluster_means(points, assignment, size, balanced=True)
        copies = copy_to_members(means, assignment, balanced=True)
        return jnp.sum(copies**2)

    program = str(jax.make_jaxpr(jax.grad(loss))(draw(NUM_GRAPHS, NUM_NODES, WIDTH)))
    assert "gather" in program
    assert "scatter" not in program
    assert "dot_general" not in program
