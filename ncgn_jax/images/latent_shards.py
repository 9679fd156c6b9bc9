"""Reads latents of an image autoencoder, computed beforehand, from shards on disk.

    root/train/latents-00000.npy   [image, height, width, channel], float16 or float32
    root/train/labels-00000.npy    [image], whole numbers; for every shard or for none
    root/test/...                  the same
    root/classes.txt               names of the classes, one per line; may be absent

Shards are numbered from 0 without gaps and may differ in length; channels may be the
first axis of an image instead. Folders of parts may have any usual name
(`data.splits`); a `val` folder is kept apart, or is the test part where there is none.
Without them the shards lie in the root and some images of each class are held out.
Hidden files, and files of other endings, are counted.

To make shards, scale and crop the images, encode them in any framework, and save the
unscaled mean of the encoder's posterior. `latent_scale` (0.18215 for the autoencoder of
Stable Diffusion) is applied when batches are read:

    for number, (images, labels) in enumerate(batches_of_some_thousand_images):
        latents = np.float16(encode(images))  # 256 x 256 x 3 become 32 x 32 x 4
        np.save(f"root/train/latents-{number:05d}.npy", latents)
        np.save(f"root/train/labels-{number:05d}.npy", np.int32(labels))

Only the rows of a batch are read; NaN and infinity in them are refused.
"""

import functools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.data.archives import is_archive, is_hidden
from ncgn_jax.data.array_files import open_npy
from ncgn_jax.data.labels import RawLabels
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_of
from ncgn_jax.faults import DataError
from ncgn_jax.images.labels import read_labels
from ncgn_jax.images.sets import (
    ImageDataset,
    find_channel_axis,
    make_image_dataset,
    num_held_out,
    stratified_split,
)
from ncgn_jax.images.splitting import choose_parts
from ncgn_jax.images.units import ImageUnits

LATENT_SCALE = 0.18215
CLASS_FILE = "classes.txt"
_DTYPES = ("float16", "float32")
_MAX_OPEN = 64  # files
_PATTERN = re.compile(r"(latents|labels)-(\d+)\.npy")


class Shards:
    """Images in several `.npy` files, as one array that is read when it is indexed.

    Indices are those of an array: `shards[3]`, `shards[10:20]`, `shards[indices]`.
    Files are mapped into memory when first needed, at most 64 at a time.

    Attributes:
      dtype: Type of the numbers, as in the files.
    """

    def __init__(self, files: Sequence[Path], channel_axis: str = "auto"):
        """Reads the headers of all files.

        Args:
          files: The shards in order, each [image, height, width, channel] or
            [image, channel, height, width].
          channel_axis: "first", "last", or "auto" for the axis beside two equal ones.

        Raises:
          DataError: If there is no file, if one is unreadable, or if shapes or types
            differ.
        """
        if not files:
            raise DataError("no shards; allowed: at least one")
        self._files = tuple(files)
        self._open = functools.lru_cache(maxsize=_MAX_OPEN)(self._open_shard)
        first = open_npy(self._files[0])
        _check_shard(self._files[0], first)
        self._channel_axis = find_channel_axis(
            first.shape, channel_axis, str(self._files[0])
        )
        self._stored = (first.shape[1:], first.dtype)
        sizes = [self._check_like_first(file, open_npy(file)) for file in self._files]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._rows: np.ndarray | None = None
        image = list(first.shape[1:])
        image.append(image.pop(self._channel_axis - 1))
        self._image_shape = tuple(image)
        self.dtype = first.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return int(self._starts[-1] if self._rows is None else len(self._rows))

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [image, height, width, channel], for either axis in the files."""
        return (len(self), *self._image_shape)

    def subset(self, rows: np.ndarray | slice) -> "Shards":
        """Selects images, in the order given, without reading them."""
        part = object.__new__(Shards)
        part.__dict__.update(self.__dict__)
        part._rows = self._to_rows(rows)
        return part

    def __getitem__(self, rows: int | np.integer | np.ndarray | slice) -> np.ndarray:
        """Reads images.

        Args:
          rows: An index, a slice, or indices, [batch]; negative ones count from the
            end.

        Returns:
          [height, width, channel] or [batch, height, width, channel].

        Raises:
          DataError: If a value is not finite or a file has changed.
          IndexError: If a row does not exist.
        """
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        rows = self._to_rows(rows)
        images = np.empty((len(rows), *self._stored[0]), self.dtype)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            of_shard = np.flatnonzero(shards == shard)
            images[of_shard] = self._read(shard, rows[of_shard] - self._starts[shard])
        return np.moveaxis(images, self._channel_axis, -1)

    def _to_rows(self, rows: np.ndarray | slice) -> np.ndarray:
        """Converts an index array or a slice to places counted over all files."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise IndexError(
                f"rows {rows.dtype} {rows.shape}; allowed: an index, a slice or a "
                "vector of whole numbers"
            )
        rows = rows.astype(np.int64)
        wrong = rows[(rows < -len(self)) | (rows >= len(self))]
        if wrong.size:
            raise IndexError(f"row {wrong[0]} of {len(self)} images")
        rows = np.where(rows < 0, rows + len(self), rows)
        return rows if self._rows is None else self._rows[rows]

    def _read(self, shard: int, rows: np.ndarray) -> np.ndarray:
        file = self._files[shard]
        images = self._open(shard)[rows]
        finite = np.isfinite(images).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{file}: row {rows[np.argmin(finite)]} holds NaN or infinity; "
                "allowed: finite numbers"
            )
        return images

    def _open_shard(self, shard: int) -> np.ndarray:
        """Maps a shard and checks it again, because the file may have been replaced."""
        file = self._files[shard]
        array = open_npy(file)
        expected = self._starts[shard + 1] - self._starts[shard]
        if self._check_like_first(file, array) != expected:
            raise DataError(
                f"{file}: {len(array)} rows, but {expected} when it was first opened"
            )
        return array

    def _check_like_first(self, file: Path, array: np.ndarray) -> int:
        _check_shard(file, array)
        shape, dtype = self._stored
        if (array.shape[1:], array.dtype) != (shape, dtype):
            raise DataError(
                f"{file}: images {array.shape[1:]} {array.dtype}, but {shape} {dtype} "
                f"in {self._files[0].name}; allowed: one shape and type in all shards"
            )
        return len(array)


def load_latents(
    path: str | os.PathLike[str],
    channel_axis: str = "auto",
    latent_scale: float = LATENT_SCALE,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> ImageDataset:
    """Opens a folder of latents, laid out as the module describes.

    Args:
      path: The folder.
      channel_axis: Axis of the channels of an image: "last", "first", or "auto" for
        the axis beside two equal ones.
      latent_scale: Factor that brings latents to about unit variance.
      test_fraction: Share of each class held out if there is no test folder.
      seed: Seed of that split.

    Returns:
      The dataset; its images are `Shards`.

    Raises:
      DataError: If the folder has another layout, if shards are missing, unreadable or
        unlike, or if labels do not fit.
    """
    root = Path(path)
    num_held_out(1, test_fraction)  # a wrong share is refused before reading
    if not (math.isfinite(latent_scale) and latent_scale > 0):
        raise DataError(f"data.latent_scale={latent_scale}; allowed: > 0")
    reading = Reading(root, "latents")
    folders = _find_folders(root)
    found = {part: _list_shards(f, root, reading) for part, f in folders.items()}
    images = {part: Shards(files, channel_axis) for part, (files, _) in found.items()}
    for part, (files, _) in found.items():
        reading.find(f"shards of part {part or 'all'!r}", files[0].name, len(files))
    choice = choose_parts({part: len(own) for part, own in images.items()}, reading)
    used = [choice.train] + ([choice.test] if choice.test is not None else [])
    parts = [images[part] for part in used]
    raw = [_read_labels(*found[part]) for part in used]
    if len({own is None for own in raw}) > 1:
        raise DataError(
            f"{root}: labels in one of {' and '.join(used)} only; allowed: both or "
            "neither"
        )
    class_names = _read_class_names(root / CLASS_FILE)
    given = [own for own in raw if own is not None]
    if given:
        labels, class_names = read_labels(given, class_names, reading)
    else:
        class_names = class_names or ("image",)
        labels = [np.zeros(len(part), np.int32) for part in parts]
    rule = choice.rule
    if len(parts) == 1:
        num_test = num_held_out(len(parts[0]), test_fraction)
        rows = stratified_split(labels[0], num_test, seed, str(root))
        parts = [parts[0].subset(part) for part in rows]
        labels = [labels[0][part] for part in rows]
        rule = f"at random, split seed {seed}"
    return make_image_dataset(
        f"{root.resolve().name} latents",
        parts[0],
        parts[1],
        labels[0],
        labels[1],
        class_names,
        reading,
        rule,
        ImageUnits(0.0, 1 / latent_scale, is_latent=True),
        (f"scaled by {latent_scale:g}", f"{parts[0].dtype}, read when needed"),
    )


def is_shard_name(name: str) -> bool:
    """Tells whether a file's name is that of a shard."""
    return _PATTERN.fullmatch(name) is not None


def _check_shard(file: Path, array: np.ndarray) -> None:
    if array.dtype.name not in _DTYPES:
        raise DataError(f"{file}: dtype {array.dtype}; allowed: {' or '.join(_DTYPES)}")
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(
            f"{file}: shape {array.shape}; allowed: [image, height, width, channel] or "
            "[image, channel, height, width], none of them 0"
        )


def _find_folders(root: Path) -> dict[str, Path]:
    """Returns the folder of each part, or the root if there is none."""
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        way = "; unpack it: shards are read where they lie" * is_archive(root)
        raise DataError(f"{root}: {found}; allowed: a folder of latents{way}")
    present: dict[str, Path] = {}
    for folder in sorted(f for f in root.iterdir() if f.is_dir()):
        part = split_of(folder.name)
        if part in present:
            raise DataError(
                f"{root}: folders {present[part].name} and {folder.name} are both "
                f"{part}; allowed: one"
            )
        if part is not None:
            present[part] = folder
    if not present:
        return {"": root}
    if set(present) in ({"train"}, {"test"}, {"val"}, {"val", "test"}):
        alone = " and ".join(folder.name for folder in present.values())
        raise DataError(
            f"{root}: a folder {alone} alone; allowed: train and test, or shards in "
            "the folder itself"
        )
    return present


def _list_shards(
    folder: Path, root: Path, reading: Reading
) -> tuple[list[Path], list[Path]]:
    """Lists the files of latents and of labels in order; refuses gaps."""
    found: dict[str, dict[int, Path]] = {"latents": {}, "labels": {}}
    for file in sorted(folder.iterdir()):
        name = file.relative_to(root).as_posix()
        if is_hidden(file.name):
            reading.leave_out("hidden files", name)
            continue
        if file.suffix != ".npy" or file.is_dir():
            if not file.is_dir() and file.name != CLASS_FILE:
                reading.leave_out(f"{file.suffix or 'other'} files, no shards", name)
            continue
        match = _PATTERN.fullmatch(file.name)
        if match is None or int(match[2]) in found[match[1]]:
            raise DataError(
                f"{file}: not a name of its own; allowed: latents-00000.npy and "
                "labels-00000.npy, each number once"
            )
        found[match[1]][int(match[2])] = file
    latents, labels = found["latents"], found["labels"]
    if not latents:
        within = sorted(folder.glob("*/**/latents-*.npy"))
        way = f"; some lie in {within[0].parent}, for data.path" if within else ""
        raise DataError(
            f"{folder}: no shards; allowed: latents-00000.npy and so on{way}"
        )
    if sorted(latents) != list(range(len(latents))):
        missing = min(set(range(len(latents))) - set(latents))
        raise DataError(
            f"{folder}: latents-{missing:05d}.npy is missing, {len(latents)} others "
            "are there; allowed: numbers from 0 without gaps"
        )
    if labels and set(labels) != set(latents):
        odd = min(set(labels) ^ set(latents))
        has, lacks = ("labels", "latents") if odd in labels else ("latents", "labels")
        raise DataError(
            f"{folder}: {has}-{odd:05d}.npy without {lacks}-{odd:05d}.npy; allowed: "
            "labels for all shards or for none"
        )
    return [latents[i] for i in sorted(latents)], [labels[i] for i in sorted(labels)]


def _read_labels(latents: list[Path], labels: list[Path]) -> RawLabels | None:
    """Reads the labels of all shards, one after the other; None without any."""
    if not labels:
        return None
    parts: list[np.ndarray] = []
    for latent, file in zip(latents, labels, strict=True):
        own, count = open_npy(file), len(open_npy(latent))
        if (
            own.ndim == 0
            or len(own) != count
            or own.shape[1:] != (parts or [own])[0].shape[1:]
        ):
            raise DataError(
                f"{file}: shape {own.shape} for {count} images; allowed: one class for "
                "each, in one form in all shards"
            )
        parts.append(own)
    return RawLabels(np.concatenate(parts), f"{labels[0]} and so on")


def _read_class_names(file: Path) -> tuple[str, ...] | None:
    if not file.exists():
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as UTF-8 ({error})") from error
    names = tuple(line.strip() for line in lines)
    if not names or not all(names):
        found = f"line {names.index('') + 1} is empty" if names else "no lines"
        raise DataError(f"{file}: {found}; allowed: the name of a class in each line")
    return names
