"""Loads your own point clouds and meshes: .npz, .npy, .ply, .obj, .off or .stl.

Formats of .npz (pickled ones are refused):
  1. `train_points`, `test_points` [shape, point, 3]; optional `train_class`,
     `test_class` (indices) and `classes` (names).
  2. `points` (or one array under any name), [shape, point, 3]; optional `class`
     and `classes`.
  3. One array [point, 3] per cloud, under any key.
int16 coordinates are divided by 32767. In a folder, first-level subfolders are
classes, except that folders called `train` and `test` give the split.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.array_files import open_npy, read_npz
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.off_files import read_off, sample_surface
from ncgn_jax.point_clouds.sets import (
    PointDataset,
    check_clouds,
    draw_points,
    make_dataset,
    normalise_clouds,
)

ARRAY_EXTENSIONS = (".npz", ".npy")
MESH_EXTENSIONS = (".ply", ".obj", ".off", ".stl")
CLOUD_KEYS = ("points", "train_points", "test_points")
MAX_STORED_RATIO = 4


class _Group(NamedTuple):
    """Clouds of one size from one array or file."""

    points: np.ndarray  # [shape, point, 3]
    labels: np.ndarray  # class names, [shape]
    split: str | None
    where: str


def load_point_files(
    path: str | os.PathLike[str],
    num_points: int,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> PointDataset:
    """Loads a file or a folder of point clouds and meshes, normalised to [-1, 1].

    Training clouds keep as many points as the smallest cloud has, at most
    4 * num_points, so that each training step can draw fresh points.

    Args:
      path: One file, or a folder read recursively.
      num_points: Points of a test cloud.
      test_fraction: Share of the shapes held out where the files name no split.
      seed: Seed of surface sampling, point draws and the split.

    Returns:
      The dataset.

    Raises:
      DataError: If an extension is unknown, a file is unreadable or pickled, points
        are too few or coordinates unusable; the message names the file and key.
    """
    path = Path(path)
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction={test_fraction}; allowed: between 0 and 1")
    rng = np.random.default_rng([seed, 0])
    most = MAX_STORED_RATIO * num_points
    files = _list_files(path)
    groups = [group for file in files for group in _read_file(file, path, most, rng)]
    for group in groups:
        check_clouds(group.points, group.where, num_points)
    smallest = min(group.points.shape[1] for group in groups)
    num_stored = min(smallest, most)
    groups = [_keep_points(group, num_stored, rng) for group in groups]
    train, test = _split(groups, test_fraction, rng, path)
    names = sorted({str(name) for group in groups for name in group.labels})
    return make_dataset(
        f"{path.name} ({num_stored} points)",
        np.concatenate([group.points for group in train]),
        draw_points(np.concatenate([group.points for group in test]), num_points, rng),
        _to_indices(train, names),
        _to_indices(test, names),
        tuple(names),
        f"{path}: {sum(len(group.points) for group in groups)} clouds from "
        f"{len(files)} file(s), {num_stored} of >= {smallest} points kept",
    )


def _list_files(path: Path) -> list[Path]:
    allowed = ARRAY_EXTENSIONS + MESH_EXTENSIONS
    if path.is_file():
        if path.suffix.lower() not in allowed:
            raise DataError(
                f"{path}: extension {path.suffix!r}; allowed: {', '.join(allowed)}"
            )
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    )
    usable = [file for file in files if file.suffix.lower() in allowed]
    if not usable:
        raise DataError(
            f"{path}: {len(files)} files, none of them usable; allowed: "
            + ", ".join(allowed)
        )
    return usable


def _read_file(
    file: Path, root: Path, num_sampled: int, rng: np.random.Generator
) -> Iterator[_Group]:
    folders = file.relative_to(root).parts[:-1] if file != root else ()
    of_folder = next((part for part in folders if part in ("train", "test")), None)
    name = next((part for part in folders if part not in ("train", "test")), "shape")
    if file.suffix.lower() in ARRAY_EXTENSIONS:
        for group in _read_arrays(file, name):
            yield group._replace(split=group.split or of_folder)
    else:
        points = _read_mesh(file, num_sampled, rng)
        yield _Group(points[None], np.array([name]), of_folder, f"file {file}")


def _read_arrays(file: Path, name: str) -> Iterator[_Group]:
    is_archive = file.suffix.lower() == ".npz"
    arrays = read_npz(file) if is_archive else {"": open_npy(file)}
    classes = arrays.pop("classes", None)
    clouds = [key for key in arrays if key in CLOUD_KEYS] or list(arrays)
    for key in clouds:
        points = arrays[key]
        where = f"file {file}" + (f", key {key!r}" if key else "")
        if key in ("class", "train_class", "test_class") or points.dtype.kind == "U":
            continue
        part = key.removesuffix("_points")
        split = part if part in ("train", "test") else None
        check_clouds(points, where)
        points = points if points.ndim == 3 else points[None]
        if points.dtype == np.int16:
            points = points.astype(np.float32) / 32767
        numbers = arrays.get(f"{split}_class" if split else "class")
        labels = _name_classes(numbers, classes, len(points), name, where)
        yield _Group(points, labels, split, where)


def _name_classes(
    numbers: np.ndarray | None,
    classes: np.ndarray | None,
    num_shapes: int,
    name: str,
    where: str,
) -> np.ndarray:
    if numbers is None:
        return np.full(num_shapes, name)
    if numbers.shape != (num_shapes,) or numbers.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {num_shapes} clouds, but class indices {numbers.dtype} of shape "
            f"{numbers.shape}"
        )
    if classes is None:
        return numbers.astype(str)
    if numbers.min() < 0 or numbers.max() >= len(classes):
        raise DataError(
            f"{where}: class {numbers.max()}; allowed: 0..{len(classes) - 1}"
        )
    return classes[numbers]


def _read_mesh(file: Path, num_sampled: int, rng: np.random.Generator) -> np.ndarray:
    where = f"file {file}"
    if file.suffix.lower() == ".off":
        vertices, faces = read_off(file.read_bytes(), where)
    else:
        vertices, faces = _read_with_trimesh(file)
    check_clouds(vertices, where)
    if len(faces) == 0:
        return vertices  # the file holds a point cloud
    return sample_surface(vertices, faces, num_sampled, rng, where)


def _read_with_trimesh(file: Path) -> tuple[np.ndarray, np.ndarray]:
    import trimesh  # slow to import, and needed for these formats only

    try:
        loaded = trimesh.load(file, process=False, skip_materials=True)
        everything = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
        parts = [
            part
            for part in everything
            if isinstance(part, trimesh.Trimesh | trimesh.PointCloud)
        ]
        vertices = [np.asarray(part.vertices, np.float64) for part in parts]
        faces_of_parts = [
            np.asarray(part.faces if isinstance(part, trimesh.Trimesh) else ())
            for part in parts
        ]
    except Exception as error:  # trimesh has a dozen readers; none lists its errors
        raise DataError(f"file {file}: not readable ({error!r})") from error
    starts = np.cumsum([0] + [len(part) for part in vertices])
    shifted = [
        part.reshape(-1, 3).astype(np.int64) + start
        for part, start in zip(faces_of_parts, starts[:-1], strict=True)
    ]
    if not vertices or starts[-1] == 0:
        raise DataError(f"file {file}: no vertices")
    faces = np.concatenate(shifted)
    if faces.size and not 0 <= faces.min() <= faces.max() < starts[-1]:
        raise DataError(f"file {file}: a triangle refers to an unknown vertex")
    return np.concatenate(vertices), faces


def _keep_points(group: _Group, num_stored: int, rng: np.random.Generator) -> _Group:
    points = normalise_clouds(group.points, group.where)
    if points.shape[1] > num_stored:
        points = draw_points(points, num_stored, rng, group.where)
    return group._replace(points=points)


def _split(
    groups: list[_Group], test_fraction: float, rng: np.random.Generator, path: Path
) -> tuple[list[_Group], list[_Group]]:
    """Returns training and test groups: the split of the files, or a random one."""
    if all(group.split for group in groups):
        parts = [[g for g in groups if g.split == s] for s in ("train", "test")]
        if not all(parts):
            raise DataError(f"{path}: both a train and a test part are needed")
        return parts[0], parts[1]
    points = np.concatenate([group.points for group in groups])
    labels = np.concatenate([group.labels for group in groups])
    if len(points) < 2:
        raise DataError(f"{path}: one cloud; at least two needed (train and test)")
    num_test = min(max(1, round(test_fraction * len(points))), len(points) - 1)
    order = rng.permutation(len(points))
    test, train = order[:num_test], order[num_test:]
    return (
        [_Group(points[train], labels[train], "train", str(path))],
        [_Group(points[test], labels[test], "test", str(path))],
    )


def _to_indices(groups: list[_Group], names: list[str]) -> np.ndarray:
    labels = np.concatenate([group.labels for group in groups]).astype(str)
    return np.searchsorted(np.array(names), labels).astype(np.int32)
