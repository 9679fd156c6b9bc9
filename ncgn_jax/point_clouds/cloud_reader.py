"""Reads clouds file by file, and looks for what is odd about them.

Of each cloud only the points that are kept stay in memory, and no file stays open.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ncgn_jax.data.file_trees import FileTree, TreeFile
from ncgn_jax.data.labels import RawLabels, plain_labels
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.array_contents import (
    ArrayLike,
    CloudArray,
    Found,
    find_clouds,
    open_arrays,
)
from ncgn_jax.point_clouds.layout import Item, Layout
from ncgn_jax.point_clouds.off_files import sample_surface
from ncgn_jax.point_clouds.sets import check_clouds, normalise_each
from ncgn_jax.point_clouds.shape_files import ARRAY_ENDINGS, read_shape
from ncgn_jax.point_clouds.synsets import SYNSETS

MAX_STORED_RATIO = 4
SAMPLINGS = ("auto", "vertices", "surface")
_CHUNK = 64
# Steps between numbers of a file that are coarser than this share of a cloud's size
# show in its shape.
_COARSE = 1e-3
APART = "of the validation split, kept apart"
# Clouds with a larger share of repeated points look padded.
_PADDED = 0.05


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """Decides what files leave open.

    Attributes:
      split: `given` for what files say, `random` for a split of our own.
      class_level: Level of the folders that name classes; see `find_layout`.
      points_key: Name of the array of clouds, None to find it.
      label_key: Name of the array of classes, None to find it.
      pattern: Files to read, such as `*.ply`; None for all.
    """

    split: str = "given"
    class_level: int | None = None
    points_key: str | None = None
    label_key: str | None = None
    pattern: str | None = None


class Cloud(NamedTuple):
    """A cloud that was read, with the points that are kept of it."""

    points: np.ndarray  # [point, 3] in random order
    name: str
    split: str | None
    category: str | int
    center: np.ndarray  # mean of all its points, float64 [3]
    size: float  # largest distance of a coordinate from it
    content: bytes  # a digest of all its points


class _Blocks:
    """Keeps arrays in large blocks.

    The memory of a block goes back when all arrays in it are let go, which that of
    many small arrays does not.
    """

    _SIZE = 2**23

    def __init__(self) -> None:
        self._free: dict[np.dtype, np.ndarray] = {}

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Returns a copy of an array that lies in a block."""
        free = self._free.get(array.dtype, np.empty(0, array.dtype))
        if len(free) < array.size:
            free = np.empty(max(self._SIZE, array.size), array.dtype)
        self._free[array.dtype] = free[array.size :]
        kept = free[: array.size].reshape(array.shape)
        kept[...] = array
        return kept


class CloudReader:
    """Reads files one by one, and counts what is odd about their clouds."""

    def __init__(
        self,
        path: Path,
        tree: FileTree,
        reading: Reading,
        num_points: int,
        seed: int,
        sampling: str,
        normalise: str,
        options: FileOptions,
    ):
        self.reading, self.num_points = reading, num_points
        self.seed, self.sampling, self.options = seed, sampling, options
        self.normalise = normalise
        self.class_names: list[tuple[str, ...]] = []
        self._entries = {entry.name: entry for entry in tree.files}
        self._coarse: list[tuple[float, float, str]] = []  # step, size, name
        self._padded: list[tuple[float, str]] = []  # share, name
        self._notes: dict[str, list[str]] = {}
        self._num_meshes = 0
        self.smallest = 0
        self._blocks = _Blocks()

    def read(self, layout: Layout) -> list[Cloud]:
        """Returns the clouds of all files but those that are kept apart."""
        parts = {item.split for item in layout.items}
        clouds: list[Cloud] = []
        for item in tqdm(
            layout.items, desc="reading clouds", unit="file", disable=None, leave=False
        ):
            if item.split == "val" and "test" in parts:
                self.reading.leave_out(APART, item.entry.name)
            elif item.entry.ending in ARRAY_ENDINGS:
                clouds += self._read_arrays(item)
            else:
                cloud = self._read_shape(item)
                clouds += [cloud] if cloud is not None else []
        return clouds

    def warn(self) -> None:
        """Notes what is odd about the clouds, with the worst of each."""
        for note, names in self._notes.items():
            count = f"{len(names):,} files: " if len(names) > 1 else ""
            self.reading.say(f"{count}{note} (first {names[0]})")
        if self.sampling != "auto" and not self._num_meshes:
            self.reading.say(
                f"data.sampling={self.sampling} is for meshes, of which there are none"
            )
        if self._coarse:
            step, size, name = max(self._coarse, key=lambda item: item[0] / item[1])
            way = (
                "whole numbers may be something else than coordinates"
                if step == 1
                else "subtract a common point before saving as float32, or save float64"
            )
            self.reading.say(
                f"{len(self._coarse)} clouds have coarse numbers: steps of {step:.3g} "
                f"on {2 * size:.3g} in {name}, so shapes are cut into "
                f"{2 * size / step:.0f} layers; {way}"
            )
        if self._padded:
            share, name = max(self._padded, key=lambda item: item[0])
            self.reading.say(
                f"{len(self._padded)} clouds repeat points, as padded ones do: "
                f"{share:.0%} of those of {name}"
            )

    def _stream(self, entry: TreeFile) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(entry.name.encode())])

    def _beside(self, entry: TreeFile, where: str):
        """Returns a function that reads files in the folder of an entry or below."""

        def read(name: str) -> bytes:
            place = (entry.below.parent / name).as_posix()
            if ".." in name or place not in self._entries:
                raise DataError(f"{where}: refers to {name!r}, which is not beside it")
            return self._entries[place].read_plain()

        return read

    def _read_shape(self, item: Item) -> Cloud | None:
        entry = item.entry
        where = f"file {entry.where}"
        shape = read_shape(
            entry.read_plain(), entry.name, where, self._beside(entry, where)
        )
        if shape.others:
            listed = ", ".join(shape.others[:6])
            self.reading.leave_out(f"further numbers of points ({listed})", entry.name)
        if shape.num_missing:
            self.reading.leave_out(
                "points without coordinates", entry.name, shape.num_missing
            )
        if shape.note:
            self._notes.setdefault(shape.note, []).append(entry.name)
        check_clouds(shape.points, where)
        points, rng = shape.points, self._stream(entry)
        content = _digest(points, shape.faces)
        if len(shape.faces):
            self._num_meshes += 1
            if self.sampling == "vertices":
                if len(points) < self.num_points:
                    self.reading.leave_out(
                        f"meshes with fewer than {self.num_points} vertices", entry.name
                    )
                    return None
            else:
                most = MAX_STORED_RATIO * self.num_points
                points = sample_surface(points, shape.faces, most, rng, where)
        check_clouds(points, where, self.num_points)
        kept, center, size = self._keep(points[None], rng)
        is_drawn = points is not shape.points
        self._look_at(shape.points, float(size[0]), entry.name, is_drawn=is_drawn)
        return Cloud(
            kept[0], entry.name, item.split, item.category, center[0], size[0], content
        )

    def _read_arrays(self, item: Item) -> Iterator[Cloud]:
        entry, options = item.entry, self.options
        where = f"file {entry.where}"
        with open_arrays(entry, where) as arrays:
            found = find_clouds(arrays, where, options.points_key, options.label_key)
            self._tell(found, entry)
            parts = {cloud.split for cloud in found.clouds}
            groups = {cloud.group for cloud in found.clouds}
            rng = self._stream(entry)
            for cloud in found.clouds:
                inside = f"{where}, key {cloud.key!r}" if cloud.key else where
                split = _join_splits(item.split, cloud.split, inside)
                array = arrays[cloud.key]
                if split == "val" and "test" in parts:
                    num = array.shape[0] if len(array.shape) == 3 else 1
                    self.reading.leave_out(APART, f"{entry.name}:{cloud.key}", num)
                    continue
                place = f"{entry.name}:{cloud.key}" if cloud.key else entry.name
                group = _class_of_group(cloud.group, groups)
                if group and cloud.label_key is None:
                    self.reading.say("classes are the groups of arrays in a file")
                labels = self._labels(
                    arrays, cloud, found, group or item.category, inside
                )
                yield from self._read_array(array, place, inside, split, labels, rng)

    def _tell(self, found: Found, entry: TreeFile) -> None:
        for reason, key in found.unused:
            self.reading.leave_out(reason, f"{entry.name}:{key}")
        for note in found.notes:
            self.reading.say(note)
        if found.class_names is not None and found.class_names not in self.class_names:
            self.class_names.append(found.class_names)

    def _labels(
        self,
        arrays,
        cloud: CloudArray,
        found: Found,
        category: str,
        where: str,
    ) -> list[str | int]:
        """Returns the class of each cloud of an array, by name or number."""
        array = arrays[cloud.key]
        num = array.shape[0] if len(array.shape) == 3 else 1
        if cloud.label_key is None:
            return [category] * num
        where = f"{where}: classes in {cloud.label_key!r}"
        raw = RawLabels(np.asarray(arrays[cloud.label_key][()]), where)
        values, note = plain_labels(raw, "cloud")
        if note:
            self.reading.say(note)
        numbers = values.tolist()
        if values.dtype.kind == "U":
            return numbers
        names = found.class_names
        if names is None:
            return numbers
        if min(numbers) < 0 or max(numbers) >= len(names):
            wrong = min(numbers) if min(numbers) < 0 else max(numbers)
            raise DataError(f"{where}: class {wrong}; allowed: 0..{len(names) - 1}")
        return [names[number] for number in numbers]

    def _read_array(
        self,
        array: ArrayLike,
        place: str,
        where: str,
        split: str | None,
        labels: list[str | int],
        rng: np.random.Generator,
    ) -> Iterator[Cloud]:
        shape = array.shape
        if array.dtype.kind not in "fiu" or len(shape) not in (2, 3) or shape[-1] < 3:
            check_clouds(np.asarray(array[()]), where)
        if shape[-1] > 3:
            self.reading.leave_out(
                "columns of points after the third", place, len(labels)
            )
        single = len(shape) == 2
        for start in range(0, len(labels), _CHUNK):
            stop = min(start + _CHUNK, len(labels))
            chunk = np.asarray(array[()] if single else array[start:stop])[..., :3]
            chunk = chunk[None] if single else chunk
            if chunk.dtype == np.int16:
                chunk = chunk.astype(np.float32) / 32767
                self.reading.say("16-bit integers are taken for coordinates x 32767")
            check_clouds(chunk, where, self.num_points)
            kept, centers, sizes = self._keep(chunk, rng)
            for index, cloud in enumerate(chunk):
                name = place if single else f"{place}[{start + index}]"
                self._look_at(cloud, float(sizes[index]), name)
                yield Cloud(
                    kept[index],
                    name,
                    split,
                    labels[start + index],
                    centers[index],
                    sizes[index],
                    _digest(cloud),
                )

    def _keep(
        self, points: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns a random part of some clouds, and center and size of the whole."""
        num_given = points.shape[1]
        self.smallest = min(self.smallest or num_given, num_given)
        unit, centers, sizes = normalise_each(points)
        source = unit if self.normalise == "cloud" else points
        if source.dtype.kind != "f" or source.dtype.itemsize > 8:
            source = source.astype(np.float64)
        most = MAX_STORED_RATIO * self.num_points
        order = rng.random(points.shape[:2]).argsort(axis=1)[:, :most]
        kept = np.take_along_axis(source, order[:, :, None], axis=1)
        return self._blocks.keep(kept), centers, sizes

    def _look_at(
        self, points: np.ndarray, size: float, name: str, *, is_drawn: bool = False
    ) -> None:
        """Looks for coarse numbers, and for repeated points of what is no surface."""
        largest = np.abs(points).max()
        is_whole = points.dtype.kind != "f"
        step = 1.0 if is_whole else float(np.spacing(largest))
        if step > _COARSE * 2 * size:
            self._coarse.append((step, size, name))
        share = 0.0 if is_drawn else _repeated_share(points)
        if share > _PADDED:
            self._padded.append((share, name))


def _join_splits(of_file: str | None, of_array: str | None, where: str) -> str | None:
    if of_file and of_array and of_file != of_array:
        raise DataError(
            f"{where}: the file lies in the part {of_file}, the array is called "
            f"{of_array}; rename one, or data.split=random"
        )
    return of_array or of_file


def _class_of_group(group: str, groups: set[str]) -> str:
    """Returns the class that the group of an array names, empty for none."""
    last = group.rpartition("/")[2]
    if last in SYNSETS:
        return SYNSETS[last]
    return group if len(groups) > 1 else ""


def _repeated_share(points: np.ndarray) -> float:
    """Returns the share of the points that equal an earlier one."""
    first = np.sort(points[:, 0])
    if (first[1:] == first[:-1]).mean() <= _PADDED:
        return 0.0
    order = np.lexsort(points.T)
    ordered = points[order]
    return float((ordered[1:] == ordered[:-1]).all(axis=1).sum() / len(points))


def _digest(*arrays: np.ndarray) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for array in arrays:
        state.update(np.ascontiguousarray(array).view(np.uint8).data)
    return state.digest()
