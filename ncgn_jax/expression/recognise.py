"""Recognises files of cells and of profiles by names and first lines."""

import gzip
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from ncgn_jax.data.archives import SPOILT
from ncgn_jax.data.parquet import open_parquet
from ncgn_jax.data.text_tables import read_header
from ncgn_jax.expression.cell_folders import (
    OF_OTHER_PROGRAMS,
    holds_cells,
    places_beside,
)
from ncgn_jax.expression.cell_names import CELL_COLUMNS, find_axes, is_no_gene
from ncgn_jax.expression.cell_tables import is_table
from ncgn_jax.faults import DataError

_CELLS = {"data.source": "cells"}
_MATRIX = ("feature_bc_matrix", "feature_matrix", "gene_bc_matri", "probe_bc_matri")
_LONGEST_HEADER = 2**22
# Columns of point clouds beside their coordinates.
_OF_POINTS = frozenset(
    ("r", "g", "b", "a", "red", "green", "blue", "alpha", "nx", "ny", "nz", "intensity")
)


def recognise(path: Path) -> dict[str, Any] | None:
    """Returns the fields that load a path besides `data.path`; None for other data."""
    name = path.name.lower()
    if path.is_dir():
        return dict(_CELLS) if holds_cells(path) else None
    # Other programs' files are refused with a way to convert them.
    if name.endswith((".h5ad", ".h5ad.gz", *OF_OTHER_PROGRAMS)):
        return dict(_CELLS)
    if name.endswith((".h5", ".hdf5", ".h5.gz")):
        return dict(_CELLS) if any(word in name for word in _MATRIX) else None
    if name.endswith(".npz"):
        return {"data.source": "profiles"} if _holds_profiles(path) else None
    if not is_table(path):
        return None
    if places_beside(path) is not None or _is_cell_table(_header(path)):
        return dict(_CELLS)
    return None


def _holds_profiles(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except SPOILT:
        return False
    return {"expression", "genes"} <= names and bool(names & {"time", "age_minutes"})


def _is_cell_table(columns: list[str]) -> bool:
    """Tells whether columns are positions, and others that may be genes."""
    found = find_axes(columns)
    if not found:
        return False
    used = {column for axes in found for column in axes}
    others = [column for column in columns if column not in used]
    genes = [c for c in others if not is_no_gene(c) and c.lower() not in _OF_POINTS]
    named = any(column.lower() in CELL_COLUMNS for column in others)
    return len(genes) > 1 or (named and len(genes) > 0)


def _header(path: Path) -> list[str]:
    """Returns the header of a table, split; nothing if it cannot be read."""
    if path.suffix.lower() == ".parquet":
        try:
            with open_parquet(path, path) as file:
                return list(map(str, file.schema_arrow.names))
        except DataError:
            return []
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as file:
            line = read_header(cast(BinaryIO, file), _LONGEST_HEADER)
    except SPOILT:
        return []
    delimiter = max("\t,;", key=line.count)
    return [part.strip().strip('"') for part in line.strip("\r\n").split(delimiter)]
