"""The training state: what it holds, that it can be donated, how it is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ncgn_jax.run.state import make_train_state, num_params


def _params():
    return {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}


def test_new_state_starts_at_zero_with_the_average_at_the_parameters():
    state = make_train_state(_params(), {"mean": jnp.zeros(2)}, optax.adam(1e-3))
    assert state.step.dtype == jnp.int32
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    assert jax.tree.structure(state.opt_state[0].mu) == jax.tree.structure(state.params)
    assert state.replace(step=state.step + 1).step == 1


def test_state_can_be_donated_whole():
    state = make_train_state(_params(), {}, optax.sgd(0.1))
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert step(state).step == 1


def test_average_does_not_share_memory_with_the_parameters():
    state = make_train_state(_params(), {}, optax.sgd(0.1))
    jax.tree.map(lambda leaf: leaf.delete(), state.params)
    np.testing.assert_array_equal(state.ema["dense"]["kernel"], np.ones((3, 4)))


def test_num_params_counts_arrays_and_abstract_arrays():
    assert num_params(_params()) == 16
    assert num_params(jax.eval_shape(_params)) == 16
    assert num_params({}) == 0
