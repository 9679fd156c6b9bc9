"""Writes files that nobody ever sees half-written.

Example:
  >>> import pathlib, tempfile
  >>> from ncgn_jax.data.whole_files import whole_file, write_whole
  >>> path = pathlib.Path(tempfile.mkdtemp()) / "run" / "note.txt"
  >>> with whole_file(path) as file:
  ...     _ = file.write(b"done")
  ...     path.exists()
  False
  >>> path.read_text()
  'done'
  >>> write_whole(path, "again").read_text()
  'again'
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name when the block has ended.

    If the block fails, the file is removed and what was at `path` before stays. Two
    processes that write the same path do not disturb each other: the later one stays.

    Args:
      path: Path to write to; missing folders are made.

    Yields:
      An empty file, open for writing and reading in binary.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because only there can it be renamed in one step.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with unfinished.open("x+b") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a text in UTF-8, whole or not at all; returns the path."""
    with whole_file(path) as file:
        file.write(text.encode())
    return Path(path)
