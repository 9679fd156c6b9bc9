"""Lists the files of a folder or of an archive alike, to be read one by one.

Nothing is unpacked on disk and no file stays open.

Example:
  >>> import pathlib, tempfile
  >>> root = pathlib.Path(tempfile.mkdtemp())
  >>> (root / "cat").mkdir()
  >>> _ = (root / "cat" / "0.PNG").write_bytes(b"..."), (root / ".DS_Store").touch()
  >>> with open_tree(root) as tree:
  ...     [(file.name, file.ending, file.read()) for file in tree.files], tree.hidden
  ([('cat/0.PNG', '.png', b'...')], ('.DS_Store',))
"""

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ncgn_jax.data.archives import (
    Archive,
    ending_of,
    gunzip,
    is_archive,
    is_hidden,
    open_archive,
    plain_name,
    read_bounded,
    read_plain_or_gzip,
)
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError

_HEAD_BYTES = 2**16
_MAX_KINDS = 5

Links = Literal["refuse", "list"]


@dataclasses.dataclass(frozen=True)
class TreeFile:
    """A file in a folder or an archive.

    Attributes:
      name: Its path below the root, with forward slashes.
      where: Its path on disk or in the archive, for messages.
      read: Returns its bytes as they are stored; DataError if it is not readable.
      size: Its size in bytes, as it is stored.
      path: Where it lies on disk; None in an archive.
      place: Where it lies in the archive; files are read fastest in this order.
      is_file: Whether it can be read; False of pipes, and of links to nothing.
    """

    name: str
    where: str
    read: Callable[[], bytes]
    size: int
    path: Path | None = None
    place: int = 0
    is_file: bool = True

    @functools.cached_property
    def below(self) -> PurePosixPath:
        """Its name as a path."""
        return PurePosixPath(self.name)

    @functools.cached_property
    def ending(self) -> str:
        """What tells its format, see `ending_of`."""
        return ending_of(self.name)

    @functools.cached_property
    def stem(self) -> str:
        """Its name without folders and without endings, `.gz` among them."""
        return plain_name(self.below.name).stem

    @property
    def is_packed(self) -> bool:
        """Whether its name ends in .gz."""
        return self.name.lower().endswith(".gz")

    def read_plain(self) -> bytes:
        """Returns its content, without the compression of `.gz`.

        Raises:
          DataError: If it is not readable.
        """
        if not self.is_packed or not self.is_file:
            return self.read()
        if self.path is not None:
            return read_plain_or_gzip(self.path)
        return gunzip(self.read(), self.where)

    def head(self) -> bytes:
        """Returns the first bytes of its content, without the compression of `.gz`.

        Raises:
          DataError: If it is not readable.
        """
        if self.path is None or self.is_packed or not self.is_file:
            return self.read_plain()[:_HEAD_BYTES]
        try:
            with self.path.open("rb") as file:
                return file.read(_HEAD_BYTES)
        except OSError as error:
            raise DataError(f"{self.path}: not readable ({error})") from error


class FileTree(NamedTuple):
    """The files of a folder or of an archive.

    Attributes:
      files: Files in the order of their names, folder by folder, without hidden ones.
      folders: Folders that hold something or nothing; only of a folder, not an archive.
      hidden: Names of hidden files, those of systems such as Thumbs.db among them. A
        hidden folder counts as one.
      links: Names of links that are not followed.
    """

    files: tuple[TreeFile, ...]
    folders: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    def describe(self) -> str:
        """Names the kinds of files with their numbers, for messages.

        Example:
          >>> import pathlib, tempfile
          >>> root = pathlib.Path(tempfile.mkdtemp())
          >>> for name in ("0.jpg", "1.jpg", "shard.tar.gz"):
          ...     (root / name).touch()
          >>> list_folder(root).describe()
          '2 .jpg, 1 .tar; archives within are not opened: unpack them or name one'
        """
        kinds = collections.Counter(
            file.ending or "without an ending" for file in self.files
        )
        shown = [f"{many:,} {kind}" for kind, many in kinds.most_common(_MAX_KINDS)]
        if len(kinds) > _MAX_KINDS:
            shown.append(f"{len(kinds) - _MAX_KINDS} other kinds")
        said = ", ".join(shown) or "no files"
        if any(is_archive(file.name) for file in self.files):
            said += "; archives within are not opened: unpack them or name one"
        if self.links:
            said += f"; {len(self.links)} links out of the folder are not followed"
        return said

    def count_hidden(self, reading: Reading) -> None:
        """Counts hidden files, and links that are not followed, as left out."""
        for name in self.hidden:
            reading.leave_out("hidden files", name)
        for name in self.links:
            reading.leave_out("links out of the folder or in a circle", name)


@contextlib.contextmanager
def open_tree(
    path: str | os.PathLike[str], links: Links = "refuse"
) -> Iterator[FileTree]:
    """Lists a folder, an archive, or a single file.

    Args:
      path: The folder, archive or file.
      links: What becomes of links in a folder that lead out of it or round in a
        circle, others being followed: "refuse" them, or "list" them. Links in archives
        are refused.

    Yields:
      The files; those of an archive can be read until the end of the block.

    Raises:
      DataError: If there is nothing at the path, if a folder is not readable, if links
        are refused, or if `open_archive` refuses the archive.
    """
    root = Path(path)
    if root.is_dir():
        yield list_folder(root, links)
    elif not root.is_file():
        raise DataError(f"{root}: no such file or folder")
    elif is_archive(root):
        with open_archive(root) as archive:
            files = sorted(_members(root, archive), key=_in_order)
            yield FileTree(tuple(files), hidden=archive.hidden)
    else:
        yield FileTree((_file_on_disk(root.name, root),))


def list_folder(root: Path, links: Links = "refuse") -> FileTree:
    """Lists the files of a folder and of those below it.

    Args:
      root: The folder.
      links: As of `open_tree`.

    Raises:
      DataError: If a folder is not readable, or if links are refused.
    """
    inside = root.resolve()
    files: list[TreeFile] = []
    folders: list[str] = []
    hidden: list[str] = []
    listed: list[str] = []

    def visit(folder: Path, prefix: str, above: tuple[Path, ...]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: not a readable folder ({error})") from error
        for entry in entries:
            name, path = f"{prefix}{entry.name}", Path(entry.path)
            if is_hidden(entry.name):
                # Hidden folders are not entered.
                hidden.append(name)
                continue
            real = above[-1] / entry.name
            if entry.is_symlink():
                real = Path(os.path.realpath(path))
                fault = _fault_of_link(real, above, inside)
                if fault and links == "refuse":
                    raise DataError(f"{root}: {name} is a link {fault}")
                if fault:
                    listed.append(name)
                    continue
            if entry.is_dir():
                folders.append(name)
                visit(path, f"{name}/", (*above, real))
            else:
                files.append(_file_on_disk(name, path))

    visit(root, "", (inside,))
    files.sort(key=_in_order)
    return FileTree(tuple(files), tuple(folders), tuple(hidden), tuple(listed))


def _fault_of_link(real: Path, above: tuple[Path, ...], inside: Path) -> str:
    """Returns why a link is not followed, nothing if it is."""
    if real in above:
        return (
            "to a folder that holds it; allowed: links to files, or to folders beside"
        )
    if not real.is_relative_to(inside):
        return "that leaves the folder; allowed: links to what is in it"
    return ""


def _in_order(file: TreeFile) -> list[str]:
    return file.name.split("/")


def _members(root: Path, archive: Archive) -> Iterator[TreeFile]:
    for member in archive.members:
        name = member.name.replace("\\", "/").removeprefix("./")
        read = functools.partial(archive.read, member)
        yield TreeFile(name, f"{root}:{name}", read, member.size, place=member.place)


def _file_on_disk(name: str, path: Path) -> TreeFile:
    is_file = path.is_file()
    size = path.stat().st_size if is_file else 0
    read = functools.partial(_read_file, path)
    return TreeFile(name, str(path), read, size, path, is_file=is_file)


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        # Reading a pipe would wait for its writer.
        raise DataError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            return read_bounded(file, str(path))
    except OSError as error:
        raise DataError(f"{path}: not readable ({error})") from error
