"""Tables in text files, whichever delimiter they use."""

import csv
from pathlib import Path


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Returns the fields of each line that has any, with the line's number.

    It is split at tabs if that gives a table, else at commas: names may hold any number
    of the other. What is no table either way is split at what is there more often.

    Args:
      path: The file, in UTF-8, with or without a mark of byte order.

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
            if len(lines) > 1 and find_irregular(lines) is None:
                return lines
        return split_at(max("\t,", key=start.count))


def find_irregular(
    lines: list[tuple[int, list[str]]],
) -> tuple[int, list[str]] | None:
    """Returns the first row with more or fewer fields than a table has, if any is.

    Args:
      lines: At least two: a header, and rows as long, or all longer by a name.
    """
    few, width = len(lines[0][1]), len(lines[1][1])
    for number, line in lines[1:]:
        if len(line) != width or width not in (few, few + 1):
            return number, line
    return None
