"""Builds the optimiser of a configuration."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ncgn_jax import registry

Tree = Any
# As in optax.contrib.muon.
_MUON_ITERATIONS = 5


# Name under which an optax transformation is registered, which has a rate of its own.
GIVEN = "given"


def learning_rate(config: ConfigDict) -> optax.Schedule | None:
    """Returns the learning rate by step: linear warm-up, then constant or a cosine.

    It is None where the optimiser does not follow it.
    """
    return None if config.train.optimizer == GIVEN else _schedule(config)


def describe_rate_jump(was: ConfigDict, now: ConfigDict, step: int) -> list[str]:
    """Says that a run goes on with another learning rate than it ended with.

    Args:
      was: Its configuration so far.
      now: Its configuration from now on.
      step: The step it has reached.

    Returns:
      A line, none if the rates differ by less than 1 %.
    """
    before, after = learning_rate(was), learning_rate(now)
    if before is None or after is None:
        return []
    old, new = float(before(step)), float(after(step))
    if abs(new - old) <= 0.01 * max(new, old):
        return []
    names = ("num_steps", "learning_rate", "warmup_steps", "decay")
    changed = [f"train.{name}" for name in names if was.train[name] != now.train[name]]
    return [
        f"NOTE: the learning rate jumps from {old:.3g} to {new:.3g} at step {step}, "
        f"because its course follows {' and '.join(changed)}, which differ now"
    ]


def _schedule(config: ConfigDict) -> optax.Schedule:
    train = config.train
    if train.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0,
            train.learning_rate,
            min(train.warmup_steps, train.num_steps - 1),
            train.num_steps,
            end_value=0.01 * train.learning_rate,
        )
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps),
            optax.constant_schedule(train.learning_rate),
        ],
        [train.warmup_steps],
    )


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Builds Adam(W) or Muon with `learning_rate` and clipping.

    Muon (Jordan et al. 2024) moves every matrix by an orthogonalised momentum, and
    vectors by Nesterov's Adam. Its updates are scaled to 0.2, the usual root mean
    square of Adam's (Liu et al. 2025).
    """
    train, rate = config.train, _schedule(config)
    clip = optax.clip_by_global_norm(train.clip_norm or math.inf)
    if not train.spare_unused:
        return optax.chain(clip, _make_rule(config, rate))
    # Clipping uses the norm of all arrays; the rate follows the steps of the training.
    rule = spare_unused(_make_rule(config, 1.0))
    return optax.chain(clip, rule, optax.scale_by_schedule(rate))


def _make_rule(
    config: ConfigDict, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Builds the rule that turns gradients into updates, array by array."""
    decay, own = config.train.weight_decay, config.train.optimizer
    registered = registry.find("optimizer", own)
    if registered is not None:
        # Always told a rate by step, so that it needs to know only one form.
        by_step = rate if callable(rate) else optax.constant_schedule(float(rate))
        return registered(by_step, decay)
    if own == "adam":
        return optax.adamw(rate, weight_decay=decay)
    return _iterate_muon(
        optax.contrib.muon(
            rate,
            weight_decay=decay,
            adam_weight_decay=decay,
            consistent_rms=0.2,
        )
    )


def _iterate_muon(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Makes the Newton-Schulz iterations of Muon a loop, which compiles faster.

    optax writes them out if its state has three coefficients, and loops if it has three
    for each of the iterations. The state stays as it is stored.
    """

    def update(
        grads: Tree, state: Tree, params: Tree | None = None
    ) -> tuple[Tree, Tree]:
        own = optax.tree.get(state, "ns_coeffs")
        each = jnp.tile(own, (_MUON_ITERATIONS, 1))
        updates, state = tx.update(grads, optax.tree.set(state, ns_coeffs=each), params)
        return updates, optax.tree.set(state, ns_coeffs=own)

    return optax.GradientTransformation(tx.init, update)


def spare_unused(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps an array and its state as they are where its gradient is exactly 0.

    Some networks use only a part of their arrays in a step. Momentum would go on moving
    the others, weight decay would shrink them, and second moments would forget how
    large their gradients are. Here each array has its own state with its own count of
    steps, so that bias corrections count only the steps that used it.

    Args:
      tx: The transformation to wrap; must treat every array by itself.

    Returns:
      A transformation whose state is a tree of states of `tx`, one per array.
    """

    def init(params: Tree) -> Tree:
        return jax.tree.map(tx.init, params)

    def update_array(
        grad: jax.Array, state: Tree, param: jax.Array | None
    ) -> tuple[Tree, Tree]:
        used = jnp.any(grad != 0)
        update, new_state = tx.update(grad, state, param)
        keep = functools.partial(jnp.where, used)
        return keep(update, 0), jax.tree.map(keep, new_state, state)

    def update(
        grads: Tree, state: Tree, params: Tree | None = None
    ) -> tuple[Tree, Tree]:
        if params is None:
            params = jax.tree.map(lambda _: None, grads)
        pairs = jax.tree.map(update_array, grads, state, params)
        updates = jax.tree.map(lambda _, pair: pair[0], grads, pairs)
        return updates, jax.tree.map(lambda _, pair: pair[1], grads, pairs)

    return optax.GradientTransformation(init, update)
