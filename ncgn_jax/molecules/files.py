r"""Reads molecules from .smi, .csv, .tsv, .sdf and .parquet files.

  .smi, .smiles, .txt  a SMILES and perhaps a name in each line.
  .csv, .tsv           a table, one column of which holds SMILES.
  .sdf, .mol           structures, with properties under their names.
  .parquet             a table; needs pyarrow.

Each may be compressed (.gz), lie in a folder with others of its kind, or in an archive
(.zip, .tar). Separators, headers and columns are found (`text_tables`), and splits by
the names of files or a column.

A molecule is usable if it is one connected graph of known elements, has no unpaired
electrons, has 2 or more heavy atoms but not too many, and its hydrogens follow from its
bonds. Others are left out and counted, or refused.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     file = pathlib.Path(folder, "mine.smi")
...     _ = file.write_text("CCO ethanol\nC1CC broken\nC=O formaldehyde\n")
...     loaded = load_molecules(file, max_atoms=9)
>>> loaded.molecules.smiles.tolist(), *map(str, loaded.reading.left_out)
(['CCO', 'C=O'], '1 unreadable SMILES (first line 2)')
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import SPLITTINGS, split_in, split_of
from ncgn_jax.faults import DataError, did_you_mean
from ncgn_jax.molecules.atom_classes import import_chem
from ncgn_jax.molecules.faults import (
    MIN_ATOMS,
    Fault,
    Limits,
    count_atoms,
    parse_record,
    parse_smiles,
)
from ncgn_jax.molecules.gathering import INVALID, SALTS, Gathered, Rules, WayOut
from ncgn_jax.molecules.parquet_files import ParquetTable
from ncgn_jax.molecules.sdf_records import read_records
from ncgn_jax.molecules.sets import MoleculeSet
from ncgn_jax.molecules.sources import (
    PARQUET_ENDINGS,
    RECORD_ENDINGS,
    Source,
    open_sources,
)
from ncgn_jax.molecules.text_lines import TextLines
from ncgn_jax.molecules.text_tables import (
    LIST_ENDINGS,
    TABLE_ENDINGS,
    Row,
    TextTable,
    Wanted,
    like_splits,
)

# Endings of files that may hold anything.
_SHARED_ENDINGS = (".txt", *TABLE_ENDINGS, *PARQUET_ENDINGS)
_NUM_LOOKED_AT = 50  # rows that decide whether a text has molecules
_MOST_SHOWN = 12  # columns that are not read


class Loaded(NamedTuple):
    """What was read.

    Attributes:
      molecules: The usable ones, in their order, each once.
      splits: Split of each, as the data name it; None if they name none.
      split_rule: Where the splits come from.
      reading: What was found and left out, and notes.
      about: How the molecules stand in the files, a phrase each.
      way_out: How more of them could be kept.
    """

    molecules: MoleculeSet
    splits: tuple[str, ...] | None
    split_rule: str
    reading: Reading
    about: tuple[str, ...]
    way_out: WayOut


def load_molecules(
    path: str | os.PathLike[str],
    *,
    max_atoms: int,
    invalid: str = "skip",
    salts: str = "refuse",
    smiles_column: str | None = None,
    property_columns: Sequence[str] = (),
    split: str = "given",
    split_column: str | None = None,
    depict: bool = False,
) -> Loaded:
    """Loads the usable molecules of a file, folder or archive, in its order.

    Args:
      path: Where they are; endings determine the layout.
      max_atoms: Largest number of heavy atoms, and the size of the arrays.
      invalid: "skip" leaves unusable molecules out, "stop" refuses the data.
      salts: "refuse" holds several fragments for a fault, "largest" keeps the largest.
      smiles_column: Column of a table with the SMILES; None to find it.
      property_columns: Columns of a table, or properties of .sdf, to read. Empty values
        become NaN.
      split: "given" follows the splits that files or a column name, "random" does not.
      split_column: Name of that column; None to find it.
      depict: Whether to draw the molecules, see `sets.encode_molecules`.

    Raises:
      DataError: If the data are unreadable, empty or ambiguous, if a column is absent,
        if an option is wrong, or if no molecule is usable; with "stop" also if one is
        unusable.
    """
    path = Path(path)
    for name, value, allowed in (
        ("data.invalid", invalid, INVALID),
        ("data.salts", salts, SALTS),
        ("data.split", split, SPLITTINGS),
    ):
        if value not in allowed:
            raise DataError(f"{name}={value!r}; allowed: {', '.join(allowed)}")
    if max_atoms < MIN_ATOMS:
        raise DataError(f"data.max_atoms={max_atoms}; allowed: >= {MIN_ATOMS}")
    if split == "random" and split_column is not None:
        raise DataError(
            f"data.split_column={split_column!r}; allowed: with data.split=given"
        )
    import_chem()
    reading = Reading(path, "molecules")
    names = tuple(property_columns)
    gathered = Gathered(
        reading, Limits(max_atoms), names, Rules(invalid, salts, False, depict)
    )
    of_split = "" if split == "random" else split_column
    wanted = Wanted(smiles_column, names, of_split)
    # A column that is asked for goes before the names of files.
    by_split = split == "given" and split_column is None
    with open_sources(path, reading, by_split=by_split) as sources:
        reader = _Reader(gathered, wanted, len(sources) > 1)
        for source in sources:
            reader.read(source)
    reader.check_names(path)
    if not reader.num_found:
        raise DataError(f"{path}: no molecules in it; allowed: one or more")
    molecules = gathered.encode()
    gathered.say_all()
    if len(molecules) < reader.num_found / 2:
        reading.say(f"only {len(molecules):,} of {reader.num_found:,} are used")
    way_out = gathered.way_out()
    splits, rule = _settle_splits(gathered.splits, reader.rules, path, way_out)
    if splits is None and split == "given":
        _say_siblings(path, reading)
        for name in like_splits((*reader.columns, *reader.properties)):
            reading.say(
                f"{name!r} is not followed as a split: its values are not train, val "
                "or test"
            )
    return Loaded(molecules, splits, rule, reading, reader.phrases, way_out)


def looks_like_molecules(path: Path) -> bool:
    """Tells whether a path holds molecules, by endings and the first lines of tables.

    Nothing is raised: what cannot be read is none.
    """
    reading = Reading(path, "molecules")
    try:
        with open_sources(path, reading, by_split=False) as sources:
            own = [s for s in sources if s.ending not in _SHARED_ENDINGS]
            return bool(own) or any(_has_smiles(source) for source in sources[:1])
    except DataError:
        return False


def _has_smiles(source: Source) -> bool:
    with source.open() as stream:
        try:
            if source.ending in PARQUET_ENDINGS:
                return bool(ParquetTable(stream, source.name).names)
            table = TextTable(TextLines(stream, source.name), source.name)
            first = [row.smiles for row in islice(table.rows(), _NUM_LOOKED_AT)]
            sound = sum(
                count_atoms(text) > 1 and not isinstance(parse_smiles(text), Fault)
                for text in first
            )
            return sound >= max(1, len(first) / 2)
        except DataError as error:
            return "several columns may be the SMILES" in str(error)


class _Reader:
    """Reads one file after the other into what is gathered.

    Attributes:
      num_found: Number of rows or records.
      about: How they stand in the files, a phrase each.
      rules: Where splits come from, a phrase each.
      columns: Names of all columns.
      properties: Names of all properties of records.
    """

    def __init__(self, gathered: Gathered, wanted: Wanted, is_named: bool):
        self._gathered, self._wanted = gathered, wanted
        self._is_named = is_named
        self.properties: dict[str, None] = {}
        self.columns: dict[str, None] = {}
        self._used: set[str] = set()
        self._has_tables = self._has_sound_records = False
        self.num_found = 0
        self.about: dict[str, None] = {}
        self.rules: dict[str, None] = {}

    def read(self, source: Source) -> None:
        """Reads a file."""
        if source.ending in RECORD_ENDINGS:
            self._read_records(source)
        else:
            self._read_table(source)
        if source.split is not None:
            self.rules["as the files are named"] = None

    @property
    def phrases(self) -> tuple[str, ...]:
        """How the molecules stand in the files, and what else these have."""
        used = self._used | set(self._wanted.properties)
        found = list(self.about)
        for what, names in (
            ("columns", self.columns),
            ("properties", self.properties),
        ):
            unused = [name for name in names if name not in used]
            more = ", ..." * (len(unused) > _MOST_SHOWN)
            if unused:
                listed = ", ".join(unused[:_MOST_SHOWN])
                found.append(f"{what} not read: {listed}{more}")
        return tuple(found)

    def check_names(self, path: Path) -> None:
        """Raises DataError if a property was asked for that no record has."""
        known = list(self.properties)
        asked = (*self._wanted.properties, self._wanted.split)
        is_known = self._has_sound_records and not self._has_tables
        for name in asked if is_known else ():
            if name and name not in known:
                raise DataError(
                    f"{path}: no property {name!r}; allowed: "
                    f"{', '.join(known) or 'none'}{did_you_mean(name, known)}"
                )

    def _read_table(self, source: Source) -> None:
        self._has_tables = True
        wanted = self._wanted
        if source.split:
            wanted = wanted._replace(split="")
        with source.open() as stream:
            lines = TextLines(stream, source.name)
            table: TextTable | ParquetTable
            if source.ending in PARQUET_ENDINGS:
                table = ParquetTable(stream, source.name, wanted)
            else:
                table = TextTable(lines, source.name, wanted)
            count = self._read_rows(source, table.rows(), table.split_column)
        for note in (*lines.notes, *table.notes):
            self._gathered.reading.say(note)
        kind = "lines" if source.ending in LIST_ENDINGS else "rows"
        self._find(f"{kind} of {source.ending}", source, count)
        if count:
            self.about[table.about] = None
            if table.has_header:
                self.columns.update(dict.fromkeys(filter(None, table.names)))
            used = (table.smiles, table.split_column, *wanted.properties)
            self._used.update(filter(None, used))
        if table.split_column is not None:
            self.rules[f"by column {table.split_column!r}"] = None

    def _read_rows(
        self, source: Source, rows: Iterator[Row], split_column: str | None
    ) -> int:
        count = 0
        for row in rows:
            count += 1
            place = self._place(source, row.number)
            if row.fault is not None:
                self._gathered.leave_out(place, row.fault)
                continue
            split = source.split
            if split_column is not None:
                split = self._read_split(row.split or "", split_column, place)
                if split is None:
                    continue
            mol = parse_smiles(row.smiles)
            self._gathered.add(place, mol, row.values, split)
        return count

    def _read_records(self, source: Source) -> None:
        if self._wanted.smiles is not None:
            raise DataError(
                f"{source.name}: data.smiles_column={self._wanted.smiles!r}; allowed: "
                "for tables"
            )
        asked, count = self._wanted.split, 0
        with source.open() as stream:
            lines = TextLines(stream, source.name)
            is_single = source.ending in (".mol", ".mdl")
            for record in read_records(lines, is_single=is_single):
                count += 1
                place = self._place(source, record.number)
                self.properties.update(dict.fromkeys(record.values))
                if record.fault is not None:
                    self._gathered.leave_out(place, record.fault)
                    continue
                self._has_sound_records = True
                split, key = source.split, asked
                if key is None and split is None:
                    key = next((n for n in record.values if n.lower() == "split"), "")
                if key:
                    text = record.values.get(key, "")
                    split = self._read_split(text, key, place)
                    if split is None:
                        continue
                    self.rules[f"by property {key!r}"] = None
                    self._used.add(key)
                mol = parse_record(record.text)
                self._gathered.add(place, mol, record.values, split)
        for note in lines.notes:
            self._gathered.reading.say(note)
        self._find(f"records of {source.ending}", source, count)
        if count:
            self.about["structures of records, without their coordinates"] = None

    def _read_split(self, text: str, column: str, place: str) -> str | None:
        """Returns the split that a text names; None for a further one, left out."""
        if split_of(text):
            return split_of(text)
        if not text:
            self._gathered.reading.leave_out(f"of no split: {column} is empty", place)
            return None
        if split_in(text):  # `test_scaffolds` of MOSES, beside `test`
            self._gathered.reading.leave_out(f"of the further split {text!r}", place)
            return None
        raise DataError(
            f"{self._gathered.reading.origin}, {place}: {column} is {text!r}; allowed: "
            "train, val or test, in any usual spelling; or data.split=random, which "
            "does not follow it"
        )

    def _place(self, source: Source, number: int) -> str:
        return f"{source.name}, line {number}" if self._is_named else f"line {number}"

    def _find(self, kind: str, source: Source, count: int) -> None:
        self.num_found += count
        self._gathered.reading.find(kind, source.name, count)


def _settle_splits(
    splits: Sequence[str | None],
    rules: Iterable[str],
    path: Path,
    way_out: WayOut,
) -> tuple[tuple[str, ...] | None, str]:
    """Returns the splits of all molecules; None if they have none."""
    named = [split for split in splits if split is not None]
    if not named:
        return None, ""
    if len(named) < len(splits):
        raise DataError(
            f"{path}: {len(splits) - len(named)} molecules name no split and others "
            "do; allowed: all or none, or data.split=random"
        )
    if "train" not in named:
        raise DataError(
            f"{path}: no usable molecule of split train that is not in another split"
            f"{way_out.words}",
            way_out.fields,
        )
    return tuple(named), "; ".join(rules)


def _say_siblings(path: Path, reading: Reading) -> None:
    """Notes that a file named for a split has others beside it."""
    own = split_in(path.name.partition(".")[0]) if path.is_file() else None
    if own is None:
        return
    for other in sorted(path.parent.glob(f"*{path.suffix}")):
        split = split_in(other.name.partition(".")[0])
        if split not in (None, own):
            reading.say(
                f"{path.name} alone is read, and {other.name} beside it is not; give "
                "the folder as data.path to read splits from their files"
            )
            return
