"""Loads images in the format of MNIST: `train-images-idx3-ubyte` and its like.

A file begins with two zero bytes, a byte for the type of the numbers, the number of
axes, and the length of each (big-endian). A folder or archive holds images and labels,
of the training part and of the test part, which MNIST calls `t10k`; all may be .gz.

EMNIST's files, whose names begin with "emnist", hold every image with rows and columns
swapped (Cohen et al. 2017, arXiv 1702.05373); they are swapped back.
"""

import math
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.data.archives import is_archive
from ncgn_jax.data.file_trees import TreeFile, open_tree
from ncgn_jax.data.labels import RawLabels
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_in
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import (
    USUAL,
    ArrayOptions,
    StoredPart,
    join_arrays,
)
from ncgn_jax.images.sets import ImageDataset

TRANSPOSE = ("auto", "yes", "no")
_TYPES = {
    0x08: ">u1",
    0x09: ">i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}
# EMNIST's files of names: a class, and the codes of its letters, in each line.
_MAPPING = "mapping.txt"
_NAME = re.compile(r"(.*?)(images?|labels?)[-._]?idx\d[-._a-z]*", re.IGNORECASE)
_ALLOWED = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-..., each also .gz"
)


def is_idx_name(name: str) -> bool:
    """Tells whether a file's name is that of images or labels of this format."""
    return _NAME.fullmatch(name.lower().removesuffix(".gz")) is not None


def load_idx(
    path: str | os.PathLike[str],
    options: ArrayOptions = USUAL,
    transpose: str = "auto",
) -> ImageDataset:
    """Loads the images of idx files.

    Args:
      path: A folder or archive of them; or the file of images of one part, which is
        read with its labels and with the other part where they lie beside it.
      options: How images are taken.
      transpose: Whether to swap rows and columns: "yes", "no", or "auto" for EMNIST.

    Raises:
      DataError: If a file is missing, damaged or cut short, or if there are several
        files for one thing.
    """
    path = Path(path)
    options.check()
    reading = Reading(path, "images")
    prefix = None
    root = path
    if path.is_file() and not is_archive(path):
        match = _NAME.fullmatch(path.name.lower().removesuffix(".gz"))
        if match is None or not match[2].startswith("image"):
            return _load_alone(path, options, transpose, reading)
        prefix, root = _set_of(match[1]), path.parent
    with open_tree(root) as tree:
        files = _choose_files(tree.files, prefix, reading, root)
        if prefix is None:
            tree.count_hidden(reading)
        else:
            reading.say("labels and the other part are taken from beside the file")
        parts = {part: {k: _read(root, f) for k, f in own.items()}
                 for part, own in files.items()}  # fmt: skip
        mappings = [
            file
            for file in tree.files
            if file.below.name.lower().endswith(_MAPPING)
            and prefix in (None, _set_of(file.below.name.lower()[: -len(_MAPPING)]))
        ]
        class_names = _read_mapping(root, mappings[0]) if len(mappings) == 1 else None
    names = [file.below.name for own in files.values() for file in own.values()]
    swapped = transpose == "yes" or (transpose == "auto" and _is_emnist(names))
    stored = {}
    for part, own in parts.items():
        if "images" not in own:
            raise DataError(
                f"{root}: {files[part]['labels'].name} without images beside it; "
                f"allowed: {_ALLOWED}"
            )
        where = f"{root}: {files[part]['images'].name}"
        labels = None
        if "labels" in own:
            labels = RawLabels(own["labels"], f"{root}: {files[part]['labels'].name}")
        stored[part] = StoredPart(_swap(own["images"], swapped), where, labels)
        reading.find(
            f"images in {files[part]['images'].name}", count=len(own["images"])
        )
    if list(stored) == ["test"]:
        reading.say("the test part alone was named, so it is split")
        stored = {"": stored["test"]}
    contents = ["rows and columns swapped back"] if swapped else []
    name = prefix or root.resolve().name.split(".")[0]
    return join_arrays(name, stored, class_names, reading, options, contents)


def parse_idx(content: bytes, where: str) -> np.ndarray:
    """Reads an array of the format.

    Example:
      >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "labels-idx1-ubyte")
      array([7, 9], dtype=uint8)

    Raises:
      DataError: If the content does not begin as it must, or has another length than
        it announces.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        types = ", ".join(f"{code:02x}" for code in _TYPES)
        raise DataError(
            f"{where}: begins with {content[:4].hex(' ') or 'nothing'}; allowed: 00 "
            f"00, a type ({types}), the number of axes"
        )
    num_axes, dtype = content[3], np.dtype(_TYPES[content[2]])
    start = 4 + 4 * num_axes
    if not 1 <= num_axes <= 4 or len(content) < start:
        raise DataError(
            f"{where}: {num_axes} axes in {len(content)} bytes; allowed: 1..4"
        )
    shape = struct.unpack(f">{num_axes}I", content[4:start])
    announced = math.prod(shape) * dtype.itemsize
    if len(content) - start != announced:
        raise DataError(
            f"{where}: {' x '.join(map(str, shape))} numbers announced, "
            f"{announced:,} bytes, but {len(content) - start:,} found; allowed: as many"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _load_alone(
    path: Path, options: ArrayOptions, transpose: str, reading: Reading
) -> ImageDataset:
    """Loads one file of images under a name that says nothing."""
    with open_tree(path) as tree:
        images = _read(path.parent, tree.files[0])
    if images.ndim < 3:
        raise DataError(f"{path}: an array of {images.ndim} axes; allowed: images")
    reading.find("images", path.name, len(images))
    swapped = transpose == "yes"
    stored = {"": StoredPart(_swap(images, swapped), str(path))}
    contents = ["rows and columns swapped back"] if swapped else []
    return join_arrays(path.name, stored, None, reading, options, contents)


def _choose_files(
    files: Sequence[TreeFile], prefix: str | None, reading: Reading, root: Path
) -> dict[str, dict[str, TreeFile]]:
    """Returns the file of images and of labels of each part."""
    found: dict[str, dict[str, TreeFile]] = {}
    for file in files:
        name = file.below.name.lower().removesuffix(".gz")
        match = _NAME.fullmatch(name)
        if match is None:
            if prefix is None and not name.endswith(_MAPPING):
                reading.leave_out("files of another name", file.name)
            continue
        if prefix is not None and _set_of(match[1]) != prefix:
            continue
        part, kind = _part_of(match[1]), f"{match[2].removesuffix('s')}s"
        own = found.setdefault(part, {})
        if kind not in own:
            own[kind] = file
            continue
        first = own[kind].below.name.lower().removesuffix(".gz")
        if first != name or file.below.suffix == own[kind].below.suffix:
            raise DataError(
                f"{root}: {own[kind].name} and {file.name} could both be the {kind} of "
                f"part {part or 'all'!r}; allowed: one of each, or data.path with the "
                "unpacked file of the images to take"
            )
        plain, packed = sorted((own[kind], file), key=lambda f: f.below.suffix == ".gz")
        own[kind] = plain
        reading.leave_out("compressed files that lie beside unpacked", packed.name)
    if not found:
        raise DataError(f"{root}: no idx files; allowed: {_ALLOWED}")
    return found


def _read_mapping(root: Path, file: TreeFile) -> tuple[str, ...] | None:
    """Reads the first letter of each class; None if they do not count from 0 or 1.

    Raises:
      DataError: If a line is none of numbers.
    """
    text = file.read().decode("ascii", "replace")
    letters: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        plain = all(
            word.isascii() and word.isdigit() and len(word) < 7 for word in words
        )
        if len(words) < 2 or not plain or not 32 < int(words[1]) < 0xD800:
            raise DataError(
                f"{root}: {file.name}, line {number}: {line[:40]!r}; allowed: the "
                "number of a class and the code of its letter"
            )
        letters[int(words[0])] = chr(int(words[1]))
    first = min(letters, default=2)
    if first > 1 or sorted(letters) != list(range(first, first + len(letters))):
        return None
    return tuple(letters[number] for number in sorted(letters))


def _part_of(before: str) -> str:
    """Returns the part that the beginning of a name says."""
    if "t10k" in before:
        return "test"
    return split_in(before) or ""


def _set_of(before: str) -> str:
    """Returns what a name says besides its part: "emnist-letters" or nothing."""
    words = re.split(r"[-._]+", before)
    return "-".join(w for w in words if w and w != "t10k" and split_in(w) is None)


def _is_emnist(names: Sequence[str]) -> bool:
    return any(name.lower().startswith("emnist") for name in names)


def _swap(images: np.ndarray, swapped: bool) -> np.ndarray:
    return np.swapaxes(images, 1, 2) if swapped and images.ndim >= 3 else images


def _read(root: Path, file: TreeFile) -> np.ndarray:
    return parse_idx(file.read_plain(), f"{root}: {file.name}")
