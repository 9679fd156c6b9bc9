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

import numpy as np

from ncgn_jax.data.labels import RawLabels, plain_labels, sort_names
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError

_MAX_CLASSES = 10_000
_NUM_SHOWN = 10


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


def _to_plain(part: RawLabels, reading: Reading) -> np.ndarray:
    """Returns [image], whole numbers from 0 (int64) or texts."""
    values, note = plain_labels(part, "image")
    if note:
        reading.say(f"{part.where}: {note}")
    if values.dtype.kind == "i" and len(values):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= 2**31:
            raise DataError(
                f"{part.where}: {low:g}..{high:g}; allowed: 0..number of classes - 1"
            )
    return values


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
