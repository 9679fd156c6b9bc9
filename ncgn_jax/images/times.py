"""Chooses the noise bucket and the times of training and sampler steps.

A step has one bucket, so that its shapes are static. Buckets follow each other by
multiples of the golden ratio: any stretch of steps holds each by its share of time,
in no fixed turn, and which it is needs no memory of the steps before.

>>> shares = np.array([0.7, 0.2, 0.1])
>>> bucket_at(shares, np.arange(10), seed=0).tolist()
[0, 0, 0, 0, 1, 0, 0, 1, 0, 2]
"""

import itertools

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncgn_jax.tasks.bucketed import BucketedTime
from ncgn_jax.tasks.sampling import Stretch, as_times, split_time_grid

_GOLDEN = (5**0.5 - 1) / 2


def bucket_shares(time: BucketedTime) -> np.ndarray:
    """Returns the share of [0, 1] that each bucket has, [bucket]."""
    return np.diff(time.intervals(), axis=1)[:, 0]


def bucket_at(shares: np.ndarray, index: ArrayLike, seed: int) -> NDArray:
    """Returns the bucket of each of some steps.

    Args:
      shares: Share of the steps that each bucket shall have, [bucket], sum 1.
      index: Numbers of the steps, of any shape.
      seed: Decides where the sequence starts.

    Returns:
      Buckets, int, shape of `index`.
    """
    start = np.random.default_rng([seed, 5]).random()
    place = (start + np.asarray(index) * _GOLDEN) % 1.0
    return np.searchsorted(np.cumsum(shares)[:-1], place, side="right")


def spread_times(
    interval: np.ndarray, row: jax.Array | np.ndarray, keys: jax.Array, batch_size: int
) -> jax.Array:
    """Draws training times, one in each equal part of an interval.

    Args:
      interval: Ends of the interval, [2].
      row: Number of each row in the global batch, [row].
      keys: One key per row, [row].
      batch_size: Rows of the global batch, and parts of the interval.

    Returns:
      Times, [row].
    """
    low, high = interval
    return low + (high - low) * (row + jax.vmap(jax.random.uniform)(keys)) / batch_size


def snap_to_edges(
    times: np.ndarray, edges: np.ndarray, chain: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Moves a sampler's time grid so that it has a time at every edge of a bucket.

    A bucket gets as many steps as the grid has in its interval, rounded, but at least
    one. They are spaced as in the grid, stretched evenly within the bucket.

    Args:
      times: Rising grid, [num_steps + 1], with at least as many steps as buckets.
      edges: Inner edges, rising, [bucket - 1].
      chain: Steps of the chain that variances are learned for: times are moved to whole
        ones, as in training, where the grid is not finer.

    Returns:
      The new grid, and the number of its steps before each edge, int [bucket - 1].
    """
    num_steps, count = len(times) - 1, len(edges)
    index = np.arange(num_steps + 1)
    if chain:
        bounds = np.concatenate([[0.0], edges, [1.0]])
        edges = _whole_steps(np.floor, bounds, chain)[1:-1]
    places = np.interp(edges, times, index)
    # Less the one step that every bucket before is due.
    ranks = np.arange(1, count + 1)
    spare = np.maximum.accumulate(np.rint(places) - ranks)
    cuts = np.clip(spare, 0, num_steps - count - 1).astype(int) + ranks
    ends, wanted = [0, *cuts, num_steps], [0.0, *places, num_steps]
    moved = np.interp(np.interp(index, ends, wanted), index, times)
    moved[cuts] = edges
    return (_whole_steps(np.rint, moved, chain) if chain else moved), cuts


def _whole_steps(rounding, times: np.ndarray, chain: int) -> np.ndarray:
    """Rounds times to steps of a chain unless some would coincide."""
    whole = rounding(times * chain) / chain
    return whole if (np.diff(whole) > 0).all() else times


def cut_time_grid(
    time: BucketedTime,
    times: np.ndarray,
    random_seed: int | None = None,
    chain: int | None = None,
) -> list[Stretch]:
    """Cuts a sampler's time grid into stretches of one bucket.

    Times are moved so that stretches meet at the buckets' edges: a network never runs
    beyond the levels it was trained for. With fewer steps than buckets a step belongs
    to the bucket it starts in, and some have none.

    Args:
      time: Time axis with its buckets.
      times: Rising grid, [num_steps + 1].
      random_seed: Draws the bucket of every step at random instead, each as often as
        time has it; every step is then a stretch.
      chain: See `snap_to_edges`.
    """
    num_steps = len(times) - 1
    if random_seed is not None:
        buckets = bucket_at(bucket_shares(time), np.arange(num_steps), random_seed)
        return [
            Stretch(int(bucket), i, as_times(times[i : i + 2]))
            for i, bucket in enumerate(buckets)
        ]
    if num_steps < len(time.buckets):
        return split_time_grid(time, times)
    times, cuts = snap_to_edges(times, time.intervals()[1:, 0], chain)
    ends = [0, *cuts.tolist(), num_steps]
    return [
        Stretch(bucket, start, as_times(times[start : stop + 1]))
        for bucket, (start, stop) in enumerate(itertools.pairwise(ends))
    ]
