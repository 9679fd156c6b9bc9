"""Keeps the calls of a long sampling that are finished, so that a stop loses one only.

Example:
  >>> import pathlib, tempfile
  >>> import numpy as np
  >>> folder = pathlib.Path(tempfile.mkdtemp()) / "parts"
  >>> with keep_parts(folder):
  ...     _ = finished_part(lambda: np.ones(2))
  >>> with keep_parts(folder) as parts:  # the same sampling, begun again
  ...     found = finished_part(lambda: np.zeros(2)), finished_part(lambda: np.zeros(2))
  >>> [part.tolist() for part in found], parts.num_found
  ([[1.0, 1.0], [0.0, 0.0]], 1)
"""

import contextlib
import contextvars
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ncgn_jax import processes
from ncgn_jax.data.whole_files import whole_file


@dataclasses.dataclass
class Parts:
    """The parts of one sampling, numbered in the order in which they are asked for.

    Attributes:
      folder: Where they are kept.
      num_asked: How many were asked for.
      num_found: How many of those were there already.
    """

    folder: Path
    num_asked: int = 0
    num_found: int = 0


_PARTS: contextvars.ContextVar[Parts | None] = contextvars.ContextVar(
    "parts", default=None
)


@contextlib.contextmanager
def keep_parts(folder: Path) -> Iterator[Parts]:
    """Keeps what `finished_part` computes in the block, and takes what is kept.

    Args:
      folder: Folder of this sampling alone, made when there is something to keep. Its
        name must tell it from samplings that compute anything else.

    Yields:
      What it knows of the parts.
    """
    parts = Parts(folder)
    token = _PARTS.set(parts)
    try:
        yield parts
    finally:
        _PARTS.reset(token)


def finished_part(compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the next part of a sampling: the one that is kept, or a new one.

    With several processes, process 0 keeps the parts and sends them to the others.

    Args:
      compute: Computes the part, on all processes.
    """
    parts = _PARTS.get()
    if parts is None:
        return compute()
    path = parts.folder / f"{parts.num_asked}.npy"
    parts.num_asked += 1
    stored = processes.from_main(lambda: path.read_bytes() if path.exists() else b"")
    if stored.size:
        parts.num_found += 1
        return np.load(io.BytesIO(stored.tobytes()), allow_pickle=False)
    part = compute()
    if processes.is_main_process():
        with whole_file(path) as file:
            np.save(file, part, allow_pickle=False)
    return part
