"""Draws, chooses and hides classes of samples, as domains with classes share it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.faults import RequestError, did_you_mean

Label = str | int
_MAX_SHOWN = 20


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


def choose_classes(
    label: Label | Sequence[Label], num: int, class_names: Sequence[str]
) -> np.ndarray:
    """Returns the class of each sample that was asked for, int32 [num].

    Args:
      label: Name or number of a class, or several of these, which are taken in turn.
      num: Number of samples.
      class_names: Names of all classes.

    Raises:
      RequestError: If there is no such class.
    """
    asked = [label] if isinstance(label, str | int | np.integer) else list(label)
    if not asked:
        raise RequestError("label: found no class; allowed: at least one, or None")
    numbers = [_class_number(one, class_names) for one in asked]
    return np.resize(np.asarray(numbers, np.int32), num)


def _class_number(label: Label, class_names: Sequence[str]) -> int:
    names = list(class_names)
    if isinstance(label, str) and label in names:
        return names.index(label)
    is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if is_number and 0 <= int(label) < len(names):
        return int(label)
    shown = ", ".join(names[:_MAX_SHOWN]) + (", ..." * (len(names) > _MAX_SHOWN))
    hint = did_you_mean(label, names) if isinstance(label, str) else ""
    raise RequestError(f"label: found {label!r}; allowed: {shown}{hint}")
