"""Keeps the results of slow loaders in .npz files."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.data.array_files import read_npz, write_npz
from ncgn_jax.faults import DataError

_SETTINGS = "settings_json"


def cached_arrays(
    cache_dir: str | os.PathLike[str] | None,
    prefix: str,
    settings: dict[str, Any],
    build: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Loads arrays built earlier with the same settings, or builds and keeps them.

    The file name holds a hash of the settings. The file holds the settings themselves,
    which are compared. A file that is damaged or has other settings is rebuilt, with a
    warning.

    Args:
      cache_dir: Folder, made if absent; None builds without keeping.
      prefix: Start of the file name.
      settings: Everything that the arrays depend on; must fit into JSON.
      build: Makes the arrays, of numbers or text.

    Returns:
      The arrays by name.
    """
    if cache_dir is None:
        return build()
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(cache_dir) / f"{prefix}-{digest}.npz"
    if path.exists():
        try:
            return _read(path, text)
        except DataError as error:
            warnings.warn(f"cache {path} rebuilt: {error}", stacklevel=2)
    arrays = build()
    write_npz(path, {_SETTINGS: np.array(text), **arrays})
    return arrays


def _read(path: Path, text: str) -> dict[str, np.ndarray]:
    arrays = read_npz(path, [_SETTINGS])
    if str(arrays.pop(_SETTINGS)) != text:
        raise DataError("it was made with other settings")
    return arrays
