"""Refuses what a download may leave in the place of a text file."""

from ncgn_jax.faults import DataError

_STARTS = {
    "<!doctype html": "a web page in the place of the file; download it as such",
    "<html": "a web page in the place of the file; download it as such",
    "version https://git-lfs": "a pointer to the file; `git lfs pull` fetches it",
}


def refuse_stand_in(start: str, where: object) -> None:
    """Refuses web pages and pointers of Git LFS.

    Args:
      start: First line of the text, or more.
      where: Name of the file.

    Raises:
      DataError: If it begins like one of these.
    """
    start = start[:200].lstrip().lower()
    for begin, what in _STARTS.items():
        if start.startswith(begin):
            raise DataError(f"{where}: {what}")
