"""Reads the classes of images in the forms that people store them in.

Whole numbers, also as floats; truth values; texts; one-hot rows. What form was found
is said in the report. Numbers that do not count from 0 without gaps name their classes.

Example:
  >>> reading = Reading("pets.npz", "images")
  >>> raw = RawLabels(np.array(["dog", "cat", "dog"]), "pets.npz, array 'y'")
  >>> (labels,), names = read_labels([raw], None, reading)
  >>> labels, names
  (array([1, 0, 1], dtype=int32), ('cat', 'dog'))
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError

_MAX_CLASSES = 10_000
_NUM_SHOWN = 10
_FORMS = "whole numbers, also as floats, texts, or one-hot rows, one for each image"


class RawLabels(NamedTuple):
    """Classes of a part as they are stored.

    Attributes:
      values: [image], [image, 1], or one-hot [image, class].
      where: File and array, for messages.
    """

    values: np.ndarray
    where: str


def read_labels(
    parts: Sequence[RawLabels],
    class_names: Sequence[str] | None,
    reading: Reading,
) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """Reads classes as numbers from 0, and their names.

    Args:
      parts: The training part, then others. Numbers are those of all parts together.
      class_names: Names in the order of the numbers, where the data hold them.
      reading: Takes what was decided.

    Returns:
      Classes, int32 [image] for each part, and the name of each class; None if they
      are named by their numbers.

    Raises:
      DataError: If a form is not usable, if parts have different forms, or if names
        do not fit.
    """
    plain = [_to_plain(part, reading) for part in parts]
    texts = [values.dtype.kind == "U" for values in plain]
    if len(set(texts)) > 1:
        raise DataError(
            f"{parts[0].where}: {parts[0].values.dtype}, but {parts[-1].values.dtype} "
            f"in {parts[-1].where}; allowed: one form in all parts"
        )
    for part, values in zip(parts, plain, strict=True):
        if not len(values):
            raise DataError(f"{part.where}: no images; allowed: at least one")
    present = np.unique(np.concatenate(plain))
    if len(present) > _MAX_CLASSES:
        raise DataError(
            f"{parts[0].where}: {len(present):,} different classes; allowed: at most "
            f"{_MAX_CLASSES:,}"
        )
    if texts[0]:
        return _read_texts(plain, present, parts[0].where, class_names, reading)
    return _read_numbers(plain, present, parts[0].where, class_names, reading)


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
    return tuple(str(name).strip() for name in _to_text(array, where).tolist())


def _to_plain(part: RawLabels, reading: Reading) -> np.ndarray:
    """Returns [image], whole numbers (int64) or texts."""
    values, where = part.values, part.where
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "US":
        if values.ndim != 1:
            raise DataError(f"{where}: texts of shape {values.shape}; allowed: [image]")
        return np.char.strip(_to_text(values, where))
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: dtype {values.dtype}; allowed: {_FORMS}")
    if values.ndim == 2 and values.shape[1] > 1:
        return _read_one_hot(values, where, reading)
    if values.ndim != 1:
        raise DataError(f"{where}: shape {values.shape}; allowed: {_FORMS}")
    if values.dtype.kind == "f":
        odd = values[~(np.isfinite(values) & (values == np.round(values)))]
        if len(odd):
            raise DataError(
                f"{where}: dtype {values.dtype} with {odd[0]}; allowed: {_FORMS}"
            )
        reading.say(f"{where}: classes are whole numbers stored as {values.dtype}")
    if values.dtype.kind == "b":
        reading.say(f"{where}: classes are False (0) and True (1)")
    low, high = (float(values.min()), float(values.max())) if len(values) else (0, 0)
    if low < 0 or high >= 2**31:
        raise DataError(
            f"{where}: {low:g}..{high:g}; allowed: 0..number of classes - 1"
        )
    return values.astype(np.int64)


def _to_text(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind != "S":
        return values.astype(str)
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not readable as UTF-8 ({error})") from error


def _read_one_hot(values: np.ndarray, where: str, reading: Reading) -> np.ndarray:
    is_one = values == 1
    if not (np.all(is_one | (values == 0)) and np.all(is_one.sum(axis=1) == 1)):
        row = int(np.argmin((is_one | (values == 0)).all(1) & (is_one.sum(1) == 1)))
        shown = " ".join(f"{value:g}" for value in values[row, :_NUM_SHOWN].tolist())
        raise DataError(
            f"{where}: shape {values.shape}, row {row} is {shown}; allowed: {_FORMS}; "
            "one-hot rows have a single 1 and zeros"
        )
    reading.say(f"{where}: classes are one-hot rows of {values.shape[1]}")
    return is_one.argmax(axis=1).astype(np.int64)


def _read_texts(
    plain: Sequence[np.ndarray],
    present: np.ndarray,
    where: str,
    class_names: Sequence[str] | None,
    reading: Reading,
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    found = present.tolist()
    names = sort_names(found) if class_names is None else list(class_names)
    unknown = [name for name in found if name not in set(names)]
    if unknown:
        raise DataError(
            f"{where}: class {unknown[0]!r} is not among the class names "
            f"{', '.join(names[:_NUM_SHOWN])}; allowed: these"
        )
    names = _drop_unused(names, set(found), reading)
    number = {name: i for i, name in enumerate(names)}
    order = "numbers" if names != sorted(names) else "alphabet"
    if class_names is None:
        reading.say(f"{where}: classes are texts, in the order of the {order}")
    to_number = np.asarray([number[name] for name in found], np.int32)
    return [to_number[np.searchsorted(present, p)] for p in plain], tuple(names)


def _read_numbers(
    plain: Sequence[np.ndarray],
    present: np.ndarray,
    where: str,
    class_names: Sequence[str] | None,
    reading: Reading,
) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    low, high = int(present[0]), int(present[-1])
    if class_names is None:
        if len(present) == high + 1:
            return [part.astype(np.int32) for part in plain], None
        reading.say(
            f"{where}: the {len(present)} different classes are {low}..{high}, not "
            f"0..{len(present) - 1}; they are named by these numbers"
        )
        names = [str(number) for number in present.tolist()]
    else:
        shift = int(low == 1 and high == len(class_names))
        if shift:
            reading.say(f"{where}: classes count from 1, the first of the class names")
        if high - shift >= len(class_names):
            raise DataError(
                f"{where}: label {high} for {len(class_names)} class names; allowed: "
                f"0..{len(class_names) - 1}"
            )
        known = [class_names[number - shift] for number in present.tolist()]
        if len(set(class_names)) < len(class_names):
            return [(part - shift).astype(np.int32) for part in plain], tuple(
                class_names
            )
        names = _drop_unused(list(class_names), set(known), reading)
    return [np.searchsorted(present, p).astype(np.int32) for p in plain], tuple(names)


def _drop_unused(names: list[str], used: set[str], reading: Reading) -> list[str]:
    """Drops names of classes without images, and says so."""
    unused = [name for name in names if name not in used]
    if unused:
        shown = ", ".join(unused[:_NUM_SHOWN]) + ", ..." * (len(unused) > _NUM_SHOWN)
        reading.say(f"no image of {len(unused)} of {len(names)} named classes: {shown}")
    return [name for name in names if name in used]
