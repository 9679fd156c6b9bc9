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
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ncgn_jax.faults import MachineError

# What Python makes of the bytes of a name that it cannot decode.
_SURROGATES = re.compile("[\\ud800-\\udfff]")


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
        with named_errors(path), unfinished.open("x+b") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the name of a file to errors of writing it, which do not know it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder in which nothing can be written; leaves nothing behind.

    Args:
      folder: The folder; if it is absent, it must be possible to make it.

    Raises:
      MachineError: With the reason.
    """
    folder = Path(folder)
    if _SURROGATES.search(str(folder)):
        raise MachineError(
            f"{str(folder)!a}: not a name in UTF-8, as checkpoints need; allowed: "
            "another folder, or PYTHONUTF8=1 where the name is right"
        )
    made: list[Path] = []
    try:
        for place in (*reversed(folder.parents), folder):
            if place.exists() and not place.is_dir():
                raise MachineError(f"{folder}: {place} is a file; allowed: a folder")
            if not place.exists():
                place.mkdir()
                made.append(place)
        # Only a write tells: rights say little as root and on network disks.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise MachineError(f"{folder}: cannot be written to ({reason})") from error
    finally:
        for place in reversed(made):
            place.rmdir()


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a text in UTF-8, whole or not at all; returns the path."""
    with whole_file(path) as file:
        file.write(text.encode())
    return Path(path)
