import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ncgn_jax.graphs import build_graphs, make_noise_buckets, on_coarse_graph
from ncgn_jax.graphs.pooling import coarsen, spread

NUM_POINTS = 24


def cloud_and_graph(rng, clustering):
    buckets = make_noise_buckets(NUM_POINTS, 3, 3, clustering=clustering)
    clouds = jax.random.normal(rng, (2, NUM_POINTS, 3))
    return clouds, jax.jit(build_graphs, static_argnums=1)(clouds, buckets[0])


@pytest.mark.parametrize("clustering", ["balanced", "voxel"])
def test_identity_gives_each_point_the_mean_of_its_cluster(rng, clustering):
    clouds, graph = cloud_and_graph(rng, clustering)
    out = np.asarray(on_coarse_graph(lambda coarse: coarse, clouds, graph))
    cluster = np.empty(2 * NUM_POINTS, int)
    cluster[np.asarray(graph.order)] = np.asarray(graph.assignment)
    flat = np.asarray(clouds).reshape(-1, 3)
    expected = np.stack([flat[cluster == c].mean(axis=0) for c in cluster])
    assert len(np.unique(cluster)) < 2 * NUM_POINTS
    np.testing.assert_allclose(out.reshape(-1, 3), expected, atol=1e-6)


def test_flat_values_give_the_same(rng):
    clouds, graph = cloud_and_graph(rng, "balanced")
    network = jraph.GraphConvolution(lambda x: x @ jnp.ones((3, 5)))
    out = on_coarse_graph(network, clouds, graph)
    assert out.shape == (2, NUM_POINTS, 5)
    flat = on_coarse_graph(network, clouds.reshape(-1, 3), graph)
    np.testing.assert_array_equal(out.reshape(-1, 5), flat)


def test_network_sees_the_edges_of_the_bucket(rng):
    clouds, graph = cloud_and_graph(rng, "balanced")
    seen = []

    def network(coarse):
        seen.append(coarse)
        return coarse

    on_coarse_graph(network, clouds, graph)
    np.testing.assert_array_equal(seen[0].senders, graph.coarse.senders)
    assert seen[0].nodes.shape == (graph.num_supernodes, 3)
    np.testing.assert_allclose(seen[0].nodes, graph.supernode_positions, atol=1e-6)
    assert coarsen(spread(seen[0].nodes, graph), graph).shape == seen[0].nodes.shape
