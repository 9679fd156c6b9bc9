"""Reads tables in .parquet files through pyarrow, whose errors are told in words."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ncgn_jax.data.optional import import_optional
from ncgn_jax.faults import DataError

RecordBatch = Any  # of pyarrow
ParquetFile = Any  # of pyarrow


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
