"""Computes with bfloat16 between sums and float32 within them.

bfloat16 keeps 8 significant bits, so a sum of ones stops growing at 256. Values that
are only multiplied or copied may be narrow, but every sum of them (a matrix product, a
mean over a cluster, the gradient of a copy) is at least float32. A product with a
narrow operand is narrow; any other product is computed as if this module did not exist.

Example:
  >>> import jax.numpy as jnp
  >>> ones = jnp.ones((1, 1000), jnp.bfloat16)
  >>> out = matmul(ones, ones.T)
  >>> out.dtype.name, float(out[0, 0])
  ('float32', 1000.0)
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def is_narrow(dtype: DTypeLike) -> bool:
    """Returns whether a floating type has fewer bits than float32."""
    return jnp.finfo(dtype).bits < 32


def widen(values: jax.Array) -> jax.Array:
    """Returns narrow values as float32 and any others as they are."""
    return values.astype(jnp.float32) if is_narrow(values.dtype) else values


def narrowed(values: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Rounds values to `dtype` if that is narrow, and returns them unchanged if not."""
    return values.astype(dtype) if is_narrow(dtype) else values


def take_rows(values: jax.Array, places: jax.Array) -> jax.Array:
    """Returns values[places], with a gradient summed in float32."""
    return narrowed(widen(values)[places], values.dtype)


def matmul(
    left: jax.Array, right: jax.Array, *, constant_left: bool = False
) -> jax.Array:
    """Returns left @ right of two matrices or two equal stacks; see `einsum`.

    Args:
      left: [row, inner] or [batch, row, inner].
      right: [inner, column] or [batch, inner, column].
      constant_left: As in `einsum`.
    """
    if not (is_narrow(left.dtype) or is_narrow(right.dtype)):
        return left @ right
    axes = "ij,jk->ik" if left.ndim == 2 else "bij,bjk->bik"
    return einsum(axes, left, right, constant_left=constant_left)


def einsum(
    axes: str, left: jax.Array, right: jax.Array, *, constant_left: bool = False
) -> jax.Array:
    """Returns a product of two arrays, summed in float32 if an operand is narrow.

    In that case both operands are rounded to the narrow type, and so is the cotangent.
    Gradients are summed in float32 too and have the type of their operand, so that of
    a float32 parameter is never rounded.

    Args:
      axes: As in `jnp.einsum`. Every letter occurs in at least two of the three
        arrays, because a gradient is a product of the other two arrays.
      left: First operand.
      right: Second operand.
      constant_left: Whether `left` needs no gradient, if an operand is narrow.
    """
    narrow = [x.dtype for x in (left, right) if is_narrow(x.dtype)]
    if not narrow:
        return jnp.einsum(axes, left, right)
    types = (left.dtype, right.dtype)
    return _narrow_einsum(axes, narrow[0], types, constant_left, left, right)


def wide_dot_general(
    left: jax.Array,
    right: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Replaces `lax.dot_general` in `flax.linen.Dense`, [..., f] times [f, g].

    Args:
      left: [..., f].
      right: [f, g].
      dimension_numbers: As in `lax.dot_general`; unused if `left` is narrow.
      precision: As in `lax.dot_general`; unused if `left` is narrow.
    """
    if not is_narrow(left.dtype):
        return jax.lax.dot_general(left, right, dimension_numbers, precision)
    rows = matmul(left.reshape(-1, left.shape[-1]), right)
    return rows.reshape(*left.shape[:-1], right.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _narrow_einsum(axes, dtype, types, constant_left, left, right):
    del types, constant_left
    return _sum_wide(axes, left.astype(dtype), right.astype(dtype))


def _narrow_einsum_forward(axes, dtype, types, constant_left, left, right):
    del types
    left, right = left.astype(dtype), right.astype(dtype)
    saved = left, None if constant_left else right
    return _sum_wide(axes, left, right), saved


def _narrow_einsum_backward(axes, dtype, types, constant_left, saved, cotangent):
    del constant_left
    left, right = saved
    operands, out = axes.split("->")
    first, second = operands.split(",")
    cotangent = cotangent.astype(dtype)
    by_right = _sum_wide(f"{first},{out}->{second}", left, cotangent)
    by_left = None
    if right is not None:
        by_left = _sum_wide(f"{out},{second}->{first}", cotangent, right)
        by_left = by_left.astype(types[0])
    return by_left, by_right.astype(types[1])


_narrow_einsum.defvjp(_narrow_einsum_forward, _narrow_einsum_backward)


def _sum_wide(axes, left, right):
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)
