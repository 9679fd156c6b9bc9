"""Saves pictures whole or not at all, also on a full disk or when killed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes a file under a temporary name and renames it into place.

    Args:
      path: Where to; missing folders are made.
      write: Fills the open binary file that it is called with.

    Returns:
      The path. Whatever fails, an older file there stays as it was and no temporary
      file stays behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files, but pictures are meant to be shared.
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def save_figure(figure: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Saves a figure atomically, in the format named by the path's suffix.

    Args:
      figure: The figure.
      path: Where to, for example `clouds.png`, `.pdf` or `.svg`.
      dpi: Dots per inch of raster output, > 0.

    Returns:
      The path.

    Raises:
      ValueError: If the path has no suffix or matplotlib cannot write that format.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(
            f"cannot save a figure as '{path}': the suffix must be one of "
            f"{', '.join(sorted(known))}"
        )
    return write_atomically(
        path,
        lambda file: figure.savefig(
            file, format=kind, dpi=dpi, facecolor="white", bbox_inches="tight"
        ),
    )
