"""Keeps the cells of a file that can be used, and counts the others by reason."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from ncgn_jax.data.host_memory import require_bytes
from ncgn_jax.data.report import Reading
from ncgn_jax.expression import sections as of_sections
from ncgn_jax.expression.cell_genes import dense_blocks
from ncgn_jax.expression.cell_matrices import Source, fov_names
from ncgn_jax.expression.cell_names import IN_TISSUE, list_some
from ncgn_jax.expression.cell_places import Located
from ncgn_jax.expression.cell_tables import (
    Table,
    check_unique,
    is_missing,
    to_names,
    to_numbers,
)
from ncgn_jax.faults import DataError

_LARGEST = float(np.finfo(np.float32).max)


class KeptCells:
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

    def keep_located(self, located: Located) -> None:
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
        where = Located(table.where, "", "column", [column], values, _nothing)
        numbers = to_numbers(values)[:, None]
        self._keep_finite(numbers, lambda row, _: values[row], where)

    def choose_sections(
        self,
        column: str,
        asked: Sequence[str],
        located: Located,
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
            {"data.genes": "top:500"},
        )
        out = np.empty(shape, np.float32)
        # Rows with bad entries, and the first entry that is refused.
        is_bad, num_bad = np.zeros(shape[0], bool), 0
        refused: tuple[int, int] | None = None
        for start, part in dense_blocks(source, genes, self.rows):
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
        self, values: np.ndarray, raw: Callable[[int, int], object], located: Located
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
    elif re.fullmatch(r"\s*-?\d+,\d+\s*", str(raw)):
        way = ", with a decimal point"
    return (
        f"{where}: cell {cell!r}, {kind} {label!r} is {str(raw)!r} ({count} such "
        f"entries); allowed: finite float32 numbers{way}"
    )
