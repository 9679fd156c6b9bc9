"""Which noise bucket a training or sampler step belongs to, and at which times.

A step has one bucket, so that its shapes are static. Buckets follow each other by
multiples of the golden ratio: any stretch of steps holds each by its share of time,
in no fixed turn, and which it is needs no memory of the steps before.

>>> shares = np.array([0.7, 0.2, 0.1])
>>> bucket_at(shares, np.arange(10), seed=0).tolist()
[0, 0, 0, 0, 1, 0, 0, 1, 0, 2]
"""

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncgn_jax.tasks.bucketed import BucketedTime, split_time_grid

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
    interval: np.ndarray, row: jax.Array, keys: jax.Array, batch_size: int
) -> jax.Array:
    """Draws training times, one in each equal part of an interval.

    Args:
      interval: Ends of the interval, [2].
      row: Number of each row in the global batch, [row].
      keys: One key a row, [row].
      batch_size: Rows of the global batch, and parts of the interval.

    Returns:
      Times, [row].
    """
    low, high = interval
    return low + (high - low) * (row + jax.vmap(jax.random.uniform)(keys)) / batch_size


def cut_time_grid(
    time: BucketedTime, times: np.ndarray, seed: int, num_states: int = 1
) -> list[tuple[int, int, np.ndarray]]:
    """Cuts a sampler's time grid into stretches of one bucket.

    Patches drawn at random have a stretch for every step.

    Args:
      time: Time axis with its buckets.
      times: Rising grid, [num_steps + 1].
      seed: Seed of patches drawn at random.
      num_states: Least number of stretches, as far as there are steps.

    Returns:
      (bucket, number of steps before, times float32) of each stretch.
    """
    num_steps = len(times) - 1
    if not time.random_buckets:
        parts = split_time_grid(time, times)
    else:
        shares = bucket_shares(time)
        buckets = bucket_at(shares, np.arange(num_steps), seed)
        parts = [(int(b), i, times[i : i + 2]) for i, b in enumerate(buckets)]
    longest = max(1, num_steps // num_states)
    return [
        (bucket, offset + i, part[i : i + longest + 1].astype(np.float32))
        for bucket, offset, part in parts
        for i in range(0, len(part) - 1, longest)
    ]
