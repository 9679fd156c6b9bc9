"""Compares fixed layouts with graphs built directly, in any order and padding."""

import functools

import jax
import numpy as np
import pytest

from ncgn_jax.graphs import (
    NoiseBucket,
    build_graphs,
    connect_layouts,
    join_graphs,
    make_noise_buckets,
    take_graphs,
)
from ncgn_jax.graphs.layouts import scale_bucket
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.ncgn import NCGN
from tests.models.graph_networks import random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES = 24
BUCKETS = {
    "unequal": NoiseBucket(0.0, 0.5, NUM_NODES, 7, 4, "balanced"),
    "equal": NoiseBucket(0.5, 0.9, NUM_NODES, 12, 4, "balanced"),
    "identity": NoiseBucket(0.9, 1.0, NUM_NODES, NUM_NODES, 4),
    "voxel": NoiseBucket(0.0, 1.0, NUM_NODES, 9, 3, "voxel", 3),
    "complete": NoiseBucket(0.0, 1.0, NUM_NODES, NUM_NODES, NUM_NODES - 1),
}
LAYOUTS = np.random.default_rng(0).normal(size=(3, NUM_NODES, 2)).astype("f4")


@pytest.mark.parametrize("name", BUCKETS)
def test_taken_graphs_are_those_built_on_the_spot(name):
    bucket, index = BUCKETS[name], np.array([2, 0, 2])
    (connectivity,) = connect_layouts(list(LAYOUTS), [bucket])
    taken = jax.jit(take_graphs)(connectivity, index)
    built = jax.jit(functools.partial(build_graphs, bucket=bucket))(LAYOUTS[index])
    assert jax.tree.structure(taken) == jax.tree.structure(built)
    for found, expected in zip(*map(jax.tree.leaves, (taken, built)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_taking_graphs_sorts_and_searches_nothing(primitives):
    bucket = BUCKETS["equal"]
    (connectivity,) = connect_layouts(list(LAYOUTS), [bucket])
    searching = {"sort", "top_k", "argmin", "argmax"}
    built = jax.make_jaxpr(functools.partial(build_graphs, bucket=bucket))(LAYOUTS)
    assert primitives(built.jaxpr) & searching
    taken = jax.make_jaxpr(take_graphs)(connectivity, np.array([0, 1]))
    assert not primitives(taken.jaxpr) & searching


@pytest.mark.parametrize(
    ("kind", "convolution", "norm", "place"),
    [
        pytest.param(NCGN, "gcn", "batch", 0, marks=pytest.mark.thorough),
        (NCGN, "geometric", "layer", 1),
        (Hourglass, "gcn", "batch", 0),
        pytest.param(Hourglass, "geometric", "layer", 1, marks=pytest.mark.thorough),
    ],
)
def test_padding_changes_nothing(kind, convolution, norm, place):
    """Compares graphs of two sizes, padded together, with each alone and unpadded."""
    rng = np.random.default_rng(1)
    sizes = (24, 17)
    layouts = [LAYOUTS[i][:size] for i, size in enumerate(sizes)]
    values = [rng.normal(size=(size, 5)).astype("f4") for size in sizes]
    bucket = make_noise_buckets(NUM_NODES, 4, 2)[place]
    net = kind(3, width=8, num_layers=1, convolution=convolution, norm=norm)
    level = np.float32([0.2, 0.5])
    outputs, take = {}, jax.jit(take_graphs)

    @jax.jit
    def run(variables, features, level, graph):
        """Returns outputs by whether the network is trained."""
        found = {False: net.apply(variables, features, level, graph)}
        if norm == "batch":
            options = {"train": True, "mutable": ["batch_stats"]}
            found[True] = net.apply(variables, features, level, graph, **options)[0]
        return found

    with jax.enable_x64(True):
        for length in (24, 31):
            (connectivity,) = connect_layouts(layouts, [bucket], length)
            # Values in the padding are arbitrary.
            padded = 1e3 * np.ones((2, length, 5))
            for row, own in zip(padded, values, strict=True):
                row[: len(own)] = own
            graph = take(connectivity, np.arange(2))
            flat = padded.reshape(-1, 5)
            if length == 24:
                variables = random_variables(net, graph, 5)
            for train, out in run(variables, flat, level, graph).items():
                outputs[length, train] = np.asarray(out).reshape(2, length, 3)
        for row, size in enumerate(sizes):
            for (_, train), found in outputs.items():
                expected = outputs[24, train][row, :size]
                np.testing.assert_allclose(found[row, :size], expected, atol=1e-9)
        own = scale_bucket(bucket, size)
        build = jax.jit(functools.partial(build_graphs, bucket=own))
        alone = build(layouts[row][None])
        expected = run(variables, values[row], level[row : row + 1], alone)[False]
        # Positions are float32, and the centres of clusters with them.
        found = outputs[31, False][row, :size]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padded_and_unpadded_graphs_join():
    bucket = BUCKETS["equal"]
    (padded,) = connect_layouts([LAYOUTS[0][:10]], [bucket], NUM_NODES)
    (full,) = connect_layouts([LAYOUTS[1]], [bucket])

    @jax.jit
    def join(*parts):
        return join_graphs([take_graphs(part, np.array([0])) for part in parts])

    joined = join(padded, full)
    expected = np.arange(2 * NUM_NODES) % NUM_NODES < np.repeat([10, 24], NUM_NODES)
    np.testing.assert_array_equal(joined.point_mask, expected)


def test_layouts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one layout"):
        connect_layouts([], [BUCKETS["equal"]])
    with pytest.raises(ValueError, match="at least 24, the largest layout, found 20"):
        connect_layouts(list(LAYOUTS), [BUCKETS["equal"]], 20)


@pytest.mark.parametrize("num_nodes", [1, 9, 60])
@pytest.mark.parametrize("name", BUCKETS)
def test_scaled_buckets_are_valid(name, num_nodes):
    scaled = scale_bucket(BUCKETS[name], num_nodes)
    assert 1 <= scaled.num_supernodes <= num_nodes
    assert 0 <= scaled.num_neighbors <= scaled.num_supernodes - 1
    positions = np.random.default_rng(2).normal(size=(1, num_nodes, 2))
    graph = jax.eval_shape(functools.partial(build_graphs, bucket=scaled), positions)
    assert graph.num_supernodes == scaled.num_supernodes
    assert scale_bucket(BUCKETS[name], NUM_NODES) == BUCKETS[name]
