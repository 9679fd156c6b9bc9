"""Loads the images that a configuration names."""

import os

from ml_collections import ConfigDict

from ncgn_jax.faults import DataError
from ncgn_jax.images.arrays import load_arrays, load_digits
from ncgn_jax.images.classifier import MIN_SIZE
from ncgn_jax.images.folders import load_folder
from ncgn_jax.images.inception import check_weights
from ncgn_jax.images.latent_shards import load_latents
from ncgn_jax.images.sets import ImageDataset

# NCGN_DATA names clouds or cells.
DATA_VARIABLE = "NCGN_IMAGES"


def load_dataset(config: ConfigDict) -> ImageDataset:
    """Loads the images of a configuration.

    Raises:
      DataError: If the images are missing or faulty.
    """
    data = config.data
    if data.source == "digits":
        return load_digits()
    path = data.path or os.environ.get(DATA_VARIABLE)
    if not path:
        raise DataError(
            f"data.source={data.source!r} needs data: set data.path or {DATA_VARIABLE}"
        )
    if data.source == "arrays":
        return load_arrays(
            path,
            test_fraction=data.test_fraction,
            seed=data.split_seed,
            pad_to=data.image_size or None,
            channel_axis=data.channel_axis,
            value_range=data.value_range,
        )
    if data.source == "folder":
        return load_folder(
            path,
            data.image_size,
            channels=data.channels or "auto",
            test_fraction=data.test_fraction,
            seed=data.split_seed,
            bad_images=data.bad_images,
        )
    return load_latents(
        path,
        test_fraction=data.test_fraction,
        seed=data.split_seed,
        channel_axis=data.channel_axis,
        latent_scale=data.latent_scale,
    )


def check_fit(config: ConfigDict, dataset: ImageDataset) -> None:
    """Refuses data that do not fit the configuration, before training.

    Raises:
      DataError: If images are too small, if fields name classes, channels or test
        images that the data do not have, or if Inception's weights are not usable.
    """
    height, width, channels = dataset.image_shape
    if min(height, width) < MIN_SIZE:
        raise DataError(
            f"{dataset.name}: images of {height}x{width}; allowed: at least "
            f"{MIN_SIZE}x{MIN_SIZE}"
        )
    if len(dataset.test) < 4:
        raise DataError(
            f"{dataset.name}: {len(dataset.test)} test images; allowed: at least 4"
        )
    sample = config.sample
    if sample.guidance and len(dataset.class_names) < 2:
        raise DataError(
            f"sample.guidance={sample.guidance:g}, but {dataset.name} has no classes "
            "to guide to; allowed: 0"
        )
    last = len(dataset.class_names) - 1
    if max(sample.classes, default=0) > last:
        raise DataError(
            f"sample.classes={tuple(sample.classes)}; {dataset.name} allows 0..{last}"
        )
    if sample.guidance_channels > channels:
        raise DataError(
            f"sample.guidance_channels={sample.guidance_channels}, but images have "
            f"{channels}; allowed: 0..{channels}, 0 for all"
        )
    if config.evaluate.inception is not None:
        check_weights(config.evaluate.inception)
