"""Draws and hides the classes of samples, as domains with classes share it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def count_classes(labels: np.ndarray, class_names: Sequence[str]) -> tuple[int, ...]:
    """Counts the training rows of every class.

    Args:
      labels: Class of each row, int [row].
      class_names: Names of all classes.
    """
    counts = np.bincount(np.asarray(labels), minlength=len(class_names))
    return tuple(counts.tolist())


def draw_classes(counts: Sequence[int], num: int, seed: int) -> np.ndarray:
    """Draws classes as often as they occur in training, int32 [num].

    Args:
      counts: Training rows of every class.
      num: Number of draws.
      seed: Seed of the draws.
    """
    places = np.random.default_rng([seed, 11]).integers(sum(counts), size=num)
    return np.searchsorted(np.cumsum(counts), places, side="right").astype(np.int32)


def hide_classes(
    label: jax.Array | np.ndarray, keys: jax.Array, dropout: float, none: int
) -> jax.Array:
    """Replaces some classes by the one that stands for none.

    Args:
      label: Classes, int [row].
      keys: One key per row, [row].
      dropout: Share of the rows that are hidden.
      none: Number of the class that stands for none.
    """
    hide = jax.vmap(lambda key: jax.random.bernoulli(key, dropout))(keys)
    return jnp.where(hide, none, label)
