"""The inferred noise level: what it may depend on, and that it can be learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ncgn_jax.point_clouds import noise_level
from ncgn_jax.point_clouds.noise_level import NoiseLevelHead

cloud_statistics = jax.jit(noise_level.cloud_statistics)


def noisy_patches(seed, count, num_points=40):
    """Flat patches of any direction, with noise, and their signal levels."""
    draw = np.random.default_rng(seed)
    flat = draw.normal(size=(count, num_points, 3)) * [1.3, 1.1, 0.0]
    turns = np.linalg.qr(draw.normal(size=(count, 3, 3)))[0]
    level = draw.uniform(size=count)
    noise = draw.normal(size=flat.shape)
    clouds = level[:, None, None] * (flat @ turns) + (1 - level)[:, None, None] * noise
    return clouds.astype(np.float32), level.astype(np.float32)


def test_statistics_know_no_order_place_or_direction():
    clouds, _ = noisy_patches(0, 4)
    expected = cloud_statistics(clouds)
    draw = np.random.default_rng(1)
    turn = np.linalg.qr(draw.normal(size=(3, 3)))[0].astype(np.float32)
    moved = clouds[:, draw.permutation(40)] @ turn + np.float32(2.0)
    np.testing.assert_allclose(cloud_statistics(moved), expected, atol=2e-4)
    # Of the scale they know by the spread alone.
    scaled = cloud_statistics(3 * clouds) - expected
    np.testing.assert_allclose(scaled[:, 0], np.log(3), atol=1e-4)
    np.testing.assert_allclose(scaled[:, 1:], 0, atol=1e-3)


@pytest.mark.parametrize("points", [np.zeros((1, 5, 3)), np.eye(2)[None]])
def test_degenerate_clouds_have_finite_statistics(points):
    assert np.isfinite(cloud_statistics(jnp.asarray(points, jnp.float32))).all()


def test_the_level_can_be_read_off_the_cloud():
    (clouds, level), (unseen, truth) = noisy_patches(0, 300), noisy_patches(1, 300)
    statistics, head = cloud_statistics(clouds), NoiseLevelHead()
    params = head.init(jax.random.key(0), statistics)
    tx = optax.adam(3e-3)

    def error(params):
        return jnp.mean((head.apply(params, statistics) - level) ** 2)

    def update(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(error)(params), state)
        return (optax.apply_updates(params, updates), state), None

    fit = jax.jit(lambda carry: jax.lax.scan(update, carry, length=600)[0])
    params, _ = fit((params, tx.init(params)))
    found = head.apply(params, cloud_statistics(unseen))
    # Guessing the middle is wrong by 0.29.
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.08
