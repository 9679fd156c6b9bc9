import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.models.pna import PNA, PNALayer, aggregate, connect_all
from tests.weights import drawn


def aggregate_by_loop(messages, mask, delta):
    """Follows Corso et al. 2020, eq. 2-7, one node at a time."""
    rows = []
    for own, there in zip(messages, mask, strict=True):
        heard = own[there]
        degree = max(len(heard), 1)
        if len(heard):
            std = np.sqrt(np.maximum((heard**2).mean(0) - heard.mean(0) ** 2, 0) + 1e-5)
            four = [heard.mean(0), heard.min(0), heard.max(0), std]
        else:
            zero = np.zeros(own.shape[1])
            four = [zero, zero, zero, zero + np.sqrt(1e-5)]
        scalers = (1.0, np.log(degree + 1) / delta, delta / np.log(degree + 1))
        rows.append(np.concatenate([s * part for s in scalers for part in four]))
    return np.stack(rows)


def draw(rng, n=6, features=3):
    keys = jax.random.split(rng, 4)
    nodes = jax.random.normal(keys[0], (2, n, features))
    pairs = jax.random.normal(keys[1], (2, n, n, 2))
    mask = jax.random.bernoulli(keys[2], 0.4, (2, n, n))
    return nodes, pairs, mask.at[0, 0].set(False)


def test_aggregates_are_those_of_a_loop(rng):
    messages = jax.random.normal(rng, (7, 5, 4))
    mask = jax.random.bernoulli(jax.random.fold_in(rng, 1), 0.5, (7, 5))
    mask = mask.at[0].set(False).at[1].set(True)
    found = aggregate(messages, mask, 0.8)
    expected = aggregate_by_loop(np.asarray(messages), np.asarray(mask), 0.8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_layer_is_that_of_a_loop(rng):
    nodes, pairs, mask = draw(rng)
    layer = PNALayer(4, 0.9)
    graph = connect_all(nodes, pairs)
    variables = drawn(layer.init, rng, graph, mask.reshape(-1))
    found = jax.jit(layer.apply)(variables, graph, mask.reshape(-1))
    found = found.nodes.reshape(2, 6, 4)
    weights = jax.tree.map(np.asarray, variables["params"])

    def dense(name, x):
        return x @ weights[name]["kernel"] + weights[name]["bias"]

    for g in range(2):
        h, e = np.asarray(nodes[g]), np.asarray(pairs[g])
        messages = np.zeros((6, 6, 4))
        for i in range(6):
            for j in range(6):
                messages[i, j] = dense("receive", h[i])
                messages[i, j] += h[j] @ weights["send"]["kernel"]
                messages[i, j] += e[i, j] @ weights["edge"]["kernel"]
        heard = aggregate_by_loop(messages, np.asarray(mask[g]), 0.9)
        updated = dense("update", np.concatenate([h, heard], axis=1))
        np.testing.assert_allclose(
            found[g], dense("mix", updated), rtol=1e-4, atol=1e-5
        )


def test_nodes_may_be_renumbered(rng):
    nodes, pairs, mask = draw(rng)
    network = PNA(8, 3, 2, 0.9, residual=True)
    variables = drawn(network.init, rng, nodes, pairs, mask)
    apply = jax.jit(network.apply)
    out = apply(variables, nodes, pairs, mask)
    order = np.random.default_rng(0).permutation(6)
    again = apply(
        variables,
        nodes[:, order],
        pairs[:, order][:, :, order],
        mask[:, order][:, :, order],
    )
    np.testing.assert_allclose(again, out[:, order], rtol=1e-4, atol=1e-5)


def test_edges_that_are_off_have_no_influence_and_no_gradient(rng):
    nodes, pairs, mask = draw(rng)
    network = PNA(8, 3, 2, 0.9)
    variables = drawn(network.init, rng, nodes, pairs, mask)

    def total(pairs):
        return jnp.sum(network.apply(variables, nodes, pairs, mask) ** 2)

    total = jax.jit(total)
    gradient = jax.jit(jax.grad(total))(pairs)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[~np.asarray(mask)].any()
    assert np.asarray(gradient)[np.asarray(mask)].any()
    changed = jnp.where(mask[..., None], pairs, 1e3)
    assert total(changed) == pytest.approx(float(total(pairs)), rel=1e-5)


@pytest.mark.thorough
def test_normalised_layers_do_not_grow(rng):
    """Without norms, sums over neighbours grow and saturate later layers."""
    nodes, pairs, _ = draw(rng)
    everyone = jnp.ones(pairs.shape[:3], bool)

    def growth(residual):
        spreads = []
        for num_layers in (3, 8):
            network = PNA(32, 4, num_layers, 0.9, residual=residual)
            variables = drawn(network.init, rng, nodes, pairs, everyone)
            out = jax.jit(network.apply)(variables, nodes, pairs, everyone)
            spreads.append(float(jnp.std(out)))
        return spreads[1] / spreads[0]

    assert growth(residual=True) < 1.5 < growth(residual=False)
