"""Pairs the points of a cloud with those of its noise, so that paths cross less.

A network that is equivariant to the order of points takes noise as a set. Training may
hence choose which noise belongs to which point: the set stays what it was, and sampling
needs no change. Near pairs make the velocity easier to learn and paths straighter, so
that a sampler needs fewer evaluations. Optimal transport is the best pairing and costs
N^3. Nested median splits of both sets come near to it for a few sorts.

Equivariant flow matching (arXiv 2306.15030) pairs by exact transport; that a part of
the pairs had better stay independent is due to arXiv 2502.12456.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from ncgn_jax.graphs.sorting import argsort_floats, argsort_integers, invert

PAIRINGS = ("none", "splits", "transport")
"""Names of pairings, the values of `process.pairing`."""
# Cost of joining parts of different group or size; squared distances are far below.
_FORBIDDEN = 1e6
# Bits of an integer that holds a part and a place.
_MOST_BITS = 32


@dataclasses.dataclass(frozen=True)
class Pairing:
    """How noise is paired with points while training.

    Attributes:
      name: `none` for independent noise; `splits` pairs the parts of nested median
        splits of both sets; `transport` joins the parts by the optimal transport of
        their means.
      leaf_size: Most points of a part; within parts pairs are independent.
      independent_share: Share of the points, chosen at random, that are paired
        independently of the rest, in [0, 1].
    """

    name: str = "none"
    leaf_size: int = 1
    independent_share: float = 0.0

    def __post_init__(self) -> None:
        """Raises a ValueError if a setting is out of range."""
        if self.name not in PAIRINGS:
            raise ValueError(
                f"pairing: found {self.name!r}; allowed: {', '.join(PAIRINGS)}"
            )
        if self.leaf_size < 1:
            raise ValueError(f"leaf_size: found {self.leaf_size}; allowed: at least 1")
        if not 0 <= self.independent_share <= 1:
            raise ValueError(
                f"independent_share: found {self.independent_share}; allowed: 0 to 1"
            )

    def describe(self) -> str:
        """Describes it in a few words."""
        if self.name == "none":
            return "independent noise"
        size = f"parts of at most {self.leaf_size}" if self.leaf_size > 1 else "points"
        words = f"{size} paired with noise by {self.name}"
        if self.independent_share:
            words += f", {self.independent_share:.0%} independently"
        return words

    def __call__(
        self,
        data: jax.Array,
        noise: jax.Array,
        keys: jax.Array,
        groups: jax.Array | None = None,
        num_groups: int = 1,
    ) -> jax.Array:
        """Reorders the noise of each row to its pairs.

        Args:
          data: Clean rows, [row, node, dim].
          noise: Their noise, same shape.
          keys: One key per row, [row], of the independent share.
          groups: Group of each node, int [row, node]. Only nodes of the same group are
            paired, as padding with padding; None for one group.
          num_groups: Groups that there are.

        Returns:
          The same noise in another order, same shape.
        """
        if self.name == "none":
            return noise
        if groups is None:
            groups = jnp.zeros(data.shape[:2], jnp.int32)

        def pair(data, noise, key, groups):
            return noise[self._pair(data, noise, key, groups, num_groups)]

        return jax.vmap(pair)(data, noise, keys, groups)

    def _pair(self, data, noise, key, groups, num_groups):
        """Returns the place in `noise` of each node's pair, [node]."""
        num_splits = max(0, math.ceil(math.log2(len(data) / self.leaf_size)))
        order, parts = split_at_medians(data, num_splits, groups, num_groups)
        noise_order, _ = split_at_medians(noise, num_splits, groups, num_groups)
        if self.name == "transport":
            group_of_part = jnp.arange(num_groups << num_splits) >> num_splits
            joined = _join_parts(data[order], noise[noise_order], parts, group_of_part)
            # Parts of the noise come in the order of those that they are joined to.
            num_bits = (len(joined) - 1).bit_length()
            target = invert(joined)[parts]
            noise_order = noise_order[argsort_integers(target, num_bits)]
        if self.independent_share:
            by_group = groups[order]
            mixed = _shuffle_some(key, self.independent_share, by_group)
            noise_order = noise_order[mixed]
        return noise_order[invert(order)]


def split_at_medians(
    points: jax.Array,
    num_splits: int,
    groups: jax.Array | None = None,
    num_groups: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Splits each group of points at medians, along one axis after the other.

    Of an odd number of points the lower half has one more. Hence sets whose groups have
    the same sizes have parts of the same sizes, at the same places.

    Args:
      points: Positions, [node, dim].
      num_splits: Splits, each of every part.
      groups: The first parts, integers of [0, num_groups), [node]; None for one.
      num_groups: Groups that there are.

    Returns:
      A permutation, int32 [node]: order[i] is the point at place i, where points of a
      part keep their own order; and the part of each place, int32 [node]: 2^num_splits
      group + number, where numbers rise along the axes.
    """
    num_nodes, dim = points.shape
    if groups is None:
        groups = jnp.zeros(num_nodes, jnp.int32)
    along = [argsort_floats(points[:, axis]) for axis in range(min(dim, num_splits))]
    ranks = [invert(order) for order in along]
    places = jnp.arange(num_nodes)
    num_bits = (num_groups - 1).bit_length()
    order = argsort_integers(groups, num_bits)
    parts = groups[order]
    # Bounds of the part that each place belongs to.
    start, stop = (jnp.searchsorted(parts, parts, side=s) for s in ("left", "right"))
    for i in range(num_splits):
        axis = i % dim
        ranked = _sort_within(parts, ranks[axis][order], num_bits + i)
        order = along[axis][ranked]
        middle = (start + stop + 1) // 2
        is_upper = places >= middle
        parts = 2 * parts + is_upper
        start = jnp.where(is_upper, middle, start)
        stop = jnp.where(is_upper, stop, middle)
    return _sort_within(parts, order, num_bits + num_splits), parts


def _sort_within(parts: jax.Array, numbers: jax.Array, num_bits: int) -> jax.Array:
    """Sorts a permutation within parts that lie one after the other.

    Args:
      parts: Rising integers of `num_bits` bits, [node].
      numbers: A permutation, [node].
      num_bits: Bits of the largest part.
    """
    own_bits = (len(numbers) - 1).bit_length()
    if num_bits + own_bits > _MOST_BITS:
        return jax.lax.sort((parts, numbers), num_keys=2)[1]
    packed = parts.astype(jnp.uint32) << own_bits | numbers.astype(jnp.uint32)
    packed = jax.lax.sort(packed, is_stable=False)
    return (packed & jnp.uint32((1 << own_bits) - 1)).astype(jnp.int32)


def match_by_transport(
    data: jax.Array, noise: jax.Array, forbidden: jax.Array | float = 0.0
) -> jax.Array:
    """Pairs two sets of equal size at the least sum of squared distances.

    Args:
      data: One set, [node, dim].
      noise: The other, same shape.
      forbidden: Added to the squared distances, [node, node] or a number.

    Returns:
      Index into `noise` of each point's pair, int32 [node]. The time grows as N^3.
    """
    gaps = data[:, None] - noise[None]
    rows, columns = hungarian_algorithm(jnp.sum(gaps**2, axis=-1) + forbidden)
    return columns[invert(rows)]


def _join_parts(data, noise, parts, group_of_part):
    """Returns the part of the noise that each part of the data is joined to, [part].

    Data and noise lie in the order of the parts.
    """
    num_parts, dim = len(group_of_part), data.shape[1]
    sizes = jnp.zeros(num_parts).at[parts].add(1.0)
    middle, noise_middle = (
        jnp.zeros((num_parts, dim)).at[parts].add(points)
        / jnp.maximum(sizes, 1.0)[:, None]
        for points in (data, noise)
    )
    differs = sizes[:, None] != sizes[None]
    differs |= group_of_part[:, None] != group_of_part[None]
    return match_by_transport(middle, noise_middle, _FORBIDDEN * differs)


def _shuffle_some(key, share, groups):
    """Returns places with a random share of them shuffled within groups, [node].

    Args:
      key: Random key.
      share: Share of the places.
      groups: Group of each place, rising, [node].
    """
    key_share, key_order = jax.random.split(key)
    stays = jax.random.uniform(key_share, groups.shape) >= share
    shuffled = jnp.where(stays, 0.0, jax.random.uniform(key_order, groups.shape))
    # The places that stay are at the same ranks in both orders, and so is each group.
    before = jnp.lexsort((stays, groups))
    after = jnp.lexsort((shuffled, stays, groups))
    return after[invert(before)]
