"""Layers that several networks share: normalisation, dense stacks, embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp

NORMS = ("batch", "layer", "rms", "none")


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
        if self.kind in ("layer", "rms"):
            width = values.shape[-1]
            scale = self.param("scale", nn.initializers.ones_init(), (width,))
            bias = self.param("bias", nn.initializers.zeros_init(), (width,))
            norm = layer_norm if self.kind == "layer" else rms_norm
            return norm(values, scale, bias)
        if self.kind != "batch":
            raise ValueError(f"norm: found {self.kind!r}; allowed: {', '.join(NORMS)}")
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
        )
        return norm(values, mask=None if mask is None else mask[:, None])


@jax.custom_vjp
def rms_norm(values: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Divides each row by its root mean square, then scales and shifts it.

    y = x / sqrt(mean(x^2) + 1e-5) * scale + bias (Zhang and Sennrich 2019). The
    gradient is written out because the automatic one keeps and reduces twice as many
    arrays, which on a CPU costs as much as the matrix products between them.

    Args:
      values: [..., feature].
      scale: [feature].
      bias: [feature].

    Returns:
      Same shape as values.
    """
    return _rms_norm_forward(values, scale, bias)[0]


def _rms_norm_forward(values, scale, bias):
    inverse = jax.lax.rsqrt(jnp.mean(values**2, axis=-1, keepdims=True) + 1e-5)
    unit = values * inverse
    row = (1,) * (values.ndim - 1) + (-1,)
    return unit * scale.reshape(row) + bias.reshape(row), (unit, inverse, scale)


def _rms_norm_backward(saved, cotangent):
    unit, inverse, scale = saved
    rows = tuple(range(cotangent.ndim - 1))
    scaled = cotangent * scale.reshape((1,) * len(rows) + (-1,))
    along_unit = jnp.mean(scaled * unit, axis=-1, keepdims=True)
    return (
        (scaled - unit * along_unit) * inverse,
        jnp.sum(cotangent * unit, axis=rows),
        jnp.sum(cotangent, axis=rows),
    )


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def layer_norm(values: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Subtracts each row's mean, then `rms_norm` (Ba et al. 2016)."""
    return rms_norm(values - jnp.mean(values, axis=-1, keepdims=True), scale, bias)


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
