"""Reads and writes numpy files without ever unpickling anything.

A `DataError` names the file that is wrong, and the array in it.
"""

import io
import os
import tokenize
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from ncgn_jax.data.archives import SPOILT, is_hidden
from ncgn_jax.data.host_memory import require_bytes
from ncgn_jax.data.stand_ins import refuse_stand_in, refuse_stand_in_file
from ncgn_jax.data.whole_files import whole_file
from ncgn_jax.faults import DataError

_KINDS = "biufcUS"
_ALLOWED = "arrays of numbers or text; pickled files are refused"
# What numpy raises beside `zipfile` for files that were spoilt at random.
_SPOILT = (*SPOILT, ArithmeticError, SyntaxError, TypeError, tokenize.TokenError)
_MAX_LOOKED_AT = 100  # arrays of an archive


def read_npz(
    path: str | os.PathLike[str],
    required: Sequence[str] = (),
    *,
    records: bool = False,
) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` archive, compressed or not.

    Args:
      path: Path of the archive.
      required: Names of arrays that the archive must hold.
      records: Whether arrays may hold records of numbers.

    Returns:
      The arrays by name, in the order of the archive.

    Raises:
      DataError: If the file is absent, not an archive, damaged or cut short, if its
        arrays would not fit into memory, if one holds pickled objects or records, or if
        a required one is missing.
    """
    arrays = _read_archive(_existing_file(path), str(path), records)
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(
            f"{path}: no array {', '.join(missing)}; found {', '.join(arrays)}"
        )
    return arrays


def parse_npz(
    content: bytes, where: str, *, records: bool = False
) -> dict[str, np.ndarray]:
    """Reads all arrays of the content of an `.npz` archive, as `read_npz` does.

    Args:
      content: Content of the archive.
      where: Its name, for messages.
      records: Whether arrays may hold records of numbers.

    Raises:
      DataError: As `read_npz`.
    """
    return _read_archive(io.BytesIO(content), where, records)


def parse_npy(content: bytes, where: str, *, records: bool = False) -> np.ndarray:
    """Reads the array in the content of an `.npy` file.

    Args:
      content: Content of the file.
      where: Its name, for messages.
      records: Whether the array may hold records of numbers.

    Raises:
      DataError: If it is not an `.npy` file or cut short, or if it holds pickled
        objects or records.
    """
    file = io.BytesIO(content)
    try:
        array = np.lib.format.read_array(file, allow_pickle=False)
    except _SPOILT as error:
        refuse_stand_in(content, where)
        raise _unreadable(where, ".npy file", error) from error
    if file.read(1):
        raise DataError(f"{where}: more bytes than shape {array.shape} takes")
    return _checked(array, where, records)


def open_npy(path: str | os.PathLike[str], *, records: bool = False) -> np.ndarray:
    """Maps the array of an `.npy` file into memory, so that only used parts are read.

    Args:
      path: Path of the file.
      records: Whether the array may hold records of numbers.

    Returns:
      The array, read-only. The file stays open as long as the array lives.

    Raises:
      DataError: If the file is absent, not an `.npy` file or cut short, or if it holds
        pickled objects or records.
    """
    file = _existing_file(path)
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except _SPOILT as error:
        refuse_stand_in_file(file, path)
        raise _unreadable(path, ".npy file", error) from error
    return _checked(np.asarray(array), str(path), records)


def look_at_npy(file: IO[bytes]) -> np.ndarray:
    """Reads the header of an `.npy` file alone.

    Args:
      file: The file, or its first bytes.

    Returns:
      An array of its shape and type, which takes no memory and holds zeros.

    Raises:
      DataError: If it is not the beginning of an `.npy` file.

    Example:
      >>> file = io.BytesIO()
      >>> np.save(file, np.ones((2, 3), np.float32))
      >>> look_at_npy(io.BytesIO(file.getvalue()[:-24])).shape
      (2, 3)
    """
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        return np.broadcast_to(np.zeros((), dtype), shape)
    except _SPOILT as error:
        raise _unreadable("a file", ".npy file", error) from error


def look_at_npz(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Yields the first arrays of an archive as `look_at_npy` does.

    An archive that is not readable yields nothing, or the arrays before the damage.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist()[:_MAX_LOOKED_AT]:
                if _was_added(member.filename):
                    continue
                with archive.open(member) as file:
                    array = look_at_npy(file)
                yield array
    except (DataError, *_SPOILT):
        return


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays into a compressed `.npz` archive, whole or not at all."""
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # not its option


def _read_archive(
    file: Path | io.BytesIO, where: str, records: bool
) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            # No more than is announced is ever unpacked.
            total = sum(member.file_size for member in archive.infolist())
            require_bytes(total, f"{where}: its arrays", "smaller or fewer arrays")
            for member in archive.infolist():
                if _was_added(member.filename):
                    continue
                name = member.filename.removesuffix(".npy")
                arrays[name] = _read_member(
                    archive, member, f"{where}, array {name!r}", records
                )
    except DataError:
        raise
    except _SPOILT as error:
        refuse_stand_in_file(file, where)
        raise _unreadable(where, ".npz file", error) from error
    if not arrays:
        raise DataError(f"{where}: an archive without arrays; allowed: {_ALLOWED}")
    return arrays


def _was_added(name: str) -> bool:
    """Recognises hidden files of archives packed again on a Mac, but no array `.x`."""
    path = PurePosixPath(name)
    is_of_mac = path.name.startswith("._") or "__MACOSX" in path.parts
    return is_hidden(name) and (is_of_mac or path.suffix != ".npy")


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {found}; allowed: a file of arrays")
    return path


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, records: bool
) -> np.ndarray:
    try:
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            rest = file.read(1)  # checksums are only compared at the end
    except _SPOILT as error:
        raise _unreadable(where, "array", error) from error
    if rest:
        raise DataError(f"{where}: more bytes than shape {array.shape} takes")
    return _checked(array, where, records)


def _checked(array: np.ndarray, where: str, records: bool) -> np.ndarray:
    of_numbers = records and array.dtype.names and not array.dtype.hasobject
    if array.dtype.kind not in _KINDS and not of_numbers:
        raise DataError(f"{where}: dtype {array.dtype}; allowed: {_ALLOWED}")
    return array


def _unreadable(
    where: str | os.PathLike[str], what: str, error: Exception
) -> DataError:
    reason = f"{type(error).__name__}: {error}"
    return DataError(f"{where}: not a readable {what} ({reason}); allowed: {_ALLOWED}")
