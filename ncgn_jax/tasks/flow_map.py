"""Learns steps so long that two to four of them lead from noise to data.

A velocity network gives u(x, t), the direction of the path through x. A flow map gives
the mean velocity of that path from t to a later time s, which ends where the path does:

  x_s = x_t + (s - t) u(x_t, t -> s),   u(x_t, t -> t) = u(x_t, t).

Both are one network, which is told the *span* s - t. Shortcut models (arXiv 2410.12557)
train it without derivatives in t, which do not exist where the graph changes. One step
from a to c, with middle b, has to do what two steps do:

  x_b = x_a + (b - a) u(x_a, a -> b),
  u(x_a, a -> c) = ((b - a) u(x_a, a -> b) + (c - b) u(x_b, b -> c)) / (c - a),

where the right-hand side is a fixed target, computed from averaged weights. Steps have
the lengths 1, 1/2, 1/4, ..., 1/num_steps in t. Below the shortest ones is the velocity:
their target is u(x_b, b) with x_b = x_a + (b - a) u(x_a, a), the midpoint rule, which
is second order for the same two evaluations.

Each of these steps is known ahead, and so are the graphs that it needs. Steps that need
the same are a `MapPart`, which has its rows in every batch, as a noise bucket has. The
other rows of a batch are those of the velocity, so that the network stays one.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.process import (
    expand_like,
    interpolate,
    loss_weight,
    make_target,
    to_data_and_noise,
)
from ncgn_jax.tasks.bucketed import (
    BatchLayout,
    BucketedTime,
    NoisedRows,
    Objective,
    divide_batch,
    stratified_draws,
    training_shares,
)
from ncgn_jax.tasks.sampling import Stretch, cut_where_changed

STEP_GRAPHS = ("start", "middle", "end")
# What the mean velocity can be read off at t = 0 too.
TARGETS = ("velocity", "data")


class Question(NamedTuple):
    """What a network is asked about rows with graphs of the same shape.

    Attributes:
      bucket: Noise bucket of the graphs.
      x: Samples at t, [row, ...].
      t: Times, [row].
      span: How much later the steps end, [row]; 0 for the velocity.
    """

    bucket: int
    x: jax.Array
    t: jax.Array
    span: jax.Array


Velocities = Callable[[Sequence[Question]], list[jax.Array]]
"""Answers questions with mean velocities, each of the shape of its x."""


class MapPart(NamedTuple):
    """Steps of the map that need graphs of the same shapes.

    Attributes:
      step: Noise bucket of the step's graph.
      first: Noise bucket of the graph of its first half.
      second: That of its second half.
      start: When each step starts, [step].
      stop: When it ends, [step].
      is_shortest: Whether the velocity is below it, bool [step].
      share: Its share of the steps of all parts, [step]; each length has as many.
    """

    step: int
    first: int
    second: int
    start: np.ndarray
    stop: np.ndarray
    is_shortest: np.ndarray
    share: np.ndarray


@dataclasses.dataclass(frozen=True)
class FlowMap:
    """A flow map and how it is trained.

    Attributes:
      num_steps: Steps of the finest walk from noise to data, a power of 2.
      share: Share of the rows that train steps and not the velocity, in (0, 1).
      graph: Whether the graph of a step is that of its start, middle or end.
    """

    num_steps: int
    share: float = 0.5
    graph: str = "start"

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of steps that lead from noise to data, falling to 1."""
        return tuple(
            self.num_steps >> i for i in range(int(self.num_steps).bit_length())
        )

    @property
    def walks(self) -> str:
        """Lists the numbers of steps in words, as `1, 2, 4, 8`."""
        return ", ".join(map(str, self.rungs[::-1]))

    def describe(self) -> str:
        """Describes it in a few words."""
        return (
            f"flow map of {self.walks} steps, graphs of their {self.graph}, trained by "
            f"{self.share:.0%} of the rows"
        )

    def buckets(
        self, time: BucketedTime, start: np.ndarray, stop: np.ndarray
    ) -> np.ndarray:
        """Returns the noise bucket of the graph of each step, int [step].

        Args:
          time: Time axis.
          start: When steps start, [step].
          stop: When they end, [step].
        """
        moments = {"start": start, "middle": 0.5 * (start + stop), "end": stop}
        return time.bucket_of_times(moments[self.graph])

    def parts(self, time: BucketedTime) -> tuple[MapPart, ...]:
        """Returns all steps, those with graphs of the same shapes together.

        Args:
          time: Time axis.
        """
        return _parts(self, time)

    def stretches(self, time: BucketedTime, num_steps: int) -> list[Stretch]:
        """Returns a walk from noise to data, cut where the graph changes.

        Args:
          time: Time axis.
          num_steps: Steps, one of `rungs`.
        """
        times = np.linspace(0.0, 1.0, num_steps + 1)
        return cut_where_changed(self.buckets(time, times[:-1], times[1:]), times)

    def part_names(self, time: BucketedTime) -> tuple[str, ...]:
        """Names each part by the supernodes of its graphs, as `map_s50_s50_s100`."""
        return tuple(
            "map_" + "_".join(f"s{time.buckets[i].num_supernodes}" for i in part[:3])
            for part in self.parts(time)
        )

    def layout(
        self, time: BucketedTime, batch_size: int, num_devices: int
    ) -> BatchLayout:
        """Divides a global batch over noise buckets, and then over parts.

        Args:
          time: Time axis.
          batch_size: Rows of the global batch.
          num_devices: Devices over all processes.

        Raises:
          ValueError: If a device would have fewer rows than there are of both.
        """
        of_parts = np.asarray([part.share.sum() for part in self.parts(time)])
        shares = np.concatenate(
            [(1 - self.share) * training_shares(time), self.share * of_parts]
        )
        what = "noise buckets and parts of the flow map"
        return divide_batch(shares, batch_size, num_devices, what)

    def noise_steps(
        self,
        time: BucketedTime,
        layout: BatchLayout,
        objective: Objective,
        data: jax.Array,
        noise: jax.Array,
        keys: jax.Array,
        velocities: Velocities,
    ) -> tuple[list[Question], list[NoisedRows]]:
        """Draws steps for a device's batch, and computes where they have to lead.

        Args:
          time: Time axis.
          layout: From `layout`; parts come after the noise buckets.
          objective: What the network predicts, one of `TARGETS`, and its weight.
          data: Clean rows, [row, ...].
          noise: Their noise, same shape.
          keys: One key per row, [row].
          velocities: Answers questions from averaged weights, part by part.

        Returns:
          For each part what the network is asked, and rows with what it should answer.
        """
        parts, first = self.parts(time), len(time.buckets)
        steps = [
            _draw_steps(
                time,
                part,
                layout.counts[first + i],
                *(layout.take(rows, first + i) for rows in (data, noise, keys)),
            )
            for i, part in enumerate(parts)
        ]
        means = mean_of_halves(parts, steps, velocities)
        asked, rows = [], []
        for part, step, mean in zip(parts, steps, means, strict=True):
            asked.append(
                Question(part.step, step.x, step.start, step.stop - step.start)
            )
            schedule, (target, weight) = time.schedule, objective
            wanted = mean
            if target != "velocity":
                ends = to_data_and_noise("velocity", mean, step.x, schedule, step.start)
                wanted = make_target(target, schedule, step.start, *ends)
            weights = loss_weight(weight, target, schedule, step.start)
            rows.append(NoisedRows(step.x, step.start, wanted, weights))
        return asked, rows


class DrawnSteps(NamedTuple):
    """Steps of one part, drawn for some rows.

    Attributes:
      x: Noisy data where the steps start, [row, ...].
      start: When they start, [row].
      stop: When they end, [row].
      is_shortest: Whether the velocity is below them, bool [row].
    """

    x: jax.Array
    start: jax.Array
    stop: jax.Array
    is_shortest: jax.Array


def mean_of_halves(
    parts: Sequence[MapPart], steps: Sequence[DrawnSteps], velocities: Velocities
) -> list[jax.Array]:
    """Returns the mean velocities of steps that are taken in halves.

    See the equations of the module. No gradient goes through them.

    Args:
      parts: Parts that the steps belong to.
      steps: Steps of each part.
      velocities: Mean velocity of the halves.

    Returns:
      For each part the mean velocities, of the shape of its x.
    """
    halves = [0.5 * (step.stop - step.start) for step in steps]
    spans = [
        jnp.where(step.is_shortest, 0.0, half)
        for step, half in zip(steps, halves, strict=True)
    ]
    firsts = velocities(
        [
            Question(part.first, step.x, step.start, span)
            for part, step, span in zip(parts, steps, spans, strict=True)
        ]
    )
    seconds = velocities(
        [
            Question(
                part.second,
                step.x + expand_like(half, step.x) * u,
                step.start + half,
                span,
            )
            for part, step, half, span, u in zip(
                parts, steps, halves, spans, firsts, strict=True
            )
        ]
    )
    return [
        jax.lax.stop_gradient(
            jnp.where(expand_like(step.is_shortest, u), w, 0.5 * (u + w))
        )
        for step, u, w in zip(steps, firsts, seconds, strict=True)
    ]


def _draw_steps(
    time: BucketedTime,
    part: MapPart,
    count: int,
    data: jax.Array,
    noise: jax.Array,
    keys: jax.Array,
) -> DrawnSteps:
    """Draws a step of a part for each row, stratified within groups of `count`."""
    bounds = count * np.cumsum(part.share / part.share.sum())[:-1]
    draws = stratified_draws(keys, count)
    chosen = jnp.searchsorted(jnp.asarray(bounds, draws.dtype), draws, side="right")
    start, stop = (jnp.asarray(t, jnp.float32)[chosen] for t in (part.start, part.stop))
    x = interpolate(time.schedule, start, data, noise)
    return DrawnSteps(x, start, stop, jnp.asarray(part.is_shortest)[chosen])


@functools.lru_cache(maxsize=64)
def _parts(flow_map: FlowMap, time: BucketedTime) -> tuple[MapPart, ...]:
    rungs = flow_map.rungs
    start = np.concatenate([np.arange(n) / n for n in rungs])
    stop = np.concatenate([np.arange(1, n + 1) / n for n in rungs])
    share = np.concatenate([np.full(n, 1 / n) for n in rungs]) / len(rungs)
    is_shortest = np.arange(len(start)) < flow_map.num_steps
    middle = 0.5 * (start + stop)
    # Below the shortest steps are moments, which have neither start nor end.
    ends = np.where(is_shortest, start, middle), np.where(is_shortest, middle, stop)
    graphs = np.stack(
        [
            flow_map.buckets(time, start, stop),
            flow_map.buckets(time, start, ends[0]),
            flow_map.buckets(time, middle, ends[1]),
        ],
        axis=1,
    )
    found = []
    for kind in np.unique(graphs, axis=0):
        own = np.all(graphs == kind, axis=1)
        columns = (column[own] for column in (start, stop, is_shortest, share))
        step, first, second = map(int, kind)
        found.append(MapPart(step, first, second, *columns))
    return tuple(found)
