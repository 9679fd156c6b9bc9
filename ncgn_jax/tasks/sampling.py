"""Samples stretch by stretch, with the static shapes of one noise bucket in each.

The time grid is cut where the bucket changes. Each stretch is one program over all
devices, compiled once per bucket, with a `lax.scan` over its steps. All domains sample
with `BucketedSampler`; what they share of the configuration is a `Sampling`.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.parallel import (
    MappedRows,
    check_devices,
    map_over_devices,
    num_devices,
    prepare_together,
    replicate,
)
from ncgn_jax.process import SamplerState, Schedule, make_sampler, make_time_grid
from ncgn_jax.tasks.bucketed import BucketedTime, row_keys
from ncgn_jax.tasks.finished import finished_part

Tree = Any
# Sampler of models with a flow map: Euler's steps along the mean velocity of each.
FLOW_MAP = "flow_map"
# Keys are 32 bits wide, and seeds of several draws are some thousands apart.
MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The sampler's settings that all domains share.

    Attributes:
      sampler: One of `process.SAMPLERS`, or `FLOW_MAP`.
      num_steps: Steps from noise to data.
      time_grid: One of `process.TIME_GRIDS`.
      dilation: Width of dilated grids, in units of 1 / sqrt(dim).
      time_table: Pairs (t, share of the steps) of the grid `table`.
      batch_size: Most samples in a call, over all devices.
      data_limit: Bound on predicted data, see `process.make_denoiser`.
      guidance: g in told + g (told - free); 0 for no guidance.
    """

    sampler: str = "heun"
    num_steps: int = 50
    time_grid: str = "uniform"
    dilation: float = 5.0
    time_table: tuple[tuple[float, float], ...] = ()
    batch_size: int = 64
    data_limit: float | None = None
    guidance: float = 0.0

    def times(self, schedule: Schedule, dim: int) -> np.ndarray:
        """Returns the times that the sampler visits, float64 [step + 1].

        Args:
          schedule: The noise.
          dim: Numbers in a sample.
        """
        return make_time_grid(
            self.time_grid,
            self.num_steps,
            schedule,
            dim=dim,
            kappa=self.dilation,
            table=self.time_table,
        )


def guide(told: jax.Array, free: jax.Array, guidance: float) -> jax.Array:
    """Moves a prediction away from that without the condition.

    told + g (told - free): 0 leaves what the condition gives (Ho and Salimans 2022,
    arXiv 2207.12598, eq. 6).

    Args:
      told: Prediction with the condition.
      free: Prediction without it, same shape.
      guidance: g, at least 0.
    """
    return told + guidance * (told - free)


class Kept(NamedTuple):
    """What a sampler keeps of samples while it generates the rest.

    Attributes:
      is_given: True for what is kept, [row, ...], as wide as samples or 1.
      data: Its values in the units of training, anything elsewhere, [row, ...].
    """

    is_given: np.ndarray
    data: np.ndarray


class Stretch(NamedTuple):
    """A part of the time grid inside one bucket.

    Attributes:
      bucket: The bucket, None where the program chooses it.
      offset: Number of steps before.
      times: Rising times, float32; each stretch starts where the one before ends.
    """

    bucket: int | None
    offset: int
    times: np.ndarray


class Reached(NamedTuple):
    """The state at the end of a stretch.

    Attributes:
      stretch: The stretch.
      x: The samples, [row, ...].
    """

    stretch: Stretch
    x: np.ndarray

    @property
    def t(self) -> float:
        """The time reached."""
        return float(self.stretch.times[-1])


class Start(NamedTuple):
    """Samples before the first step.

    Attributes:
      x: Noise at t = 0, [row, ...].
      keys: Key of each row, for stochastic steps, [row].
      given: Tree of what else belongs to the rows, leaves [row, ...].
    """

    x: np.ndarray
    keys: jax.Array
    given: Tree


def split_time_grid(time: BucketedTime, times: np.ndarray) -> list[Stretch]:
    """Cuts a time grid where the bucket changes.

    Args:
      time: Time axis.
      times: Rising grid, [num_steps + 1]; a step belongs to the bucket it starts in.
    """
    return cut_where_changed(time.bucket_of_times(times[:-1]), times)


def cut_where_changed(buckets: np.ndarray, times: np.ndarray) -> list[Stretch]:
    """Cuts a time grid where its steps change their bucket.

    Args:
      buckets: Bucket of each step, int [num_steps].
      times: Rising grid, [num_steps + 1].
    """
    cuts = [0, *(np.flatnonzero(np.diff(buckets)) + 1), len(buckets)]
    return [
        Stretch(int(buckets[start]), int(start), as_times(times[start : stop + 1]))
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True)
    ]


def cut_further(stretches: Sequence[Stretch], num_pieces: int) -> list[Stretch]:
    """Cuts every stretch into pieces, so that a path shows states in between.

    Args:
      stretches: Stretches; what is sampled stays the same, see `process.take_steps`.
      num_pieces: Pieces of each, fewer where a stretch has fewer steps.
    """
    pieces = []
    for bucket, offset, times in stretches:
        ends = np.linspace(0, len(times) - 1, num_pieces + 1).round().astype(int)
        for start, stop in zip(ends[:-1], ends[1:], strict=True):
            if stop > start:
                part = times[start : stop + 1]
                pieces.append(Stretch(bucket, offset + int(start), part))
    return pieces


def as_times(times: np.ndarray) -> np.ndarray:
    """Returns times as stretches hold them."""
    return np.asarray(times, np.float32)


class NamesSampler(Protocol):
    """Options of a program that name its sampler, one of `process.SAMPLERS`."""

    @property
    def sampler(self) -> str:
        """Name of the sampler."""
        ...


def begin_by_name(options: NamesSampler, x: jax.Array) -> SamplerState:
    """Returns the state of samples before the first step of a named sampler.

    Args:
      options: What the program depends on.
      x: The samples, [row, ...].
    """
    return make_sampler(options.sampler).begin(x)


class BucketedSampler:
    """Walks stretch by stretch; compiles the program of each bucket once.

    What a sampler remembers goes with the samples from stretch to stretch.

    Attributes:
      program: program(options, bucket) returns the function of one device, run(state,
        keys, given, shared, times, offset), that takes the steps of a stretch.
      begin: begin(options, x) returns the state of samples before the first step.
    """

    def __init__(
        self,
        program: Callable[[Any, int | None], Callable[..., SamplerState]],
        begin: Callable[[Any, jax.Array], SamplerState],
    ) -> None:
        self.program, self.begin = program, begin
        self._compiled: dict[tuple[Hashable, int | None], MappedRows] = {}

    def walk(
        self,
        options: Hashable,
        stretches: Sequence[Stretch],
        start: Start,
        shared: Tree,
    ) -> Iterator[Reached]:
        """Samples some rows; yields the state at the end of each stretch.

        Args:
          options: What the program depends on besides shapes.
          stretches: From `split_time_grid` or alike.
          start: The rows.
          shared: Tree of what is the same for all rows, such as parameters.
        """
        shared = replicate(shared)
        state = _on_host(self.begin(options, jnp.asarray(start.x)))
        calls = [self._call(options, stretch, start, shared) for stretch in stretches]
        # Stretches of one bucket and as many steps share a program.
        different = {
            (stretch.bucket, len(stretch.times)): partial(run.prepare, state, *rest)
            for stretch, (run, rest) in zip(stretches, calls, strict=True)
        }
        prepare_together(list(different.values()))
        for stretch, (run, rest) in zip(stretches, calls, strict=True):
            state = _on_host(run(state, *rest))
            yield Reached(stretch, np.asarray(state.x))

    def _call(
        self, options: Hashable, stretch: Stretch, start: Start, shared: Tree
    ) -> tuple[MappedRows, tuple[Any, ...]]:
        """Returns the function of a stretch, and its arguments after the state."""
        key = options, stretch.bucket
        if key not in self._compiled:
            run = self.program(*key)
            self._compiled[key] = map_over_devices(run, batch_argnums=(0, 1, 2))
        rest = (start.keys, start.given, shared, stretch.times)
        return self._compiled[key], (*rest, np.int32(stretch.offset))

    def sample(
        self,
        options: Hashable,
        stretches: Sequence[Stretch],
        start: Callable[[np.ndarray], Start],
        shared: Tree,
        num_samples: int,
        batch_size: int,
    ) -> np.ndarray:
        """Samples any number of rows, in calls of equal size.

        Args:
          options: As for `walk`.
          stretches: As for `walk`.
          start: Returns the start of rows of given numbers, int [row].
          shared: As for `walk`.
          num_samples: Rows in all, at least 1.
          batch_size: Most rows in a call, over all devices.

        Returns:
          Samples, [num_samples, ...].
        """
        check_devices()
        shared = replicate(shared)

        def call(rows: np.ndarray) -> np.ndarray:
            *_, last = self.walk(options, stretches, start(rows), shared)
            return last.x[: num_samples - rows[0]]

        chunks = sample_chunks(num_samples, batch_size)
        return np.concatenate([finished_part(partial(call, rows)) for rows in chunks])


def _on_host(state: SamplerState) -> SamplerState:
    return jax.tree.map(np.asarray, state)


def sample_chunks(num_rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yields the rows of each call of a sampler, int [rows of a call].

    All calls have the same size, so that nothing compiles twice: the last repeats its
    last row.

    Args:
      num_rows: Rows to sample.
      batch_size: Most rows in a call, over all devices.
    """
    size = rows_per_call(num_rows, batch_size)
    for start in range(0, num_rows, size):
        yield np.minimum(np.arange(start, start + size), num_rows - 1)


def rows_per_call(num_rows: int, batch_size: int) -> int:
    """Returns the rows in a call: as many on each device, at least one.

    Args:
      num_rows: Rows to sample.
      batch_size: Most rows in a call, over all devices.
    """
    devices = num_devices()
    per_device = max(1, batch_size // devices)
    return min(per_device, -(-num_rows // devices)) * devices


def sample_keys(seed: int, rows: np.ndarray) -> jax.Array:
    """Returns the keys of stochastic sampler steps of some samples, [row].

    Args:
      seed: Seed of the samples.
      rows: Numbers of the samples, [row].
    """
    return row_keys(jax.random.key(seed + 1), rows)
