"""Measures generated images without a network: by pixels, patches and copies.

Images are [image, height, width, channel] in the units of training; pixels are in
[-1, 1].

Example:
  >>> import numpy as np
  >>> train = np.random.default_rng(0).uniform(-1, 1, size=(20, 4, 4, 1))
  >>> copies = nearest_training_distance(train[[7, 3]], train)
  >>> copies.distance.tolist(), copies.row.tolist()
  ([0.0, 0.0], [7, 3])
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import correlate1d

from ncgn_jax.images.sets import Rows
from ncgn_jax.metrics.sliced import sliced_wasserstein

PATCH_SIZE = 7
# Images of each set held in float64 at once.
_BLOCK = 1024
_BINOMIAL = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
# Percentile of the distances of real images below which an image is too near.
_NEAR_PERCENTILE = 1.0


class NearestImages(NamedTuple):
    """The training image nearest to each image."""

    distance: NDArray[np.float64]  # [image]
    row: NDArray[np.int64]  # of the training images, [image]


class Memorisation(NamedTuple):
    """Nearness of a set to training images, compared with that of test images.

    Attributes:
      ratio: Median distance to the nearest training image over that of test images;
        1 for fresh data, 0 for copies.
      share_near: Share of images nearer to a training image than 99 % of the test
        images are; 0.01 for fresh data, 1 for copies.
    """

    ratio: float
    share_near: float


def sliced_wasserstein_pixels(
    a: ArrayLike, b: ArrayLike, num_projections: int = 128, seed: int = 0
) -> float:
    """Measures the sliced 2-Wasserstein distance between images as vectors of pixels.

    The unit is that of a pixel: a shift of every image by an image v gives the root
    mean square of v on average over directions (see `sliced_wasserstein`).

    Args:
      a: Images, [S, H, W, C].
      b: Images, [T, H, W, C].
      num_projections: Number of directions, >= 1.
      seed: Seed of the directions.

    Returns:
      The distance >= 0, not 0 between finite sets of one distribution.

    Raises:
      ValueError: If shapes do not fit or a value is not finite.
    """
    a, b = _check_images(a, b)
    flat_a, flat_b = (part.reshape(len(part), -1) for part in (a, b))
    return sliced_wasserstein(flat_a, flat_b, num_projections, seed)


def sliced_wasserstein_patches(
    a: ArrayLike,
    b: ArrayLike,
    patches_per_image: int = 8,
    num_projections: int = 128,
    seed: int = 0,
) -> float:
    """Measures the sliced 2-Wasserstein distance between patches at several scales.

    Patches of 7 x 7 pixels (smaller if the images are) are cut at random places of each
    level of the images' Laplacian pyramid, down to the last level that holds one.
    Within each set and level, each channel of all patches gets mean 0 and variance 1.
    The distances of the levels are averaged. The unit is the standard deviation of a
    channel, per number of a patch (see `sliced_wasserstein`). The measure ignores the
    brightness and contrast of a whole set, and the places of the patches. Follows
    Karras et al. 2018 (arXiv 1710.10196, appendix A), who take 128 patches per image,
    levels from 16 pixels, and transport of power 1 instead of 2.

    Args:
      a: Images, [S, H, W, C].
      b: Images, [T, H, W, C].
      patches_per_image: Patches drawn from each image at each level, >= 1.
      num_projections: Number of directions, >= 1.
      seed: Seed of places and directions.

    Returns:
      The distance >= 0, not 0 between finite sets of one distribution.

    Raises:
      ValueError: If shapes do not fit, a value is not finite, or no patch is drawn.
    """
    a, b = _check_images(a, b, dtype=None)
    if patches_per_image < 1:
        raise ValueError(f"patches_per_image={patches_per_image}; allowed: >= 1")
    size = min(PATCH_SIZE, *a.shape[1:3])
    sets = [_pyramid_patches(part, size, patches_per_image, seed) for part in (a, b)]
    distances = [
        sliced_wasserstein(
            _normalise_channels(one), _normalise_channels(other), num_projections, seed
        )
        for one, other in zip(*sets, strict=True)
    ]
    return float(np.mean(distances))


def nearest_training_distance(
    generated: ArrayLike, train: Rows, rows: NDArray[np.int64] | None = None
) -> NearestImages:
    """Finds the training image nearest to each image, exactly.

    Distances are Euclidean between vectors of pixels, in units of the pixels and not
    divided by their number.

    Args:
      generated: Images, [S, H, W, C].
      train: Training images, [R, H, W, C], read in blocks.
      rows: Training images to compare with, [K]; None for all.

    Returns:
      Distances and rows of `train`. Ties up to rounding are broken arbitrarily.

    Raises:
      ValueError: If shapes do not fit or a value is not finite.
    """
    looked_at = np.arange(len(train)) if rows is None else np.asarray(rows)
    generated, some = _check_images(generated, train[looked_at[:1]], dtype=None)
    own = generated.reshape(len(generated), -1)
    # Differences from one image keep |x|^2 + |y|^2 - 2 x.y accurate.
    origin = some.reshape(-1).astype(np.float64)
    best = np.full(len(own), np.inf)
    index = np.zeros(len(own), np.int64)
    for first in range(0, len(looked_at), _BLOCK):
        block = _read_block(train, looked_at[first : first + _BLOCK]) - origin
        squares = np.square(block).sum(axis=1)
        for start in range(0, len(own), _BLOCK):
            part = slice(start, min(start + _BLOCK, len(own)))
            # Without |x|^2, which is the same for all training images.
            found = squares - 2 * (own[part] - origin) @ block.T
            nearest = found.argmin(axis=1)
            found = np.take_along_axis(found, nearest[:, None], axis=1)[:, 0]
            nearer = found < best[part]
            best[part] = np.where(nearer, found, best[part])
            nearest = looked_at[nearest + first]
            index[part] = np.where(nearer, nearest, index[part])
    distance = np.empty(len(own))
    for start in range(0, len(own), _BLOCK):
        part = slice(start, start + _BLOCK)
        gap = own[part].astype(np.float64) - _read_block(train, index[part])
        distance[part] = np.linalg.norm(gap, axis=1)
    return NearestImages(distance, index)


def memorisation(
    generated_distances: ArrayLike, test_distances: ArrayLike
) -> Memorisation:
    """Compares the distances of generated and of test images to training images.

    Both values have no unit. A ratio above 1 means that most images are unlike any real
    one, not that none was copied: read `share_near` too.

    Args:
      generated_distances: From generated images to the nearest training image, [S].
      test_distances: From test images to theirs, [T].

    Returns:
      Ratio and share; the ratio is NaN if test images are copies.

    Raises:
      ValueError: If a set is empty or a distance is negative or not finite.
    """
    sets = [np.asarray(d, np.float64) for d in (generated_distances, test_distances)]
    for distances in sets:
        if distances.ndim != 1 or not distances.size:
            raise ValueError(f"distances are {distances.shape}; allowed: [image]")
        if not (np.isfinite(distances).all() and np.all(distances >= 0)):
            raise ValueError("distances must be finite and >= 0")
    own, real = sets
    usual = float(np.median(real))
    ratio = float(np.median(own)) / usual if usual else float("nan")
    near = np.percentile(real, _NEAR_PERCENTILE)
    return Memorisation(ratio, float(np.mean(own < near)))


def class_accuracy(predicted: ArrayLike, requested: ArrayLike) -> float:
    """Returns the share in [0, 1] of images of the requested class.

    Args:
      predicted: Class of each image by a classifier, [image].
      requested: Requested class of each image, [image].

    Raises:
      ValueError: If shapes do not fit or there is no image.
    """
    predicted, requested = np.asarray(predicted), np.asarray(requested)
    if predicted.shape != requested.shape or predicted.ndim != 1 or not predicted.size:
        raise ValueError(
            f"classes are {predicted.shape} and {requested.shape}; allowed: [image], "
            "alike"
        )
    return float(np.mean(predicted == requested))


def _read_block(images: Rows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reads some images as vectors of pixels."""
    block = np.asarray(images[rows], np.float64)
    if not np.isfinite(block).all():
        raise ValueError("a pixel is not finite")
    return block.reshape(len(block), -1)


def _check_images(
    a: ArrayLike, b: ArrayLike, dtype: type | None = np.float64
) -> tuple[NDArray, NDArray]:
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    if a.ndim != 4 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            "sets must be [image, height, width, channel] of one size; "
            f"got {a.shape} and {b.shape}"
        )
    if not (a.size and b.size):
        raise ValueError(f"sets must not be empty; got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a pixel is not finite")
    return a, b


def _pyramid_patches(
    images: NDArray, size: int, num_each: int, seed: int
) -> list[NDArray[np.float64]]:
    """Draws patches of each level, [image * num_each, size, size, channel]."""
    # Places are fractions of the possible range, equal at all levels.
    places = np.random.default_rng(seed).random((len(images), num_each, 2))
    parts = []
    for start in range(0, len(images), _BLOCK):
        rows = slice(start, start + _BLOCK)
        levels = _laplacian_pyramid(images[rows].astype(np.float64), size)
        parts.append([_cut_patches(level, size, places[rows]) for level in levels])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def _laplacian_pyramid(images: NDArray, smallest: int) -> list[NDArray]:
    """Splits images into bands of detail, finest first, and the coarse remainder."""
    levels = []
    while min((side + 1) // 2 for side in images.shape[1:3]) >= smallest:
        coarse = _blur(images)[:, ::2, ::2]
        spread = np.zeros_like(images)
        spread[:, ::2, ::2] = 4 * coarse
        levels.append(images - _blur(spread))
        images = coarse
    return [*levels, images]


def _blur(images: NDArray) -> NDArray:
    for axis in (1, 2):
        images = correlate1d(images, _BINOMIAL, axis=axis, mode="mirror")
    return images


def _cut_patches(
    images: NDArray, size: int, places: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cuts a patch at each of the places in [0, 1)^2, [image, patch, 2]."""
    num_each = places.shape[1]
    image = np.repeat(np.arange(len(images)), num_each)
    room = np.asarray(images.shape[1:3]) - size + 1
    corners = (places * room).astype(int).reshape(-1, 2)
    rows, columns = (corners[:, axis, None] + np.arange(size) for axis in (0, 1))
    return images[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def _normalise_channels(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gives each channel mean 0 and variance 1, and flattens patches."""
    patches = patches - patches.mean(axis=(0, 1, 2))
    spread = patches.std(axis=(0, 1, 2))
    patches = patches / np.where(spread > 0, spread, 1.0)
    return patches.reshape(len(patches), -1)
