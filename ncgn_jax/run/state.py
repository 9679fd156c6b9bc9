"""Holds everything that a run needs to resume.

Random keys are not part of it. They are `fold_in(seed, step)`, so that the restored
number of steps restores them too.

Example:
  >>> import jax.numpy as jnp, optax
  >>> from ncgn_jax.run.state import make_train_state, num_params
  >>> state = make_train_state({"w": jnp.zeros((2, 3))}, {}, optax.sgd(0.1))
  >>> int(state.step), num_params(state.params)
  (0, 6)
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Tree = Any


@flax.struct.dataclass
class TrainState:
    """Holds everything that a training step changes.

    Attributes:
      step: Number of finished steps, int32 scalar.
      params: Parameters of the model.
      ema: Exponential moving average of `params`, same tree.
      opt_state: State of the optimiser.
      model_state: Arrays that the model updates without gradients, such as batch
        statistics; {} if there are none. Shared by `params` and `ema`.
    """

    step: jax.Array
    params: Tree
    ema: Tree
    opt_state: Tree
    model_state: Tree


def make_train_state(
    params: Tree, model_state: Tree, tx: optax.GradientTransformation
) -> TrainState:
    """Makes the state of step 0.

    Args:
      params: Initial parameters, a tree of float arrays.
      model_state: Initial state of the model that is not trained; {} for none.
      tx: Optimiser.

    Returns:
      A state whose average starts at a copy of the parameters. It is a copy because a
      donated state must not hold one buffer twice.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        model_state=model_state,
    )


def num_params(params: Tree) -> int:
    """Counts the scalars in a tree of arrays or of abstract arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
