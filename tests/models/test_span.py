"""Networks that are told how long a step is: what it changes, and what it does not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import build_graphs
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.ncgn import NCGN
from tests.models.graph_networks import (
    BUCKETS,
    DIM,
    LEVEL,
    NUM_NODES,
    WIDTH,
    clouds,
    features,
    random_variables,
    without_empty_supernodes,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")
NETWORKS = pytest.mark.parametrize("kind", [NCGN, Hourglass])


def points():
    """Returns clouds of which one is flat, so that it occupies fewer voxels."""
    return clouds() * np.asarray([[[1, 1, 0]], [[1, 1, 1]]], np.float32)


@pytest.fixture(scope="module")
def graph():
    return jax.jit(lambda p: build_graphs(p, BUCKETS["dmp_voxel_8"]))(points())


def make(kind, graph):
    """Returns a network with a span, and random weights whose last layer is not 0."""
    network = kind(DIM, WIDTH, 1, "gcn", knows_span=True)
    return network, random_variables(network, graph)


@functools.partial(jax.jit, static_argnums=0)
def apply(network, variables, graph, span):
    inputs = features(points()), jnp.asarray(LEVEL), graph
    return network.apply(variables, *inputs, span=span)


def run(network, variables, graph, span=None):
    span = None if span is None else jnp.asarray(span, jnp.float32)
    return np.asarray(apply(network, variables, graph, span))


@NETWORKS
def test_only_a_span_above_0_is_told(kind, graph):
    network, variables = make(kind, graph)
    rest = {k: v for k, v in variables["params"].items() if k != "span_embed"}
    plain = kind(DIM, WIDTH, 1, "gcn")
    assert set(rest) == set(random_variables(plain, graph)["params"])
    velocity = run(plain, {"params": rest}, graph)
    for span in (None, [0, 0]):
        found = run(network, variables, graph, span)
        np.testing.assert_allclose(found, velocity, rtol=1e-5, atol=1e-5)
    long = run(network, variables, graph, [0.5, 0.5])
    assert np.abs(long - velocity).max() > 1e-3
    # Spans are told apart, and so are levels at the same span.
    assert np.abs(run(network, variables, graph, [1.0, 0.5]) - long).max() > 1e-3


@NETWORKS
def test_every_span_gives_the_velocity_before_training(kind, graph):
    network, variables = make(kind, graph)
    inputs = features(points()), jnp.asarray(LEVEL), graph
    init = jax.jit(network.init)
    first = init(jax.random.key(0), *inputs)["params"]["span_embed"]
    assert not first["dense_1"]["kernel"].any()
    params = {**variables["params"], "span_embed": first}
    velocity = run(network, {"params": params}, graph)
    long = run(network, {"params": params}, graph, [0.25, 1.0])
    np.testing.assert_array_equal(long, velocity)


@NETWORKS
def test_the_span_of_a_graph_is_its_own(kind, graph):
    """In graphs of one size, and in those of any."""
    network, variables = make(kind, graph)
    ragged = without_empty_supernodes(graph)
    assert len(set(ragged.coarse.n_node.tolist())) == 2
    for own in (graph, ragged):
        both, first = (run(network, variables, own, s) for s in ([0.5, 0.3], [0.5, 0]))
        np.testing.assert_allclose(both[:NUM_NODES], first[:NUM_NODES], atol=1e-6)
        assert np.abs(both[NUM_NODES:] - first[NUM_NODES:]).max() > 1e-3


@NETWORKS
def test_points_and_supernodes_are_told(kind, graph):
    """Each hears the span: without either, a network gives something else."""
    network, variables = make(kind, graph)
    first = {NCGN: "coarsen_0", Hourglass: "coarsen"}[kind]

    @jax.jit
    def told(variables, graph, span):
        found = []

        def spy(next_fun, args, kwargs, context):
            if context.module.name == first and context.method_name == "__call__":
                found.append(args[:2])
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(spy):
            inputs = features(points()), jnp.asarray(LEVEL), graph
            network.apply(variables, *inputs, span=span)
        return found[0]

    x, y = told(variables, graph, jnp.zeros(2))
    long_x, long_y = told(variables, graph, jnp.asarray([0.5, 0.25]))
    span, level = jnp.asarray([0.5, 0.25]), jnp.asarray(LEVEL)
    own = variables["params"]["span_embed"]
    hidden = jnp.stack([span, level], -1) @ own["dense_0"]["kernel"]
    hidden = jax.nn.gelu(hidden + own["dense_0"]["bias"][None], approximate=False)
    wanted = span[:, None] * (hidden @ own["dense_1"]["kernel"])
    np.testing.assert_allclose(long_x - x, wanted[graph.point_graph], atol=1e-5)
    of_supernode = np.repeat([0, 1], graph.coarse.n_node)
    np.testing.assert_allclose(long_y - y, wanted[of_supernode], atol=1e-5)
