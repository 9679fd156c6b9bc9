"""Compares attention that depends on positions with explicit loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import NoiseBucket, build_graphs
from ncgn_jax.models import edges
from ncgn_jax.models.geometric_attention import GeometricAttention

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_NODES, WIDTH, HEADS = 12, 8, 2
BUCKET = NoiseBucket(0.0, 1.0, NUM_NODES, NUM_NODES, 5)
LENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


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
    graph = build_graphs(jnp.asarray(cloud), BUCKET)
    out, frames = network.apply(variables, jnp.asarray(values), graph)
    return jax.device_get((out, frames, graph))


def layer_norm(row, params):
    row = row - row.mean()
    return row / np.sqrt((row**2).mean() + 1e-5) * params["scale"] + params["bias"]


def pair_features(offset):
    x, y, z = offset
    moments = [x * x, x * y, x * z, y * y, y * z, z * z]
    bumps = [np.exp(-0.5 * (offset @ offset) / length**2) for length in LENGTHS]
    return np.array([x, y, z, *moments, *bumps])


def expected(params, values, graph):
    """Follows the module's docstring node by node."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    values, positions = values.astype(float), graph.supernode_positions.astype(float)
    inner = [layer_norm(row, params["norm_attention"]) for row in values]
    split = lambda row: row.reshape(HEADS, -1)  # noqa: E731
    query, key, value = (
        [split(row @ params[name]["kernel"]) for row in inner]
        for name in ("query", "key", "value")
    )
    look = [split(r @ params["look"]["kernel"] + params["look"]["bias"]) for r in inner]
    outputs, means, covariances = [], [], []
    for i in range(len(values)):
        real = (graph.coarse.receivers == i) & graph.coarse.edges["mask"]
        senders = [*graph.coarse.senders[real], i]
        psi = np.array([pair_features(positions[j] - positions[i]) for j in senders])
        pooled = []
        for h in range(HEADS):
            logits = psi @ look[i][h] + [
                query[i][h] @ key[j][h] / np.sqrt(WIDTH / HEADS) for j in senders
            ]
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            seen = sum(w * value[j][h] for w, j in zip(weights, senders, strict=True))
            pooled.append(np.concatenate([seen, weights @ psi]))
            offsets = psi[:, :3]
            mean = weights @ offsets
            means.append(mean)
            covariances.append((offsets - mean).T * weights @ (offsets - mean))
        row = values[i] + np.concatenate(pooled) @ params["out"]["kernel"]
        row = row + params["out"]["bias"]
        hidden = layer_norm(row, params["norm_update"]) @ params["update_0"]["kernel"]
        hidden = np.maximum(hidden + params["update_0"]["bias"], 0)
        row = row + hidden @ params["update_1"]["kernel"] + params["update_1"]["bias"]
        outputs.append(row)
    return np.array(outputs), np.array(means), np.array(covariances)


def test_equals_a_loop_over_nodes_and_neighbours(
    form, network, variables, values, cloud
):
    out, frames, graph = run(network, variables, values, cloud)
    rows, means, covariances = expected(variables["params"], values, graph)
    np.testing.assert_allclose(out, rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(frames.mean.reshape(-1, 3), means, atol=1e-5)
    # The whitening is the inverse covariance over the root of its mean eigenvalue.
    inverse = np.linalg.inv(covariances + 1e-4 * np.eye(3))
    trace = np.trace(inverse, axis1=1, axis2=2)[:, None, None]
    whitening = inverse / np.sqrt(trace / 3)
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
