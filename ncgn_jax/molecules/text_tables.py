r"""Finds separator, header and column of SMILES in texts, and reads their rows.

A table is what people make it: `.csv` files with semicolons, `.smi` files with commas,
headers or none. The first lines decide, and what was decided is said. A name that is
asked for goes before anything found.

Example:
  >>> lines = enumerate(["id;mol", "a;CCO", "b;c1ccccc1;odd"], start=1)
  >>> table = TextTable(lines, "mine.csv")
  >>> table.notes
  ["mine.csv: separated by semicolons; SMILES in column 'mol', by its content"]
  >>> [(row.number, row.smiles, row.fault and row.fault.found) for row in table.rows()]
  [(2, 'CCO', None), (3, '', '3 fields')]
"""

import csv
import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from ncgn_jax.data.splits import split_of
from ncgn_jax.data.text_tables import may_be_thousands
from ncgn_jax.faults import DataError, did_you_mean
from ncgn_jax.molecules.faults import Fault, count_atoms

# Endings of tables, and the separator that each stands for; others list molecules.
TABLE_ENDINGS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
LIST_ENDINGS = (".smi", ".smiles", ".txt", ".ism", ".can", ".cxsmiles")
_WORDS = {
    "\t": "tabs",
    ",": "commas",
    ";": "semicolons",
    "|": "bars",
    "": "white space",
}
_NUM_LOOKED_AT = 100  # lines that decide
_MAX_QUOTED_LINES = 50
_MAX_FIELD = 2**24
_MOST_LISTED = 40  # names in a message
_MAX_NAME = 60  # letters of a column's name, as opposed to a sentence
# This share of a column must be SMILES, of two atoms or more, to be found by its
# content: labels such as N and C are SMILES too.
_SHARE = 0.5
_SPLIT_NAMES = frozenset(("split", "splits", "dataset_split", "data_split"))
_LIKE_SPLITS = re.compile(
    r"(?i)(.*[ _.-])?(split|folds?)([ _.-]?\d+)?|(is[ _-])?(train(ing)?|test|holdout)"
)
_COMMENTS = ("#", "//")  # no SMILES begins so
_SEPARATOR = re.compile(r'(?i)"?sep=."?')  # that spreadsheets write on top
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")

_OPEN_QUOTE = Fault("rows with an open quote", "a quote", "quotes in pairs")

_Line = tuple[int, str]
_Fields = list[str]


class Wanted(NamedTuple):
    """Names of what to read of each molecule.

    Attributes:
      smiles: Column with SMILES, or its number from 1 where there is no header; None
        to find it.
      properties: Columns, or properties of .sdf, to read as numbers.
      split: Column, or property, that names splits; None to find it, empty for none.
    """

    smiles: str | None = None
    properties: tuple[str, ...] = ()
    split: str | None = None


class Row(NamedTuple):
    """A molecule as a table has it, or why its row is none.

    Attributes:
      number: Number of its first line.
      smiles: Its SMILES.
      values: Text of each property that was asked for.
      split: What its column of splits says; None without one.
      fault: Why the row cannot be read.
    """

    number: int
    smiles: str
    values: Mapping[str, str]
    split: str | None = None
    fault: Fault | None = None


_ANY = Wanted()


class Columns(NamedTuple):
    """What the columns of a table hold.

    Attributes:
      names: Name of each; its number from 1 where there is no header.
      has_header: Whether the first row names them.
      smiles: Those that hold SMILES, or are asked for.
      how: How they were found; empty for a usual name or place.
      score: How many of the first rows have SMILES there.
    """

    names: tuple[str, ...]
    has_header: bool
    smiles: tuple[int, ...]
    how: str
    score: int


class TextTable:
    """Reads a text with a molecule in each line.

    Attributes:
      names: Names of all columns.
      notes: What was decided by a rule, a sentence each.
      split_column: Name of the column of splits, None without one.
    """

    def __init__(self, lines: Iterable[_Line], where: str, wanted: Wanted = _ANY):
        """Looks at the first lines.

        Args:
          lines: Numbers and texts.
          where: Name of the file; its ending says what is usual.
          wanted: What to read.

        Raises:
          DataError: If there is no column of SMILES, several, or not those asked for.
        """
        ending = PurePath(where.lower().removesuffix(".gz")).suffix
        usual = TABLE_ENDINGS.get(ending, "")
        self._where, self._properties = where, wanted.properties
        self._is_list = ending not in TABLE_ENDINGS
        kept = _without_comments(lines, self._is_list)
        start = list(itertools.islice(kept, _NUM_LOOKED_AT))
        self._lines = itertools.chain(start, kept)
        self._separator, self._columns = self._choose(start, usual, wanted.smiles)
        self.names = self._columns.names
        self._is_filled = bool(start)
        if any(text.startswith(("$$$$", "M  END")) for _, text in start):
            raise DataError(f"{where}: records of .sdf in it; give it that ending")
        if start:
            check_columns(self._columns, where, wanted)
        rows = [fields for _, fields in split_rows(start, self._separator) if fields]
        sample = rows[self._columns.has_header :]
        widths = Counter(map(len, sample))
        is_named = self._columns.has_header or not widths
        self._width = len(self.names) if is_named else widths.most_common(1)[0][0]
        named = self.names if is_named else ()
        self.split_column = find_split_column(named, sample, where, wanted.split)
        self._decimal_commas = self._find_decimal_commas(sample) if start else []
        self.notes = self._decisions(usual) if start else []

    @property
    def smiles(self) -> str:
        """Name of the column of SMILES."""
        return self.names[self._columns.smiles[0]] if self._columns.smiles else ""

    @property
    def has_header(self) -> bool:
        """Whether the first row names the columns."""
        return self._columns.has_header

    @property
    def about(self) -> str:
        """Where SMILES stand, a phrase."""
        shown = repr(self.smiles) if self.has_header else self.smiles
        return f"SMILES in column {shown}"

    def rows(self) -> Iterator[Row]:
        """Reads the rows, once."""
        if not self._is_filled:
            return
        wanted = {name: self.names.index(name) for name in self._properties}
        smiles, has_header = self._columns.smiles[0], self._columns.has_header
        split = -1
        if self.split_column is not None:
            split = self.names.index(self.split_column)
        rows = split_rows(self._lines, self._separator)
        for number, fields in itertools.islice(rows, int(has_header), None):
            if fields is None:
                yield Row(number, "", {}, None, _OPEN_QUOTE)
                continue
            fault = self._find_fault(fields)
            if fault is not None:
                yield Row(number, "", {}, None, fault)
                continue
            values = {name: fields[i].strip() for name, i in wanted.items()}
            for name in self._decimal_commas:
                values[name] = values[name].replace(",", ".")
            of_split = fields[split].strip() if split >= 0 else None
            yield Row(number, fields[smiles].strip(), values, of_split)

    def _choose(
        self, start: list[_Line], usual: str, smiles_column: str | None
    ) -> tuple[str, Columns]:
        """Returns the separator under which most rows have SMILES in one column."""
        # Behind the SMILES of a list, tabs go before other white space.
        order = dict.fromkeys([usual, *_WORDS] if usual else ["\t", "", *_WORDS])
        chosen, best = usual, Columns((), False, (), "", -1)
        for separator in order:
            is_there = any((separator or " ") in text for _, text in start)
            if separator != usual and not is_there:
                continue
            rows = [fields or [] for _, fields in split_rows(start, separator)]
            found = find_columns(rows, self._is_list, smiles_column)
            if found.score > best.score:
                chosen, best = separator, found
        return chosen, best

    def _find_fault(self, fields: _Fields) -> Fault | None:
        while len(fields) > self._width and not fields[-1].strip():
            fields.pop()  # separators at the end of a row
        # A list may have names behind some of its SMILES only, and words in them.
        columns = self._columns
        is_free = self._is_list and (self._separator == "" or not columns.has_header)
        is_free &= columns.smiles[0] == 0
        is_free &= not self._properties and self.split_column is None
        if len(fields) == self._width or is_free:
            return None
        count = f"{len(fields)} field{'s' * (len(fields) != 1)}"
        where = "in the header" if columns.has_header else "in most"
        return Fault("rows of another length", count, f"{self._width} as {where}")

    def _find_decimal_commas(self, sample: list[_Fields]) -> list[str]:
        """Returns the properties whose numbers have commas in the place of points."""
        found = []
        for name in self._properties if self._separator != "," else ():
            i = self.names.index(name)
            values = [fields[i].strip() for fields in sample if len(fields) > i]
            commas = [text for text in values if _DECIMAL_COMMA.fullmatch(text)]
            # `1,234` alone may be a thousand and more.
            is_told = not all(map(may_be_thousands, commas))
            if is_told and not any("." in text for text in values):
                found.append(name)
        return found

    def _decisions(self, usual: str) -> list[str]:
        said = []
        if self._separator != usual and {self._separator, usual} != {"", "\t"}:
            said.append(f"separated by {_WORDS[self._separator]}")
        if self._columns.how:
            said.append(f"{self.about}, {self._columns.how}")
        if not self._columns.has_header and not self._is_list:
            said.append("no header, so columns are named by their numbers")
        for name in self._decimal_commas:
            said.append(f"commas in {name} are decimal points")
        return [f"{self._where}: {'; '.join(said)}"] if said else []


def split_rows(
    lines: Iterable[_Line], separator: str
) -> Iterator[tuple[int, _Fields | None]]:
    """Splits lines into fields; a field in quotes may hold separators and line ends.

    Args:
      lines: Numbers and texts.
      separator: One character; empty for white space.

    Yields:
      Number of the first line of a row, and its fields; None where a quote is not
      closed, and the next row is that of the line below. (`csv` alone would take the
      rest of the file for one field.)
    """
    waiting: deque[_Line] = deque()
    source = iter(lines)

    def take() -> _Line | None:
        return waiting.popleft() if waiting else next(source, None)

    while (line := take()) is not None:
        number, text = line
        if not separator:
            yield number, _split_at_space(text)
            continue
        if '"' not in text or separator == "\t":
            # Behind tabs a quote is a letter of a name, but where it encloses all.
            yield number, [_unquoted(field) for field in text.split(separator)]
            continue
        more: list[_Line] = []
        fields = _parse_row(text, separator)
        while fields is None and len(more) < _MAX_QUOTED_LINES:
            if (following := take()) is None:
                break
            more.append(following)
            fields = _parse_row("\n".join([text, *(t for _, t in more)]), separator)
        if fields is None:
            waiting.extendleft(reversed(more))
        yield number, fields


def _split_at_space(text: str) -> _Fields:
    """Splits at white space, but for that in quotes, as R writes names."""
    if text.count('"') >= 2:
        fields = _parse_row(" ".join(text.split()), " ")
        if fields is not None:
            return fields
    return text.split()


def _unquoted(field: str) -> str:
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def _parse_row(text: str, separator: str) -> _Fields | None:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error:
        return None


def _without_comments(lines: Iterable[_Line], everywhere: bool) -> Iterator[_Line]:
    """Drops empty lines and comments: those with # or // at the top, or everywhere."""
    is_top = True
    for number, text in lines:
        words = re.split(r"[#/\s,;|]+", text) if text.startswith(_COMMENTS) else ()
        is_comment = bool(words) and not any(map(_is_name_of_smiles, words))
        if is_comment and (is_top or everywhere):
            continue
        if is_top and _SEPARATOR.fullmatch(text):
            continue
        if text.strip():
            yield number, text
            is_top = False


def check_columns(columns: Columns, where: str, wanted: Wanted) -> None:
    """Raises DataError if there is not one column for SMILES and each property."""
    names, listed = columns.names, _listed(columns.names)
    smiles_column = wanted.smiles
    if smiles_column is not None and len(columns.smiles) != 1:
        raise DataError(
            f"{where}: {len(columns.smiles)} columns {smiles_column!r} "
            f"(data.smiles_column); allowed: one of {listed}"
            f"{'' if columns.smiles else did_you_mean(smiles_column, names)}"
        )
    if len(columns.smiles) > 1:
        several = _listed([names[i] for i in columns.smiles])
        raise DataError(
            f"{where}: several columns may be the SMILES: {several}; name one with "
            "data.smiles_column"
        )
    if not columns.smiles:
        raise DataError(
            f"{where}: no column of SMILES found; name one of {listed} with "
            "data.smiles_column"
        )
    for name in wanted.properties:
        count = names.count(name)
        if count != 1:
            raise DataError(
                f"{where}: {count} columns {name!r} (data.properties); allowed: one "
                f"of {listed}{'' if count else did_you_mean(name, names)}"
            )


def find_split_column(
    names: Sequence[str], sample: list[_Fields], where: str, asked: str | None
) -> str | None:
    """Returns the name of the column of splits, None without one.

    Args:
      names: Names of the columns.
      sample: The first rows.
      where: Name of the file.
      asked: Name that is asked for; None to look for usual ones, empty for none.

    Raises:
      DataError: If there is not one column of the name asked for.
    """
    if asked:
        if list(names).count(asked) != 1:
            raise DataError(
                f"{where}: {list(names).count(asked)} columns {asked!r} "
                f"(data.split_column); allowed: one of {_listed(names)}"
            )
        return asked
    if asked == "":
        return None
    named = [n for n in names if re.sub(r"\W+", "_", n.lower()) in _SPLIT_NAMES]
    found = named or [
        name
        for i, name in enumerate(names)
        if _are_splits({fields[i].strip() for fields in sample if len(fields) > i})
    ]
    if len(found) > 1:
        raise DataError(
            f"{where}: several columns name splits: {_listed(found)}; name one with "
            "data.split_column, or set data.split=random"
        )
    return found[0] if found else None


def like_splits(names: Iterable[str]) -> list[str]:
    """Returns the names of columns that may tell splits in another form, such as 0/1.

    Example:
      >>> like_splits(["smiles", "is_train", "fold", "training_time", "folder"])
      ['is_train', 'fold']
    """
    return [name for name in names if _LIKE_SPLITS.fullmatch(name.strip())]


def _are_splits(values: set[str]) -> bool:
    return bool(values) and all(len(v) > 2 and split_of(v) for v in values)


def find_columns(
    rows: list[_Fields], is_list: bool, smiles_column: str | None
) -> Columns:
    """Finds header and SMILES; by a name, else by the content.

    Args:
      rows: The first rows, as one separator splits them.
      is_list: Whether the first column is where SMILES usually are.
      smiles_column: Name of their column; None to find it.
    """
    first = [name.strip() for name in rows[0]] if rows else []
    while len(first) > 1 and not first[-1]:
        first.pop()
    if first:
        first[0] = first[0].lstrip("#/ ")
    width = len(first)
    numbers = tuple(str(i + 1) for i in range(max(map(len, rows), default=0)))
    below = rows[1:]

    def score(i: int, among: list[_Fields]) -> int:
        texts = [row[i] for row in among if len(row) > i and _is_word(row[i])]
        return sum(count_atoms(text) > 0 for text in texts)

    def is_smiles(i: int, among: list[_Fields]) -> bool:
        texts = [row[i] for row in among if len(row) > i and row[i].strip()]
        many = sum(count_atoms(text) > 1 for text in texts)
        return bool(texts) and many >= _SHARE * len(texts)

    if smiles_column is not None:
        hits = tuple(i for i in range(width) if first[i] == smiles_column)
        if hits:
            points = 1 + score(hits[0], below)
            return Columns(tuple(first), True, hits, "", points)
        if smiles_column in numbers and any(count_atoms(text) for text in first):
            i = numbers.index(smiles_column)
            return Columns(numbers, False, (i,), "", 1 + score(i, rows))
        has_header = not any(count_atoms(text) > 1 for text in first)
        return Columns(tuple(first) if has_header else numbers, has_header, (), "", 0)
    named = tuple(i for i in range(width) if _is_name_of_smiles(first[i]))
    is_shifted = bool(named) and not score(named[0], below)
    if is_shifted and score(named[0] + 1, below) and _has_row_names(width, below):
        first, width = ["", *first], width + 1
        named = tuple(i + 1 for i in named)
    some = tuple(i for i in named if score(i, below)) or named[:1]
    found = tuple(i for i in range(len(numbers)) if is_smiles(i, below or rows))
    # In a list "CCO smiles_1" is no header, nor is a sentence about SMILES.
    is_molecule = any(count_atoms(text) > 1 for text in first)
    if named and (score(some[0], below) or not (is_molecule or found)):
        usual = first[some[0]].lower() == "smiles"
        how = "" if usual else "by its name"
        points = 1 + max(score(i, below) for i in some)
        return Columns(tuple(first), True, some, how, points)
    if is_list and (score(0, rows) >= _SHARE * len(rows) or len(numbers) < 2):
        return Columns(numbers or ("1",), False, (0,), "", score(0, rows))
    if not found and is_list:
        return Columns(numbers, False, (0,), "", score(0, rows))
    has_header = not is_list and not any(
        count_atoms(first[i]) for i in found if i < width
    )
    # A header may be too short.
    padded = (*first, *numbers[width : max(found, default=0) + 1])
    names = padded if has_header else numbers
    best = max((score(i, below if has_header else rows) for i in found), default=0)
    how = "by its content" if len(numbers) > 1 else ""
    return Columns(names, has_header, found, how, best)


def _listed(names: Sequence[str]) -> str:
    """Lists names for a message, long ones and long lists cut short."""
    shown = [n if len(n) <= _MAX_NAME else f"{n[:_MAX_NAME]}..." for n in names]
    more = f" and {len(shown) - _MOST_LISTED} more" * (len(shown) > _MOST_LISTED)
    return ", ".join(shown[:_MOST_LISTED]) + more


def _has_row_names(width: int, below: list[_Fields]) -> bool:
    """Tells whether rows are longer than the header by one, as R writes them."""
    longer = sum(len(row) == width + 1 and bool(row[-1].strip()) for row in below)
    return longer >= _SHARE * len(below)


def _is_word(text: str) -> bool:
    """Tells whether nothing but an extension, `CC |...|`, stands behind a SMILES."""
    words = text.split(maxsplit=1)
    return len(words) == 1 or (len(words) == 2 and words[1].startswith("|"))


def _is_name_of_smiles(name: str) -> bool:
    letters = re.sub("[^a-z]", "", name.lower())
    if len(name) > _MAX_NAME:
        return False
    return "smiles" in letters or letters in ("smi", "cansmi", "isosmi", "smile")
