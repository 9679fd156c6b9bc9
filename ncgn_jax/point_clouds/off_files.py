"""Reads triangle meshes in OFF text files, and draws points on their surface."""

import re

import numpy as np

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.polygons import cut_polygons

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEADER = re.compile(r"^(?:ST)?C?N?OFF")


def read_off(text: str | bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Parses an OFF mesh, with one vertex or face per line or in free layout.

    Counts may follow the header without a space (`OFF1568 1484 0`, a known fault of
    many ModelNet files). Comments, blank lines, a byte order mark, and colours and
    normals after the coordinates are skipped. Polygons are cut into triangles; points
    and edges become none.

    Args:
      text: Content of the file.
      where: Name of the file, for messages.

    Returns:
      Vertices, float64 [vertex, 3], and triangles, int64 [triangle, 3].

    Raises:
      DataError: If the file is not OFF, is truncated, or holds an impossible count,
        number or index. Counts are compared with the number of lines before memory
        is allocated.
    """
    if isinstance(text, bytes):
        # Comments may be in any encoding.
        text = re.sub(rb"#[^\r\n]*", b"", text.removeprefix(_BYTE_ORDER_MARK))
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not a text file ({error.reason})") from error
    lines = [part for part in map(_strip, text.splitlines()) if part]
    try:
        return _read_by_line(lines, where)
    except DataError:
        free = _lay_out(lines)
        if free is None:
            raise
        return _read_by_line(free, where)


def _lay_out(lines: list[str]) -> list[str] | None:
    """Returns a file in free layout with a line for each thing, None if it is none.

    Then the numbers that the counts ask for are all there are.
    """
    match = _HEADER.match(lines[0]) if lines else None
    words = " ".join(lines).split()
    if match is None or words[0] != match.group():
        return None
    words = words[1:]
    if len(words) < 3 or not all(re.fullmatch(r"[0-9]{1,9}", w) for w in words[:3]):
        return None
    num_vertices, num_faces, at = int(words[0]), int(words[1]), 3
    if 3 * num_vertices + num_faces > len(words):
        return None
    rows = [lines[0][: match.end()], " ".join(words[:3])]
    for _ in range(num_vertices):
        rows.append(" ".join(words[at : at + 3]))
        at += 3
    for _ in range(num_faces):
        if at >= len(words) or not re.fullmatch(r"[0-9]{1,9}", words[at]):
            return None
        stop = at + 1 + int(words[at])
        rows.append(" ".join(words[at:stop]))
        at = stop
    return rows if at == len(words) else None


def _read_by_line(lines: list[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    num_vertices, num_faces, lines = _read_header(lines, where)
    if num_vertices + num_faces > len(lines):
        raise DataError(
            f"{where}: truncated: {num_vertices} vertices and {num_faces} faces "
            f"announced, {len(lines)} lines of data found"
        )
    vertices = _read_vertices(lines[:num_vertices], where)
    rows = lines[num_vertices : num_vertices + num_faces]
    return vertices, _read_faces(rows, vertices, where)


def _strip(line: str) -> str:
    return line.partition("#")[0].strip()


def _read_header(lines: list[str], where: str) -> tuple[int, int, list[str]]:
    match = _HEADER.match(lines[0]) if lines else None
    if match is None:
        start = lines[0][:20] if lines else ""
        raise DataError(f"{where}: not an OFF file: starts with {start!r}, not 'OFF'")
    rest = lines[0][match.end() :].strip()
    if rest.upper().startswith("BINARY"):
        raise DataError(f"{where}: binary OFF; allowed: text OFF")
    lines = ([rest] if rest else []) + lines[1:]
    counts = lines[0].split() if lines else []
    # Leading digits only: int() also takes signs, underscores and spaces.
    if not 2 <= len(counts) <= 3 or not all(re.fullmatch(r"[0-9]+", c) for c in counts):
        raise DataError(
            f"{where}: bad counts {' '.join(counts)[:40]!r}; expected 'vertices faces "
            "edges', whole numbers >= 0"
        )
    if any(len(c) > 12 for c in counts) or int(counts[0]) == 0:
        raise DataError(
            f"{where}: bad counts {' '.join(counts)[:40]!r}; expected 1..10^12 vertices"
        )
    return int(counts[0]), int(counts[1]), lines[1:]


def _read_vertices(lines: list[str], where: str) -> np.ndarray:
    tokens = [line.split()[:3] for line in lines]
    for index, row in enumerate(tokens):
        if len(row) < 3:
            raise DataError(
                f"{where}: vertex {index}: {len(row)} numbers, 3 expected (truncated?)"
            )
    vertices = np.empty((len(tokens), 3))
    for index, row in enumerate(tokens):
        try:
            vertices[index] = [float(token) for token in row]
        except ValueError as error:
            line = " ".join(row)[:60]
            raise DataError(
                f"{where}: vertex {index}: not a number: {line!r}"
            ) from error
    finite = np.isfinite(vertices).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise DataError(f"{where}: vertex {index}: not finite")
    return vertices


def _read_faces(lines: list[str], vertices: np.ndarray, where: str) -> np.ndarray:
    tokens = [line.split() for line in lines]
    if all(row[0] == "3" and len(row) == 4 for row in tokens):
        try:
            table = np.array([[int(t) for t in row] for row in tokens], dtype=np.int64)
            faces = table.reshape(-1, 4)[:, 1:]
            check_corners(faces.reshape(-1), len(vertices), where)
            return faces
        except (ValueError, OverflowError):
            pass  # the slow way below finds the line at fault
    polygons = [
        _read_polygon(row, f"{where}: face {index}") for index, row in enumerate(tokens)
    ]
    corners = np.array([corner for row in polygons for corner in row], np.int64)
    check_corners(corners, len(vertices), where)
    counts = np.array([len(row) for row in polygons], np.int64)
    return cut_polygons(vertices, corners, counts)


def check_corners(corners: np.ndarray, num_vertices: int, where: str) -> None:
    """Refuses corners that are no vertices.

    Args:
      corners: Numbers of vertices, int [corner].
      num_vertices: Number of vertices.
      where: Name of the mesh, for the message.

    Raises:
      DataError: If a corner is not in [0, num_vertices).
    """
    bad = corners[(corners < 0) | (corners >= num_vertices)]
    if bad.size:
        raise DataError(
            f"{where}: a triangle refers to vertex {bad[0]}; "
            f"allowed: 0..{num_vertices - 1}"
        )


def _read_polygon(row: list[str], where: str) -> list[int]:
    line = " ".join(row)[:60]
    if not re.fullmatch(r"[0-9]{1,9}", row[0]) or int(row[0]) == 0:
        raise DataError(f"{where}: bad number of corners: {line!r}")
    corners = row[1 : int(row[0]) + 1]
    if len(corners) < int(row[0]):
        raise DataError(f"{where}: {row[0]} corners announced: {line!r} (truncated?)")
    if not all(re.fullmatch(r"[+-]?[0-9]{1,15}", corner) for corner in corners):
        raise DataError(f"{where}: not a vertex index: {line!r}")
    return [int(corner) for corner in corners]


def sample_surface(
    vertices: np.ndarray,
    faces: np.ndarray,
    num_points: int,
    rng: np.random.Generator,
    where: str,
) -> np.ndarray:
    """Draws points uniformly by area on a triangle mesh.

    A triangle is chosen with probability proportional to its area, then the point
    (1 - sqrt u) A + sqrt u (1 - v) B + sqrt u v C in it (Osada et al. 2002, eq. 1).

    Args:
      vertices: [vertex, 3].
      faces: Triangles, [triangle, 3].
      num_points: Points to draw.
      rng: Source of randomness.
      where: Name of the mesh, for the message.

    Returns:
      float64 [num_points, 3].

    Raises:
      DataError: If the mesh has no triangles, or none with area.
    """
    if len(faces) == 0:
        raise DataError(
            f"{where}: no triangles to sample; allowed: data.sampling='vertices'"
        )
    unit = np.abs(vertices).max() or 1.0  # so that squares neither over- nor underflow
    corners = (vertices / unit)[faces]  # [triangle, corner, 3]
    edge, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cumulated = np.cumsum(np.linalg.norm(np.cross(edge, other), axis=1))
    if not cumulated[-1] > 0:
        raise DataError(
            f"{where}: all {len(faces)} triangles have zero area; "
            "allowed: data.sampling='vertices'"
        )
    chosen = np.searchsorted(
        cumulated, rng.random(num_points) * cumulated[-1], side="right"
    )
    chosen = np.minimum(chosen, len(faces) - 1)
    root, v = np.sqrt(rng.random((num_points, 1))), rng.random((num_points, 1))
    a, b, c = (corners[chosen, i] for i in range(3))
    return ((1 - root) * a + root * (1 - v) * b + root * v * c) * unit
