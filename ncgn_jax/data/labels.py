"""Reads classes in the forms that people store them in.

Whole numbers, also as floats; truth values; texts; one-hot rows.

Example:
  >>> plain_labels(RawLabels(np.array([[0, 1], [1, 0]]), "pets.npz"), "image")
  (array([1, 0]), 'classes are one-hot rows of 2')
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ncgn_jax.faults import DataError

_NUM_SHOWN = 10
_FORMS = "whole numbers, also as floats, texts, or one-hot rows, one for each"


class RawLabels(NamedTuple):
    """Classes as they are stored.

    Attributes:
      values: [item], [item, 1], or one-hot [item, class]; a single class may have no
        axis.
      where: File and array, for messages.
    """

    values: np.ndarray
    where: str


def plain_labels(raw: RawLabels, item: str) -> tuple[np.ndarray, str]:
    """Reads classes as numbers or texts.

    Args:
      raw: The classes.
      item: What has a class, for messages.

    Returns:
      Whole numbers, int64 [item], or texts without spaces around them; and what form
      they have, in words, empty for numbers and texts.

    Raises:
      DataError: If they have none of the forms.
    """
    values, where = raw.values, raw.where
    if values.ndim == 0 or (values.ndim == 2 and values.shape[1] == 1):
        values = values.reshape(-1)
    if _is_text(values):
        if values.ndim != 1:
            raise DataError(
                f"{where}: texts of shape {values.shape}; allowed: [{item}]"
            )
        return np.char.strip(_decode(values, where)), ""
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: dtype {values.dtype}; allowed: {_FORMS} {item}")
    if values.ndim == 2 and values.shape[1] > 1:
        classes = _read_one_hot(values, where, item)
        return classes, f"classes are one-hot rows of {values.shape[1]}"
    if values.ndim != 1:
        raise DataError(f"{where}: shape {values.shape}; allowed: {_FORMS} {item}")
    note = "classes are False (0) and True (1)" if values.dtype.kind == "b" else ""
    if values.dtype.kind == "f":
        odd = values[~(np.isfinite(values) & (values == np.round(values)))]
        if len(odd):
            raise DataError(
                f"{where}: dtype {values.dtype} with {odd[0]}; allowed: {_FORMS} {item}"
            )
        note = f"classes are whole numbers stored as {values.dtype}"
    low, high = (float(values.min()), float(values.max())) if len(values) else (0, 0)
    if low < -(2**63) or high >= 2**63:
        raise DataError(
            f"{where}: {low:g}..{high:g}; allowed: 0..number of classes - 1"
        )
    return values.astype(np.int64), note


def sort_names(names: Sequence[str]) -> list[str]:
    """Sorts names of classes, as numbers where all of them are whole numbers.

    Example:
      >>> sort_names(["10", "9"]), sort_names(["b", "10", "9"])
      (['9', '10'], ['10', '9', 'b'])
    """
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def clean_names(names: np.ndarray | Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the names of classes as texts without spaces around them.

    Raises:
      DataError: If they are no list of texts or numbers.
    """
    array = np.asarray(names)
    if array.ndim != 1:
        raise DataError(f"{where}: shape {array.shape}; allowed: [class]")
    return tuple(str(name).strip() for name in _decode(array, where).tolist())


def _is_text(values: np.ndarray) -> bool:
    # HDF5 gives objects for texts of any length.
    return values.dtype.kind in "US" or (
        values.dtype.kind == "O"
        and all(isinstance(value, str | bytes) for value in values.flat)
    )


def _decode(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "SO":
        return values.astype(str)
    try:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.flat]
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not readable as UTF-8 ({error})") from error
    return np.array(texts, str).reshape(values.shape)


def _read_one_hot(values: np.ndarray, where: str, item: str) -> np.ndarray:
    is_one = values == 1
    if not (np.all(is_one | (values == 0)) and np.all(is_one.sum(axis=1) == 1)):
        row = int(np.argmin((is_one | (values == 0)).all(1) & (is_one.sum(1) == 1)))
        shown = " ".join(f"{value:g}" for value in values[row, :_NUM_SHOWN].tolist())
        raise DataError(
            f"{where}: shape {values.shape}, row {row} is {shown}; allowed: "
            f"{_FORMS} {item}; one-hot rows have a single 1 and zeros"
        )
    return is_one.argmax(axis=1).astype(np.int64)
