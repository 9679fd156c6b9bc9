r"""Reads points of text files: .xyz, .pts, .txt, .asc and .csv.

A line is a point; its numbers are separated by blanks, commas, semicolons or tabs.
Comments, lines of words before the first point (a header that names x, y and z tells
where they stand) and a number of points in the first line (.pts) are understood.

Example:
  >>> cloud = read_text_cloud(b"nx,x,y,z\n9,0,0,1\n9,2,0,1\n", "a.csv")
  >>> cloud.points.tolist(), cloud.others
  ([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0]], ('nx',))
"""

import re
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.stand_ins import refuse_stand_in
from ncgn_jax.data.text_tables import may_be_thousands
from ncgn_jax.faults import DataError

_AXES = ("x", "y", "z")
_COMMENTS = re.compile(r"^\s*(?:(?:#|//|%|;|\").*|[{}])$")
_COUNT = re.compile(r"(?:n_points:\s*)?([0-9]{1,12})")
_MAX_HEADER_LINES = 40
_GRID_LINES = 6
_MAX_LISTED = 8  # names of columns in a message


class TextCloud(NamedTuple):
    """Points of a text file.

    Attributes:
      points: float64 [point, 3].
      others: Names of the columns that are not used; numbers from 1 without names.
      decimal_comma: Whether 0,5 stood for 0.5.
    """

    points: np.ndarray
    others: tuple[str, ...]
    decimal_comma: bool = False


def has_points(content: bytes) -> bool:
    """Tells whether one of the first lines of a text looks like a point."""
    return _first_point(_lines_of(narrow_text(content[: 2**16]))) is not None


def narrow_text(content: bytes) -> bytes:
    """Returns a text in UTF-8 if it is in UTF-16 with its mark, else as it is.

    Example:
      >>> narrow_text("1 2 3".encode("utf-16"))
      b'1 2 3'
    """
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content
    # The end may be cut within a letter.
    return content.decode("utf-16", "replace").encode()


def read_text_cloud(content: bytes, where: str) -> TextCloud:
    """Parses a cloud in text.

    Args:
      content: Content of the file.
      where: Name of the file, for messages.

    Raises:
      DataError: If there are no points, or another number than announced, if a line
        has another number of columns than the first, or if commas may divide thousands.
    """
    content = narrow_text(content)
    if b"\0" in content[: 2**16]:
        raise DataError(f"{where}: not a text file")
    lines = _lines_of(content)
    start = _first_point(lines)
    _refuse_grid(lines, where)
    if start is None:
        refuse_stand_in(content, where)
        raise DataError(
            f"{where}: no points: no line begins with three numbers "
            f"({len(lines)} lines)"
        )
    rows = [row for row in lines[start:] if row and not _COMMENTS.match(row)]
    separator, decimal_comma = _find_separator(rows[0])
    table = _parse(rows, separator, decimal_comma, where)
    header = _find_header(lines[:start], table.shape[1])
    announced = _find_count(lines[:start])
    if announced is not None and announced != len(table):
        counts = f"{announced} points announced, {len(table)} found"
        raise DataError(
            f"{where}: truncated: {counts}"
            if announced > len(table)
            else f"{where}: {counts}; remove the line that counts them"
        )
    names = header or [f"{i + 1}" for i in range(table.shape[1])]
    places = [0, 1, 2]
    if header and set(_AXES) <= set(header):
        places = [header.index(axis) for axis in _AXES]
    elif header and len(header) > 3:
        listed = ", ".join(header[:_MAX_LISTED])
        more = f", ... ({len(header)} in all)" if len(header) > _MAX_LISTED else ""
        raise DataError(
            f"{where}: columns {listed}{more}; allowed: three columns, or some "
            "of them named x, y and z"
        )
    others = tuple(name for i, name in enumerate(names) if i not in places)
    return TextCloud(np.ascontiguousarray(table[:, places]), others, decimal_comma)


def _refuse_grid(lines: list[str], where: str) -> None:
    """Refuses heights on a grid, whose rows look like points."""
    words = {line.split()[0].lower() for line in lines[:_GRID_LINES] if line.split()}
    if {"ncols", "nrows"} <= words:
        raise DataError(
            f"{where}: heights on a grid (ncols, nrows); allowed: a point in each line "
            "(gdal2xyz writes them)"
        )


def _lines_of(content: bytes) -> list[str]:
    text = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    return [line.strip(" \t\r,;") for line in re.split(r"\r\n|\n|\r", text)]


def _first_point(lines: list[str]) -> int | None:
    """Returns the first line that is a point, after at most a few that are none."""
    for index, line in enumerate(lines[:_MAX_HEADER_LINES]):
        separator, decimal_comma = _find_separator(line)
        words = _split(line, separator, decimal_comma)
        if len(words) >= 3 and all(map(_is_number, words)):
            return index
        # Rows may begin with a name, under a header that says so.
    return None


def _find_separator(line: str) -> tuple[str | None, bool]:
    """Returns what separates numbers (None for blanks) and whether a comma is a point.

    Between semicolons, tabs or blanks, `0,5` is a half; where every number has its
    comma and no point, that is.
    """
    for separator in (";", "\t", None):
        if separator is not None and separator not in line:
            continue
        words = [word.strip() for word in line.split(separator)]
        if len(words) < 3 or not any("," in word for word in words):
            if separator is None and "," in line:
                break
            return separator, False
        if all(re.fullmatch(r"[+-]?\d+(?:,\d+)?", word) for word in words):
            return separator, True
    return ",", False


def _split(line: str, separator: str | None, decimal_comma: bool) -> list[str]:
    line = line.replace(",", ".") if decimal_comma else line
    return [word.strip() for word in line.split(separator)]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return "_" not in word


def _parse(
    rows: list[str], separator: str | None, decimal_comma: bool, where: str
) -> np.ndarray:
    if decimal_comma:
        split = (word for row in rows for word in row.split(separator))
        if all(may_be_thousands(word) for word in split if "," in word):
            raise DataError(
                f"{where}: commas as in {rows[0][:60]!r} may be decimal points or "
                "divide thousands; allowed: decimal points, and no mark for thousands"
            )
        rows = [row.replace(",", ".") for row in rows]
    try:
        return np.loadtxt(rows, delimiter=separator, comments=None, ndmin=2)
    except (ValueError, OverflowError) as error:
        width = len(rows[0].split(separator))
        for index, row in enumerate(rows):
            words = row.split(separator)
            if len(words) != width or not all(map(_is_number, words)):
                raise DataError(
                    f"{where}: point {index + 1}: {row[:60]!r}; allowed: {width} "
                    "numbers, as in the first (truncated?)"
                ) from error
        raise DataError(f"{where}: not readable ({error})") from error


def _find_header(lines: list[str], width: int) -> list[str] | None:
    """Returns the names of columns, if the last line before the points has them."""
    named = [line.lstrip("#/%; ") for line in lines if line.strip("#/%; ")]
    if not named:
        return None
    words = [w.strip("\"' ").lower() for w in re.split(r"[,;\t ]+", named[-1]) if w]
    if len(words) == width - 1:
        words = ["", *words]  # tables of pandas do not name the column of rows
    is_header = len(words) == width and not any(map(_is_number, words))
    return words if is_header else None


def _find_count(lines: list[str]) -> int | None:
    """Returns the number of points, if a line before them is one whole number."""
    counts = [match for match in map(_COUNT.fullmatch, lines) if match]
    return int(counts[0].group(1)) if counts else None
