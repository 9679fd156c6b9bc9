"""Reads the files of cells, and finds the positions in them.

Positions lie in `obsm` of AnnData, in columns, or in a table beside.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.report import Reading
from ncgn_jax.expression.cell_folders import CellFiles
from ncgn_jax.expression.cell_matrices import (
    Source,
    is_10x_folder,
    of_table,
    read_10x_folder,
    read_hdf5,
    read_zarr,
)
from ncgn_jax.expression.cell_names import (
    GENE_COLUMNS,
    SPATIAL_KEYS,
    find_axes,
    find_columns,
    list_some,
)
from ncgn_jax.expression.cell_tables import (
    TABLE_ENDINGS,
    Table,
    has_number,
    is_table,
    read_table,
    to_numbers,
)
from ncgn_jax.faults import DataError

MAX_AXES = 3
_ROWS_TRIED = 100  # for numbers, in columns that may be positions
# Keys of `obsm` with places in no tissue.
_EMBEDDING = re.compile(
    r"(X_)?(pca|umap|tsne|scvi|scanvi|diffmap|draw_graph|harmony|phate|mofa|emb)",
    re.IGNORECASE,
)


class Wanted(NamedTuple):
    """What the caller chose of a file; None leaves the choice to names."""

    columns: Sequence[str] | None
    key: str | None
    cell: str | None


class Located(NamedTuple):
    """Positions, and how to speak of them."""

    where: str
    what: str
    kind: str  # of a label: column or axis
    labels: Sequence[str]
    values: np.ndarray  # float64 [row, axis], NaN for what is no number
    raw: Callable[[int, int], object]
    columns: tuple[str, ...] = ()  # of a table, that are used
    notes: tuple[str, ...] = ()
    is_single: bool = False  # whether the file has them in float32


def check_table(path: Path) -> None:
    """Refuses a path that is no table."""
    if not is_table(path):
        raise DataError(
            f"{path}: ending {path.suffix!r}; allowed: {', '.join(TABLE_ENDINGS)}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")


def read_files(
    files: CellFiles,
    wanted: Wanted,
    layer: str | None,
    is_asked: bool,
    reading: Reading,
) -> tuple[Source, Table | None]:
    """Reads expression, and positions that lie in a file of their own.

    Args:
      files: Where they lie.
      wanted: What was chosen of them.
      layer: Layer of AnnData.
      is_asked: Whether the caller named the file of positions.
      reading: Takes the notes.
    """
    path, notes = files.expression, list(files.notes)
    if is_table(path):
        source, places = _read_tables(files, wanted, is_asked)
        if layer is not None:
            raise DataError(f"{path}: data.layer={layer!r}; allowed in AnnData alone")
    else:
        if is_10x_folder(path):
            if layer is not None:
                raise DataError(
                    f"{path}: data.layer={layer!r}; allowed in AnnData alone"
                )
            source = read_10x_folder(path)
        elif path.is_dir():
            source = read_zarr(path, layer)
        else:
            source = read_hdf5(path, layer)
        places = None
        if files.places is not None and (is_asked or not _has_places(source, wanted)):
            places = read_table(files.places, wanted.cell, first_column=True)
    if places is not None:
        if not is_asked:
            notes.append(f"positions are read from {places.where} beside")
        if places.note:
            notes.append(places.note)
    for note in (*notes, *source.notes):
        reading.say(note)
    return source, places


def _read_tables(
    files: CellFiles, wanted: Wanted, is_asked: bool
) -> tuple[Source, Table | None]:
    places = None
    beside = files.places is not None
    table = read_table(files.expression, wanted.cell, first_column=beside)
    _refuse_transcripts(table, beside)
    columns = wanted.columns or ()
    has_own = bool(columns) and set(columns) <= set(table.columns)
    if files.places is not None and (
        is_asked or not (has_own or find_axes(table.columns))
    ):
        places = read_table(files.places, wanted.cell, first_column=True)
    return of_table(table, wanted.cell, places), places


def _refuse_transcripts(table: Table, beside: bool) -> None:
    """Refuses a table with a row per transcript, whose rows are no cells.

    Args:
      table: The table.
      beside: Whether positions lie in another one; a column of names in front is then
        that of a matrix of genes and cells.
    """
    for name in find_columns(table.columns, GENE_COLUMNS):
        is_in_front = beside and name == table.columns[0]
        if not is_in_front and not has_number(table.column(name)):
            raise DataError(
                f"{table.where}: column {name!r} names a gene in each row, as tables "
                "of transcripts do; allowed: a row per cell, or a matrix of genes and "
                "cells with data.coordinates (count the transcripts of each cell "
                "first, or take the matrix that the instrument wrote beside)"
            )


def _has_places(source: Source, wanted: Wanted) -> bool:
    """Tells whether a file has positions of its own."""
    if wanted.columns is not None:
        return set(wanted.columns) <= set(source.cells.columns)
    if wanted.key is not None or set(SPATIAL_KEYS) & set(source.places):
        return True
    return bool(find_axes(source.cells.columns))


def locate(source: Source, places: Table | None, wanted: Wanted) -> Located:
    """Finds the positions."""
    if wanted.key is not None and (places is not None or wanted.columns is not None):
        raise DataError(
            f"{source.where}: data.spatial_key={wanted.key!r} beside data.coordinates "
            "or data.coordinate_columns; allowed: one of them"
        )
    if places is None and wanted.columns is None:
        key, notes = _choose_key(source, wanted.key)
        if key is not None:
            return _of_obsm(source, key, notes)
    table = source.cells if places is None else places
    columns, notes = _choose_axes(table, wanted.columns, source)
    return Located(
        where=table.where,
        what=f"columns {', '.join(columns)}",
        kind="column",
        labels=columns,
        values=table.numbers(columns),
        raw=lambda row, axis: table.column(columns[axis])[row],
        columns=tuple(columns) if places is None else (),
        notes=notes,
        is_single=all(table.column(name).dtype == np.float32 for name in columns),
    )


def _choose_key(
    source: Source, asked: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the key of positions in `obsm`, None if no usual one is there."""
    if asked is not None:
        if asked not in source.places:
            raise DataError(
                f"{source.where}, obsm[{asked!r}]: no such positions; allowed: "
                f"data.spatial_key out of {list_some(source.places)}, or "
                "data.coordinate_columns of obs, or data.coordinates"
            )
        return asked, ()
    usual = [key for key in SPATIAL_KEYS if key in source.places]
    if not usual:
        return None, ()
    if len(usual) > 1 and usual[0] != SPATIAL_KEYS[0]:
        raise DataError(
            f"{source.where}: positions in obsm {list_some(usual)}; data.spatial_key "
            "names one of them"
        )
    others = [key for key in usual[1:] if key in source.places]
    others += [
        key for key in source.places if key.startswith("spatial") and key not in usual
    ]
    notes = []
    if usual[0] != SPATIAL_KEYS[0]:
        notes.append(f"positions are obsm[{usual[0]!r}], found by its name")
    if others:
        notes.append(
            f"positions are obsm[{usual[0]!r}]; data.spatial_key names another, out of "
            f"{list_some(others)}"
        )
    return usual[0], tuple(notes)


def _of_obsm(source: Source, key: str, notes: tuple[str, ...]) -> Located:
    where, places = f"{source.where}, obsm[{key!r}]", source.places[key]
    places = places.toarray() if hasattr(places, "toarray") else np.asarray(places)
    if places.ndim != 2 or not 1 <= places.shape[1] <= MAX_AXES:
        raise DataError(f"{where}: shape {places.shape}; allowed: [cell, 1 to 3]")
    return Located(
        where=where,
        what=f"obsm[{key!r}]",
        kind="axis",
        labels="xyz"[: places.shape[1]],
        values=to_numbers(places),
        raw=lambda row, axis: places[row, axis],
        notes=notes,
        is_single=places.dtype == np.float32,
    )


def _choose_axes(
    table: Table, chosen: Sequence[str] | None, source: Source
) -> tuple[list[str], tuple[str, ...]]:
    """Returns the columns of positions and what to say of the choice."""
    columns, where = table.columns, table.where
    if chosen is not None:
        different = set(chosen) & set(columns)
        if not 1 <= len(chosen) <= MAX_AXES or len(different) < len(chosen):
            raise DataError(
                f"{where}: data.coordinate_columns={','.join(chosen)}; allowed: one to "
                f"three of the columns {list_some(columns)}"
            )
        return list(chosen), ()
    found = find_axes(columns)
    if not found:
        keys = [key for key in source.places if not _EMBEDDING.match(key)]
        ways = [f"data.spatial_key out of {list_some(keys)}"] if keys else []
        numbers = [
            name
            for name, values in zip(columns, table.values, strict=True)
            if name.strip() and has_number(np.asarray(values[:_ROWS_TRIED]))
        ]
        if numbers:
            ways.append(f"data.coordinate_columns out of {list_some(numbers)}")
        ways.append("a table of them in data.coordinates")
        hint = ""
        if ".zarr" in source.where:
            hint = "; SpatialData keeps them as shapes, whose centroids obsm may hold"
        raise DataError(
            f"{where}: no positions by a usual name; allowed: {', or '.join(ways)}"
            f"{hint}"
        )
    axes = found[0]
    twice = [
        [name for name in axes if name.lower() == one]
        for one in {name.lower() for name in axes}
    ]
    twice = [names for names in twice if len(names) > 1]
    if twice:
        raise DataError(
            f"{where}: both {' and '.join(twice[0])} for the positions; name them with "
            "data.coordinate_columns"
        )
    notes = []
    if len(found) == 1 and axes[0].lower() != "x":
        notes.append(f"positions are columns {', '.join(axes)}, found by their names")
    if len(found) > 1:
        others = "; ".join(", ".join(names) for names in found[1:])
        notes.append(
            f"positions are columns {', '.join(axes)}; data.coordinate_columns names "
            f"others, such as {others}"
        )
    return axes, tuple(notes)
