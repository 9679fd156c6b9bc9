"""Joins images that come as arrays, and their classes, to a data set.

Images are [image, height, width], with 1 or 3 channels as the last or the second axis
if any. Black is 0. White is 1 for floats up to 1, for truth values and for whole
numbers that are 0 and 1 alone, and 255 if a pixel reaches 128. Any other range must be
named: `value_range=(0, 16)` for scikit-learn's digits.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.labels import RawLabels
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError
from ncgn_jax.images.labels import read_labels
from ncgn_jax.images.sets import (
    ImageDataset,
    find_channel_axis,
    num_held_out,
)
from ncgn_jax.images.splitting import choose_parts, join_parts
from ncgn_jax.images.units import ImageUnits

CHANNELS = (1, 3)
_VALUES = (
    "whole numbers or floats 0..255 with some of at least 128, floats 0..1, or "
    "data.value_range=(black, white)"
)
_LEAST_WHITE = 128


class StoredPart(NamedTuple):
    """Images as a file holds them.

    Attributes:
      images: [image, height, width], or with channels as axis 1 or 3.
      where: File and array, for messages.
      labels: Classes, None without.
    """

    images: np.ndarray
    where: str
    labels: RawLabels | None = None


class ArrayOptions(NamedTuple):
    """Says how images that come as arrays are taken.

    Attributes:
      test_fraction: Share of each class held out if there are no test images.
      seed: Seed of that split.
      pad_to: Height and width after padding with black on all sides; None leaves the
        images as they are.
      channel_axis: "last", "first", or "auto" for the axis of length 1 or 3.
      value_range: Values of black and white; () for the ranges of the module.
    """

    test_fraction: float = 0.1
    seed: int = 0
    pad_to: int | None = None
    channel_axis: str = "auto"
    value_range: tuple[float, float] | tuple[()] = ()

    def check(self) -> None:
        """Refuses a wrong share before anything is read."""
        num_held_out(1, self.test_fraction)


USUAL = ArrayOptions()


def join_arrays(
    name: str,
    parts: Mapping[str, StoredPart],
    class_names: Sequence[str] | None,
    reading: Reading,
    options: ArrayOptions,
    contents: Sequence[str] = (),
) -> ImageDataset:
    """Joins the parts of a data set.

    Args:
      name: Name of the data set.
      parts: Images by the name of their part: train, val, test, or "".
      class_names: Names of the classes in the order of their numbers; None if the data
        hold none.
      reading: What was found so far.
      options: How images are taken.
      contents: What is known of the preparation, a phrase each.

    Returns:
      The dataset: pixels uint8 if bytes hold them, else float32.

    Raises:
      DataError: If shapes or values are not usable, or if labels do not fit.
    """
    choice = choose_parts({key: len(p.images) for key, p in parts.items()}, reading)
    used = [parts[choice.train]]
    used += [parts[choice.test]] if choice.test is not None else []
    images = [
        _to_four_axes(part.images, options.channel_axis, part.where) for part in used
    ]
    images, black, white = _find_range(
        images, [p.where for p in used], options.value_range, reading
    )
    contents = [*contents, f"black {black:g}, white {white:g}"]
    if options.pad_to is not None:
        height, width = images[0].shape[1:3]
        contents.append(f"{height}x{width} padded to {options.pad_to}x{options.pad_to}")
    images = [
        _store(own, options.pad_to, part.where, black)
        for own, part in zip(images, used, strict=True)
    ]
    raw = _raw_labels(used)
    if raw:
        labels, class_names = read_labels(raw, class_names, reading)
    else:
        labels = [np.zeros(len(own), np.int32) for own in images]
        class_names = class_names or ("image",)
    return join_parts(
        name,
        list(zip(images, labels, strict=True)),
        class_names,
        reading,
        choice.rule,
        options.test_fraction,
        options.seed,
        ImageUnits((black + white) / 2, (white - black) / 2),
        contents,
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


def _raw_labels(used: Sequence[StoredPart]) -> list[RawLabels]:
    """Returns the classes of all parts, none if none has any; checks their number."""
    found = [part.labels for part in used if part.labels is not None]
    if found and len(found) < len(used):
        lacks = next(part.where for part in used if part.labels is None)
        raise DataError(
            f"{found[0].where}: classes of one part, but none for {lacks}; allowed: "
            "classes of both parts, or of none"
        )
    for part in used:
        if part.labels is None:
            continue
        values = part.labels.values
        if values.ndim == 0 or len(values) != len(part.images):
            raise DataError(
                f"{part.labels.where}: shape {values.shape} for {len(part.images)} "
                f"images ({part.where}); allowed: one class for each image"
            )
    return found


def _to_four_axes(images: np.ndarray, channel_axis: str, where: str) -> np.ndarray:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{where}: shape {images.shape}; allowed: [image, height, width], and an "
            "axis of channels, none of them 0" + _shape_hint(images.shape)
        )
    if images.ndim == 3 and images.shape[2] in (3, 4):
        size = "x".join(map(str, images.shape[:2]))
        raise DataError(
            f"{where}: shape {images.shape}, which looks like one picture of {size} in "
            "colour; allowed: [image, height, width] or [image, height, width, channel]"
        )
    if images.ndim == 3:
        return images[..., None]
    axis = find_channel_axis(images.shape, channel_axis, where, CHANNELS)
    return np.moveaxis(images, axis, -1)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) != 2 or shape[1] < 16:
        return ""
    for channels in CHANNELS:
        side = round((shape[1] / channels) ** 0.5)
        if side * side * channels == shape[1]:
            many = f"{side}x{side}" + "x3" * (channels == 3)
            return (
                f"; rows of {shape[1]} numbers may be images of {many}: save them in "
                "that shape"
            )
    return ""


def _find_range(
    parts: Sequence[np.ndarray],
    places: Sequence[str],
    value_range: tuple[float, float] | tuple[()],
    reading: Reading,
) -> tuple[list[np.ndarray], float, float]:
    """Checks the pixels of all parts; returns them and the values of black and white.

    Truth values become bytes.
    """
    is_truth = all(images.dtype.kind == "b" for images in parts)
    if is_truth:
        reading.say(f"{places[0]}: pixels are truth values; False is black")
        parts = [images.astype(np.uint8) for images in parts]
    black, white = value_range or (0.0, 255.0)
    allowed = f"data.value_range={value_range}" if value_range else _VALUES
    lowest, highest = black, black
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
        lowest, highest = min(lowest, low), max(highest, high)
        if low < black or high > white:
            hint = "" if value_range else _propose(lowest, highest)
            raise DataError(f"{where}: {low:g}..{high:g}; allowed: {allowed}{hint}")
    is_float = [images.dtype.kind == "f" for images in parts]
    if len(set(is_float)) > 1:
        raise DataError(
            f"{places[0]}: {parts[0].dtype}, but {parts[1].dtype} in {places[1]}; "
            "allowed: both whole numbers or both floats"
        )
    if value_range:
        return list(parts), float(black), float(white)
    if highest == 1 and not is_float[0]:
        if not is_truth:
            reading.say(f"{places[0]}: pixels are 0 and 1 alone, so 1 is white")
        return list(parts), 0.0, 1.0
    if is_float[0] and highest <= 1:
        return list(parts), 0.0, 1.0
    # Images would be nearly black, so the range is probably another, such as 0..16.
    if highest < _LEAST_WHITE:
        hint = _propose(lowest, highest)
        raise DataError(f"{places[0]}: 0..{highest:g}; allowed: {_VALUES}{hint}")
    return list(parts), black, white


def _propose(low: float, high: float) -> str:
    """Proposes the range that such values have most often."""
    for black, white in ((0, 16), (-1, 1), (0, 4095), (0, 65535), (-128, 127)):
        if black <= low and (white + black) / 2 < high <= white:
            return f"; if black is {black} and white {white}, ({black}, {white})"
    return ""


def _store(
    images: np.ndarray, pad_to: int | None, where: str, black: float
) -> np.ndarray:
    is_byte = images.dtype.kind != "f" and 0 <= images.min() <= images.max() <= 255
    # If bytes cannot hold black, all parts become floats.
    is_byte = is_byte and float(black).is_integer() and 0 <= black <= 255
    images = np.ascontiguousarray(images, np.uint8 if is_byte else np.float32)
    return images if pad_to is None else pad_images(images, pad_to, where, black)
