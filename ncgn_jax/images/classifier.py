"""What a small classifier, trained on the images themselves, sees in images.

Example:
  >>> import numpy as np
  >>> images = np.random.default_rng(0).uniform(-1, 1, (30, 4, 4, 1)).astype(np.float32)
  >>> params = train_classifier(images, np.arange(30) % 2, 2, 2, 16, seed=0)
  >>> extract_features(params, images).probabilities.shape
  (30, 2)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.images.sets import Rows
from ncgn_jax.models.image_classifier import ImageClassifier, shift_at_random

Params = Any

ROTATIONS = 4
_MAX_RATE, _WEIGHT_DECAY = 3e-3, 1e-3
# Larger images are shifted at random while the classifier learns.
_NEVER_SHIFTED, _SHIFT = 8, 2


class Views(NamedTuple):
    """What a classifier sees in images."""

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
    """Trains an `ImageClassifier`, the same for equal arguments.

    AdamW on one device, rate rising to 3e-3 and falling to 0 along a cosine. Images of
    more than 8 pixels a side are shifted by up to 2 pixels at random.

    Args:
      train_images: [image, height, width, channel], in the units of training.
      train_labels: Classes, int [image].
      num_classes: Number of classes.
      num_steps: Training steps, >= 1.
      batch_size: Images a step, >= 1; may exceed the images there are.
      seed: Seed of initial parameters, order and shifts.

    Returns:
      The parameters.
    """
    rates = optax.cosine_onecycle_schedule(num_steps, _MAX_RATE, pct_start=0.2)
    shift = _SHIFT if min(train_images.shape[1:3]) > _NEVER_SHIFTED else 0
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


def extract_features(params: Params, images: Rows, batch: int = 256) -> Views:
    """Shows images to a classifier.

    Args:
      params: What `train_classifier` returned.
      images: [image, height, width, channel], in the units of training.
      batch: Images at once.

    Returns:
      Features and classes' probabilities, float64.
    """
    num_images = len(images)
    found = []
    for start in range(0, num_images, batch):
        # Padded by repeating, so that every batch has the same shape.
        rows = np.minimum(np.arange(start, start + batch), num_images - 1)
        found.append(
            jax.device_get(_view(params, np.asarray(images[rows], np.float32)))
        )
    views = jax.tree.map(lambda *parts: np.concatenate(parts)[:num_images], *found)
    return jax.tree.map(lambda leaf: leaf.astype(np.float64), views)


class TurnedImages:
    """Images that are turned by multiples of 90 degrees where they are read.

    Attributes:
      shape: [image, size, size, channel].
      turns: Quarter turns of each image, 0 to 3, [image].
    """

    def __init__(self, images: Rows, seed: int):
        """Draws the turns.

        Args:
          images: [image, height, width, channel]; of an oblong image, the square in
            its middle is turned.
          seed: Seed of the turns.
        """
        self._images, size = images, min(images.shape[1:3])
        self.shape = (len(images), size, size, images.shape[3])
        self.turns = np.random.default_rng(seed).integers(ROTATIONS, size=len(images))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns turned images at an array of indices."""
        images, size = self._images[rows], self.shape[1]
        top, left = ((side - size) // 2 for side in images.shape[1:3])
        turned = images[:, top : top + size, left : left + size].copy()
        for turn in range(1, ROTATIONS):
            chosen = self.turns[rows] == turn
            turned[chosen] = np.rot90(turned[chosen], turn, axes=(1, 2))
        return turned


def _network(params: Params) -> ImageClassifier:
    return ImageClassifier(num_classes=params["params"]["head"]["bias"].shape[0])


def _optimizer(rate: float | jax.Array) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=_WEIGHT_DECAY)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _init(rng: jax.Array, num_classes: int, shape: tuple[int, ...]) -> Any:
    params = ImageClassifier(num_classes).init(rng, jnp.zeros((1, *shape)))
    return params, _optimizer(0.0).init(params)


@functools.partial(jax.jit, static_argnums=6)
def _train_step(params, opt_state, images, labels, rng, rate, shift):
    images = shift_at_random(images, shift, rng)

    def loss(params):
        logits, _ = _network(params).apply(params, images)
        one_each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(one_each)

    tx = _optimizer(rate)
    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


@jax.jit
def _view(params: Params, images: jax.Array) -> Views:
    logits, features = _network(params).apply(params, images)
    return Views(features, jax.nn.softmax(logits))
