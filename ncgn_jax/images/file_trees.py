"""Lists the files of a folder or of an archive alike, to be read one by one.

Example:
  >>> import pathlib, tempfile
  >>> root = pathlib.Path(tempfile.mkdtemp())
  >>> (root / "cat").mkdir()
  >>> _ = (root / "cat" / "0.png").write_bytes(b"..."), (root / ".DS_Store").touch()
  >>> with open_tree(root) as tree:
  ...     [(file.name, file.read()) for file in tree.files], tree.hidden
  ([('cat/0.png', b'...')], ('.DS_Store',))
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ncgn_jax.data.archives import (
    MAX_MEMBER_BYTES,
    is_archive,
    is_hidden,
    open_archive,
    read_bounded,
)
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError

# Files that systems put beside others.
_OF_SYSTEMS = frozenset(("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"))


class TreeFile(NamedTuple):
    """A file in a folder or an archive.

    Attributes:
      name: Its path below the root, with forward slashes.
      read: Returns its bytes; DataError if it is not readable.
      place: Where it lies in the archive; files are read fastest in this order.
    """

    name: str
    read: Callable[[], bytes]
    place: int = 0

    @property
    def path(self) -> PurePosixPath:
        """Its name as a path."""
        return PurePosixPath(self.name)


class FileTree(NamedTuple):
    """The files of a folder or of an archive.

    Attributes:
      files: Files in the order of their names, without hidden ones.
      folders: Folders that hold something or nothing; only of a folder, not an archive.
      hidden: Names of hidden files, those of systems such as Thumbs.db among them; for
        an archive only the number of them is known, and names are empty.
    """

    files: tuple[TreeFile, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]

    def count_hidden(self, reading: Reading) -> None:
        """Counts hidden files as left out."""
        first = self.hidden[0] if self.hidden else ""
        reading.leave_out("hidden files", first, len(self.hidden))


@contextlib.contextmanager
def open_tree(path: str | os.PathLike[str]) -> Iterator[FileTree]:
    """Lists a folder, an archive, or a single file.

    Raises:
      DataError: If it is absent or not readable, if a link leads out of the folder or
        round in a circle, or if `open_archive` refuses the archive.
    """
    root = Path(path)
    if root.is_dir():
        yield _list_folder(root)
    elif is_archive(root):
        with open_archive(root) as archive:
            listed = [
                TreeFile(
                    member.name.replace("\\", "/").removeprefix("./"),
                    functools.partial(archive.read, member),
                    member.place,
                )
                for member in archive.members
            ]
            files, hidden = _part_hidden(listed)
            yield FileTree(files, (), (*hidden, *[""] * archive.num_hidden))
    else:
        if not root.exists():
            raise DataError(f"{root}: no such file or folder")
        file = TreeFile(root.name, functools.partial(_read_file, root))
        yield FileTree((file,), (), ())


def _part_hidden(
    listed: list[TreeFile],
) -> tuple[tuple[TreeFile, ...], tuple[str, ...]]:
    def hides(file: TreeFile) -> bool:
        return is_hidden(file.name) or file.path.name.lower() in _OF_SYSTEMS

    files = sorted((f for f in listed if not hides(f)), key=lambda f: f.name)
    return tuple(files), tuple(f.name for f in listed if hides(f))


def _list_folder(root: Path) -> FileTree:
    inside = Path(os.path.realpath(root))
    files: list[TreeFile] = []
    folders: list[str] = []

    def visit(folder: Path, above: tuple[Path, ...]) -> None:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"{folder}: not a readable folder ({error})") from error
        for entry in entries:
            name = entry.relative_to(root).as_posix()
            real = Path(os.path.realpath(entry))
            if is_hidden(entry.name):
                # Hidden folders are not entered.
                files.append(TreeFile(name, functools.partial(_read_file, entry)))
                continue
            if not real.is_relative_to(inside):
                raise DataError(
                    f"{root}: {name} is a link that leaves the folder; allowed: links "
                    "to what is in it"
                )
            if not entry.is_dir():
                files.append(TreeFile(name, functools.partial(_read_file, entry)))
                continue
            if real in above:
                raise DataError(
                    f"{root}: {name} is a link to a folder that holds it; allowed: "
                    "links to files, or to folders beside"
                )
            folders.append(name)
            visit(entry, (*above, real))

    visit(root, (inside,))
    found, hidden = _part_hidden(files)
    return FileTree(found, tuple(folders), hidden)


def _read_file(file: Path) -> bytes:
    if not file.is_file():
        raise DataError("not a file")
    try:
        with file.open("rb") as opened:
            return read_bounded(opened, str(file), MAX_MEMBER_BYTES)
    except OSError as error:
        raise DataError(f"not readable ({error})") from error
