"""Reads tables in .parquet files through pyarrow, whose errors are told in words."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ncgn_jax.data.host_memory import available_bytes, require_bytes
from ncgn_jax.data.optional import import_optional
from ncgn_jax.data.stand_ins import refuse_stand_in_file
from ncgn_jax.faults import DataError

RecordBatch = Any  # of pyarrow
ParquetFile = Any  # of pyarrow
Table = Any  # of pyarrow
_ROWS_AT_ONCE = 1024


def open_parquet(source: Path | BinaryIO, where: object) -> ParquetFile:
    """Opens a file, whose footer is read.

    Args:
      source: The file, or a stream of it.
      where: Its name, for messages.

    Returns:
      A `pyarrow.parquet.ParquetFile`, to be closed.

    Raises:
      DataError: If it is absent or damaged, or if pyarrow is not installed.
    """
    parquet = import_optional("pyarrow.parquet", "parquet", where)
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"{where}: no such file; allowed: a .parquet file")
    if isinstance(source, Path):
        refuse_stand_in_file(source, where)
    with told_in_words(where):
        return parquet.ParquetFile(source)


def read_batches(
    file: ParquetFile,
    where: object,
    num_rows: int,
    columns: Sequence[str] | None = None,
) -> Iterator[RecordBatch]:
    """Reads some rows at a time.

    Args:
      file: The file.
      where: Its name, for messages.
      num_rows: Most rows of a batch.
      columns: Names of the columns to read, None for all.

    Raises:
      DataError: If the file is damaged.
    """
    with told_in_words(where):
        batches = file.iter_batches(num_rows, columns=columns)
    while True:
        # What is done with a batch is not pyarrow's.
        with told_in_words(where):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def read_all_rows(
    file: ParquetFile, where: object, columns: Sequence[str] | None = None
) -> Table:
    """Reads all rows, as long as they fit into memory.

    A few bytes may stand for many rows, and the sizes in the footer may be wrong, so
    what was read is counted too.

    Args:
      file: The file.
      where: Its name, for messages.
      columns: Names of the columns to read, None for all.

    Raises:
      DataError: If the file is damaged or its rows would not fit.
    """
    arrow = import_optional("pyarrow", "parquet", where)
    what, ways_out = f"{where}: its rows", "fewer rows or columns"
    with told_in_words(where):
        schema = file.schema_arrow
        if columns is None:
            require_bytes(_announced_bytes(file), what, ways_out)
    free = available_bytes()
    batches, total = [], 0
    for batch in read_batches(file, where, _ROWS_AT_ONCE, columns):
        batches.append(batch)
        total += batch.nbytes
        require_bytes(total, what, ways_out, free=free)
    with told_in_words(where):
        kept = schema if columns is None else arrow.schema(map(schema.field, columns))
        return arrow.Table.from_batches(batches, kept)


def _announced_bytes(file: ParquetFile) -> int:
    """Returns the unpacked size of all columns, as the footer has it.

    That of one column is not asked for: where the column is encrypted, or the footer
    damaged, pyarrow would end the program.
    """
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    return sum(group.total_byte_size for group in groups)


@contextlib.contextmanager
def told_in_words(where: object) -> Iterator[None]:
    """Turns what pyarrow raises for damaged files, of many kinds, into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{where}: not readable as .parquet ({type(error).__name__}: {error})"
        ) from error
