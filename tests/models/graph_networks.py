"""Graphs of every kind of bucket, inputs and weights for tests of networks on them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs import make_noise_buckets
from tests.weights import drawn

NUM_NODES, NUM_GRAPHS, DIM, WIDTH = 30, 2, 3, 8


def _buckets():
    found = {}
    for clustering, connectivity in itertools.product(
        ("balanced", "voxel"), ("dmp", "knn", "long_short", "fully_connected")
    ):
        if connectivity != "dmp" and clustering == "voxel":
            continue  # the same graphs as with balanced clusters
        for bucket in make_noise_buckets(
            NUM_NODES, 3, DIM, clustering=clustering, connectivity=connectivity
        ):
            name = f"{connectivity}_{bucket.clustering}_{bucket.num_supernodes}"
            found[name] = bucket
    return found


BUCKETS = _buckets()
LEVEL = np.asarray([0.3, 0.8], np.float32)


def clouds(seed=0):
    shape = (NUM_GRAPHS, NUM_NODES, DIM)
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def features(points):
    """Returns positions and one more feature, flat."""
    return jnp.concatenate([points, jnp.sin(3 * points[..., :1])], -1).reshape(-1, 4)


def random_variables(network, graph, num_features=DIM + 1):
    """Draws weights for a network on such a graph."""
    features = jnp.zeros((graph.positions.shape[0], num_features))
    level = jnp.zeros(graph.coarse.n_node.shape)
    return drawn(network.init, jax.random.key(0), features, level, graph)


def without_empty_supernodes(graph):
    """Returns the graph as a ragged one without empty supernodes."""
    real = np.asarray(graph.coarse.nodes["mask"])
    kept = np.asarray(graph.coarse.edges["mask"])
    new = np.cumsum(real) - 1
    coarse = graph.coarse
    of_graph = np.repeat(np.arange(len(coarse.n_node)), coarse.n_node)[real]
    senders, receivers = (new[a[kept]] for a in (coarse.senders, coarse.receivers))
    return graph.replace(
        supernode_positions=graph.supernode_positions[real],
        assignment=new[graph.assignment],
        coarse=coarse._replace(
            nodes={"mask": real[real]},
            edges={"mask": kept[kept]},
            senders=senders,
            receivers=receivers,
            n_node=np.bincount(of_graph, minlength=NUM_GRAPHS),
            n_edge=np.bincount(of_graph[receivers], minlength=NUM_GRAPHS),
        ),
        blocks=(),
    )
