"""Files of images and latents to spoil."""

import io
from pathlib import Path

import numpy as np

from ncgn_jax.images.array_parts import ArrayOptions
from ncgn_jax.images.arrays import load_arrays
from ncgn_jax.images.folders import load_folder
from ncgn_jax.images.latent_shards import load_latents
from ncgn_jax.images.picture_files import PictureOptions
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


KINDS = (
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
