"""Loads all point-cloud data sets, and finds real data if it is present.

>>> data = load_point_dataset("primitives", num_points=64, num_train=20, num_test=5)
>>> data.name, data.train.shape, data.test.shape
('spheres, tori and boxes', (20, 64, 3), (5, 64, 3))
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ncgn_jax.data.file_trees import open_tree
from ncgn_jax.data.report import DataReport, classes_by_split
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.cloud_reader import SAMPLINGS, FileOptions
from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.layout import LIST_ENDINGS
from ncgn_jax.point_clouds.modelnet import SPLITS, load_modelnet
from ncgn_jax.point_clouds.primitives import CLASS_NAMES, make_primitives
from ncgn_jax.point_clouds.sets import (
    NORMALISATIONS,
    Frame,
    PointDataset,
    make_dataset,
)
from ncgn_jax.point_clouds.shape_files import ENDINGS
from ncgn_jax.point_clouds.shapes import load_embedded

SOURCES = ("auto", "modelnet", "files", "embedded", "primitives")
DATA_VARIABLE = "NCGN_DATA"
_USUAL_NAMES = ("ModelNet40", "ModelNet40.zip", "ModelNet10", "ModelNet10.zip")


def load_point_dataset(
    source: str = "auto",
    path: str | os.PathLike[str] | None = None,
    num_points: int = 400,
    *,
    sampling: str = "auto",
    categories: Sequence[str] | None = None,
    num_train: int = 4000,
    num_test: int = 400,
    test_fraction: float = 0.1,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    normalise: str = "cloud",
    options: FileOptions | None = None,
) -> PointDataset:
    """Loads the point clouds of a source.

    "auto" takes `path` if given, else the place that the environment variable
    NCGN_DATA names, else ModelNet40 or ModelNet10 (folder or .zip) in ./data, else the
    embedded set. A path that was named but does not exist is an error.

    Args:
      source: One of `SOURCES`.
      path: Zip, folder or file for "auto", "modelnet" and "files".
      num_points: Points per cloud of a model and of the test set.
      sampling: Points of meshes: "vertices", "surface", or "auto" for the vertices of
        ModelNet (published) and the surface of others.
      categories: Classes to load; None for all.
      num_train: Training clouds of generated sets.
      num_test: Test clouds of generated sets.
      test_fraction: Share held out of files that name no split.
      seed: Seed of every draw.
      cache_dir: Folder for prepared sets; None to keep nothing.
      normalise: See `load_point_files`; other than "cloud" for "files" alone.
      options: What files of one's own leave open.

    Returns:
      The dataset, described by its `name` and `report`.

    Raises:
      DataError: If the source is unknown, or if its loader refuses the data.
    """
    if source not in SOURCES:
        raise DataError(f"data.source={source!r}; allowed: {', '.join(SOURCES)}")
    if num_points < 2:
        raise DataError(f"num_points={num_points}; allowed: >= 2")
    if sampling not in SAMPLINGS:
        raise DataError(f"sampling={sampling!r}; allowed: {', '.join(SAMPLINGS)}")
    if normalise not in NORMALISATIONS:
        raise DataError(
            f"data.normalise={normalise!r}; allowed: {', '.join(NORMALISATIONS)}"
        )
    found = None if source in ("primitives", "embedded") else find_data(path)
    if found is None and source in ("modelnet", "files"):
        raise DataError(
            f"data.source={source!r} needs data.path, {DATA_VARIABLE} or one of "
            f"{', '.join(_USUAL_NAMES)} in ./data"
        )
    if found is None:
        _refuse_unused(source, path, normalise, options, categories)
        if source == "primitives":
            dataset = _load_primitives(num_train, num_test, num_points, seed)
        else:
            dataset = load_embedded(
                num_train, num_test, num_points, seed, cache_dir, categories
            )
        if sampling == "auto":
            return dataset
        note = f"data.sampling={sampling} is not used: these clouds come from no meshes"
        return with_note(dataset, note)
    # Only our reader of files knows other scalings, and what its options mean.
    is_plain = normalise == "cloud" and options in (None, FileOptions())
    if source == "modelnet" and not is_plain:
        raise DataError(
            f"data.source='modelnet' reads neither data.normalise={normalise!r} nor "
            "data.split, class_level, points_key, label_key and pattern; allowed: "
            "data.source='files', which reads its meshes too"
        )
    if source == "modelnet" or (source == "auto" and is_plain and is_modelnet(found)):
        asked = "vertices" if sampling == "auto" else sampling
        return load_modelnet(found, num_points, asked, categories, seed, cache_dir)
    return load_point_files(
        found,
        num_points,
        test_fraction,
        seed,
        sampling=sampling,
        categories=categories,
        normalise=normalise,
        options=options,
    )


def with_note(dataset: PointDataset, note: str) -> PointDataset:
    """Returns a data set whose report says one thing more."""
    return dataclasses.replace(dataset, report=dataset.report.with_notes([note]))


def _refuse_unused(
    source: str,
    path: str | os.PathLike[str] | None,
    normalise: str,
    options: FileOptions | None,
    categories: Sequence[str] | None,
) -> None:
    """Refuses what sets that are made do not read."""
    made = "primitives" if source == "primitives" else "embedded shapes"
    asked = [f"data.path={str(path)!r}"] if path else []
    asked += [f"data.normalise={normalise!r}"] if normalise != "cloud" else []
    asked += ["data.categories"] if source == "primitives" and categories else []
    given = options or FileOptions()
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        asked += [f"data.{field.name}={value!r}"] if value != field.default else []
    if asked:
        raise DataError(
            f"{', '.join(asked)}: the {made} do not read this; allowed: data.path and "
            "data.source='files'"
        )


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
    """Returns whether all clouds of a zip or folder are `category/{train,test}/*.off`.

    Anything else beside them is for our reader of files, so that no class is lost.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return False
    with open_tree(path, "list") as tree:
        clouds = [
            entry.below
            for entry in tree.files
            if entry.ending in ENDINGS
            and not (entry.ending in LIST_ENDINGS and len(entry.below.parts) < 3)
        ]
    return bool(clouds) and all(
        place.suffix.lower() == ".off"
        and len(place.parts) > 2
        and place.parts[-2] in SPLITS
        for place in clouds
    )


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
        DataReport(
            origin=f"closed-form primitives, seed {seed}",
            unit="clouds",
            splits={"train": num_train, "test": num_test},
            split_rule="from streams of their own",
            classes=classes_by_split(CLASS_NAMES, train_labels, test_labels),
            contents=(f"{num_points} points of each", "sizes and places are kept"),
        ),
        Frame("none"),
    )
