"""Generates the embedded set: shapes of sixteen kinds.

It replaces ModelNet where that is absent: z is upright, points are uniform by area on
the outside, the mean is at the origin and the largest coordinate is 1. Scores on one
set say nothing about scores on the other.

>>> points, labels, names = make_shapes(32, 100, seed=0)
>>> points.shape, labels.shape, len(names)
((32, 100, 3), (32,), 16)
"""

import os
from collections.abc import Sequence

import numpy as np

from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.data.report import DataReport, classes_by_split
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.sets import PointDataset, make_dataset, normalise_clouds
from ncgn_jax.point_clouds.shape_categories import BUILDERS, Draws
from ncgn_jax.point_clouds.solids import Solids

CATEGORIES = tuple(BUILDERS)
_VERSION = 1  # raise it when a builder changes, so that cached sets are made anew
_CHUNK = 64  # shapes sampled at once, so that the work fits the processor's cache


def make_shapes(
    num_shapes: int,
    num_points: int,
    seed: int,
    categories: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Generates shuffled shapes, the categories in equal numbers (up to one).

    Args:
      num_shapes: Shapes to make, >= 1.
      num_points: Points per shape, >= 2.
      seed: Seed of proportions and points, >= 0.
      categories: Kinds to make, from `CATEGORIES`; None for all.

    Returns:
      Points float32 [shape, point, 3] in [-1, 1], labels int32 [shape], and the
      class names.

    Raises:
      DataError: If a category is unknown, or shapes or points are too few.
    """
    names = _choose_categories(categories)
    if num_shapes < 1 or num_points < 2:
        raise DataError(
            f"num_shapes={num_shapes}, num_points={num_points}; allowed: >= 1, >= 2"
        )
    rng = np.random.default_rng([seed, 0])
    labels = rng.permutation(np.arange(num_shapes) % len(names)).astype(np.int32)
    points = np.empty((num_shapes, num_points, 3), np.float32)
    for label, name in enumerate(names):
        wanted = np.flatnonzero(labels == label)
        stream = np.random.default_rng([seed, 1, CATEGORIES.index(name)])
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            solids = Solids(len(chunk))
            BUILDERS[name](solids, Draws(len(chunk), stream))
            points[chunk] = solids.sample(num_points, stream)
    return normalise_clouds(points, "embedded shapes"), labels, names


def _choose_categories(categories: Sequence[str] | None) -> tuple[str, ...]:
    names = CATEGORIES if categories is None else tuple(sorted(set(categories)))
    if not names or not set(names) <= set(CATEGORIES):
        raise DataError(f"categories={list(names)}; allowed: {', '.join(CATEGORIES)}")
    return names


def load_embedded(
    num_train: int,
    num_test: int,
    num_points: int,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    categories: Sequence[str] | None = None,
) -> PointDataset:
    """Makes the embedded training and test sets, or loads them from the cache.

    The two come from different random streams, so that no shape is in both.

    Args:
      num_train: Training shapes.
      num_test: Test shapes.
      num_points: Points per shape.
      seed: Seed of the whole set.
      cache_dir: Folder that keeps the set as .npz; None to keep nothing.
      categories: Kinds to make; None for all.

    Returns:
      The dataset.

    Raises:
      DataError: As `make_shapes`.
    """
    names = _choose_categories(categories)  # refuses faults before the slow part
    settings = {
        "num_shapes": [num_train, num_test],
        "num_points": num_points,
        "seed": seed,
        "categories": names,
        "version": _VERSION,
    }

    def build() -> dict[str, np.ndarray]:
        train, train_labels, _ = make_shapes(num_train, num_points, 2 * seed, names)
        test, test_labels, _ = make_shapes(num_test, num_points, 2 * seed + 1, names)
        return {
            "train": train,
            "test": test,
            "train_labels": train_labels,
            "test_labels": test_labels,
        }

    arrays = cached_arrays(cache_dir, "embedded", settings, build)
    report = DataReport(
        origin=f"embedded generator, seed {seed}, not ModelNet",
        unit="clouds",
        splits={"train": num_train, "test": num_test},
        split_rule="from streams of their own",
        classes=classes_by_split(names, arrays["train_labels"], arrays["test_labels"]),
        contents=(
            f"{num_points} surface points of each",
            "each shape is centred and divided by its own largest coordinate",
        ),
    )
    return make_dataset(
        "embedded parametric shapes",
        arrays["train"],
        arrays["test"],
        arrays["train_labels"],
        arrays["test_labels"],
        names,
        report,
    )
