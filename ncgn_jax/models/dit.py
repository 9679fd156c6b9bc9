"""Defines diffusion transformers whose patches and window follow the noise.

In DiT (Peebles & Xie 2023, arXiv 2212.09748) patches of a noisy image are tokens, and
noise level and class modulate blocks of attention and MLP (adaLN-zero). Under Dynamic
Message Passing (arXiv 2507.09391, section "Images") the same blocks read large patches
that all see each other where noise is high, and small patches that see their
neighbourhood where it is low. All patch sizes share the blocks and the embedding, one
kernel that is resized (`models.patches`); each patch size has its own head.

Example:
  >>> import jax, jax.numpy as jnp
  >>> net = DiT(patches=(4, 2), out_channels=1, width=32, num_layers=1, num_heads=2)
  >>> x, level = jnp.zeros((3, 8, 8, 1)), jnp.zeros(3)
  >>> init, apply = (
  ...     jax.jit(f, static_argnames=("patch", "window")) for f in (net.init, net.apply)
  ... )
  >>> variables = init(jax.random.key(0), x, level, patch=4, window=2)
  >>> apply(variables, x, level, patch=2, window=3).shape
  (3, 8, 8, 1)
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ncgn_jax.graphs.windows import Grid
from ncgn_jax.models.layers import layer_norm
from ncgn_jax.models.neighborhood_attention import neighborhood_attention
from ncgn_jax.models.patches import (
    PatchEmbedding,
    patch_positions,
    rotary_angles,
    rotate,
    unpatchify,
)

# Width, layers and heads of the published models.
DIT_SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}

_NUM_FREQUENCIES = 128
_LEVEL_SCALE = 1000.0


class DiT(nn.Module):
    """A transformer on patches of several sizes.

    Attributes:
      patches: Allowed sides of patches, in pixels.
      out_channels: Channels of the prediction.
      width: Features of a token.
      num_layers: Blocks.
      num_heads: Attention heads; divides `width`.
      num_classes: Number of classes; label `num_classes` means "no class", and with
        0 the network takes no labels.
      mlp_ratio: Width of a block's MLP divided by `width`.
      base_patch: Side of the kernel from which all patch embeddings are resized.
      rotary: Whether attention depends on distances too, see `rotary_angles`.
      dtype: Type of the arithmetic in blocks; parameters and output stay float32.
    """

    patches: tuple[int, ...]
    out_channels: int
    width: int
    num_layers: int
    num_heads: int
    num_classes: int = 0
    mlp_ratio: int = 4
    base_patch: int = 8
    rotary: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        level: jax.Array,
        label: jax.Array | None = None,
        *,
        patch: int,
        window: int,
    ) -> jax.Array:
        """Predicts one image per noisy image.

        Args:
          images: Noisy images, [batch, height, width, channel].
          level: Signal levels, [batch], in [0, 1].
          label: Classes, int [batch]; None where there are no classes.
          patch: Side of the patches, one of `patches`; static.
          window: Side of the square of patches that a patch attends to; static.

        Returns:
          [batch, height, width, out_channels], float32; 0 at initialisation.

        Raises:
          ValueError: If `patch` is not in `patches`, or does not divide the image.
        """
        if patch not in self.patches:
            raise ValueError(f"patch: found {patch}; allowed: {self.patches}")
        height, width = images.shape[1:3]
        grid = height // patch, width // patch
        tokens = PatchEmbedding(self.width, self.base_patch, name="embedding")(
            images, patch
        )
        tokens = tokens + patch_positions(grid, patch, self.width)[None]
        condition = self._condition(level, label)
        tokens = tokens.astype(self.dtype)
        angles = None
        if self.rotary:
            angles = rotary_angles(grid, patch, self.width // self.num_heads)
        for i in range(self.num_layers):
            block = _Block(
                self.num_heads, self.mlp_ratio, self.dtype, name=f"block_{i}"
            )
            tokens = block(tokens, condition, grid, window, angles)
        outputs = {}
        # Initialisation creates the heads of all patch sizes.
        for size in self.patches if self.is_initializing() else (patch,):
            head = _Head(size**2 * self.out_channels, name=f"head_{size}")
            outputs[size] = head(tokens, condition)
        return unpatchify(outputs[patch], grid, patch)

    def _condition(self, level: jax.Array, label: jax.Array | None) -> jax.Array:
        """Returns the condition that modulates the blocks, [batch, width]."""
        exponents = jnp.arange(_NUM_FREQUENCIES) / _NUM_FREQUENCIES
        rates = _LEVEL_SCALE * jnp.exp(-math.log(1e4) * exponents)
        angles = level[:, None] * rates[None]
        embedded = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        init = nn.initializers.normal(0.02)
        dense_in = nn.Dense(self.width, kernel_init=init, name="level_in")
        dense_out = nn.Dense(self.width, kernel_init=init, name="level_out")
        condition = dense_out(nn.silu(dense_in(embedded)))
        if self.num_classes:
            if label is None:
                raise ValueError(f"label is needed, with {self.num_classes} classes")
            table = nn.Embed(
                self.num_classes + 1, self.width, embedding_init=init, name="label"
            )
            condition = condition + table(label)
        return nn.silu(condition)


class _Modulation(nn.Module):
    """Makes shifts, scales and gates from the condition, 0 at initialisation."""

    num_parts: int

    @nn.compact
    def __call__(self, condition: jax.Array) -> list[jax.Array]:
        """Maps [batch, width] to `num_parts` arrays [batch, 1, width]."""
        width = condition.shape[-1]
        zeros = nn.initializers.zeros_init()
        out = nn.Dense(self.num_parts * width, kernel_init=zeros, name="dense")(
            condition
        )
        return jnp.split(out[:, None, :], self.num_parts, axis=-1)


def _normalise(
    tokens: jax.Array, shift: jax.Array, scale: jax.Array, dtype: DTypeLike
) -> jax.Array:
    """Applies layer norm with the shift and scale of the condition."""
    width = tokens.shape[-1]
    values = tokens.astype(jnp.float32)
    values = layer_norm(values, jnp.ones(width), jnp.zeros(width))
    return (values * (1.0 + scale) + shift).astype(dtype)


class _Block(nn.Module):
    """Attention within a window, then an MLP, both gated by the condition."""

    num_heads: int
    mlp_ratio: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        condition: jax.Array,
        grid: Grid,
        window: int,
        angles: np.ndarray | None,
    ) -> jax.Array:
        """Maps tokens [batch, node, width] to the same shape."""
        width = tokens.shape[-1]
        xavier = nn.initializers.xavier_uniform()

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=xavier, name=name)

        parts = _Modulation(6, name="modulation")(condition)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        values = _normalise(tokens, shift_a, scale_a, self.dtype)
        heads = dense(3 * width, "qkv")(values)
        heads = heads.reshape((*heads.shape[:2], 3, self.num_heads, -1))
        query, key, value = (heads[:, :, i] for i in range(3))
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        seen = neighborhood_attention(query, key, value, grid, (window, window))
        seen = dense(width, "project")(seen.reshape(tokens.shape))
        tokens = tokens + (gate_a * seen).astype(tokens.dtype)
        values = _normalise(tokens, shift_m, scale_m, self.dtype)
        values = nn.gelu(dense(self.mlp_ratio * width, "mlp_in")(values))
        values = dense(width, "mlp_out")(values)
        return tokens + (gate_m * values).astype(tokens.dtype)


class _Head(nn.Module):
    """The last layer for one patch size, 0 at initialisation."""

    features: int

    @nn.compact
    def __call__(self, tokens: jax.Array, condition: jax.Array) -> jax.Array:
        """Maps tokens [batch, node, width] to [batch, node, features], float32."""
        shift, scale = _Modulation(2, name="modulation")(condition)
        values = _normalise(tokens, shift, scale, jnp.float32)
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.features, kernel_init=zeros, name="dense")(values)
