"""Reads the numeric arrays of MATLAB files of versions 5 to 7.

SciPy's reader ends the whole process on some files that are damaged, so this one
reads the little that images need: full real arrays of numbers, compressed or not, by
the published layout ("MAT-File Format", The MathWorks). All else is passed over.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.archives import MAX_MEMBER_BYTES
from ncgn_jax.faults import DataError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# Types of stored numbers, and the first and last class of numeric arrays.
_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
    13: "u8",
}  # fmt: skip
_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4",
    14: "i8", 15: "u8",
}  # fmt: skip
_LOGICAL, _COMPLEX = 0x0200, 0x0800
_MAX_AXES = 8


class _Element(NamedTuple):
    """A piece of a file: its type, and its bytes."""

    kind: int
    content: memoryview


def read_matlab(content: bytes, where: str) -> dict[str, np.ndarray]:
    """Reads the variables that are arrays of numbers.

    Args:
      content: The file.
      where: Its name, for messages.

    Returns:
      Arrays by name, with the axes of MATLAB.

    Raises:
      DataError: If it is of another version, damaged or cut short.
    """
    if content[:4] == b"\x89HDF" or content[:10] == b"MATLAB 7.3":
        raise DataError(
            f"{where}: a MATLAB 7.3 file; allowed: versions 5 to 7, as "
            "save(..., '-v7') writes"
        )
    if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI"):
        raise DataError(f"{where}: no MATLAB file of versions 5 to 7; allowed: these")
    order = "<" if content[126:128] == b"IM" else ">"
    found = {}
    try:
        for element in _elements(memoryview(content)[_HEADER:], order, where):
            if element.kind == _COMPRESSED:
                plain = memoryview(_unpack(element.content, where))
                element = next(_elements(plain, order, where), _Element(0, plain))
            if element.kind == _MATRIX:
                read = _read_matrix(element.content, order, where)
                if read is not None:
                    found[read[0]] = read[1]
    except (struct.error, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: a damaged MATLAB file ({error})") from error
    return found


def _elements(content: memoryview, order: str, where: str) -> Iterator[_Element]:
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack(f"{order}II", content[at : at + 8])
        start = at + 8
        if kind >> 16:
            # Up to four bytes lie within the tag.
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise DataError(f"{where}: {size} bytes in a tag of 4")
        if size > len(content) - start:
            raise DataError(
                f"{where}: {size:,} bytes announced, {len(content) - start:,} found"
            )
        yield _Element(kind, content[start : start + size])
        stop = start + size
        at = stop if kind == _COMPRESSED else at + 8 * math.ceil((stop - at) / 8)


def _unpack(content: memoryview, where: str) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(content, MAX_MEMBER_BYTES)
    except zlib.error as error:
        raise DataError(f"{where}: a damaged MATLAB file ({error})") from error
    if not unpacker.eof:
        raise DataError(f"{where}: cut short, or more than {MAX_MEMBER_BYTES:,} bytes")
    return plain


def _read_matrix(
    content: memoryview, order: str, where: str
) -> tuple[str, np.ndarray] | None:
    """Returns name and array of a variable; None if it is no full real array."""
    parts = list(_elements(content, order, where))
    if len(parts) < 3 or len(parts[0].content) < 4:
        return None
    (flags,) = struct.unpack(f"{order}I", parts[0].content[:4])
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX or len(parts) < 4:
        return None
    num_axes = len(parts[1].content) // 4
    name = bytes(parts[2].content).decode("utf-8", "replace")
    if parts[3].kind not in _TYPES or not 1 <= num_axes <= _MAX_AXES:
        raise DataError(f"{where}, {name!r}: numbers of type {parts[3].kind}; unknown")
    shape = struct.unpack(f"{order}{num_axes}i", parts[1].content[: 4 * num_axes])
    dtype = np.dtype(order + _TYPES[parts[3].kind])
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape) < 0 or wanted != len(parts[3].content):
        raise DataError(
            f"{where}, {name!r}: {'x'.join(map(str, shape))} numbers announced, "
            f"{wanted:,} bytes, but {len(parts[3].content):,} found"
        )
    flat = np.frombuffer(parts[3].content, dtype)
    kind = "?" if flags & _LOGICAL else _CLASSES[flags & 0xFF]
    with np.errstate(invalid="ignore", over="ignore"):
        # Numbers may be stored in a smaller type than their array's.
        return name, flat.astype(kind).reshape(shape[::-1]).T
