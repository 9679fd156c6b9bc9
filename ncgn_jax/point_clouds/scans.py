"""Reads one point cloud, as it was scanned."""

import os
from pathlib import Path

import numpy as np

from ncgn_jax.data.archives import ending_of
from ncgn_jax.data.file_trees import open_tree
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.array_contents import find_clouds, open_arrays
from ncgn_jax.point_clouds.model import DIM
from ncgn_jax.point_clouds.shape_files import (
    ARRAY_ENDINGS,
    ENDINGS,
    read_shape,
)


def read_scan(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the points of a file, float64 [point, 3].

    Args:
      path: A file of one cloud, in any format that `load_point_files` reads; of more
        than three columns the coordinates count, of a mesh its vertices.

    Raises:
      DataError: If there is no such file, or it holds no cloud, or several.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ending = ending_of(path.name)
    if ending not in ENDINGS:
        raise DataError(f"{path}: extension {ending!r}; allowed: {', '.join(ENDINGS)}")
    with open_tree(path, "list") as tree:
        (entry,) = tree.files
        if ending not in ARRAY_ENDINGS:

            def beside(name: str) -> bytes:
                place = path.parent / name
                if ".." in name or not place.resolve().is_relative_to(
                    path.parent.resolve()
                ):
                    raise DataError(f"{path}: refers to {name!r}, not beside it")
                return place.read_bytes()

            shape = read_shape(entry.read_plain(), path.name, str(path), beside)
            return np.asarray(shape.points, float)
        with open_arrays(entry, str(path)) as arrays:
            found = find_clouds(arrays, str(path)).clouds
            array = arrays[found[0].key]
            if len(found) > 1 or (len(array.shape) == 3 and array.shape[0] != 1):
                raise DataError(
                    f"{path}: {len(found)} arrays, the first of shape "
                    f"{tuple(array.shape)}; allowed: [point, {DIM}]"
                )
            points = np.asarray(array[()], float)[..., :DIM]
            return points.reshape(-1, DIM)
