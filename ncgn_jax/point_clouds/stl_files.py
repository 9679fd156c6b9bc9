"""Reads triangles of STL files, in text or binary.

trimesh takes a binary file that was cut short for one in text, and says nothing of the
number of triangles.
"""

import re

import numpy as np

from ncgn_jax.faults import DataError

_HEADER_BYTES = 84
_TRIANGLE = np.dtype(
    [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]
)
_VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", re.I)


def read_stl(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Parses an STL file and joins corners at one place.

    Args:
      content: Content of the file.
      where: Name of the file, for messages.

    Returns:
      Vertices in their own precision [vertex, 3], triangles int64 [triangle, 3].

    Raises:
      DataError: If it is no STL file, is cut short or holds an impossible number.
    """
    is_text = re.match(rb"\s*solid\b", content, re.I) and not _has_binary_size(content)
    corners = _read_text(content, where) if is_text else _read_binary(content, where)
    if not np.isfinite(corners).all():
        raise DataError(f"{where}: a corner is not finite")
    vertices, joined = np.unique(corners, axis=0, return_inverse=True)
    return vertices, joined.reshape(-1, 3).astype(np.int64)


def _has_binary_size(content: bytes) -> bool:
    """Tells whether the size is that of a binary file; these may start as text does."""
    if len(content) < _HEADER_BYTES:
        return False
    count = int.from_bytes(content[80:84], "little")
    return len(content) == _HEADER_BYTES + count * _TRIANGLE.itemsize


def _read_binary(content: bytes, where: str) -> np.ndarray:
    if len(content) < _HEADER_BYTES:
        raise DataError(
            f"{where}: not an STL file: {len(content)} bytes, neither text that starts "
            f"with 'solid' nor a header of {_HEADER_BYTES} bytes"
        )
    announced = int.from_bytes(content[80:84], "little")
    found = (len(content) - _HEADER_BYTES) // _TRIANGLE.itemsize
    if found < announced:
        raise DataError(
            f"{where}: truncated: {announced} triangles announced, {found} found"
        )
    if not announced:
        raise DataError(f"{where}: no triangles, so no vertices")
    table = np.frombuffer(content, _TRIANGLE, announced, _HEADER_BYTES)
    return table["corners"].reshape(-1, 3).astype(np.float32)


def _read_text(content: bytes, where: str) -> np.ndarray:
    found = _VERTEX.findall(content)
    facets = len(re.findall(rb"\bfacet\s+normal\b", content, re.I))
    if not re.search(rb"\bendsolid\b", content, re.I) or len(found) != 3 * facets:
        raise DataError(
            f"{where}: truncated: {facets} facets announced, {len(found) / 3:.4g} and "
            f"{'an' if b'endsolid' in content else 'no'} end found"
        )
    if not facets:
        raise DataError(f"{where}: no triangles, so no vertices")
    try:
        return np.array(found, dtype=float)
    except ValueError as error:
        raise DataError(f"{where}: a corner is no number ({error})") from error
