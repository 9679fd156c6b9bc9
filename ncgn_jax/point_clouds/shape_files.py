"""Reads one cloud or mesh from the bytes of a file, whatever its format.

`ARRAY_ENDINGS` are formats of arrays, which may hold many clouds (`array_files`); all
others hold one. Every format may be compressed (.gz).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.archives import ending_of
from ncgn_jax.data.stand_ins import refuse_stand_in
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.gltf_files import read_gltf
from ncgn_jax.point_clouds.lidar_files import read_lidar
from ncgn_jax.point_clouds.obj_files import read_obj
from ncgn_jax.point_clouds.off_files import read_off
from ncgn_jax.point_clouds.pcd_files import read_pcd
from ncgn_jax.point_clouds.ply_files import read_ply
from ncgn_jax.point_clouds.stl_files import read_stl
from ncgn_jax.point_clouds.text_clouds import narrow_text, read_text_cloud

ARRAY_ENDINGS = (".npz", ".npy", ".h5", ".hdf5", ".pt", ".pth")
TEXT_ENDINGS = (".xyz", ".pts", ".asc", ".txt", ".csv")
# Of one shape in several formats the first is read: points as someone prepared them,
# then meshes that keep numbers as they are, then text.
SHAPE_ENDINGS = (
    ".ply", ".pcd", ".las", ".laz", ".off", ".obj", ".glb", ".gltf", ".stl",
    *TEXT_ENDINGS,
)  # fmt: skip
ENDINGS = (*ARRAY_ENDINGS, *SHAPE_ENDINGS)
# Endings that are known but not read, and a way out: of clouds and meshes alone, and
# of other things too.
_WAYS_OF_SHAPES = (
    (".fbx .blend .3ds .max .ma .mb", "a mesh: export it as .glb, .ply or .obj"),
    (
        ".dae .3mf .x3d .wrl .vrml .usd .usda .usdc .usdz .abc",
        "a mesh: convert it to .glb, .ply or .obj (Blender and MeshLab do)",
    ),
    (".step .stp .iges .igs .brep", "a CAD model: mesh it, and save as .stl or .ply"),
    (
        ".e57 .ptx .rcp .rcs .fls .copc",
        "a scan: export it as .las, .ply or .pcd (CloudCompare does)",
    ),
    (
        ".vtk .vtp .vtu .msh .mesh .bdf .inp",
        "a mesh: convert it to .ply or .stl (meshio does)",
    ),
)
_WAYS = (
    *_WAYS_OF_SHAPES,
    (
        ".pkl .pickle .p",
        "a pickle, which may run code: save its arrays as .npz or .npy",
    ),
    (".mat", "save its arrays as .npz (scipy.io.loadmat reads it)"),
    (".bin", "numbers without a shape: save them as .npy"),
    (".tfrecord .tfrecords .lmdb .mdb", "records: save the clouds as .npz or .h5"),
    (".zip .tar .tgz", "an archive among files: name it by data.path"),
    (".rar .7z", "an archive: repack it as .zip or .tar"),
)
OTHERS = {ending: way for endings, way in _WAYS for ending in endings.split()}
OTHER_SHAPES = {ending for endings, _ in _WAYS_OF_SHAPES for ending in endings.split()}
# Returns the bytes of a file that another refers to, by its name beside it.
Beside = Callable[[str], bytes]


class Shape(NamedTuple):
    """A cloud, or a mesh.

    Attributes:
      points: Points or vertices, [point, 3], in the precision of the file.
      faces: Triangles, int64 [triangle, 3]; none of a cloud.
      others: Names of further numbers of the points, which are not used.
      num_missing: Points that the file marks as not seen, which are left out.
      note: What was decided to read it, in words.
    """

    points: np.ndarray
    faces: np.ndarray
    others: tuple[str, ...] = ()
    num_missing: int = 0
    note: str = ""


def read_shape(content: bytes, name: str, where: str, beside: Beside) -> Shape:
    """Reads a format that holds one shape.

    Args:
      content: Content of the file, uncompressed.
      name: Its name, whose ending is one of `SHAPE_ENDINGS`.
      where: Name for messages.
      beside: Returns other files that it refers to.

    Raises:
      DataError: If it is damaged, or has no points.
    """
    ending, no_faces = ending_of(name), np.zeros((0, 3), np.int64)
    refuse_stand_in(content, where)
    if ending in (".off", ".obj"):
        content = narrow_text(content)
    if ending == ".off":
        return Shape(*read_off(content, where))
    if ending == ".ply":
        return Shape(*read_ply(content, where))
    if ending == ".obj":
        return Shape(*read_obj(content, where))
    if ending == ".stl":
        return Shape(*read_stl(content, where))
    if ending == ".pcd":
        points, others = read_pcd(content, where)
        seen = np.isfinite(points).all(axis=1)
        if not seen.any():
            raise DataError(f"{where}: no points: all {len(points)} are NaN")
        return Shape(points[seen], no_faces, others, int((~seen).sum()))
    if ending in (".las", ".laz"):
        points, others = read_lidar(content, ending == ".laz", where)
        return Shape(points, no_faces, others)
    if ending in (".glb", ".gltf"):
        points, faces, note = read_gltf(content, ending, where, beside)
        return Shape(points, faces, note=note)
    cloud = read_text_cloud(content, where)
    note = "commas are decimal points, as in 0,5" if cloud.decimal_comma else ""
    return Shape(cloud.points, no_faces, cloud.others, note=note)
