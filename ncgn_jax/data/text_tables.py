"""Reads tables in text files, separated by tabs, commas or semicolons."""

import csv
import io
from pathlib import Path

from ncgn_jax.data.archives import read_plain_or_gzip
from ncgn_jax.data.stand_ins import refuse_stand_in

_DELIMITERS = "\t,;"
Line = tuple[int, list[str]]  # its number in the file, and its fields


def read_lines(path: Path) -> tuple[list[Line], Line | None]:
    """Splits the lines of a table, without empty ones.

    Lines are split at tabs if that gives a table, else at commas, else at semicolons,
    because names may contain the other delimiters. If none gives a table, the most
    frequent one is used.

    Args:
      path: The file, in UTF-8, with or without a byte order mark; compressed if its
        name ends in .gz.

    Returns:
      The lines, and the first row with a wrong number of fields, None if there is
      none. Rows are as long as the header, or all longer by a name.

    Raises:
      csv.Error: If a quote is not closed or misplaced.
      UnicodeDecodeError: If the file is not UTF-8.
      DataError: If the file is absent or damaged, or another stands in its place.
    """
    content = read_plain_or_gzip(path)
    with io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="") as file:
        start = file.readline() + file.readline()
        refuse_stand_in(start, path)

        def split_at(delimiter: str) -> list[Line]:
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            return [(reader.line_num, line) for line in reader if line]

        for delimiter in _DELIMITERS:
            try:
                lines = split_at(delimiter) if delimiter in start else []
            except csv.Error:
                continue
            if len(lines) > 1 and _find_irregular(lines) is None:
                return lines, None
        lines = split_at(max(_DELIMITERS, key=start.count))
        return lines, _find_irregular(lines)


def _find_irregular(lines: list[Line]) -> Line | None:
    if len(lines) < 2:
        return None
    few, width = len(lines[0][1]), len(lines[1][1])
    for number, line in lines[1:]:
        if len(line) != width or width not in (few, few + 1):
            return number, line
    return None
