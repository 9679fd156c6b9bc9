"""Tests NCGN: parity with published weights, symmetries, every kind of bucket."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import convert
from ncgn_jax.graphs import (
    NoiseBucket,
    build_graphs,
    join_graphs,
    make_noise_buckets,
)
from ncgn_jax.models import point_layers
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.ncgn import NCGN
from ncgn_jax.models.point_layers import GeometricMessage
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
    without_empty_supernodes,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")

PARITY_FILES = ("ncgn_gat_points.npz", "ncgn_gcn_transcriptomics.npz")
NETWORK = NCGN(out_dim=DIM, width=WIDTH, num_layers=1)


@functools.cache
def variables():
    build = functools.partial(build_graphs, bucket=BUCKETS["dmp_balanced_8"])
    return random_variables(NETWORK, jax.eval_shape(build, clouds()))


@functools.cache
def compiled(bucket):
    """Returns the output and the gradient of graph 0's output by all positions."""

    def loss(points, variables, key):
        graph = build_graphs(points, bucket, key)
        out = NETWORK.apply(variables, features(points), jnp.asarray(LEVEL), graph)
        out = out.reshape(NUM_GRAPHS, NUM_NODES, DIM)
        return jnp.sum(jnp.sin(3 * out[0])), out

    return jax.jit(jax.grad(loss, has_aux=True))


def run(name, points):
    # Buckets that differ only in their interval share a program.
    bucket = dataclasses.replace(BUCKETS[name], low=0.0, high=1.0)
    gradient, out = compiled(bucket)(points, variables(), jax.random.key(7))
    return np.asarray(out), np.asarray(gradient)


def test_there_are_buckets_of_every_kind():
    kinds = {bucket.clustering for bucket in BUCKETS.values()}
    assert kinds == {"balanced", "voxel", "identity"}
    shapes = {NUM_NODES % b.num_supernodes == 0 for b in BUCKETS.values()}
    assert shapes == {True, False}
    assert len(BUCKETS) >= 7


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if place % 3 == 0 else pytest.mark.thorough)
        for place, name in enumerate(BUCKETS)
    ],
)
def test_graphs_of_a_batch_do_not_see_each_other(name):
    points = clouds()
    out, gradient = run(name, points)
    assert np.isfinite(out).all()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() > 1e-3
    np.testing.assert_array_equal(gradient[1], 0.0)
    other = points.copy()
    other[1] = clouds(5)[1]
    changed, _ = run(name, other)
    np.testing.assert_allclose(changed[0], out[0], rtol=1e-5, atol=1e-5)
    assert np.abs(changed[1] - out[1]).max() > 1e-3


@pytest.mark.parametrize("name", [n for n in BUCKETS if not n.startswith("long")])
def test_the_output_permutes_with_the_points(name):
    points = clouds()
    shuffle = np.random.default_rng(2).permutation(NUM_NODES)
    out, gradient = run(name, points)
    shuffled, shuffled_gradient = run(name, points[:, shuffle])
    np.testing.assert_allclose(shuffled, out[:, shuffle], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        shuffled_gradient, gradient[:, shuffle], rtol=1e-3, atol=1e-3
    )
    assert np.abs(out[:, shuffle] - out).max() > 0.01


@pytest.mark.parametrize("name", BUCKETS)
def test_degenerate_clouds_stay_finite(name):
    identical, planar, line = np.full_like(clouds(), 0.5), clouds(), clouds()
    planar[..., 2] = 0.0
    line[..., :2] = 1.0
    pairs = np.repeat(clouds()[:, : NUM_NODES // 2], 2, axis=1)
    for points in (identical, planar, line, pairs):
        out, gradient = run(name, points)
        assert np.isfinite(out).all()
        assert np.isfinite(gradient).all()


def test_joined_buckets_give_what_each_gives_alone():
    names = ["dmp_balanced_8", "dmp_identity_30", "dmp_balanced_15", "dmp_voxel_8"]
    sets = [clouds(seed) for seed in range(len(names))]

    @jax.jit
    def joined(sets, variables):
        graph = join_graphs(
            [build_graphs(s, BUCKETS[n]) for s, n in zip(sets, names, strict=True)]
        )
        inputs = jnp.concatenate([features(points) for points in sets])
        levels = jnp.tile(LEVEL, len(sets))
        return NETWORK.apply(variables, inputs, levels, graph)

    found = joined(sets, variables()).reshape(len(names), NUM_GRAPHS, NUM_NODES, DIM)
    for out, name, points in zip(found, names, sets, strict=True):
        np.testing.assert_allclose(out, run(name, points)[0], rtol=1e-4, atol=1e-4)


def test_the_noise_level_of_a_graph_matters_to_it_alone():
    bucket = BUCKETS["dmp_balanced_8"]

    @jax.jit
    def apply(level, variables):
        graph = build_graphs(clouds(), bucket)
        return NETWORK.apply(variables, features(clouds()), level, graph)

    one, other = (
        apply(np.asarray(level, np.float32), variables()).reshape(NUM_GRAPHS, -1)
        for level in ((0.3, 0.8), (0.3, 0.1))
    )
    np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(one[1] - other[1]).max() > 1e-3


@pytest.mark.parametrize("kind", [NCGN, Hourglass])
def test_batch_norm_does_not_see_empty_supernodes(kind):
    bucket = NoiseBucket(0.0, 1.0, NUM_NODES, 27, 4, "voxel", 3)
    graph = jax.jit(lambda points: build_graphs(points, bucket))(clouds())
    graph = jax.tree.map(np.asarray, graph)
    assert not graph.coarse.nodes["mask"].all()
    network = kind(DIM, WIDTH, num_layers=1, convolution="gcn", norm="batch")
    inputs = jax.jit(features)(clouds()), jnp.asarray(LEVEL)
    state = random_variables(network, graph)
    train = jax.jit(
        lambda graph: network.apply(
            state, *inputs, graph, train=True, mutable=["batch_stats"]
        )
    )
    (out, stats), (expected, expected_stats) = map(
        train, (graph, without_empty_supernodes(graph))
    )
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
    leaves = jax.tree.leaves(stats), jax.tree.leaves(expected_stats)
    for found, wanted in zip(*leaves, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("file", PARITY_FILES)
def test_parity_in_single_precision(fixtures, file):
    assert convert.check_parity(fixtures / file) <= 1e-5


@pytest.mark.parametrize("file", PARITY_FILES)
def test_parity_in_double_precision(fixtures, file):
    with jax.enable_x64(True):
        assert convert.check_parity(fixtures / file) <= 1e-9


def published_message(state, name, receiver, sender, offset, edge):
    """Computes the published message: three maps, then two normed layers."""

    def linear(layer, values):
        return values @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]

    inner = [
        linear(f"{name}.lin_x", np.concatenate([receiver, sender], axis=1)),
        linear(f"{name}.lin_pos", offset),
        linear(f"{name}.lin_edge", edge),
    ]
    values = np.concatenate(inner, axis=1)
    for i in range(2):
        values = linear(f"{name}.lin_combine.lins.{i}", values)
        norm = f"{name}.lin_combine.norms.{i}.module"
        values = values - state[f"{norm}.running_mean"]
        values = values / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        values = values * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        values = np.maximum(values, 0)
    return values


@pytest.mark.parametrize("towards_point", [False, True])
def test_the_folded_message_equals_the_published_one(fixtures, towards_point):
    with np.load(fixtures / PARITY_FILES[0]) as file:
        file = {key: file[key].astype(np.float64) for key in file if "graph" not in key}
    state = {key.removeprefix("param/"): value for key, value in file.items()}
    del state["output"]
    settings, converted = convert.convert_state_dict(state)
    width, rng = settings["width"], np.random.default_rng(3)
    with jax.enable_x64(True):
        bucket = BUCKETS["dmp_balanced_8"]
        graph = jax.jit(lambda points: build_graphs(points, bucket))(
            clouds().astype(np.float64)
        )
        points = rng.normal(size=(NUM_GRAPHS * NUM_NODES, width))
        supernodes = rng.normal(size=(graph.num_supernodes, width))
        offset = rng.normal(size=(len(points), 3))
        edge = rng.normal(size=(len(points), 2))
        ours, theirs = (
            ("spread_1", "spread_ops.1")
            if towards_point
            else ("coarsen_1", "coarsening_ops.1")
        )
        message = GeometricMessage(width, "batch", None)
        found = jax.jit(functools.partial(message.apply, train=False))(
            {kind: tree[ours] for kind, tree in converted.items()},
            points,
            supernodes,
            np.concatenate([offset, edge], axis=1),
            graph,
        )
        pulled = supernodes[np.asarray(graph.assignment)]
        ends = (points, pulled) if towards_point else (pulled, points)
        expected = published_message(state, theirs, *ends, offset, edge)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "convolution"),
    [
        (Hourglass, "gcn"),
        pytest.param(NCGN, "gcn", marks=pytest.mark.thorough),
        pytest.param(NCGN, "gat", marks=pytest.mark.thorough),
        pytest.param(NCGN, "geometric", marks=pytest.mark.thorough),
        pytest.param(Hourglass, "geometric", marks=pytest.mark.thorough),
    ],
)
def test_parts_computed_twice_give_the_same_numbers(kind, convolution, monkeypatch):
    buckets = make_noise_buckets(NUM_NODES, 3, DIM)
    num_layers = 1 if kind is NCGN else 2
    network = kind(DIM, WIDTH, num_layers, convolution, norm="batch")
    points = clouds()

    @jax.jit
    def build(points):
        halves = zip((points[:1], points[1:]), (buckets[0], buckets[-1]), strict=True)
        return join_graphs([build_graphs(*half) for half in halves]), features(points)

    graph, inputs = build(points)
    variables = random_variables(network, graph)

    def traced(mutable):
        def loss(params, graph, inputs):
            every = {**variables, "params": params}
            options = {"train": True, "mutable": mutable}
            level = jnp.asarray(LEVEL)
            out, state = network.apply(every, inputs, level, graph, **options)
            return jnp.sum(out**2), state

        # Batch norm of few rows magnifies rounding, so this is in double precision.
        with jax.enable_x64(True):
            arguments = jax.tree.map(
                lambda leaf: (
                    np.asarray(leaf, np.float64)
                    if jnp.issubdtype(leaf.dtype, jnp.floating)
                    else leaf
                ),
                (variables["params"], graph, inputs),
            )
            step = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(*arguments)
            count = str(step.jaxpr).count("rng_uniform")
            return step.lower().compile()(*arguments), count

    once, count = traced(["batch_stats"])
    assert count == 0
    monkeypatch.setattr(point_layers, "_KEPT_UP_TO", 0)
    twice, count = traced(["batch_stats"])
    # Three stacks, two messages, a gate and an update, and every block of every layer.
    assert count == 3 + 4 + num_layers * len(graph.blocks)
    chex.assert_trees_all_close(twice, once, rtol=1e-7, atol=1e-9)
    # If attention weights are sown, nothing may be computed twice.
    if convolution != "gcn":
        ((_, state), _), count = traced(["batch_stats", "intermediates"])
        assert jax.tree.leaves(state["intermediates"])
        assert count == 0
