"""Reads vertices and faces of glTF files through trimesh, after a look at the header.

trimesh leaves out what it does not know, and puts zeros where numbers are compressed or
sparse. It also sets aside all the memory that a header announces.

Example:
  >>> content = b'{"asset": {"version": "1.0"}}'
  >>> read_gltf(content, ".gltf", "a.gltf", lambda name: b"")
  Traceback (most recent call last):
  ncgn_jax.faults.DataError: a.gltf: glTF 1.0; allowed: 2 (Blender exports it)
"""

import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from ncgn_jax.data.host_memory import require_bytes
from ncgn_jax.data.optional import import_optional
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.off_files import check_corners

_DRACO = "KHR_draco_mesh_compression"
_PACKED = (_DRACO, "EXT_meshopt_compression", "KHR_meshopt_compression")
_INSTANCES = "EXT_mesh_gpu_instancing"
_LINES = (1, 2, 3)
_FAN = 6
_JSON = b"JSON"
# An element is a matrix of 16 float32 at most; a vertex is kept in float64, and the
# triangles of a strip are as many as its corners.
_ELEMENT_BYTES, _VERTEX_BYTES, _CORNER_BYTES = 64, 24, 24


def read_gltf(
    content: bytes, ending: str, where: str, beside: Callable[[str], bytes]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Parses a glTF file of version 2 and joins its parts as the scene places them.

    Args:
      content: Content of the file.
      ending: `.glb` or `.gltf`.
      where: Name of the file, for messages.
      beside: Returns the content of a file that it refers to.

    Returns:
      Vertices float64 [vertex, 3], triangles int64 [triangle, 3], and what was left
      out in words.

    Raises:
      DataError: If it is damaged, of version 1, has no vertices, or stores some in a
        form that is not read.
    """
    note = ""
    announced = int.from_bytes(content[8:12], "little")
    if ending == ".glb" and content[:4] == b"glTF" and announced > len(content):
        raise DataError(
            f"{where}: truncated: {announced} bytes announced, {len(content)} found"
        )
    header = _find_header(content, ending)
    if header is not None:
        _check_version(header, where)
        try:
            note = _check_contents(header, where)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{where}: a damaged header ({error!r})") from error
    points, faces = _read(content, ending, where, beside)
    if not len(points):
        raise DataError(f"{where}: no vertices{f'; {note}' if note else ''}")
    check_corners(faces.reshape(-1), len(points), where)
    return points, faces, note


def _find_header(content: bytes, ending: str) -> dict[str, Any] | None:
    """Returns the header; None if there is none, which trimesh finds too."""
    text = content
    if ending == ".glb":
        if content[:4] == b"glTF" and content[4:8] == b"\1\0\0\0":
            return {"asset": {"version": "1"}}
        if content[16:20] != _JSON:
            return None
        text = content[20 : 20 + int.from_bytes(content[12:16], "little")]
    try:
        header = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _check_version(header: dict[str, Any], where: str) -> None:
    asset = header.get("asset")
    version = asset.get("version") if isinstance(asset, dict) else None
    if version is not None and not str(version).startswith("2"):
        raise DataError(f"{where}: glTF {version}; allowed: 2 (Blender exports it)")


def _check_contents(header: dict[str, Any], where: str) -> str:
    """Refuses what trimesh misreads; returns what it leaves out."""
    required, used = (
        set(header.get(name, ())) for name in ("extensionsRequired", "extensionsUsed")
    )
    for name in _PACKED:
        is_read = name == _DRACO and importlib.util.find_spec("DracoPy") is not None
        if name in required and not is_read:
            raise DataError(
                f"{where}: compressed by {name}; allowed: uncompressed glTF (Blender "
                "and gltf-transform write it)"
            )
    if _INSTANCES in required | used:
        raise DataError(f"{where}: copies by {_INSTANCES}; allowed: a node for each")
    accessors = header.get("accessors", [])
    needed = sum(_count(item) * _ELEMENT_BYTES for item in accessors)
    needed += sum(
        _count(accessors[at]) * size
        for node in header.get("nodes", [])
        if "mesh" in node
        for part in header["meshes"][node["mesh"]]["primitives"]
        for at, size in _arrays_of(part)
    )
    require_bytes(needed, f"{where}: its vertices and faces", "a smaller model")
    num_lines = 0
    for mesh in header.get("meshes", []):
        for part in mesh["primitives"]:
            mode = part.get("mode", 4)
            if mode == _FAN:
                raise DataError(
                    f"{where}: a fan of triangles (mode 6); allowed: triangles, strips "
                    "and points"
                )
            num_lines += mode in _LINES
            is_packed = bool(set(part.get("extensions", {})) & set(_PACKED))
            for at, _ in _arrays_of(part):
                _check_accessor(accessors[at], is_packed, where)
    return "lines are not read" if num_lines else ""


def _arrays_of(part: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yields the numbers of the arrays of a part, and bytes of an element in memory."""
    if "POSITION" in part["attributes"]:
        yield part["attributes"]["POSITION"], _VERTEX_BYTES
    if "indices" in part:
        yield part["indices"], _CORNER_BYTES


def _count(accessor: dict[str, Any]) -> int:
    count = accessor["count"]
    if not isinstance(count, int) or count < 0:
        raise TypeError(f"count {count!r}")
    return count


def _check_accessor(accessor: dict[str, Any], is_packed: bool, where: str) -> None:
    if "sparse" in accessor:
        form = "sparse"
    elif accessor.get("normalized"):
        form = "whole numbers for fractions"
    elif "bufferView" not in accessor and not is_packed:
        form = "without numbers"
    else:
        return
    raise DataError(
        f"{where}: vertices or faces are {form}; allowed: plain arrays (Blender and "
        "gltf-transform write them)"
    )


class _Beside:
    """Lets trimesh read files beside a .gltf, and no others."""

    def __init__(self, beside: Callable[[str], bytes]):
        self._beside = beside

    def __getitem__(self, name: str) -> bytes:
        return self._beside(name)


def _read(
    content: bytes, ending: str, where: str, beside: Callable[[str], bytes]
) -> tuple[np.ndarray, np.ndarray]:
    # Slow to import, and needed for this format only.
    trimesh = import_optional("trimesh", "meshes", where)
    try:
        scene = trimesh.load_scene(
            io.BytesIO(content),
            file_type=ending[1:],
            resolver=cast(Any, _Beside(beside)),  # what it asks of one
            process=False,
            skip_materials=True,
        )
        parts = [
            part
            for part in scene.dump()
            if isinstance(part, trimesh.Trimesh | trimesh.PointCloud)
        ]
        vertices = [np.asarray(part.vertices, np.float64) for part in parts]
        faces = [
            np.asarray(part.faces if isinstance(part, trimesh.Trimesh) else ())
            .reshape(-1, 3)
            .astype(np.int64)
            for part in parts
        ]
    except DataError:
        raise
    except Exception as error:  # trimesh lists no errors of its readers
        raise DataError(f"{where}: not readable ({error!r})") from error
    if not vertices:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    starts = np.cumsum([0, *map(len, vertices)])
    shifted = [part + at for part, at in zip(faces, starts[:-1], strict=True)]
    return np.concatenate(vertices), np.concatenate(shifted)
