"""Tests that sums of bfloat16 are float32: means, gradients of copies, products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import NoiseBucket, build_graphs, cluster_sums, coarsen, spread
from ncgn_jax.graphs.precision import einsum, matmul, take_rows

# Far beyond 256, at which a sum of ones in bfloat16 no longer grows.
NUM_NODES = 8192
# Each way of pooling, with a bucket that uses it.
WAYS = {
    "equal": NoiseBucket(0.0, 1.0, NUM_NODES, 2, 1),
    "member": NoiseBucket(0.0, 1.0, NUM_NODES, 3, 1),
    "runs": NoiseBucket(0.0, 1.0, NUM_NODES, 3, 1),
    "segments": NoiseBucket(0.0, 1.0, NUM_NODES, 8, 1, "voxel", 2),
    "ragged": NoiseBucket(0.0, 1.0, NUM_NODES, 3, 1),
}


@pytest.fixture(params=WAYS)
def graph(request, monkeypatch):
    if request.param in ("runs", "segments"):
        monkeypatch.setattr(cluster_sums, "_MEMBERSHIP_UP_TO", 0)
    bucket = WAYS[request.param]
    points = np.random.default_rng(0).normal(size=(1, NUM_NODES, 3)).astype("f4")
    graph = jax.jit(lambda points: build_graphs(points, bucket))(points)
    return graph.replace(blocks=()) if request.param == "ragged" else graph


def messages(seed=1):
    """Returns positive bfloat16 numbers, whose sums are large."""
    values = np.random.default_rng(seed).uniform(1, 2, size=(NUM_NODES, 2))
    return jnp.asarray(values, jnp.bfloat16)


def sums_over_clusters(values, graph):
    sums = np.zeros((graph.num_supernodes, values.shape[1]))
    np.add.at(sums, np.asarray(graph.assignment), np.asarray(values, float))
    return sums


def counts(graph):
    return sums_over_clusters(np.ones((NUM_NODES, 1)), graph)


def test_means_of_thousands_are_exact(graph):
    assert counts(graph).max() > 1000
    found = jax.jit(lambda v: coarsen(v, graph))(messages())
    assert found.dtype == jnp.float32
    expected = sums_over_clusters(messages(), graph) / np.maximum(counts(graph), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_of_thousands_of_copies_are_sums(graph):
    values = jnp.ones((graph.num_supernodes, 2), jnp.bfloat16)
    copies, pull = jax.vjp(jax.jit(lambda v: spread(v, graph)), values)
    assert copies.dtype == jnp.bfloat16
    (found,) = pull(messages())
    assert found.dtype == jnp.bfloat16
    expected = sums_over_clusters(messages(), graph)
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=2**-8)


def test_copies_are_exact(graph):
    values = messages()[: graph.num_supernodes]
    found = jax.jit(lambda v: spread(v, graph))(values)
    np.testing.assert_array_equal(found, values[graph.assignment])


def test_rows_taken_thousands_of_times_get_the_sum():
    places = jnp.zeros(NUM_NODES, int)
    values = jnp.ones((1, 2), jnp.bfloat16)
    _, pull = jax.vjp(lambda v: take_rows(v, places), values)
    expected = np.asarray(messages(), float).sum(axis=0)
    np.testing.assert_allclose(
        np.asarray(pull(messages())[0], float)[0], expected, 0.01
    )


@pytest.mark.parametrize(
    ("axes", "left", "right"),
    [
        ("ij,jk->ik", (3, 512), (512, 2)),
        ("gnm,gmf->gnf", (2, 3, 512), (2, 512, 4)),
        ("grhf,grshf->grhs", (2, 3, 4, 512), (2, 3, 5, 4, 512)),
    ],
)
def test_products_and_their_gradients_against_float64(axes, left, right):
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.uniform(1, 2, size=shape).astype("f4")  # noqa: E731
    left, right = jnp.asarray(draw(left), jnp.bfloat16), draw(right)
    found, pull = jax.vjp(lambda *both: einsum(axes, *both), left, right)
    assert found.dtype == jnp.float32
    rounded = np.asarray(jnp.asarray(right, jnp.bfloat16), float)
    expected = np.einsum(axes, np.asarray(left, float), rounded)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    cotangent = draw(found.shape)
    by_left, by_right = pull(cotangent)
    assert by_left.dtype == jnp.bfloat16
    assert by_right.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = jax.vjp(
            lambda *both: jnp.einsum(axes, *both), np.asarray(left, float), rounded
        )[1]
        narrow = np.asarray(jnp.asarray(cotangent, jnp.bfloat16), float)
        expected = jax.device_get(exact(narrow))
    np.testing.assert_allclose(np.asarray(by_left, float), expected[0], rtol=2**-8)
    np.testing.assert_allclose(by_right, expected[1], rtol=1e-5)


def test_a_constant_gets_no_gradient_and_costs_no_product():
    matrix, values = jnp.ones((4, 4), jnp.bfloat16), jnp.ones((4, 2), jnp.bfloat16)

    def count(constant):
        def loss(values):
            return matmul(matrix, values, constant_left=constant).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(values)).count("dot_general")

    assert count(True) == 2
    assert count(False) == 3


def test_float32_is_left_alone():
    left, right = jnp.ones((4, 4)), jnp.ones((4, 2))
    plain = jax.make_jaxpr(lambda a, b: a @ b)(left, right)
    assert str(jax.make_jaxpr(matmul)(left, right)) == str(plain)
    plain = jax.make_jaxpr(lambda a, b: jnp.einsum("ij,jk->ik", a, b))(left, right)
    ours = jax.make_jaxpr(lambda a, b: einsum("ij,jk->ik", a, b))(left, right)
    assert str(ours) == str(plain)
