"""Backward passes that compute a part again instead of keeping what it computed.

`jax.checkpoint` does that too, but nothing tells the compiler *when*: XLA may compute
all parts again at the outset, and on a CPU it does, and keep as much as without. Here a
part is computed again within a branch that takes the gradient of its output, and so
when its turn comes and not before.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import lift


def compute_again(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose gradient keeps its arguments only.

    Reverse mode alone; what `fn` closes over is taken as constant.
    """
    return partial(_compute_again, fn)


def compute_module_again(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Does the same for fn(module, *arrays), parameters and statistics included."""
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
        return fn(*tree.unflatten(mixed))

    def compute(floats, cotangent):
        return jax.vjp(run, floats)[1](cotangent)[0]

    def skip(floats, cotangent):
        del cotangent
        return jax.tree.map(jnp.zeros_like, floats)

    # Always below 2, but the compiler cannot know: all that `compute` makes lives
    # within a branch, which is entered once its arguments are there.
    always = jax.lax.rng_uniform(0.0, 1.0, ()) < 2.0
    gradients = iter(jax.lax.cond(always, compute, skip, floats, cotangent))
    return tree.unflatten([next(gradients) if chosen else None for chosen in is_float])


_compute_again.defvjp(_forward, _backward)


def _lifted(fn):
    """As `flax.core.lift.checkpoint`, for modules without random numbers."""

    def inner(scope_fn, repack_fn, variable_groups, rng_groups, *args):
        def run(variable_groups, *args):
            scope = scope_fn(variable_groups, rng_groups)
            out = fn(scope, *args)
            return out, repack_fn(scope)

        return compute_again(run)(variable_groups, *args)

    return lift.pack(inner, (True,), (True,), (False,), name="compute_again")
