"""Writes images in the formats of well-known sets, by the published layouts."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, images, labels, num_train: int, packed=True) -> Path:
    """Writes the four files of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": slice(num_train), "t10k": slice(num_train, None)}
    for part, rows in parts.items():
        for name, array in (
            (f"{part}-images-idx3-ubyte", images[rows]),
            (f"{part}-labels-idx1-ubyte", labels[rows]),
        ):
            content = idx(array)
            file = folder / (name + ".gz" * packed)
            file.write_bytes(gzip.compress(content) if packed else content)
    return folder


def cifar_rows(images) -> np.ndarray:
    """Red, green and blue of each image, row by row, [image, 3072]."""
    return np.asarray(images).transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar10_binary(images, labels) -> dict[str, bytes]:
    """Two batches and a test batch of CIFAR-10's binary version."""
    rows = np.concatenate([np.uint8(labels)[:, None], cifar_rows(images)], axis=1)
    third = len(rows) // 3
    return {
        "cifar-10-batches-bin/data_batch_1.bin": rows[:third].tobytes(),
        "cifar-10-batches-bin/data_batch_2.bin": rows[third : 2 * third].tobytes(),
        "cifar-10-batches-bin/test_batch.bin": rows[2 * third :].tobytes(),
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\nautomobile\nbird\n\n",
        "cifar-10-batches-bin/readme.html": b"<html>",
    }


def cifar10_python(images, labels, protocol=2) -> dict[str, bytes]:
    """The same as pickles, with keys as Python 2 and `encoding="bytes"` give them."""
    rows, third = cifar_rows(images), len(images) // 3
    batches = {"data_batch_1": slice(third), "data_batch_2": slice(third, 2 * third)}
    batches["test_batch"] = slice(2 * third, None)
    files = {}
    for name, part in batches.items():
        stored = {
            b"batch_label": b"training batch",
            b"labels": [int(label) for label in labels[part]],
            b"data": np.ascontiguousarray(rows[part]),
            b"filenames": [b"a.png"] * len(rows[part]),
        }
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps(stored, protocol)
    meta = {b"label_names": [b"airplane", b"automobile", b"bird"], b"num_vis": 3072}
    files["cifar-10-batches-py/batches.meta"] = pickle.dumps(meta, protocol)
    return files


def write_tar(path: Path, files: dict[str, bytes], packed: bool = True) -> Path:
    with tarfile.open(path, "w:gz" if packed else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
