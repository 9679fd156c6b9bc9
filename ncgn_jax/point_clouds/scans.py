"""Reads one point cloud, as it was scanned."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.data.array_files import open_npy
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.model import DIM


def read_scan(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the points of a file, float64 [point, 3].

    Args:
      path: .npy of shape [point, 3 or more] (the first three count), or any format of
        points or meshes that trimesh reads; of a mesh its vertices.

    Raises:
      DataError: If there is no such file, or it holds no cloud.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix.lower() == ".npy":
        points = np.asarray(open_npy(path), float)
    else:
        import trimesh

        try:
            loaded: Any = trimesh.load(path, process=False)
            if isinstance(loaded, trimesh.Scene):
                loaded = loaded.to_geometry()
            points = np.asarray(loaded.vertices, float)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"{path}: no points in it: {error}") from error
    if points.ndim != 2 or points.shape[1] < DIM:
        raise DataError(f"{path}: shape {points.shape}; allowed: [point, {DIM}]")
    return points[:, :DIM]
