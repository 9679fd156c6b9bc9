"""Files of point clouds and meshes to spoil."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from ncgn_jax.point_clouds.files import load_point_files
from ncgn_jax.point_clouds.modelnet import load_modelnet
from ncgn_jax.point_clouds.scans import read_scan
from tests.spoilt_files import Kind, npy, npz


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


def pcd(cloud: np.ndarray, form: str = "binary") -> bytes:
    """A cloud with colours in the format of the Point Cloud Library."""
    num = len(cloud)
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\n"
        f"COUNT 1 1 1 1\nWIDTH {num}\nHEIGHT 1\nPOINTS {num}\nDATA {form}\n"
    ).encode()
    rows = np.pad(cloud.astype("<f4"), [(0, 0), (0, 1)])
    if form == "ascii":
        lines = (" ".join(f"{x:.7g}" for x in row) for row in rows.tolist())
        return header + "\n".join(lines).encode()
    if form == "binary":
        return header + rows.tobytes()
    data = rows.T.tobytes()
    # Runs of 32 bytes as they are, and at the end a copy of zeros before (LZF).
    zeros = len(data) - len(data.rstrip(b"\0"))
    plain = data[: len(data) - zeros + 1]
    packed = b"".join(
        bytes([len(plain[i : i + 32]) - 1]) + plain[i : i + 32]
        for i in range(0, len(plain), 32)
    )
    left = zeros - 1
    while left >= 3:
        length = min(left, 264)
        if left - length in (1, 2):
            length -= 3
        packed += (
            bytes([(length - 2) << 5, 0])
            if length < 9
            else bytes([7 << 5, length - 9, 0])
        )
        left -= length
    sizes = len(packed).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return header + sizes + packed


def text(separator: str) -> bytes:
    rows = clouds()[0].tolist()
    lines = (separator.join(f"{x:.6f}" for x in row) for row in rows)
    return ("x y z\n".replace(" ", separator) + "\n".join(lines)).encode()


def hdf5() -> bytes:
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["data"], file["label"] = clouds(), np.arange(6)[:, None] % 2
    return stream.getvalue()


def torch_file() -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save({"points": torch.from_numpy(clouds())}, stream)
    return stream.getvalue()


def lidar(kind: str) -> bytes:
    import laspy

    file = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    file.x, file.y, file.z = clouds()[0].astype(float).T
    stream = io.BytesIO()
    file.write(stream, do_compress=kind == "laz")
    return stream.getvalue()


def archive(kind: str) -> bytes:
    """Classes and parts as folders, in several formats."""
    members = {
        f"mine/{name}/{part}/{i}{ending}": content
        for name in "ab"
        for part in ("train", "test")
        for i, (ending, content) in enumerate(
            ((".npy", npy(clouds()[0])), (".xyz", text(" ")), (".off", mesh("off")))
        )
    }
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def with_good_one(path: Path, good: bytes) -> object:
    """Reads a folder of a good file and the spoilt one."""
    root = path.parent / "meshes"
    root.mkdir(exist_ok=True)
    (root / f"good{path.suffix}").write_bytes(good)
    (root / f"spoilt{path.suffix}").write_bytes(path.read_bytes())
    return load_point_files(root, 4)


def with_lists(path: Path) -> object:
    """Reads clouds whose parts the spoilt list names."""
    root = path.parent / "meshes"
    root.mkdir(exist_ok=True)
    for i, cloud in enumerate(clouds()):
        np.save(root / f"{i}.npy", cloud)
    (root / "train.txt").write_bytes(path.read_bytes())
    (root / "test.txt").write_text("4\n5\n")
    return load_point_files(root, 4)


def whole(path: Path) -> object:
    return load_point_files(path, 4)


def scan(path: Path) -> object:
    return read_scan(path)


ONE_EACH = {
    "a.off": lambda: mesh("off"),
    "a.ply": lambda: mesh("ply"),
    "a.obj": lambda: mesh("obj"),
    "a.stl": lambda: mesh("stl"),
    "a.glb": lambda: mesh("glb"),
    "a.pcd": lambda: pcd(clouds()[0]),
    "a.xyz": lambda: text(" "),
    "a.csv": lambda: text(","),
    "a.pts": lambda: b"8\n" + text(" ").partition(b"\n")[2],
}
LISTS = ("meshes", *(f"{i}.npy" for i in range(6)), "train.txt", "test.txt")
FOLDER = ("meshes", *(f"{n}.{e}" for n in ("good", "spoilt") for e in (
    "off", "ply", "obj", "stl", "glb", "pcd", "xyz", "csv", "pts", "las", "laz",
)))  # fmt: skip

KINDS = (
    *(
        Kind(name, make, lambda p, make=make: with_good_one(p, make()), besides=FOLDER)
        for name, make in ONE_EACH.items()
    ),
    *(
        Kind(
            f"a.{e}",
            lambda e=e: lidar(e),
            lambda p, e=e: with_good_one(p, lidar(e)),
            "laspy",
            FOLDER,
        )
        for e in ("las", "laz")
    ),
    Kind("compressed.pcd", lambda: pcd(clouds()[0], "binary_compressed"), scan),
    Kind("text.pcd", lambda: pcd(clouds()[0], "ascii"), scan),
    Kind("a.npz", lambda: npz(points=clouds(), label=np.arange(6)), whole),
    Kind("a.npy", lambda: npy(clouds()), whole),
    Kind("a.npy.gz", lambda: gzip.compress(npy(clouds())), whole),
    Kind("a.h5", hdf5, whole, "h5py"),
    Kind("a.pt", torch_file, whole, "torch"),
    Kind("m.zip", modelnet_zip, lambda p: load_modelnet(p, 4)),
    Kind("c.zip", lambda: archive("zip"), whole),
    Kind("c.tar.gz", lambda: archive("tar"), whole),
    Kind("train.lst", lambda: b"0\n1\n2.npy\n./3\n", with_lists, besides=LISTS),
)
