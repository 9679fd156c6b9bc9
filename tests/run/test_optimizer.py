"""What the optimiser does with arrays that a step does not use."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ncgn_jax.domains import default_config
from ncgn_jax.run.optimizer import make_optimizer, spare_unused

PARAMS = {
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    "body": jnp.ones(4),
}


def gradients(step: int, with_head: bool):
    """Returns random gradients; those of the head are 0 if it is not used."""
    keys = iter(jax.random.split(jax.random.key(step), 3))
    grads = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), PARAMS)
    if not with_head:
        grads["head"] = jax.tree.map(jnp.zeros_like, grads["head"])
    return grads


def walk(tx, steps):
    params, state = PARAMS, tx.init(PARAMS)
    for step, with_head in steps:
        updates, state = tx.update(gradients(step, with_head), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_unused_arrays_stay_and_their_moments_too(optimizer):
    config = default_config("point_clouds")
    config.train.update(
        {"optimizer": optimizer, "weight_decay": 0.1, "warmup_steps": 0}
    )
    config.train.decay, config.train.clip_norm = "constant", 0.0
    plain = make_optimizer(config)
    config.train.spare_unused = True
    spared = make_optimizer(config)
    used = [(0, True), (1, True)]
    before, after = walk(spared, used), walk(spared, [*used, (2, False), (3, False)])
    np.testing.assert_array_equal(after["head"]["kernel"], before["head"]["kernel"])
    assert np.all(np.asarray(after["body"]) != before["body"])
    moved = walk(plain, [*used, (2, False), (3, False)])
    assert np.all(np.asarray(moved["head"]["kernel"]) != before["head"]["kernel"])
    # Where every array is used it changes nothing.
    chex.assert_trees_all_equal(walk(plain, used), walk(spared, used))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("every", [3, 20])
def test_seldom_used_arrays_move_as_if_always_used(optimizer, every):
    """Bias corrections count the steps that an array had a part in, bit for bit."""
    config = default_config("point_clouds")
    config.train.update(
        {"optimizer": optimizer, "weight_decay": 0.1, "warmup_steps": 0}
    )
    config.train.decay, config.train.clip_norm = "constant", 0.0
    config.train.spare_unused = True
    tx = make_optimizer(config)
    tx = tx._replace(update=jax.jit(tx.update))
    always = [(step, True) for step in range(6)]
    seldom = [
        item for used in always for item in ([(99, False)] * (every - 1) + [used])
    ]
    chex.assert_trees_all_equal(walk(tx, always)["head"], walk(tx, seldom)["head"])


def test_rate_follows_the_training():
    """The rate of a seldom used array is that of the step, also in a cosine's end."""
    config = default_config("images")
    config.train.update({"num_steps": 40, "warmup_steps": 0, "clip_norm": 0.0})
    tx = make_optimizer(config)
    state, moved = tx.init(PARAMS), {}
    for step in range(40):
        grads = gradients(0, with_head=step in (0, 39))
        updates, state = tx.update(grads, state, PARAMS)
        moved[step] = np.abs(np.asarray(updates["head"]["bias"]))
    # Adam's step of equal gradients is the rate alone.
    rate = config.train.learning_rate
    np.testing.assert_allclose(moved[0], rate, rtol=1e-4)
    np.testing.assert_array_equal(moved[20], 0.0)
    end = 0.5 * (1 + np.cos(np.pi * 39 / 40))
    np.testing.assert_allclose(moved[39], rate * (0.99 * end + 0.01), rtol=1e-3)


def test_moments_do_not_forget():
    """Momentum by hand: the step after a pause is as if there had been none."""
    tx = spare_unused(optax.trace(decay=0.9))
    paused = walk(tx, [(0, True), (5, False), (6, False), (1, True)])["head"]["bias"]
    first, second = (gradients(s, True)["head"]["bias"] for s in (0, 1))
    np.testing.assert_allclose(paused, 1 + first + (second + 0.9 * first), rtol=1e-6)
