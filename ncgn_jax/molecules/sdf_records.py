r"""Splits .sdf files into records: a structure, and properties under their names.

Example:
  >>> text = "x\n\n\n  0  0 V2000\nM  END\n> <gap> (1)\n0.5\n\n$$$$\n"
  >>> [(r.number, dict(r.values), r.fault) for r in read_records(numbered(text))]
  [(1, {'gap': '0.5'}, None)]
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ncgn_jax.molecules.faults import Fault

_END = "$$$$"
_NAME = re.compile(r">.*?<(.*)>")
_COUNTS_LINE = 3  # from 0: it follows the title and two lines more
_MAX_LINES = 200_000  # of a record; V3000 of a protein has fewer


class Record(NamedTuple):
    """A record as it stands in the file.

    Attributes:
      number: Number of its first line.
      text: Title, structure, and all that follows.
      values: Text of each property by name.
      fault: Why it is not to be trusted.
    """

    number: int
    text: str
    values: Mapping[str, str]
    fault: Fault | None = None


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Numbers the lines of a text from 1."""
    return enumerate(text.splitlines(), start=1)


def read_records(
    lines: Iterable[tuple[int, str]], *, is_single: bool = False
) -> Iterator[Record]:
    """Reads records, which end with `$$$$`; the last one may lack it.

    Without `$$$$` between them two molecules would stand in one record, and the first
    get the properties of the second: such a record is a fault, not split at a guess.

    Args:
      lines: Numbers and texts.
      is_single: Whether the file is a .mol, without `$$$$`.
    """
    start, found = 1, list[str]()
    for number, text in lines:
        if text.startswith(_END):
            yield _to_record(start, found, is_whole=True)
            start, found = number + 1, list[str]()
        elif len(found) < _MAX_LINES:
            found.append(text)
    if any(text.strip() for text in found):
        yield _to_record(start, found, is_whole=is_single)


def _to_record(start: int, lines: list[str], *, is_whole: bool) -> Record:
    text = "\n".join(lines) + "\n"
    fault: Fault | None = None
    if not text.strip():
        return Record(start, "", {}, Fault("empty records", "nothing", "a structure"))
    ends = [i for i, line in enumerate(lines) if line.rstrip() == "M  END"]
    heads = [i for i, line in enumerate(lines) if _is_counts_line(line)]
    num = max(len(ends), len(heads))
    if num > 1 or len(lines) == _MAX_LINES:
        found = f"{num} structures" if num > 1 else f"{_MAX_LINES} lines or more"
        fault = Fault("records without $$$$ between molecules", found, "one")
        return Record(start, text, {}, fault)
    values: dict[str, str] = {}
    # Before the end of the structure a line may begin with > as well.
    rest = lines[ends[0] + 1 :] if ends else []
    name, value = None, list[str]()
    for line in [*rest, ""] if is_whole else rest:
        match = _NAME.match(line) if name is None or not line.strip() else None
        if name is None and match:
            name, value = match[1], []
        elif name is not None and not line.strip():
            if values.get(name, "\n".join(value)) != "\n".join(value):
                fault = Fault(f"with two values of {name}", "two", "one")
            values[name] = "\n".join(value)
            name = None
        elif name is not None:
            value.append(line.strip())
    if not is_whole and (name is not None or not ends):
        fault = Fault("records cut short", "no $$$$ at the end", "whole records")
    return Record(start, text, values, fault)


def _is_counts_line(line: str) -> bool:
    is_versioned = line.rstrip().endswith(("V2000", "V3000"))
    return is_versioned and line[:6].replace(" ", "").isdigit()
