"""Averages parameters over steps: an exponential moving average with warm-up.

ema <- decay * ema + (1 - decay) * params. With a constant decay of 0.9999 the average
still holds mostly the initial, random parameters after 10,000 steps. A decay that
starts small forgets them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def ema_decay(step: ArrayLike, decay: float) -> jax.Array:
    """Returns the decay for the update after optimiser step `step`.

    min(decay, (1 + step) / (10 + step)), which starts at 0.1.

    Args:
      step: Number of steps done before, at least 0.
      decay: Final decay, in [0, 1].

    Returns:
      Decay, a float scalar (shape of `step`).

    Raises:
      ValueError: if `decay` is outside [0, 1].
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    step = jnp.asarray(step).astype(float)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update_ema(ema: Any, params: Any, decay: ArrayLike) -> Any:
    """Moves the average one step: decay * ema + (1 - decay) * params.

    Args:
      ema: Average so far, any tree.
      params: New parameters, same tree.
      decay: Decay, scalar in [0, 1].

    Returns:
      The new average, with the leaf types of `ema`. Leaves that are not
      floating-point (counters) are copied from `params`.
    """

    def average(old, new):
        if not jnp.issubdtype(jnp.result_type(old), jnp.inexact):
            return new
        # As a correction to `old`, so that equal leaves stay equal to the bit.
        moved = old + (1.0 - decay) * (new - old)
        return moved.astype(jnp.result_type(old))

    return jax.tree.map(average, ema, params)
