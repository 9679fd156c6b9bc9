"""Trains a small classifier on the images themselves, whose features compare sets.

Example:
  >>> import numpy as np
  >>> images = np.random.default_rng(0).uniform(-1, 1, (30, 4, 4, 1)).astype(np.float32)
  >>> params = train_classifier(images, np.arange(30) % 2, 2, 2, 16, seed=0)
  >>> views = extract_features(params, images)
  >>> views.features.shape, views.probabilities.shape
  ((30, 64), (30, 2))
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.images.sets import Rows

Params = dict[str, Any]  # flax's variables

ROTATIONS = 4
MIN_SIZE = 4

_CHANNELS, _GROUPS, _FEATURES = (32, 64), 8, 64
_SMALL = 8
_MAX_RATE, _WEIGHT_DECAY = 3e-3, 1e-3
_SHIFT = 2  # pixels, of images that are not small
_BATCH = 256


class ImageClassifier(nn.Module):
    """Two convolutional blocks, features of the whole image, and a linear head.

    Features are normalised in groups within each image, so an image's output does not
    depend on the other images of a batch.

    Attributes:
      num_classes: Number of classes.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Classifies images of any one size.

        Args:
          images: [batch, height, width, channel], at least 4 x 4 pixels.

        Returns:
          Logits, [batch, class], and the features they are linear in,
          [batch, feature].

        Raises:
          ValueError: If images are too small.
        """
        if min(images.shape[1:3]) < MIN_SIZE:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels; allowed: at "
                f"least {MIN_SIZE} x {MIN_SIZE}"
            )
        hidden = images
        # In small images every pixel is read before the size is reduced.
        first_stride = 1 if min(images.shape[1:3]) <= _SMALL else 2
        for channels, stride in zip(_CHANNELS, (first_stride, 2), strict=True):
            hidden = nn.Conv(channels, (3, 3), stride, use_bias=False)(hidden)
            hidden = nn.relu(nn.GroupNorm(_GROUPS)(hidden))
        pooled = _quarter_means(hidden)
        features = nn.relu(nn.Dense(_FEATURES)(pooled))
        return nn.Dense(self.num_classes, name="head")(features), features


class Views(NamedTuple):
    """Features and class probabilities of images."""

    features: np.ndarray  # [image, feature]
    probabilities: np.ndarray  # [image, class]


def train_classifier(
    train_images: Rows,
    train_labels: np.ndarray,
    num_classes: int,
    num_steps: int,
    batch_size: int,
    seed: int,
) -> Params:
    """Trains an `ImageClassifier`; equal arguments give equal parameters.

    AdamW on one device. The rate rises to 3e-3 and falls to 0 along a cosine. Images of
    more than 8 pixels a side are shifted by up to 2 pixels at random.

    Args:
      train_images: [image, height, width, channel], in the units of training.
      train_labels: Classes, int [image].
      num_classes: Number of classes.
      num_steps: Training steps, >= 1.
      batch_size: Images per step, >= 1; may exceed the number of images.
      seed: Seed of initial parameters, order and shifts.

    Returns:
      The parameters.
    """
    rates = optax.cosine_onecycle_schedule(num_steps, _MAX_RATE, pct_start=0.2)
    shift = _SHIFT if min(train_images.shape[1:3]) > _SMALL else 0
    rng_init, rng_shift = jax.random.split(jax.random.key(seed))
    params, opt_state = _init(rng_init, num_classes, train_images.shape[1:])
    for step in range(num_steps):
        rows = batch_indices(len(train_images), batch_size, step, seed)
        images = np.asarray(train_images[rows], np.float32)
        labels = train_labels[rows].astype(np.int32)
        rng = jax.random.fold_in(rng_shift, step)
        params, opt_state = _train_step(
            params, opt_state, images, labels, rng, rates(step), shift
        )
    return params


def extract_features(params: Params, images: Rows) -> Views:
    """Applies a classifier to images.

    Args:
      params: Parameters from `train_classifier`.
      images: [image, height, width, channel], in the units of training.

    Returns:
      Features and class probabilities, float64.
    """
    num_images = len(images)
    found = []
    for start in range(0, num_images, _BATCH):
        # Padded by repeating the last image, so that all batches have one shape.
        rows = np.minimum(np.arange(start, start + _BATCH), num_images - 1)
        found.append(
            jax.device_get(_view(params, np.asarray(images[rows], np.float32)))
        )
    features, probabilities = (
        np.concatenate(parts)[:num_images].astype(np.float64)
        for parts in zip(*found, strict=True)
    )
    return Views(features, probabilities)


class TurnedImages:
    """Images that are turned by multiples of 90 degrees when they are read.

    Attributes:
      shape: [image, size, size, channel].
      dtype: Type of the pixels.
      turns: Quarter turns of each image, 0 to 3, [image].
    """

    def __init__(self, images: Rows, seed: int):
        """Draws the turns.

        Args:
          images: [image, height, width, channel]; the central square of an oblong
            image is turned.
          seed: Seed of the turns.
        """
        self._images, size = images, min(images.shape[1:3])
        self.shape: tuple[int, ...] = (len(images), size, size, images.shape[3])
        self.dtype = images.dtype
        self.turns = np.random.default_rng(seed).integers(ROTATIONS, size=len(images))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Returns the turned images at a slice or an array of indices."""
        images, size = self._images[rows], self.shape[1]
        top, left = ((side - size) // 2 for side in images.shape[1:3])
        turned = images[:, top : top + size, left : left + size].copy()
        for turn in range(1, ROTATIONS):
            chosen = self.turns[rows] == turn
            turned[chosen] = np.rot90(turned[chosen], turn, axes=(1, 2))
        return turned


def shift_at_random(images: jax.Array, shift: int, rng: jax.Array) -> jax.Array:
    """Moves each image by up to `shift` pixels along both axes, repeating its edges.

    Args:
      images: [batch, height, width, channel].
      shift: Largest shift in pixels, >= 0; static.
      rng: Random key.

    Returns:
      Images of the same shape.
    """
    around = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = jnp.pad(images, around, mode="edge")
    starts = jax.random.randint(rng, (len(images), 2), 0, 2 * shift + 1)

    def cut(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*start, 0), images.shape[1:])

    return jax.vmap(cut)(padded, starts)


def _quarter_means(hidden: jax.Array) -> jax.Array:
    """Averages over each quarter of the image, [batch, 4 * channel].

    The mean of the whole image would lose the place of a stroke.
    """
    height, width = (side // 2 for side in hidden.shape[1:3])
    halves = hidden[:, : max(height, 1)], hidden[:, height:]
    quarters = [
        part
        for half in halves
        for part in (half[:, :, : max(width, 1)], half[:, :, width:])
    ]
    return jnp.concatenate([jnp.mean(q, axis=(1, 2)) for q in quarters], axis=-1)


def _network(params: Params) -> ImageClassifier:
    return ImageClassifier(num_classes=params["params"]["head"]["bias"].shape[0])


def _optimizer(rate: float | jax.Array) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=_WEIGHT_DECAY)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _init(
    rng: jax.Array, num_classes: int, shape: tuple[int, ...]
) -> tuple[Params, optax.OptState]:
    params = dict(ImageClassifier(num_classes).init(rng, jnp.zeros((1, *shape))))
    return params, _optimizer(0.0).init(params)


@functools.partial(jax.jit, static_argnums=6)
def _train_step(
    params: Params,
    opt_state: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    rng: jax.Array,
    rate: jax.Array,
    shift: int,
) -> tuple[Params, optax.OptState]:
    images = shift_at_random(images, shift, rng)

    def loss(params: Params) -> jax.Array:
        logits, _ = _network(params).apply(params, images)
        one_each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(one_each)

    tx = _optimizer(rate)
    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


@jax.jit
def _view(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    outputs: Any = _network(params).apply(params, images)  # flax leaves it untyped
    logits, features = outputs
    return features, jax.nn.softmax(logits)
