import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process

pytestmark = pytest.mark.usefixtures("x64")


def test_constant_decay_closed_form():
    # With params = p at every step: ema_n = p + decay^n (ema_0 - p).
    ema, params = {"w": jnp.array([2.0, -1.0])}, {"w": jnp.array([0.5, 3.0])}
    for _ in range(7):
        ema = process.update_ema(ema, params, 0.9)
    expected = np.array([0.5, 3.0]) + 0.9**7 * np.array([1.5, -4.0])
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-12)


def test_warm_up_closed_form():
    # prod_{s<n} (1+s)/(10+s) = n! 9! / (n+9)!
    ema = jnp.array(1.0)
    for step in range(6):
        decay = process.ema_decay(step, 0.9999)
        ema = process.update_ema(ema, jnp.array(0.0), decay)
    expected = np.prod(np.arange(1.0, 7.0) / np.arange(10.0, 16.0))
    assert float(ema) == pytest.approx(expected, rel=1e-12)


def test_warm_up_ends_at_the_decay():
    steps = jnp.array([0, 9, 80, 81, 82, 10_000])
    expected = [0.1, 10 / 19, 0.9, 82 / 91, 83 / 92, 0.95]
    np.testing.assert_allclose(process.ema_decay(steps, 0.95), expected)
    assert process.ema_decay(jnp.array(3), 0.95).shape == ()


def test_keeps_types_equal_leaves_and_counters():
    ema = {"w": jnp.full(3, 0.1, jnp.float32), "n": jnp.array(3)}
    params = {"w": jnp.full(3, 0.1, jnp.float32), "n": jnp.array(8)}
    new = jax.jit(process.update_ema)(ema, params, jnp.array(0.3))
    assert new["w"].dtype == jnp.float32
    np.testing.assert_array_equal(new["w"], ema["w"])
    assert new["n"] == 8


def test_rejects_impossible_decay():
    with pytest.raises(ValueError, match="1.5"):
        process.ema_decay(0, 1.5)
