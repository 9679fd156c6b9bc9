"""Layers that several networks share: normalisation, dense stacks, embeddings."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

NORMS = ("batch", "layer", "none")


class Norm(nn.Module):
    """Normalises features over the batch, over the channels, or not at all.

    Attributes:
      kind: `batch` (running statistics, momentum 0.9, eps 1e-5), `layer` or `none`.
      axis_name: Device axis over which batch statistics are averaged, if any.
    """

    kind: str = "layer"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, values: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises [node, feature]; `mask` [node] keeps rows out of statistics."""
        if self.kind == "none":
            return values
        if self.kind == "layer":
            return nn.LayerNorm(epsilon=1e-5)(values)
        if self.kind != "batch":
            raise ValueError(f"norm: found {self.kind!r}; allowed: {', '.join(NORMS)}")
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
        )
        return norm(values, mask=None if mask is None else mask[:, None])


class MLP(nn.Module):
    """Dense -> norm -> ReLU per layer, the last one plain if asked.

    As published for NCGN, all layers of one MLP share one norm (weights and
    statistics) when `share_norm` is set; otherwise each has its own.

    Attributes:
      features: Width of each layer.
      norm: See `Norm`.
      share_norm: One norm for all layers.
      plain_last: Leaves norm and ReLU off the last layer.
      axis_name: See `Norm`.
    """

    features: tuple[int, ...]
    norm: str = "layer"
    share_norm: bool = True
    plain_last: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, values: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Maps [node, f] to [node, features[-1]]."""
        num_normed = len(self.features) - int(self.plain_last)
        norms = [
            Norm(self.norm, self.axis_name, name=f"norm_{i}")
            for i in range(min(num_normed, 1) if self.share_norm else num_normed)
        ]
        for i, width in enumerate(self.features):
            values = nn.Dense(width, name=f"dense_{i}")(values)
            if i < num_normed:
                norm = norms[0] if self.share_norm else norms[i]
                values = jax.nn.relu(norm(values, train=train, mask=mask))
        return values


def safe_norm(vectors: jax.Array) -> jax.Array:
    """Returns Euclidean lengths [..., 1], with a zero (not NaN) gradient at zero."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def exact_gelu(values: jax.Array) -> jax.Array:
    """GELU with the error function, as published (not the tanh approximation)."""
    return jax.nn.gelu(values, approximate=False)


Activation = Callable[[jax.Array], jax.Array]
