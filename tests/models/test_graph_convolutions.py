"""Compares three forms of each graph convolution with explicit numpy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import NoiseBucket, build_graphs, join_graphs, make_noise_buckets
from ncgn_jax.models import edges, graph_convolutions
from ncgn_jax.models.graph_convolutions import edge_attention, make_convolution

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES, WIDTH = 16, 8
BUCKETS = (
    NoiseBucket(0.0, 0.5, NUM_NODES, NUM_NODES, 4),
    NoiseBucket(0.0, 0.5, NUM_NODES, NUM_NODES, 4, "voxel", 3),
    NoiseBucket(0.0, 0.5, NUM_NODES, NUM_NODES, 6, num_long_range=5),
    NoiseBucket(0.5, 1.0, NUM_NODES, 5, 4, "balanced"),
)
FORMS = ("dense", "listed", "ragged")


@pytest.fixture(scope="module")
def graph():
    """Returns plain graphs, and with empty voxels, masked random or all edges."""
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(len(BUCKETS), 2, NUM_NODES, 3)).astype("f4")

    @jax.jit
    def build(key):
        return join_graphs(
            [build_graphs(c, b, key) for c, b in zip(clouds, BUCKETS, strict=True)]
        )

    return jax.tree.map(np.asarray, build(jax.random.key(1)))


@pytest.fixture(scope="module")
def values(graph):
    rng = np.random.default_rng(2)
    return rng.normal(size=(graph.num_supernodes, WIDTH)).astype("f4")


@functools.cache
def variables_of(kind):
    """Returns random weights, also for biases, because zeros would hide mistakes."""
    num_nodes = BUCKETS[0].num_supernodes
    abstract = jax.eval_shape(
        lambda key, cloud: make_convolution(kind, WIDTH).init(
            key, jnp.zeros((num_nodes, WIDTH)), build_graphs(cloud, BUCKETS[0])
        ),
        jax.random.key(0),
        jnp.zeros((1, NUM_NODES, 3)),
    )
    rng = np.random.default_rng(3)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype("f4")  # noqa: E731
    return {"params": jax.tree.map(draw, abstract["params"])}


@pytest.fixture(scope="module")
def results(graph, values):
    """Returns output, gradients and attention of each convolution in each form."""
    weight = np.random.default_rng(4).normal(size=values.shape).astype("f4")

    def run(kind, form):
        network = make_convolution(kind, WIDTH)

        def loss(variables, values, graph):
            out, sown = network.apply(
                variables, values, graph, mutable=["intermediates"]
            )
            attention = None
            if sown:
                attention = edge_attention(sown["intermediates"]["attention"], graph)
            return jnp.sum(weight * out), (out, attention)

        shaped = graph.replace(blocks=()) if form == "ragged" else graph
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (_, (out, attention)), gradients = compiled(variables_of(kind), values, shaped)
        return out, gradients, attention

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for form in FORMS:
            for module in (edges, graph_convolutions):
                patch.setattr(module, "is_dense", lambda *_, f=form: f != "listed")
            found |= {(kind, form): run(kind, form) for kind in ("gat", "gcn")}
    return found


def incoming(graph):
    """Lists the senders of every supernode, itself among them."""
    mask = np.asarray(graph.coarse.edges["mask"])
    joined = [[i] for i in range(graph.num_supernodes)]
    for sender, receiver in zip(
        graph.coarse.senders[mask], graph.coarse.receivers[mask], strict=True
    ):
        joined[receiver].append(int(sender))
    return joined


def test_the_graph_has_every_kind_of_hole(graph):
    assert not graph.coarse.nodes["mask"].all()
    long_short = np.asarray(graph.coarse.edges["mask"]).reshape(-1)
    start = 2 * 2 * NUM_NODES * 4
    assert not long_short[start : start + 2 * NUM_NODES * 6].all()
    assert [block.complete for block in graph.blocks] == [False, False, False, True]


@pytest.mark.parametrize("form", FORMS)
def test_gcn_is_the_normalised_adjacency_product(results, graph, values, form):
    joined = incoming(graph)
    adjacency = np.zeros((graph.num_supernodes,) * 2)
    for receiver, senders in enumerate(joined):
        adjacency[receiver, senders] = 1
    scale = np.diag(adjacency.sum(axis=1) ** -0.5)
    params = variables_of("gcn")["params"]
    kernel = params["linear"]["kernel"].astype(np.float64)
    expected = scale @ adjacency @ scale @ (values @ kernel) + params["bias"]
    np.testing.assert_allclose(results["gcn", form][0], expected, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gat_is_a_softmax_over_incoming_edges(results, graph, values, form):
    params = jax.tree.map(lambda a: a.astype(np.float64), variables_of("gat")["params"])
    inner = values @ params["linear"]["kernel"]
    source, target = inner @ params["attend_source"], inner @ params["attend_target"]
    expected = np.zeros(values.shape)
    weight_of = {}
    for i, senders in enumerate(incoming(graph)):
        logits = np.asarray([(target[i] + source[j]).item() for j in senders])
        logits = np.where(logits > 0, logits, 0.2 * logits)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        expected[i] = weights @ inner[senders] + params["bias"]
        weight_of |= {(i, j): w for j, w in zip(senders, weights, strict=True)}
    out, _, attention = results["gat", form]
    np.testing.assert_allclose(out, expected, atol=5e-5)
    mask = np.asarray(graph.coarse.edges["mask"])
    pairs = zip(graph.coarse.receivers[mask], graph.coarse.senders[mask], strict=True)
    np.testing.assert_allclose(
        np.asarray(attention)[mask], [weight_of[pair] for pair in pairs], atol=1e-5
    )


@pytest.mark.parametrize("form", ["listed", "ragged"])
@pytest.mark.parametrize("kind", ["gat", "gcn"])
def test_gradients_agree_in_every_form(results, kind, form):
    dense, other = (jax.tree.leaves(results[kind, f][1]) for f in ("dense", form))
    for ours, theirs in zip(dense, other, strict=True):
        assert np.abs(ours).max() > 0.01
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-4)


def test_masked_random_edges_among_all_others_are_left_out():
    # k >= N - 1 neighbours, some drawn twice: not the complete graph.
    (bucket,) = make_noise_buckets(4, 7, 3, connectivity="long_short")
    rng = np.random.default_rng(5)
    cloud = rng.normal(size=(3, 4, 3)).astype("f4")
    graph = jax.jit(lambda c, key: build_graphs(c, bucket, key))(
        cloud, jax.random.key(0)
    )
    values = rng.normal(size=(12, WIDTH)).astype("f4")
    apply = jax.jit(make_convolution("gcn", WIDTH).apply)
    np.testing.assert_allclose(
        apply(variables_of("gcn"), values, graph),
        apply(variables_of("gcn"), values, graph.replace(blocks=())),
        atol=1e-5,
    )


def test_an_unknown_convolution_is_refused():
    with pytest.raises(ValueError, match="allowed: gat, gcn"):
        make_convolution("gin", 8)
