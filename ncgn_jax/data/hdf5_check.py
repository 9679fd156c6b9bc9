"""Checks in a separate process that an HDF5 file can be read.

The HDF5 library trusts the headers of a file. A damaged file can crash the program
that reads it (segmentation fault) or exhaust the memory. It also follows links to
other files, which are refused.
"""

import os
import signal
import subprocess
import sys

from ncgn_jax.faults import DataError

_READ_ALL = """
import io, sys, h5py
source = sys.argv[1] if len(sys.argv) > 1 else io.BytesIO(sys.stdin.buffer.read())
def refuse(name):
    sys.exit(f"{name}: links to another file; allowed: links within the file")
def read(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        if item.external or item.is_virtual:
            refuse(name)
        item[()]
    else:
        for key in item:
            if isinstance(item.get(key, getlink=True), h5py.ExternalLink):
                refuse(f"{name.rstrip('/')}/{key}")
with h5py.File(source, "r") as file:
    read("/", file)
    file.visititems(read)
"""


def check_hdf5(
    path: str | os.PathLike[str],
    timeout_seconds: float = 3600.0,
    content: bytes | None = None,
) -> None:
    """Reads all of an HDF5 file in a separate process; h5py must be installed.

    Args:
      path: The file, or its name in messages if the content is given.
      timeout_seconds: Longest time to wait.
      content: Content of the file, where it does not lie on disk by itself.

    Raises:
      DataError: If the process reports an error or a link to another file, crashes or
        does not end.
    """
    # -P keeps Python from importing a file h5py.py in the current folder.
    command = [sys.executable, "-P", "-c", _READ_ALL]
    if content is None:
        command.append(os.fspath(path))
    try:
        result = subprocess.run(
            command, capture_output=True, input=content, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{path}: reading it did not end within {timeout_seconds:g} s; "
            "it is probably damaged"
        ) from error
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        raise DataError(f"{path}: damaged: the HDF5 library ended with {name}")
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1:] or ["no reason given"]
        raise DataError(f"{path}: not readable as HDF5 ({reason[0]})")
