"""Chooses the training and the test part of images that come in parts.

A part is named `train`, `val`, `test`, or "" if nothing says which it is.

Example:
  >>> reading = Reading("pets", "images")
  >>> choose_parts({"train": 80, "val": 10, "test": 10}, reading)
  PartChoice(train='train', test='test', rule='train and test parts as given')
  >>> [str(tally) for tally in reading.left_out]
  ['10 of the val part, which is kept apart']
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import SPLITS
from ncgn_jax.faults import DataError
from ncgn_jax.images.sets import (
    ImageDataset,
    make_image_dataset,
    num_held_out,
    stratified_split,
)
from ncgn_jax.images.units import ImageUnits

# Rows that move at once.
_BLOCK = 1024


class PartChoice(NamedTuple):
    """The parts that are used.

    Attributes:
      train: Name of the training part.
      test: Name of the test part; None if some training images are held out.
      rule: Where the split comes from, in words.
    """

    train: str
    test: str | None
    rule: str


def choose_parts(sizes: Mapping[str, int], reading: Reading) -> PartChoice:
    """Chooses the parts to train on and to measure against.

    A validation part is the test part if there is no other, and else kept apart.

    Args:
      sizes: Images of each part, by its name: train, val, test, or "".
      reading: Takes what is left out.

    Raises:
      DataError: If there is no training part.
    """
    train = "train" if "train" in sizes else ""
    if train not in sizes or {"train", ""} <= sizes.keys():
        found = ", ".join(name or "a part of no such name" for name in sizes)
        raise DataError(
            f"{reading.origin}: found {found or 'no part'}; allowed: train, alone or "
            f"beside val and test; or parts of no name like {', '.join(SPLITS)}"
        )
    held_out = [name for name in ("test", "val") if name in sizes]
    if not held_out:
        return PartChoice(train, None, "")
    if len(held_out) == 2:
        reason = "of the val part, which is kept apart"
        reading.leave_out(reason, count=sizes["val"])
    called = train or "the other"
    if held_out[0] == "test":
        return PartChoice(train, "test", f"{called} and test parts as given")
    rule = f"{called} and val parts as given; no test part, so val is measured against"
    return PartChoice(train, "val", rule)


def join_parts(
    name: str,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str] | None,
    reading: Reading,
    rule: str,
    test_fraction: float,
    seed: int,
    units: ImageUnits,
    contents: Sequence[str],
) -> ImageDataset:
    """Makes a dataset of a training and a test part, or of one that is split here.

    Args:
      name: As of `make_image_dataset`, as are those that are not named here.
      parts: Images, [image, height, width, channel], and classes, of one or two parts.
      class_names: Name of each class.
      reading: What was counted.
      rule: Where two parts come from.
      test_fraction: Share of one part to hold out, see `hold_out`.
      seed: Seed of that split.
      units: Units of the images.
      contents: Sizes and preparation.

    Raises:
      DataError: As `make_image_dataset`, or if the share leaves a part empty.
    """
    if len(parts) == 1:
        [(images, labels)] = parts
        (train, test), (of_train, of_test), rule = hold_out(
            images, labels, test_fraction, seed, reading.origin
        )
    else:
        (train, of_train), (test, of_test) = parts
    return make_image_dataset(
        name,
        train,
        test,
        of_train,
        of_test,
        class_names,
        reading,
        rule,
        units,
        contents,
    )


def hold_out(
    images: np.ndarray, labels: np.ndarray, test_fraction: float, seed: int, where: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], str]:
    """Holds out some images of each class at random, as `stratified_split`.

    Args:
      images: [image, ...]; writable ones are used up, so that they are not held twice.
      labels: Class of each image, int [image].
      test_fraction: Share to hold out.
      seed: Seed of the split.
      where: File or folder, for the message.

    Returns:
      Training images and test images, each in their order here, and the labels of
      both; and the rule.
    """
    num_test = num_held_out(len(images), test_fraction)
    train, test = stratified_split(labels, num_test, seed, where)
    parts = labels[train], labels[test]
    rule = f"at random, split seed {seed}"
    tested = images[test]
    if not images.flags.writeable:
        return (images[train], tested), parts, rule
    for start in range(0, len(train), _BLOCK):
        # train[i] >= i, so no row is overwritten before it has moved.
        rows = slice(start, start + _BLOCK)
        images[: len(train)][rows] = images[train[rows]]
    return (images[: len(train)], tested), parts, rule
