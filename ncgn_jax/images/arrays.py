"""Loads small sets of pixels: the embedded digits, and `.npz` archives like MNIST.

An archive holds these arrays, named in upper or lower case:
  images: `train_images`, `x_train`, `images_train` or `train`; the same for `test`,
    which may be absent; `images`, `x`, `data` or `arr_0` without a split.
  classes (may be absent): `train_labels`, `y_train`, `labels_train`; the same for
    `test`; `labels`, `y` or `targets` without a split.
  names of the classes (may be absent): `classes` or `class_names`.
Images are [image, height, width], with 1 or 3 channels as the last or the second axis
if any. Black is 0. White is 1 for floats up to 1, and 255 if a pixel reaches 128. Any
other range must be named: `value_range=(0, 16)` for scikit-learn's digits.

>>> import numpy as np
>>> digits = load_digits()
>>> digits.train.shape, digits.test.shape, digits.train.dtype
((1497, 8, 8, 1), (300, 8, 8, 1), dtype('uint8'))
>>> images, labels = digits.take(np.array([0, 5, 5]))
>>> images.shape, float(images.min()), float(images.max())
((3, 8, 8, 1), -1.0, 1.0)
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.data.array_files import read_npz
from ncgn_jax.faults import DataError
from ncgn_jax.images.sets import (
    ImageDataset,
    check_labels,
    find_channel_axis,
    make_image_dataset,
    num_held_out,
    stratified_split,
)

DIGITS_FILE = Path(__file__).parent / "embedded" / "digits.npz"
CHANNELS = (1, 3)
_UNSPLIT_KEYS = ("images", "x", "data", "arr_0")
TRAIN_KEYS = ("train_images", "x_train", "images_train", "train", *_UNSPLIT_KEYS)
TEST_KEYS = ("test_images", "x_test", "images_test", "test")
_UNSPLIT_LABEL_KEYS = ("labels", "y", "targets")
TRAIN_LABEL_KEYS = ("train_labels", "y_train", "labels_train", *_UNSPLIT_LABEL_KEYS)
TEST_LABEL_KEYS = ("test_labels", "y_test", "labels_test")
CLASS_KEYS = ("classes", "class_names")
_VALUES = (
    "whole numbers or floats 0..255 with some of at least 128, floats 0..1, or "
    "data.value_range=(black, white)"
)
_LEAST_WHITE = 128


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
    return make_image_dataset(
        "digits",
        images[train],
        images[test],
        labels[train],
        labels[test],
        None,
        f"{len(images)} digits that come with the package (E. Alpaydin and C. Kaynak, "
        "Optical Recognition of Handwritten Digits, UCI 1998, CC BY 4.0, as in "
        f"scikit-learn); {len(train)} train and {len(test)} test, split seed 0",
        shift=8.0,
        scale=8.0,
    )


def load_arrays(
    path: str | os.PathLike[str],
    test_fraction: float = 0.1,
    seed: int = 0,
    pad_to: int | None = None,
    channel_axis: str = "auto",
    value_range: tuple[float, float] | tuple[()] = (),
) -> ImageDataset:
    """Loads the images of an `.npz` archive, laid out as the module describes.

    Args:
      path: The archive.
      test_fraction: Share of each class held out if there are no test images.
      seed: Seed of that split.
      pad_to: Height and width after padding with black on all sides, see `pad_images`;
        None leaves the images as they are.
      channel_axis: "last", "first", or "auto" for the axis of length 1 or 3.
      value_range: Values of black and white; () for the ranges of the module.

    Returns:
      The dataset: pixels uint8 if bytes hold them, else float32.

    Raises:
      DataError: If the archive is not readable, if an array is absent or has two
        names, if shapes or values are not usable, or if `make_image_dataset` refuses
        the labels.
    """
    path = Path(path)
    num_held_out(1, test_fraction)  # a wrong share is refused before reading
    arrays = read_npz(path)
    keys, label_keys = _choose_keys(path, arrays)
    places = [f"{path}, array {key!r}" for key in keys]
    images = [
        _to_four_axes(arrays[key], channel_axis, where)
        for key, where in zip(keys, places, strict=True)
    ]
    black, white = _find_range(images, places, value_range)
    images = [_store(part, pad_to, str(path), black) for part in images]
    labels = [np.zeros(len(part), np.int32) for part in images]
    if label_keys:
        labels = [
            check_labels(arrays[key], len(part), f"{path}, array {key!r}")
            for key, part in zip(label_keys, images, strict=True)
        ]
    how = "split of the file"
    if len(images) == 1:
        num_test = num_held_out(len(images[0]), test_fraction)
        rows = stratified_split(labels[0], num_test, seed, str(path))
        images = [images[0][part] for part in rows]
        labels = [labels[0][part] for part in rows]
        how = f"split seed {seed}"
    if pad_to is not None:
        how += f", padded to {pad_to}x{pad_to}"
    class_names: tuple[str, ...] | None = None if label_keys else ("image",)
    class_key = _find_key(path, arrays, CLASS_KEYS)
    if class_key is not None:
        named = arrays[class_key]
        if named.ndim != 1:
            raise DataError(
                f"{path}, array {class_key!r}: shape {named.shape}; allowed: [class]"
            )
        class_names = tuple(map(str, named))
    train, test = images
    train_labels, test_labels = labels
    return make_image_dataset(
        path.stem,
        train,
        test,
        train_labels,
        test_labels,
        class_names,
        f"{path}: {len(train)} train and {len(test)} test images, {how}",
        shift=(black + white) / 2,
        scale=(white - black) / 2,
    )


def pad_images(
    images: np.ndarray, size: int, where: str = "images", black: float = 0
) -> np.ndarray:
    """Pads images with black on all sides until they are square.

    Args:
      images: [image, height, width, channel].
      size: Height and width after padding.
      where: File or field, for the message.
      black: Value of the padding.

    Returns:
      [image, size, size, channel]; an odd row or column is added below or to the right.

    Raises:
      DataError: If the images are larger.
    """
    height, width = images.shape[1:3]
    if max(height, width) > size:
        raise DataError(
            f"{where}: images of {height}x{width} pixels, data.image_size={size}; "
            f"allowed: >= {max(height, width)}, or 0 to leave them as they are"
        )
    margins = [((size - side) // 2, (size - side + 1) // 2) for side in (height, width)]
    return np.pad(images, ((0, 0), *margins, (0, 0)), constant_values=black)


def _choose_keys(
    path: Path, arrays: dict[str, np.ndarray]
) -> tuple[list[str], list[str]]:
    """Returns the names of the training and test images, and of their labels."""
    train, test, train_labels, test_labels = (
        _find_key(path, arrays, names)
        for names in (TRAIN_KEYS, TEST_KEYS, TRAIN_LABEL_KEYS, TEST_LABEL_KEYS)
    )
    if train is None:
        raise DataError(
            f"{path}: no training images; found {', '.join(arrays)}; allowed: "
            + ", ".join(TRAIN_KEYS)
        )
    if test is None and test_labels is not None:
        raise DataError(
            f"{path}: array {test_labels!r} but no test images; allowed: "
            + ", ".join(TEST_KEYS)
        )
    if test is not None and (train_labels is None) != (test_labels is None):
        missing = TEST_LABEL_KEYS if test_labels is None else TRAIN_LABEL_KEYS
        raise DataError(
            f"{path}: array {train_labels or test_labels!r} but no labels of the other "
            f"part; allowed: {', '.join(missing)}, or no labels at all"
        )
    keys, label_keys = (train, test), (train_labels, test_labels)
    return [k for k in keys if k is not None], [k for k in label_keys if k is not None]


def _find_key(
    path: Path, arrays: dict[str, np.ndarray], names: Sequence[str]
) -> str | None:
    found = [key for key in arrays if key.lower() in names]
    if len(found) > 1:
        raise DataError(
            f"{path}: found arrays {', '.join(found)}; allowed: one of them"
        )
    return found[0] if found else None


def _to_four_axes(images: np.ndarray, channel_axis: str, where: str) -> np.ndarray:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{where}: shape {images.shape}; allowed: [image, height, width], and an "
            "axis of channels, none of them 0"
        )
    if images.ndim == 3:
        return images[..., None]
    axis = find_channel_axis(images.shape, channel_axis, where, CHANNELS)
    return np.moveaxis(images, axis, -1)


def _find_range(
    parts: Sequence[np.ndarray],
    places: Sequence[str],
    value_range: tuple[float, float] | tuple[()],
) -> tuple[float, float]:
    """Checks the pixels of all parts and returns the values of black and white."""
    black, white = value_range or (0.0, 255.0)
    allowed = f"data.value_range={value_range}" if value_range else _VALUES
    highest = black
    for images, where in zip(parts, places, strict=True):
        if images.dtype.kind not in "iuf":
            raise DataError(f"{where}: dtype {images.dtype}; allowed: {allowed}")
        low, high = float(images.min()), float(images.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            image = np.argwhere(~np.isfinite(images))[0]
            raise DataError(
                f"{where}: image {image[0]} has {images[tuple(image)]}; "
                f"allowed: {allowed}"
            )
        if low < black or high > white:
            raise DataError(f"{where}: {low:g}..{high:g}; allowed: {allowed}")
        highest = max(highest, high)
    is_float = [images.dtype.kind == "f" for images in parts]
    if len(set(is_float)) > 1:
        raise DataError(
            f"{places[0]}: {parts[0].dtype}, but {parts[1].dtype} in {places[1]}; "
            "allowed: both whole numbers or both floats"
        )
    if value_range:
        return float(black), float(white)
    if is_float[0] and highest <= 1:
        return 0.0, 1.0
    # Images would be nearly black, so the range is probably another, such as 0..16.
    if highest < _LEAST_WHITE:
        raise DataError(f"{places[0]}: 0..{highest:g}; allowed: {_VALUES}")
    return black, white


def _store(
    images: np.ndarray, pad_to: int | None, where: str, black: float
) -> np.ndarray:
    is_byte = images.dtype.kind != "f" and 0 <= images.min() <= images.max() <= 255
    # If bytes cannot hold black, all parts become floats.
    is_byte = is_byte and float(black).is_integer() and 0 <= black <= 255
    images = np.ascontiguousarray(images, np.uint8 if is_byte else np.float32)
    return images if pad_to is None else pad_images(images, pad_to, where, black)
