"""Reads tables of cells: .csv, .tsv, .txt, each also .gz, and .parquet.

A `Table` has named rows and columns and converts those that are asked for, so that a
column of text is in nobody's way.
"""

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsFloat

import numpy as np

from ncgn_jax.data.parquet import open_parquet, read_all_rows, told_in_words
from ncgn_jax.data.text_tables import may_be_thousands, read_lines
from ncgn_jax.expression.cell_names import CELL_COLUMNS, IN_TISSUE, is_no_gene
from ncgn_jax.faults import DataError

TEXT_ENDINGS = (".csv", ".tsv", ".txt")
TABLE_ENDINGS = (*TEXT_ENDINGS, *(f"{e}.gz" for e in TEXT_ENDINGS), ".parquet")
# What stands for a value that was not measured.
_MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "<na>", "nat", "-"))
_WITH_COMMA = re.compile(r"\s*[+-]?\d*(,\d+)?([eE][+-]?\d+)?\s*")
_WITH_POINT = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")
# Columns of tissue_positions_list.csv of Space Ranger, which has no header.
_SPACE_RANGER = (
    "barcode",
    IN_TISSUE,
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with named rows, not yet converted.

    Attributes:
      where: Its place, for messages.
      names: Name of each row.
      columns: Name of each column, maybe repeated.
      values: A column each, of any type, [row].
      name_column: Column that names the rows, if it is one of `columns`.
      note: What was decided by a rule while reading, empty for nothing.
    """

    where: str
    names: list[str]
    columns: list[str]
    values: Sequence[np.ndarray]
    name_column: str | None = None
    note: str = ""

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def column(self, name: str) -> np.ndarray:
        """Returns a column as it is; DataError if several have its name."""
        if self.columns.count(name) != 1:
            count = self.columns.count(name)
            raise DataError(
                f"{self.where}: column {name!r} appears {count} times; allowed: once"
            )
        return self.values[self.columns.index(name)]

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Returns columns as numbers, NaN for what is none, float64 [row, column]."""
        columns = [to_numbers(self.column(name)) for name in names]
        return np.stack(columns, axis=1) if columns else np.empty((len(self.names), 0))

    def take(self, rows: np.ndarray) -> "Table":
        """Returns some rows, in their order."""
        return dataclasses.replace(
            self,
            names=[self.names[row] for row in rows],
            values=[column[rows] for column in self.values],
        )


def empty_table(where: str, names: list[str]) -> Table:
    """Returns a table without columns."""
    return Table(where, names, [], [])


def is_table(path: Path) -> bool:
    """Tells whether a file has the ending of a table."""
    return path.name.lower().endswith(TABLE_ENDINGS)


def read_table(path: Path, cell_column: str | None, *, first_column: bool) -> Table:
    """Reads a table and finds the column, if any, that names its rows.

    Args:
      path: A text table or .parquet.
      cell_column: The column, None to find it by its name.
      first_column: Whether the first column names the rows if no usual one does.

    Raises:
      DataError: If the file is unreadable, empty or no table.
    """
    if path.suffix.lower() == ".parquet":
        columns, values = _read_parquet(path)
        return _named(str(path), columns, values, cell_column, first_column)
    columns, rows, notes = _read_text(path)
    fields = np.empty((len(rows), len(rows[0])), dtype=object)
    fields[:] = rows
    if fields.shape[1] > len(columns) and cell_column not in columns:
        names, values = to_names(fields[:, 0]), list(fields[:, 1:].T)
        table = Table(str(path), names, columns, values)
    else:
        values = list(fields[:, fields.shape[1] - len(columns) :].T)
        table = _named(str(path), columns, values, cell_column, first_column)
    values, note = _with_points(table)
    note = "; ".join(filter(None, [*notes, note, table.note]))
    return dataclasses.replace(table, values=values, note=note)


def to_numbers(values: np.ndarray) -> np.ndarray:
    """Converts any array to float64, NaN for what is no number."""
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    try:
        return values.astype(np.float64)
    except (ValueError, TypeError):
        convert = np.vectorize(_to_float, otypes=[np.float64])
        return convert(values.astype(object)) if values.size else np.zeros(values.shape)


def has_number(values: np.ndarray) -> bool:
    """Tells whether there is any number in an array."""
    if values.dtype.kind in "biuf":
        return bool(np.isfinite(values).any())
    return any(np.isfinite(_to_float(value)) for value in values)


def is_missing(value: object) -> bool:
    """Tells whether a value stands for one that was not measured."""
    return str(value).strip().lower() in _MISSING


def to_names(values: Iterable[object]) -> list[str]:
    """Returns values as names; whole numbers are written without a point."""
    return [_to_name(value) for value in values]


def check_unique(names: Sequence[str], where: str, kind: str) -> None:
    """Refuses names that appear more than once."""
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise DataError(
            f"{where}: {kind} {name!r} appears {count} times; allowed: once"
        )


def _read_text(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Returns header, rows, and notes on what was decided."""
    try:
        text = read_lines(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    lines, wrong, notes = text.lines, text.wrong, list[str]()
    if text.encoding == "latin-1":
        notes.append(f"{path}: not UTF-8 but Latin-1")
    if text.num_comments:
        count = f"{text.num_comments} line{'s' * (text.num_comments > 1)}"
        notes.append(f"{path}: {count} of comments above the header")
    if lines and _is_space_ranger(lines[0][1]):
        # No header, which might be a name shorter than its rows.
        others = (line for line in lines if len(line[1]) != len(_SPACE_RANGER))
        wrong = wrong or next(others, None)
        if wrong is None:
            notes.append(
                f"{path}: no header, read as Space Ranger's tissue_positions_list"
            )
            rows = [line for _, line in lines]
            return list(_SPACE_RANGER), rows, notes
    elif len(lines) < 2:
        raise DataError(f"{path}: {'a header alone' if lines else 'empty file'}")
    if max(len(line) for _, line in lines[:2]) < 2:
        raise DataError(f"{path}: no tab, comma or semicolon in the first two lines")
    columns = to_names(lines[0][1])
    if wrong is not None:
        number, line = wrong
        raise DataError(
            f"{path}, line {number}: {len(line)} fields; allowed: {len(columns)} as in "
            f"the header, or {len(columns) + 1} in all rows if they begin with a name"
        )
    return columns, [line for _, line in lines[1:]], notes


def _with_points(table: Table) -> tuple[list[np.ndarray], str]:
    """Reads commas as decimal points where they can be nothing else.

    `1,234` may also be a thousand and more, so that some number has to tell: one with
    other than three digits behind its comma, or with nothing or 0 before it. Where a
    number has a point, commas are none.

    Returns:
      The columns, and what was decided, empty for nothing.

    Raises:
      DataError: If it is not clear what the commas in a column are.
    """
    values = list(table.values)
    found = {
        i: column
        for i, column in enumerate(values)
        if table.columns[i] != table.name_column
        and any("," in text for text in column)
        and all(_WITH_COMMA.fullmatch(text) or is_missing(text) for text in column)
    }
    if not found:
        return values, ""
    has_points = any(_WITH_POINT.fullmatch(text) for part in values for text in part)
    if has_points or not any(map(_tells_decimal_comma, found.values())):
        for i, column in found.items():
            if not (_tells_decimal_comma(column) or is_no_gene(table.columns[i])):
                first = next(text for text in column if "," in text)
                raise DataError(
                    f"{table.where}: column {table.columns[i]!r} has {first!r}, which "
                    "may be a fraction or thousands; allowed: decimal points, and no "
                    "mark for thousands"
                )
        return values, ""
    for i, column in found.items():
        values[i] = np.asarray([text.replace(",", ".") for text in column], object)
    first = table.columns[next(iter(found))]
    count = f"{len(found):,} column{'s' * (len(found) > 1)}"
    return values, (
        f"{table.where}: commas in {count} (first {first!r}) are decimal points"
    )


def _tells_decimal_comma(column: np.ndarray) -> bool:
    return any("," in text and not may_be_thousands(text) for text in column)


def _is_space_ranger(line: list[str]) -> bool:
    return (
        len(line) == len(_SPACE_RANGER)
        and line[1] in ("0", "1")
        and bool(np.isfinite(to_numbers(np.array(line[2:], dtype=object))).all())
    )


def _read_parquet(path: Path) -> tuple[list[str], list[np.ndarray]]:
    with open_parquet(path, path) as file, told_in_words(path):
        content = read_all_rows(file, path)
        columns = [_to_name(name) for name in content.column_names]
        values = [_of_arrow(content.column(i)) for i in range(len(columns))]
    if not columns or not content.num_rows:
        raise DataError(f"{path}: empty table")
    return columns, values


def _of_arrow(column: object) -> np.ndarray:
    values = np.asarray(column.to_numpy())  # type: ignore[attr-defined]
    if values.dtype.kind == "O":
        # Xenium writes names as bytes.
        text = [v.decode() if isinstance(v, bytes) else v for v in values]
        values = np.empty(len(text), dtype=object)
        values[:] = text
    return values


def _named(
    where: str,
    columns: list[str],
    values: Sequence[np.ndarray],
    cell_column: str | None,
    first_column: bool,
) -> Table:
    """Finds the column that names the rows."""
    note, name_column = "", None
    usual = [column for column in columns if column.lower() in CELL_COLUMNS]
    if cell_column in columns:
        name_column = cell_column
    elif usual:
        name_column = usual[0]
    elif first_column:
        name_column = columns[0]
    elif _are_names(values[0]):
        name_column = columns[0]
        note = f"cells have the names of the first column, {name_column!r}"
    names = [str(row) for row in range(1, len(values[0]) + 1)]
    if name_column is not None:
        names = to_names(values[columns.index(name_column)])
    return Table(where, names, columns, values, name_column, note)


def _are_names(values: np.ndarray) -> bool:
    """Tells whether values are texts, all different."""
    if np.isfinite(to_numbers(values)).any() or any(map(is_missing, values)):
        return False
    return len(set(map(str, values))) == len(values)


def _to_float(value: str | SupportsFloat) -> float:
    try:
        return float(value)
    except (ValueError, TypeError):
        return np.nan


def _to_name(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip()
