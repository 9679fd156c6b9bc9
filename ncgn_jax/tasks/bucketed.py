"""Divides time and training batches over noise buckets.

A training batch is *stratified*. A fixed number of its graphs belongs to each bucket,
with t uniform in the bucket's interval, and losses are weighted so that the expected
gradient is that of t ~ U[0, 1] for every graph. (With `random_buckets` t is uniform in
[0, 1] in every bucket: the network learns each graph shape at each level.) Rows are
laid out in groups of the same composition, so that 1 device and 8 devices see the same
graphs at the same noise.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.graphs import NoiseBucket, Pairing, allocate_batch
from ncgn_jax.graphs.grids import GridBucket
from ncgn_jax.process import (
    Schedule,
    interpolate,
    loss_weight,
    make_target,
    sample_prior,
    weighted_mse,
)

_NUM_GROUPS = 8
Bucket = TypeVar("Bucket", NoiseBucket, GridBucket)


@dataclasses.dataclass(frozen=True)
class BucketedTime(Generic[Bucket]):
    """A schedule's time axis cut into noise buckets.

    Attributes:
      schedule: The process.
      buckets: Buckets in order of rising signal level.
      signal: `mixing` for the schedule's signal level, `time` for t itself.
      random_buckets: Whether a graph is trained in a bucket of any level.
      overlap: How far training goes beyond a bucket's ends, in its own lengths.
    """

    schedule: Schedule
    buckets: tuple[Bucket, ...]
    signal: str = "mixing"
    random_buckets: bool = False
    overlap: float = 0.0

    def level(self, t: jax.Array) -> jax.Array:
        """Returns the noise variable at t, as graphs and network see it."""
        return t if self.signal == "time" else self.schedule.signal_level(t)

    def intervals(self) -> np.ndarray:
        """Returns the time interval of each bucket, [bucket, 2]; they tile [0, 1]."""
        return _intervals(self)

    def training_intervals(self) -> np.ndarray:
        """Returns from where in time each bucket's graphs are drawn, [bucket, 2]."""
        if self.random_buckets:
            return np.tile([0.0, 1.0], (len(self.buckets), 1))
        intervals = self.intervals()
        beyond = self.overlap * np.diff(intervals, axis=1)
        return np.clip(intervals + beyond * [-1.0, 1.0], 0.0, 1.0)

    def bucket_of_times(self, times: np.ndarray) -> np.ndarray:
        """Returns the bucket of each time, int [time]."""
        inner = self.intervals()[1:, 0]
        return np.searchsorted(inner, np.asarray(times), side="right")


@functools.lru_cache(maxsize=64)
def _intervals(time: BucketedTime) -> np.ndarray:
    inner = np.asarray([bucket.low for bucket in time.buckets[1:]], float)
    if time.signal == "mixing" and len(inner):
        # Bounds are constants even where a traced function asks for them.
        with jax.ensure_compile_time_eval():
            inner = np.asarray(time.schedule.time_of_signal_level(inner), float)
    bounds = np.clip(np.concatenate([[0.0], inner, [1.0]]), 0.0, 1.0)
    intervals = np.stack([bounds[:-1], bounds[1:]], axis=1)
    intervals.flags.writeable = False
    return intervals


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """Assigns the rows of a batch to buckets.

    Attributes:
      num_groups: Equal groups of consecutive rows; a device holds whole groups.
      counts: Rows of each bucket within a group; they follow each other.
      weights: Factor of a row's loss in each bucket, so that the mean over rows is an
        unbiased estimate of the mean over t ~ U[0, 1].
    """

    num_groups: int
    counts: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def group_size(self) -> int:
        """Rows of one group."""
        return sum(self.counts)

    def take(self, rows: jax.Array, bucket: int) -> jax.Array:
        """Returns a bucket's rows of a device's array, [rows of bucket, ...]."""
        start = sum(self.counts[:bucket])
        groups = rows.reshape((-1, self.group_size, *rows.shape[1:]))
        chosen = groups[:, start : start + self.counts[bucket]]
        return chosen.reshape((-1, *rows.shape[1:]))


def make_batch_layout(
    time: BucketedTime, batch_size: int, num_devices: int
) -> BatchLayout:
    """Divides a global batch over buckets.

    The layout is the same on 1, 2, 4 or 8 devices wherever the batch allows eight
    groups of at least two rows per bucket; a smaller batch has fewer groups, so that
    shares of a bucket can still be told apart, but never fewer than devices.

    Args:
      time: Time axis with its buckets.
      batch_size: Rows of the global batch.
      num_devices: Devices over all processes.

    Returns:
      The layout.

    Raises:
      ValueError: If a device would have fewer rows than there are buckets.
    """
    return divide_batch(training_shares(time), batch_size, num_devices, "noise buckets")


def training_shares(time: BucketedTime) -> np.ndarray:
    """Returns the share of the training times that each bucket has, [bucket]."""
    intervals = time.training_intervals()
    lengths = intervals[:, 1] - intervals[:, 0]
    return lengths / lengths.sum()


def divide_batch(
    shares: np.ndarray, batch_size: int, num_devices: int, what: str
) -> BatchLayout:
    """Divides a global batch over parts that each need a row on every device.

    Args:
      shares: Share of each part in the expected loss, [part]; they sum to 1.
      batch_size: Rows of the global batch.
      num_devices: Devices over all processes.
      what: What the parts are, in words.

    Returns:
      The layout, see `make_batch_layout`.

    Raises:
      ValueError: If a device would have fewer rows than there are parts.
    """
    num_parts = len(shares)
    num_groups = math.gcd(batch_size, math.lcm(_NUM_GROUPS, num_devices))
    enough = 2 * num_parts
    while num_groups > num_devices and batch_size // num_groups < enough:
        num_groups //= 2
    if num_groups % num_devices or batch_size // num_groups < num_parts:
        raise ValueError(
            f"batch_size {batch_size} on {num_devices} devices: every device needs at "
            f"least one graph for each of the {num_parts} {what}; use a "
            f"multiple of {num_devices} of at least {num_devices * num_parts}"
        )
    group_size = batch_size // num_groups
    counts = allocate_batch(shares.tolist(), group_size)
    weights = shares * group_size / np.asarray(counts)
    return BatchLayout(num_groups, counts, tuple(float(w) for w in weights))


def draw_bucket_times(
    time: BucketedTime, layout: BatchLayout, bucket: int, keys: jax.Array
) -> jax.Array:
    """Draws t for a bucket's rows on one device, stratified within each group.

    Args:
      time: Time axis.
      layout: Layout of the batch.
      bucket: Which bucket.
      keys: One key per row, [row]; rows as `BatchLayout.take` gives them.

    Returns:
      Times, [row], each uniform in its own equal part of the bucket's interval.
    """
    low, high = time.training_intervals()[bucket]
    count = layout.counts[bucket]
    return low + (high - low) * stratified_draws(keys, count) / count


def stratified_draws(keys: jax.Array, count: int) -> jax.Array:
    """Draws from [0, count], row i of each group from [i, i + 1].

    Args:
      keys: One key per row, [row].
      count: Rows of a group; groups follow each other.
    """
    draws = jax.vmap(lambda key: jax.random.uniform(key))(keys)
    rank = jnp.tile(jnp.arange(count, dtype=draws.dtype), draws.shape[0] // count)
    return rank + draws


class Objective(NamedTuple):
    """The target and the loss of a network.

    Attributes:
      target: What it predicts, one of `process.PREDICTION_KINDS`.
      loss_weight: Weight of its squared error, one of `process.LOSS_WEIGHTS`.
    """

    target: str
    loss_weight: str


def describe_process(objective: Objective, schedule: str) -> str:
    """Describes process and target in a few words."""
    return f"{schedule} process, {objective.target} target"


class NoisedRows(NamedTuple):
    """The rows of one bucket on one device, noised.

    Attributes:
      x_t: Noisy data, [row, ...].
      t: Times, [row].
      target: What the network should predict, shape of `x_t`.
      weight: Factor of each row's loss, [row].
    """

    x_t: jax.Array
    t: jax.Array
    target: jax.Array
    weight: jax.Array


def noise_rows(
    time: BucketedTime,
    layout: BatchLayout,
    objective: Objective,
    data: jax.Array,
    keys: jax.Array,
    pairing: Pairing | None = None,
) -> list[NoisedRows]:
    """Draws times and noise for a device's batch, bucket by bucket.

    Args:
      time: Time axis.
      layout: Layout of the batch.
      objective: Target and weight of the loss.
      data: Clean rows, [row, ...].
      keys: One key per row, [row].
      pairing: How noise is paired with the nodes of data [row, node, dim]; None where
        they are not exchangeable.

    Returns:
      Noised rows of every bucket.
    """
    noise, keys_time = draw_noise(data, keys, pairing)
    return mix_rows(time, layout, objective, data, noise, keys_time)


def draw_noise(
    data: jax.Array, keys: jax.Array, pairing: Pairing | None = None
) -> tuple[jax.Array, jax.Array]:
    """Draws the noise of rows.

    Args:
      data: Clean rows, [row, ...].
      keys: One key per row, [row].
      pairing: As for `noise_rows`.

    Returns:
      Noise, shape of `data`, and keys to draw times with, [row].
    """
    keys_noise, keys_time = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    noise = jax.vmap(lambda key: jax.random.normal(key, data.shape[1:]))(keys_noise)
    if pairing is not None:
        keys_pairs = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
        noise = pairing(data, noise, keys_pairs)
    return noise, keys_time


def mix_rows(
    time: BucketedTime,
    layout: BatchLayout,
    objective: Objective,
    data: jax.Array,
    noise: jax.Array,
    keys_time: jax.Array,
) -> list[NoisedRows]:
    """Draws times and mixes rows with their noise, bucket by bucket.

    Args:
      time: Time axis.
      layout: Layout of the batch; it may have parts after the buckets.
      objective: Target and weight of the loss.
      data: Clean rows, [row, ...].
      noise: Their noise, same shape.
      keys_time: One key per row, [row].

    Returns:
      Noised rows of every bucket.
    """
    target, weight = objective
    parts = []
    for i in range(len(time.buckets)):
        own, eps, own_keys = (layout.take(r, i) for r in (data, noise, keys_time))
        t = draw_bucket_times(time, layout, i, own_keys)
        parts.append(
            NoisedRows(
                interpolate(time.schedule, t, own, eps),
                t,
                make_target(target, time.schedule, t, own, eps),
                loss_weight(weight, target, time.schedule, t),
            )
        )
    return parts


def mean_loss(
    layout: BatchLayout,
    parts: Sequence[NoisedRows],
    output: jax.Array,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Averages weighted squared errors so that the expectation is over t ~ U[0, 1].

    Args:
      layout: Layout of the batch.
      parts: Rows as `noise_rows` gives them.
      output: Predictions of all rows, buckets one after the other; any shape with as
        many numbers as the targets.
      mask: The numbers that count, see `process.weighted_mse`; None if all do.

    Returns:
      The mean, and the mean of each bucket.
    """
    target = jnp.concatenate([part.target for part in parts])
    weight = jnp.concatenate([part.weight for part in parts])
    per_row = weighted_mse(output.reshape(target.shape), target, weight, mask)
    ends = np.cumsum([part.t.shape[0] for part in parts])[:-1]
    per_bucket = jnp.stack([rows.mean() for rows in jnp.split(per_row, ends)])
    share = np.asarray(layout.weights) * layout.counts / layout.group_size
    return jnp.sum(jnp.asarray(share, jnp.float32) * per_bucket), per_bucket


def row_keys(rng: jax.Array, rows: ArrayLike, num: int | None = None) -> jax.Array:
    """Returns keys for each row that depend on its number alone.

    So a row's draws do not depend on the other rows or on the number of devices.

    Args:
      rng: Key of all rows.
      rows: Number of each row among all, [row].
      num: Keys per row; None for one.

    Returns:
      Keys, [row, num], or [row] for None.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.asarray(rows))
    return (
        keys if num is None else jax.vmap(lambda key: jax.random.split(key, num))(keys)
    )


def draw_prior(
    schedule: Schedule, keys: jax.Array, shape: tuple[int, ...]
) -> np.ndarray:
    """Draws the noise at t = 0, float32 [row, *shape], from one key per row."""
    return np.asarray(_draw_prior(schedule, keys, shape))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _draw_prior(schedule, keys, shape):
    draw = functools.partial(sample_prior, schedule, shape=shape, dtype=jnp.float32)
    return jax.vmap(draw)(keys)


def bucket_names(buckets: Sequence[NoiseBucket]) -> tuple[str, ...]:
    """Names each bucket by its shape, as `s100_k28`."""
    return tuple(f"s{b.num_supernodes}_k{b.num_neighbors}" for b in buckets)
