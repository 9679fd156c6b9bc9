"""Files of point clouds and meshes to spoil."""

import io
import zipfile
from pathlib import Path

import numpy as np

from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.modelnet import load_modelnet
from tests.spoilt_files import Kind, npy, npz

MESHES = (
    "meshes",
    *(f"{n}.{e}" for n in ("good", "spoilt") for e in ("off", "ply", "obj", "stl")),
)


def mesh(kind: str) -> bytes:
    """A tetrahedron of five points in a format of meshes."""
    import trimesh

    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1.5]]
    faces = [[0, 1, 2], [0, 1, 3], [1, 2, 3], [2, 3, 4]]
    data = trimesh.Trimesh(vertices, faces, process=False).export(file_type=kind)
    return data if isinstance(data, bytes) else data.encode()


def modelnet_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for split in ("train", "test"):
            for number in range(2):
                archive.writestr(
                    f"ModelNet10/chair/{split}/chair_{number}.off", mesh("off")
                )
    return stream.getvalue()


def clouds() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)


def meshes(path: Path) -> object:
    """Reads a folder of a good mesh and the spoilt one."""
    root = path.parent / "meshes"
    root.mkdir(exist_ok=True)
    (root / f"good{path.suffix}").write_bytes(mesh(path.suffix[1:]))
    (root / f"spoilt{path.suffix}").write_bytes(path.read_bytes())
    return load_point_files(root, 4)


KINDS = (
    Kind("a.off", lambda: mesh("off"), meshes, besides=MESHES),
    Kind("a.ply", lambda: mesh("ply"), meshes, besides=MESHES),
    Kind("a.obj", lambda: mesh("obj"), meshes, besides=MESHES),
    Kind("a.stl", lambda: mesh("stl"), meshes, besides=MESHES),
    Kind("a.npz", lambda: npz(points=clouds()), lambda p: load_point_files(p, 4)),
    Kind("a.npy", lambda: npy(clouds()), lambda p: load_point_files(p, 4)),
    Kind("m.zip", modelnet_zip, lambda p: load_modelnet(p, 4)),
)
