"""Finds the files of cells in a folder, and what belongs to a file beside it.

Folders of Space Ranger (Visium), Xenium, MERSCOPE and CosMx have usual names; a
`.zarr` folder is one file. What is found by a name is said in the report.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ncgn_jax.data.archives import plain_name
from ncgn_jax.expression.cell_matrices import HDF5_ENDINGS, is_10x_folder
from ncgn_jax.expression.cell_names import list_some
from ncgn_jax.expression.cell_tables import TABLE_ENDINGS, TEXT_ENDINGS, is_table
from ncgn_jax.expression.zarr_folders import is_zarr
from ncgn_jax.faults import DataError

# What other programs write of cells alone, and what to do with it.
OF_OTHER_PROGRAMS = {
    ".loom": "`anndata.io.read_loom(...).write_h5ad(...)` converts it",
    ".rds": "convert it in R, for instance with `zellkonverter::writeH5AD`",
    ".h5seurat": "`SeuratDisk::Convert(..., dest='h5ad')` converts it",
    ".h5mu": "`mudata.read_h5mu(...)['rna'].write_h5ad(...)` writes one of its tables",
    ".gem": "count its transcripts per cell or bin, and write that as .h5ad",
    ".gef": "count its transcripts per cell or bin, and write that as .h5ad",
}
# The same of files that may hold anything.
_WAYS_OUT = {
    **OF_OTHER_PROGRAMS,
    ".rdata": "convert it in R, for instance with `zellkonverter::writeH5AD`",
    ".xlsx": "export the sheet as .csv",
    ".xls": "export the sheet as .csv",
    ".npz": "profiles along an axis are read by data.source=profiles",
    ".pkl": "pickled files run code; write it as .h5ad or .csv",
    ".pickle": "pickled files run code; write it as .h5ad or .csv",
    ".zip": "unpack it and name the folder",
    ".tar": "unpack it and name the folder",
    ".tgz": "unpack it and name the folder",
}
_OTHERS = (
    "coordinates",
    "coords",
    "coord",
    "locations",
    "location",
    "locs",
    "positions",
    "centroids",
    "cellcentroids",  # seqFISH+
    "metadata",
)
# Names of expression, and what the file of positions beside it is called instead.
_BESIDE = (
    ("cell_by_gene", ("cell_metadata",)),  # MERSCOPE
    ("exprMat_file", ("metadata_file",)),  # CosMx
    ("MappedDGEForR", ("BeadLocationsForR",)),  # Slide-seq
    ("expression", ("cell_coordinates", "cell_locations", *_OTHERS)),
    ("expr", _OTHERS),
    ("counts", _OTHERS),
    ("count_matrix", _OTHERS),
    ("matrix", _OTHERS),
)
# Tables of positions, by their path from the folder of a matrix of 10x.
_PLACES = ("tissue_positions", "tissue_positions_list", "cells")
_MATRIX = re.compile(
    r"(filtered|raw)_((feature|gene|probe)_)?(bc|cell)_matri(x|ces)"
    r"|cell_feature_matrix",
    re.IGNORECASE,
)
_TABLE = re.compile(r"cell_by_gene|exprMat_file|MappedDGEForR", re.IGNORECASE)


class CellFiles(NamedTuple):
    """Where expression and positions lie.

    Attributes:
      expression: File, or folder of zarr or 10x.
      places: Table of positions, None if nothing beside looks like one.
      notes: What was decided by a rule.
    """

    expression: Path
    places: Path | None
    notes: tuple[str, ...]


def name_of(path: Path) -> str:
    """Returns the name of a file without its endings, or that of a folder."""
    name = path.resolve().name
    for ending in sorted((*TABLE_ENDINGS, *HDF5_ENDINGS, ".zarr"), key=len)[::-1]:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def find_files(path: Path) -> CellFiles:
    """Finds the files that a path stands for.

    Raises:
      DataError: If there are none, several, or the ending is unknown.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and not is_zarr(path) and not is_10x_folder(path):
        return _of_folder(path)
    if path.is_file():
        check_ending(path)
    return CellFiles(path, places_beside(path), ())


def check_ending(path: Path) -> None:
    """Refuses a file with an ending that no reader knows."""
    name = path.name.lower()
    if name.endswith((*TABLE_ENDINGS, *HDF5_ENDINGS)):
        return
    ending = plain_name(path).suffix.lower() or path.suffix
    way = _WAYS_OUT.get(ending, "")
    allowed = ", ".join((*TEXT_ENDINGS, ".parquet", *HDF5_ENDINGS[:2]))
    raise DataError(
        f"{path}: ending {path.suffix!r}; allowed: {allowed}, text also with .gz, a "
        f"folder of 10x or .zarr{'; ' + way if way else ''}"
    )


def places_beside(path: Path) -> Path | None:
    """Returns the table of positions that usually lies beside expression."""
    if _MATRIX.search(path.name) or is_10x_folder(path):
        folders = [path.parent / "spatial", path.parent]
        if path.is_dir():
            folders = [path / "spatial", path, *folders]
        for folder in folders:
            for name in _PLACES:
                for ending in (".parquet", ".csv", ".csv.gz"):
                    if (folder / f"{name}{ending}").is_file():
                        return folder / f"{name}{ending}"
        return None
    for word, others in _BESIDE:
        if word.lower() not in path.name.lower():
            continue
        pattern = re.compile(re.escape(word), re.IGNORECASE)
        for other in others:
            beside = path.with_name(pattern.sub(other, path.name))
            for one in _same_in_other_endings(beside):
                if one.is_file() and one != path:
                    return one
    return None


def holds_cells(path: Path) -> bool:
    """Tells by names alone whether a folder holds cells."""
    if is_zarr(path):
        return any((path / n).is_dir() for n in ("obs", "tables", "table", "mod"))
    if is_10x_folder(path):
        return True
    try:
        _of_folder(path)
    except DataError:
        named = any(places_beside(one) is not None for one in _candidates(path))
        return bool(named or _annotated(path) or _bins(path))
    return True


def _of_folder(path: Path) -> CellFiles:
    for inside in ("outs", "output"):
        if not _candidates(path) and (path / inside).is_dir():
            deeper = _of_folder(path / inside)
            return deeper._replace(notes=(f"read from {inside}/", *deeper.notes))
    found = _candidates(path)
    if not found:
        bins = _bins(path)
        listed = bins or sorted(p for p in path.iterdir() if not p.name.startswith("."))
        what = "several sizes of bins" if bins else "no file of cells"
        raise DataError(
            f"{path}: {what} ({list_some(p.relative_to(path) for p in listed)}); "
            "allowed: data.path of one of them, or a folder of Visium, Xenium, "
            "MERSCOPE or CosMx, one .h5ad, or a table with its coordinates"
        )
    if len(found) > 1:
        raise DataError(
            f"{path}: {len(found)} files of cells "
            f"({list_some(p.name for p in found)}); data.path names one of them"
        )
    (one,) = found
    note, places = f"{one.name} is read in the folder", places_beside(one)
    others = [p for p in _annotated(path) if p != one]
    if others:
        note += (
            f"; data.path names another, such as {list_some(p.name for p in others)}"
        )
    return CellFiles(one, places, (note,))


def _candidates(path: Path) -> list[Path]:
    """Returns files of expression in a folder, of equal ones the better."""
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    matrices = [p for p in inside if _MATRIX.search(p.name) and _is_matrix(p)]
    if matrices:
        matrices = [p for p in matrices if "raw_" not in p.name] or matrices
        # The same counts, as one file or as three.
        return [p for p in matrices if p.is_file()] or matrices
    for kind in (
        [p for p in inside if _TABLE.search(p.name) and is_table(p)],
        _annotated(path),
        [p for p in inside if is_table(p) and places_beside(p) is not None],
    ):
        if kind:
            return kind
    return [p for p in inside if p.is_file() and is_table(p)]


def _annotated(path: Path) -> list[Path]:
    return sorted(
        p
        for p in path.iterdir()
        if p.name.lower().endswith((".h5ad", ".h5ad.gz"))
        or (p.suffix.lower() == ".zarr" and is_zarr(p))
    )


def _bins(path: Path) -> list[Path]:
    """Returns the folders of Visium HD, one for each size of its bins."""
    found = sorted(path.glob("binned_outputs/square_*"))
    return found or sorted(path.glob("square_*um"))


def _is_matrix(path: Path) -> bool:
    if path.is_dir():
        return is_10x_folder(path)
    return path.suffix.lower() in (".h5", ".hdf5")


def _same_in_other_endings(path: Path) -> Sequence[Path]:
    stem = path.name
    for ending in sorted(TABLE_ENDINGS, key=len, reverse=True):
        stem = stem.removesuffix(ending)
    return [path, *(path.with_name(f"{stem}{ending}") for ending in TABLE_ENDINGS)]
