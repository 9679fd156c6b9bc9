"""Kinds of files that `tests/test_fuzz.py` spoils, as domains declare them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A kind of file: a valid one, where it lies, and what reads it."""

    name: str
    content: Callable[[], bytes]
    read: Callable[[Path], object]
    needs: str | None = None
    besides: tuple[str, ...] = ()  # what `read` itself puts beside the file


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
