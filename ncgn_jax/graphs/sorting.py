"""Sorts on the device by integers that carry their own places.

On a CPU XLA sorts one array of integers with the processor's own comparison. Where the
order is wanted too it sorts pairs through a function, some ten times as slowly. There
the place of each key stands in its lower bits, so that sorted keys hold the order, and
keys of more than 16 bits take a pass for each 16. Other devices sort pairs as fast, in
one pass.
"""

from functools import partial

import jax
import jax.numpy as jnp

_DIGIT = 16


def argsort_floats(values: jax.Array) -> jax.Array:
    """Returns the order that sorts numbers, ties in their own order.

    Args:
      values: Floats [..., node]; what is not a number comes last. Of float32, whose
        sorts are the fast ones, -0 comes before 0.

    Returns:
      Indices, int32 [..., node].
    """
    if values.dtype != jnp.float32:
        return _argsort(values)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    bits = jnp.where(jnp.isnan(values), jnp.uint32(0x7FFFFFFF), bits)
    # Bits of floats rise with the numbers, and fall where these are negative.
    top = jnp.uint32(1 << 31)
    return argsort_integers(jnp.where(bits < top, bits | top, ~bits), 32)


def argsort_integers(keys: jax.Array, num_bits: int) -> jax.Array:
    """Returns the order that sorts integers, ties in their own order.

    Args:
      keys: Integers of [0, 2^num_bits), [..., node].
      num_bits: Bits of the largest key, at most 32; fewer are faster.

    Returns:
      Indices, int32 [..., node].
    """
    return jax.lax.platform_dependent(
        keys.astype(jnp.uint32),
        cpu=partial(_argsort_by_digits, num_bits=num_bits),
        default=_argsort,
    )


def _argsort(values: jax.Array) -> jax.Array:
    return jnp.argsort(values, axis=-1, stable=True).astype(jnp.int32)


def _argsort_by_digits(keys: jax.Array, num_bits: int) -> jax.Array:
    order = _argsort_digit(keys, 0)
    for shift in range(_DIGIT, num_bits, _DIGIT):
        sorted_keys = jnp.take_along_axis(keys, order, axis=-1)
        step = _argsort_digit(sorted_keys, shift)
        order = jnp.take_along_axis(order, step, axis=-1)
    return order


def _argsort_digit(keys: jax.Array, shift: int) -> jax.Array:
    """Returns the stable order of the 16 bits of keys above `shift`."""
    digits = (keys >> shift) & jnp.uint32(2**_DIGIT - 1)
    num_nodes = keys.shape[-1]
    if num_nodes > 2**_DIGIT:
        return _argsort(digits)
    places = jnp.arange(num_nodes, dtype=jnp.uint32)
    packed = digits << _DIGIT | jnp.broadcast_to(places, digits.shape)
    packed = jax.lax.sort(packed, is_stable=False)
    return (packed & jnp.uint32(2**_DIGIT - 1)).astype(jnp.int32)


def invert(order: jax.Array) -> jax.Array:
    """Returns the inverse of a permutation, int32 [..., node].

    Args:
      order: A permutation of the nodes, int [..., node].
    """
    return argsort_integers(order, (order.shape[-1] - 1).bit_length())
