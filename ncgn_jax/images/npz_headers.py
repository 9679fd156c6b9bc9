"""Looks at the shapes of arrays in `.npz` archives without reading them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_MAX_ARRAYS = 100


def read_headers(path: Path) -> Iterator[np.ndarray]:
    """Yields arrays of the shapes and types in an archive, which take no memory.

    Archives and members that are not readable yield nothing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist()[:_MAX_ARRAYS]:
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                yield np.broadcast_to(np.zeros((), dtype), shape)
    except Exception:  # spoilt archives raise anything
        return
