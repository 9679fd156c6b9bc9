"""Describes a set of images, checks it and splits it.

Images are `[image, height, width, channel]`, pixels or the latents of an autoencoder.
They stay as they are stored; a batch is converted to the units of training by
`(stored - shift) / scale`, which is [-1, 1] for pixels. `dataset.train[rows]` reads
images from an array or from disk (`latent_shards.Shards`).

>>> import numpy as np
>>> images, labels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.arange(6) % 2
>>> train, test = stratified_split(labels, num_test=2, seed=0)
>>> parts = (images[train], images[test], labels[train], labels[test])
>>> reading, units = Reading("made up", "images"), ImageUnits(2.5, 2.5)
>>> dataset = make_image_dataset("dots", *parts, None, reading, "split seed 0", units)
>>> dataset.name, len(dataset.train), dataset.test_labels
('dots (1x1x1)', 4, array([0, 1], dtype=int32))
>>> pixels, classes = dataset.take(np.array([0, 3, 3]))
>>> pixels.shape, pixels.dtype, float(pixels.min())
((3, 1, 1, 1), dtype('float32'), -1.0)
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ncgn_jax.data.report import (
    DataReport,
    Reading,
    classes_by_split,
    row_digests,
)
from ncgn_jax.faults import DataError
from ncgn_jax.images.units import ImageUnits

CHANNEL_AXES = ("auto", "first", "last")


class Rows(Protocol):
    """An array of images, or an object that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the number of images and the shape of one."""

    @property
    def dtype(self) -> np.dtype:
        """Returns the type of the numbers."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Returns the images at a slice or an array of indices."""


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A training and a test set of images of one size.

    Attributes:
      name: Name in every table, e.g. "digits (8x8x1)".
      train: Training images as stored, [image, height, width, channel].
      test: Test images, as `train`.
      train_labels: Class of each training image, int32 [image].
      test_labels: Class of each test image, int32 [image].
      class_names: Name of each class.
      report: How they were read: found, used, left out.
      units: Units of the stored images.
    """

    name: str
    train: Rows
    test: Rows
    train_labels: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    report: DataReport
    units: ImageUnits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Returns height, width and channels."""
        height, width, channels = self.train.shape[1:]
        return int(height), int(width), int(channels)

    def take(
        self, rows: np.ndarray | slice, split: str = "train"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads images in the units of training, and their classes.

        Args:
          rows: Indices, [batch], or a slice.
          split: "train" or "test".

        Returns:
          Images, float32 [batch, height, width, channel], and labels, int32 [batch].

        Raises:
          DataError: If a row on disk is not usable.
        """
        images = {"train": self.train, "test": self.test}[split]
        labels = {"train": self.train_labels, "test": self.test_labels}[split]
        return self.units.to_training(images[rows]), labels[rows]

    def rows(self, split: str = "train") -> "TrainingRows":
        """Returns "train" or "test" images, converted when they are indexed."""
        return TrainingRows(self.units, {"train": self.train, "test": self.test}[split])


class TrainingRows:
    """Images in the units of training, read and converted when they are indexed.

    Attributes:
      shape: [image, height, width, channel].
      dtype: float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, units: ImageUnits, images: Rows):
        """Keeps the stored images and their units."""
        self._units, self._images = units, images
        self.shape = tuple(images.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Returns the images at a slice or an array of indices, float32.

        Raises:
          DataError: If a row on disk is not usable.
        """
        return self._units.to_training(self._images[rows])


def make_image_dataset(
    name: str,
    train: Rows,
    test: Rows,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str] | None,
    reading: Reading,
    split_rule: str,
    units: ImageUnits,
    contents: Sequence[str] = (),
) -> ImageDataset:
    """Checks images and labels and joins them into an `ImageDataset`.

    Args:
      name: Name for tables; the size of the images is added.
      train: Training images, [image, height, width, channel].
      test: Test images.
      train_labels: Class of each training image, [image] or [image, 1].
      test_labels: Class of each test image.
      class_names: Name of each class; None names them by their numbers.
      reading: What was counted so far; the report is made of it.
      split_rule: Where the split comes from.
      units: Units of the stored images.
      contents: Sizes and preparation, a phrase each.

    Returns:
      The dataset. Repetitions are counted among images in memory, not on disk.

    Raises:
      DataError: If a part is empty, sizes differ, labels are not whole numbers or do
        not fit the images or the class names, or a class has no training image.
    """
    for split, images in (("train", train), ("test", test)):
        if len(images.shape) != 4 or 0 in images.shape:
            raise DataError(
                f"{name}, {split}: shape {tuple(images.shape)}; allowed: "
                "[image, height, width, channel], none of them 0"
            )
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{name}: train images {_size(train)}, test images {_size(test)}; "
            "allowed: one size"
        )
    train_labels = check_labels(train_labels, len(train), f"{name}, train labels")
    test_labels = check_labels(test_labels, len(test), f"{name}, test labels")
    names = _name_classes(name, train_labels, test_labels, class_names)
    num_repeated = None
    if isinstance(train, np.ndarray) and isinstance(test, np.ndarray):
        of_train, of_test = row_digests(train), row_digests(test)
        num_repeated = len(train) + len(test) - len({*of_train, *of_test})
        if in_both := len({*of_train} & {*of_test}):
            reading.say(f"{in_both:,} different test images are training images too")
    report = reading.report(
        {"train": len(train), "test": len(test)},
        split_rule,
        classes=classes_by_split(names, train_labels, test_labels),
        contents=(_size(train), *contents),
        num_repeated=num_repeated,
    )
    return ImageDataset(
        name=f"{name} ({_size(train)})",
        train=train,
        test=test,
        train_labels=train_labels,
        test_labels=test_labels,
        class_names=names,
        report=report,
        units=units,
    )


def check_finite(images: np.ndarray, what: str) -> None:
    """Refuses generated images that are not finite.

    Args:
      images: [image, height, width, channel].
      what: Name of the images in the message.

    Raises:
      DataError: If one holds NaN or infinity.
    """
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{what}: {(~finite).sum()} of {len(images)} images hold NaN or infinity; "
            "training or the sampler has diverged: try a smaller train.learning_rate, "
            "more sample.num_steps, or sample.data_limit"
        )


def check_labels(labels: np.ndarray, num_images: int, where: str) -> np.ndarray:
    """Checks the classes of images and returns them as int32 [image].

    Args:
      labels: Classes, [image] or [image, 1].
      num_images: Number of images.
      where: File or field, for the message.

    Raises:
      DataError: If they are not whole numbers >= 0, one for each image.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: dtype {labels.dtype}; allowed: whole numbers (int or uint)"
        )
    if labels.shape not in ((num_images,), (num_images, 1)):
        raise DataError(
            f"{where}: shape {labels.shape} for {num_images} images; allowed: one "
            "number for each image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise DataError(f"{where}: {low}..{high}; allowed: 0..number of classes - 1")
    return labels.reshape(num_images).astype(np.int32)


def stratified_split(
    labels: np.ndarray, num_test: int, seed: int, where: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Splits images at random; each class is held out in proportion to its size.

    Shares are rounded by largest remainder, and every class keeps a training image.

    Args:
      labels: Class of each image, [image].
      num_test: Test images wanted; there are fewer only if the classes cannot spare
        that many.
      seed: Seed of the split.
      where: File or field, for the message.

    Returns:
      Indices of the training and of the test images, each in ascending order.

    Raises:
      DataError: If one part would be empty.
    """
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    available = int((counts - 1).sum())
    if num_test < 1 or available < 1:
        raise DataError(
            f"{where}: {len(labels)} images in {len(counts)} classes, of which "
            f"{max(num_test, 1)} should be held out; allowed: two or more of some "
            "class, so that every class keeps a training image"
        )
    share = min(num_test, available) * counts / len(labels)
    given = np.floor(share).astype(int)
    while given.sum() < min(num_test, available):
        given[np.argmax(np.where(given < counts - 1, share - given, -np.inf))] += 1
    rng = np.random.default_rng(seed)
    is_test = np.zeros(len(labels), bool)
    by_class = np.split(np.argsort(members, kind="stable"), np.cumsum(counts)[:-1])
    for rows, count in zip(by_class, given, strict=True):
        is_test[rng.permutation(rows)[:count]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def num_held_out(num_images: int, test_fraction: float) -> int:
    """Returns the number of images in a share, at least one.

    Raises:
      DataError: If the share is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction={test_fraction}; allowed: between 0 and 1")
    return max(1, round(test_fraction * num_images))


def find_channel_axis(
    shape: tuple[int, ...],
    channel_axis: str,
    where: str,
    channels: Sequence[int] = (),
) -> int:
    """Finds the axis of an array of images that holds the channels.

    Args:
      shape: Shape of the array: the images and three more axes.
      channel_axis: "first" (axis 1), "last" (axis 3), or "auto": the axis that has
        one of the allowed numbers of channels or, if any number is allowed, the one
        beside two equal axes.
      where: File or field, for the message.
      channels: Allowed numbers of channels; () for any.

    Returns:
      1 or 3.

    Raises:
      DataError: If both axes are possible, or neither, or the number is not allowed.
    """
    if channel_axis not in CHANNEL_AXES:
        raise DataError(
            f"data.channel_axis={channel_axis!r}; allowed: {', '.join(CHANNEL_AXES)}"
        )
    axes = {"first": 1, "last": 3}
    if channel_axis != "auto":
        axis = axes[channel_axis]
        if channels and shape[axis] not in channels:
            raise DataError(
                f"{where}: shape {shape}, {shape[axis]} channels with "
                f"data.channel_axis={channel_axis!r}; allowed: {_either(channels)}"
            )
        return axis
    if channels:
        fitting = [axis for axis in axes.values() if shape[axis] in channels]
    else:
        sides = {1: shape[2:], 3: shape[1:3]}
        fitting = [axis for axis, (one, other) in sides.items() if one == other]
    if len(fitting) != 1:
        rule = f"{_either(channels)} channels" if channels else "two equal sides"
        fault = "either axis could be" if fitting else "neither axis 1 nor 3 can be"
        raise DataError(
            f"{where}: shape {shape}, {fault} that of the channels; allowed: {rule}, "
            "or data.channel_axis='first' or 'last'"
        )
    return fitting[0]


def _either(channels: Sequence[int]) -> str:
    return " or ".join(map(str, channels))


def _size(images: Rows) -> str:
    return "x".join(map(str, images.shape[1:]))


def _name_classes(
    name: str,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str] | None,
) -> tuple[str, ...]:
    present = np.unique(train_labels)
    highest = int(max(present[-1], test_labels.max()))
    num_classes = highest + 1 if class_names is None else len(class_names)
    if highest >= num_classes:
        raise DataError(
            f"{name}: label {highest} for {num_classes} class names; allowed: "
            f"0..{num_classes - 1}"
        )
    if len(present) < num_classes:
        gap = int(np.setdiff1d(np.arange(len(present) + 1), present)[0])
        called = "" if class_names is None else f" ({class_names[gap]})"
        raise DataError(
            f"{name}: class {gap}{called} has no training image, {len(present)} of "
            f"{num_classes} classes have; allowed: labels 0..{num_classes - 1}, each "
            "with at least one"
        )
    given = range(num_classes) if class_names is None else class_names
    names = tuple(str(called) for called in given)
    called, times = collections.Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{name}: class name {called!r} {times} times; allowed: each name once"
        )
    return names
