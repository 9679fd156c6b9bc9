"""Reads members of .zip and .tar archives, and compressed files, without unpacking.

Nothing is ever written. Members whose paths lead out of the archive, links, encrypted
members and those that grow beyond a bound are refused.

Example:
  >>> import io, pathlib, tempfile, zipfile
  >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.zip"
  >>> with zipfile.ZipFile(path, "w") as file:
  ...     file.writestr("chair/0.txt", "0 0 1")
  ...     file.writestr("__MACOSX/chair/._0.txt", "")
  >>> with open_archive(path) as archive:
  ...     [(member.name, archive.read(member)) for member in archive.members]
  [('chair/0.txt', b'0 0 1')]
"""

import contextlib
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, Self

from ncgn_jax.data.stand_ins import refuse_stand_in_file
from ncgn_jax.faults import DataError

ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER_BYTES = 2**31
# A compressed .tar of a few MB may list millions of empty members.
_MAX_TAR_MEMBERS = 2**22
_MAX_TAR_HEADER_BYTES = 2**20
_TAR_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_CHUNK = 2**20
_OF_SYSTEMS = frozenset(("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"))
# What `zipfile`, `tarfile` and `gzip` raise for files that were spoilt at random.
SPOILT = (
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class _Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Returns at most so many bytes, none at the end."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
      name: Its path in the archive, with forward slashes.
      size: Bytes that the archive announces.
      stamp: A text that changes with the content, where the archive knows it.
      place: Where it lies; members of a compressed .tar are read fast in this order
        alone.
    """

    name: str
    size: int
    stamp: str = ""
    place: int = 0


class Archive(NamedTuple):
    """An open archive.

    Attributes:
      members: Its files without hidden ones, by name; folders are left away.
      hidden: Names of hidden files, see `is_hidden`.
      read: Returns the bytes of a member, DataError if it is damaged.
    """

    members: tuple[Member, ...]
    hidden: tuple[str, ...]
    read: Callable[[Member], bytes]


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Tells whether a name ends like that of an archive."""
    return str(path).lower().endswith(ARCHIVE_ENDINGS)


def is_hidden(name: str | PurePosixPath) -> bool:
    """Tells whether a path is one that systems hide or put beside others.

    Example:
      >>> is_hidden("a/.x"), is_hidden("__MACOSX/x"), is_hidden("a/Thumbs.db")
      (True, True, True)
    """
    parts = PurePosixPath(name).parts
    starts = any(part.startswith((".", "__MACOSX")) for part in parts)
    return starts or bool(parts) and parts[-1].lower() in _OF_SYSTEMS


@contextlib.contextmanager
def open_archive(
    path: str | os.PathLike[str], max_bytes: int = MAX_MEMBER_BYTES
) -> Iterator[Archive]:
    """Opens an archive.

    Args:
      path: A .zip, .tar, or compressed .tar.
      max_bytes: Largest member that is read.

    Yields:
      Its members and a function that reads one.

    Raises:
      DataError: If it is no archive, or a member has an unsafe path, is a link, is
        encrypted or is larger than `max_bytes`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    opened = _open_zip if path.suffix.lower() == ".zip" else _open_tar
    refuse_stand_in_file(path, path)
    with opened(path, max_bytes) as (listed, open_member):
        kept, hidden = [], []
        for member in sorted(listed):
            if _check_member(path, member, max_bytes):
                kept.append(member)
            else:
                hidden.append(member.name)

        def read(member: Member) -> bytes:
            where = f"{path}:{member.name}"
            with (
                _in_words(f"{where}: damaged member"),
                open_member(member.name) as file,
            ):
                return read_bounded(file, where, max_bytes)

        yield Archive(tuple(kept), tuple(hidden), read)


def read_bounded(
    file: _Readable, where: str, max_bytes: int = MAX_MEMBER_BYTES
) -> bytes:
    """Reads a stream to its end.

    Raises:
      DataError: If there is more than `max_bytes`, as in a decompression bomb.
    """
    parts = []
    total = 0
    while part := file.read(_CHUNK):
        total += len(part)
        if total > max_bytes:
            raise DataError(f"{where}: more than {max_bytes:,} bytes; allowed: so many")
        parts.append(part)
    return b"".join(parts)


def read_plain_or_gzip(
    path: str | os.PathLike[str], max_bytes: int = MAX_MEMBER_BYTES
) -> bytes:
    """Reads a file, uncompressed if its name ends in .gz.

    Raises:
      DataError: If it is absent, damaged, or larger than `max_bytes` uncompressed.
    """
    path = Path(path)
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with _in_words(f"{path}: not readable"), opened(path, "rb") as file:
        return read_bounded(file, str(path), max_bytes)


def gunzip(content: bytes, where: str, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
    """Unpacks the content of a .gz file.

    Raises:
      DataError: If it is damaged, or larger than `max_bytes` unpacked.
    """
    with (
        _in_words(f"{where}: not readable as .gz"),
        gzip.open(io.BytesIO(content)) as file,
    ):
        return read_bounded(file, where, max_bytes)


def plain_name(path: str | os.PathLike[str]) -> Path:
    """Returns a path without `.gz` at its end."""
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def ending_of(name: str | os.PathLike[str]) -> str:
    """Returns the ending that tells the format, in small letters, without `.gz`.

    Example:
      >>> ending_of("a/CHAIR.PLY"), ending_of("b.npy.gz"), ending_of("c.tar.gz")
      ('.ply', '.npy', '.tar')
    """
    return plain_name(os.fspath(name).lower()).suffix


@contextlib.contextmanager
def _in_words(message: str) -> Iterator[None]:
    """Turns what spoilt files raise into a DataError."""
    try:
        yield
    except DataError:  # which is a ValueError too
        raise
    except SPOILT as error:
        raise DataError(f"{message} ({error})") from error


_Opened = tuple[list[Member], Callable[[str], contextlib.AbstractContextManager]]


@contextlib.contextmanager
def _open_zip(path: Path, max_bytes: int) -> Iterator[_Opened]:
    with _in_words(f"{path}: not a readable zip"):
        archive = zipfile.ZipFile(path)
    with archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        encrypted = [info.filename for info in infos if info.flag_bits & 1]
        if encrypted:
            raise DataError(f"{path}: {encrypted[0]!r} is encrypted; allowed: plain")
        members = [
            Member(i.filename, i.file_size, hex(i.CRC), i.header_offset) for i in infos
        ]
        yield members, archive.open


class _TarInfo(tarfile.TarInfo):
    """A member whose name and attributes are refused before they are read if too long.

    `tarfile` takes them into memory whole, before anybody sees the member.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _TAR_HEADERS and info.size > _MAX_TAR_HEADER_BYTES:
            # No error of `tarfile`, since it goes on after most of them.
            raise MemoryError(
                f"a name or attributes of {info.size:,} bytes; allowed: <= "
                f"{_MAX_TAR_HEADER_BYTES:,}"
            )
        return info


@contextlib.contextmanager
def _open_tar(path: Path, max_bytes: int) -> Iterator[_Opened]:
    words = f"{path}: not a readable archive"
    with _in_words(words):
        archive = tarfile.open(path, tarinfo=_TarInfo)  # noqa: SIM115  closed below
    with archive:
        with _in_words(words):
            infos = _list_tar(path, archive, max_bytes)

        def open_member(name: str) -> contextlib.AbstractContextManager:
            file = archive.extractfile(infos[name])
            if file is None:
                raise DataError(f"{path}:{name}: not a file")
            return file

        yield list(map(_member_of, infos.values())), open_member


def _list_tar(
    path: Path, archive: tarfile.TarFile, max_bytes: int
) -> dict[str, tarfile.TarInfo]:
    """Returns members that are no folders; refuses one before it is passed over."""
    infos: dict[str, tarfile.TarInfo] = {}
    for info in archive:
        if info.isdir():
            continue
        if not info.isfile():
            raise DataError(f"{path}: {info.name!r} is a link; allowed: files")
        _check_member(path, _member_of(info), max_bytes)
        infos[info.name] = info
        if len(infos) > _MAX_TAR_MEMBERS:
            raise DataError(
                f"{path}: more than {_MAX_TAR_MEMBERS:,} files; allowed: so many"
            )
    return infos


def _member_of(info: tarfile.TarInfo) -> Member:
    return Member(info.name, info.size, str(info.mtime), info.offset_data)


def _check_member(path: Path, member: Member, max_bytes: int) -> bool:
    """Refuses unsafe members; returns False for hidden ones."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    drive = ":" in name.parts[0] if name.parts else False
    if name.is_absolute() or ".." in name.parts or drive:
        raise DataError(f"{path}: unsafe member path {member.name!r}")
    if is_hidden(name.as_posix().removeprefix("./")):
        return False
    if member.size > max_bytes:
        raise DataError(
            f"{path}:{member.name}: {member.size:,} bytes; allowed: <= {max_bytes:,}"
        )
    return True
