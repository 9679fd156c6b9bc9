"""Cuts polygons of meshes into triangles.

A fan of triangles, which most readers of meshes make, covers ground outside of a
polygon with a corner that points inwards. Ears are cut instead (Meisters 1975).

Example:
  >>> l_shape = np.array([[2, 1], [1, 1], [1, 2], [0, 2], [0, 0], [2, 0]], float)
  >>> corners = np.pad(l_shape, [(0, 0), (0, 1)])
  >>> cut_polygons(corners, np.arange(6), np.array([6])).shape
  (4, 3)
"""

import numpy as np


def cut_polygons(
    vertices: np.ndarray, corners: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Cuts polygons into triangles that cover them, in the order of the polygons.

    Polygons whose corners all point outwards become fans. Points and edges become
    nothing.

    Args:
      vertices: [vertex, 3].
      corners: Vertices of all polygons, one polygon after the other, int [corner].
      counts: Number of corners of each polygon, int [polygon].

    Returns:
      Triangles, int64 [triangle, 3].
    """
    starts = np.cumsum(counts) - counts
    triangles, owners = [], []
    for count in np.unique(counts[counts >= 3]).tolist():
        which = np.flatnonzero(counts == count)
        polygons = corners[starts[which][:, None] + np.arange(count)]
        fans = _fans(polygons)
        if count > 3:
            for row in np.flatnonzero(~_all_outward(vertices[polygons])):
                ears = _cut_ears(vertices[polygons[row]])
                fans[row] = polygons[row][ears]
        triangles.append(fans.reshape(-1, 3))
        owners.append(np.repeat(which, count - 2))
    if not triangles:
        return np.zeros((0, 3), np.int64)
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(triangles)[order].astype(np.int64)


def _fans(polygons: np.ndarray) -> np.ndarray:
    """Returns fans around the first corners, [polygon, corner - 2, 3]."""
    first = np.broadcast_to(polygons[:, :1], polygons[:, 2:].shape)
    return np.stack([first, polygons[:, 1:-1], polygons[:, 2:]], axis=-1)


def _normals(places: np.ndarray) -> np.ndarray:
    """Returns the area vector of each polygon (Newell), [polygon, 3]."""
    centred = places - places.mean(axis=1, keepdims=True)
    return np.cross(centred, np.roll(centred, -1, axis=1)).sum(axis=1)


def _all_outward(places: np.ndarray) -> np.ndarray:
    """Tells of each polygon [polygon, corner, 3] whether it has no inward corner."""
    sides = np.roll(places, -1, axis=1) - places
    turns = np.cross(np.roll(sides, 1, axis=1), sides) @ _normals(places)[..., None]
    turns = turns[..., 0]
    tolerance = 1e-9 * np.abs(turns).max(axis=1, keepdims=True)
    return (turns >= -tolerance).all(axis=1)


def _cut_ears(places: np.ndarray) -> np.ndarray:
    """Returns the triangles of one polygon [corner, 3], in its plane."""
    normal = _normals(places[None])[0]
    away = int(np.argmax(np.abs(normal)))
    flat = np.delete(places, away, axis=1)
    # Anticlockwise as seen in the two axes that are left.
    if (normal[away] < 0) != (away == 1):
        flat = flat * [1.0, -1.0]
    rest, triangles = list(range(len(flat))), []
    while len(rest) > 3:
        at = _find_ear(flat, rest)
        before, after = rest[at - 1], rest[(at + 1) % len(rest)]
        triangles.append((before, rest[at], after))
        del rest[at]
    return np.array([*triangles, tuple(rest)])


def _find_ear(flat: np.ndarray, rest: list[int]) -> int:
    """Returns where a triangle can be cut off; the widest corner if none can."""
    ring = flat[rest]
    before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
    turns = _turn(before, ring, after)
    for at in np.argsort(-turns, kind="stable"):
        if turns[at] <= 0:
            break
        a, b, c = before[at], ring[at], after[at]
        sides = (_turn(a, b, ring), _turn(b, c, ring), _turn(c, a, ring))
        inside = (np.minimum.reduce(sides) >= 0) & ~_is_any_of(ring, (a, b, c))
        if not inside.any():
            return int(at)
    return int(np.argmax(turns))  # the polygon cuts itself, so there is no right way


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns twice the signed area of triangles in the plane."""
    first, second = b - a, c - a
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def _is_any_of(ring: np.ndarray, corners: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.any([(ring == corner).all(axis=1) for corner in corners], axis=0)
