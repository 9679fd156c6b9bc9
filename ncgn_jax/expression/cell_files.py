r"""Loads your own spatial transcriptomics.

Layouts:
  1. AnnData: .h5ad, or a .zarr folder (of SpatialData, its table). Expression in `X`
     or a layer, dense or sparse; positions in `obsm` or in columns of `obs`.
  2. One table with a row per cell (.csv, .tsv, .txt, each also .gz, or .parquet):
     names, positions, time, section and genes are columns.
  3. An expression matrix, genes x cells or cells x genes, and a table of coordinates.
     The axis that holds the names of its rows is that of the cells. As R writes them, a
     header may be one name shorter than the rows; each row then begins with its name.
  4. A matrix of 10x, as .h5 or as a folder of matrix.mtx, features.tsv and
     barcodes.tsv, with tissue_positions or cells beside; and the whole folders that
     Space Ranger, Xenium, MERSCOPE and CosMx write.
Tables are held in memory, so keep more than some 10^7 numbers as .h5ad. Nothing is ever
unpickled. What has a usual name (`cell_names`) is found by it, which the report says.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     file = pathlib.Path(folder, "cells.csv")
...     _ = file.write_text("ID,X,Y,Gad2,Sox10\nleft,0,0,3,7\nright,1,0,5,0\n")
...     table = load_cells(file)
>>> table.cells, table.genes, table.positions.tolist()
(('left', 'right'), ('Gad2', 'Sox10'), [[0.0, 0.0], [1.0, 0.0]])
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import scipy.sparse

from ncgn_jax.data.hdf5_check import check_hdf5
from ncgn_jax.data.report import Reading
from ncgn_jax.expression import sections as of_sections
from ncgn_jax.expression.cell_folders import CellFiles, find_files
from ncgn_jax.expression.cell_matrices import (
    Source,
    check_zarr,
    fov_names,
    import_anndata,
    is_10x_folder,
    of_table,
    read_10x_folder,
    read_anndata,
    read_hdf5,
    read_zarr,
)
from ncgn_jax.expression.cell_names import (
    CELL_COLUMNS,
    IN_TISSUE,
    SPATIAL_KEYS,
    find_axes,
    is_no_gene,
    list_some,
    make_unique,
)
from ncgn_jax.expression.cell_tables import (
    TABLE_ENDINGS,
    Table,
    check_unique,
    has_number,
    is_missing,
    is_table,
    read_table,
    to_names,
    to_numbers,
)
from ncgn_jax.expression.host_memory import require_bytes
from ncgn_jax.expression.variable_genes import most_variable, sum_counts
from ncgn_jax.faults import DataError

if TYPE_CHECKING:
    from anndata import AnnData

REPEATED_CELLS = ("refuse", "drop", "keep")
MAX_AXES = 3
# Genes that are made dense together.
_BLOCK = 512
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class CellTable:
    """Expression of single cells at known places.

    Attributes:
      positions: Place of each cell in the unit of the file, float64 [cell, dim].
      expression: Values as in the file, float32 [cell, gene], finite.
      genes: Name of each gene, all different.
      cells: Name of each cell.
      time: Time of each cell, float32 [cell]; None if no column was named.
      sections: Name of the section of each cell; None if they are of one.
      totals: Sum of all genes of the file in each cell, float64 [cell]; None if it was
        not asked for.
      layer: Layer of AnnData that was read, empty for the usual matrix.
      reading: What was found, left out and decided.
      num_repeated: Cells that equal an earlier one in place and expression.
      contents: What the table holds, a phrase each.
    """

    positions: np.ndarray
    expression: np.ndarray
    genes: tuple[str, ...]
    cells: tuple[str, ...]
    time: np.ndarray | None
    sections: tuple[str, ...] | None
    totals: np.ndarray | None
    layer: str
    reading: Reading
    num_repeated: int = 0
    contents: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> "CellTable":
        """Returns some cells, in their order."""
        return dataclasses.replace(
            self,
            positions=self.positions[rows],
            expression=self.expression[rows],
            cells=tuple(self.cells[row] for row in rows),
            time=None if self.time is None else self.time[rows],
            sections=self.sections and tuple(self.sections[row] for row in rows),
            totals=None if self.totals is None else self.totals[rows],
        )


class CellOptions(TypedDict, total=False):
    """How a file of cells is read; see `load_cells`."""

    coordinates: str | os.PathLike[str] | None
    gene_columns: Sequence[str] | None
    top_genes: int | None
    coordinate_columns: Sequence[str] | None
    time_column: str | None
    cell_column: str | None
    section_column: str
    sections: Sequence[str]
    spatial_key: str | None
    layer: str | None
    drop_missing: bool
    repeated_cells: str


class _Wanted(NamedTuple):
    """What the caller chose of a file; None leaves the choice to names."""

    columns: Sequence[str] | None
    key: str | None
    cell: str | None


class _Located(NamedTuple):
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


def load_cells(
    path: str | os.PathLike[str],
    *,
    coordinates: str | os.PathLike[str] | None = None,
    gene_columns: Sequence[str] | None = None,
    top_genes: int | None = None,
    coordinate_columns: Sequence[str] | None = None,
    time_column: str | None = None,
    cell_column: str | None = None,
    section_column: str = of_sections.AUTO,
    sections: Sequence[str] = (),
    spatial_key: str | None = None,
    layer: str | None = None,
    drop_missing: bool = False,
    repeated_cells: str = "refuse",
    with_totals: bool = False,
) -> CellTable:
    """Loads the expression and the positions of cells, in the order of the file.

    Args:
      path: Expression, or a folder that holds it; see above.
      coordinates: Table with the positions, if they are in another file. Its rows may
        be in any order; cells without expression are left out.
      gene_columns: Genes to keep, in this order. By default all but controls; in a
        table with a row per cell these are all columns that have no other use.
      top_genes: Keeps so many of all genes, those that vary most.
      coordinate_columns: One to three columns with the positions, in `coordinates`
        if given, else in the table or in `obs`. By default those with usual names, or
        positions in `obsm`.
      time_column: Column with the time of each cell, in either file.
      cell_column: Column with the names of the cells, in either file. By default the
        index of `obs`; in a table the column with a usual name, else the first one of
        `coordinates` and its matrix, else numbers.
      section_column: Column that tells sections apart; `auto` for one with a usual
        name, `none` for cells of one section.
      sections: Sections to read; () for all.
      spatial_key: Key of the positions in `obsm` of AnnData; None for a usual one.
      layer: Layer of AnnData, or `raw`; None for `X`.
      drop_missing: Leaves cells out whose place, time, section or expression is
        missing, rather than refusing them.
      repeated_cells: Treatment of cells that share place, time and section, as in some
        published tables: "refuse" them, "drop" all but the first of those that share
        their expression too (others are still refused), or "keep" them all.
      with_totals: Whether to sum the genes of each cell, before any are chosen.

    Returns:
      The cells. Values are neither scaled nor transformed.

    Raises:
      DataError: If an ending is unknown, a file unreadable or empty, a column absent,
        a name repeated, a value not a finite number, a cell without position, or if
        cells are repeated; it says where, what was found and what is allowed.
    """
    if repeated_cells not in REPEATED_CELLS:
        raise DataError(
            f"data.repeated_cells={repeated_cells!r}; allowed: "
            f"{', '.join(REPEATED_CELLS)}"
        )
    reading = Reading(path, "cells")
    files = find_files(Path(path))
    if coordinates is not None:
        _check_table(Path(coordinates))
        files = files._replace(places=Path(coordinates))
    is_asked = coordinates is not None
    wanted = _Wanted(coordinate_columns, spatial_key, cell_column)
    source, places = _read(files, wanted, layer, is_asked, reading)
    cells = _Cells(source, places, reading, drop_missing, cell_column)
    located = _locate(source, places, wanted)
    for note in located.notes:
        reading.say(note)
    for option, name in (("time_column", time_column), ("cell_column", cell_column)):
        cells.require(option, name)
    cells.leave_out_outside()
    cells.keep_located(located)
    column = cells.choose_sections(section_column, sections, located, time_column)
    if time_column is not None:
        cells.keep_numbers(time_column)
    candidates = _find_candidates(source, {*located.columns, time_column, column})
    genes, names = _choose_genes(source, candidates, gene_columns, reading)
    counted = genes
    if gene_columns is not None and with_totals:
        counted, _ = _choose_genes(source, candidates, None, Reading(path, "cells"))
    if top_genes is not None and gene_columns is None:
        name_of = dict(zip(genes, names, strict=True))
        genes, rule = most_variable(source, genes, cells.rows, top_genes)
        names = [name_of[gene] for gene in genes]
        reading.say(rule)
    expression = cells.take_expression(genes, names)
    totals = sum_counts(source, counted, cells.rows) if with_totals else None
    time = labels = None
    if time_column is not None:
        time = to_numbers(cells.column(time_column)).astype(np.float32)
    if column is not None:
        labels = to_names(cells.column(column))
    table = CellTable(
        positions=np.ascontiguousarray(located.values[cells.places]),
        expression=expression,
        genes=tuple(names),
        cells=tuple(cells.names),
        time=time,
        sections=None if labels is None else tuple(labels),
        totals=totals,
        layer=source.layer,
        reading=reading,
    )
    _warn_of_steps(table, located, reading)
    table = _treat_repeated(table, repeated_cells, source.where)
    return dataclasses.replace(
        table, contents=_describe(table, located.what, column, source)
    )


def read_anndata_file(path: Path) -> "AnnData":
    """Reads an AnnData file or zarr folder.

    Args:
      path: The file, .h5ad or .zarr.

    Raises:
      DataError: If anndata is not installed, or the file is absent or damaged.
    """
    if path.suffix.lower() not in (".h5ad", ".zarr"):
        raise DataError(f"{path}: ending {path.suffix!r}; allowed: .h5ad, .zarr")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    import_anndata(path)
    if path.is_dir():
        check_zarr(path)
    else:
        check_hdf5(path)
    content = read_anndata(path)
    if content.X is None and not content.layers:
        raise DataError(f"{path}: no expression matrix X and no layers")
    return content


class _Cells:
    """The cells that are kept so far, with their names and columns.

    Attributes:
      rows: Of the source, int [cell].
      places: Rows of the positions, int [cell].
      names: Of the cells.
    """

    def __init__(
        self,
        source: Source,
        places: Table | None,
        reading: Reading,
        drop_missing: bool,
        cell_column: str | None,
    ):
        self._source, self._places, self._reading = source, places, reading
        self._drop = drop_missing
        self.names = source.cells.names
        if cell_column in source.cells:
            self.names = to_names(source.cells.column(str(cell_column)))
        if not self.names:
            raise DataError(f"{source.where}: no cells; allowed: at least one")
        self.rows = self.places = np.arange(len(self.names))
        reading.find("cells", self.names[0], len(self.names))
        if places is not None:
            self._match(places)

    @property
    def columns(self) -> list[str]:
        """Columns of the cells, in either file."""
        others = [] if self._places is None else self._places.columns
        return [*self._source.cells.columns, *others]

    def column(self, name: str) -> np.ndarray:
        """Returns a column, [cell]."""
        if name in self._source.cells or self._places is None:
            return self._source.cells.column(name)[self.rows]
        return self._places.column(name)[self.places]

    def require(self, option: str, column: str | None) -> None:
        """Refuses a column that is named and not there."""
        if column is not None and column not in self.columns:
            raise DataError(
                f"{self._source.where}: no column {column!r} for data.{option}; "
                f"allowed: {list_some(self.columns)}"
            )

    def keep(self, kept: np.ndarray, reason: str) -> None:
        """Leaves cells out and counts them."""
        lost = np.flatnonzero(~kept)
        if not lost.size:
            return
        self._reading.leave_out(reason, self.names[lost[0]], len(lost))
        rows = np.flatnonzero(kept)
        self.rows, self.places = self.rows[rows], self.places[rows]
        self.names = [self.names[row] for row in rows]
        if not self.names:
            left_out = "; ".join(map(str, self._reading.left_out))
            raise DataError(
                f"{self._source.where}: no cell is left; left out: {left_out}"
            )

    def leave_out_outside(self) -> None:
        """Leaves out spots outside the tissue, as Space Ranger marks them."""
        if IN_TISSUE in self.columns:
            outside = to_numbers(self.column(IN_TISSUE)) == 0
            self.keep(~outside, f"spots outside the tissue ({IN_TISSUE} = 0)")

    def keep_located(self, located: _Located) -> None:
        """Refuses, or leaves out, cells without a place."""
        self._keep_finite(
            located.values[self.places],
            lambda row, axis: located.raw(self.places[row], axis),
            located,
        )

    def keep_numbers(self, column: str) -> None:
        """Refuses, or leaves out, cells without a number in a column."""
        values = self.column(column)
        table = self._source.cells
        if column not in table and self._places is not None:
            table = self._places
        where = _Located(table.where, "", "column", [column], values, _nothing)
        numbers = to_numbers(values)[:, None]
        self._keep_finite(numbers, lambda row, _: values[row], where)

    def choose_sections(
        self,
        column: str,
        asked: Sequence[str],
        located: _Located,
        time_column: str | None,
    ) -> str | None:
        """Finds the column of sections and keeps the cells of those asked for.

        Returns:
          The column, None if the cells are of one section.
        """
        positions, say = located.values[self.places], self._reading.say
        found: str | None = column
        if column == of_sections.AUTO:
            found = of_sections.choose_section_column(
                [name for name in dict.fromkeys(self.columns) if name != time_column],
                self.column,
                positions,
                say,
                self._source.section_columns,
            )
            if found is None:
                of_sections.suspect_names(self.names, positions, say)
        elif column == of_sections.NONE:
            found = None
        else:
            self.require("section_column", column)
        if found is None:
            if asked:
                raise DataError(
                    f"{self._source.where}: data.section={','.join(asked)} without a "
                    "column of sections; data.section_column names one of "
                    f"{list_some(self.columns)}"
                )
            return None
        values = self.column(found)
        labels = np.asarray(to_names(values))
        without = np.asarray([is_missing(label) for label in labels])
        if without.any() and not self._drop:
            raise DataError(
                f"{self._source.where}: cell {self.names[without.argmax()]!r} has no "
                f"section in column {found!r} ({without.sum()} such cells); "
                "data.drop_missing=true leaves them out, data.section_column names "
                "another column, or `none`"
            )
        self.keep(~without, f"cells without a section ({found})")
        labels = labels[~without]
        absent = [name for name in asked if name not in set(labels)]
        if absent:
            raise DataError(
                f"{self._source.where}: no section {list_some(absent)} in column "
                f"{found!r}; allowed: {list_some(np.unique(labels))}"
            )
        if asked:
            self.keep(np.isin(labels, asked), "cells of other sections")
        return found

    def take_expression(self, genes: Sequence[int], names: Sequence[str]) -> np.ndarray:
        """Returns the expression of some genes, float32 [cell, gene], finite."""
        source, shape = self._source, (len(self.names), len(genes))
        require_bytes(
            2 * 4 * shape[0] * shape[1],
            f"{source.where}: {shape[0]:,} cells x {shape[1]:,} genes",
            "data.genes=top:500",
        )
        out = np.empty(shape, np.float32)
        # Rows with bad entries, and the first entry that is refused.
        is_bad, num_bad = np.zeros(shape[0], bool), 0
        refused: tuple[int, int] | None = None
        for start, part in _blocks(source, genes, self.rows):
            block = out[:, start : start + part.shape[1]]
            with np.errstate(over="ignore"):  # overflow becomes infinite
                block[:] = part
            bad = np.argwhere(~np.isfinite(block))
            num_bad += len(bad)
            for row, column in bad.tolist():
                is_bad[row] = True
                gene = start + column
                raw = source.raw(genes[gene], self.rows[row])
                if not (self._drop and is_missing(raw)):
                    refused = min(refused or (row, gene), (row, gene))
        if refused is not None:
            row, gene = refused
            name, raw = self.names[row], source.raw(genes[gene], self.rows[row])
            raise DataError(
                _not_finite(source.where, name, "gene", names[gene], raw, num_bad)
            )
        self.keep(~is_bad, "cells with a missing value")
        return out if not num_bad else np.ascontiguousarray(out[~is_bad])

    def _keep_finite(
        self, values: np.ndarray, raw: Callable[[int, int], object], located: _Located
    ) -> None:
        bad = np.argwhere(~(np.abs(values) <= _LARGEST))
        wrong = [(r, c) for r, c in bad if not (self._drop and is_missing(raw(r, c)))]
        if wrong:
            row, column = wrong[0]
            raise DataError(
                _not_finite(
                    located.where,
                    self.names[row],
                    located.kind,
                    located.labels[column],
                    raw(row, column),
                    len(bad),
                )
            )
        kept = np.ones(len(values), bool)
        kept[bad[:, 0]] = False
        what = "time" if not located.what else "place"
        self.keep(kept, f"cells without a {what}")

    def _match(self, places: Table) -> None:
        """Finds the row of each cell in the table of positions."""
        source, wanted, known = self._source.cells, self.names, places.names
        if len(set(wanted)) < len(wanted) or not set(wanted) & set(known):
            # CosMx numbers cells anew in each field of view.
            own, other = fov_names(source), fov_names(places)
            if own is not None and other is not None:
                wanted, known = own, other
                self.names = own
                self._reading.say("cells are named by fov and cell_ID together")
        check_unique(known, places.where, "cell")
        check_unique(wanted, self._source.where, "cell")
        row_of = {name: row for row, name in enumerate(known)}
        found = np.asarray([row_of.get(name, -1) for name in wanted])
        unused = set(range(len(known))) - set(found.tolist())
        if unused:
            first = known[min(unused)]
            self._reading.leave_out("places without expression", first, len(unused))
        self.places, absent = found, found < 0
        if wanted is not source.names and absent.any():
            outside = absent & np.asarray([name.endswith("_0") for name in wanted])
            self.keep(~outside, "counts outside of cells (cell_ID 0)")
            absent = self.places < 0
        if absent.any() and not self._drop:
            names = [
                name
                for name, is_lost in zip(self.names, absent, strict=True)
                if is_lost
            ]
            raise DataError(
                f"{places.where}: no coordinates of {len(names)} of {len(self.names)} "
                f"cells of {self._source.where}: {list_some(names)}; "
                "data.drop_missing=true leaves them out"
            )
        self.keep(~absent, "cells without coordinates")


def _nothing(row: int, column: int) -> object:
    return None


def _not_finite(
    where: str, cell: str, kind: str, label: str, raw: object, count: int
) -> str:
    way = ""
    if is_missing(raw):
        way = "; data.drop_missing=true leaves out cells whose values are missing"
    return (
        f"{where}: cell {cell!r}, {kind} {label!r} is {str(raw)!r} ({count} such "
        f"entries); allowed: finite float32 numbers{way}"
    )


def _check_table(path: Path) -> None:
    if not is_table(path):
        raise DataError(
            f"{path}: ending {path.suffix!r}; allowed: {', '.join(TABLE_ENDINGS)}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")


def _read(
    files: CellFiles,
    wanted: _Wanted,
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
    files: CellFiles, wanted: _Wanted, is_asked: bool
) -> tuple[Source, Table | None]:
    places = None
    beside = files.places is not None
    table = read_table(files.expression, wanted.cell, first_column=beside)
    columns = wanted.columns or ()
    has_own = bool(columns) and set(columns) <= set(table.columns)
    if files.places is not None and (
        is_asked or not (has_own or find_axes(table.columns))
    ):
        places = read_table(files.places, wanted.cell, first_column=True)
    return of_table(table, wanted.cell, places), places


def _has_places(source: Source, wanted: _Wanted) -> bool:
    """Tells whether a file has positions of its own."""
    if wanted.columns is not None:
        return set(wanted.columns) <= set(source.cells.columns)
    if wanted.key is not None or set(SPATIAL_KEYS) & set(source.places):
        return True
    return bool(find_axes(source.cells.columns))


def _locate(source: Source, places: Table | None, wanted: _Wanted) -> _Located:
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
    return _Located(
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


def _of_obsm(source: Source, key: str, notes: tuple[str, ...]) -> _Located:
    where, places = f"{source.where}, obsm[{key!r}]", source.places[key]
    places = places.toarray() if hasattr(places, "toarray") else np.asarray(places)
    if places.ndim != 2 or not 1 <= places.shape[1] <= MAX_AXES:
        raise DataError(f"{where}: shape {places.shape}; allowed: [cell, 1 to 3]")
    return _Located(
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
        keys = f"data.spatial_key out of {list_some(source.places)}, "
        raise DataError(
            f"{where}: no positions by a usual name; name them with "
            f"{keys if source.places else ''}data.coordinate_columns out of "
            f"{list_some(columns)}, or give a table of them as data.coordinates"
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


def _find_candidates(source: Source, used: set[str | None]) -> list[int]:
    """Returns the numbers of what may be genes."""
    if source.matrix is not None:
        return list(range(len(source.genes)))
    used = {*used, source.cells.name_column}
    return [
        number
        for number, column in enumerate(source.genes)
        if column not in used and column.lower() not in CELL_COLUMNS
    ]


def _choose_genes(
    source: Source,
    candidates: Sequence[int],
    chosen: Sequence[str] | None,
    reading: Reading,
) -> tuple[list[int], list[str]]:
    """Returns numbers and names of the genes to read."""
    where, names = source.where, [source.genes[i] for i in candidates]
    unique = make_unique(names)
    if chosen is not None:
        if names:
            reading.find("genes", names[0], len(names))
        return _find_genes(where, candidates, names, unique, list(chosen))
    kept, own = [], []
    for number, name, other in zip(candidates, names, unique, strict=True):
        if number in source.controls:
            reading.leave_out(source.controls[number], name)
        elif source.matrix is None and is_no_gene(name):
            reading.leave_out("columns that by their names are no genes", name)
        elif not _has_number(source, number):
            reading.leave_out("columns without a number", name)
        else:
            kept.append(number)
            own.append(other)
    if not kept:
        raise DataError(
            f"{where}: no genes; allowed: one or more of {list_some(names)}, by "
            "data.genes"
        )
    reading.find("genes", own[0], len(own))
    renamed = [
        name
        for name, number in zip(own, kept, strict=True)
        if name != source.genes[number]
    ]
    if renamed:
        reading.say(
            f"{len(renamed):,} genes have the name of an earlier one and are called "
            f"{list_some(renamed, 3)}"
        )
    return kept, own


def _find_genes(
    where: str,
    candidates: Sequence[int],
    names: Sequence[str],
    unique: Sequence[str],
    chosen: list[str],
) -> tuple[list[int], list[str]]:
    """Returns the genes that are asked for, in that order."""
    counts = Counter(names)
    number_of = dict(zip(unique, candidates, strict=True))
    absent = [gene for gene in chosen if gene not in number_of]
    if absent or not chosen:
        raise DataError(
            f"{where}: {'no gene ' + list_some(absent) if absent else 'no genes'}; "
            f"allowed: one or more of {list_some(names)}"
        )
    check_unique(chosen, f"{where}, data.genes", "gene")
    double = [gene for gene in chosen if counts[gene] > 1]
    if double:
        raise DataError(
            f"{where}: gene {double[0]!r} appears {counts[double[0]]} times; leave it "
            "out of data.genes, or give the genes of the file different names (in "
            "AnnData by `var_names_make_unique()`)"
        )
    return [number_of[gene] for gene in chosen], chosen


def _has_number(source: Source, gene: int) -> bool:
    """Tells whether any cell has a number for a candidate."""
    if source.matrix is None:
        return has_number(source.cells.values[gene])
    if isinstance(source.matrix, np.ndarray) and source.matrix.dtype.kind == "O":
        return has_number(source.matrix[:, gene])
    return True


def _blocks(
    source: Source, genes: Sequence[int], rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first number and the dense expression of some genes at a time."""
    is_sparse = scipy.sparse.issparse(source.matrix)
    matrix = source.sparse(genes, rows).tocsc() if is_sparse else None
    for start in range(0, len(genes), _BLOCK):
        if matrix is not None:
            yield start, matrix[:, start : start + _BLOCK].toarray()
        else:
            yield start, source.take(genes[start : start + _BLOCK], rows)


def _warn_of_steps(table: CellTable, located: _Located, reading: Reading) -> None:
    """Says if positions in float32 are too coarse for how near the cells lie."""
    if not located.is_single or len(table.cells) < 2:
        return
    largest = float(np.abs(table.positions).max())
    step = float(np.spacing(np.float32(largest)))
    extent = float(np.ptp(table.positions, axis=0).max())
    spacing = extent / np.sqrt(len(table.cells))
    if spacing > 0 and step > 0.01 * spacing:
        reading.say(
            f"positions are float32 in the file: steps of {step:g} at {largest:g}, "
            f"where cells are some {spacing:g} apart"
        )


def _treat_repeated(table: CellTable, policy: str, where: str) -> CellTable:
    """Refuses, drops or counts cells that share place, time and section."""
    keys: list[np.ndarray] = [table.positions + 0.0]  # -0 becomes 0
    if table.time is not None:
        keys.append(table.time[:, None])
    if table.sections is not None:
        keys.append(np.unique(table.sections, return_inverse=True)[1][:, None])
    _, first, group = np.unique(
        np.concatenate(keys, axis=1), axis=0, return_index=True, return_inverse=True
    )
    first = first[group.reshape(-1)]  # of each cell, the first one at its place
    later = np.flatnonzero(first != np.arange(len(first)))
    if not later.size:
        return table
    same = (table.expression[later] == table.expression[first[later]]).all(axis=1)
    if policy == "keep":
        return dataclasses.replace(table, num_repeated=int(same.sum()))
    refused = later if policy == "refuse" else later[~same]
    if refused.size:
        one, other = first[refused[0]], refused[0]
        raise DataError(
            f"{where}: cells {table.cells[one]!r} and {table.cells[other]!r} are both "
            f"at {table.positions[one].tolist()} ({len(later)} such cells, "
            f"{(~same).sum()} of them with another expression); allowed: one cell per "
            "place, time and section, data.repeated_cells='drop' if none differs, or "
            "'keep'; data.section_column tells sections apart"
        )
    table.reading.leave_out("repeated cells", table.cells[later[0]], len(later))
    return table.take(np.setdiff1d(np.arange(len(first)), later))


def _describe(
    table: CellTable, places: str, column: str | None, source: Source
) -> tuple[str, ...]:
    """Returns what a table holds, a phrase each."""
    genes = ", ".join(table.genes[:6])
    more = f" and {len(table.genes) - 6:,} more" if len(table.genes) > 6 else ""
    low, high = table.positions.min(axis=0), table.positions.max(axis=0)
    extents = " x ".join(f"{size:.6g}" for size in high - low)
    values = table.expression
    is_whole = all(
        np.array_equal(part, np.round(part))
        for part in np.array_split(values, max(1, values.size // 10**7))
    )
    kind = "whole numbers" if is_whole else "numbers"
    of_layer = f" of layer {table.layer!r}" if source.layer else ""
    found = [
        f"{len(table.genes):,} genes ({genes}{more})",
        f"expression{of_layer}: {kind}, {values.min():.6g} to {values.max():.6g}",
        f"positions: {places}, {table.positions.shape[1]}-D, {extents} in the "
        "unit of the file",
    ]
    if table.sections is not None:
        names, counts = np.unique(table.sections, return_counts=True)
        shown = [f"{n} {c:,}" for n, c in zip(names, counts, strict=True)]
        most = ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")
        found.append(f"{len(names):,} sections of column {column!r}: {most}")
    return tuple(found)
