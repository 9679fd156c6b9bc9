"""Loads pictures from Parquet tables, as Hugging Face's data sets are stored.

A column holds the bytes of a picture in each row, alone or as `{bytes, path}`; another
its class, a number or a text. Files of a folder are of the part that their names say
(`data/train-00000-of-00002.parquet`). Names of classes come from the metadata that
`datasets` writes, where there are any. Row groups are read one after the other.
"""

import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ncgn_jax.data.file_trees import open_tree
from ncgn_jax.data.labels import RawLabels
from ncgn_jax.data.parquet import (
    open_parquet,
    read_all_rows,
    read_batches,
    told_in_words,
)
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_in
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_names import says_split
from ncgn_jax.images.labels import read_labels
from ncgn_jax.images.picture_files import (
    AS_STORED,
    PictureFile,
    PictureOptions,
    PictureReader,
)
from ncgn_jax.images.sets import ImageDataset, num_held_out
from ncgn_jax.images.splitting import choose_parts, join_parts
from ncgn_jax.images.units import ImageUnits

_LABEL_WORDS = frozenset(
    ("label", "labels", "y", "target", "targets", "class", "classes", "category")
)
_ROWS = 256  # pictures in memory at once, as stored


class Columns(NamedTuple):
    """The columns of a table that are used.

    Attributes:
      image: Name of the column of pictures.
      in_struct: Whether it holds `{bytes, path}`.
      label: Name of the column of classes, None without.
      class_names: Names of the classes, None if the table names none.
    """

    image: str
    in_struct: bool
    label: str | None
    class_names: tuple[str, ...] | None


def load_parquet(
    path: str | os.PathLike[str],
    options: PictureOptions = AS_STORED,
    test_fraction: float = 0.1,
    seed: int = 0,
    image_key: str | None = None,
    label_key: str | None = None,
) -> ImageDataset:
    """Loads the pictures of a Parquet table or of a folder of them.

    Args:
      path: The file or folder.
      options: How pictures are taken.
      test_fraction: Share of each class held out if there is no test part.
      seed: Seed of that split.
      image_key: Name of the column of pictures; None for the only one.
      label_key: Name of the column of classes; None for the only one.

    Raises:
      DataError: If a file is not readable, if columns are absent or several could be
        one thing, or if pictures are unreadable.
    """
    root = Path(path)
    options.check()
    num_held_out(1, test_fraction)  # a wrong share is refused before reading
    reading = Reading(root, "images")
    files = _find_files(root, reading)
    tables = [
        (file, split_in(file.stem) or "", open_parquet(file, file)) for file in files
    ]
    try:
        columns = _find_columns(root, tables[0][2], image_key, label_key)
        for file, _, table in tables:
            _check_like(root, file, table, columns)
        for file, _, table in tables:
            _refuse_split_column(root, file, table)
        for note in _notes(tables[0][2], columns, root):
            reading.say(note)
        sizes: dict[str, int] = {}
        for file, part, table in tables:
            count = table.metadata.num_rows
            sizes[part] = sizes.get(part, 0) + count
            reading.find(f"rows in .parquet files of part {part or 'all'!r}",
                         _below(root, file), count)  # fmt: skip
        choice = choose_parts(sizes, reading)
        used = [choice.train] + ([choice.test] if choice.test is not None else [])
        classes, names = _read_classes(root, tables, used, columns, reading)
        reader = PictureReader(options, reading)
        read = []
        for part, own in zip(used, classes, strict=True):
            rows = _pictures(root, tables, part, own, columns)
            read.append(reader.read(rows, len(own)))
    finally:
        for _, _, table in tables:
            table.close()
    contents = reader.finish()
    if not len(read[0][0]):
        raise DataError(f"{root}: no usable image; allowed: at least one")
    name = root.stem if root.is_file() else root.resolve().name
    units = ImageUnits(127.5, 127.5)
    return join_parts(
        name, read, names, reading, choice.rule, test_fraction, seed, units, contents
    )


def has_pictures(path: Path) -> bool:
    """Tells whether a Parquet file has a column that may hold pictures.

    Raises:
      DataError: If it is not readable, or pyarrow is missing.
    """
    with open_parquet(path, path) as table:
        return bool(_image_columns(table.schema_arrow))


def _find_files(root: Path, reading: Reading) -> list[Path]:
    if root.is_file():
        return [root]
    with open_tree(root) as tree:
        tree.count_hidden(reading)
        found = []
        for file in tree.files:
            if file.below.suffix.lower() == ".parquet":
                found.append(root / file.name)
            else:
                reading.leave_out("files that are no .parquet", file.name)
    if not found:
        raise DataError(f"{root}: no .parquet file; allowed: at least one")
    return found


def _image_columns(schema: Any) -> dict[str, bool]:
    """Returns the columns that may hold pictures, and whether in `{bytes, path}`."""
    found = {}
    for field in schema:
        kind = str(field.type)
        if re.fullmatch(r"(large_)?binary", kind):
            found[field.name] = False
        elif kind.startswith("struct<") and re.search(
            r"\bbytes: (large_)?binary", kind
        ):
            found[field.name] = True
    return found


def _find_columns(
    root: Path, table: Any, image_key: str | None, label_key: str | None
) -> Columns:
    schema = table.schema_arrow
    all_names = ", ".join(schema.names)
    images = _image_columns(schema)
    if image_key is not None:
        images = {name: kind for name, kind in images.items() if name == image_key}
    if len(images) != 1:
        found = f"columns {', '.join(images)}" if images else "no column"
        asked = f", data.image_key={image_key!r}" if image_key is not None else ""
        raise DataError(
            f"{root}: {found} of pictures as bytes{asked}; found {all_names}; allowed: "
            "one, or its name in data.image_key"
        )
    ((image, in_struct),) = images.items()
    features = _features(schema)
    fitting = [
        field.name
        for field in schema
        if re.fullmatch(r"u?int\d+|float|double|bool|(large_)?string|dictionary.*",
                        str(field.type))
    ]  # fmt: skip
    if label_key is not None:
        if label_key not in fitting:
            raise DataError(
                f"{root}: data.label_key={label_key!r}; found {all_names}; allowed: "
                f"{', '.join(fitting) or 'no column can be classes'}"
            )
        return Columns(image, in_struct, label_key, features.get(label_key))
    likely = [name for name in fitting if name in features]
    likely += [
        name
        for name in fitting
        if name not in likely and set(re.split(r"[\W_]+", name.lower())) & _LABEL_WORDS
    ]
    if len(likely) > 1:
        raise DataError(
            f"{root}: columns {', '.join(likely)} could be the classes; allowed: one, "
            "or its name in data.label_key"
        )
    label = likely[0] if likely else None
    return Columns(image, in_struct, label, features.get(label) if label else None)


def _features(schema: Any) -> dict[str, tuple[str, ...]]:
    """Returns the names of classes of columns, as `datasets` stores them."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"].items()
        return {
            name: tuple(map(str, kind["names"]))
            for name, kind in features
            if kind.get("_type") == "ClassLabel" and isinstance(kind["names"], list)
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _refuse_split_column(root: Path, file: Path, table: Any) -> None:
    for field in table.schema_arrow:
        if str(field.type) in ("string", "large_string") and field.name.lower() in (
            "split",
            "subset",
            "partition",
            "set",
        ):
            values = set(_column(table, field.name, f"{root}: {_below(root, file)}"))
            if says_split(values):
                raise DataError(
                    f"{root}: column {field.name!r} names a part for each row; "
                    "allowed: a file for each part, such as train.parquet and "
                    "test.parquet"
                )


def _notes(table: Any, columns: Columns, root: Path) -> Iterator[str]:
    others = [
        name
        for name in table.schema_arrow.names
        if name not in (columns.image, columns.label)
    ]
    label = columns.label
    yield f"pictures are in column {columns.image!r}, classes " + (
        f"in {label!r}" if label else "in none, so there is one (data.label_key)"
    )
    if others:
        yield f"columns that are not read: {', '.join(others)}"


def _check_like(root: Path, file: Path, table: Any, columns: Columns) -> None:
    names = set(table.schema_arrow.names)
    needed = {columns.image} | ({columns.label} if columns.label else set())
    if not needed <= names or columns.image not in _image_columns(table.schema_arrow):
        missing = ", ".join(sorted(map(str, needed - names))) or columns.image
        raise DataError(
            f"{root}: {_below(root, file)} has no column {missing} like the first; "
            "allowed: the same columns in all files"
        )


def _read_classes(
    root: Path,
    tables: Sequence[tuple[Path, str, Any]],
    used: Sequence[str],
    columns: Columns,
    reading: Reading,
) -> tuple[list[np.ndarray], Sequence[str] | None]:
    """Reads the classes of the used parts, and their names."""
    if columns.label is None:
        counts = [
            sum(t.metadata.num_rows for _, p, t in tables if p == part) for part in used
        ]
        return [np.zeros(count, np.int32) for count in counts], ("image",)
    raw = []
    for part in used:
        where = f"{root}, column {columns.label!r}"
        values: list[Any] = []
        for file, of_file, table in tables:
            if of_file == part:
                values += _column(table, columns.label, f"{root}: {_below(root, file)}")
        if None in values:
            raise DataError(
                f"{where}: row {values.index(None)} has no class; allowed: a class in "
                "each row"
            )
        raw.append(RawLabels(np.asarray(values), where))
    return read_labels(raw, columns.class_names, reading)


def _column(table: Any, name: str, where: str) -> list[Any]:
    with told_in_words(where):
        return read_all_rows(table, where, [name]).column(0).to_pylist()


def _pictures(
    root: Path,
    tables: Sequence[tuple[Path, str, Any]],
    part: str,
    labels: np.ndarray,
    columns: Columns,
) -> Iterator[PictureFile]:
    """Yields the pictures of a part, some rows of a file in memory at a time."""
    row = 0
    for file, of_file, table in tables:
        if of_file != part:
            continue
        name = _below(root, file)
        where = f"{root}: {name}"
        for batch in read_batches(table, where, _ROWS, [columns.image]):
            with told_in_words(where):
                values = batch.column(0).to_pylist()
            for value in values:
                content = value.get("bytes") if columns.in_struct and value else value
                yield PictureFile(
                    f"{name}, row {row}",
                    functools.partial(_content, content),
                    int(labels[row]),
                    row,
                )
                row += 1


def _content(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise DataError("no bytes of a picture in the table")
    return value


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if root.is_dir() else file.name
