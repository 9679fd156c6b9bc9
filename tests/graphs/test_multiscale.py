"""Tests batches of two-level graphs: pooling, order, joining, jraph fields."""

import functools

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ncgn_jax.graphs import (
    NoiseBucket,
    build_graphs,
    coarsen,
    join_graphs,
    make_noise_buckets,
    sort_points,
    spread,
    unsort_points,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES, NUM_GRAPHS, WIDTH = 30, 2, 3
BUCKETS = {
    "unequal": NoiseBucket(0.0, 0.5, NUM_NODES, 8, 4, "balanced"),
    "equal": NoiseBucket(0.5, 0.9, NUM_NODES, 15, 4, "balanced"),
    "identity": NoiseBucket(0.9, 1.0, NUM_NODES, NUM_NODES, 4),
    "voxel": NoiseBucket(0.0, 1.0, NUM_NODES, 27, 4, "voxel", 3),
    "long_short": NoiseBucket(0.0, 1.0, NUM_NODES, NUM_NODES, 6, num_long_range=4),
    "complete": NoiseBucket(0.0, 1.0, NUM_NODES, NUM_NODES, NUM_NODES - 1),
    "one": NoiseBucket(0.0, 1.0, NUM_NODES, 1, 0, "balanced"),
}
JOINED = ("unequal", "voxel", "equal", "long_short")
CLOUDS = np.random.default_rng(0).normal(size=(NUM_GRAPHS, NUM_NODES, 3)).astype("f4")
VALUES = np.random.default_rng(1).normal(size=(NUM_GRAPHS * NUM_NODES, WIDTH))
VALUES = VALUES.astype("f4")


@functools.partial(jax.jit, static_argnums=1)
def build(positions, bucket, rng=None):
    return build_graphs(positions, bucket, rng)


@jax.jit
def pool(values, supernode_values, graph):
    return coarsen(values, graph), spread(supernode_values, graph)


@jax.jit
def pool_gradients(values, supernode_values, graph):
    """Returns gradients of both poolings, each weighted by the other's input."""
    _, pull = jax.vjp(lambda v, s: pool(v, s, graph), values, supernode_values)
    return pull((supernode_values, values))


@jax.jit
def there_and_back(values, graph):
    there = sort_points(values, graph)
    back = unsort_points(values, graph)
    return there, unsort_points(there, graph), sort_points(back, graph)


@functools.cache
def graph_of(name):
    if name == "joined":
        graph = jax.jit(join_graphs)([graph_of(part) for part in JOINED])
        return jax.tree.map(np.asarray, graph)
    graph = build(CLOUDS, BUCKETS[name], jax.random.key(2))
    return jax.tree.map(np.asarray, graph)


def weighted(values, weight):
    return jnp.sum(weight * jnp.sin(values))


def values_of(graph):
    return np.tile(VALUES, (graph.positions.shape[0] // len(VALUES), 1))


def mean_loop(values, assignment, num_supernodes):
    rows = np.zeros((num_supernodes, values.shape[1]))
    for supernode in range(num_supernodes):
        members = [v for v, a in zip(values, assignment, strict=True) if a == supernode]
        if members:
            rows[supernode] = np.mean(members, axis=0)
    return rows


ALL = (*BUCKETS, "joined")


@pytest.mark.parametrize("name", ALL)
def test_pooling_equals_a_loop(name):
    graph = graph_of(name)
    values = values_of(graph)
    expected = mean_loop(values, graph.assignment, graph.num_supernodes)
    for form in (graph, graph.replace(blocks=())):
        up, down = pool(values, expected.astype("f4"), form)
        np.testing.assert_allclose(up, expected, atol=1e-6)
        np.testing.assert_allclose(down, expected[graph.assignment], atol=1e-6)
    np.testing.assert_allclose(
        graph.supernode_positions,
        mean_loop(graph.positions, graph.assignment, graph.num_supernodes),
        atol=1e-6,
    )


@pytest.mark.parametrize("name", ["unequal", "equal", "voxel", "joined"])
def test_pooling_gradients_agree_with_the_ragged_form(name):
    graph = graph_of(name)
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(graph.num_supernodes, WIDTH)).astype("f4")
    values = values_of(graph)
    regular = pool_gradients(values, rows, graph)
    ragged = pool_gradients(values, rows, graph.replace(blocks=()))
    for ours, theirs in zip(regular, ragged, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


@pytest.mark.parametrize("name", ALL)
def test_points_are_in_cluster_order_and_in_their_own_graph(name):
    graph = graph_of(name)
    num_points = graph.positions.shape[0]
    np.testing.assert_array_equal(np.sort(graph.order), np.arange(num_points))
    np.testing.assert_array_equal(
        np.asarray(graph.order)[graph.inverse_order], np.arange(num_points)
    )
    assert np.all(np.diff(graph.assignment) >= 0)
    caller = np.tile(CLOUDS.reshape(-1, 3), (num_points // VALUES.shape[0], 1))
    np.testing.assert_array_equal(graph.positions, caller[graph.order])
    # The order never leaves a graph, and supernodes belong to their points' graph.
    np.testing.assert_array_equal(np.asarray(graph.order) // NUM_NODES,
                                  graph.point_graph)  # fmt: skip
    graph_of_supernode = np.repeat(
        np.arange(len(graph.coarse.n_node)), graph.coarse.n_node
    )
    np.testing.assert_array_equal(
        graph_of_supernode[graph.assignment], graph.point_graph
    )


@pytest.mark.parametrize("name", ALL)
def test_jraph_fields_are_consistent(name):
    graph = graph_of(name)
    coarse = graph.coarse
    assert isinstance(coarse, jraph.GraphsTuple)
    assert coarse.n_node.sum() == graph.num_supernodes == len(coarse.nodes["mask"])
    assert coarse.n_edge.sum() == len(coarse.senders) == len(coarse.receivers)
    assert len(coarse.edges["mask"]) == len(coarse.senders)
    of_node = np.repeat(np.arange(len(coarse.n_node)), coarse.n_node)
    of_edge = np.repeat(np.arange(len(coarse.n_edge)), coarse.n_edge)
    np.testing.assert_array_equal(of_node[coarse.receivers], of_edge)
    np.testing.assert_array_equal(of_node[coarse.senders], of_edge)
    mask = np.asarray(coarse.edges["mask"])
    real = np.asarray(coarse.nodes["mask"])
    senders = np.asarray(coarse.senders)[mask]
    receivers = np.asarray(coarse.receivers)[mask]
    assert real[senders].all()
    assert real[receivers].all()
    assert (senders != receivers).all()
    pairs = set(zip(senders.tolist(), receivers.tolist(), strict=True))
    assert len(pairs) == mask.sum()
    occupied = np.zeros(graph.num_supernodes, bool)
    occupied[np.asarray(graph.assignment)] = True
    np.testing.assert_array_equal(occupied, real)


def test_voxel_graphs_leave_supernodes_empty():
    graph = graph_of("voxel")
    assert not graph.coarse.nodes["mask"].all()
    assert not graph.coarse.edges["mask"].all()


def test_edges_join_the_nearest_supernodes():
    for name in ("unequal", "voxel"):
        graph = graph_of(name)
        size, k = BUCKETS[name].num_supernodes, BUCKETS[name].num_neighbors
        for first in (0, size):
            own = slice(first, first + size)
            real = np.flatnonzero(graph.coarse.nodes["mask"][own])
            centres = graph.supernode_positions[own][real]
            distance = ((centres[:, None] - centres[None]) ** 2).sum(-1)
            np.fill_diagonal(distance, np.inf)
            expected = real[np.argsort(distance, axis=1)[:, :k]] + first
            found = graph.coarse.senders.reshape(-1, k)[own][real]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["unequal", "voxel", "joined"])
def test_sorting_and_unsorting_are_inverse(name):
    graph = graph_of(name)
    values = values_of(graph)
    there, back, forth = there_and_back(values, graph)
    np.testing.assert_array_equal(there, values[graph.order])
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(forth, values)


@pytest.mark.parametrize("name", ["unequal", "joined"])
def test_gradients_of_sorting_are_those_of_indexing(name):
    graph = graph_of(name)
    values = jnp.asarray(values_of(graph))
    weight = np.random.default_rng(4).normal(size=values.shape).astype("f4")
    for ours, places in (
        (sort_points, graph.order),
        (unsort_points, graph.inverse_order),
    ):
        loss = jax.jit(jax.grad(lambda v, f=ours: weighted(f(v, graph), weight)))
        plain = jax.jit(jax.grad(lambda v, p=places: weighted(v[p], weight)))
        np.testing.assert_allclose(loss(values), plain(values), atol=1e-6)


def test_joining_keeps_every_graph_as_it_was():
    joined = graph_of("joined")
    point = supernode = edge = 0
    for name in JOINED:
        part = graph_of(name)
        points = slice(point, point + part.positions.shape[0])
        supernodes = slice(supernode, supernode + part.num_supernodes)
        edges = slice(edge, edge + len(part.coarse.senders))
        for ours, theirs in (
            (joined.positions[points], part.positions),
            (joined.order[points] - point, part.order),
            (joined.assignment[points] - supernode, part.assignment),
            (joined.supernode_positions[supernodes], part.supernode_positions),
            (joined.coarse.nodes["mask"][supernodes], part.coarse.nodes["mask"]),
            (joined.coarse.edges["mask"][edges], part.coarse.edges["mask"]),
            (joined.coarse.senders[edges] - supernode, part.coarse.senders),
            (joined.coarse.receivers[edges] - supernode, part.coarse.receivers),
        ):
            np.testing.assert_array_equal(ours, theirs)
        point, supernode, edge = points.stop, supernodes.stop, edges.stop
    assert len(joined.blocks) == len(JOINED)
    single = graph_of("equal")
    assert join_graphs([single]) is single


@pytest.mark.parametrize("num_nodes", [1, 2, 3])
@pytest.mark.parametrize("clustering", ["balanced", "voxel"])
def test_tiny_graphs_can_be_built(num_nodes, clustering):
    cloud = CLOUDS[:, :num_nodes]
    for bucket in make_noise_buckets(num_nodes, 2, 3, clustering=clustering):
        graph = build(cloud, bucket)
        assert graph.positions.shape == (NUM_GRAPHS * num_nodes, 3)
        assert np.isfinite(graph.supernode_positions).all()


def test_random_edges_among_all_others_are_not_called_complete():
    # k >= N - 1, but the drawn edges repeat and are masked.
    (bucket,) = make_noise_buckets(4, 7, 3, connectivity="long_short")
    graph = build(CLOUDS[:, :4], bucket, jax.random.key(0))
    assert not graph.coarse.edges["mask"].all()
    assert not graph.blocks[0].complete


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="made for 30 nodes per graph, found 29"):
        build_graphs(CLOUDS[:, 1:], BUCKETS["equal"])
    with pytest.raises(ValueError, match="rng is needed"):
        build_graphs(CLOUDS, BUCKETS["long_short"])
