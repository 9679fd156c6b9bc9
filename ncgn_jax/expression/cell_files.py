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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ncgn_jax.data.hdf5_check import check_hdf5
from ncgn_jax.data.report import Reading
from ncgn_jax.expression import sections as of_sections
from ncgn_jax.expression.cell_folders import find_files
from ncgn_jax.expression.cell_genes import (
    choose_genes,
    find_candidates,
    most_variable,
    sum_counts,
)
from ncgn_jax.expression.cell_matrices import (
    Source,
    import_anndata,
    read_anndata,
)
from ncgn_jax.expression.cell_places import (
    Located,
    Wanted,
    check_table,
    locate,
    read_files,
)
from ncgn_jax.expression.cell_tables import to_names, to_numbers
from ncgn_jax.expression.kept_cells import KeptCells
from ncgn_jax.expression.zarr_folders import check_zarr
from ncgn_jax.faults import DataError

if TYPE_CHECKING:
    from anndata import AnnData

REPEATED_CELLS = ("refuse", "drop", "keep")


@dataclasses.dataclass(frozen=True)
class CellTable:
    """Expression of single cells at known places.

    Attributes:
      positions: Place of each cell in the unit of the file, float64 [cell, dim];
        rounded as float32 where the cells lie far enough apart.
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
        check_table(Path(coordinates))
        files = files._replace(places=Path(coordinates))
    is_asked = coordinates is not None
    wanted = Wanted(coordinate_columns, spatial_key, cell_column)
    source, places = read_files(files, wanted, layer, is_asked, reading)
    cells = KeptCells(source, places, reading, drop_missing, cell_column)
    located = locate(source, places, wanted)
    for note in located.notes:
        reading.say(note)
    for option, name in (("time_column", time_column), ("cell_column", cell_column)):
        cells.require(option, name)
    cells.leave_out_outside()
    cells.keep_located(located)
    column = cells.choose_sections(section_column, sections, located, time_column)
    if time_column is not None:
        cells.keep_numbers(time_column)
    candidates = find_candidates(source, {*located.columns, time_column, column})
    genes, names = choose_genes(source, candidates, gene_columns, reading)
    counted = genes
    if gene_columns is not None and with_totals:
        counted, _ = choose_genes(source, candidates, None, Reading(path, "cells"))
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
        positions=_rounded(located.values[cells.places]),
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


def _rounded(positions: np.ndarray) -> np.ndarray:
    """Rounds positions as float32, in float64, unless that would move cells.

    Runs know their data by the bits, and those of earlier versions had float32.
    """
    rounded = positions.astype(np.float32).astype(np.float64)
    spacing = np.ptp(positions, axis=0).max() / np.sqrt(len(positions))
    is_near = np.abs(rounded - positions).max() <= 1e-4 * spacing
    return np.ascontiguousarray(rounded if is_near else positions)


def _warn_of_steps(table: CellTable, located: Located, reading: Reading) -> None:
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
