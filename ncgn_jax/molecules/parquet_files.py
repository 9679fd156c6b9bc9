"""Reads molecules from .parquet files, of which only the needed columns are read."""

import itertools
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ncgn_jax.data.parquet import (
    RecordBatch,
    open_parquet,
    read_batches,
    told_in_words,
)
from ncgn_jax.molecules.text_tables import (
    Row,
    Wanted,
    check_columns,
    find_columns,
    find_split_column,
)

_NUM_LOOKED_AT = 100  # rows that decide
_BATCH = 10_000
_ANY = Wanted()


class ParquetTable:
    """Reads a table of columns.

    Attributes:
      names: Names of all columns.
      smiles: Name of the column of SMILES.
      about: Where SMILES stand, a phrase.
      notes: What was decided by a rule, a sentence each.
      split_column: Name of the column of splits, None without one.
    """

    has_header = True

    def __init__(self, stream: BinaryIO, where: str, wanted: Wanted = _ANY):
        """Looks at the first rows; arguments as those of `text_tables.TextTable`.

        Raises:
          DataError: If the file is damaged, if there is no column of SMILES, several,
            or not those asked for, or if pyarrow is not installed.
        """
        self._where, self._properties = where, wanted.properties
        self._file = open_parquet(stream, where)
        first = next(read_batches(self._file, where, _NUM_LOOKED_AT), None)
        self.names = tuple(self._file.schema_arrow.names)
        sample = [] if first is None else self._to_rows(first, self.names)
        columns = find_columns([list(self.names), *sample], False, wanted.smiles)
        columns = columns._replace(names=self.names, has_header=True)
        check_columns(columns, where, wanted)
        self.smiles = self.names[columns.smiles[0]]
        self.about = f"SMILES in column {self.smiles!r}"
        how = f"{where}: {self.about}, {columns.how}"
        self.notes = [how] if columns.how else []
        self.split_column = find_split_column(self.names, sample, where, wanted.split)

    def rows(self) -> Iterator[Row]:
        """Reads the rows, numbered from 1.

        Raises:
          DataError: If the file is damaged.
        """
        asked = (self.smiles, *self._properties, self.split_column)
        names = list(dict.fromkeys(name for name in asked if name is not None))
        numbers = itertools.count(1)
        for batch in read_batches(self._file, self._where, _BATCH, names):
            for fields in self._to_rows(batch, names):
                row = dict(zip(names, fields, strict=True))
                values = {name: row[name].strip() for name in self._properties}
                split = None
                if self.split_column is not None:
                    split = row[self.split_column].strip()
                yield Row(next(numbers), row[self.smiles].strip(), values, split)

    def _to_rows(self, batch: RecordBatch, names: Sequence[str]) -> list[list[str]]:
        """Returns the fields of some rows as texts, empty where there is none."""
        known = batch.schema.names
        with told_in_words(self._where):
            columns = [batch.column(known.index(name)).to_pylist() for name in names]
        rows = zip(*columns, strict=True)
        return [["" if value is None else str(value) for value in row] for row in rows]
