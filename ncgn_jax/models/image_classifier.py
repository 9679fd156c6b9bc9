"""A small convolutional classifier, whose features measure sets of images.

Example:
  >>> import jax, jax.numpy as jnp
  >>> net, images = ImageClassifier(num_classes=10), jnp.zeros((2, 8, 8, 1))
  >>> logits, features = net.apply(net.init(jax.random.key(0), images), images)
  >>> logits.shape, features.shape
  ((2, 10), (2, 64))
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

MIN_SIZE = 4

_GROUPS = 8
_SMALL = 8


class ImageClassifier(nn.Module):
    """Two convolutional blocks, features of the whole image, and a linear head.

    An image's output does not depend on the other images of a batch: features are
    normalised in groups within each image.

    Attributes:
      num_classes: Number of classes.
      num_features: Features of an image.
      channels: Channels of the two blocks, multiples of 8.
    """

    num_classes: int
    num_features: int = 64
    channels: tuple[int, int] = (32, 64)

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
        # Of small images every pixel is read before they are made smaller.
        first_stride = 1 if min(images.shape[1:3]) <= _SMALL else 2
        for channels, stride in zip(self.channels, (first_stride, 2), strict=True):
            hidden = nn.Conv(channels, (3, 3), stride, use_bias=False)(hidden)
            hidden = nn.relu(nn.GroupNorm(_GROUPS)(hidden))
        pooled = _quarter_means(hidden)
        features = nn.relu(nn.Dense(self.num_features)(pooled))
        return nn.Dense(self.num_classes, name="head")(features), features


def shift_at_random(images: jax.Array, shift: int, rng: jax.Array) -> jax.Array:
    """Moves each image by up to `shift` pixels along both axes, edges repeated.

    Args:
      images: [batch, height, width, channel].
      shift: Most pixels, >= 0; static.
      rng: Key of the draws.

    Returns:
      Images of the same shape.
    """
    around = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = jnp.pad(images, around, mode="edge")
    starts = jax.random.randint(rng, (len(images), 2), 0, 2 * shift + 1)

    def cut(image, start):
        return jax.lax.dynamic_slice(image, (*start, 0), images.shape[1:])

    return jax.vmap(cut)(padded, starts)


def _quarter_means(hidden: jax.Array) -> jax.Array:
    """Averages over each quarter of the image, [batch, 4 * channel].

    The mean of the whole would forget where in an image a stroke is.
    """
    height, width = (side // 2 for side in hidden.shape[1:3])
    halves = hidden[:, : max(height, 1)], hidden[:, height:]
    quarters = [
        part
        for half in halves
        for part in (half[:, :, : max(width, 1)], half[:, :, width:])
    ]
    return jnp.concatenate([jnp.mean(q, axis=(1, 2)) for q in quarters], axis=-1)
