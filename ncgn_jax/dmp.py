"""Dynamic Message Passing around one's own network: buckets, loss and sampler.

A network is any function `apply(params, x_t, level, graph)` of noisy points
[cloud, node, dim], their signal levels [cloud] and their graphs, with any tree of
parameters; Flax Linen, NNX or plain JAX. It returns a prediction of the shape of `x_t`.
Graphs are far and coarse where noise is high, near and fine where it is low, each of a
static shape (arXiv 2507.09391, section 4). The training loop is one's own.

Example:
  >>> import jax, jax.numpy as jnp, jraph
  >>> from ncgn_jax.dmp import DMP
  >>> from ncgn_jax.graphs import on_coarse_graph
  >>> def apply(params, x_t, level, graph):
  ...     layer = jraph.GraphConvolution(lambda nodes: nodes @ params)
  ...     return on_coarse_graph(layer, x_t, graph)
  >>> dmp = DMP(num_nodes=32, num_neighbors=4, dim=3)
  >>> [(b.num_supernodes, b.num_neighbors) for b in dmp.buckets]
  [(16, 8), (32, 4)]
  >>> params, data = jnp.zeros((3, 3)), jnp.ones((24, 32, 3))
  >>> loss = jax.jit(lambda p, rng: dmp.loss(apply, p, data, rng))
  >>> gradient = jax.grad(loss)(params, jax.random.key(0))
  >>> dmp.sample(apply, params, num=2, steps=4).shape
  (2, 32, 3)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.faults import RequestError
from ncgn_jax.graphs import (
    MultiscaleGraph,
    NoiseBucket,
    Pairing,
    RangeResolution,
    bucket_index,
    build_graphs,
)
from ncgn_jax.process import (
    make_denoiser,
    make_sampler,
    make_schedule,
    take_steps,
)
from ncgn_jax.tasks.bucketed import (
    BatchLayout,
    BucketedTime,
    Objective,
    draw_prior,
    make_batch_layout,
    mean_loss,
    noise_rows,
    row_keys,
)
from ncgn_jax.tasks.graph_network import GraphSettings
from ncgn_jax.tasks.sampling import (
    BucketedSampler,
    Sampling,
    Start,
    begin_by_name,
    sample_keys,
    split_time_grid,
)

Params = Any
Apply = Callable[[Params, jax.Array, jax.Array, MultiscaleGraph], jax.Array]


class _Options(NamedTuple):
    """What a compiled stretch of the sampler depends on besides shapes."""

    apply: Apply
    sampler: str


class DMP:
    """Noise buckets with their loss and sampler, for networks of one's own.

    Attributes:
      num_nodes: Points of a cloud.
      dim: Dimension of a point.
      buckets: Static shapes of graphs, from noise to data.
    """

    num_nodes: int
    dim: int
    buckets: tuple[NoiseBucket, ...]

    def __init__(
        self,
        num_nodes: int,
        num_neighbors: int,
        dim: int,
        *,
        schedule: str = "exp",
        connectivity: str = "dmp",
        clustering: str = "balanced",
        process: str = "linear",
        target: str = "velocity",
        pairing: str = "none",
    ) -> None:
        """Chooses graphs and process.

        Args:
          num_nodes: Points of a cloud.
          num_neighbors: Neighbours of a point on the finest graph.
          dim: Dimension of a point.
          schedule: How fast graphs get finer, one of `graphs.RANGE_SCHEDULES`.
          connectivity: One of `graphs.CONNECTIVITIES`.
          clustering: One of `graphs.CLUSTERINGS`.
          process: One of `process.SCHEDULES`; `linear` is flow matching.
          target: What networks predict, one of `process.PREDICTION_KINDS`.
          pairing: How the loss pairs points and noise, one of `graphs.PAIRINGS`. With
            `splits` samples need fewer steps. The network must not see the order of
            points.

        Raises:
          RequestError: If there are no such graphs, or no such pairing.
        """
        try:
            settings = GraphSettings(
                RangeResolution(schedule), num_neighbors, connectivity, clustering
            )
            buckets = settings.buckets(num_nodes, dim)
            self._time: BucketedTime[NoiseBucket] = BucketedTime(
                make_schedule(process), buckets
            )
            self._pairing = Pairing(pairing)
        except (ValueError, KeyError) as error:
            raise RequestError(f"DMP: {error}") from error
        self.num_nodes, self.dim, self.buckets = num_nodes, dim, buckets
        self._objective = Objective(target, "uniform")
        self._sampler = BucketedSampler(self._program, begin_by_name)
        self._build_alone = jax.jit(self._build, static_argnums=1)

    def graph(self, x_t: jax.Array, signal_level: float) -> MultiscaleGraph:
        """Builds the graphs of noisy points at a signal level.

        Args:
          x_t: Noisy points, [cloud, node, dim].
          signal_level: alpha / (alpha + sigma), in [0, 1], the same for all.

        Returns:
          Graphs of all points, as `graphs.coarsen` and `graphs.spread` take them.
        """
        place = int(bucket_index(self.buckets, signal_level))
        return self._build_alone(x_t, place)

    def loss(
        self, apply: Apply, params: Params, data: jax.Array, rng: jax.Array
    ) -> jax.Array:
        """Returns the mean squared error of a network on noised clouds.

        The rows are divided over the buckets and weighted so that the expectation is
        that of t uniform in [0, 1]. Differentiable and free of searches on the host, so
        it may be jitted; then it compiles once.

        Args:
          apply: The network.
          params: Its parameters.
          data: Clean clouds at about unit variance, [cloud, node, dim]; at least one
            for each bucket.
          rng: Key of times and noise.

        Raises:
          RequestError: If the clouds have another shape, or are too few.
        """
        if data.ndim != 3 or data.shape[1:] != (self.num_nodes, self.dim):
            raise RequestError(
                f"data: found shape {data.shape}; allowed: "
                f"[cloud, {self.num_nodes}, {self.dim}]"
            )
        layout = self._layout(len(data))
        keys = row_keys(rng, np.arange(len(data)))
        parts = noise_rows(
            self._time, layout, self._objective, data, keys, self._pairing
        )
        outputs = [
            apply(params, part.x_t, self._time.level(part.t), self._build(part.x_t, i))
            for i, part in enumerate(parts)
        ]
        return mean_loss(layout, parts, jnp.concatenate(outputs))[0]

    def sample(
        self,
        apply: Apply,
        params: Params,
        num: int,
        *,
        steps: int = 25,
        sampler: str = "heun",
        batch_size: int = 64,
        seed: int = 0,
    ) -> np.ndarray:
        """Generates clouds on all devices, float32 [num, node, dim].

        Each bucket is compiled once for a network.

        Args:
          apply: The network.
          params: Its parameters.
          num: Number of clouds.
          steps: Sampler steps from noise to data.
          sampler: One of `process.SAMPLERS`.
          batch_size: Most clouds in a call, over all devices.
          seed: Seed of the noise.

        Returns:
          Clouds at the scale of the data of the loss.
        """
        settings = Sampling(sampler, steps, batch_size=batch_size)
        schedule = self._time.schedule
        times = settings.times(schedule, self.num_nodes * self.dim)

        def start(rows: np.ndarray) -> Start:
            keys = row_keys(jax.random.key(seed), rows)
            x = draw_prior(schedule, keys, (self.num_nodes, self.dim))
            return Start(x, sample_keys(seed, rows), np.zeros(len(rows), np.int32))

        stretches = split_time_grid(self._time, times)
        options = _Options(apply, sampler)
        return self._sampler.sample(options, stretches, start, params, num, batch_size)

    def _program(self, options: _Options, bucket: int | None):
        (apply, sampler), place = options, bucket or 0
        schedule, target = self._time.schedule, self._objective.target

        def run(state, keys, given, params, times, offset):
            def predict(x_t, t):
                return apply(params, x_t, self._time.level(t), self._build(x_t, place))

            denoise = make_denoiser(predict, target, schedule)
            return take_steps(
                make_sampler(sampler), denoise, schedule, state, times, keys, offset
            )

        return run

    def _build(self, x_t: jax.Array, place: int) -> MultiscaleGraph:
        # The key is for random edges, where a schedule has them.
        return build_graphs(x_t, self.buckets[place], jax.random.key(0))

    def _layout(self, num_rows: int) -> BatchLayout:
        try:
            return make_batch_layout(self._time, num_rows, 1)
        except ValueError as error:
            raise RequestError(
                f"data: found {num_rows} clouds; allowed: at least one for each of the "
                f"{len(self.buckets)} buckets"
            ) from error
