"""Loads the files of CIFAR-10, CIFAR-100 and STL-10, folders or archives.

    cifar-10-binary.tar.gz   data_batch_1.bin ... test_batch.bin, batches.meta.txt
    cifar-10-python.tar.gz   data_batch_1 ... test_batch, batches.meta
    cifar-100-binary.tar.gz  train.bin, test.bin, fine_label_names.txt, coarse_...
    cifar-100-python.tar.gz  train, test, meta
    stl10_binary.tar.gz      train_X.bin, train_y.bin, test_X.bin, test_y.bin

The python archives hold pickles; `plain_pickles` reads their arrays and lists without
unpickling. Layouts are those of https://www.cs.toronto.edu/~kriz/cifar.html and
https://cs.stanford.edu/~acoates/stl10.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.file_trees import TreeFile, open_tree
from ncgn_jax.data.labels import RawLabels
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import (
    USUAL,
    ArrayOptions,
    StoredPart,
    join_arrays,
)
from ncgn_jax.images.plain_pickles import read_pickle
from ncgn_jax.images.sets import ImageDataset

_SIDE, _STL_SIDE = 32, 96
_PIXELS = 3 * _SIDE * _SIDE
_BATCHES = 5
_IN_BATCH = 10_000
_FINE, _COARSE = "fine_labels", "coarse_labels"
_BATCH = re.compile(r"data_batch_([1-9]\d*)(\.bin)?")
_NAMES = {
    "test_batch", "test_batch.bin", "batches.meta", "batches.meta.txt", "train",
    "test", "meta", "train.bin", "test.bin", "fine_label_names.txt",
    "coarse_label_names.txt", "train_x.bin", "train_y.bin", "test_x.bin", "test_y.bin",
    "class_names.txt",
}  # fmt: skip
# What belongs to these archives and is not needed.
_KNOWN_REST = ("readme.html", "file.txt~", "unlabeled_x.bin", "fold_indices.txt")


class _Part(NamedTuple):
    """Images of a file and the classes in it, by kind."""

    images: np.ndarray
    labels: Mapping[str, np.ndarray]


def find_cifar(names: Sequence[str]) -> str | None:
    """Tells which of these sets files belong to by their names.

    Returns:
      "cifar-10", "cifar-100", "stl-10", or None.

    Example:
      >>> find_cifar(["a/data_batch_1.bin", "a/test_batch.bin"])
      'cifar-10'
    """
    found = {PurePosixPath(name).name.lower() for name in names}
    if any(_BATCH.fullmatch(name) for name in found):
        return "cifar-10"
    if {"train_x.bin", "train_y.bin"} <= found:
        return "stl-10"
    if {"train.bin", "test.bin"} & found and {"fine_label_names.txt"} & found:
        return "cifar-100"
    if {"train", "test", "meta"} <= found:
        return "cifar-100"
    return None


def load_cifar(
    path: str | os.PathLike[str],
    options: ArrayOptions = USUAL,
    label_key: str | None = None,
) -> ImageDataset:
    """Loads one of the sets.

    Args:
      path: The folder or archive.
      options: How images are taken.
      label_key: "fine_labels" or "coarse_labels" of CIFAR-100; None for fine ones.

    Raises:
      DataError: If files are missing or have another length than their records, or if
        a pickle holds anything but plain values.
    """
    path = Path(path)
    options.check()
    reading = Reading(path, "images")
    with open_tree(path) as tree:
        kind = find_cifar([file.name for file in tree.files])
        if kind is None:
            raise DataError(
                f"{path}: no files of CIFAR-10, CIFAR-100 or STL-10; allowed: "
                "data_batch_1[.bin], ..., test_batch[.bin]; train, test and meta; "
                "train.bin, test.bin and fine_label_names.txt; or train_X.bin"
            )
        if label_key is not None and kind != "cifar-100":
            raise DataError(
                f"data.label_key={label_key!r}, but {kind} has classes of one kind; "
                "allowed: unset"
            )
        tree.count_hidden(reading)
        files = _by_name(path, tree.files, reading)
        read = {"cifar-10": _read_ten, "cifar-100": _read_hundred, "stl-10": _read_stl}
        parts, names = read[kind](path, files, reading, label_key)
    name = path.name.split(".")[0] if path.is_file() else path.resolve().name
    return join_arrays(name, parts, names, reading, options)


def _by_name(
    path: Path, files: Sequence[TreeFile], reading: Reading
) -> dict[str, TreeFile]:
    """Returns the files that belong to a set, by their last names in small letters."""
    found: dict[str, TreeFile] = {}
    for file in sorted(files, key=lambda file: file.place):
        name = file.below.name.lower()
        if not (name in _NAMES or _BATCH.fullmatch(name)):
            rest = "of the set, but not needed" if name in _KNOWN_REST else "unknown"
            reading.leave_out(f"files {rest}", file.name)
        elif name in found:
            raise DataError(
                f"{path}: {found[name].name} and {file.name}; allowed: one set in a "
                "folder or archive"
            )
        else:
            found[name] = file
    return found


def _read_ten(
    path: Path, files: Mapping[str, TreeFile], reading: Reading, label_key: str | None
) -> tuple[dict[str, StoredPart], tuple[str, ...] | None]:
    batches = {int(m[1]): name for name in files if (m := _BATCH.fullmatch(name))}
    missing = [str(i) for i in range(1, _BATCHES + 1) if i not in batches]
    if missing:
        reading.say(f"no data_batch_{', '.join(missing)}; the set has {_BATCHES}")
    groups = {"train": [batches[i] for i in sorted(batches)]}
    tests = [name for name in ("test_batch", "test_batch.bin") if name in files]
    groups |= {"test": tests} if tests else {}
    parts = {}
    for part, chosen in groups.items():
        read = [_read_batch(path, files[name], 1, reading) for name in chosen]
        images = np.concatenate([one.images for one in read])
        labels = np.concatenate([one.labels["labels"] for one in read])
        where = f"{path}, {part} batches"
        parts[part] = StoredPart(images, where, RawLabels(labels, f"{where}, labels"))
    names = None
    if "batches.meta.txt" in files:
        names = _read_lines(path, files["batches.meta.txt"])
    elif "batches.meta" in files:
        names = _read_meta(path, files["batches.meta"], "label_names")
    return parts, names


def _read_hundred(
    path: Path, files: Mapping[str, TreeFile], reading: Reading, label_key: str | None
) -> tuple[dict[str, StoredPart], tuple[str, ...] | None]:
    if label_key not in (None, _FINE, _COARSE):
        raise DataError(
            f"data.label_key={label_key!r}; allowed for CIFAR-100: {_FINE}, {_COARSE}"
        )
    if label_key is None:
        reading.say(
            f"CIFAR-100 has two kinds of classes; taken are the 100 of {_FINE}, and "
            f"data.label_key={_COARSE} takes the 20"
        )
    kind = label_key or _FINE
    parts = {}
    for part in ("train", "test"):
        name = part if part in files else f"{part}.bin"
        if name not in files:
            continue
        read = _read_batch(path, files[name], 2, reading)
        where = f"{path}: {files[name].name}"
        labels = RawLabels(read.labels[kind], f"{where}, {kind}")
        parts[part] = StoredPart(read.images, where, labels)
    text = f"{kind.removesuffix('s')}_names.txt"
    if text in files:
        return parts, _read_lines(path, files[text])
    if "meta" in files:
        return parts, _read_meta(path, files["meta"], f"{kind.removesuffix('s')}_names")
    return parts, None


def _read_stl(
    path: Path, files: Mapping[str, TreeFile], reading: Reading, label_key: str | None
) -> tuple[dict[str, StoredPart], tuple[str, ...] | None]:
    parts = {}
    for part in ("train", "test"):
        if f"{part}_x.bin" not in files:
            continue
        file = files[f"{part}_x.bin"]
        where = f"{path}: {file.name}"
        rows = _records(file.read(), 3 * _STL_SIDE**2, where)
        # Columns of pixels follow each other.
        images = rows.reshape(-1, 3, _STL_SIDE, _STL_SIDE).transpose(0, 3, 2, 1)
        reading.find(f"images in {file.below.name}", count=len(images))
        labels = None
        if f"{part}_y.bin" in files:
            own = files[f"{part}_y.bin"]
            values = np.frombuffer(own.read(), np.uint8)
            labels = RawLabels(values, f"{path}: {own.name}")
        parts[part] = StoredPart(images, where, labels)
    names = None
    if "class_names.txt" in files:
        names = _read_lines(path, files["class_names.txt"])
    return parts, names


def _read_batch(path: Path, file: TreeFile, num_labels: int, reading: Reading) -> _Part:
    """Reads images [image, height, width, channel] and the classes of a batch."""
    where = f"{path}: {file.name}"
    name = file.below.name
    if name.lower().endswith(".bin"):
        rows = _records(file.read(), num_labels + _PIXELS, where)
        kinds = ("labels",) if num_labels == 1 else (_COARSE, _FINE)
        labels = {kind: rows[:, i] for i, kind in enumerate(kinds)}
        pixels = rows[:, num_labels:]
    else:
        pixels, labels = _read_python(file.read(), where, num_labels)
    if len(pixels) != _IN_BATCH and num_labels == 1:
        reading.say(f"{name} has {len(pixels):,} images, {_IN_BATCH:,} are published")
    reading.find(f"images in {name}", count=len(pixels))
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return _Part(np.ascontiguousarray(images), labels)


def _records(content: bytes, size: int, where: str) -> np.ndarray:
    if not content or len(content) % size:
        raise DataError(
            f"{where}: {len(content):,} bytes are {len(content) / size:.2f} records of "
            f"{size:,}; allowed: whole ones"
        )
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def _read_python(
    content: bytes, where: str, num_labels: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    stored = read_pickle(content, where)
    kinds = ("labels",) if num_labels == 1 else (_COARSE, _FINE)
    missing = [key for key in ("data", *kinds) if key not in stored]
    if missing:
        raise DataError(
            f"{where}: no {', '.join(missing)}; found {', '.join(map(str, stored))}"
        )
    pixels = stored["data"]
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (_PIXELS,):
        found = getattr(pixels, "shape", type(pixels).__name__)
        raise DataError(f"{where}: data {found}; allowed: [image, {_PIXELS}]")
    labels = {}
    for kind in kinds:
        values = stored[kind]
        plain = isinstance(values, list) and all(
            type(value) is int and 0 <= value < 256 for value in values
        )
        if not plain or len(values) != len(pixels):
            raise DataError(
                f"{where}: {kind} are no list of {len(pixels)} numbers 0..255"
            )
        labels[kind] = np.asarray(values, np.int64)
    return pixels, labels


def _read_meta(path: Path, file: TreeFile, key: str) -> tuple[str, ...]:
    where = f"{path}: {file.name}"
    names = read_pickle(file.read(), where).get(key)
    if not isinstance(names, list) or not all(
        isinstance(n, str | bytes) for n in names
    ):
        raise DataError(f"{where}: no list {key}; allowed: the names of the classes")
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else name
        for name in names
    )


def _read_lines(path: Path, file: TreeFile) -> tuple[str, ...]:
    text = file.read().decode("utf-8", "replace")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise DataError(f"{path}: {file.name} is empty; allowed: a class in each line")
    return names
