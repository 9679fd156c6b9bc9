"""Reads vertices and faces of OBJ files.

trimesh makes fans of polygons, which cover ground outside of those with a corner that
points inwards, and takes no comments in other encodings than UTF-8.
"""

import re

import numpy as np

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.off_files import check_corners
from ncgn_jax.point_clouds.polygons import cut_polygons


def read_obj(
    content: bytes, where: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Parses an OBJ file; of curves and surfaces without faces, the vertices.

    Args:
      content: Content of the file.
      where: Name of the file, for messages.

    Returns:
      Vertices float64 [vertex, 3], triangles int64 [triangle, 3], and names of further
      numbers that vertices have.

    Raises:
      DataError: If there is no vertex, or a number is impossible.
    """
    if b"\0" in content:
        raise DataError(f"{where}: not a text file")
    # Latin-1 takes any bytes; everything but comments and names is ASCII.
    text = re.sub(r"\\[ \t]*\r?\n", " ", content.decode("latin-1"))
    vertices: list[list[float]] = []
    corners: list[int] = []
    counts: list[int] = []
    has_more = False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words or words[0] not in ("v", "f"):
            continue
        place = f"{where}: line {number}"
        if words[0] == "v":
            vertices.append(_read_vertex(words, place))
            has_more |= len(words) > 4
        else:
            found = _read_face(words[1:], len(vertices), place)
            corners += found
            counts.append(len(found))
    if not vertices:
        raise DataError(f"{where}: no vertices")
    places, numbers = np.array(vertices), np.array(corners, np.int64)
    check_corners(numbers, len(places), where)
    faces = cut_polygons(places, numbers, np.array(counts, np.int64))
    return places, faces, ("numbers after z",) if has_more else ()


def _read_vertex(words: list[str], where: str) -> list[float]:
    try:
        found = [float(word) for word in words[1:4]]
    except ValueError as error:
        raise DataError(f"{where}: not a vertex: {' '.join(words)[:60]!r}") from error
    if len(found) < 3:
        raise DataError(f"{where}: {len(found)} coordinates; allowed: 3 (truncated?)")
    return found


def _read_face(words: list[str], num_vertices: int, where: str) -> list[int]:
    """Returns corners from 0; negative numbers count back from the last vertex."""
    corners = [word.partition("/")[0] for word in words]
    if not all(re.fullmatch(r"[+-]?[0-9]{1,15}", corner) for corner in corners):
        raise DataError(f"{where}: not a face: {' '.join(words)[:60]!r}")
    numbers = [int(corner) for corner in corners]
    return [n - 1 if n > 0 else n + num_vertices if n < 0 else -1 for n in numbers]
