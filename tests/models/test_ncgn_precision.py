"""Tests networks on graphs in bfloat16: sums are float32, large products bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import NoiseBucket, build_graphs, join_graphs, make_noise_buckets
from ncgn_jax.models import edges, graph_convolutions, point_layers
from ncgn_jax.models.graph_convolutions import CONVOLUTIONS, make_convolution
from ncgn_jax.models.hourglass import Hourglass
from ncgn_jax.models.layers import Norm
from ncgn_jax.models.ncgn import NCGN
from tests.weights import drawn

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES, NUM_GRAPHS, DIM, WIDTH = 32, 2, 3, 32
BUCKETS = {
    f"{clustering}_{bucket.num_supernodes}": bucket
    for clustering in ("balanced", "voxel")
    for bucket in make_noise_buckets(NUM_NODES, 3, DIM, clustering=clustering)
    if clustering == "balanced" or bucket.num_supernodes == 27
}
RAGGED = "ragged"
# A kind of block for each convolution; the others are tried by --thorough.
QUICK = {("gat", RAGGED), ("gcn", "voxel_27"), ("hourglass", "balanced_8")}
# NCGN with each convolution, and the hourglass with geometric attention.
KINDS = (*CONVOLUTIONS, "hourglass")
ATTENTIVE = {"geometric", "hourglass"}
# One convolution is tried with batch norm, in training as published.
BATCH_NORMED = "gcn"
# Sizes of axes that depend on coordinates: inputs and offsets with the level, and in
# geometric attention scores of 4 heads, pair features, means, precisions. And outputs.
EXACT_AXES = {DIM + 2, DIM + 2 + 4 * DIM, 15, 4 * DIM, 4 * DIM * DIM, DIM}
LEVEL = np.asarray([0.3, 0.8], np.float32)


def clouds():
    shape = (NUM_GRAPHS, NUM_NODES, DIM)
    return np.random.default_rng(0).normal(size=shape).astype("f4")


def features(points):
    return np.concatenate([points, np.sin(3 * points[..., :1])], -1).reshape(-1, 4)


@functools.cache
def graph_of(name):
    if name != RAGGED:
        return jax.jit(lambda points: build_graphs(points, BUCKETS[name]))(clouds())

    @jax.jit
    def build(points):
        halves = zip(points[:, None], list(BUCKETS.values())[:2], strict=True)
        return join_graphs([build_graphs(*half) for half in halves])

    return build(clouds()).replace(blocks=())


def make(kind, dtype, num_layers=1):
    if kind == "hourglass":
        return Hourglass(DIM, WIDTH, num_layers + 1, dtype=dtype)
    norm = "batch" if kind == BATCH_NORMED else "layer"
    return NCGN(DIM, WIDTH, num_layers, kind, norm, dtype=dtype)


@functools.cache
def variables_of(kind):
    """Returns random weights, also for biases, that do not depend on the graph."""
    graph = graph_of("balanced_32")
    return drawn(make(kind, jnp.float32).init, jax.random.key(0), *inputs(), graph)


def inputs():
    return jnp.asarray(features(clouds())), jnp.asarray(LEVEL)


def gradient_of(kind, dtype):
    """Returns a function of parameters and graph for gradient and output."""
    state = variables_of(kind)
    weight = np.random.default_rng(2).normal(size=(NUM_GRAPHS * NUM_NODES, DIM))

    def loss(params, graph):
        out, _ = make(kind, dtype).apply(
            {**state, "params": params},
            *inputs(),
            graph,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.mean((out - weight.astype("f4")) ** 2), out

    return jax.grad(loss, has_aux=True)


def combinations():
    for kind in KINDS:
        for name in (*BUCKETS, RAGGED):
            if kind in ATTENTIVE and name == RAGGED:
                continue  # needs blocks
            marks = () if (kind, name) in QUICK else pytest.mark.thorough
            yield pytest.param(kind, name, marks=marks)


def relative_error(found, expected):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_there_are_graphs_of_every_kind():
    assert {bucket.clustering for bucket in BUCKETS.values()} >= {"balanced", "voxel"}
    assert len({bucket.num_supernodes for bucket in BUCKETS.values()}) >= 3


@pytest.mark.parametrize(("kind", "name"), list(combinations()))
def test_output_and_gradient_are_float32_and_near(kind, name):
    params, graph = variables_of(kind)["params"], graph_of(name)
    (exact, out), (narrow, narrow_out) = (
        jax.jit(gradient_of(kind, dtype))(params, graph)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((narrow, narrow_out))} == {
        np.dtype("float32")
    }
    # The result is narrow, and as near as rounding to 8 bits in each layer allows.
    assert 1e-4 < relative_error(narrow_out, out) < 0.02
    # Batch norm of few rows magnifies any rounding. Rounding the weights alone, in
    # float32, gives cosines from 0.975 to 0.996.
    assert cosine(narrow, exact) > (0.9 if kind == BATCH_NORMED else 0.99)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def cosine(one, other):
    one, other = flat(one), flat(other)
    return np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)


def widen(leaf):
    return leaf.astype(jnp.float32)


def test_parameters_are_the_same_whatever_the_type():
    for kind in KINDS:
        one, other = (
            jax.eval_shape(
                make(kind, dtype, 2).init,
                jax.random.key(0),
                *inputs(),
                graph_of("balanced_32"),
            )
            for dtype in (jnp.float32, jnp.bfloat16)
        )
        assert one == other
        assert {leaf.dtype for leaf in jax.tree.leaves(other)} == {jnp.dtype("float32")}


def equations(jaxpr):
    """Yields every equation, also those of inner functions."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def program(kind, name, dtype=jnp.bfloat16):
    traced = jax.make_jaxpr(gradient_of(kind, dtype))
    params = variables_of(kind)["params"]
    return list(equations(traced(params, graph_of(name)).jaxpr))


def is_narrow(variable):
    return variable.aval.dtype == jnp.bfloat16


def flop(equation):
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return equation.outvars[0].aval.size * np.prod([shape[i] for i in contracted])


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("kind", "name"), list(combinations()))
def test_no_sum_is_narrow_and_large_products_are(kind, name, again, monkeypatch):
    if again:
        monkeypatch.setattr(point_layers, "_KEPT_UP_TO", 0)
    found = program(kind, name)
    sums = ("reduce", "cum", "arg", "scatter", "psum")
    assert not any(
        is_narrow(variable)
        for equation in found
        if equation.primitive.name in ("exp", "rsqrt", "log", "div", "erf", "erf_inv")
        for variable in equation.invars
    )
    bad = {
        equation.primitive.name
        for equation in found
        if equation.primitive.name.startswith(sums)
        and any(map(is_narrow, equation.invars))
        # A sum drops an axis of length 1.
        and equation.invars[0].aval.size != equation.outvars[0].aval.size
    }
    assert not bad
    dots = [e for e in found if e.primitive.name == "dot_general"]
    assert not any(is_narrow(dot.outvars[0]) for dot in dots)
    exact = [dot for dot in dots if not any(map(is_narrow, dot.invars))]
    assert all(len(set(map(is_narrow, dot.invars))) == 1 for dot in dots)
    for dot in exact:
        shapes = [v.aval.shape for v in (*dot.invars, *dot.outvars)]
        assert EXACT_AXES & set(sum(shapes, ())), shapes
    share = 1 - sum(map(flop, exact)) / sum(map(flop, dots))
    # Pair features are as wide as a head of so small a network.
    assert share > (0.5 if kind in ATTENTIVE else 0.8)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_has_nothing_narrow(kind):
    found = program(kind, "balanced_32", jnp.float32)
    assert not any(is_narrow(v) for e in found for v in (*e.invars, *e.outvars))


# Equal messages from more neighbours than 256, where sums of bfloat16 stall.
CROWD = NoiseBucket(0.0, 1.0, 320, 320, 319)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("gat", "ragged"),
        ("gcn", "listed"),
        ("geometric", "dense"),
        *(
            pytest.param(*pair, marks=pytest.mark.thorough)
            for pair in (
                ("gat", "dense"), ("gat", "listed"), ("gcn", "dense"),
                ("gcn", "ragged"), ("geometric", "listed"), ("geometric", "ragged"),
            )
        ),
    ],
)  # fmt: skip
def test_hundreds_of_equal_messages_add_up(kind, form, monkeypatch):
    if (kind, form) == ("geometric", "ragged"):
        pytest.skip("geometric attention needs blocks")
    for module in (edges, graph_convolutions):
        monkeypatch.setattr(module, "is_dense", lambda *_: form == "dense")
    network = make_convolution(kind, 8)
    # All nodes are at one place, so attention is equal for any weights.
    graph = jax.jit(lambda x: build_graphs(x, CROWD))(jnp.zeros((1, 320, 3)))
    if form == "ragged":
        graph = graph.replace(blocks=())
    values = jnp.ones((320, 8))
    if kind == "geometric":  # Its norm subtracts the mean of each row.
        values = jnp.tile(jnp.asarray([[-1.0, 1.0, 2.0, -2.0]]), (320, 2))
    variables = jax.jit(network.init)(jax.random.key(3), values, graph)

    @jax.jit
    def run(values, variables):
        out = network.apply(variables, values, graph)
        return out[0] if kind == "geometric" else out

    out, pull = jax.vjp(run, values, variables)
    narrow = values.astype(jnp.bfloat16)
    narrow_out, narrow_pull = jax.vjp(run, narrow, variables)
    assert narrow_out.dtype == jnp.float32
    assert relative_error(narrow_out, out) < 0.01
    cotangent = jnp.ones_like(out)
    exact, found = (
        flat(jax.tree.map(widen, p(cotangent))) for p in (pull, narrow_pull)
    )
    assert relative_error(found, exact) < 0.02


@pytest.mark.parametrize("kind", ["batch", "layer", "rms"])
def test_statistics_of_narrow_values_are_float32(kind):
    rng = np.random.default_rng(0)
    values = jnp.asarray(3 + rng.normal(size=(4096, 16)), jnp.bfloat16)
    norm = Norm(kind)
    variables = norm.init(jax.random.key(0), widen(values), train=True)
    one, other = (
        norm.apply(variables, v, train=True, mutable=["batch_stats"])
        for v in (values, widen(values))
    )
    for found, expected in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)
