"""Defines layers that several networks share: norms, dense layers, activations."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

from ncgn_jax.graphs.precision import (
    is_narrow,
    matmul,
    narrowed,
    wide_dot_general,
    widen,
)

NORMS = ("batch", "layer", "rms", "none")

_BATCH_EPSILON = 1e-5


def dense(width: int, name: str, *, use_bias: bool = True) -> nn.Dense:
    """Returns a `flax.linen.Dense` whose product is as narrow as its input.

    For bfloat16 values it computes a bfloat16 product that is summed, and stays, in
    float32. The kernel and its gradient are float32.

    Args:
      width: Features of the result.
      name: Name of the module.
      use_bias: Whether a bias is added.
    """
    return nn.Dense(
        width,
        use_bias=use_bias,
        promote_dtype=_promote_unless_narrow,
        dot_general=wide_dot_general,
        name=name,
    )


class PairDense(nn.Module):
    """A dense layer of two concatenated arrays, [x, y] W + b, that never joins them.

    Parameters are those of `flax.linen.Dense` on the joined array. Joining would write
    and read all values once more, forward and backward.

    Attributes:
      width: Features of the result.
    """

    width: int

    @nn.compact
    def __call__(self, left: jax.Array, right: jax.Array) -> jax.Array:
        """Maps [row, f] and [row, g] to [row, width]."""
        size = left.shape[-1]
        shape = size + right.shape[-1], self.width
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        sums = matmul(left, kernel[:size]) + matmul(right, kernel[size:])
        return sums + bias[None]


def _promote_unless_narrow(
    *args: jax.Array | None, dtype: DTypeLike | None = None, inexact: bool = True
) -> list[jax.Array | None]:
    """Promotes inputs and parameters to one type, unless the inputs are narrow."""
    inputs = args[0]
    if inputs is not None and is_narrow(inputs.dtype):
        return list(args)
    return promote_dtype(*args, dtype=dtype, inexact=inexact)


class Norm(nn.Module):
    """A norm over the batch or the channels, or none.

    Statistics and result are float32 for values of bfloat16.

    Attributes:
      kind: `batch` (see `BatchNorm`), `layer`, `rms` or `none`.
      axis_name: Device axis over which batch statistics are averaged, if any.
    """

    kind: str = "layer"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, values: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises [node, feature]; only rows in `mask` [node] enter statistics."""
        values = widen(values)
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
        return BatchNorm(self.axis_name)(values, train=train, mask=mask)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) with momentum 0.9 and eps 1e-5.

    Parameters and statistics are those of `flax.linen.BatchNorm`.

    Attributes:
      axis_name: Device axis over which batch statistics are averaged, if any.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, values: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises [node, feature]; only rows in `mask` [node] enter statistics."""
        width = values.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,))
        scale = self.param("scale", nn.initializers.ones_init(), (width,))
        bias = self.param("bias", nn.initializers.zeros_init(), (width,))
        if not train:
            factor = scale * jax.lax.rsqrt(running_var.value + _BATCH_EPSILON)
            return _affine(values, factor, bias - running_mean.value * factor)
        if self.is_initializing():
            return batch_norm(values, scale, bias, mask)[0]
        out, mean, var = batch_norm(values, scale, bias, mask, self.axis_name)
        for running, new in ((running_mean, mean), (running_var, var)):
            running.value = 0.9 * running.value + 0.1 * new
        return out


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def batch_norm(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises every column to mean 0 and variance 1, then scales and shifts it.

    The gradient is written by hand for the reason given in `rms_norm`. The statistics
    are for running averages, and no gradient passes through them.

    Args:
      values: [row, feature].
      scale: [feature].
      bias: [feature].
      mask: Rows that count, bool [row]; None if all do. Others are normalised too.
      axis_name: Device axis over which statistics are shared, if any.

    Returns:
      Normalised values, and the mean and (biased) variance of each column.
    """
    return _batch_norm_forward(values, scale, bias, mask, axis_name)[0]


def _batch_norm_forward(values, scale, bias, mask, axis_name):
    kept = values if mask is None else values * mask[:, None]
    count = values.shape[0] if mask is None else jnp.sum(mask)
    sums = jnp.sum(kept, axis=0), jnp.sum(kept * values, axis=0)
    if axis_name is not None:
        # Devices may have unequal numbers of rows that count.
        sums, count = jax.lax.psum((sums, count), axis_name)
    mean, square = (total / count for total in sums)
    var = jnp.maximum(square - mean**2, 0.0)
    inverse = jax.lax.rsqrt(var + _BATCH_EPSILON)
    out = _affine(values, inverse * scale, bias - mean * inverse * scale)
    return (out, mean, var), (values, mask, count, mean, inverse, scale)


def _batch_norm_backward(axis_name, saved, cotangents):
    values, mask, count, mean, inverse, scale = saved
    cotangent, _, _ = cotangents
    total = jnp.sum(cotangent, axis=0)
    along_unit = (jnp.sum(cotangent * values, axis=0) - mean * total) * inverse
    shares = total, along_unit
    if axis_name is not None:
        shares = jax.lax.psum(shares, axis_name)
    shares = shares[0] / count, shares[1] / count
    # The gradient, factor * (cotangent - shares[0] - unit * shares[1]), is expanded by
    # columns, so that it needs one pass over two arrays.
    factor = inverse * scale
    slope = -factor * inverse * shares[1]
    through_statistics = _affine(values, slope, -factor * shares[0] - slope * mean)
    if mask is not None:
        through_statistics = through_statistics * mask[:, None]
    gradient = cotangent * factor[None] + through_statistics
    return gradient, along_unit, total, None


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _affine(values, factor, shift):
    return values * factor[None] + shift[None]


@jax.custom_vjp
def rms_norm(values: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Divides each row by its root mean square, then scales and shifts it.

    y = x / sqrt(mean(x^2) + 1e-5) * scale + bias (Zhang and Sennrich 2019). The
    gradient is written by hand because autodiff keeps and reduces twice as many arrays,
    which on a CPU costs as much as the matrix products between them.

    Args:
      values: [..., feature].
      scale: [feature].
      bias: [feature].

    Returns:
      Normalised values, shape of `values`.
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
    """Subtracts each row's mean, then applies `rms_norm` (Ba et al. 2016).

    Args:
      values: [..., feature].
      scale: [feature].
      bias: [feature].

    Returns:
      Normalised values, shape of `values`.
    """
    return rms_norm(values - jnp.mean(values, axis=-1, keepdims=True), scale, bias)


class MLP(nn.Module):
    """A stack of layers, each Dense -> norm -> ReLU.

    As published for NCGN, all layers of one MLP share one norm (weights and
    statistics) if `share_norm` is set; otherwise each has its own.

    Attributes:
      features: Width of each layer.
      norm: See `Norm`.
      share_norm: Whether all layers share one norm.
      plain_last: Whether the last layer has no norm and no ReLU.
      axis_name: See `Norm`.
      dtype: Type to which hidden values are rounded, if narrower than float32. Inputs
        of the first layer are not rounded, and a plain last layer stays float32.
    """

    features: tuple[int, ...]
    norm: str = "layer"
    share_norm: bool = True
    plain_last: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

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
            if 0 < i < num_normed:
                values = narrowed(values, self.dtype)
            values = dense(width, f"dense_{i}")(values)
            if i < num_normed:
                norm = norms[0] if self.share_norm else norms[i]
                values = jax.nn.relu(norm(values, train=train, mask=mask))
        return values


def safe_norm(vectors: jax.Array) -> jax.Array:
    """Returns Euclidean lengths [..., 1], with a zero (not NaN) gradient at zero.

    Args:
      vectors: Vectors [..., dim].
    """
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def exact_gelu(values: jax.Array) -> jax.Array:
    """Applies GELU with the error function, as published (no tanh approximation).

    Args:
      values: Values of any shape.
    """
    return jax.nn.gelu(values, approximate=False)
