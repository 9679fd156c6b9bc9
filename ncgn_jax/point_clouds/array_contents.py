"""Reads files of arrays, and finds clouds, classes and parts among the arrays.

Nothing is unpickled: torch files are read by `torch.load(weights_only=True)`.
"""

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ncgn_jax.data.archives import SPOILT
from ncgn_jax.data.array_files import open_npy, parse_npy, parse_npz, read_npz
from ncgn_jax.data.file_trees import TreeFile
from ncgn_jax.data.hdf5_check import check_hdf5
from ncgn_jax.data.labels import clean_names
from ncgn_jax.data.optional import import_optional
from ncgn_jax.data.splits import split_in, split_of
from ncgn_jax.data.stand_ins import refuse_stand_in
from ncgn_jax.faults import DataError

MAX_COLUMNS = 16
_MAX_READ_BYTES = 2**24
_CLOUDS = frozenset((
    "point", "points", "data", "xyz", "pos", "position", "positions", "cloud", "clouds",
    "pc", "pcs", "pcd", "pcds", "pointcloud", "pointclouds", "pointset", "pointsets",
    "coord", "coords", "coordinate", "coordinates", "vertex", "vertices", "verts",
    "pts", "x",
))  # fmt: skip
_CLASSES = frozenset((
    "class", "classes", "label", "labels", "y", "target", "targets", "category",
    "categories", "cls", "classid", "classids", "classindex", "classlabel",
    "classlabels", "labelid", "categoryid", "synset", "synsetid",
))  # fmt: skip
_NAMES = frozenset((
    "classes", "class", "classnames", "labelnames", "categories", "categorynames",
    "shapenames", "classlist",
))  # fmt: skip
_NORMALS = frozenset(("norm", "norms", "nrm", "nrms", "n", "nxyz"))
_FACES = frozenset(("face", "faces", "triangles", "tri", "tris"))
_NAMES_OF_CLOUDS = frozenset((
    "name", "names", "id", "ids", "uid", "uids", "file", "files", "filename",
    "filenames", "path", "paths", "modelid", "modelids", "shapeid", "objectid", "index",
))  # fmt: skip
# Triples that are no clouds.
_OTHERS = frozenset((
    "rgb", "rgba", "color", "colors", "colour", "colours", "face", "faces", "faceid",
    "triangles", "tri", "tris", "feature", "features", "feat", "feats", "mask", "masks",
    "seg", "segs", "pid", "index", "indices", "edge", "edges", "edgeindex", "bbox",
    "bboxes", "box", "center", "centers", "centroid", "scale", "scales", "shift", "loc",
    "pose", "poses", "rotation", "transform", "mean", "std", "m", "s",
))  # fmt: skip


class ArrayLike(Protocol):
    """An array, or a data set of an HDF5 file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def dtype(self) -> np.dtype:
        """Its type."""

    def __getitem__(self, index: Any) -> Any:
        """Returns a part."""


class CloudArray(NamedTuple):
    """An array of clouds, or of the points of one.

    Attributes:
      key: Its name.
      split: The part that its name says, None for none.
      group: What else stands in its name, such as a group of an HDF5 file.
      label_key: Name of the array of its classes, None for none.
    """

    key: str
    split: str | None
    group: str
    label_key: str | None


class Found(NamedTuple):
    """What a file of arrays holds.

    Attributes:
      clouds: Arrays of clouds.
      class_names: Names of the numbers of classes, None for none.
      unused: Arrays that are not used: why, and which.
      notes: What was decided by a rule, a sentence each.
    """

    clouds: list[CloudArray]
    class_names: tuple[str, ...] | None
    unused: list[tuple[str, str]]
    notes: list[str]


@contextlib.contextmanager
def open_arrays(entry: TreeFile, where: str) -> Iterator[Mapping[str, ArrayLike]]:
    """Opens a file of arrays.

    Args:
      entry: The file.
      where: Its name, for messages.

    Yields:
      Arrays by name, groups of HDF5 and dictionaries of torch as `group/name`; the
      only array of an `.npy` under the empty name.

    Raises:
      DataError: If it is damaged, or would have to be unpickled.
    """
    ending = entry.ending
    path = None if entry.is_packed else entry.path
    if ending == ".npy":
        # Small files are read at once, because that takes less time than mapping them.
        if path is not None and entry.size > _MAX_READ_BYTES:
            array = open_npy(path, records=True)
        else:
            array = parse_npy(entry.read_plain(), where, records=True)
        yield _without_records({"": array})
    elif ending == ".npz":
        if path is not None:
            yield _without_records(read_npz(path, records=True))
        else:
            yield _without_records(parse_npz(entry.read_plain(), where, records=True))
    elif ending in (".h5", ".hdf5"):
        with _open_hdf5(path, entry, where) as arrays:
            yield arrays
    else:
        yield _read_torch(entry.read_plain(), where)


def _without_records(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes x, y and z out of records that have them, and lists their other fields."""
    found = {}
    for key, array in arrays.items():
        names = {name.lower(): name for name in array.dtype.names or ()}
        if not names or not {"x", "y", "z"} <= names.keys():
            found[key] = array
            continue
        columns = [array[names[axis]] for axis in "xyz"]
        found[key] = np.stack(columns, axis=-1)
        for name in names.keys() - {"x", "y", "z"}:
            found[f"{key}/{name}" if key else name] = array[names[name]]
    return found


@contextlib.contextmanager
def _open_hdf5(
    path: Path | None, entry: TreeFile, where: str
) -> Iterator[Mapping[str, ArrayLike]]:
    h5py = import_optional("h5py", "hdf5", where)
    content = None if path is not None else entry.read_plain()
    check_hdf5(where if path is None else path, content=content)
    source = io.BytesIO(content) if content is not None else path
    found: dict[str, ArrayLike] = {}
    with h5py.File(source, "r") as file:

        def keep(name: str, item: Any) -> None:
            if not isinstance(item, h5py.Dataset):
                return
            if item.dtype.kind in "biufcSUO" and item.shape is not None:
                found[name] = item

        file.visititems(keep)
        if not found:
            raise DataError(f"{where}: no arrays of numbers")
        yield found


def _read_torch(content: bytes, where: str) -> Mapping[str, ArrayLike]:
    torch = import_optional("torch", "torch", where)
    refuse_stand_in(content, where)
    _refuse_packed(content, where)
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        found = dict(_flatten(loaded, "", torch, len(content), where))
    except DataError:
        raise
    except Exception as error:  # torch lists no errors of its reader
        # Of torch's own words only the name: they advise to load what was refused.
        held = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {held[1]}" if held else type(error).__name__
        raise DataError(
            f"{where}: holds more than tensors, or is damaged ({reason}); allowed: "
            "tensors, and dictionaries and lists of them, since anything else may run "
            "code: save the points as a tensor, or as .npz"
        ) from error
    if not found:
        raise DataError(f"{where}: no tensors")
    return found


def _refuse_packed(content: bytes, where: str) -> None:
    """Refuses compressed tensors, which torch would unpack to any size.

    `torch.save` stores them as they are.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except SPOILT:
        return  # an older format, or damage that torch finds
    if total > len(content):
        raise DataError(
            f"{where}: tensors of {total:,} bytes in a file of {len(content):,}; "
            "allowed: tensors that are not compressed, as torch.save stores them"
        )


def _flatten(
    item: Any, name: str, torch: Any, most_bytes: int, where: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of nested dictionaries and lists by their names."""
    if isinstance(item, torch.Tensor):
        if item.numel() * item.element_size() > most_bytes:
            raise DataError(
                f"{where}: tensor {name!r} of shape {tuple(item.shape)} is larger than "
                "the file; allowed: tensors that are stored whole"
            )
        kept = item.detach()
        kept = kept.float() if kept.dtype == torch.bfloat16 else kept
        yield name, kept.numpy()
    elif isinstance(item, dict):
        for key, value in item.items():
            inner = f"{name}/{key}" if name else str(key)
            yield from _flatten(value, inner, torch, most_bytes, where)
    elif isinstance(item, list | tuple):
        for index, value in enumerate(item):
            inner = f"{name}/{index}" if name else str(index)
            yield from _flatten(value, inner, torch, most_bytes, where)


class _Named(NamedTuple):
    """An array by the words of its name."""

    key: str
    array: ArrayLike
    word: str  # letters of the name without those of a part, in small letters
    split: str | None
    group: str


def find_clouds(
    arrays: Mapping[str, ArrayLike],
    where: str,
    points_key: str | None = None,
    label_key: str | None = None,
) -> Found:
    """Finds clouds and their classes among arrays, by shapes and usual names.

    Args:
      arrays: Arrays by name.
      where: Name of the file, for messages.
      points_key: Name of the array of clouds, with or without the word of a part; None
        to find it.
      label_key: Name of the array of classes, likewise.

    Raises:
      DataError: If there are no clouds, or several arrays could be clouds or classes.
    """
    named = [_name(key, array) for key, array in arrays.items()]
    notes: list[str] = []
    clouds = _choose_clouds(named, where, points_key)
    chosen = {cloud.key for cloud in clouds}
    rest = [item for item in named if item.key not in chosen]
    if label_key is not None and not any(_has_name(i, label_key) for i in rest):
        raise DataError(
            f"{where}: no array {label_key!r} (data.label_key); found "
            f"{_list(rest) or 'nothing beside the clouds'}"
        )
    found, used = [], set(chosen)
    for cloud in clouds:
        label = _choose_labels(cloud, rest, where, label_key)
        found.append(
            CloudArray(
                cloud.key,
                cloud.split,
                cloud.group,
                None if label is None else label.key,
            )
        )
        if label is not None:
            used.add(label.key)
            notes.append(
                f"classes are those of the array {_without_split(label)!r} "
                + ("(data.label_key)" if label_key else "(by its name)")
            )
    names = (
        _find_names(named, where, used, notes)
        if any(c.label_key for c in found)
        else None
    )
    unused = [(_why_unused(i, clouds), i.key) for i in named if i.key not in used]
    return Found(found, names, unused, list(dict.fromkeys(notes)))


def _name(key: str, array: ArrayLike) -> _Named:
    parts = [part for part in key.split("/") if part]
    splits = [split_of(part) or split_in(part) for part in parts]
    of_key = {split for split in splits if split}
    last = parts[-1] if parts else ""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", last)
    words = [w for w in re.findall(r"[A-Za-z]+", spaced) if not split_of(w)]
    group = "/".join(part for part in parts[:-1] if not split_of(part))
    return _Named(
        key,
        array,
        "".join(words).lower(),
        of_key.pop() if len(of_key) == 1 else None,
        group,
    )


def _without_split(item: _Named) -> str:
    return item.word if item.split and item.word else item.key


def _has_name(item: _Named, name: str) -> bool:
    """Tells whether an array is the one that a field names, in one of the parts."""
    return item.key == name or (
        bool(item.word) and item.word == _name(name, item.array).word
    )


def _list(named: list[_Named]) -> str:
    shown = [f"{i.key!r} {i.array.dtype} {tuple(i.array.shape)}" for i in named[:12]]
    return ", ".join(shown) + (f" and {len(named) - 12} more" if named[12:] else "")


def _is_cloud(item: _Named) -> bool:
    shape = item.array.shape
    return (
        item.array.dtype.kind in "fiu"
        and len(shape) in (2, 3)
        and 3 <= shape[-1] <= MAX_COLUMNS
        and min(shape) > 0
    )


def _is_normals(item: _Named) -> bool:
    return "normal" in item.word or item.word in _NORMALS


def _choose_clouds(
    named: list[_Named], where: str, points_key: str | None
) -> list[_Named]:
    likely = [item for item in named if _is_cloud(item)]
    if points_key is not None:
        found = [item for item in named if _has_name(item, points_key)]
        if not found:
            raise DataError(
                f"{where}: no array {points_key!r} (data.points_key); found "
                f"{_list(named)}"
            )
        return found
    found = [item for item in likely if item.word in _CLOUDS]
    if not found:
        found = [i for i in likely if not (_is_normals(i) or i.word in _OTHERS)]
        if any(len(item.array.shape) == 3 for item in found):
            found = [item for item in found if len(item.array.shape) == 3]
    if not found:
        raise DataError(_no_clouds(named, where))
    seen: dict[tuple[str | None, str], _Named] = {}
    for item in found:
        # Many arrays [point, 3] are a cloud each, whatever their names.
        place = item.split, item.group
        other = seen.setdefault(place, item)
        both = len(item.array.shape) == 3 or len(other.array.shape) == 3
        if other is not item and (both or item.word != other.word in _CLOUDS):
            raise DataError(
                f"{where}: {other.key!r} {tuple(other.array.shape)} and {item.key!r} "
                f"{tuple(item.array.shape)} could both be clouds; data.points_key="
                f"{item.key} says which"
            )
    return found


def _no_clouds(named: list[_Named], where: str) -> str:
    allowed = "allowed: [point, 3] or [shape, point, 3]"
    if len(named) == 1 and not named[0].key:
        array = named[0].array
        kind = "" if array.dtype.kind in "fiu" else f" of {array.dtype}"
        found = f"shape {tuple(array.shape)}{kind}"
    else:
        found = f"no clouds among {_list(named)}"
    turned = [
        item
        for item in named
        if len(item.array.shape) in (2, 3)
        and item.array.shape[-2] == 3
        and item.array.shape[-1] > MAX_COLUMNS
    ]
    hint = "; swap its last two axes" if turned else ""
    return f"{where}: {found}; {allowed}{hint}"


def _choose_labels(
    cloud: _Named, rest: list[_Named], where: str, label_key: str | None
) -> _Named | None:
    """Returns the array of the classes of some clouds."""
    single = len(cloud.array.shape) == 2
    num = 1 if single else cloud.array.shape[0]
    beside = [
        item
        for item in rest
        if item.group == cloud.group and item.split in (cloud.split, None)
    ]
    if label_key is not None:
        likely = [item for item in beside if _has_name(item, label_key)]
    else:
        likely = [item for item in beside if item.word in _CLASSES]
        # Names of numbers, and labels of points, are something else.
        likely = [
            item
            for item in likely
            if not _is_of_points(item, cloud)
            and not (single and item.array.shape not in ((), (1,)))
            and not (
                item.word in _NAMES
                and item.array.dtype.kind in "USO"
                and tuple(item.array.shape) not in ((num,), (num, 1))
            )
        ]
        own = [item for item in likely if item.split == cloud.split]
        likely = own or likely
    if len(likely) > 1:
        likely = _drop_names(likely)
    if len(likely) > 1:
        names = " and ".join(repr(item.key) for item in likely)
        raise DataError(
            f"{where}: {names} could both be classes; data.label_key={likely[0].key} "
            "says which"
        )
    if not likely:
        return None
    (item,) = likely
    size = int(np.prod(item.array.shape[:1]))
    if (
        size != num
        or len(item.array.shape) > 2
        or item.array.dtype.kind not in "biufUSO"
    ):
        raise DataError(
            f"{where}: {num} clouds, but class indices {item.array.dtype} of shape "
            f"{tuple(item.array.shape)} in {item.key!r}"
        )
    return item


def _is_of_points(item: _Named, cloud: _Named) -> bool:
    """Tells whether an array has a number for each point."""
    shape = tuple(item.array.shape)
    return len(shape) > 1 and shape[:2] == tuple(cloud.array.shape[:2])


def _drop_names(likely: list[_Named]) -> list[_Named]:
    """Keeps numbers where the rest are texts under a word for names of classes."""
    numbers = [item for item in likely if item.array.dtype.kind in "biuf"]
    texts = [item for item in likely if item.array.dtype.kind in "USO"]
    if len(numbers) == 1 and all(item.word in _NAMES for item in texts):
        return numbers
    return likely


def _find_names(
    named: list[_Named], where: str, used: set[str], notes: list[str]
) -> tuple[str, ...] | None:
    """Returns names of the numbers of classes, and notes where they stand."""
    for item in named:
        is_text = item.array.dtype.kind in "USO" and len(item.array.shape) == 1
        if is_text and item.word in _NAMES and item.key not in used:
            used.add(item.key)
            notes.append(f"class names are those of the array {item.key!r}")
            return clean_names(item.array[:], f"{where}, {item.key!r}")
    return None


def _why_unused(item: _Named, clouds: list[_Named]) -> str:
    if _is_normals(item):
        return "arrays of normals"
    sizes = {cloud.array.shape[0] for cloud in clouds if len(cloud.array.shape) == 3}
    shape = tuple(item.array.shape)
    if item.word in _FACES:
        return "arrays of faces, whose surface is not drawn (save meshes as .ply)"
    if item.word in _NAMES_OF_CLOUDS:
        return "arrays of names or numbers of clouds"
    if len(shape) == 1 and shape[0] in sizes and item.array.dtype.kind in "iuUS":
        return "arrays that could be classes (data.label_key)"
    if len(shape) == 2 and shape[0] in sizes and item.array.dtype.kind in "iu":
        return "arrays of labels of points"
    return "other arrays"
