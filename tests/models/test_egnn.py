import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from ncgn_jax.models.egnn import EGNN
from tests.weights import drawn


def draw(rng, dim=3, n=5):
    keys = jax.random.split(rng, 2)
    mask = jnp.arange(n)[None] < jnp.array([[5], [3]])
    coordinates = jax.random.normal(keys[0], (2, n, dim)) * mask[:, :, None]
    features = jax.random.normal(keys[1], (2, n, 4)) * mask[:, :, None]
    return coordinates, features, mask


@pytest.fixture
def network(rng):
    network = EGNN(out_dim=2, width=16, num_layers=3, divisor=2.0)
    variables = drawn(network.init, rng, *draw(rng))
    # Coordinates hardly move at initialisation, so the weights are made larger.
    params = variables["params"]
    for i in range(3):
        params[f"move_{i}"]["kernel"] = 0.3 * jnp.sign(params[f"move_{i}"]["kernel"])
    return jax.jit(lambda *args: network.apply({"params": params}, *args))


@pytest.mark.parametrize("seed", range(4))
def test_turns_mirrors_and_shifts_with_the_coordinates(network, rng, seed):
    coordinates, features, mask = draw(rng)
    turn = ortho_group.rvs(3, random_state=seed).astype(np.float32)
    if seed % 2:
        turn[0] *= -1
    shift = np.array([1.0, -2.0, 0.5], np.float32)[None, None]
    moved, out = network(coordinates, features, mask)
    turned = coordinates @ turn + shift
    moved_turned, out_turned = network(turned, features, mask)
    assert np.abs(moved).max() > 0.05
    np.testing.assert_allclose(moved_turned, moved @ turn, atol=2e-4)
    np.testing.assert_allclose(out_turned, out, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("with_coordinates", [True, False])
def test_nodes_may_be_renumbered_and_padding_has_no_influence(rng, with_coordinates):
    coordinates, features, mask = draw(rng)
    given = coordinates if with_coordinates else None
    network = EGNN(out_dim=2, width=16, num_layers=2)
    variables = drawn(network.init, rng, given, features, mask)
    apply = jax.jit(network.apply)
    _, out = apply(variables, given, features, mask)
    order = np.array([2, 0, 1, 4, 3])
    moved = None if given is None else given[:, order]
    _, again = apply(variables, moved, features[:, order], mask[:, order])
    np.testing.assert_allclose(again, out[:, order], rtol=1e-4, atol=1e-5)
    junk = jnp.where(mask[:, :, None], features, 7.0)
    _, same = apply(variables, given, junk, mask)
    np.testing.assert_allclose(same, out, rtol=1e-5, atol=1e-6)
    assert not np.asarray(out)[~np.asarray(mask)].any()


def test_gradient_is_finite_where_atoms_coincide(rng):
    coordinates, features, mask = draw(rng)
    coordinates = jnp.zeros_like(coordinates)
    network = EGNN(out_dim=2, width=8, num_layers=2)
    variables = drawn(network.init, rng, coordinates, features, mask)

    def total(x):
        moved, out = network.apply(variables, x, features, mask)
        return jnp.sum(moved**2) + jnp.sum(out**2)

    assert np.isfinite(jax.jit(jax.grad(total))(coordinates)).all()
