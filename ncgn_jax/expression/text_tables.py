"""Tables in text files, whichever delimiter they use."""

import csv
from pathlib import Path

Line = tuple[int, list[str]]  # its number in the file, and its fields


def read_lines(path: Path) -> tuple[list[Line], Line | None]:
    """Splits the lines of a table that have any fields.

    It is split at tabs if that gives a table, else at commas: names may hold any number
    of the other. What is no table either way is split at what is there more often.

    Args:
      path: The file, in UTF-8, with or without a mark of byte order.

    Returns:
      The lines, and the first row with more or fewer fields than a table has, None if
      there is none: rows are as long as the header, or all longer by a name.

    Raises:
      csv.Error: If quotes do not end, or stand where they must not.
      UnicodeDecodeError: If it is not UTF-8.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        start = file.readline() + file.readline()

        def split_at(delimiter):
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
