"""The reader of numpy files: nothing in them is ever unpickled.

Whatever is wrong with a file, a `DataError` names it, and the array in it.
"""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.faults import DataError

_KINDS = "biufcUS"
_ALLOWED = "arrays of numbers or text; pickled files are refused"


def read_npz(
    path: str | os.PathLike[str], required: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` archive, compressed or not.

    Args:
      path: The archive.
      required: Names of arrays that must be in it.

    Returns:
      The arrays by name, in the order of the archive.

    Raises:
      DataError: If the file is absent, no archive, damaged or cut short, if an array
        holds pickled objects or records, or if a required one is missing.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(_existing_file(path)) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                arrays[name] = _read_member(archive, member, f"{path}, array {name!r}")
    except DataError:
        raise
    except Exception as error:  # the reader of zips raises whatever it stumbles over
        raise _unreadable(path, ".npz file", error) from error
    if not arrays:
        raise DataError(f"{path}: an archive without arrays; allowed: {_ALLOWED}")
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(
            f"{path}: no array {', '.join(missing)}; found {', '.join(arrays)}"
        )
    return arrays


def open_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Maps the array of an `.npy` file into memory, so that only what is used is read.

    Args:
      path: The file.

    Returns:
      The array, read-only; the file stays open for as long as the array lives.

    Raises:
      DataError: If the file is absent, no `.npy` file or cut short, or if it holds
        pickled objects or records.
    """
    try:
        array = np.lib.format.open_memmap(_existing_file(path), mode="r")
    except DataError:
        raise
    except Exception as error:  # a spoilt header can raise anything
        raise _unreadable(path, ".npy file", error) from error
    return _checked(np.asarray(array), str(path))


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {found}; allowed: a file of arrays")
    return path


def _read_member(archive, member: zipfile.ZipInfo, where: str) -> np.ndarray:
    try:
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            rest = file.read(1)  # checksums are compared at the end only
    except Exception as error:  # as above
        raise _unreadable(where, "array", error) from error
    if rest:
        raise DataError(f"{where}: more bytes than shape {array.shape} takes")
    return _checked(array, where)


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind not in _KINDS:
        raise DataError(f"{where}: dtype {array.dtype}; allowed: {_ALLOWED}")
    return array


def _unreadable(where, what: str, error: Exception) -> DataError:
    reason = f"{type(error).__name__}: {error}"
    return DataError(f"{where}: not a readable {what} ({reason}); allowed: {_ALLOWED}")
