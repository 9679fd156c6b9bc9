"""Tells by their names which arrays are images, classes and names of classes.

Example:
  >>> shapes = {"x_train": (9, 8, 8), "y_train": (9,), "x_val": (3, 8, 8)}
  >>> arrays = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
  >>> find_roles("a.npz", arrays).images
  {'train': 'x_train', 'val': 'x_val'}
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ncgn_jax.data.splits import split_in, split_of
from ncgn_jax.faults import DataError

# Words that are left of a name without that of its part.
_IMAGES = frozenset(
    (
        "", "images", "image", "imgs", "img", "x", "data", "arr 0", "pictures",
        "picture", "pixels", "inputs",
    )
)  # fmt: skip
_LABEL_WORDS = frozenset(
    ("labels", "label", "y", "targets", "target", "class", "classes", "lbls")
)
_LABELS = _LABEL_WORDS | {"arr 1", "class ids", "class id"}
_CLASS_NAMES = frozenset(
    (
        "classes", "class names", "classnames", "label names", "labelnames",
        "target names", "names", "categories", "category names",
    )
)  # fmt: skip
_EXAMPLES = "x_train, train_images, x_test, test_images, images, x, data"
_LABEL_EXAMPLES = "y_train, train_labels, y_test, test_labels, labels, y"


@dataclasses.dataclass
class Roles:
    """What arrays are.

    Attributes:
      images: Name of the images of each part: train, val, test, or "".
      labels: Name of the classes of each part.
      class_names: Name of the names of the classes, None without.
      unused: The others.
      notes: What was decided by a rule.
    """

    images: dict[str, str]
    labels: dict[str, str]
    class_names: str | None = None
    unused: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def find_roles(
    where: str,
    arrays: Mapping[str, np.ndarray],
    image_key: str | None = None,
    label_key: str | None = None,
) -> Roles:
    """Finds the roles of arrays by their names.

    Args:
      where: File or folder, for messages.
      arrays: The arrays by name.
      image_key: Name of the images, or what it is without that of the part; None for
        usual names.
      label_key: The same for the classes.

    Raises:
      DataError: If no array can be the images, or several can be one thing.
    """
    roles = Roles(_find_images(where, arrays, image_key), {})
    images = set(roles.images.values())
    if not any(_base(name) in _IMAGES for name in images) and image_key is None:
        shown = ", ".join(map(repr, sorted(images)))
        roles.notes.append(f"{where}: images are in {shown}, the only array like them")
    others = {name: a for name, a in arrays.items() if name not in images}
    sizes = {part: len(arrays[name]) for part, name in roles.images.items()}
    roles.labels = _find_labels(where, others, sizes, label_key)
    _check_labels(where, roles)
    taken = set(roles.labels.values())
    rest = {name: a for name, a in others.items() if name not in taken}
    named = [name for name in rest if _words(name) in _CLASS_NAMES]
    if len(named) > 1:
        raise DataError(
            f"{where}: found arrays {', '.join(named)}; allowed: one of them"
        )
    roles.class_names = named[0] if named else None
    roles.unused = [name for name in rest if name not in named]
    _refuse_split_arrays(where, {name: rest[name] for name in roles.unused})
    if not roles.labels:
        fitting = [name for name in roles.unused if _could_be_labels(rest[name], sizes)]
        if fitting:
            roles.notes.append(
                f"{where}: no classes by a usual name ({_LABEL_EXAMPLES}), so there is "
                f"one; {', '.join(map(repr, fitting))} could be: data.label_key="
                f"{fitting[0]}"
            )
    return roles


def is_of_images(name: str) -> bool:
    """Tells whether a name is a usual one of images, or of a class for each of them.

    Example:
      >>> [is_of_images(name) for name in ("X", "y", "class_names", "extra: X")]
      [True, True, False, False]
    """
    return _words(name) in (_IMAGES | _LABELS) - _CLASS_NAMES


def looks_like_images(array: np.ndarray) -> bool:
    """Tells whether an array has the shape of images, and not that of clouds."""
    if array.dtype.kind not in "biuf" or 0 in array.shape:
        return False
    if array.ndim == 4:
        return array.shape[1] in (1, 3) or array.shape[3] in (1, 3)
    return array.ndim == 3 and min(array.shape[1:]) >= 4


def _find_images(
    where: str, arrays: Mapping[str, np.ndarray], image_key: str | None
) -> dict[str, str]:
    if image_key is not None:
        return _find_named(where, arrays, "data.image_key", image_key)
    named = [name for name in arrays if _base(name) in _IMAGES]
    # Images often come flattened beside, as those of scikit-learn.
    full = [name for name in named if arrays[name].ndim >= 3]
    named = full or named
    if not named:
        named = [name for name in arrays if looks_like_images(arrays[name])]
        if len({_base(name) for name in named}) > 1:
            raise DataError(
                f"{where}: arrays {', '.join(named)} could be the images; allowed: one "
                f"of them, named by data.image_key, or usual names ({_EXAMPLES})"
            )
    if not named:
        raise DataError(
            f"{where}: no training images; found {', '.join(arrays)}; allowed: "
            f"{_EXAMPLES}, or the name in data.image_key"
        )
    found = _one_for_each_part(where, named, "data.image_key")
    if not {"", "train"} & found.keys():
        raise DataError(
            f"{where}: no training images; found {', '.join(arrays)}; allowed: "
            f"{_EXAMPLES}, or the name in data.image_key"
        )
    return found


def _find_labels(
    where: str,
    arrays: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    label_key: str | None,
) -> dict[str, str]:
    if label_key is not None:
        return _find_named(where, arrays, "data.label_key", label_key)
    named = [name for name in arrays if _base(name) in _LABELS]
    named = named or [
        name for name in arrays if set(_base(name).split()) & _LABEL_WORDS
        and _words(name) not in _CLASS_NAMES and arrays[name].ndim >= 1
    ]  # fmt: skip
    # `classes` names the classes if something else holds them.
    both = [name for name in named if _words(name) in _CLASS_NAMES]
    fits = [name for name in both if _could_be_labels(arrays[name], sizes)]
    if len(both) < len(named) or not fits:
        named = [name for name in named if name not in both]
    return _one_for_each_part(where, named, "data.label_key")


def _check_labels(where: str, roles: Roles) -> None:
    images, labels = roles.images, roles.labels
    if "" in labels and "" not in images and "train" not in labels:
        labels["train"] = labels.pop("")
    if "train" in labels and "train" not in images and "" not in labels:
        labels[""] = labels.pop("train")
    used = [part for part in ("", "train", "test") if part in images]
    if "test" in labels and "test" not in images:
        raise DataError(
            f"{where}: array {labels['test']!r} but no test images; allowed: x_test, "
            "test_images, images_test, test"
        )
    known = [part for part in used if part in labels]
    if known and len(known) < len(used):
        missing = next(part for part in used if part not in labels)
        raise DataError(
            f"{where}: array {labels[known[0]]!r} but no labels of the other part; "
            f"allowed: {missing or 'train'}_labels, y_{missing or 'train'}, or no "
            "labels at all"
        )


def _refuse_split_arrays(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "U" and array.ndim == 1 and says_split(set(array)):
            raise DataError(
                f"{where}: array {name!r} names a part for each image; allowed: arrays "
                "of each part, such as x_train and x_test"
            )


def says_split(values: Collection[object]) -> bool:
    """Tells whether texts are names of several parts, and nothing else.

    Example:
      >>> says_split({"train", "test"}), says_split({"train", "bus"})
      (True, False)
    """
    parts = {split_of(str(value)) for value in values}
    return len(parts) > 1 and None not in parts


def _find_named(
    where: str, arrays: Mapping[str, np.ndarray], field: str, key: str
) -> dict[str, str]:
    """Returns the arrays that a field names, one for each part."""
    if key in arrays and not split_in(key):
        named = [key]
    else:
        named = [n for n in arrays if n == key or _base(n) == _base(key)]
        if split_in(_spaced(key)):
            # The name of one part stands for those of the others.
            named = [n for n in named if split_in(_spaced(n))]
    if not named:
        raise DataError(f"{where}: {field}={key!r}; found {', '.join(arrays)}")
    return _one_for_each_part(where, named, field)


def _one_for_each_part(where: str, names: Sequence[str], field: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        part = split_in(_spaced(name)) or ""
        if part in found:
            raise DataError(
                f"{where}: found arrays {found[part]}, {name}; allowed: one of them, "
                f"or {field} with its name"
            )
        found[part] = name
    if {"", "train"} <= found.keys():
        both = ", ".join(name for name in names if name in (found[""], found["train"]))
        raise DataError(
            f"{where}: found arrays {both}; allowed: one of them, or {field} with its "
            "name"
        )
    return found


def _could_be_labels(array: np.ndarray, sizes: Mapping[str, int]) -> bool:
    many = array.shape[0] if array.ndim else 0
    flat = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return flat and many in sizes.values() and array.dtype.kind in "biuUS"


def _spaced(name: str) -> str:
    return re.sub(r"^([xy])(?=(train|test|val))", r"\1_", name, flags=re.IGNORECASE)


def _words(name: str) -> str:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", _spaced(name))
    return " ".join(re.findall(r"[a-z]+|[0-9]+", spaced.lower()))


def _base(name: str) -> str:
    """Returns the words of a name without those of its part."""
    words = _words(name).split()
    if split_in(_spaced(name)) is None:
        return " ".join(words)
    return " ".join(word for word in words if split_of(word) is None)
