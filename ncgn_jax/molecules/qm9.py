"""Loads QM9: molecules of up to nine C, N, O and F atoms, with some properties.

The tables come from the package qm9pack 1.0.3, which leaves out the molecules that
QM9 lists as uncharacterised. The package is read but not imported, from its wheel, the
folder of its tables or an installed copy. A sample of 600 molecules comes with this
package: 60 of the 172 with 2 to 5 heavy atoms and 540 larger ones, drawn without
replacement from those with distinct SMILES.

The properties are the `gap` between the frontier orbitals in hartree, the `dipole`
moment in debye, and the isotropic `polarizability` in bohr^3.

>>> sample = load_sample()
>>> len(sample.train), len(sample.validation), len(sample.test)
(480, 60, 60)
>>> sample.train.atoms.shape, sample.train.classes[:4]
((480, 9), ('C', 'N', 'O', 'F'))
"""

import csv
import dataclasses
import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import SPLITS
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.faults import Limits, parse_smiles
from ncgn_jax.molecules.gathering import Gathered, Rules, describe_contents
from ncgn_jax.molecules.sets import MoleculeDataset, MoleculeSet, split_molecules

QM9_CLASSES = ("C", "N", "O", "F", "N+", "O-", "N-", "C-")
MAX_ATOMS = 9
QM9_COLUMNS = {
    "gap": "HOMO_LUMO_gap_au",
    "dipole": "Dipole_debye",
    "polarizability": "Polarizability_bohr3",
}
_UNITS = ("gap in hartree", "dipole in debye", "polarizability in bohr^3")
SAMPLE_FILE = Path(__file__).parent / "embedded" / "qm9_sample.csv"
_TABLES = tuple(f"qm9_part{part}.csv" for part in (1, 2, 3))
_HOW = "`pip install qm9pack==1.0.3 --no-deps`, or data.path=... (its .whl or folder)"
_FIELD_BYTES = 2**24  # cells of the tables hold whole geometries
_VERSION = 2  # to raise when the arrays change, because they are cached
# Raised by the readers of tables and, as flipped bits show, by those of zip archives.
_UNREADABLE = (
    *(csv.Error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, OverflowError, RuntimeError, ValueError),
)


def find_qm9() -> Path | None:
    """Returns the folder with the tables of an installed qm9pack, or None."""
    try:
        found = metadata.distribution("qm9pack").locate_file("qm9pack/data")
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(found))
    return folder if all((folder / table).is_file() for table in _TABLES) else None


def load_qm9(
    path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    num_train: int = 100_000,
    num_validation: int = 20_000,
) -> MoleculeDataset:
    """Loads all molecules of two or more heavy atoms, with depictions, and splits them.

    QM9 repeats a few SMILES, which may be in two parts of the split.

    Args:
      path: The wheel of qm9pack, a folder that holds its tables (at any depth), or
        one table with the same columns; None for the installed package.
      cache_dir: Folder for the prepared arrays, which take minutes to make; None to
        cache nothing.
      num_train: Number of training molecules.
      num_validation: Number of validation molecules; the rest are the test molecules.

    Returns:
      The dataset, its arrays padded to 9 atoms.

    Raises:
      DataError: If the tables are absent, have other columns or are unreadable, or if
        the split does not fit.
    """
    path = find_qm9() if path is None else Path(path)
    if path is None:
        raise DataError(f"QM9 is not installed; {_HOW}")
    with _open_tables(path) as tables:
        settings = {
            "tables": [[name, size] for name, size, _ in tables],
            "classes": QM9_CLASSES,
            "version": _VERSION,
        }
        arrays = cached_arrays(cache_dir, "qm9", settings, lambda: _build(tables))
    reading = Reading(f"QM9 (qm9pack, {path.name})", "molecules")
    _repeat(json.loads(str(arrays.pop("reading"))), reading)
    molecules = _from_arrays(arrays)
    parts = split_molecules(molecules, num_train, num_validation, seed=0)
    return _to_dataset("QM9", parts, reading)


def is_qm9(path: Path) -> bool:
    """Tells whether a path is the wheel of qm9pack, or a folder with its tables."""
    if path.is_dir():
        return any(True for _ in path.rglob(_TABLES[0]))
    return path.suffix.lower() == ".whl"


def load_sample() -> MoleculeDataset:
    """Loads the 600 molecules of QM9 that come with this package, split 80/10/10.

    Returns:
      The dataset, with arrays like those of `load_qm9`.
    """
    columns = {name: name for name in QM9_COLUMNS}
    with SAMPLE_FILE.open(newline="", encoding="utf-8") as file:
        rows = list(_read_rows(file, SAMPLE_FILE.name, "smiles", columns))
    origin = "molecules of QM9 that come with the package, not the whole of QM9"
    reading = Reading(origin, "molecules")
    molecules = _encode_rows([(SAMPLE_FILE.name, *row) for row in rows], reading)
    tenth = len(molecules) // 10
    parts = split_molecules(molecules, len(molecules) - 2 * tenth, tenth, seed=0)
    return _to_dataset("QM9 sample", parts, reading)


_Table = tuple[str, int, TextIO]  # name, bytes, opened
_Row = tuple[int, str, dict[str, str]]  # line, SMILES, properties


@contextmanager
def _open_tables(path: Path) -> Iterator[list[_Table]]:
    """Opens the tables of a wheel, a folder or a file, in the order of their names."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; {_HOW}")
    with ExitStack() as stack:
        if path.suffix.lower() == ".csv":
            yield [_open_table(path, stack)]
        elif path.is_dir():
            found = {file.name: file for file in sorted(path.rglob("qm9_part*.csv"))}
            _check_tables(found, path)
            yield [_open_table(found[table], stack) for table in _TABLES]
        else:
            yield _open_wheel(path, stack)


def _open_table(path: Path, stack: ExitStack) -> _Table:
    file = stack.enter_context(path.open(newline="", encoding="utf-8"))
    return path.name, path.stat().st_size, file


def _open_wheel(path: Path, stack: ExitStack) -> list[_Table]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a wheel ({error}); {_HOW}") from error
    found = {info.filename.split("/")[-1]: info for info in archive.infolist()}
    _check_tables(found, path)
    members = [found[table] for table in _TABLES]
    try:
        files = [archive.open(member) for member in members]
    except _UNREADABLE as error:
        raise DataError(f"{path}: damaged wheel ({error}); {_HOW}") from error
    return [
        (table, member.file_size, io.TextIOWrapper(file, "utf-8", newline=""))
        for table, member, file in zip(_TABLES, members, files, strict=True)
    ]


def _check_tables(found: Iterable[str], path: Path) -> None:
    absent = [table for table in _TABLES if table not in found]
    if absent:
        raise DataError(f"{path}: no {', '.join(absent)} in it; {_HOW}")


def _build(tables: list[_Table]) -> dict[str, np.ndarray]:
    rows = (
        (name, *row)
        for name, _, file in tables
        for row in _read_rows(file, name, "SMILES", QM9_COLUMNS)
    )
    bar = tqdm(rows, desc="reading QM9", unit="molecule", disable=None)
    reading = Reading("", "molecules")
    molecules = _encode_rows(bar, reading)
    report = reading.report({})
    counts = {
        kind: [dataclasses.astuple(tally) for tally in tallies]
        for kind, tallies in (("found", report.found), ("left_out", report.left_out))
    }
    places = molecules.depictions
    assert places is not None
    return {
        "atoms": molecules.atoms,
        "bonds": molecules.bonds,
        "smiles": molecules.smiles,
        "depictions": places.astype(np.float16),
        "reading": np.asarray(json.dumps({**counts, "notes": report.notes})),
        **molecules.properties,
    }


def _from_arrays(arrays: dict[str, np.ndarray]) -> MoleculeSet:
    atoms, places = arrays["atoms"], arrays["depictions"].astype(np.float32)
    mask = (atoms >= 0)[:, :, None]
    # Rounding to half precision moves the mean a little.
    centre = places.sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    return MoleculeSet(
        atoms,
        arrays["bonds"],
        QM9_CLASSES,
        arrays["smiles"],
        {name: arrays[name] for name in QM9_COLUMNS},
        np.where(mask, places - centre.astype(np.float32), 0),
    )


def _read_rows(
    file: TextIO, where: str, smiles: str, columns: dict[str, str]
) -> Iterator[_Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_BYTES))
    reader = csv.DictReader(file, restval="")
    try:
        header = reader.fieldnames or []
        absent = [name for name in (smiles, *columns.values()) if name not in header]
        for row in reader if not absent else ():
            values = {name: row[column] for name, column in columns.items()}
            for text in values.values():
                float(text or "nan")
            yield reader.line_num, row[smiles].strip(), values
    except _UNREADABLE as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error
    if absent:
        raise DataError(
            f"{where}: no column {absent[0]!r}; found: {', '.join(header)}; {_HOW}"
        )


def _encode_rows(
    rows: Iterable[tuple[str, int, str, dict[str, str]]], reading: Reading
) -> MoleculeSet:
    limits = Limits(MAX_ATOMS, elements=("C", "N", "O", "F"))
    rules = Rules(repeated=True, depict=True)
    gathered = Gathered(reading, limits, tuple(QM9_COLUMNS), rules)
    for table, line, smiles, values in rows:
        reading.find("rows", f"{table}, line {line}")
        gathered.add(f"{table}, line {line}", parse_smiles(smiles), values)
    gathered.say_all()
    return gathered.encode(QM9_CLASSES)


def _repeat(stored: dict[str, list], reading: Reading) -> None:
    """Tells a reading what another one counted when the cache was made."""
    for kind, count, first in stored["found"]:
        reading.find(kind, first, count)
    for reason, count, first in stored["left_out"]:
        reading.leave_out(reason, first, count)
    for note in stored["notes"]:
        reading.say(note)


def _to_dataset(
    name: str, parts: Sequence[MoleculeSet], reading: Reading
) -> MoleculeDataset:
    smiles = np.concatenate([part.smiles for part in parts])
    report = reading.report(
        dict(zip(SPLITS, map(len, parts), strict=True)),
        "at random, seed 0",
        contents=(*describe_contents(parts), *_UNITS),
        num_repeated=len(smiles) - len(np.unique(smiles)),
    )
    return MoleculeDataset(name, report, *parts)
