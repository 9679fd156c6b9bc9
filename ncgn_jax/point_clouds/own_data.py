"""Writes point clouds that come as arrays as a file that the readers read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.data.array_files import write_npz
from ncgn_jax.faults import RequestError

_KEYS = ("points", "class", "classes")


def write_clouds(data: Any, stem: Path) -> Path:
    """Writes clouds as `.npz`.

    Args:
      data: [cloud, point, 3]; or a mapping with `points`, the `class` of each cloud
        (names, or numbers from 0) and the names of these numbers, `classes`.
      stem: Path of the file without its ending.

    Raises:
      RequestError: If the data are neither.
    """
    arrays = dict(data) if isinstance(data, Mapping) else {"points": data}
    unknown = [str(key) for key in arrays if key not in _KEYS]
    if unknown or "points" not in arrays:
        raise RequestError(
            f"data: found {', '.join(map(str, arrays)) or 'nothing'}; allowed: an "
            f"array [cloud, point, 3], or a mapping of {', '.join(_KEYS)}"
        )
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    points = arrays["points"]
    if points.ndim != 3 or points.shape[2] != 3:
        raise RequestError(
            f"data: points of shape {points.shape}; allowed: [cloud, point, 3]"
        )
    if points.dtype.kind in "iu":
        # The reader takes 16-bit integers for scaled coordinates.
        arrays["points"] = points.astype(np.float32)
    labels = arrays.get("class")
    if labels is not None and labels.dtype.kind not in "iu":
        if "classes" in arrays:
            raise RequestError("data: classes goes with numbers in class")
        names, numbers = np.unique(labels.astype(str), return_inverse=True)
        arrays |= {"class": numbers.reshape(-1).astype(np.int64), "classes": names}
    path = stem.with_name(f"{stem.name}.npz")
    write_npz(path, arrays)
    return path
