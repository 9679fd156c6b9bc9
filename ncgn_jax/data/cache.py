"""Results of slow loaders kept in .npz files that are never half written."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_SETTINGS = "settings_json"


def cached_arrays(
    cache_dir: str | os.PathLike[str] | None,
    prefix: str,
    settings: dict[str, Any],
    build: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Loads arrays built earlier with the same settings, or builds and keeps them.

    The file name holds a hash of the settings; the settings themselves stand in the
    file and are compared. A file that does not open, is incomplete or answers to
    other settings is rebuilt, with a warning.

    Args:
      cache_dir: Folder, made if need be; None builds without keeping.
      prefix: Start of the file name.
      settings: Everything the arrays depend on; must go into JSON.
      build: Makes the arrays (no object dtype).

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
        except Exception as error:  # the reader of zips raises whatever it meets
            warnings.warn(f"cache {path} rebuilt: {error}", stacklevel=2)
    arrays = build()
    _write(path, text, arrays)
    return arrays


def _read(path: Path, text: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if str(arrays.pop(_SETTINGS)) != text:
        raise ValueError("it was made with other settings")
    return arrays


def _write(path: Path, text: str, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, so that the rename is atomic; own name, so that two processes
    # that build at once do not write into each other's file.
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **{_SETTINGS: np.array(text)}, **arrays)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
