"""Compares attention that depends on positions with explicit loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import NoiseBucket, build_graphs
from ncgn_jax.models import edges
from ncgn_jax.models.geometric_attention import GeometricAttention
from tests.models.loops import attend, whiten

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES, WIDTH, HEADS = 12, 8, 2
BUCKET = NoiseBucket(0.0, 1.0, NUM_NODES, NUM_NODES, 5)


@pytest.fixture(scope="module")
def network():
    return GeometricAttention(WIDTH, HEADS)


@pytest.fixture(scope="module")
def cloud():
    return 0.5 * np.random.default_rng(0).normal(size=(2, NUM_NODES, 3)).astype("f4")


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(1).normal(size=(2 * NUM_NODES, WIDTH)).astype("f4")


@pytest.fixture(scope="module")
def variables(network, cloud, values):
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), values, build_graphs(cloud, BUCKET))
    )
    rng = np.random.default_rng(2)
    draw = lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype("f4")  # noqa: E731
    return {"params": jax.tree.map(draw, shapes["params"])}


@pytest.fixture(params=["dense", "listed"])
def form(request, monkeypatch):
    """Selects each way to arrange the pairs of a block."""
    up_to = 16 if request.param == "dense" else 0
    monkeypatch.setattr(edges, "_DENSE_PAIRS_UP_TO", up_to)
    return request.param


def run(network, variables, values, cloud):
    @jax.jit
    def found(values, cloud):
        graph = build_graphs(cloud, BUCKET)
        return *network.apply(variables, values, graph), graph

    return jax.device_get(found(values, cloud))


def test_equals_a_loop_over_nodes_and_neighbours(
    form, network, variables, values, cloud
):
    out, frames, graph = run(network, variables, values, cloud)
    rows, means, covariances = attend(variables["params"], values, graph, HEADS)
    np.testing.assert_allclose(out, rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(frames.mean.reshape(-1, 3), means, atol=1e-5)
    whitening = whiten(covariances)
    found = frames.precision.reshape(-1, 3, 3)
    np.testing.assert_allclose(found, whitening, rtol=2e-2, atol=2e-2)


def test_scores_point_from_each_point_to_the_whitened_mean(
    network, variables, values, cloud
):
    _, frames, graph = run(network, variables, values, cloud)
    offset = np.random.default_rng(3).normal(size=(2 * NUM_NODES, 3)).astype("f4")
    scores = frames.scores(jnp.asarray(offset), jax.tree.map(jnp.asarray, graph))
    for p in range(2 * NUM_NODES):  # Every point is its own supernode here.
        for h in range(HEADS):
            towards_mean = frames.mean[p, h] + offset[p]
            np.testing.assert_allclose(
                scores[p].reshape(HEADS, 3)[h],
                frames.precision[p, h] @ towards_mean,
                rtol=1e-4,
                atol=1e-4,
            )


def test_moving_a_whole_cloud_changes_nothing(network, variables, values, cloud):
    out, frames, _ = run(network, variables, values, cloud)
    moved, moved_frames, _ = run(network, variables, values, cloud + np.float32(0.25))
    np.testing.assert_allclose(out, moved, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(frames.mean, moved_frames.mean, atol=1e-5)


def test_a_flat_neighbourhood_has_finite_frames_and_gradients(
    network, variables, values, cloud
):
    flat = cloud * np.array([1, 1, 0], np.float32)
    flat[1] = 0  # and one whose points all coincide

    def loss(values, cloud):
        graph = build_graphs(cloud, BUCKET)
        out, frames = network.apply(variables, values, graph)
        return jnp.sum(out) + jnp.sum(frames.precision) + jnp.sum(frames.mean)

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(values, flat)
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in grads)


def test_heads_must_divide_the_width(cloud):
    graph = build_graphs(jnp.asarray(cloud), BUCKET)
    with pytest.raises(ValueError, match="width 8 is not a multiple of 3 heads"):
        GeometricAttention(8, 3).init(
            jax.random.key(0), jnp.zeros((2 * NUM_NODES, 8)), graph
        )
