"""Loads images that come as arrays: the embedded digits, `.npz`, `.npy`, `.mat`.

Arrays are found by their names, in upper or lower case:
  images: `train_images`, `x_train`, `images_train` or `train`; the same for `test` and
    `val`, which may be absent; `images`, `x`, `data` or `arr_0` without a split.
  classes (may be absent): `train_labels`, `y_train`, `labels_train`; the same for
    `test` and `val`; `labels`, `y` or `targets` without a split.
  names of the classes (may be absent): `classes`, `class_names` or `label_names`.
A folder, or an archive, of such files is read as one set: files are named as the arrays
above (`x_train.npy`), or as the parts (`train.npz`). See `array_parts` for shapes and
values, and `labels` for the forms of classes.

>>> import numpy as np
>>> digits = load_digits()
>>> digits.train.shape, digits.test.shape, digits.train.dtype
((1497, 8, 8, 1), (300, 8, 8, 1), dtype('uint8'))
>>> images, labels = digits.take(np.array([0, 5, 5]))
>>> images.shape, float(images.min()), float(images.max())
((3, 8, 8, 1), -1.0, 1.0)
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ncgn_jax.data.archives import (
    is_archive,
    plain_name,
    read_plain_or_gzip,
)
from ncgn_jax.data.array_files import open_npy, parse_npy, parse_npz, read_npz
from ncgn_jax.data.file_trees import TreeFile, open_tree
from ncgn_jax.data.labels import RawLabels, clean_names
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_in
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_names import find_roles, is_of_images
from ncgn_jax.images.array_parts import (
    CHANNELS,
    USUAL,
    ArrayOptions,
    StoredPart,
    join_arrays,
)
from ncgn_jax.images.matlab_files import read_matlab
from ncgn_jax.images.sets import ImageDataset, make_image_dataset, stratified_split
from ncgn_jax.images.units import ImageUnits

DIGITS_FILE = Path(__file__).parent / "embedded" / "digits.npz"
ARRAY_ENDINGS = (".npz", ".npy", ".npy.gz", ".mat")
_MAX_NAMED = 10


def load_digits() -> ImageDataset:
    """Loads the 1,797 handwritten digits of 8 x 8 pixels that come with this package.

    They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin
    and C. Kaynak, UCI Machine Learning Repository, 1998; CC BY 4.0), as distributed
    with scikit-learn. A pixel, 0..16, counts the inked ones of 4 x 4 finer pixels.

    Returns:
      1,497 training and 300 test images, with each class in proportion.
    """
    arrays = read_npz(DIGITS_FILE, ("images", "labels"))
    images, labels = arrays["images"][..., None], arrays["labels"]
    train, test = stratified_split(labels, 300, seed=0)
    reading = Reading(
        "come with the package (E. Alpaydin and C. Kaynak, Optical Recognition of "
        "Handwritten Digits, UCI 1998, CC BY 4.0, as in scikit-learn)",
        "images",
    )
    return make_image_dataset(
        "digits",
        images[train],
        images[test],
        labels[train],
        labels[test],
        None,
        reading,
        "at random, split seed 0",
        ImageUnits(8.0, 8.0),
        ("black 0, white 16",),
    )


def load_arrays(
    path: str | os.PathLike[str],
    options: ArrayOptions = USUAL,
    image_key: str | None = None,
    label_key: str | None = None,
) -> ImageDataset:
    """Loads the images of arrays that are named as the module describes.

    Args:
      path: An .npz, .npy, .npy.gz or .mat file, or a folder or archive of these.
      options: How images are taken.
      image_key: Name of the array of images; None for the usual names.
      label_key: Name of the array of classes; None for the usual names.

    Raises:
      DataError: If a file is not readable, if an array is absent or several could be
        one thing, or if `join_arrays` refuses them.
    """
    path = Path(path)
    options.check()
    reading = Reading(path, "images")
    arrays = _read_arrays(path, reading)
    roles = find_roles(str(path), arrays, image_key, label_key)
    for note in roles.notes:
        reading.say(note)
    parts = {}
    for part, key in roles.images.items():
        labels, of_part = None, roles.labels.get(part)
        if of_part is not None:
            labels = RawLabels(arrays[of_part], f"{path}, array {of_part!r}")
        parts[part] = StoredPart(arrays[key], f"{path}, array {key!r}", labels)
        reading.find(f"images in array {key!r}", count=len(arrays[key]))
    class_names = None
    if roles.class_names is not None:
        where = f"{path}, array {roles.class_names!r}"
        class_names = clean_names(arrays[roles.class_names], where)
    for key in roles.unused[:_MAX_NAMED]:
        shape = "x".join(map(str, arrays[key].shape)) or "a number"
        reading.leave_out(f"array {key!r} ({shape}), whose name says nothing known")
    reading.leave_out("more arrays", count=max(0, len(roles.unused) - _MAX_NAMED))
    name = plain_name(path).stem if path.is_file() else path.resolve().name
    return join_arrays(name, parts, class_names, reading, options)


def is_array_file(name: str | os.PathLike[str]) -> bool:
    """Tells whether a name is that of a file of arrays."""
    return str(name).lower().endswith(ARRAY_ENDINGS)


def _read_arrays(path: Path, reading: Reading) -> dict[str, np.ndarray]:
    """Reads all arrays of a file, or of the files of a folder or an archive."""
    if path.is_file() and not is_archive(path):
        return _read_one(path)
    arrays: dict[str, np.ndarray] = {}
    with open_tree(path) as tree:
        tree.count_hidden(reading)
        with_parts = any(split_in(f.stem) for f in tree.files if is_array_file(f.name))
        for file in sorted(tree.files, key=lambda file: file.place):
            if not is_array_file(file.name):
                ending = file.below.suffix.lower() or "files without an ending"
                reading.leave_out(f"{ending}, no arrays", file.name)
                continue
            for name, array in _read_member(path, file, with_parts).items():
                if name in arrays:
                    raise DataError(
                        f"{path}: array {name!r} in several files, {file.name} among "
                        "them; allowed: each name once"
                    )
                arrays[name] = array
            reading.find(file.below.suffix.lower(), file.name)
    if not arrays:
        raise DataError(
            f"{path}: no files of arrays; allowed: {', '.join(ARRAY_ENDINGS)}"
        )
    return arrays


def _read_one(path: Path) -> dict[str, np.ndarray]:
    name = path.name.lower()
    if name.endswith(".npy"):
        return {"images": open_npy(path)}
    if name.endswith(".npy.gz"):
        return {"images": parse_npy(read_plain_or_gzip(path), str(path))}
    if name.endswith(".mat"):
        if not path.is_file():
            raise DataError(f"{path}: no such file; allowed: a file of arrays")
        return _parse_mat(read_plain_or_gzip(path), str(path))
    return read_npz(path)


def _read_member(root: Path, file: TreeFile, with_parts: bool) -> dict[str, np.ndarray]:
    """Reads the arrays of one of several files, with names that tell parts apart.

    Args:
      root: What it lies in.
      file: The file.
      with_parts: Whether the name of some file is that of a part.
    """
    where = f"{root}: {file.name}"
    if file.ending == ".npy":
        return {file.stem: parse_npy(file.read_plain(), where)}
    if file.ending == ".mat":
        found = _parse_mat(file.read(), where)
    elif file.path is not None:
        found = read_npz(file.path)
    else:
        found = parse_npz(file.read(), where)
    part = split_in(file.stem)
    if part is None and with_parts and not split_in("_".join(found)):
        # Such as extra_32x32.mat of SVHN, whose images are of no part.
        apart = {key for key in found if is_of_images(key)}
        return {f"{file.stem}: {k}" if k in apart else k: a for k, a in found.items()}
    return {f"{part}_{key}" if part else key: array for key, array in found.items()}


def _parse_mat(content: bytes, where: str) -> dict[str, np.ndarray]:
    """Reads the variables of a MATLAB file, images along the first axis."""
    arrays = read_matlab(content, where)
    if not arrays:
        raise DataError(f"{where}: no variable that is an array of numbers")
    return _images_first(arrays)


def _images_first(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Moves the last axis to the front where it counts images, as in SVHN's files."""
    flat = {name: a.reshape(-1) for name, a in arrays.items() if a.size == max(a.shape)}
    sizes = {len(a) for a in flat.values()}
    found = dict(arrays)
    for name, array in arrays.items():
        if name in flat:
            # A vector is a row or a column there.
            found[name] = flat[name]
        elif (
            (
                array.ndim == 4
                and array.shape[2] in CHANNELS
                and not set(array.shape[1::2]) & set(CHANNELS)
            )
            or array.ndim == 3
            and array.shape[2] in sizes - {array.shape[0]}
        ):
            found[name] = np.moveaxis(array, -1, 0)
    return found
