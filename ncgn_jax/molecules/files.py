r"""Reads molecules from .smi, .txt, .csv, .tsv and .sdf files, and writes them.

  .smi, .txt   a SMILES and perhaps a name in each line, separated by white space;
               empty lines, a first line that begins with "smiles" and lines that
               begin with # are skipped.
  .csv, .tsv   a table with a header, one column of which holds SMILES.
  .sdf         structures, with properties under their names.

A molecule is usable if it is one connected graph of known elements, has no unpaired
electrons, and has 2 or more heavy atoms but not too many. Others are left out and
counted, or refused.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     file = pathlib.Path(folder, "mine.smi")
...     _ = file.write_text("CCO ethanol\nC1CC broken\nC=O formaldehyde\n")
...     molecules, report = load_molecules(file, max_atoms=9)
>>> molecules.smiles.tolist(), report.split(": ", 1)[1]
(['CCO', 'C=O'], '2 molecules; left out: 1 unreadable SMILES (first in line 2)')
"""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.atom_classes import import_chem
from ncgn_jax.molecules.faults import (
    MIN_ATOMS,
    Fault,
    Limits,
    describe_faults,
    find_fault,
    parse_record,
    parse_smiles,
)
from ncgn_jax.molecules.sets import MoleculeSet, encode_molecules

if TYPE_CHECKING:
    from rdkit.Chem import Mol

EXTENSIONS = (".smi", ".txt", ".csv", ".tsv", ".sdf")
INVALID = ("skip", "stop")


class _Entry(NamedTuple):
    """A molecule as written in a file."""

    line: int
    text: str  # SMILES, or a record of .sdf
    values: dict[str, str]  # properties, by name
    is_record: bool = False


def load_molecules(
    path: str | os.PathLike[str],
    *,
    max_atoms: int,
    invalid: str = "skip",
    smiles_column: str | None = None,
    property_columns: Sequence[str] = (),
    depict: bool = False,
) -> tuple[MoleculeSet, str]:
    """Loads the usable molecules of a file, in its order.

    Args:
      path: The file; its suffix determines the layout.
      max_atoms: Largest number of heavy atoms, and the size of the arrays.
      invalid: "skip" leaves unusable molecules out, "stop" refuses the file.
      smiles_column: Column of a table with the SMILES; by default the one named
        smiles in any case.
      property_columns: Columns of a table, or properties of .sdf, to read. Empty values
        become NaN.
      depict: Whether to draw the molecules, see `encode_molecules`.

    Returns:
      The molecules, and one line on how many were left out and why.

    Raises:
      DataError: If the file is unreadable or empty, if a column is absent, if an option
        is wrong, or if no molecule is usable; with "stop" also if one is unusable.
    """
    path = Path(path)
    _check_options(path, max_atoms, invalid)
    limits = Limits(max_atoms)
    names = tuple(property_columns)
    entries = _read_entries(path, smiles_column, names)
    if path.suffix.lower() == ".sdf":
        _check_properties(entries, path, names)
    mols, values, faults = [], [], []
    for entry in entries:
        read = _read_molecule(entry, limits, names)
        if not isinstance(read, Fault):
            mols.append(read[0])
            values.append(read[1])
        elif invalid == "stop":
            raise DataError(
                f"{path}, line {entry.line}: {read.reason} ({read.found}); "
                f"allowed: {read.allowed}, or invalid='skip'"
            )
        else:
            faults.append((entry.line, read))
    if not mols:
        raise DataError(f"{path}: no usable molecule; {describe_faults(faults)}")
    molecules = encode_molecules(mols, max_atoms=max_atoms, depict=depict)
    columns = np.asarray(values, np.float32).reshape(len(mols), len(names)).T
    molecules.properties.update(zip(names, columns.copy(), strict=True))
    return molecules, f"{path}: {len(mols)} molecules; {describe_faults(faults)}"


def _read_molecule(
    entry: _Entry, limits: Limits, names: tuple[str, ...]
) -> "tuple[Mol, list[float]] | Fault":
    parse = parse_record if entry.is_record else parse_smiles
    mol = parse(entry.text)
    if isinstance(mol, Fault):
        return mol
    fault = find_fault(mol, limits)
    numbers = []
    for name in names if fault is None else ():
        text = entry.values.get(name, "").strip()
        try:
            numbers.append(float(text or "nan"))
        except ValueError:
            numbers.append(math.inf)
        if math.isinf(numbers[-1]):
            fault = Fault(f"with a bad {name}", repr(text), "a number or nothing")
    return (mol, numbers) if fault is None else fault


def _check_options(path: Path, max_atoms: int, invalid: str) -> None:
    if invalid not in INVALID:
        raise DataError(f"invalid={invalid!r}; allowed: {', '.join(INVALID)}")
    if max_atoms < MIN_ATOMS:
        raise DataError(f"max_atoms={max_atoms}; allowed: >= {MIN_ATOMS}")
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"{path}: ending {path.suffix!r}; allowed: {', '.join(EXTENSIONS)}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")


def _read_entries(
    path: Path, smiles_column: str | None, names: tuple[str, ...]
) -> list[_Entry]:
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv") and smiles_column is not None:
        raise DataError(
            f"{path}: smiles_column={smiles_column!r}; allowed: in .csv and .tsv"
        )
    if ending in (".smi", ".txt") and names:
        raise DataError(
            f"{path}: property_columns={list(names)}; allowed: in .csv, .tsv and .sdf"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if ending == ".sdf":
                entries = list(_split_sdf(file))
            elif ending in (".csv", ".tsv"):
                delimiter = {".csv": ",", ".tsv": "\t"}[ending]
                entries = list(_read_table(file, path, delimiter, smiles_column, names))
            else:
                entries = list(_read_lines(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error})") from error
    if not entries:
        raise DataError(f"{path}: no molecules in it; allowed: one or more")
    return entries


def _read_lines(file: Iterable[str]) -> Iterator[_Entry]:
    for number, line in enumerate(file, start=1):
        text = (line.split() or [""])[0]
        header = number == 1 and text.lower() == "smiles"
        if text and not header and not text.startswith("#"):
            yield _Entry(number, text, {})


def _read_table(
    file: Iterable[str],
    path: Path,
    delimiter: str,
    smiles_column: str | None,
    names: tuple[str, ...],
) -> Iterator[_Entry]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    usual = [name for name in header if name.lower() == "smiles"]
    column = smiles_column or (usual[0] if usual else "smiles")
    for name in (column, *names) if header else ():
        if header.count(name) != 1:
            raise DataError(
                f"{path}: {header.count(name)} columns {name!r}; allowed: one of "
                f"{', '.join(header)}"
            )
    for row in filter(None, reader):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {reader.line_num}: {len(row)} fields; allowed: "
                f"{len(header)} as in the header"
            )
        fields = dict(zip(header, row, strict=True))
        values = {name: fields[name] for name in names}
        yield _Entry(reader.line_num, fields[column].strip(), values)


def _split_sdf(file: Iterable[str]) -> Iterator[_Entry]:
    start = 1
    lines: list[str] = []
    for number, line in enumerate(file, start=1):
        lines.append(line)
        if line.startswith("$$$$"):
            yield _to_record(start, lines)
            start, lines = number + 1, []
    if "".join(lines).strip():
        yield _to_record(start, lines)


def _to_record(start: int, lines: list[str]) -> _Entry:
    """Reads the properties of a record: `> <name>`, the value, an empty line."""
    values = {}
    for line, value in zip(lines, lines[1:], strict=False):
        if line.startswith(">") and "<" in line:
            values[line[line.index("<") + 1 : line.rindex(">")]] = value.strip()
    return _Entry(start, "".join(lines), values, True)


def _check_properties(
    entries: list[_Entry], path: Path, names: tuple[str, ...]
) -> None:
    known = sorted({name for entry in entries for name in entry.values})
    absent = [name for name in names if name not in known]
    if absent:
        raise DataError(
            f"{path}: no property {absent[0]!r}; allowed: {', '.join(known) or 'none'}"
        )


def write_smiles(path: str | os.PathLike[str], smiles: Iterable[str]) -> None:
    """Writes SMILES, one per line; the whole file or none of it."""
    write_whole(path, "".join(f"{text}\n" for text in smiles))


def write_sdf(path: str | os.PathLike[str], mols: "Iterable[Mol]") -> None:
    """Writes molecules with their properties; the whole file or none of it.

    Molecules without coordinates get two-dimensional ones from RDKit.
    """
    chem = import_chem()
    write_whole(path, "".join(chem.SDWriter.GetText(mol) for mol in mols))
