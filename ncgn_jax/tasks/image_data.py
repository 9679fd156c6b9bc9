"""Which images a configuration asks for."""

import os

from ml_collections import ConfigDict

from ncgn_jax.data.image_folders import load_folder
from ncgn_jax.data.image_sets import ImageDataset
from ncgn_jax.data.images import load_arrays, load_digits
from ncgn_jax.data.latent_shards import load_latents
from ncgn_jax.data.point_sets import DataError

# Not NCGN_DATA, which names clouds or cells.
DATA_VARIABLE = "NCGN_IMAGES"


def load_dataset(config: ConfigDict) -> ImageDataset:
    """Loads the images of a configuration.

    Raises:
      DataError: If what is asked for is not there or is faulty.
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
