"""Reads points of PCD files (Point Cloud Library), in text, binary or compressed.

trimesh does not read them.
"""

import re

import numpy as np

from ncgn_jax.faults import DataError

_AXES = ("x", "y", "z")
_KINDS = {"F": "f", "I": "i", "U": "u"}
_MAX_BYTES = 2**31


def read_pcd(content: bytes, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Parses a PCD file.

    Args:
      content: Content of the file.
      where: Name of the file, for messages.

    Returns:
      Points in their own precision [point, 3], NaN where the scanner saw nothing; and
      the names of all other fields.

    Raises:
      DataError: If it is no PCD file, has no x, y, z, or is cut short.
    """
    header, body = _read_header(content, where)
    names = [name.lower() for name in header["FIELDS"]]
    missing = [axis for axis in _AXES if axis not in names]
    if missing:
        raise DataError(
            f"{where}: no field {', '.join(missing)}; found {', '.join(names)}"
        )
    counts = [_whole(word, where) for word in header.get("COUNT", ["1"] * len(names))]
    num_points = _num_points(header, where)
    form = header["DATA"][0].lower() if header["DATA"] else ""
    if len(counts) != len(names):
        raise DataError(f"{where}: {len(names)} fields, but {len(counts)} counts")
    if form == "ascii":
        columns = _read_text(body, names, counts, num_points, where)
    elif form in ("binary", "binary_compressed"):
        kinds = _kinds(header, counts, where)
        size = sum(kind.itemsize for kind in kinds)
        if form == "binary":
            columns = _read_records(body, kinds, num_points, where)
        else:
            body = _decompress(body, num_points * size, where)
            columns = _read_columns(body, kinds, num_points, where)
    else:
        raise DataError(
            f"{where}: DATA {form!r}; allowed: ascii, binary, binary_compressed"
        )
    places = [columns[names.index(axis)] for axis in _AXES]
    if any(place.ndim != 1 for place in places):
        raise DataError(f"{where}: a coordinate has more than one number")
    return np.stack(places, axis=1), tuple(n for n in names if n not in _AXES)


def _read_header(content: bytes, where: str) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    end = re.search(rb"(?:^|\n)DATA[^\n]*\n", content)
    if end is None:
        raise DataError(f"{where}: not a PCD file, or cut in its header: no line DATA")
    for line in content[: end.end()].decode("latin-1").splitlines():
        words = line.partition("#")[0].split()
        if words:
            header[words[0].upper()] = words[1:]
    for name in ("FIELDS", "DATA"):
        if name not in header:
            raise DataError(f"{where}: no line {name} in the header")
    return header, content[end.end() :]


def _whole(word: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", word):
        raise DataError(f"{where}: bad number in the header: {word[:20]!r}")
    return int(word)


def _num_points(header: dict[str, list[str]], where: str) -> int:
    if header.get("POINTS"):
        return _whole(header["POINTS"][0], where)
    sides = [*header.get("WIDTH", [])[:1], *header.get("HEIGHT", ["1"])[:1]]
    if len(sides) < 2:
        raise DataError(f"{where}: neither POINTS nor WIDTH in the header")
    return _whole(sides[0], where) * _whole(sides[1], where)


def _kinds(
    header: dict[str, list[str]], counts: list[int], where: str
) -> list[np.dtype]:
    sizes, types = header.get("SIZE", []), header.get("TYPE", [])
    if not len(sizes) == len(types) == len(counts):
        raise DataError(f"{where}: as many SIZE and TYPE as FIELDS are needed")
    kinds = []
    for size, letter, count in zip(sizes, types, counts, strict=True):
        try:
            single = np.dtype(f"<{_KINDS[letter.upper()]}{_whole(size, where)}")
            kinds.append(np.dtype((single, (count,))) if count != 1 else single)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: a field of type {letter} {size}") from error
    return kinds


def _truncated(announced: int, found: int, where: str) -> DataError:
    return DataError(f"{where}: truncated: {announced} points announced, {found} found")


def _read_text(
    body: bytes, names: list[str], counts: list[int], num_points: int, where: str
) -> list[np.ndarray]:
    rows = [line.split() for line in body.splitlines() if line.strip()][:num_points]
    if len(rows) < num_points:
        raise _truncated(num_points, len(rows), where)
    width, starts = sum(counts), np.cumsum(counts) - counts
    first = rows[0] if rows else []
    if b"," in b"".join(first) and (len(first) < width or first[0].endswith(b",")):
        # Some programs put commas between the numbers; in 0,5 0,5 they are no such.
        rows = [b" ".join(row).replace(b",", b" ").split() for row in rows]
    short = next((i for i, row in enumerate(rows) if len(row) < width), None)
    if short is not None:
        raise _truncated(num_points, short, where)
    columns = []
    for name, start in zip(names, starts.tolist(), strict=True):
        try:
            found = [float(row[start]) if name in _AXES else 0.0 for row in rows]
        except (ValueError, IndexError) as error:
            raise DataError(f"{where}: {name}: {error}") from error
        columns.append(np.array(found))
    return columns


def _read_records(
    body: bytes, kinds: list[np.dtype], num_points: int, where: str
) -> list[np.ndarray]:
    record = np.dtype([(f"{i}", kind) for i, kind in enumerate(kinds)])
    found = len(body) // record.itemsize if record.itemsize else 0
    if found < num_points:
        raise _truncated(num_points, found, where)
    table = np.frombuffer(body, record, num_points)
    return [table[f"{i}"] for i in range(len(kinds))]


def _read_columns(
    body: bytes, kinds: list[np.dtype], num_points: int, where: str
) -> list[np.ndarray]:
    columns, at = [], 0
    for kind in kinds:
        size = num_points * kind.itemsize
        if at + size > len(body):
            raise _truncated(
                num_points, (len(body) - at) // max(kind.itemsize, 1), where
            )
        columns.append(np.frombuffer(body[at : at + size], kind.base))
        at += size
    return [
        column.reshape(num_points, *kind.shape)
        for column, kind in zip(columns, kinds, strict=True)
    ]


def _decompress(body: bytes, expected: int, where: str) -> bytes:
    """Undoes LZF: literal runs, and copies of up to 264 of the last 8192 bytes."""
    packed, size = (int.from_bytes(body[i : i + 4], "little") for i in (0, 4))
    data = body[8 : 8 + packed]
    if len(data) < packed:
        raise DataError(
            f"{where}: truncated: {packed} bytes announced, {len(data)} found"
        )
    if size != expected or size > _MAX_BYTES:
        raise DataError(f"{where}: {size} bytes announced, {expected} expected")
    out, at = bytearray(), 0
    try:
        while at < len(data) and len(out) <= size:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            distance = ((control & 31) << 8 | data[at]) + 1
            at += 1
            start = len(out) - distance
            if start < 0:
                raise DataError(f"{where}: damaged compressed points")
            piece = out[start : start + length + 2]
            while len(piece) < length + 2:
                piece = piece + piece
            out += piece[: length + 2]
    except IndexError as error:
        raise DataError(f"{where}: damaged compressed points") from error
    if len(out) != size:
        raise DataError(f"{where}: {size} bytes announced, {len(out)} found")
    return bytes(out)
