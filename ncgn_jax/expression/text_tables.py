"""Reads tables in text files, separated by tabs or by commas."""

import csv
from pathlib import Path

Line = tuple[int, list[str]]  # its number in the file, and its fields


def read_lines(path: Path) -> tuple[list[Line], Line | None]:
    """Splits the lines of a table, without empty ones.

    Lines are split at tabs if that gives a table, else at commas, because names may
    contain the other delimiter. If neither gives a table, the more frequent one is
    used.

    Args:
      path: The file, in UTF-8, with or without a byte order mark.

    Returns:
      The lines, and the first row with a wrong number of fields, None if there is
      none. Rows are as long as the header, or all longer by a name.

    Raises:
      csv.Error: If a quote is not closed or misplaced.
      UnicodeDecodeError: If the file is not UTF-8.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        start = file.readline() + file.readline()

        def split_at(delimiter: str) -> list[Line]:
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            return [(reader.line_num, line) for line in reader if line]

        for delimiter in "\t,":
            try:
                lines = split_at(delimiter) if delimiter in start else []
            except csv.Error:
                continue
            if len(lines) > 1 and _find_irregular(lines) is None:
                return lines, None
        lines = split_at(max("\t,", key=start.count))
        return lines, _find_irregular(lines)


def _find_irregular(lines: list[Line]) -> Line | None:
    if len(lines) < 2:
        return None
    few, width = len(lines[0][1]), len(lines[1][1])
    for number, line in lines[1:]:
        if len(line) != width or width not in (few, few + 1):
            return number, line
    return None
