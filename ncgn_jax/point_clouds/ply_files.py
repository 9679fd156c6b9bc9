"""Reads vertices and faces of PLY files, in text or binary.

trimesh reads most of them, but takes a file that was cut in its faces for a whole one,
makes fans of polygons, and knows neither names in capitals nor binary files of several
kinds of polygons.
"""

import dataclasses
import re

import numpy as np

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.off_files import check_corners
from ncgn_jax.point_clouds.polygons import cut_polygons

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8", "bool"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 2**20
_AXES = ("x", "y", "z")


@dataclasses.dataclass
class _Element:
    """A kind of thing in the file: its number, and name and type of its properties.

    The type of a list is that of its length and that of its items.
    """

    name: str
    count: int
    properties: list[tuple[str, tuple[str, ...]]]

    @property
    def has_lists(self) -> bool:
        return any(len(types) == 2 for _, types in self.properties)

    def truncated(self, found: int, where: str) -> DataError:
        return DataError(
            f"{where}: truncated: {self.count} of {self.name!r} announced, "
            f"{found} found"
        )


def read_ply(
    content: bytes, where: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Parses a PLY file.

    Args:
      content: Content of the file.
      where: Name of the file, for messages.

    Returns:
      Vertices in their own precision [vertex, 3], triangles int64 [triangle, 3], and
      the names of all other numbers of vertices.

    Raises:
      DataError: If it is no PLY file, is cut short or holds an impossible number.
    """
    order, elements, body = _read_header(content, where)
    vertices, faces = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    others: tuple[str, ...] = ()
    lines = _lines(body) if order == "=" else []
    for element in elements:
        if element.name == "tristrips" and element.count:
            raise DataError(
                f"{where}: triangle strips; allowed: faces (trimesh and MeshLab "
                "convert them)"
            )
        if order == "=":
            rows, lines = lines[: element.count], lines[element.count :]
            if len(rows) < element.count:
                raise element.truncated(len(rows), where)
            columns, lists = _parse_rows(element, rows, where)
        else:
            columns, lists, body = _parse_bytes(element, body, order, where)
        if element.name == "vertex":
            missing = [axis for axis in _AXES if axis not in columns]
            if missing:
                raise DataError(
                    f"{where}: vertices have no {', '.join(missing)}; found "
                    f"{', '.join(columns) or 'nothing'}"
                )
            vertices = np.stack([columns[axis] for axis in _AXES], axis=1)
            others = tuple(name for name in columns if name not in _AXES)
        elif element.name == "face" and lists is not None:
            corners, counts = lists
            check_corners(corners, len(vertices), where)
            faces = cut_polygons(vertices, corners, counts)
    if not len(vertices):
        raise DataError(f"{where}: no vertices")
    return vertices, faces, others


def _read_header(content: bytes, where: str) -> tuple[str, list[_Element], bytes]:
    start = content[:_MAX_HEADER_BYTES]
    end = re.search(rb"(?:^|[\r\n])[ \t]*end_header[ \t]*(\r\n|\n|\r)", start, re.I)
    if not re.match(rb"\s*ply\s", start, re.I) or end is None:
        raise DataError(f"{where}: no points: not a PLY file, or cut in its header")
    order, elements = "", []
    for line in re.split(r"[\r\n]+", start[: end.start()].decode("latin-1")):
        # Text of other languages in comments does no harm in this encoding.
        words = line.split()
        key = words[0].lower() if words else ""
        if key == "format" and len(words) > 1:
            order = _ORDERS.get(words[1].lower(), "")
        elif key == "element":
            if len(words) != 3 or not re.fullmatch(r"[0-9]{1,12}", words[2]):
                raise DataError(f"{where}: bad line in the header: {line[:60]!r}")
            elements.append(_Element(words[1].lower(), int(words[2]), []))
        elif key == "property":
            types = tuple(_TYPES.get(word.lower(), "") for word in words[1:-1])
            if types[:1] == ("",) and words[1].lower() == "list":
                types = types[1:]
                is_right = len(types) == 2
            else:
                is_right = len(types) == 1
            if not (elements and is_right and all(types)):
                raise DataError(f"{where}: bad line in the header: {line[:60]!r}")
            elements[-1].properties.append((words[-1].lower(), types))
    if not order:
        raise DataError(f"{where}: no format in the header; allowed: {list(_ORDERS)}")
    return order, elements, content[end.end() :]


_Parsed = tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray] | None]


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.splitlines() if line.strip()]


def _parse_rows(element: _Element, rows: list[bytes], where: str) -> _Parsed:
    """Returns the single numbers by name, and corners and counts of the list."""
    if not element.has_lists:
        width = len(element.properties)
        words = [row.split() for row in rows]
        short = next((i for i, row in enumerate(words) if len(row) < width), None)
        if short is not None:
            raise element.truncated(short, where)
        try:
            table = np.array([row[:width] for row in words], dtype=float)
        except ValueError as error:
            raise DataError(f"{where}: {element.name}: {error}") from error
        table = table.reshape(len(rows), width)
        names = [name for name, _ in element.properties]
        return {name: table[:, i] for i, name in enumerate(names)}, None
    corners: list[int] = []
    counts: list[int] = []
    for index, row in enumerate(rows):
        found = _parse_lists(element, row.split(), f"{where}: {element.name} {index}")
        corners += found
        counts.append(len(found))
    return {}, (np.array(corners, np.int64), np.array(counts, np.int64))


def _parse_lists(element: _Element, words: list[bytes], where: str) -> list[int]:
    """Returns the corners in a line of text."""
    at, corners = 0, []
    for name, types in element.properties:
        if len(types) == 1:
            at += 1
            continue
        if at >= len(words) or not re.fullmatch(rb"[0-9]{1,9}", words[at]):
            raise DataError(f"{where}: no number of corners (truncated?)")
        stop = at + 1 + int(words[at])
        if stop > len(words):
            raise DataError(
                f"{where}: truncated: {int(words[at])} items announced, "
                f"{len(words) - at - 1} found"
            )
        if _is_corners(name):
            items = words[at + 1 : stop]
            if not all(re.fullmatch(rb"[+-]?[0-9]{1,15}", item) for item in items):
                raise DataError(f"{where}: not a vertex index: {items[:4]}")
            corners = [int(item) for item in items]
        at = stop
    return corners


def _is_corners(name: str) -> bool:
    return name in ("vertex_indices", "vertex_index")


def _parse_bytes(
    element: _Element, body: bytes, order: str, where: str
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray] | None, bytes]:
    """Returns what `_parse_rows` does, and the bytes after the element."""
    if not element.has_lists:
        # Names may be doubled in a file, not in a numpy type.
        kinds = [
            (f"{i}", order + types[0])
            for i, (_, types) in enumerate(element.properties)
        ]
        kind = np.dtype(kinds)
        found = len(body) // kind.itemsize if kind.itemsize else element.count
        if found < element.count:
            raise element.truncated(found, where)
        if not kind.itemsize:
            return {}, None, body
        table = np.frombuffer(body, kind, element.count)
        columns = {
            name: table[f"{i}"].astype(table.dtype[i].newbyteorder("="))
            for i, (name, _) in enumerate(element.properties)
        }
        return columns, None, body[element.count * kind.itemsize :]
    alike = _parse_alike(element, body, order)
    if alike is not None:
        return alike
    return _parse_one_by_one(element, body, order, where)


def _parse_alike(
    element: _Element, body: bytes, order: str
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray], bytes] | None:
    """Reads lists that are all as long as the first; None if they are not."""
    if len(element.properties) != 1 or not element.count:
        return None
    name, (length_type, item_type) = element.properties[0]
    length = np.dtype(order + length_type)
    if len(body) < length.itemsize:
        return None
    count = int(np.frombuffer(body, length, 1)[0])
    if not 0 < count < 2**16:
        return None
    kind = np.dtype([("count", length), ("items", order + item_type, (count,))])
    if len(body) < element.count * kind.itemsize:
        return None
    table = np.frombuffer(body, kind, element.count)
    if not (table["count"] == count).all():
        return None
    corners = table["items"].reshape(-1).astype(np.int64)
    counts = np.full(element.count, count)
    if not _is_corners(name):
        corners, counts = corners[:0], counts * 0
    return {}, (corners, counts), body[element.count * kind.itemsize :]


def _parse_one_by_one(
    element: _Element, body: bytes, order: str, where: str
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray], bytes]:
    kinds = [
        (_is_corners(name), [np.dtype(order + kind) for kind in types])
        for name, types in element.properties
    ]
    corners: list[np.ndarray] = []
    counts: list[int] = []
    at = 0
    for index in range(element.count):
        counts.append(0)
        for is_corners, types in kinds:
            num = 1
            if len(types) == 2:
                if at + types[0].itemsize > len(body):
                    raise element.truncated(index, where)
                num = int(np.frombuffer(body, types[0], 1, at)[0])
                at += types[0].itemsize
            stop = at + num * types[-1].itemsize
            if num < 0 or stop > len(body):
                raise element.truncated(index, where)
            if is_corners and len(types) == 2:
                corners.append(np.frombuffer(body, types[1], num, at).astype(np.int64))
                counts[-1] = num
            at = stop
    joined = np.concatenate(corners) if corners else np.zeros(0, np.int64)
    return {}, (joined, np.array(counts, np.int64)), body[at:]
