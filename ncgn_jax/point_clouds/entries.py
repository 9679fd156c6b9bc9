"""Lists the files of a folder or archive, and reads them one by one.

Nothing is unpacked and no file stays open. Links inside a folder are followed, unless
they lead out of it or in a circle.
"""

import contextlib
import dataclasses
import functools
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ncgn_jax.data.archives import (
    SPOILT,
    Member,
    is_archive,
    is_hidden,
    open_archive,
    read_bounded,
    read_plain_or_gzip,
)
from ncgn_jax.faults import DataError

_HEAD_BYTES = 2**16


def ending_of(name: str | PurePosixPath) -> str:
    """Returns the ending that tells the format, in small letters, without .gz.

    Example:
      >>> ending_of("a/CHAIR.PLY"), ending_of("b.npy.gz"), ending_of("c.tar.gz")
      ('.ply', '.npy', '.tar')
    """
    return PurePosixPath(str(name).lower().removesuffix(".gz")).suffix


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file.

    Attributes:
      name: Its path below the folder or in the archive, with forward slashes.
      size: Its size in bytes, as it is stored.
      read: Returns its content, without the compression of `.gz`.
      path: Where it lies on disk; None in an archive.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    path: Path | None = None

    @functools.cached_property
    def place(self) -> PurePosixPath:
        """Its name as a path."""
        return PurePosixPath(self.name)

    @functools.cached_property
    def ending(self) -> str:
        """What tells its format, see `ending_of`."""
        return ending_of(self.name)

    @functools.cached_property
    def stem(self) -> str:
        """Its name without folders and endings."""
        plain = self.place.name
        plain = plain[:-3] if plain.lower().endswith(".gz") else plain
        return PurePosixPath(plain).stem

    def head(self) -> bytes:
        """Returns the first bytes of its content."""
        if self.path is None or self.name.lower().endswith(".gz"):
            return self.read()[:_HEAD_BYTES]
        try:
            with self.path.open("rb") as file:
                return file.read(_HEAD_BYTES)
        except OSError as error:
            raise DataError(f"{self.path}: not readable ({error})") from error


class Listing(NamedTuple):
    """The files of a place.

    Attributes:
      entries: Files by name.
      num_hidden: Hidden files, which are not among them.
      links: Links that lead out of the folder or in a circle, by name.
    """

    entries: tuple[Entry, ...]
    num_hidden: int
    links: tuple[str, ...]


@contextlib.contextmanager
def open_entries(path: Path) -> Iterator[Listing]:
    """Lists a folder, an archive, or a file as the only one.

    Yields:
      The files; those of an archive can be read until the end of the block.

    Raises:
      DataError: If there is nothing at the path, or an archive is damaged or unsafe.
    """
    if path.is_dir():
        yield list_folder(path)
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    elif is_archive(path):
        with open_archive(path) as archive:

            def read(member: Member) -> bytes:
                content = archive.read(member)
                if not member.name.lower().endswith(".gz"):
                    return content
                return _gunzip(content, f"{path}:{member.name}")

            entries = tuple(
                Entry(
                    member.name.replace("\\", "/").removeprefix("./"),
                    member.size,
                    lambda member=member: read(member),  # type: ignore[misc]
                )
                for member in archive.members
            )
            yield Listing(entries, archive.num_hidden, ())
    else:
        yield Listing((_entry(path.name, path),), 0, ())


def _gunzip(content: bytes, where: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return read_bounded(file, where)
    except SPOILT as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: damaged member ({error})") from error


def _entry(name: str, path: Path) -> Entry:
    return Entry(name, path.stat().st_size, lambda: read_plain_or_gzip(path), path)


def list_folder(root: Path) -> Listing:
    """Lists the files of a folder and of those below it, by name.

    Args:
      root: The folder.

    Raises:
      DataError: If a folder cannot be read.
    """
    top = root.resolve()
    entries: list[Entry] = []
    links: list[str] = []
    num_hidden = 0

    def visit(folder: Path, prefix: str, above: tuple[Path, ...]) -> None:
        nonlocal num_hidden
        try:
            found = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError as error:
            raise DataError(f"{folder}: not readable ({error})") from error
        for item in found:
            path = Path(item.path)
            name = f"{prefix}{item.name}"
            if is_hidden(item.name):
                num_hidden += 1
                continue
            real = path.resolve() if item.is_symlink() else None
            if real is not None and (real in above or not real.is_relative_to(top)):
                links.append(name)
            elif item.is_dir():
                here = folder.resolve() / item.name if real is None else real
                visit(path, f"{name}/", (*above, here))
            elif item.is_file():
                entries.append(_entry(name, path))

    visit(root, "", (top,))
    return Listing(tuple(entries), num_hidden, tuple(links))
