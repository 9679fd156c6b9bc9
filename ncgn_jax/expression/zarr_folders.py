"""Recognises zarr folders, and refuses what they may do to their reader."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ncgn_jax.data.host_memory import available_bytes
from ncgn_jax.faults import DataError

# Filters of arrays that turn bytes into numbers and texts; `pickle` runs code.
_SAFE_CODECS = frozenset(
    (
        "blosc",
        "zlib",
        "gzip",
        "zstd",
        "lz4",
        "lzma",
        "bz2",
        "shuffle",
        "delta",
        "bitround",
        "fixedscaleoffset",
        "astype",
        "packbits",
        "quantize",
        "crc32",
        "crc32c",
        "adler32",
        "fletcher32",
        "vlen-utf8",
        "vlen-bytes",
        "vlen-array",
        "bytes",
        "transpose",
        "sharding_indexed",
        "default",
        "c",
    )
)


_ZARR_METADATA = (".zarray", ".zmetadata", "zarr.json")

Matrix = Any  # numpy array, or matrix or array of scipy.sparse


def is_zarr(path: Path) -> bool:
    """Tells whether a folder is one of zarr."""
    names = (".zgroup", ".zattrs", "zarr.json")
    return path.is_dir() and any((path / name).is_file() for name in names)


def check_zarr(path: Path) -> None:
    """Refuses what a zarr folder may do to its reader.

    Arrays may name filters that run code, announce more than fits into memory, or lie
    behind links.

    Raises:
      DataError: If one does.
    """
    limit = available_bytes()
    for file in sorted(path.rglob("*")):
        if file.is_symlink():
            raise DataError(f"{file}: is a link; allowed: files and folders")
        if file.name not in _ZARR_METADATA:
            continue
        try:
            content = json.loads(file.read_text())
        except (ValueError, OSError, RecursionError) as error:
            raise DataError(f"{file}: not readable ({error})") from error
        for part in _objects(content):
            _check_codecs(file, part)
            _check_size(file, part, limit)


def _objects(content: object) -> Iterator[dict[str, Any]]:
    """Yields all objects in a JSON text."""
    if isinstance(content, dict):
        yield content
        for item in content.values():
            yield from _objects(item)
    elif isinstance(content, list):
        for item in content:
            yield from _objects(item)


def _check_codecs(file: Path, part: dict[str, Any]) -> None:
    listed = [part.get("compressor"), *_as_list(part.get("filters"))]
    listed += _as_list(part.get("codecs"))
    for codec in listed:
        if not isinstance(codec, dict):
            continue
        name = str(codec.get("id", codec.get("name", "")))
        if name.lower().removeprefix("numcodecs.") not in _SAFE_CODECS:
            raise DataError(
                f"{file}: filter {name!r}; allowed: {', '.join(sorted(_SAFE_CODECS))}"
            )


def _check_size(file: Path, part: dict[str, Any], limit: int) -> None:
    for shape in (part.get("shape"), part.get("chunks"), part.get("chunk_shape")):
        if isinstance(shape, list) and all(isinstance(n, int) for n in shape):
            size = 1
            for length in shape:
                size *= max(length, 0)
            if size > limit:
                raise DataError(
                    f"{file}: an array of {size:,} entries; allowed: what fits into "
                    f"the {limit:,} bytes of free memory"
                )


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
