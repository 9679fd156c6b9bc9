"""Optimisers of a configuration: Adam(W) or Muon, warm-up, decay, clipping."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Builds Adam(W) or Muon with linear warm-up, optional cosine decay and clipping.

    Muon (Jordan et al. 2024) moves every matrix by an orthogonalised momentum and
    leaves the vectors to Nesterov's Adam. Its updates are scaled to the usual root
    mean square of Adam's, 0.2 (Liu et al. 2025).
    """
    train = config.train
    if train.decay == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0,
            train.learning_rate,
            min(train.warmup_steps, train.num_steps - 1),
            train.num_steps,
            end_value=0.01 * train.learning_rate,
        )
    else:
        rate = optax.join_schedules(
            [
                optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps),
                optax.constant_schedule(train.learning_rate),
            ],
            [train.warmup_steps],
        )
    clip = optax.clip_by_global_norm(train.clip_norm or math.inf)
    if not train.spare_unused:
        return optax.chain(clip, _make_rule(config, rate))
    # The norm is that of all arrays and the rate follows the training, not an array.
    rule = spare_unused(_make_rule(config, 1.0))
    return optax.chain(clip, rule, optax.scale_by_schedule(rate))


def _make_rule(config: ConfigDict, rate: optax.ScalarOrSchedule):
    """Builds what turns gradients into updates, array by array."""
    decay = config.train.weight_decay
    if config.train.optimizer == "adam":
        return optax.adamw(rate, weight_decay=decay)
    return optax.contrib.muon(
        rate, weight_decay=decay, adam_weight_decay=decay, consistent_rms=0.2
    )


def spare_unused(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Leaves an array and its state as they are where its gradient is exactly 0.

    For networks of which a step uses only a part: momentum would go on moving the rest,
    weight decay shrink it, and second moments forget how large its gradients are. Each
    array has a state of its own, its count of steps too: bias corrections are those of
    the steps that used it.

    Args:
      tx: The transformation to wrap; must treat every array by itself.

    Returns:
      A transformation whose state is a tree of states of `tx`, one an array.
    """

    def init(params):
        return jax.tree.map(tx.init, params)

    def update_array(grad, state, param):
        used = jnp.any(grad != 0)
        update, new_state = tx.update(grad, state, param)
        keep = functools.partial(jnp.where, used)
        return keep(update, 0), jax.tree.map(keep, new_state, state)

    def update(grads, state, params=None):
        arrays, structure = jax.tree.flatten(grads)
        states = structure.flatten_up_to(state)
        given = [None] * len(arrays) if params is None else jax.tree.leaves(params)
        pairs = [
            update_array(*parts) for parts in zip(arrays, states, given, strict=True)
        ]
        updates, new_states = zip(*pairs, strict=True)
        return structure.unflatten(updates), structure.unflatten(new_states)

    return optax.GradientTransformation(init, update)
