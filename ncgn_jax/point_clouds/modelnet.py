"""Loads ModelNet10 and ModelNet40 as point clouds, from the official zip or a folder.

Files lie at `category/{train,test}/name.off`, at any depth. The zip is read member by
member and never unpacked.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ncgn_jax.data.archives import open_archive
from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.data.file_trees import list_folder
from ncgn_jax.data.report import Reading, classes_by_split, count_repeated
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.off_files import read_off, sample_surface
from ncgn_jax.point_clouds.sets import (
    PointDataset,
    draw_points,
    make_dataset,
    normalise_clouds,
)

SAMPLINGS = ("vertices", "surface")
SPLITS = ("train", "test")
MAX_MEMBER_BYTES = 2**29
_Read = Callable[[str], bytes]


class _File(NamedTuple):
    """A file of the data set, hidden ones left away."""

    name: str
    size: int
    stamp: str


class _Mesh(NamedTuple):
    """A mesh file of the data set."""

    category: str
    split: str
    file: str
    size: int
    stamp: str  # changes with the content; part of the cache's key


def load_modelnet(
    path: str | os.PathLike[str],
    num_points: int,
    sampling: str = "vertices",
    categories: Sequence[str] | None = None,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> PointDataset:
    """Loads ModelNet as clouds centred and scaled to [-1, 1].

    Args:
      path: The official zip, or a folder that holds `category/{train,test}/*.off`.
      num_points: Points per cloud.
      sampling: "vertices" draws mesh vertices without replacement, as in
        arXiv 2507.09391; shapes with too few are left out and counted.
        "surface" draws points uniformly by area.
      categories: Categories to use; None for all.
      seed: Seed of the draws. Each shape has its own stream, so its cloud does not
        depend on the other shapes that are loaded.
      cache_dir: Folder that keeps the result as .npz; None to keep nothing.

    Returns:
      The official split.

    Raises:
      DataError: If the zip is unsafe, no file is usable, a category is unknown or a
        mesh is broken; the message names the file.
    """
    if sampling not in SAMPLINGS:
        raise DataError(f"sampling={sampling!r}; allowed: {', '.join(SAMPLINGS)}")
    path = Path(path)
    reading = Reading(path, "clouds")
    with _open(path) as (found, read):
        meshes = _to_meshes(found, path, reading)
        names = sorted({mesh.category for mesh in meshes})
        names = _choose_categories(names, categories, path)
        for mesh in meshes:
            if mesh.category not in names:
                reading.leave_out("of other classes (data.categories)", mesh.file)
        meshes = [mesh for mesh in meshes if mesh.category in names]
        settings = {
            "path": str(path.resolve()),
            "files": zlib.crc32(repr(meshes).encode()),
            "num_points": num_points,
            "sampling": sampling,
            "categories": names,
            "seed": seed,
            "version": 1,
        }

        def build() -> dict[str, np.ndarray]:
            return _build(meshes, names, read, num_points, sampling, seed)

        arrays = cached_arrays(cache_dir, "modelnet", settings, build)
    skipped = int(arrays["num_skipped"])
    reading.leave_out(f"meshes with fewer than {num_points} vertices", count=skipped)
    unit = "mesh vertices" if sampling == "vertices" else "surface points"
    family = next((n for n in ("ModelNet40", "ModelNet10") if n in path.name), "meshes")
    title = family if family != "meshes" else f"meshes in {path.name}"
    labels = {split: arrays[f"{split}_labels"] for split in SPLITS}
    report = reading.report(
        {split: len(arrays[split]) for split in SPLITS},
        "by folders",
        classes=classes_by_split(names, *labels.values()),
        contents=(
            f"{num_points} {unit} of each",
            "each cloud is centred and divided by its own largest coordinate; these "
            "numbers are not kept, so samples have none (data.normalise)",
        ),
        num_repeated=count_repeated(arrays["train"], arrays["test"]),
    )
    return make_dataset(
        f"{title} (OFF, {num_points} {unit})",
        arrays["train"],
        arrays["test"],
        arrays["train_labels"],
        arrays["test_labels"],
        tuple(names),
        report,
    )


@contextmanager
def _open(path: Path) -> Iterator[tuple[list[_File], _Read]]:
    """Yields the files of a folder or archive, and a function that reads one."""
    if path.is_dir():
        yield _list_folder(path), lambda file: (path / file).read_bytes()
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    with open_archive(path, MAX_MEMBER_BYTES) as archive:
        members = {member.name: member for member in archive.members}
        found = [_File(m.name, m.size, m.stamp) for m in archive.members]
        yield found, lambda file: archive.read(members[file])


def _list_folder(path: Path) -> list[_File]:
    found = []
    for entry in list_folder(path, "list").files:
        if entry.path is not None and entry.is_file:
            state = entry.path.stat()
            found.append(_File(entry.name, state.st_size, str(state.st_mtime_ns)))
    return found


def _to_meshes(found: list[_File], path: Path, reading: Reading) -> list[_Mesh]:
    meshes = []
    for file, size, stamp in found:
        parts = PurePosixPath(file).parts
        ending = PurePosixPath(file).suffix.lower()
        if ending != ".off":
            reading.leave_out(f"{ending or 'other'} files", file)
            continue
        reading.find(ending, file)
        if len(parts) < 3 or parts[-2] not in SPLITS:
            reading.leave_out("not in category/{train,test}", file)
            continue
        if size > MAX_MEMBER_BYTES:
            raise DataError(
                f"{path}:{file}: {size} bytes; allowed: <= {MAX_MEMBER_BYTES}"
            )
        meshes.append(_Mesh(parts[-3], parts[-2], file, size, stamp))
    if not meshes:
        raise DataError(f"{path}: no file matches category/{{train,test}}/name.off")
    return meshes


def _choose_categories(
    available: list[str], wanted: Sequence[str] | None, path: Path
) -> list[str]:
    if wanted is None:
        return available
    unknown = sorted(set(wanted) - set(available))
    if unknown or not wanted:
        raise DataError(
            f"{path}: categories {unknown} unknown; allowed: {', '.join(available)}"
        )
    return sorted(set(wanted))


def _build(
    meshes: list[_Mesh],
    names: list[str],
    read: _Read,
    num_points: int,
    sampling: str,
    seed: int,
) -> dict[str, np.ndarray]:
    clouds: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    num_skipped = 0
    for mesh in tqdm(meshes, desc="reading meshes", unit="mesh", disable=None):
        vertices, faces = read_off(read(mesh.file), mesh.file)
        place = f"{mesh.category}/{mesh.split}/{PurePosixPath(mesh.file).name}"
        rng = np.random.default_rng([seed, zlib.crc32(place.encode())])
        if sampling == "vertices":
            if len(vertices) < num_points:
                num_skipped += 1
                continue
            cloud = normalise_clouds(
                draw_points(vertices, num_points, rng, mesh.file), mesh.file
            )
        else:
            cloud = sample_surface(vertices, faces, num_points, rng, mesh.file)
            cloud = normalise_clouds(cloud, mesh.file)
            if mesh.split == "test":  # keeps the point order of published scores
                cloud = draw_points(cloud, num_points, rng, mesh.file)
        clouds[mesh.split].append(cloud)
        labels[mesh.split].append(names.index(mesh.category))
    for split in SPLITS:
        if not clouds[split]:
            raise DataError(
                f"no usable {split} shapes ({num_skipped} of {len(meshes)} shapes have "
                f"fewer than num_points={num_points} vertices; allowed: fewer points "
                "or data.sampling='surface')"
            )
    return {
        **{split: np.stack(clouds[split]) for split in SPLITS},
        **{f"{split}_labels": np.array(labels[split], np.int32) for split in SPLITS},
        "num_skipped": np.array(num_skipped),
    }
