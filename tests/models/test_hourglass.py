"""Tests the hourglass: against loops and NCGN, symmetries, every kind of bucket."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from ncgn_jax.graphs import build_graphs, join_graphs
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.ncgn import NCGN
from tests.models.graph_networks import (
    BUCKETS,
    DIM,
    LEVEL,
    NUM_GRAPHS,
    NUM_NODES,
    WIDTH,
    clouds,
    features,
    random_variables,
)
from tests.models.loops import attend, layer_norm, whiten

pytestmark = pytest.mark.usefixtures("compile_quickly")

HEADS = 4
# Equal clusters, unequal ones, empty ones, points as their own supernodes, all joined.
KINDS = (
    pytest.param("dmp_balanced_15", marks=pytest.mark.thorough),
    pytest.param("dmp_balanced_8", marks=pytest.mark.thorough),
    "dmp_voxel_8",
    "dmp_identity_30",
    pytest.param("fully_connected_identity_30", marks=pytest.mark.thorough),
)


@functools.cache
def graph_of(*names):
    """Returns the graphs of one bucket, or one graph of each of two."""
    sets = clouds()[None] if len(names) == 1 else clouds()[:, None]

    @jax.jit
    def build(sets):
        pairs = zip(names, sets, strict=True)
        return join_graphs([build_graphs(own, BUCKETS[name]) for name, own in pairs])

    return jax.tree.map(np.asarray, build(sets))


def widened(tree):
    """Returns float32 arrays as float64, and others as they are."""
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if leaf.dtype == np.float32 else leaf, tree
    )


def one_layer(params):
    """Returns parameters of an hourglass of one layer as those of NCGN."""
    layered = {"coarsen": "coarsen_0", "spread": "spread_0", "update": "update_0"}
    return {layered.get(name, name): leaf for name, leaf in params.items()}


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_one_geometric_layer_is_that_of_ncgn(norm):
    graph = graph_of("dmp_balanced_8", "dmp_identity_30")
    variables = random_variables(Hourglass(DIM, WIDTH, 1, norm=norm), graph)

    @jax.jit
    def run(variables, graph):
        inputs = features(clouds()), jnp.asarray(LEVEL), graph
        of_ncgn = {kind: one_layer(tree) for kind, tree in variables.items()}
        options = {"train": True, "mutable": ["batch_stats"]}
        return (
            Hourglass(DIM, WIDTH, 1, norm=norm).apply(variables, *inputs, **options),
            NCGN(DIM, WIDTH, 1, "geometric", norm).apply(of_ncgn, *inputs, **options),
        )

    (found, stats), (expected, expected_stats) = run(variables, graph)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    stats = {kind: one_layer(tree) for kind, tree in stats.items()}
    assert jax.tree.structure(stats) == jax.tree.structure(expected_stats)
    for one, other in zip(*map(jax.tree.leaves, (stats, expected_stats)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def linear(params, values):
    out = values @ params["kernel"]
    return out + params["bias"] if "bias" in params else out


def norm_rows(params, values):
    return np.array([layer_norm(row, params) for row in values])


def stack(params, values, num_layers, num_normed):
    """Runs dense layers that share a norm, of which the last may have none."""
    for i in range(num_layers):
        values = linear(params[f"dense_{i}"], values)
        if i < num_normed:
            values = np.maximum(norm_rows(params["norm_0"], values), 0)
    return values


def send(params, x, y, geometry):
    """Returns the message of every point; y is that of its supernode."""
    values = linear(params["point"], x) + linear(params["supernode"], y)
    values = norm_rows(params["norm_0"], values + linear(params["geometry"], geometry))
    values = linear(params["dense_1"], np.maximum(values, 0))
    return np.maximum(norm_rows(params["norm_1"], values), 0)


def average(values, graph):
    """Returns the mean of each supernode's points, 0 of none."""
    members = [graph.assignment == node for node in range(graph.num_supernodes)]
    return np.array(
        [values[own].mean(axis=0) if own.any() else 0 * values[0] for own in members]
    )


def convolve_by_degree(params, values, graph):
    """Returns W sum_j y_j / sqrt(d_i d_j) + b over neighbours and the node itself."""
    values = linear(params["linear"], values)
    real = graph.coarse.edges["mask"]
    pairs = [
        *zip(graph.coarse.receivers[real], graph.coarse.senders[real], strict=True)
    ]
    pairs += [(node, node) for node in range(len(values))]
    degree = np.bincount([receiver for receiver, _ in pairs])
    out = np.zeros_like(values)
    for receiver, sender in pairs:
        out[receiver] += values[sender] / np.sqrt(degree[receiver] * degree[sender])
    return out + params["bias"]


def hourglass(params, inputs, level, graph, convolution):
    """Follows the docstring of `models.hourglass` with numpy alone."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    level = level[graph.point_graph][:, None]
    inputs = np.concatenate([inputs[graph.order], level], axis=1)
    x = stack(params["point_embed"], inputs, 3, 3)
    y = stack(params["supernode_embed"], average(inputs, graph), 3, 3)
    offset = graph.supernode_positions[graph.assignment] - graph.positions
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    inwards = np.concatenate([offset, length, level], axis=1)
    outwards = np.concatenate([-offset, length, level], axis=1)
    state = average(send(params["coarsen"], x, y[graph.assignment], inwards), graph)
    for i in range(2):
        own = params[f"convolve_{i}"]
        if convolution == "geometric":
            state, means, covariances = attend(own, state, graph, HEADS)
        else:
            inner = np.maximum(norm_rows(params[f"norm_{i}"], state), 0)
            state = state + convolve_by_degree(own, inner, graph)
    if convolution == "geometric":
        whitening = whiten(covariances).reshape(-1, HEADS, DIM, DIM)[graph.assignment]
        means = means.reshape(-1, HEADS, DIM)[graph.assignment]
        scores = np.einsum("phij,phj->phi", whitening, means + offset[:, None])
        outwards = np.concatenate([outwards, scores.reshape(len(x), -1)], axis=1)
    pulled = send(params["spread"], x, (state + y)[graph.assignment], outwards)
    gate = linear(params["gate"], np.concatenate([x, pulled], axis=1))
    keep = 1 / (1 + np.exp(-gate))
    mixed = keep * x + (1 - keep) * pulled
    gelu = mixed * (1 + erf(mixed / np.sqrt(2))) / 2
    out = stack(params["readout"], stack(params["update"], gelu, 2, 2) + x, 3, 2)
    return out[graph.inverse_order]


@pytest.mark.parametrize("convolution", ["geometric", "gcn"])
def test_equals_loops_over_points_and_supernodes(convolution):
    network = Hourglass(DIM, WIDTH, 2, convolution)
    graph = graph_of("dmp_voxel_8", "dmp_identity_30")
    assert not graph.coarse.nodes["mask"].all()
    state = random_variables(network, graph)
    inputs = np.asarray(features(clouds()))
    with jax.enable_x64(True):
        wide = widened((state, inputs, LEVEL, graph))
        found = jax.jit(network.apply)(*wide)
    expected = hourglass(state["params"], *wide[1:], convolution)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@functools.cache
def compiled(name):
    """Returns a function for the output and gradients of graph 0's output.

    In double precision, because whitening magnifies rounding.
    """
    network = Hourglass(DIM, WIDTH, 2)
    variables = random_variables(network, graph_of("dmp_balanced_8"))

    def loss(points, variables):
        graph = build_graphs(points, BUCKETS[name])
        out = network.apply(variables, features(points), jnp.asarray(LEVEL), graph)
        out = out.reshape(NUM_GRAPHS, NUM_NODES, DIM)
        return jnp.sum(jnp.sin(3 * out[0])), out

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def run(points):
        with jax.enable_x64(True):
            (_, out), gradients = step(*widened((points, variables)))
            return jax.device_get((out, *gradients))

    return run


@pytest.mark.parametrize("name", KINDS)
def test_points_permute_and_graphs_are_apart(name):
    run, points = compiled(name), clouds()
    shuffle = np.random.default_rng(2).permutation(NUM_NODES)
    out, gradient, _ = run(points)
    assert out.shape == points.shape
    shuffled, shuffled_gradient, _ = run(points[:, shuffle])
    np.testing.assert_allclose(shuffled, out[:, shuffle], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        shuffled_gradient, gradient[:, shuffle], rtol=1e-6, atol=1e-6
    )
    assert np.abs(gradient[0]).max() > 1e-3
    np.testing.assert_array_equal(gradient[1], 0.0)


def unused(gradients):
    """Names the parameters without a gradient."""
    return [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if np.abs(leaf).max() < 1e-6
    ]


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_has_a_finite_gradient(name):
    flat = clouds()
    flat[..., 2] = 0.0
    for points in (clouds(), flat, np.full_like(flat, 0.5)):
        out, gradient, by_params = compiled(name)(points)
        assert all(np.isfinite(leaf).all() for leaf in (out, gradient))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_params))
    _, _, by_params = compiled(name)(clouds())
    assert not unused(by_params)


@pytest.mark.parametrize(
    "convolution", ["gat", pytest.param("gcn", marks=pytest.mark.thorough)]
)
def test_every_parameter_counts_with_other_convolutions(convolution):
    network = Hourglass(DIM, WIDTH, 2, convolution)
    graph = graph_of("dmp_balanced_15", "dmp_identity_30")
    variables = random_variables(network, graph)

    def loss(params):
        out = network.apply({"params": params}, features(clouds()), LEVEL, graph)
        return jnp.sum(jnp.sin(3 * out))

    assert not unused(jax.device_get(jax.jit(jax.grad(loss))(variables["params"])))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (NCGN(DIM, convolution="geometric"), 263_351),
        (Hourglass(DIM), 192_695),
        (Hourglass(DIM, num_layers=6), 315_755),
    ],
)
def test_a_layer_among_supernodes_has_fewer_parameters(network, expected):
    graph = graph_of("dmp_balanced_8")
    inputs = np.zeros((NUM_GRAPHS * NUM_NODES, DIM), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs, LEVEL, graph)
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(leaf.size for leaf in leaves) == expected
