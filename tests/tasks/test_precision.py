"""`model.dtype` of tasks on graphs: checked, trained with, not seen in the state."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import default_config, make_task, validate
from ncgn_jax.faults import ConfigError
from ncgn_jax.loop import init_state, make_train_step
from ncgn_jax.run.optimizer import make_optimizer

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.py"
NARROW = "model.dtype=bfloat16"
NUM_STEPS = 40


@pytest.mark.parametrize("task", ["point_clouds", "expression", "images"])
def test_another_type_is_refused(task):
    config = apply_overrides(default_config(task), ["model.dtype=float16"])
    wanted = "model.dtype: found 'float16'; allowed: float32, bfloat16"
    with pytest.raises(ConfigError, match=wanted):
        validate(config)


@functools.cache
def prepare(*overrides):
    fields = ["train.learning_rate=0.01", "train.warmup_steps=0", "data.num_points=16"]
    config = apply_overrides(load_config(SMOKE), [*fields, *overrides])
    validate(config)
    task, tx = make_task(config), make_optimizer(config)
    step = parallel.data_parallel(make_train_step(task, tx, config))
    return task, step, jax.device_get(init_state(task, tx, 0))


def start(*overrides):
    task, step, state = prepare(*overrides)
    rows = slice(0, task.config.train.batch_size)
    return (
        task,
        step,
        parallel.replicate(state),
        parallel.put_batch(task.batch(0, rows)),
    )


def float_types(tree):
    leaves = jax.tree.leaves(tree)
    return {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.thorough
def test_training_in_bfloat16_lowers_the_loss_on_eight_devices():
    assert parallel.num_devices() == 8
    task, step, state, batch = start(NARROW)
    assert "bfloat16" in "".join(task.describe_model())
    losses = []
    for _ in range(NUM_STEPS):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3])
    # Parameters, their average, moments of the optimiser.
    assert float_types(state) == {jnp.dtype("float32")}
    samples = task.sample(state.params, state.model_state, 3, seed=0)["points"]
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()


@pytest.mark.thorough
def test_a_state_fits_both_types():
    (_, wide, state, batch), (_, narrow, other, _) = start(), start(NARROW)
    before = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(other))
    (after, one), (narrow_after, two) = (
        step(given, batch, jax.random.key(1))
        for step, given in ((wide, state), (narrow, other))
    )
    assert one["loss"] != two["loss"]
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=0.01)
    # Goes on in float32 from what was trained in bfloat16.
    _, metrics = wide(narrow_after, batch, jax.random.key(2))
    assert np.isfinite(metrics["loss"])
    assert jax.tree.structure(after) == jax.tree.structure(narrow_after)


@pytest.mark.thorough
def test_one_device_and_eight_agree_in_bfloat16():
    """Nearly: sums in another order may tip a rounding to bfloat16 here and there."""
    task, _, state, batch = start(NARROW)
    params, model_state = jax.device_get((state.params, state.model_state))
    whole = jax.tree.map(lambda leaf: leaf[None], parallel.merge_devices(batch))

    def grade(params, batch):
        def loss(params):
            return task.loss(params, model_state, batch, jax.random.key(1))[0]

        return parallel.mean_over_devices(jax.value_and_grad(loss)(params))

    eight = parallel.data_parallel(grade, donate_argnums=())(state.params, batch)
    one = jax.jit(jax.vmap(grade, (None, 0), axis_name=parallel.AXIS))(params, whole)
    (loss, gradient), (one_loss, one_gradient) = (
        (tree[0], ravel_pytree(tree[1])[0]) for tree in (eight, one)
    )
    np.testing.assert_allclose(loss, one_loss[0], rtol=1e-4)
    off = np.linalg.norm(gradient - one_gradient)
    assert off < 0.002 * np.linalg.norm(gradient)
