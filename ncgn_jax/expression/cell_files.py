r"""Loads your own spatial transcriptomics: .h5ad, .csv, .tsv or .txt.

Layouts:
  1. AnnData (.h5ad): expression in `X`, dense or sparse, positions in
     `obsm[spatial_key]` or in columns of `obs`, time in a column of `obs`.
  2. One text table with a row per cell; names, positions, time and genes are columns.
  3. An expression matrix, genes x cells or cells x genes, and a table `coordinates`
     with columns ID, X, Y and, for volumes, Z. The axis that holds the IDs is that of
     the cells. As R writes them, a header may be one name shorter than the rows;
     each row then begins with its name.
Text is separated by tabs or commas and held in memory, so keep more than some 10^7
numbers as .h5ad. Nothing is ever unpickled.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     file = pathlib.Path(folder, "cells.csv")
...     _ = file.write_text("ID,X,Y,Gad2,Sox10\nleft,0,0,3,7\nright,1,0,5,0\n")
...     table = load_cells(file)
>>> table.cells, table.genes, table.positions.tolist()
(('left', 'right'), ('Gad2', 'Sox10'), [[0.0, 0.0], [1.0, 0.0]])
"""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, SupportsFloat

import numpy as np

from ncgn_jax.data.hdf5_check import check_hdf5
from ncgn_jax.data.text_tables import read_lines
from ncgn_jax.faults import DataError

if TYPE_CHECKING:
    from anndata import AnnData

TEXT_EXTENSIONS = (".csv", ".tsv", ".txt")
ANNDATA_EXTENSION = ".h5ad"
CELL_COLUMNS = ("", "id", "cell", "cell_id", "cell_name", "barcode")
AXES = ("x", "y", "z")
REPEATED_CELLS = ("refuse", "drop", "keep")


@dataclasses.dataclass(frozen=True)
class CellTable:
    """Expression of single cells at known places.

    Attributes:
      positions: Place of each cell in the unit of the file, float32 [cell, dim].
      expression: Values as in the file, float32 [cell, gene], finite.
      genes: Name of each gene, all different.
      cells: Name of each cell, all different.
      time: Time of each cell, float32 [cell]; None if no column was named.
      source: Files, sizes, and counts of what was left out, in one line.
    """

    positions: np.ndarray
    expression: np.ndarray
    genes: tuple[str, ...]
    cells: tuple[str, ...]
    time: np.ndarray | None
    source: str


class _Choice(NamedTuple):
    """Columns that the caller chose; None leaves the choice to their names."""

    genes: Sequence[str] | None
    places: Sequence[str] | None
    time: str | None
    cell: str | None


class _Table(NamedTuple):
    """A table with named rows and columns, not yet converted."""

    where: str
    names: list[str]
    columns: list[str]
    fields: np.ndarray  # objects, [row, column]
    name_column: str | None = None

    def take(self, columns: Sequence[str], kind: str = "column") -> np.ndarray:
        """Converts columns to numbers, [row, column]; rows must be cells."""
        fields = self.fields[:, _find(columns, self.columns)]
        return _to_finite(fields, self.names, columns, self.where, kind)

    def take_time(self, column: str | None) -> np.ndarray | None:
        """Returns a column as numbers, [row], or None if the table lacks it."""
        return self.take([column])[:, 0] if column in self.columns else None


class _Cells(NamedTuple):
    """Cells of one file."""

    where: str
    names: list[str]
    positions: np.ndarray  # [cell, dim]; [cell, 0] if the file has none
    time: np.ndarray | None  # [cell]; None if the file has none
    genes: list[str]
    expression: np.ndarray  # [cell, gene]


def load_cells(
    path: str | os.PathLike[str],
    *,
    coordinates: str | os.PathLike[str] | None = None,
    gene_columns: Sequence[str] | None = None,
    coordinate_columns: Sequence[str] | None = None,
    time_column: str | None = None,
    cell_column: str | None = None,
    spatial_key: str = "spatial",
    repeated_cells: str = "refuse",
) -> CellTable:
    """Loads the expression and the positions of cells, in the order of the file.

    Args:
      path: Expression, .h5ad, .csv, .tsv or .txt.
      coordinates: Text table with the positions, if they are in another file. Its
        rows may be in any order; cells without expression are left out.
      gene_columns: Genes to keep, in this order. By default all; in a text table
        with a row per cell these are all columns that have no other use.
      coordinate_columns: One to three columns with the positions, in `coordinates`
        if given, else in the table or in `obs`. By default x, y and, if present, z in
        upper or lower case, and `obsm[spatial_key]` in AnnData.
      time_column: Column with the time of each cell, in either file.
      cell_column: Column with the names of the cells, in either file. By default the
        index of `obs`; in text the column called id, cell, cell_id, cell_name, barcode
        or nothing, else the first one of `coordinates` and its matrix, else numbers.
      spatial_key: Key of the positions in `obsm` of AnnData.
      repeated_cells: Treatment of cells that share place and time, as in some
        published tables: "refuse" them, "drop" all but the first of those that share
        their expression too (others are still refused), or "keep" them all.

    Returns:
      The cells. Values are neither scaled nor transformed.

    Raises:
      DataError: If an ending is unknown, a file unreadable or empty, a column absent,
        a name repeated, a value not a finite number, a cell without position, or if
        cells are repeated; it says where, what was found and what is allowed.
    """
    if repeated_cells not in REPEATED_CELLS:
        raise DataError(
            f"repeated_cells={repeated_cells!r}; allowed: {', '.join(REPEATED_CELLS)}"
        )
    choice = _Choice(gene_columns, coordinate_columns, time_column, cell_column)
    path = Path(path)
    _check_file(path, (*TEXT_EXTENSIONS, ANNDATA_EXTENSION))
    files, places = str(path), None
    if coordinates is not None:
        _check_file(Path(coordinates), TEXT_EXTENSIONS)
        places = _read_text(Path(coordinates), choice.cell, first_column=True)
        files += f" with {places.where}"
    if path.suffix.lower() == ANNDATA_EXTENSION:
        cells, columns = _read_anndata(path, choice, spatial_key, places is None)
    else:
        table = _read_text(path, choice.cell, first_column=places is not None)
        cells, columns = _read_expression(table, choice, places)
    columns = columns + (places.columns if places else [])
    for option, name in (("time_column", time_column), ("cell_column", cell_column)):
        if name is not None and name not in columns:
            raise DataError(
                f"{files}: no column {name!r} for {option}; allowed: "
                f"{_list_some(columns)}"
            )
    num_unused = len(places.names) - len(cells.names) if places else 0
    cells = _locate(cells, places, choice) if places else cells
    cells, num_dropped = _treat_repeated(cells, repeated_cells)
    return CellTable(
        positions=np.ascontiguousarray(cells.positions),
        expression=np.ascontiguousarray(cells.expression),
        genes=tuple(cells.genes),
        cells=tuple(cells.names),
        time=cells.time,
        source=f"{files}: {len(cells.names)} cells, {len(cells.genes)} genes, "
        f"{cells.positions.shape[1]}-D; left out: {num_dropped} repeated cells, "
        f"{num_unused} places without expression",
    )


def _check_file(path: Path, allowed: tuple[str, ...]) -> None:
    if path.suffix.lower() not in allowed:
        raise DataError(
            f"{path}: ending {path.suffix!r}; allowed: {', '.join(allowed)}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")


def _read_text(path: Path, cell_column: str | None, first_column: bool) -> _Table:
    """Reads a text table and finds the column, if any, that names its rows."""
    try:
        lines, wrong = read_lines(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table in UTF-8 ({error})") from error
    if len(lines) < 2:
        raise DataError(f"{path}: {'a header alone' if lines else 'empty file'}")
    if max(len(line) for _, line in lines[:2]) < 2:
        raise DataError(f"{path}: no tab and no comma in the first two lines")
    columns, width = _to_names(lines[0][1]), len(lines[1][1])
    few, many = len(columns), len(columns) + 1
    if wrong is not None:
        number, line = wrong
        raise DataError(
            f"{path}, line {number}: {len(line)} fields; allowed: {few} as in the "
            f"header, or {many} in all rows if they begin with a name"
        )
    _check_unique(columns, str(path), "column")
    fields = np.array([line for _, line in lines[1:]], dtype=object)
    name_column: str | None
    if cell_column in columns:
        name_column = cell_column
    elif width > len(columns):
        return _Table(str(path), _to_names(fields[:, 0]), columns, fields[:, 1:])
    else:
        usual = [column for column in columns if column.lower() in CELL_COLUMNS]
        usual += columns[:1] if first_column else []
        name_column = usual[0] if usual else None
    fields = fields[:, width - few :]
    names: Iterable[object] = range(1, len(fields) + 1)
    if name_column is not None:
        names = fields[:, columns.index(name_column)]
    return _Table(str(path), _to_names(names), columns, fields, name_column)


def _read_expression(
    table: _Table, choice: _Choice, places: _Table | None
) -> tuple[_Cells, list[str]]:
    """Reads a matrix either way round; returns the cells, and all other columns."""
    if places is not None and not _cells_are_rows(table, choice.cell, places):
        _check_unique(table.names, table.where, "gene")
        names = [column for column in table.columns if column != table.name_column]
        fields = table.fields[:, _find(names, table.columns)].T
        flipped = _Table(table.where, names, table.names, fields)
        genes = _choose_genes(table.names, choice.genes, table.where)
        expression = flipped.take(genes, "gene")
        nowhere = np.empty((len(names), 0), np.float32)
        return _Cells(table.where, names, nowhere, None, genes, expression), []
    axes = [] if places else _find_axes(table, choice.places)
    used = {table.name_column, choice.time, *axes}
    used |= {column for column in table.columns if column.lower() in CELL_COLUMNS}
    genes = [column for column in table.columns if column not in used]
    genes = _choose_genes(genes, choice.genes, table.where)
    positions = np.empty((len(table.names), 0), np.float32)
    if axes:
        positions = table.take(axes)
    time, expression = table.take_time(choice.time), table.take(genes, "gene")
    cells = _Cells(table.where, table.names, positions, time, genes, expression)
    return cells, table.columns


def read_anndata_file(path: Path) -> "AnnData":
    """Reads an AnnData file that has a matrix of expression.

    Args:
      path: The file, .h5ad.

    Raises:
      DataError: If anndata is not installed, or the file is absent or damaged.
    """
    _check_file(path, (ANNDATA_EXTENSION,))
    try:
        import anndata  # an optional extra for this format
    except ImportError as error:
        raise DataError(
            f"{path}: .h5ad needs anndata, which does not import ({error}); "
            "`pip install 'ncgn_jax[anndata]'`, or export the table as .csv"
        ) from error
    check_hdf5(path)
    try:
        content = anndata.read_h5ad(path)
    except Exception as error:  # anndata passes on errors of h5py, zarr and pandas
        raise DataError(f"{path}: not readable as .h5ad ({error!r})") from error
    if content.X is None:
        raise DataError(f"{path}: no expression matrix X")
    return content


def _read_anndata(
    path: Path, choice: _Choice, spatial_key: str, with_places: bool
) -> tuple[_Cells, list[str]]:
    content = read_anndata_file(path)
    columns, found = _to_names(content.obs.columns), _to_names(content.var_names)
    _check_unique(columns, f"{path}, obs", "column")
    _check_unique(found, str(path), "gene")
    # As objects, so that categories, dates and texts all go through one check.
    fields = content.obs.to_numpy(dtype=object)
    names = content.obs_names
    if choice.cell in columns:
        names = fields[:, columns.index(choice.cell)]
    obs = _Table(f"{path}, obs", _to_names(names), columns, fields)
    genes = _choose_genes(found, choice.genes, str(path))
    values = content.X[:, _find(genes, found)]
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    positions = np.empty((len(obs.names), 0), np.float32)
    if with_places and choice.places is not None:
        positions = obs.take(_find_axes(obs, choice.places))
    elif with_places:
        positions = _read_spatial(content.obsm, spatial_key, obs)
    expression = _to_finite(values, obs.names, genes, str(path), "gene")
    time = obs.take_time(choice.time)
    return _Cells(str(path), obs.names, positions, time, genes, expression), columns


def _read_spatial(
    obsm: Mapping[str, np.ndarray], spatial_key: str, obs: _Table
) -> np.ndarray:
    where = f"{obs.where}m[{spatial_key!r}]"
    if spatial_key not in obsm:
        raise DataError(
            f"{where}: no such positions; allowed: spatial_key out of "
            f"{_list_some(obsm)}, or coordinate_columns of obs, or coordinates"
        )
    places = np.asarray(obsm[spatial_key])
    if places.ndim != 2 or not 1 <= places.shape[1] <= len(AXES):
        raise DataError(f"{where}: shape {places.shape}; allowed: [cell, 1 to 3]")
    return _to_finite(places, obs.names, AXES[: places.shape[1]], where, "axis")


def _cells_are_rows(table: _Table, cell_column: str | None, places: _Table) -> bool:
    if cell_column in table.columns:
        return True
    known = set(places.names)
    in_rows = sum(name in known for name in table.names)
    in_columns = sum(name in known for name in table.columns)
    if in_rows == in_columns:
        raise DataError(
            f"{table.where}: {in_rows} rows and {in_columns} columns named like cells "
            f"of {places.where} (rows {_list_some(table.names, 3)}; columns "
            f"{_list_some(table.columns, 3)}; cells {_list_some(places.names, 3)}); "
            "allowed: cells in rows or in columns"
        )
    return in_rows > in_columns


def _find_axes(table: _Table, chosen: Sequence[str] | None) -> list[str]:
    columns, where = table.columns, table.where
    if chosen is not None:
        different = set(chosen) & set(columns)
        if not 1 <= len(chosen) <= len(AXES) or len(different) < len(chosen):
            raise DataError(
                f"{where}: coordinate_columns={chosen}; allowed: one to three of the "
                f"columns {_list_some(columns)}"
            )
        return list(chosen)
    found = {axis: [c for c in columns if c.lower() == axis] for axis in AXES}
    twice = [names for names in found.values() if len(names) > 1]
    if twice or not (found["x"] and found["y"]):
        problem = f"both {' and '.join(twice[0])}" if twice else "no columns x and y"
        raise DataError(
            f"{where}: {problem} for the positions; name them with coordinate_columns, "
            f"or give a coordinates file; columns found: {_list_some(columns)}"
        )
    return [names[0] for names in found.values() if names]


def _choose_genes(
    found: list[str], chosen: Sequence[str] | None, where: str
) -> list[str]:
    chosen = found if chosen is None else list(chosen)
    known = set(found)
    absent = [gene for gene in chosen if gene not in known]
    if absent or not chosen:
        raise DataError(
            f"{where}: {'no gene ' + _list_some(absent) if absent else 'no genes'}; "
            f"allowed: one or more of {_list_some(found)}"
        )
    _check_unique(chosen, f"{where}, gene_columns", "gene")
    return chosen


def _to_finite(
    values: np.ndarray, cells: list[str], columns: Sequence[str], where: str, kind: str
) -> np.ndarray:
    """Converts [cell, column] to float32 and refuses what is not a finite number."""
    _check_unique(cells, where, "cell")
    if not values.size:
        raise DataError(f"{where}: no cells; allowed: at least one")
    to_numbers = np.vectorize(_to_float, otypes=[np.float64])
    numbers = values if values.dtype.kind in "biuf" else to_numbers(values)
    with np.errstate(over="ignore"):  # overflow becomes infinite, hence refused
        numbers = numbers.astype(np.float32)
    bad = np.argwhere(~np.isfinite(numbers))
    if bad.size:
        row, column = bad[0]
        raise DataError(
            f"{where}: cell {cells[row]!r}, {kind} {columns[column]!r} is "
            f"{str(values[row, column])!r} ({len(bad)} such entries); allowed: finite "
            "float32 numbers"
        )
    return numbers


def _to_float(value: str | SupportsFloat) -> float:
    try:
        return float(value)
    except (ValueError, TypeError):
        return np.nan


def _locate(cells: _Cells, places: _Table, choice: _Choice) -> _Cells:
    """Adds positions to the cells, and the time if only their table has it."""
    _check_unique(places.names, places.where, "cell")
    known = set(places.names)
    absent = [name for name in cells.names if name not in known]
    if absent:
        raise DataError(
            f"{places.where}: no coordinates of {len(absent)} of {len(cells.names)} "
            f"cells of {cells.where}: {_list_some(absent)}"
        )
    rows = _find(cells.names, places.names)
    places = places._replace(names=cells.names, fields=places.fields[rows])
    positions = places.take(_find_axes(places, choice.places))
    time = places.take_time(choice.time) if cells.time is None else cells.time
    return cells._replace(positions=positions, time=time)


def _treat_repeated(cells: _Cells, policy: str) -> tuple[_Cells, int]:
    """Returns the cells, and the number dropped because they share place and time."""
    keys = cells.positions + np.float32(0)  # -0 becomes 0
    if cells.time is not None:
        keys = np.column_stack([keys, cells.time])
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first = first[group.reshape(-1)]  # of each cell, the first one at its place
    is_repeated = first != np.arange(len(first))
    if policy == "keep" or not is_repeated.any():
        return cells, 0
    differs = (cells.expression != cells.expression[first]).any(axis=1)
    refused = np.flatnonzero(is_repeated if policy == "refuse" else differs)
    if refused.size:
        one, other = first[refused[0]], refused[0]
        raise DataError(
            f"{cells.where}: cells {cells.names[one]!r} and {cells.names[other]!r} are "
            f"both at {cells.positions[one].tolist()} ({is_repeated.sum()} such cells, "
            f"{differs.sum()} of them with another expression); allowed: one cell per "
            f"place and time, repeated_cells='drop' if none differs, or 'keep'"
        )
    kept = np.flatnonzero(~is_repeated)
    return cells._replace(
        names=[cells.names[row] for row in kept],
        positions=cells.positions[kept],
        time=None if cells.time is None else cells.time[kept],
        expression=cells.expression[kept],
    ), len(cells.names) - len(kept)


def _check_unique(names: Sequence[str], where: str, kind: str) -> None:
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise DataError(
            f"{where}: {kind} {name!r} appears {count} times; allowed: once"
        )


def _find(names: Sequence[str], among: Sequence[str]) -> list[int]:
    place_of = {name: place for place, name in enumerate(among)}
    return [place_of[name] for name in names]


def _to_names(values: Iterable[object]) -> list[str]:
    return [str(value).strip() for value in values]


def _list_some(names: Iterable[str], most: int = 8) -> str:
    names = [repr(str(name)) for name in names]
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
