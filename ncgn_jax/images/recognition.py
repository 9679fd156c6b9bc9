"""Tells by names and first bytes how images at a path are stored."""

from pathlib import Path

from ncgn_jax.data.archives import is_archive
from ncgn_jax.data.array_files import look_at_npz, open_npy
from ncgn_jax.data.file_trees import FileTree, open_tree
from ncgn_jax.faults import DataError
from ncgn_jax.images.array_names import looks_like_images
from ncgn_jax.images.arrays import is_array_file
from ncgn_jax.images.cifar_files import find_cifar
from ncgn_jax.images.class_files import is_class_file
from ncgn_jax.images.idx_files import is_idx_name
from ncgn_jax.images.latent_shards import is_shard_name
from ncgn_jax.images.parquet_files import has_pictures
from ncgn_jax.images.picture_files import is_other_picture, is_picture


def find_source(path: Path) -> str | None:
    """Returns the value of `data.source` that reads a path, None if none is likely.

    Args:
      path: An existing file or folder.
    """
    try:
        return require_source(path)
    except DataError:
        return None


def require_source(path: Path) -> str:
    """Returns the value of `data.source` that reads a path.

    Raises:
      DataError: If there is none, or a folder or archive is not to be read.
    """
    with open_tree(path) as tree:
        if path.is_file() and not is_archive(path):
            source = _source_of_file(path)
        else:
            source = _source_of_tree(path, tree)
        if source is None:
            raise DataError(
                f"{path}: nothing that looks like images; found {tree.describe()}; "
                "allowed: .npz, .npy, .mat, idx files, CIFAR's archives, folders or "
                "archives of pictures, .parquet; data.source with one of their names "
                "says what is wrong"
            )
    return source


def _source_of_file(path: Path) -> str | None:
    name = path.name.lower()
    if is_idx_name(name):
        return "idx"
    if name.endswith(".parquet"):
        return "parquet" if has_pictures(path) else None
    if not is_array_file(name):
        return None
    return "arrays" if _holds_images(path) else None


def _holds_images(path: Path) -> bool:
    name = path.name.lower()
    if name.endswith(".npz"):
        return any(map(looks_like_images, look_at_npz(path)))
    if name.endswith(".npy"):
        return looks_like_images(open_npy(path))
    with path.open("rb") as file:
        # Whole compressed files are not read for a look.
        return name.endswith(".npy.gz") or file.read(6) == b"MATLAB"


def _source_of_tree(path: Path, tree: FileTree) -> str | None:
    names = [file.name for file in tree.files]
    if find_cifar(names):
        return "cifar"
    if any(is_idx_name(file.below.name) for file in tree.files):
        return "idx"
    if any(is_shard_name(file.below.name) for file in tree.files):
        return "latents"
    # A picture beside data of another kind is a preview.
    pictures = [name for name in names if is_picture(name)]
    alike = [name for name in names if is_other_picture(name) or is_class_file(name)]
    if pictures and 2 * len(pictures + alike) > len(names):
        return "folder"
    if not path.is_dir():
        arrays = [file for file in tree.files if is_array_file(file.name)]
        return "arrays" if len(arrays) == len(names) and len(arrays) < 10 else None
    for file in tree.files:
        if file.below.suffix.lower() == ".parquet":
            return "parquet" if has_pictures(path / file.name) else None
    arrays = [file for file in tree.files if is_array_file(file.name)]
    # Thousands of files are clouds, one in each.
    if 0 < len(arrays) < 10 and any(_holds_images(path / f.name) for f in arrays):
        return "arrays"
    return None
