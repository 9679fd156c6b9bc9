"""Writes images that come as arrays as a file that the readers read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.data.array_files import write_npz
from ncgn_jax.faults import DataError, RequestError
from ncgn_jax.images.array_names import find_roles


def write_images(data: Any, stem: Path) -> Path:
    """Writes images as `.npz`.

    Args:
      data: [image, height, width] or with a channel axis; or a mapping with the arrays
        that `images.arrays` reads, such as `images` and `labels`.
      stem: Path of the file without its ending.

    Raises:
      RequestError: If the data are neither.
    """
    given = dict(data) if isinstance(data, Mapping) else {"images": data}
    arrays = {str(key): np.asarray(value) for key, value in given.items()}
    try:
        unknown = find_roles("data", arrays).unused
    except DataError as error:
        raise RequestError(str(error)) from error
    if unknown:
        raise RequestError(
            f"data: found {', '.join(arrays)}; allowed: an array of images, or a "
            "mapping of images, labels, class_names and the like; "
            f"{', '.join(unknown)} is none of them"
        )
    path = stem.with_name(f"{stem.name}.npz")
    write_npz(path, arrays)
    return path
