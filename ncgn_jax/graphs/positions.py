"""Refuses positions that squared distances cannot tell apart."""

import jax
import jax.numpy as jnp
import numpy as np

# Squares of differences, and sums of them, stay normal float32 numbers in between.
_LEAST_EXTENT, _MOST_EXTENT = 1e-15, 1e15


def check_positions(positions: jax.Array) -> None:
    """Checks type and scale of positions; the scale only where values are known.

    Integers overflow when they are squared, half precision has three digits, and very
    small or large numbers have squares that are 0 or infinite: neighbours would be
    found that are none. Within `jit` and `vmap` only the type is known.

    Args:
      positions: [..., dim].

    Raises:
      ValueError: If the positions are no float32 or float64, or their extent is not 0
        or within 1e-15 and 1e15.
    """
    kind = jnp.dtype(positions.dtype)
    if kind not in (jnp.float32, jnp.float64):
        raise ValueError(f"positions: found {kind.name}; allowed: float32 or float64")
    if isinstance(positions, jax.core.Tracer) or not positions.size:
        return
    known = np.asarray(positions)
    known = known[np.isfinite(known)].astype(np.float64)
    extent = float(np.ptp(known)) if known.size else 0.0
    if extent and not _LEAST_EXTENT <= extent <= _MOST_EXTENT:
        raise ValueError(
            f"positions: found an extent of {extent:.3g}; allowed: {_LEAST_EXTENT:g} "
            f"to {_MOST_EXTENT:g}; divide them by their standard deviation"
        )
