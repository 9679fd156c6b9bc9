"""Loads all point-cloud data sets, and finds real data if it is present.

>>> data = load_point_dataset("primitives", num_points=64, num_train=20, num_test=5)
>>> data.name, data.train.shape, data.test.shape
('spheres, tori and boxes', (20, 64, 3), (5, 64, 3))
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.modelnet import load_modelnet
from ncgn_jax.point_clouds.primitives import CLASS_NAMES, make_primitives
from ncgn_jax.point_clouds.sets import PointDataset, make_dataset
from ncgn_jax.point_clouds.shapes import load_embedded

SOURCES = ("auto", "modelnet", "files", "embedded", "primitives")
DATA_VARIABLE = "NCGN_DATA"
_USUAL_NAMES = ("ModelNet40", "ModelNet40.zip", "ModelNet10", "ModelNet10.zip")


def load_point_dataset(
    source: str = "auto",
    path: str | os.PathLike[str] | None = None,
    num_points: int = 400,
    *,
    sampling: str = "vertices",
    categories: Sequence[str] | None = None,
    num_train: int = 4000,
    num_test: int = 400,
    test_fraction: float = 0.1,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> PointDataset:
    """Loads the point clouds of a source.

    "auto" takes `path` if given, else the place that the environment variable
    NCGN_DATA names, else ModelNet40 or ModelNet10 (folder or .zip) in ./data, else the
    embedded set. A path that was named but does not exist is an error.

    Args:
      source: One of `SOURCES`.
      path: Zip, folder or file for "auto", "modelnet" and "files".
      num_points: Points per cloud of a model and of the test set.
      sampling: "vertices" or "surface", for ModelNet.
      categories: Categories of ModelNet or of the embedded set; None for all.
      num_train: Training clouds of generated sets.
      num_test: Test clouds of generated sets.
      test_fraction: Share held out of files that name no split.
      seed: Seed of every draw.
      cache_dir: Folder for prepared sets; None to keep nothing.

    Returns:
      The dataset, described by its `name` and `source`.

    Raises:
      DataError: If the source is unknown, or if its loader refuses the data.
    """
    if source not in SOURCES:
        raise DataError(f"data.source={source!r}; allowed: {', '.join(SOURCES)}")
    if num_points < 2:
        raise DataError(f"num_points={num_points}; allowed: >= 2")
    if source == "primitives":
        return _load_primitives(num_train, num_test, num_points, seed)
    if source == "embedded":
        return load_embedded(
            num_train, num_test, num_points, seed, cache_dir, categories
        )
    found = find_data(path)
    if found is None and source == "auto":
        return load_embedded(
            num_train, num_test, num_points, seed, cache_dir, categories
        )
    if found is None:
        raise DataError(
            f"data.source={source!r} needs data.path, {DATA_VARIABLE} or one of "
            f"{', '.join(_USUAL_NAMES)} in ./data"
        )
    if source == "modelnet" or (source == "auto" and is_modelnet(found)):
        return load_modelnet(found, num_points, sampling, categories, seed, cache_dir)
    return load_point_files(found, num_points, test_fraction, seed)


def find_data(path: str | os.PathLike[str] | None) -> Path | None:
    """Finds data at `path`, else at NCGN_DATA, else under the usual names in ./data.

    Args:
      path: Path given by the user, or None.

    Returns:
      A path that exists, or None if no path was named and none was found.

    Raises:
      DataError: If the named path does not exist.
    """
    named = path or os.environ.get(DATA_VARIABLE)
    if named:
        label = "data.path" if path else DATA_VARIABLE
        if not Path(named).exists():
            raise DataError(f"{label}={str(named)!r}: no such file or folder")
        return next(
            (
                Path(named, usual)
                for usual in _USUAL_NAMES
                if Path(named, usual).exists()
            ),
            Path(named),
        )
    usual = (Path("data", name) for name in _USUAL_NAMES)
    return next((place for place in usual if place.exists()), None)


def is_modelnet(path: Path) -> bool:
    """Returns whether a path is a zip, or a folder of `category/train/*.off`."""
    if path.is_file():
        return path.suffix.lower() == ".zip"
    patterns = ("*/train/*.off", "*/*/train/*.off")
    return any(next(path.glob(pattern), None) for pattern in patterns)


def _load_primitives(
    num_train: int, num_test: int, num_points: int, seed: int
) -> PointDataset:
    # Not normalised, because sizes and places must keep their known distribution.
    train, train_labels, _ = make_primitives(num_train, num_points, 2 * seed)
    test, test_labels, _ = make_primitives(num_test, num_points, 2 * seed + 1)
    return make_dataset(
        "spheres, tori and boxes",
        train,
        test,
        train_labels,
        test_labels,
        CLASS_NAMES,
        f"closed-form primitives, seed {seed}: {num_train} train and {num_test} test "
        f"clouds of {num_points} points",
    )
