"""Reads points of LAS files, and of compressed ones (LAZ) in a separate process.

The decompressor trusts the headers of a file. A damaged one ends the program that reads
it, or has it set aside all memory.
"""

import io
import signal
import subprocess
import sys

import numpy as np

from ncgn_jax.data.host_memory import require_bytes
from ncgn_jax.data.optional import import_optional
from ncgn_jax.faults import DataError

_TIMEOUT_SECONDS = 3600.0
_LEAST_HEADER_BYTES = 227
_LEAST_RECORD_BYTES = 54
_POINT_BYTES = 24  # of x, y and z in float64
# Writes the names of other dimensions in a line, then x, y and z of all points.
_READ = """
import io, sys
import laspy, numpy
data = laspy.read(io.BytesIO(sys.stdin.buffer.read()))
points = numpy.stack([numpy.asarray(data[a], "<f8") for a in "xyz"], axis=1)
names = [str(name) for name in data.point_format.dimension_names]
sys.stdout.buffer.write(
    f"{data.header.point_count} {' '.join(names)}\\n".encode() + points.tobytes()
)
"""


def read_lidar(
    content: bytes, is_compressed: bool, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Parses a LAS or LAZ file.

    Args:
      content: Content of the file.
      is_compressed: Whether it is LAZ.
      where: Name of the file, for messages.

    Returns:
      Points float64 [point, 3], and the names of all other dimensions.

    Raises:
      DataError: If it is damaged, cut short or has no points, or laspy is missing.
    """
    laspy = import_optional("laspy", "lidar", where)
    _check_header(content, is_compressed, where)
    if is_compressed:
        _require_memory(content, where)
        points, announced, names = _read_apart(content, where)
    else:
        try:
            with laspy.open(io.BytesIO(content)) as file:
                announced = int(file.header.point_count)
                data = file.read()
            points = np.stack([np.asarray(data[a], float) for a in "xyz"], axis=1)
            names = [str(name) for name in data.point_format.dimension_names]
        except Exception as error:  # laspy lists no errors
            raise DataError(f"{where}: not readable ({error!r})") from error
    if len(points) < announced:
        raise DataError(
            f"{where}: truncated: {announced} points announced, {len(points)} found"
        )
    if not len(points):
        raise DataError(f"{where}: no points")
    return points, tuple(name for name in names if name not in ("X", "Y", "Z"))


def _check_header(content: bytes, is_compressed: bool, where: str) -> None:
    """Refuses headers that announce more than the file has bytes for.

    laspy would read on without end, or set aside memory for all that is announced.
    """
    if not content.startswith(b"LASF") or len(content) < _LEAST_HEADER_BYTES:
        raise DataError(f"{where}: not a LAS file, or cut in its header")
    num_records = int.from_bytes(content[100:104], "little")
    if content[25] >= 4:  # version 1.4 and later
        num_records += int.from_bytes(content[243:247], "little")
    num_points, record_bytes = _announced(content)
    if not is_compressed:
        start = int.from_bytes(content[96:100], "little")
        found = max(len(content) - start, 0) // max(record_bytes, 1)
        if found < num_points:
            raise DataError(
                f"{where}: truncated: {num_points} points announced, {found} found"
            )
    if num_records * _LEAST_RECORD_BYTES > len(content):
        raise DataError(
            f"{where}: truncated: {num_records} records announced in {len(content)} "
            "bytes"
        )


def _announced(content: bytes) -> tuple[int, int]:
    """Returns the number of points in a header, and the bytes of one."""
    num_points = int.from_bytes(content[107:111], "little")
    if content[25] >= 4:  # version 1.4 and later
        num_points = max(num_points, int.from_bytes(content[247:255], "little"))
    return num_points, int.from_bytes(content[105:107], "little")


def _require_memory(content: bytes, where: str) -> None:
    """Refuses compressed points that would not fit: equal ones take hardly a byte."""
    num_points, record_bytes = _announced(content)
    # The other process has records and coordinates, and sends these.
    needed = num_points * (record_bytes + 3 * _POINT_BYTES)
    what = f"{where}: its {num_points:,} points"
    require_bytes(needed, what, "a file of fewer points")


def _read_apart(content: bytes, where: str) -> tuple[np.ndarray, int, list[str]]:
    # -P keeps Python from importing a file laspy.py in the current folder.
    command = [sys.executable, "-P", "-c", _READ]
    try:
        result = subprocess.run(
            command, capture_output=True, input=content, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{where}: damaged: reading it does not end") from error
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        raise DataError(f"{where}: damaged: the decompressor ended with {name}")
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else "no reason given"
        raise DataError(f"{where}: not readable ({reason})")
    head, _, body = result.stdout.partition(b"\n")
    announced, *names = head.decode().split()
    return np.frombuffer(body, "<f8").reshape(-1, 3), int(announced), names
