"""Tells by names and first bytes whether a file or folder may hold clouds or meshes."""

import io
from pathlib import Path

import numpy as np

from ncgn_jax.data.array_files import look_at_npy
from ncgn_jax.data.file_trees import TreeFile, open_tree
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.array_contents import find_clouds, open_arrays
from ncgn_jax.point_clouds.shape_files import ENDINGS, OTHER_SHAPES
from ncgn_jax.point_clouds.text_clouds import narrow_text, read_text_cloud

# Formats of nothing else.
_SURE = (
    ".ply",
    ".pcd",
    ".las",
    ".laz",
    ".off",
    ".obj",
    ".glb",
    ".gltf",
    ".stl",
    ".pts",
)
_TEXT = (".txt", ".csv", ".asc", ".xyz")
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Names in the first bytes of HDF5 files of other kinds, and of images.
_OTHER_NAMES = (b"encoding-type", b"barcodes", b"shard", b"images", b"genes", b"obsm")
# Parts of their names: matrices of 10x may have no name in the first bytes.
_OTHER_FILES = ("_bc_matri", "feature_matrix", "molecule_info")
_MAX_LOOKED_AT = 8
_MAX_ARRAY_BYTES = 2**28
_LARGEST_TABLE = 12  # columns of a text cloud


def looks_like_clouds(path: Path) -> bool:
    """Tells whether one of the first files is one of clouds or meshes, or all could be.

    Args:
      path: An existing file, folder or archive.
    """
    try:
        with open_tree(path, "list") as tree:
            likely = [e for e in tree.files if e.ending in ENDINGS]
            if any(entry.ending in _SURE for entry in likely):
                return True
            # Shapes that are not read are refused with a way to convert them.
            if tree.files and all(e.ending in OTHER_SHAPES for e in tree.files):
                return True
            return any(map(_holds_clouds, likely[:_MAX_LOOKED_AT]))
    except DataError:
        return False


def _holds_clouds(entry: TreeFile) -> bool:
    ending = entry.ending
    try:
        if ending in _TEXT:
            return _is_text_cloud(entry)
        if ending == ".npy":
            array = look_at_npy(io.BytesIO(entry.head()))
            return _is_shape_of_clouds(array.shape, array.dtype)
        if ending == ".npz":
            return entry.size <= _MAX_ARRAY_BYTES and _is_npz_of_clouds(entry)
        head = entry.head()
    except DataError:
        return False
    if ending in (".h5", ".hdf5"):
        if any(part in entry.name.lower() for part in _OTHER_FILES):
            return False
        return head.startswith(_HDF5) and not any(n in head for n in _OTHER_NAMES)
    return ending in (".pt", ".pth") and head[:2] in (b"PK", b"\x80\x02")


def _is_text_cloud(entry: TreeFile) -> bool:
    """Looks at the first lines; a table of cells is wider, or has no x, y and z."""
    head = narrow_text(entry.head())
    lines = head.splitlines()[:20]
    if not lines:
        return False
    if len(lines[0].split()) == 1 and lines[0].strip().isdigit():
        lines = lines[1:]  # the number of points, of which not all are looked at
    cloud = read_text_cloud(b"\n".join(lines), entry.name)
    return len(cloud.others) + 3 <= _LARGEST_TABLE


def _is_shape_of_clouds(shape: tuple[int, ...], kind: np.dtype) -> bool:
    if kind.names:
        return {"x", "y", "z"} <= {name.lower() for name in kind.names}
    is_number = kind.kind == "f" or kind in (np.int16, np.int32, np.int64)
    return is_number and len(shape) in (2, 3) and 3 <= shape[-1] <= 6


def _is_npz_of_clouds(entry: TreeFile) -> bool:
    with open_arrays(entry, entry.name) as arrays:
        if {"genes", "images", "positions_of_cells"} & {key.lower() for key in arrays}:
            return False
        found = find_clouds(arrays, entry.name)
        return any(
            _is_shape_of_clouds(arrays[cloud.key].shape, arrays[cloud.key].dtype)
            for cloud in found.clouds
        )
