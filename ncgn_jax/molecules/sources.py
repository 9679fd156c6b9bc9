"""Finds the files of molecules at a path: a file, a folder or an archive.

Example:
  >>> import pathlib, tempfile
  >>> from ncgn_jax.data.report import Reading
  >>> folder = pathlib.Path(tempfile.mkdtemp())
  >>> for name in ("train.smi", "test.smi", "all.smi"):
  ...     _ = (folder / name).write_text("CCO")
  >>> reading = Reading("mine", "molecules")
  >>> with open_sources(folder, reading) as sources:
  ...     [(source.name, source.split) for source in sources]
  [('train.smi', 'train'), ('test.smi', 'test')]
  >>> [str(tally) for tally in reading.left_out]
  ['1 files that name no split, beside some that do (first all.smi)']
"""

import contextlib
import functools
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from ncgn_jax.data.archives import (
    ARCHIVE_ENDINGS,
    ending_of,
    is_archive,
    plain_name,
)
from ncgn_jax.data.file_trees import TreeFile, open_tree
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import SPLITS, split_in, split_of
from ncgn_jax.faults import DataError
from ncgn_jax.molecules.text_tables import LIST_ENDINGS, TABLE_ENDINGS

RECORD_ENDINGS = (".sdf", ".sd", ".mol", ".mdl")
PARQUET_ENDINGS = (".parquet", ".pq")
TEXT_ENDINGS = (*LIST_ENDINGS, *TABLE_ENDINGS)
ENDINGS = (*TEXT_ENDINGS, *RECORD_ENDINGS, *PARQUET_ENDINGS)
_ALLOWED = f"{', '.join(ENDINGS)}, each also with .gz, in a folder or an archive"
# Other files that people have molecules in, and how to come from these to ours.
_WAYS_OUT = {
    **dict.fromkeys(
        (".xyz", ".pdb", ".cif", ".mol2", ".cml", ".rxn", ".inchi", ".pdbqt"),
        "convert it with Open Babel: obabel FILE -O molecules.sdf",
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as .csv"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"),
        "it may run code when it is read; save a table as .csv where it was made",
    ),
    **dict.fromkeys((".json", ".jsonl", ".npz", ".pt"), "save a table as .csv"),
    **dict.fromkeys((".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack it"),
}


class Source(NamedTuple):
    """A file of molecules.

    Attributes:
      name: Its path in the folder or archive, or its name.
      ending: What it is, in lower case and without `.gz`.
      split: Split that its name stands for, None for none.
      open: Opens it for reading in binary.
    """

    name: str
    ending: str
    split: str | None
    open: Callable[[], BinaryIO]


@contextlib.contextmanager
def open_sources(
    path: Path, reading: Reading, *, by_split: bool = True
) -> Iterator[list[Source]]:
    """Finds the files to read, and counts those that are left out.

    Where names of files or of the folders above them stand for splits, these are read
    and nothing else; else all files, which must then be of one kind.

    Args:
      path: File, folder or archive.
      reading: Counts.
      by_split: Whether names of splits count.

    Yields:
      The files, in the order of splits and names.

    Raises:
      DataError: If there are none, or if it is not clear which are meant.
    """
    with open_tree(path, "list") as tree:
        if path.is_file() and not is_archive(path):
            (file,) = tree.files
            if file.ending not in ENDINGS:
                raise DataError(_describe_ending(path, file.ending))
            yield [_source(file, None)]
        else:
            tree.count_hidden(reading)
            yield _choose(_each_once(tree.files, reading), path, reading, by_split)


def _source(file: TreeFile, split: str | None) -> Source:
    return Source(file.name, file.ending, split, functools.partial(_open_file, file))


def _open_file(file: TreeFile) -> BinaryIO:
    # Files on disk may be larger than what fits into memory.
    return io.BytesIO(file.read()) if file.path is None else file.path.open("rb")


def _describe_ending(path: Path, ending: str) -> str:
    way_out = _WAYS_OUT.get(ending, "")
    hint = f"; {way_out}" if way_out else ""
    return f"{path}: ending {ending!r}; allowed: {_ALLOWED}{hint}"


def _each_once(files: Iterable[TreeFile], reading: Reading) -> list[TreeFile]:
    """Leaves out what cannot be read, and folders that are linked to a second time."""
    kept = []
    found: dict[str, PurePosixPath] = {}
    for file in files:
        folder = file.below.parent
        real = folder if file.path is None else os.path.realpath(file.path.parent)
        if found.setdefault(str(real), folder) != folder:
            reading.leave_out("files of folders that links lead to again", file.name)
        elif not file.is_file:
            reading.leave_out("links to nothing, and pipes", file.name)
        else:
            kept.append(file)
    return kept


def _choose(
    files: Iterable[TreeFile],
    path: Path,
    reading: Reading,
    by_split: bool,
) -> list[Source]:
    sources = []
    for file in files:
        if file.ending in ENDINGS:
            sources.append(
                _source(file, _split_of_path(file.name) if by_split else None)
            )
        else:
            other = f"{file.ending or 'other'} files"
            reading.leave_out("archives" if is_archive(file.name) else other, file.name)
    if not sources:
        packed = ", ".join(ARCHIVE_ENDINGS)
        raise DataError(
            f"{path}: no file of molecules in it; allowed: {_ALLOWED} ({packed})"
        )
    if any(source.split for source in sources):
        return _choose_splits(sources, path, reading)
    return _choose_all(sources, path, reading)


def _split_of_path(name: str) -> str | None:
    *folders, last = PurePosixPath(name).parts
    for folder in folders:
        if split_of(folder):
            return split_of(folder)
    return split_in(_stem(last))


def _stem(name: str) -> str:
    return plain_name(name).stem


def _choose_splits(sources: list[Source], path: Path, reading: Reading) -> list[Source]:
    chosen = []
    for split in (None, *SPLITS):
        own = [source for source in sources if source.split == split]
        if split is None:
            for source in own:
                reason = "files that name no split, beside some that do"
                reading.leave_out(reason, source.name)
            continue
        # `test` goes before `test_scaffolds`; those of a folder belong together.
        exact = [source for source in own if _is_exact(source.name)]
        for source in own if exact else ():
            if source not in exact:
                reason = f"other files of {split}, beside one of just that name"
                reading.leave_out(reason, source.name)
        own = exact or own
        shapes = {_shape(source.name) for source in own}
        if len(shapes) > 1:
            names = ", ".join(source.name for source in own[:4])
            raise DataError(
                f"{path}: several files for {split}: {names}; keep one of them, or "
                "set data.split=random to read all as one set"
            )
        chosen += own
    found = [source.split for source in chosen]
    if "train" not in found:
        raise DataError(
            f"{path}: files name {', '.join(sorted(set(map(str, found))))} and not "
            "train; name a file in data.path, or set data.split=random"
        )
    return chosen


def _is_exact(name: str) -> bool:
    *folders, last = PurePosixPath(name).parts
    return any(map(split_of, folders)) or split_of(_stem(last)) is not None


def _shape(name: str) -> str:
    """Returns what the files of one split must have in common: all but numbers."""
    parts = PurePosixPath(name).parts
    for folder in parts[:-1]:
        if split_of(folder):
            return f"{folder}/{ending_of(name)}"
    return re.sub(r"\d+", "0", plain_name(name).name.lower())


def _choose_all(sources: list[Source], path: Path, reading: Reading) -> list[Source]:
    endings = Counter(source.ending for source in sources)
    if len(endings) > 1 and ".txt" in endings:
        for source in sources:
            if source.ending == ".txt":
                reading.leave_out(".txt files, beside files of molecules", source.name)
        sources = [source for source in sources if source.ending != ".txt"]
        del endings[".txt"]
    if len(endings) > 1:
        listed = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        raise DataError(
            f"{path}: files of several kinds: {listed}, which may hold the same "
            "molecules; name one file in data.path, or keep one kind"
        )
    if len(sources) > 1:
        reading.say(f"{len(sources):,} files, none of a split's name, are read as one")
    return sources
