"""Refuses what a download may leave in the place of a file."""

import io
from pathlib import Path

from ncgn_jax.faults import DataError

_STARTS = {
    "<!doctype html": "a web page in the place of the file; download it as such",
    "<html": "a web page in the place of the file; download it as such",
    "version https://git-lfs": "a pointer to the file; `git lfs pull` fetches it",
}
_LOOKED_AT = 200


def refuse_stand_in(start: str | bytes, where: object) -> None:
    """Refuses web pages and pointers of Git LFS.

    Args:
      start: The first letters of the file, or more.
      where: Name of the file.

    Raises:
      DataError: If it begins like one of these.
    """
    start = start[:_LOOKED_AT]
    text = start.decode("latin-1") if isinstance(start, bytes) else start
    text = text.removeprefix("\xef\xbb\xbf").lstrip().lower()
    for begin, what in _STARTS.items():
        if text.startswith(begin):
            raise DataError(f"{where}: {what}")


def refuse_stand_in_file(file: Path | io.BytesIO, where: object) -> None:
    """Does the same with a file, which may be absent; for readers that failed.

    Raises:
      DataError: As `refuse_stand_in`.
    """
    if isinstance(file, io.BytesIO):
        refuse_stand_in(file.getbuffer()[:_LOOKED_AT].tobytes(), where)
    elif file.is_file():
        with file.open("rb") as stream:
            refuse_stand_in(stream.read(_LOOKED_AT), where)
