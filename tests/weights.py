"""Weights of networks, drawn without compiling how they start."""

import functools

import jax
import numpy as np


def drawn(init, *args, **options):
    """Returns what `init` returns, with numbers drawn in numpy in place of its own.

    To draw by itself, a network compiles a program per shape, which takes longer than
    compiling the network. It also starts biases and gates at 0, which hides mistakes.

    Args:
      init: Such as `network.init` or `task.init`.
      *args: Arrays that it is called with.
      **options: What decides the program.
    """
    abstract = jax.eval_shape(functools.partial(init, **options), *args)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        size = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.2
        start = float(getattr(path[-1], "key", None) in ("scale", "var"))
        return (start + size * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)
