"""Reads tables in text files, separated by tabs, commas or semicolons."""

import codecs
import contextlib
import csv
import io
import itertools
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ncgn_jax.data.archives import read_plain_or_gzip
from ncgn_jax.data.stand_ins import refuse_stand_in

_DELIMITERS = "\t,;"
_COMMENT = "#"
_ANY = "latin-1"  # an encoding that any bytes are
_SEPARATOR = re.compile(r"(?i)\s*\"?sep=.\"?\s*")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
Line = tuple[int, list[str]]  # its number in the file, and its fields


class TextLines(NamedTuple):
    """The lines of a table.

    Attributes:
      lines: Those that are not empty, from the header on.
      wrong: The first row with a wrong number of fields, None if there is none. Rows
        are as long as the header, or all longer by a name.
      num_comments: Number of comments before the header.
      encoding: What the bytes are.
    """

    lines: list[Line]
    wrong: Line | None
    num_comments: int
    encoding: str


def read_lines(path: Path) -> TextLines:
    """Splits the lines of a table, without empty ones.

    Lines are split at tabs if that gives a table, else at commas, else at semicolons,
    because names may contain the other delimiters. If none gives a table, the most
    frequent one is used.

    Lines that begin with # before the header are comments; the last of them is the
    header itself if the line below it has numbers in as many fields. A first line
    `sep=;`, which spreadsheets write, is none of the table either.

    Args:
      path: The file, in UTF-8, in UTF-16 with its byte order mark, or else in Latin-1;
        compressed if its name ends in .gz.

    Raises:
      csv.Error: If a quote is not closed or misplaced.
      UnicodeDecodeError: If the file is no whole UTF-16.
      DataError: If the file is absent or damaged, or another stands in its place.
    """
    content = io.BytesIO(read_plain_or_gzip(path))
    first, *others = _encodings_of(content.getbuffer()[:2].tobytes())
    try:
        return _read_stream(content, first, path)
    except UnicodeDecodeError:
        if not others:
            raise
        return _read_stream(content, others[0], path)


def read_header(content: BinaryIO, longest: int = -1) -> str:
    """Returns the header of a table, which may stand behind comments.

    Args:
      content: The table.
      longest: Most characters of a line to read, -1 for all.
    """
    encoding = _encodings_of(content.read(2))[-1]
    content.seek(0)
    file = io.TextIOWrapper(content, encoding, newline="")
    header = _read_start(file, longest).header
    file.detach()
    if encoding != _ANY:
        return header
    with contextlib.suppress(UnicodeDecodeError):
        return header.encode(_ANY).decode()
    return header


def _encodings_of(start: bytes) -> list[str]:
    """Returns the encodings that may be that of a text, the likelier first."""
    is_wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return ["utf-16"] if is_wide else ["utf-8-sig", _ANY]


def _read_stream(content: io.BytesIO, encoding: str, path: Path) -> TextLines:
    content.seek(0)
    file = io.TextIOWrapper(content, encoding, newline="")
    try:
        return _read_text(file, encoding, path)
    finally:
        file.detach()


def _read_text(file: io.TextIOWrapper, encoding: str, path: Path) -> TextLines:
    header, position, num_above, num_comments = _read_start(file)
    file.seek(position)
    start = header + file.readline()
    refuse_stand_in(start, path)

    def split_at(delimiter: str) -> list[Line]:
        file.seek(position)
        lines = itertools.chain([header], file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        return [(reader.line_num + num_above, line) for line in reader if line]

    # A header that is not split is that of a matrix of one column at most: between
    # semicolons, it is decimal commas that split the rows.
    headless = None
    for delimiter in _DELIMITERS:
        try:
            lines = split_at(delimiter) if delimiter in start else []
        except csv.Error:
            continue
        if len(lines) > 1 and _find_irregular(lines) is None:
            found = TextLines(lines, None, num_comments, encoding)
            if len(lines[0][1]) > 1:
                return found
            headless = headless or found
    if headless is not None:
        return headless
    lines = split_at(max(_DELIMITERS, key=start.count))
    return TextLines(lines, _find_irregular(lines), num_comments, encoding)


def may_be_thousands(text: str) -> bool:
    """Tells whether a number with one comma may be a whole number of thousands.

    Example:
      >>> [may_be_thousands(text) for text in ("1,234", "0,234", "1,23", "1234,567")]
      [True, False, False, False]
    """
    return _THOUSANDS.fullmatch(text.strip()) is not None


class _Start(NamedTuple):
    """Where a table begins.

    Attributes:
      header: Its first line.
      position: Of the line below, for `seek`.
      num_above: Lines above the header.
      num_comments: How many of these are comments.
    """

    header: str
    position: int
    num_above: int
    num_comments: int


def _read_start(file: io.TextIOWrapper, longest: int = -1) -> _Start:
    num_above, comments = 0, list[str]()
    position, line = file.tell(), file.readline(longest)
    line = line.removeprefix("\xef\xbb\xbf")  # a mark that was read as Latin-1
    if _SEPARATOR.fullmatch(line):
        num_above = 1
        position, line = file.tell(), file.readline(longest)
    while line and (not line.strip() or line.startswith(_COMMENT)):
        num_above += 1
        if line.strip():
            comments.append(line)
        position, line = file.tell(), file.readline(longest)
    marked = comments[-1].lstrip(f"{_COMMENT} ") if comments else ""
    if _is_header(marked, line):
        return _Start(marked, position, num_above - 1, len(comments) - 1)
    return _Start(line, file.tell(), num_above, len(comments))


def _is_header(line: str, below: str) -> bool:
    """Tells whether a line names the fields of the line below, which has numbers."""
    for delimiter in _DELIMITERS:
        names, fields = (text.strip().split(delimiter) for text in (line, below))
        if 1 < len(fields) <= len(names) + 1 <= len(fields) + 1:
            return any(map(_is_number, fields)) and not any(map(_is_number, names))
    return False


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _find_irregular(lines: list[Line]) -> Line | None:
    if len(lines) < 2:
        return None
    few, width = len(lines[0][1]), len(lines[1][1])
    for number, line in lines[1:]:
        if len(line) != width or width not in (few, few + 1):
            return number, line
    return None
