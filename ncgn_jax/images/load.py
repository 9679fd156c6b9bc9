"""Loads the images that a configuration names."""

import math
from pathlib import Path

from ml_collections import ConfigDict

from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import ArrayOptions
from ncgn_jax.images.arrays import is_array_file, load_arrays, load_digits
from ncgn_jax.images.cifar_files import load_cifar
from ncgn_jax.images.classifier import MIN_SIZE
from ncgn_jax.images.config import unread_fields
from ncgn_jax.images.facts import ImageFacts
from ncgn_jax.images.folders import load_folder
from ncgn_jax.images.idx_files import load_idx
from ncgn_jax.images.inception import check_weights
from ncgn_jax.images.latent_shards import load_latents
from ncgn_jax.images.parquet_files import load_parquet
from ncgn_jax.images.picture_files import PictureOptions
from ncgn_jax.images.recognition import require_source
from ncgn_jax.images.sets import ImageDataset
from ncgn_jax.tasks.settings import data_path

# NCGN_DATA names clouds or cells.
DATA_VARIABLE = "NCGN_IMAGES"


def load_dataset(config: ConfigDict) -> ImageDataset:
    """Loads the images of a configuration.

    Raises:
      DataError: If the images are missing or faulty.
    """
    data = config.data
    path = data_path(config, (DATA_VARIABLE,))
    if data.source == "digits":
        return load_digits()
    if data.source == "auto" and not path:
        _refuse_unread(
            config,
            "digits",
            f"no data.path or {DATA_VARIABLE}, so the digits are taken",
        )
        return load_digits()
    if not path:
        raise DataError(
            f"data.source={data.source!r} needs data: set data.path or {DATA_VARIABLE}"
        )
    source = data.source
    if source == "auto":
        source = _find_source(config, Path(path))
    split = {"test_fraction": data.test_fraction, "seed": data.split_seed}
    if source == "latents":
        return load_latents(
            path,
            channel_axis=data.channel_axis,
            latent_scale=data.latent_scale,
            **split,
        )
    if source in ("folder", "parquet"):
        options = PictureOptions(
            data.image_size, data.channels, data.bad_images, tuple(data.value_range)
        )
        if source == "folder":
            return load_folder(path, options, class_folder=data.class_folder, **split)
        keys = {"image_key": data.image_key, "label_key": data.label_key}
        return load_parquet(path, options, **keys, **split)
    taken = ArrayOptions(
        **split,
        pad_to=data.image_size or None,
        channel_axis=data.channel_axis,
        value_range=tuple(data.value_range),
    )
    if source == "idx":
        return load_idx(path, taken, data.transpose)
    if source == "cifar":
        return load_cifar(path, taken, data.label_key)
    return load_arrays(path, taken, data.image_key, data.label_key)


def _find_source(config: ConfigDict, path: Path) -> str:
    """Returns how the images at a path are stored.

    Raises:
      DataError: If that is not known, or fields are set that such data do not have.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    ending = "".join(path.suffixes).lower()
    # These have one reader, which says best what is wrong.
    source = "parquet" if ending.endswith(".parquet") else "arrays"
    if not path.is_file() or not (is_array_file(path) or source == "parquet"):
        source = require_source(path)
    _refuse_unread(config, source, str(path))
    return source


def _refuse_unread(config: ConfigDict, source: str, where: str) -> None:
    """Refuses fields of `data` that are set and do not matter for such images."""
    unread = unread_fields(config, source)
    if config.data.flip and source == "latents":
        unread.append("data.flip: allowed: False for latents")
    if unread:
        raise DataError(f"{where}: {'; '.join(unread)}")


def check_data(config: ConfigDict, dataset: ImageDataset) -> None:
    """Refuses data that cannot be trained on or measured against, before training.

    Raises:
      DataError: If images are too small or too few for tests, or if Inception's
        weights are not usable.
    """
    height, width, _ = dataset.image_shape
    if min(height, width) < MIN_SIZE:
        raise DataError(
            f"{dataset.name}: images of {height}x{width}; allowed: at least "
            f"{MIN_SIZE}x{MIN_SIZE}"
        )
    if len(dataset.test) < 4:
        total = len(dataset.train) + len(dataset.test)
        enough = math.ceil(400 / total) / 100
        raise DataError(
            f"{dataset.name}: {len(dataset.test)} test images; allowed: at least 4, "
            "see data.test_fraction",
            {"data.test_fraction": enough} if total >= 8 else None,
        )
    if config.evaluate.inception is not None and dataset.units.is_latent:
        raise DataError("evaluate.inception: allowed: none for latents, no pixels")
    if config.evaluate.inception is not None:
        check_weights(config.evaluate.inception)


def check_sampling(config: ConfigDict, facts: ImageFacts) -> None:
    """Refuses samples that a model cannot make.

    Raises:
      DataError: If fields name classes or channels that its images do not have.
    """
    sample, channels = config.sample, facts.image_shape[2]
    if sample.guidance and len(facts.class_names) < 2:
        raise DataError(
            f"sample.guidance={sample.guidance:g}, but the images have no classes "
            "to guide to; allowed: 0"
        )
    last = len(facts.class_names) - 1
    if max(sample.classes, default=0) > last:
        raise DataError(
            f"sample.classes={tuple(sample.classes)}; the images allow 0..{last}"
        )
    if sample.guidance_channels > channels:
        raise DataError(
            f"sample.guidance_channels={sample.guidance_channels}, but images have "
            f"{channels}; allowed: 0..{channels}, 0 for all"
        )
