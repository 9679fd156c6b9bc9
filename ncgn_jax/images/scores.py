"""Measures generated images, and the anchors to read them beside.

Inception's weights do not come with this package, and it knows no digits. So features
are those of a small classifier trained here, on the training images alone and with a
seed of its own: it depends on the data and on nothing in a run, and all sample sets
and runs on the same data are seen by the same eyes. Names of such measures end in
"-clf"; a bare FID is printed only with Inception's own features.

Where images have no classes, the classifier learns how far an image was turned
(Gidaris et al. 2018, arXiv 1803.07728), and the measures that need classes are absent.

Example:
  >>> import numpy as np
  >>> images = np.random.default_rng(0).uniform(-1, 1, (60, 4, 4, 1)).astype(np.float32)
  >>> labels = np.arange(60) % 2
  >>> data = images[:30], labels[:30], images[30:], labels[30:]
  >>> scorer = ImageScorer(*data, num_classes=2, num_steps=2)
  >>> list(scorer.rows({"model": (images[:20], labels[:20])}, max_images=20))
  ['model', 'noise', 'train', 'held_out']
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ncgn_jax.data.batches import split_reference
from ncgn_jax.faults import DataError
from ncgn_jax.images.classifier import (
    ROTATIONS,
    Params,
    TurnedImages,
    Views,
    extract_features,
    train_classifier,
)
from ncgn_jax.images.features import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from ncgn_jax.images.inception import InceptionFeatures
from ncgn_jax.images.pixels import (
    NearestImages,
    class_accuracy,
    memorisation,
    nearest_training_distance,
    sliced_wasserstein_patches,
    sliced_wasserstein_pixels,
)
from ncgn_jax.images.sets import Rows, check_finite
from ncgn_jax.metrics.table import Column, Row

FEATURE_COLUMNS = (
    Column(
        "fd_clf",
        "FD-clf",
        1,
        3,
        "Frechet distance to the test images, features of a small classifier scaled "
        "to mean square 1, summed over 64; lower; not comparable with FID",
    ),
    Column(
        "kd_clf",
        "KD-clf e-3",
        1000,
        2,
        "squared MMD, cubic kernel, same features, unbiased, x 1000; 0",
    ),
    Column("precision", "precision", 1, 3, "samples among real images, k = 3; higher"),
    Column("recall", "recall", 1, 3, "real images among samples, k = 3; higher"),
    Column("density", "density", 1, 3, "real balls around a sample / 5, k = 5; 1"),
    Column("coverage", "coverage", 1, 3, "real balls with a sample, k = 5; 0.97"),
)
CLASS_COLUMNS = (
    Column("class_accuracy", "class %", 100, 1, "seen as the class asked for, %"),
    Column("is_clf", "IS-clf", 1, 2, "Inception score of the classifier, one split"),
)
PIXEL_COLUMNS = (
    Column("swd_pixels", "SWD pixels e-2", 100, 2, "sliced W2 per pixel, x 100; lower"),
    Column(
        "swd_patches",
        "SWD patches e-2",
        100,
        2,
        "sliced W2 of 7x7 patches of the Laplacian pyramid, each level's channels at "
        "variance 1, x 100; lower",
    ),
    Column(
        "nn_ratio",
        "NN ratio",
        1,
        3,
        "median distance to the nearest training image over that of test images; 1, "
        "copies have 0",
    ),
)
INCEPTION_COLUMNS = (
    Column("fid", "FID", 1, 2, "Frechet distance to the test images, Inception; lower"),
    Column("inception_score", "IS", 1, 2, "Inception score, one split; higher"),
)

# k of precision and recall, and of density and coverage, as published.
_PRECISION_K, _DENSITY_K = 3, 5
_BATCH = 128
_LEAST_TEST = 4
# Training images that the scale of features is measured on.
_MOST_FOR_SCALE = 10_000


class _Measured(NamedTuple):
    """Holds images and what every measure needs of them, a row each."""

    images: np.ndarray
    labels: np.ndarray | None
    views: Views
    distances: np.ndarray
    inception: Any

    def take(self, rows: np.ndarray) -> "_Measured":
        return jax.tree.map(lambda leaf: leaf[rows], self)


class ImageScorer:
    """Measures sets of images against the images of a data set.

    Attributes:
      columns: What tables show, in order.
      lacks_classes: Whether too few test images are of the classes asked for, so that
        all are taken.
    """

    columns: tuple[Column, ...]
    lacks_classes: bool

    def __init__(
        self,
        train_images: Rows,
        train_labels: np.ndarray,
        test_images: Rows,
        test_labels: np.ndarray,
        num_classes: int,
        num_steps: int = 400,
        seed: int = 0,
        inception: str | Path | None = None,
        limit: float | None = None,
        max_nearest: int = 0,
        classes: Sequence[int] = (),
    ):
        """Prepares the measures; the classifier is trained when first needed.

        Args:
          train_images: float32 [image, height, width, channel], in the units of
            training; rows are read as they are needed.
          train_labels: Classes, int [image].
          test_images: As `train_images`, at least 4.
          test_labels: As `train_labels`.
          num_classes: Number of classes; 1 for images without classes.
          num_steps: Training steps of the classifier, 128 images each.
          seed: Seed of the classifier, of anchors and of subsets. Numbers of other
            seeds are not comparable.
          inception: Inception's weights, for FID; None for none.
          limit: Largest value that images have; noise is clipped to it as samples are.
            None for values without bounds.
          max_nearest: Training images among which the nearest one is looked for,
            spread evenly; 0 for all.
          classes: Classes that samples were asked to be of: the test images, and
            those of the anchors, are of these alone; () for all. All are taken where
            fewer than 4 test images are of these classes.

        Raises:
          DataError: If there are too few test images, or Inception's weights cannot
            be used.
        """
        if len(test_images) < _LEAST_TEST:
            raise DataError(f"{len(test_images)} test images; allowed: at least 4")
        self._train = train_images, train_labels
        self._test = test_images, test_labels
        self._of_train = _rows_of(train_labels, classes)
        self._of_test = _rows_of(test_labels, classes)
        self._classes = tuple(sorted(set(classes)))
        self.lacks_classes = len(self._of_test) < _LEAST_TEST
        if self.lacks_classes:
            self._of_train, self._of_test = (
                _rows_of(train_labels, ()),
                _rows_of(test_labels, ()),
            )
        many = len(train_images)
        num_nearest = min(many, max_nearest or many)
        self._nearest_rows = np.linspace(0, many - 1, num_nearest).astype(int)
        self._num_classes, self._num_steps, self._seed = num_classes, num_steps, seed
        self._limit = limit
        self._inception = None if inception is None else InceptionFeatures(inception)
        self.columns = (
            *FEATURE_COLUMNS,
            *(CLASS_COLUMNS if self._has_classes else ()),
            *PIXEL_COLUMNS,
            *(() if inception is None else INCEPTION_COLUMNS),
        )

    def rows(
        self,
        samples: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
        max_images: int,
    ) -> dict[str, Row]:
        """Measures sets of images, and those to read them beside.

        All sets are compared with the same test images, at most `max_images` drawn at
        random. The anchors are `noise`, normal noise of the units of training, what an
        untrained sampler returns; `train`, random training images, the floor, though
        the classifier knows them and their nearest training image is themselves; and
        `held_out`, one half of these test images against the other, to be compared
        with rows of that size.

        Args:
          samples: Images [image, height, width, channel] in the units of training and
            the classes they were asked to be of, by name of the set; None in the place
            of classes if none were asked for.
          max_images: Most images of a set; the first of a larger one.

        Returns:
          A row for each set and anchor. Besides what `columns` show, rows
          hold `nn_share_near` (see `images.pixels.Memorisation`) and the sizes. What
          needs more images than a set has is absent.

        Raises:
          DataError: If a set has fewer than 2 images or a number that is not finite,
            or max_images is below 4.
        """
        sizes = {name: min(len(own), max_images) for name, (own, _) in samples.items()}
        if max_images < 4 or min(sizes.values(), default=0) < 2:
            raise DataError(
                f"max_images={max_images}, images in a set: {sizes}; allowed: at least "
                "4, and sets of at least 2"
            )
        for name, (images, _) in samples.items():
            check_finite(images[:max_images], f"samples {name!r}")
        reference = self._measure(
            *_draw(*self._test, self._of_test, max_images, self._seed)
        )
        rows = {}
        for name, (images, labels) in samples.items():
            chosen = None if labels is None else np.asarray(labels)[:max_images]
            own = self._measure(np.asarray(images)[:max_images], chosen)
            rows[name] = self._row(own, reference)
        count = max(sizes.values())
        for name, (images, labels) in self._anchors(count).items():
            rows[name] = self._row(self._measure(images, labels), reference)
        half, other = split_reference(np.arange(len(reference.images)), self._seed)
        rows["held_out"] = self._row(
            reference.take(other[:count]), reference.take(half)
        )
        return rows

    @property
    def num_reference(self) -> int:
        """Test images that samples are compared with, before `max_images`."""
        return len(self._of_test)

    def describe_reference(self, class_names: Sequence[str]) -> str:
        """Describes the classes of the images that samples are compared with.

        Args:
          class_names: Names of all classes.
        """
        if not self._classes:
            return "test images of all classes"
        named = ", ".join(class_names[i] for i in self._classes)
        if self.lacks_classes:
            few = f"fewer than {_LEAST_TEST} are of {named}"
            return f"test images of ALL classes, as {few}"
        return f"test images of {named}"

    def describe_features(self) -> str:
        """Describes the features that measures see images by."""
        many = f"{self._num_classes} classes" if self._has_classes else "quarter turns"
        return f"classifier of {many}, {self._num_steps} steps, seed {self._seed}"

    def nearest(self, images: np.ndarray) -> NearestImages:
        """Finds the nearest of the training images that are looked at."""
        return nearest_training_distance(images, self._train[0], self._nearest_rows)

    @property
    def looked_at(self) -> str:
        """Among which training images the nearest one is looked for."""
        found, many = len(self._nearest_rows), len(self._train[0])
        return f"all {many}" if found == many else f"{found} of {many}"

    @property
    def _has_classes(self) -> bool:
        return self._num_classes > 1

    @functools.cached_property
    def _classifier(self) -> tuple[Params, float]:
        """Parameters, and the size of features over the training images."""
        images, labels = self._train
        num_classes = self._num_classes
        if not self._has_classes:
            images = TurnedImages(images, self._seed)
            labels, num_classes = images.turns, ROTATIONS
        params = train_classifier(
            images, labels, num_classes, self._num_steps, _BATCH, self._seed
        )
        every = np.arange(len(self._train[1]))
        shown, _ = _draw(*self._train, every, _MOST_FOR_SCALE, self._seed)
        features = extract_features(params, shown).features
        return params, float(np.sqrt(np.square(features).mean())) or 1.0

    def _anchors(self, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        images, labels = _draw(*self._train, self._of_train, count, self._seed)
        rng = np.random.default_rng([self._seed, 2])
        noise = rng.standard_normal((count, *images.shape[1:]), np.float32)
        if self._limit is not None:
            noise = np.clip(noise, -self._limit, self._limit)
        return {
            "noise": (noise, labels[np.arange(count) % len(labels)]),
            "train": (images, labels),
        }

    def _measure(self, images: np.ndarray, labels: np.ndarray | None) -> _Measured:
        params, spread = self._classifier
        views = extract_features(params, images)
        return _Measured(
            images=images,
            labels=labels,
            views=views._replace(features=views.features / spread),
            distances=self.nearest(images).distance,
            inception=self._inception and self._inception(images),
        )

    def _row(self, own: _Measured, reference: _Measured) -> Row:
        real, features = reference.views.features, own.views.features
        copied = memorisation(own.distances, reference.distances)
        row: Row = {
            "num_generated": len(own.images),
            "num_reference": len(reference.images),
            "fd_clf": frechet_distance(features, real),
            "kd_clf": kernel_distance(features, real, seed=self._seed),
            "swd_pixels": sliced_wasserstein_pixels(own.images, reference.images),
            "swd_patches": sliced_wasserstein_patches(own.images, reference.images),
            "nn_ratio": copied.ratio,
            "nn_share_near": copied.share_near,
        }
        if min(len(features), len(real)) > _PRECISION_K:
            row |= precision_recall(real, features, _PRECISION_K)._asdict()
        if len(real) > _DENSITY_K:
            row |= density_coverage(real, features, _DENSITY_K)._asdict()
        if self._has_classes:
            probabilities = own.views.probabilities
            row["is_clf"] = inception_score(probabilities)
            if own.labels is not None:
                row["class_accuracy"] = class_accuracy(
                    probabilities.argmax(axis=1), own.labels
                )
        if own.inception is not None:
            row["fid"] = frechet_distance(
                own.inception.features, reference.inception.features
            )
            row["inception_score"] = inception_score(own.inception.probabilities)
        return row


def _draw(
    images: Rows, labels: np.ndarray, among: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws images and their classes among rows, without replacement; all, if few."""
    rows = among[np.random.default_rng(seed).permutation(len(among))[:count]]
    return images[rows], labels[rows]


def _rows_of(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Returns the rows of some classes, of all if none is named."""
    if not classes:
        return np.arange(len(labels))
    return np.flatnonzero(np.isin(labels, np.asarray(classes)))
