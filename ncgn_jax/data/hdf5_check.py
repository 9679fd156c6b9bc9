"""Checks in a separate process that an HDF5 file can be read.

The HDF5 library trusts the headers of a file. A damaged file can crash the program
that reads it (segmentation fault) or exhaust the memory. It also follows links to
other files, which are refused, and unpacks a few bytes into as many as they announce.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from ncgn_jax.data.stand_ins import refuse_stand_in, refuse_stand_in_file
from ncgn_jax.faults import DataError

# Arrays of more bytes than this may not be much larger than what is stored of them:
# deflate packs at most a thousand zeros into a byte, numbers hardly ten.
_MAX_BYTES = 2**31
_MAX_RATIO = 200
_STEP_BYTES = 2**26  # read at once
_READ_ALL = """
import io, sys, h5py
most, ratio, step = map(int, sys.argv[1:4])
source = sys.argv[4] if len(sys.argv) > 4 else io.BytesIO(sys.stdin.buffer.read())
def refuse(name):
    sys.exit(f"{name}: links to another file; allowed: links within the file")
def read(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        if item.external or item.is_virtual:
            refuse(name)
        stored = item.id.get_storage_size()
        if item.size and item.nbytes > max(most, ratio * stored):
            sys.exit(
                f"{name}: {item.nbytes:,} bytes, of which {stored:,} are stored; "
                f"allowed: <= {most:,}, or <= {ratio} times those"
            )
        if not item.shape:
            item[()]
            return
        rows = max(1, step * len(item) // max(item.nbytes, 1))
        for start in range(0, len(item), rows):
            item[start : start + rows]
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
      DataError: If the process reports an error, a link to another file or an array
        that is far larger than what is stored of it, crashes or does not end.
    """
    if content is None:
        refuse_stand_in_file(Path(path), path)
    else:
        refuse_stand_in(content, path)
    # -P keeps Python from importing a file h5py.py in the current folder.
    limits = map(str, (_MAX_BYTES, _MAX_RATIO, _STEP_BYTES))
    command = [sys.executable, "-P", "-c", _READ_ALL, *limits]
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
