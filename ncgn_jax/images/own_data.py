"""Writes images that come as arrays as a file that the readers read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.data.array_files import write_npz
from ncgn_jax.faults import RequestError
from ncgn_jax.images.arrays import (
    CLASS_KEYS,
    TEST_KEYS,
    TEST_LABEL_KEYS,
    TRAIN_KEYS,
    TRAIN_LABEL_KEYS,
)

_KEYS = (*TRAIN_KEYS, *TEST_KEYS, *TRAIN_LABEL_KEYS, *TEST_LABEL_KEYS, *CLASS_KEYS)


def write_images(data: Any, stem: Path) -> Path:
    """Writes images as `.npz`.

    Args:
      data: [image, height, width] or with a channel axis; or a mapping with the arrays
        that `images.arrays` reads, such as `images` and `labels`.
      stem: Path of the file without its ending.

    Raises:
      RequestError: If the data are neither.
    """
    arrays = dict(data) if isinstance(data, Mapping) else {"images": data}
    unknown = [str(key) for key in arrays if str(key).lower() not in _KEYS]
    if unknown or not arrays:
        raise RequestError(
            f"data: found {', '.join(map(str, arrays)) or 'nothing'}; allowed: an "
            f"array of images, or a mapping of some of {', '.join(sorted(set(_KEYS)))}"
        )
    path = stem.with_name(f"{stem.name}.npz")
    write_npz(path, {key: np.asarray(value) for key, value in arrays.items()})
    return path
