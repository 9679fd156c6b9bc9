"""One door to every point-cloud data set, real where there is one.

>>> data = load_point_dataset("primitives", num_points=64, num_train=20, num_test=5)
>>> data.name, data.train.shape, data.test.shape
('spheres, tori and boxes', (20, 64, 3), (5, 64, 3))
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ncgn_jax.data.download import download_modelnet
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
    num_stored: int | None = None,
    num_train: int = 4000,
    num_test: int = 400,
    test_fraction: float = 0.1,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    allow_download: bool = False,
    download_url: str | None = None,
) -> PointDataset:
    """Loads point clouds from where `source` says.

    "auto" takes `path` if given, else what the environment variable NCGN_DATA names,
    else ModelNet40 or ModelNet10 (folder or .zip) in ./data, else the embedded set.
    What was named but is not there is an error, never silently replaced.

    Args:
      source: One of `SOURCES`.
      path: Zip, folder or file for "auto", "modelnet" and "files".
      num_points: Points a model sees; the test clouds have exactly these.
      sampling: "vertices" or "surface", for ModelNet.
      categories: Categories of ModelNet or of the embedded set; None for all.
      num_stored: Points kept of each training cloud, see `load_modelnet` and
        `load_point_files`.
      num_train: Training clouds of generated sets.
      num_test: Test clouds of generated sets.
      test_fraction: Share held out of files without a split of their own.
      seed: Seed of every draw.
      cache_dir: Folder for prepared sets and downloads; None to keep nothing.
      allow_download: Lets "modelnet" fetch the official zip if none is found.
      download_url: Address to fetch it from instead of the official one.

    Returns:
      The dataset; its `name` and `source` say what it is.

    Raises:
      DataError: On an unknown source or anything the loaders refuse.
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
    if found is None and source == "modelnet" and allow_download:
        folder = cache_dir or "data"
        found = download_modelnet(folder, url=download_url, allow_download=True)
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
        return load_modelnet(
            found, num_points, sampling, categories, seed, cache_dir, num_stored
        )
    return load_point_files(found, num_points, test_fraction, seed, num_stored)


def find_data(path: str | os.PathLike[str] | None) -> Path | None:
    """Finds the data: `path`, else NCGN_DATA, else the usual names in ./data.

    Args:
      path: Path given by the user, or None.

    Returns:
      A path that exists, or None if nothing was named and nothing is there.

    Raises:
      DataError: If what was named does not exist.
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
    """Says whether a path is a zip, or a folder of `category/train/*.off`."""
    if path.is_file():
        return path.suffix.lower() == ".zip"
    patterns = ("*/train/*.off", "*/*/train/*.off")
    return any(next(path.glob(pattern), None) for pattern in patterns)


def _load_primitives(num_train, num_test, num_points, seed) -> PointDataset:
    # Not normalised: sizes and places must stay those of the known distribution.
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
