"""Averages over clusters and copies to their members, for points in cluster order.

A small batch is multiplied by a dense membership matrix, which is far cheaper than a
scatter on every backend. The matrix has N * M entries, so large graphs use another way.
Balanced clusters lie at known places and are gathered, with gradients that are gathers
too; other clusters are summed over sorted segments. Time and memory are linear in N.
"""

from functools import lru_cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.clustering import balanced_runs
from ncgn_jax.graphs.precision import einsum, narrowed, widen

# Entries of one graph's membership matrix up to which it is faster (measured on CPU).
_MEMBERSHIP_UP_TO = 2**20


def cluster_means(
    values: jax.Array, assignment: jax.Array, size: int, *, balanced: bool
) -> jax.Array:
    """Averages over clusters; empty ones give zero.

    Args:
      values: Of points in cluster order, [graph, node, f].
      assignment: Cluster of each point, rising, then -1 for padding, int32
        [graph, node].
      size: Clusters per graph, M.
      balanced: Whether the clusters are the `balanced_runs`.

    Returns:
      [graph, supernode, f]; float32 for values of bfloat16.
    """
    chex.assert_rank([values, assignment], [3, 2])
    chex.assert_equal_shape_prefix([values, assignment], 2)
    num_nodes = values.shape[1]
    if num_nodes * size <= _MEMBERSHIP_UP_TO:
        member = jax.nn.one_hot(assignment, size, dtype=values.dtype)
        counts = jnp.maximum(widen(member).sum(axis=1), 1)[..., None]
        sums = einsum("gnm,gnf->gmf", member, values, constant_left=True)
        return sums / counts
    values = widen(values)
    if balanced:
        lengths = np.diff(balanced_runs(num_nodes, size)).astype(values.dtype)
        return _sum_runs(values, size) / lengths[None, :, None]
    # Padding goes to one extra cluster, which is cut off.
    segments = jnp.where(assignment < 0, size, assignment)
    add = jax.vmap(
        partial(jax.ops.segment_sum, num_segments=size + 1, indices_are_sorted=True)
    )
    counts = jnp.maximum(add(jnp.ones_like(values[..., :1]), segments), 1)
    return (add(values, segments) / counts)[:, :-1]


def copy_to_members(
    values: jax.Array, assignment: jax.Array, *, balanced: bool
) -> jax.Array:
    """Copies values of clusters to their points; padding gets zero.

    Args:
      values: [graph, supernode, f].
      assignment: As in `cluster_means`.
      balanced: As in `cluster_means`.

    Returns:
      [graph, node, f].
    """
    chex.assert_rank([values, assignment], [3, 2])
    chex.assert_equal_shape_prefix([values, assignment], 1)
    num_nodes, size = assignment.shape[1], values.shape[1]
    if num_nodes * size <= _MEMBERSHIP_UP_TO:
        member = jax.nn.one_hot(assignment, size).astype(values.dtype)
        copies = einsum("gnm,gmf->gnf", member, values, constant_left=True)
        return narrowed(copies, values.dtype)
    if balanced:
        return _copy_runs(values, num_nodes)
    places = jnp.maximum(assignment, 0)[..., None]
    # The gradient of a copy is a sum.
    copies = jnp.take_along_axis(widen(values), places, axis=1)
    return narrowed(jnp.where(assignment[..., None] >= 0, copies, 0), values.dtype)


@lru_cache(maxsize=64)
def _places_of_runs(num_nodes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns places [run, longest run], and whether each belongs to the run."""
    bounds = balanced_runs(num_nodes, size)
    longest = int(np.diff(bounds).max())
    places = bounds[:-1, None] + np.arange(longest)
    inside = places < bounds[1:, None]
    return np.minimum(places, num_nodes - 1).astype(np.int32), inside


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_runs(values: jax.Array, size: int) -> jax.Array:
    """Sums over runs: [graph, node, f] -> [graph, run, f]."""
    places, inside = _places_of_runs(values.shape[1], size)
    rows = jnp.take(values, places, axis=1)  # [graph, run, member, f]
    rows = jnp.where(inside[None, :, :, None], rows, 0)
    return narrowed(jnp.sum(widen(rows), axis=2), values.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _copy_runs(values: jax.Array, num_nodes: int) -> jax.Array:
    """Repeats values along runs: [graph, run, f] -> [graph, node, f]."""
    lengths = np.diff(balanced_runs(num_nodes, values.shape[1]))
    owners = np.repeat(np.arange(values.shape[1], dtype=np.int32), lengths)
    return jnp.take(values, owners, axis=1)


# Each is the other's transpose. The VJPs are written by hand because autodiff scatters.
_sum_runs.defvjp(
    lambda values, size: (_sum_runs(values, size), values.shape[1]),
    lambda size, num_nodes, cotangent: (_copy_runs(cotangent, num_nodes),),
)
_copy_runs.defvjp(
    lambda values, num_nodes: (_copy_runs(values, num_nodes), values.shape[1]),
    lambda num_nodes, size, cotangent: (_sum_runs(cotangent, size),),
)
