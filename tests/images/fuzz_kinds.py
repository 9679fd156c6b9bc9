"""Files of images and latents to spoil."""

import functools
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from ncgn_jax.images.array_parts import ArrayOptions
from ncgn_jax.images.arrays import load_arrays
from ncgn_jax.images.cifar_files import load_cifar
from ncgn_jax.images.folders import load_folder
from ncgn_jax.images.idx_files import load_idx
from ncgn_jax.images.latent_shards import load_latents
from ncgn_jax.images.parquet_files import load_parquet
from ncgn_jax.images.picture_files import PictureOptions
from tests.images.stored_images import cifar10_binary, cifar10_python, idx, write_files
from tests.spoilt_files import Kind, npy, npz


def picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def photos(path: Path) -> object:
    """Reads a folder of three pictures of which one is spoilt."""
    root = path.parent / "photos" / "cat"
    root.mkdir(parents=True, exist_ok=True)
    (root / "a.png").write_bytes(picture())
    (root / "b.png").write_bytes(picture())
    (root / "c.png").write_bytes(path.read_bytes())
    return load_folder(root.parent, PictureOptions(8))


def shards(path: Path) -> object:
    root = path.parent / "latents"
    root.mkdir(exist_ok=True)
    good = np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype(np.float32)
    np.save(root / "latents-00000.npy", good)
    (root / "latents-00001.npy").write_bytes(path.read_bytes())
    data = load_latents(root)
    return data.take(np.arange(len(data.train)))


def idx_set(path: Path) -> object:
    """Reads a spoilt file of labels beside good images."""
    root = path.parent / "mnist"
    root.mkdir(exist_ok=True)
    images = np.arange(640, dtype=np.uint8).reshape(10, 8, 8)
    (root / "train-images-idx3-ubyte").write_bytes(idx(images))
    (root / "train-labels-idx1-ubyte.gz").write_bytes(path.read_bytes())
    return load_idx(root, ArrayOptions(0.4))


def cifar(path: Path) -> object:
    """Reads a spoilt batch beside a good one."""
    root = path.parent / "cifar"
    write_files(root, cifar10_python(*CIFAR))
    (root / "cifar-10-batches-py" / "data_batch_2").write_bytes(path.read_bytes())
    return load_cifar(root)


def cifar_binary(path: Path) -> object:
    root = path.parent / "cifar"
    write_files(root, cifar10_binary(*CIFAR))
    (root / "cifar-10-batches-bin" / "data_batch_2.bin").write_bytes(path.read_bytes())
    return load_cifar(root)


def mat() -> bytes:
    from scipy.io import savemat

    stream = io.BytesIO()
    images = np.arange(640, dtype=np.uint8).reshape(8, 8, 1, 10) + np.uint8(1)
    savemat(stream, {"X": images, "y": np.arange(10)[:, None] % 2 + 1})
    return stream.getvalue()


def archive(kind: str) -> bytes:
    stream = io.BytesIO()
    names = [f"pets/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)]
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            for name in names:
                file.writestr(name, picture())
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as packed:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(picture())
                packed.addfile(info, io.BytesIO(picture()))
    return stream.getvalue()


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    stored = [{"bytes": picture(), "path": "a"}] * 6
    pq.write_table(pa.table({"image": stored, "label": [0, 1] * 3}), stream)
    return stream.getvalue()


def encoded(kind: str) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).convert("RGB").save(stream, format=kind)
    return stream.getvalue()


def colour_photos(path: Path) -> object:
    """Reads two pictures of which one is spoilt."""
    root = path.parent / "photos" / "cat"
    root.mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        (root / name).write_bytes(encoded("PNG"))
    (root / "c.png").write_bytes(path.read_bytes())
    return load_folder(root.parent, PictureOptions(8, 3, "skip"))


CIFAR = np.arange(12 * 3072, dtype=np.uint8).reshape(12, 32, 32, 3), np.arange(12) % 2
_BATCHES = ("data_batch_1", "data_batch_2", "test_batch")
_PHOTOS = ("photos", "cat", "a.png", "b.png", "c.png")
KINDS = (
    Kind(
        "one.npy",
        lambda: npy(np.arange(640, dtype=np.uint8).reshape(10, 8, 8)),
        lambda p: load_arrays(p, ArrayOptions(0.4)),
    ),
    Kind(
        "one-images-idx3-ubyte",
        lambda: idx(np.arange(640, dtype=np.uint8).reshape(10, 8, 8)),
        lambda p: load_idx(p, ArrayOptions(0.4)),
    ),
    Kind(
        "labels.gz",
        lambda: gzip.compress(idx(np.arange(10) % 2)),
        idx_set,
        besides=("mnist", "train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"),
    ),
    Kind(
        "batch",
        lambda: cifar10_python(*CIFAR)["cifar-10-batches-py/data_batch_2"],
        cifar,
        besides=("cifar", "cifar-10-batches-py", "batches.meta", *_BATCHES),
    ),
    Kind(
        "batch.bin",
        lambda: cifar10_binary(*CIFAR)["cifar-10-batches-bin/data_batch_2.bin"],
        cifar_binary,
        besides=(
            "cifar",
            "cifar-10-batches-bin",
            "batches.meta.txt",
            "readme.html",
            *(f"{name}.bin" for name in _BATCHES),
        ),
    ),
    Kind("svhn.mat", mat, lambda p: load_arrays(p, ArrayOptions(0.4))),
    Kind(
        "pets.zip", lambda: archive("zip"), lambda p: load_folder(p, PictureOptions(8))
    ),
    Kind(
        "pets.tar.gz",
        lambda: archive("tar"),
        lambda p: load_folder(p, PictureOptions(8)),
    ),
    Kind(
        "pets.parquet",
        parquet,
        lambda p: load_parquet(p, PictureOptions(8), 0.4),
        needs="pyarrow",
    ),
    *(
        Kind(
            f"c.{kind.lower()}",
            functools.partial(encoded, kind),
            colour_photos,
            besides=_PHOTOS,
        )
        for kind in ("WEBP", "TIFF", "JPEG", "PPM", "BMP", "GIF")
    ),
    Kind(
        "i.npz",
        lambda: npz(
            x_train=np.arange(640, dtype=np.uint8).reshape(10, 8, 8) % 255,
            y_train=np.arange(10) % 2,
        ),
        lambda p: load_arrays(p, ArrayOptions(0.4)),
    ),
    Kind(
        "c.png",
        picture,
        photos,
        besides=("photos", "cat", "a.png", "b.png", "c.png"),
    ),
    Kind(
        "l.npy",
        lambda: npy(np.ones((5, 4, 4, 2), np.float32)),
        shards,
        besides=("latents", "latents-00000.npy", "latents-00001.npy"),
    ),
)
