"""Turns images into tokens of any patch size, with one set of weights for all sizes.

One base kernel is resized to every patch size (FlexiViT; Beyer et al. 2023), to the
kernel whose tokens are closest to those of the base kernel on the base patch.
Positions are those of the patch centres in pixels, so that a place has the same
embedding in every grid. Nodes of a grid and pixels of a patch are numbered row by row,
with channels last.

>>> images = jnp.ones((2, 32, 32, 4))
>>> embed = PatchEmbedding(features=96)
>>> tokens, _ = embed.init_with_output(jax.random.key(0), images, patch=4)
>>> (tokens + patch_positions((8, 8), patch=4, features=96)[None]).shape
(2, 64, 96)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.grids import grid_of
from ncgn_jax.graphs.windows import Grid

_KEYS_CUBIC = -0.5  # Keys' parameter of the cubic kernel
# Longest periods of rotary angles and of position features, over 2 pi, in pixels.
_LONGEST_TURN = 100.0
_LONGEST = 10_000.0


@functools.cache
def resize_matrix(base: int, patch: int) -> np.ndarray:
    """Returns the matrix that resizes square patches, B with resized = B pixels.

    The resize is bicubic with antialiasing and separable, the Kronecker product of the
    matrix of one axis with itself. It equals `jax.image.resize(..., "cubic",
    antialias=True)`.

    Args:
      base: Pixels per side before.
      patch: Pixels per side after.

    Returns:
      float64 [patch^2, base^2], read-only; pixels row by row.

    Raises:
      ValueError: If a size is not positive.
    """
    axis = _resize_axis(base, patch)
    return _constant(np.kron(axis, axis))


@functools.cache
def kernel_resize_matrix(base: int, patch: int) -> np.ndarray:
    """Returns the matrix P that resizes a kernel, w_patch = P w_base.

    P = pinv(B^T), so that w_patch is argmin_v E (<x, w_base> - <B x, v>)^2 over
    x ~ N(0, I) (Beyer et al. 2023, section 3.4), B being `resize_matrix`.

    Args:
      base: Pixels per side of the base kernel.
      patch: Pixels per side of the resized kernel.

    Returns:
      float64 [patch^2, base^2], read-only.

    Raises:
      ValueError: If a size is not positive.
    """
    axis = np.linalg.pinv(_resize_axis(base, patch).T)
    return _constant(np.kron(axis, axis))


class PatchEmbedding(nn.Module):
    """A map from square patches of any size to tokens, with one kernel.

    Attributes:
      features: Features per token.
      base_patch: Pixels per side of the learned kernel.
    """

    features: int
    base_patch: int = 8

    @nn.compact
    def __call__(self, images: jax.Array, patch: int) -> jax.Array:
        """Embeds patches; parameters do not depend on their size.

        Args:
          images: [batch, height, width, channel].
          patch: Pixels per side of a patch; static.

        Returns:
          Tokens, [batch, node, features].

        Raises:
          ValueError: If the patch does not divide the image.
        """
        pixels, channels = self.base_patch**2, images.shape[-1]
        # Xavier over all inputs of a token, then split into pixels and channels.
        kernel = self.param(
            "kernel",
            nn.initializers.xavier_uniform(),
            (pixels * channels, self.features),
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        resize = jnp.asarray(kernel_resize_matrix(self.base_patch, patch), kernel.dtype)
        kernel = resize @ kernel.reshape(pixels, channels * self.features)
        kernel = kernel.reshape(patch**2 * channels, self.features)
        tokens = patchify(images, patch) @ kernel.astype(images.dtype)
        return tokens + bias.astype(images.dtype).reshape(1, 1, -1)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cuts images into square patches, the inverse of `unpatchify`.

    Args:
      images: [batch, height, width, channel].
      patch: Pixels per side of a patch; static.

    Returns:
      [batch, node, patch * patch * channel].

    Raises:
      ValueError: If the patch does not divide the image.
    """
    batch, height, width, channels = images.shape
    rows, columns = grid_of((height, width), patch)
    cut = images.reshape(batch, rows, patch, columns, patch, channels)
    cut = cut.transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(batch, rows * columns, patch**2 * channels)


def unpatchify(tokens: jax.Array, grid: Grid, patch: int) -> jax.Array:
    """Joins patches into images, the inverse of `patchify`.

    Args:
      tokens: [batch, node, patch * patch * channel].
      grid: Patches along height and width; static.
      patch: Pixels per side of a patch; static.

    Returns:
      [batch, height, width, channel].

    Raises:
      ValueError: If the tokens do not fill the grid or are not whole patches.
    """
    batch, num_nodes, numbers = tokens.shape
    (rows, columns), channels = grid, numbers // patch**2
    if num_nodes != rows * columns or numbers % patch**2:
        raise ValueError(
            f"tokens: a grid {rows} x {columns} of patches {patch} x {patch} wanted, "
            f"found {num_nodes} tokens of {numbers} numbers"
        )
    tiled = tokens.reshape(batch, rows, columns, patch, patch, channels)
    tiled = tiled.transpose(0, 1, 3, 2, 4, 5)
    return tiled.reshape(batch, rows * patch, columns * patch, channels)


@functools.cache
def patch_positions(grid: Grid, patch: int, features: int) -> np.ndarray:
    """Returns sines and cosines of the centres of patches, in pixels.

    They are sin(y f_i), cos(y f_i), sin(x f_i), cos(x f_i), a quarter of the features
    each, with y, x = (index + 1/2) patch and f_i = 10000^(-i / quarter), as in
    transformers on images (Dosovitskiy et al. 2021; Peebles and Xie 2023), which
    measure in patches.

    Args:
      grid: Patches along height and width.
      patch: Pixels per side of a patch.
      features: Features per position, a multiple of four.

    Returns:
      float32 [node, features], read-only.

    Raises:
      ValueError: If `features` is no positive multiple of four.
    """
    if features < 4 or features % 4:
        raise ValueError(
            f"features must be a positive multiple of four, found {features}"
        )
    quarter = features // 4
    frequencies = _LONGEST ** (-np.arange(quarter) / quarter)
    index = np.indices(grid).reshape(2, -1)  # [axis, node]
    angles = ((index + 0.5) * patch)[..., None] * frequencies
    parts = [part for axis in angles for part in (np.sin(axis), np.cos(axis))]
    return _constant(np.concatenate(parts, axis=1).astype(np.float32))


@functools.cache
def rotary_angles(grid: Grid, patch: int, features: int) -> np.ndarray:
    """Returns the angles by which queries and keys turn with their patch's position.

    They are y f_i, then x f_i, with y and x as in `patch_positions` and
    f_i = 100^(-i / n), n a quarter of the features, so waves span 6 to 600 pixels.
    Products of turned queries and keys depend on offsets in pixels alone, for any
    patch size (RoPE, Su et al. 2021, arXiv 2104.09864, on two axes).

    Args:
      grid: Patches along height and width.
      patch: Pixels per side of a patch.
      features: Features per query, a multiple of four.

    Returns:
      float32 [node, features / 2], read-only.

    Raises:
      ValueError: If `features` is no positive multiple of four.
    """
    if features < 4 or features % 4:
        raise ValueError(
            f"features must be a positive multiple of four, found {features}"
        )
    frequencies = _LONGEST_TURN ** (-np.arange(features // 4) / (features // 4))
    index = np.indices(grid).reshape(2, -1)  # [axis, node]
    angles = ((index + 0.5) * patch)[..., None] * frequencies
    return _constant(np.concatenate(angles, axis=1).astype(np.float32))


def rotate(values: jax.Array, angles: np.ndarray) -> jax.Array:
    """Turns pairs of features, (i, i + half), by angles.

    Args:
      values: Queries or keys, [batch, node, head, feature].
      angles: [node, feature / 2].

    Returns:
      Turned values, shape and type of `values`; computed in float32.
    """
    cos, sin = np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]
    first, second = jnp.split(values.astype(jnp.float32), 2, axis=-1)
    turned = first * cos - second * sin, first * sin + second * cos
    return jnp.concatenate(turned, axis=-1).astype(values.dtype)


def _resize_axis(base: int, patch: int) -> np.ndarray:
    """Returns the matrix [patch, base] that resizes one axis.

    Sample i lies at (i + 1/2) base / patch - 1/2 and weights pixels by Keys' cubic
    kernel, stretched by base / patch if that is above one; rows sum to one.
    """
    if base < 1 or patch < 1:
        raise ValueError(f"base and patch must be positive, found {base} and {patch}")
    ratio = base / patch
    samples = (np.arange(patch) + 0.5) * ratio - 0.5
    distances = np.abs(samples[:, None] - np.arange(base)) / max(ratio, 1.0)
    weights = _cubic(distances)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(distances: np.ndarray) -> np.ndarray:
    """Returns Keys' kernel (1981) of nonnegative distances."""
    a, d = _KEYS_CUBIC, distances
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _constant(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
