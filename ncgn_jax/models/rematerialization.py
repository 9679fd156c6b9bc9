"""Recomputes parts of a network in the backward pass instead of keeping their results.

`jax.checkpoint` does that too, but does not determine *when*. XLA may recompute all
parts at the start, which it does on a CPU, and then keeps as much memory as without.
Here a part is recomputed inside a branch that takes the gradient of its output, so it
runs only when that gradient is there.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import lift

R = TypeVar("R")


def compute_again(fn: Callable[..., R]) -> Callable[..., R]:
    """Returns `fn` with a gradient that keeps only the arguments.

    It supports reverse mode only, and values that `fn` closes over are constants.

    Args:
      fn: Function of arrays.
    """
    return partial(_compute_again, fn)


def compute_module_again(fn: Callable[..., R]) -> Callable[..., R]:
    """Does the same for fn(module, *arrays), with parameters and statistics.

    Args:
      fn: Function of a module and arrays.
    """
    return nn.transforms.lift_transform(_lifted, fn)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _compute_again(fn, *args):
    return fn(*args)


def _forward(fn, *args):
    return fn(*args), args


def _backward(fn, args, cotangent):
    leaves, tree = jax.tree.flatten(args)
    is_float = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, chosen in zip(leaves, is_float, strict=True) if chosen]

    def run(floats):
        given = iter(floats)
        every = zip(leaves, is_float, strict=True)
        mixed = [next(given) if chosen else leaf for leaf, chosen in every]
        return fn(*jax.tree.unflatten(tree, mixed))

    def compute(floats, cotangent):
        return jax.vjp(run, floats)[1](cotangent)[0]

    def skip(floats, cotangent):
        del cotangent
        return jax.tree.map(jnp.zeros_like, floats)

    # Always true, but the compiler cannot know. All results of `compute` stay inside a
    # branch, which starts once its arguments are there.
    always = jax.lax.rng_uniform(0.0, 1.0, ()) < 2.0
    gradients = iter(jax.lax.cond(always, compute, skip, floats, cotangent))
    every = [next(gradients) if chosen else None for chosen in is_float]
    return jax.tree.unflatten(tree, every)


_compute_again.defvjp(_forward, _backward)


def _lifted(fn):
    """Does the same as `flax.core.lift.checkpoint`, without random numbers."""

    def inner(scope_fn, repack_fn, variable_groups, rng_groups, *args):
        def run(variable_groups, *args):
            scope = scope_fn(variable_groups, rng_groups)
            out = fn(scope, *args)
            return out, repack_fn(scope)

        return compute_again(run)(variable_groups, *args)

    return lift.pack(inner, (True,), (True,), (False,), name="compute_again")
