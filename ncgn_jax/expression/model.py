"""Models of expression fields: network, loss and sampler, without data set.

Positions are given and only expression is noised (arXiv 2507.09391, section 5.2), so
clusters and neighbours of every noise bucket are found once for each layout; jitted
steps gather them. Fields have zero mean and unit variance for each gene here.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.expression.conditioning import random_masks
from ncgn_jax.expression.facts import FieldFacts
from ncgn_jax.graphs import (
    Connectivity,
    NoiseBucket,
    connect_layouts,
    join_graphs,
    take_graphs,
)
from ncgn_jax.models.apply import apply_network
from ncgn_jax.parallel import AXIS
from ncgn_jax.process import make_denoiser, make_sampler, take_steps
from ncgn_jax.process.given import keep_given
from ncgn_jax.tasks.bucketed import (
    BatchLayout,
    BucketedTime,
    Objective,
    describe_process,
    draw_prior,
    mean_loss,
    noise_rows,
    row_keys,
)
from ncgn_jax.tasks.graph_network import GraphSettings, NetworkSettings
from ncgn_jax.tasks.sampling import (
    BucketedSampler,
    Reached,
    Sampling,
    Start,
    Stretch,
    begin_by_name,
    sample_keys,
    split_time_grid,
)

Tree = Any


class Layouts(NamedTuple):
    """Positions that fields live on, with their graphs.

    Attributes:
      positions: [layout, node, dim], padded with zeros.
      mask: True for real nodes, [layout, node].
      graphs: Graphs of all layouts, one entry for each noise bucket.
    """

    positions: np.ndarray
    mask: np.ndarray
    graphs: tuple[Connectivity, ...]


class Fixed(NamedTuple):
    """What some samples must keep to.

    Attributes:
      layout: Layout of each sample, int [sample].
      given: True for given entries, [sample, node, gene].
      values: Values where given, anything elsewhere, in the units of the data.
    """

    layout: np.ndarray
    given: np.ndarray
    values: np.ndarray


class FieldSampler(NamedTuple):
    """What a compiled stretch of the sampler depends on besides shapes."""

    sampler: str
    data_limit: float | None
    hold: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ExpressionModel:
    """A generative model of expression fields.

    Attributes:
      facts: What the training fields taught.
      axis_scale: Factor of each axis of the positions before graphs are found.
      time: Process and noise buckets.
      objective: Target and loss.
      graphs: How the buckets' graphs were chosen.
      network_settings: Size and kind of the network.
      conditional: Whether the network sees which entries are given.
    """

    facts: FieldFacts
    axis_scale: tuple[float, ...]
    time: BucketedTime[NoiseBucket]
    objective: Objective
    graphs: GraphSettings
    network_settings: NetworkSettings
    conditional: bool = False

    @property
    def num_genes(self) -> int:
        """Genes of a field."""
        return len(self.facts.genes)

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        facts = self.facts
        return np.asarray(facts.mean, np.float32), np.asarray(facts.scale, np.float32)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Takes fields from the units of the data to those of training.

        Args:
          values: Fields [..., gene].
        """
        mean, scale = self._moments
        found = np.subtract(values, mean, dtype=np.float32)
        found /= scale  # in place, because fields of many genes are large
        return found

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Takes fields from the units of training to those of the data.

        Args:
          values: Fields [..., gene].
        """
        mean, scale = self._moments
        return values * scale + mean

    def connect(
        self, layouts: Sequence[np.ndarray], num_nodes: int, *, keep_size: bool = False
    ) -> Layouts:
        """Finds the graphs of some layouts in every noise bucket.

        Args:
          layouts: Positions of each, [node, dim].
          num_nodes: Nodes that they are padded to.
          keep_size: Whether layouts of other sizes than in training get as many
            supernodes, rather than in proportion.
        """
        factors = np.asarray(self.axis_scale, np.float32)
        scaled = [points * factors for points in layouts]
        positions = np.zeros((len(layouts), num_nodes, len(factors)), np.float32)
        mask = np.zeros(positions.shape[:2], bool)
        for i, points in enumerate(layouts):
            positions[i, : len(points)], mask[i, : len(points)] = points, True
        # Now, also where the first who asks for them is being traced; by compiled
        # programs, where ensure_compile_time_eval runs their constants one by one.
        with jax.core.eval_context():
            graphs = connect_layouts(
                scaled, self.time.buckets, num_nodes, keep_size=keep_size
            )
        return Layouts(positions, mask, graphs)

    def describe(self) -> list[str]:
        """Describes graphs and network, a line each."""
        process = describe_process(self.objective, self.time.schedule.name)
        return [
            self.graphs.describe(self.time.buckets),
            f"{self.network_settings.describe()}; {process}",
        ]

    def network(self, axis_name: str | None = None) -> nn.Module:
        """Returns the network; `axis_name` joins batch norm over devices.

        Args:
          axis_name: Axis over devices; None for one device.
        """
        return self.network_settings.build(self.num_genes, axis_name)

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and batch statistics.

        Args:
          rng: Key of the weights.
        """
        index = np.zeros(1, np.int32)
        layouts = self.connect(self.facts.positions()[:1], self.facts.num_nodes)
        x = jax.random.normal(rng, (1, layouts.mask.shape[1], self.num_genes))
        features = self._features(
            x, jnp.asarray(layouts.positions[index]), jnp.zeros(x.shape, bool)
        )
        graph = take_graphs(layouts.graphs[0], index)
        variables = dict(self.network().init(rng, features, jnp.zeros((1,)), graph))
        return variables.pop("params"), variables

    def loss(
        self,
        params: Tree,
        model_state: Tree,
        layouts: Layouts,
        layout: BatchLayout,
        batch: dict[str, jax.Array],
        rng: jax.Array,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's weighted loss, new statistics, and loss per bucket.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          layouts: Layouts of the training fields.
          layout: Which rows of a batch belong to which bucket.
          batch: `data` [row, node, gene], `layout` [row], and `row`, the number of
            each row in the global batch.
          rng: Key of the step.
        """
        keys, keys_given = jnp.moveaxis(row_keys(rng, batch["row"], 2), 1, 0)
        parts = noise_rows(self.time, layout, self.objective, batch["data"], keys)
        positions, real = jnp.asarray(layouts.positions), jnp.asarray(layouts.mask)
        graphs, inputs, counted = [], [], []
        for i, rows in enumerate(parts):
            data, index, own_keys = (
                layout.take(r, i) for r in (batch["data"], batch["layout"], keys_given)
            )
            graphs.append(take_graphs(layouts.graphs[i], index))
            given = jnp.zeros(data.shape, bool)
            if self.conditional:
                given = random_masks(own_keys, positions[index], self.num_genes)
            x_t = jnp.where(given, data, rows.x_t)
            inputs.append(self._features(x_t, positions[index], given))
            counted.append(real[index][:, :, None] & ~given)
        output, model_state = self.network(AXIS).apply(
            {"params": params, **model_state},
            jnp.concatenate(inputs),
            jnp.concatenate([self.time.level(rows.t) for rows in parts]),
            join_graphs(graphs),
            train=True,
            mutable=list(model_state),
        )
        loss, per_bucket = mean_loss(layout, parts, output, jnp.concatenate(counted))
        return loss, (dict(model_state), per_bucket)

    def sample(
        self,
        params: Tree,
        model_state: Tree,
        layouts: Layouts,
        fixed: Fixed,
        seed: int,
        sampling: Sampling,
        *,
        hold: bool,
    ) -> np.ndarray:
        """Generates fields in the units of the data, float32 [sample, node, gene].

        Args:
          params: Parameters, EMA or raw.
          model_state: Batch statistics.
          layouts: Layouts of the samples.
          fixed: What the samples must keep to; given entries come back unchanged.
          seed: Seed of the noise.
          sampling: The sampler's settings.
          hold: Whether the network sees given entries clean, see
            `process.given.keep_given`.
        """
        found = self._sampler.sample(
            self._options(sampling, hold),
            self.stretches(sampling, layouts),
            functools.partial(self.start, layouts, fixed, seed),
            self._shared(params, model_state, layouts),
            len(fixed.layout),
            sampling.batch_size,
        )
        generated = np.where(fixed.given, fixed.values, self.undo(found))
        real = layouts.mask[fixed.layout][:, :, None]
        return np.where(real, generated, 0).astype(np.float32)

    def walk(
        self,
        params: Tree,
        model_state: Tree,
        layouts: Layouts,
        start: Start,
        stretches: Sequence[Stretch],
        sampling: Sampling,
        *,
        hold: bool,
    ) -> Iterator[Reached]:
        """Samples fields stretch by stretch; yields the state after each.

        States are in the units of training; their given entries are noised.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          layouts: Positions of the nodes, with their graphs.
          start: Noise, keys and given entries.
          stretches: What `stretches` returns.
          sampling: Sampler and its settings.
          hold: Whether given values stand in the noisy field as they are.
        """
        shared = self._shared(params, model_state, layouts)
        options = self._options(sampling, hold)
        return self._sampler.walk(options, stretches, start, shared)

    def start(
        self, layouts: Layouts, fixed: Fixed, seed: int, rows: np.ndarray
    ) -> Start:
        """Returns the noise of some fields, and what they must keep to.

        Args:
          layouts: Layouts of the samples.
          fixed: What all samples must keep to.
          seed: Seed of the samples.
          rows: Numbers of the samples, int [row].
        """
        own = jax.random.split(jax.random.key(seed), len(fixed.layout))[rows]
        noise = draw_prior(self.time.schedule, own, fixed.given.shape[1:])
        index = fixed.layout[rows]
        data = self.standardise(fixed.values[rows])
        given = (noise, fixed.given[rows], data, layouts.positions[index], index)
        return Start(noise, sample_keys(seed, rows), given)

    def stretches(self, sampling: Sampling, layouts: Layouts) -> list[Stretch]:
        """Cuts the sampler's time grid where the bucket changes.

        Args:
          sampling: Sampler and its settings.
          layouts: Positions of the nodes, with their graphs.
        """
        dim = layouts.mask.shape[1] * self.num_genes
        return split_time_grid(self.time, sampling.times(self.time.schedule, dim))

    def prior(self, count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Draws the noise at t = 0 of some fields, [field, node, gene].

        Args:
          count: Number of fields.
          shape: Nodes and genes of a field.
          seed: Seed of the noise.
        """
        keys = jax.random.split(jax.random.key(seed), count)
        return draw_prior(self.time.schedule, keys, shape)

    @functools.cached_property
    def _sampler(self) -> BucketedSampler:
        return BucketedSampler(self._program, begin_by_name)

    def _options(self, sampling: Sampling, hold: bool) -> FieldSampler:
        return FieldSampler(sampling.sampler, sampling.data_limit, hold)

    def _shared(self, params: Tree, model_state: Tree, layouts: Layouts) -> Tree:
        return layouts.graphs, {"params": params, **model_state}

    def _program(self, options: FieldSampler, bucket: int | None):
        if bucket is None:
            raise ValueError("graphs of fields belong to a bucket")
        sampler = make_sampler(options.sampler)

        def run(state, keys, start, shared, times, offset):
            noise, given, data, positions, index = start
            graphs, variables = shared
            graph = take_graphs(graphs[bucket], index)

            def predict(x_t, t):
                output = apply_network(
                    self.network(),
                    variables,
                    self._features(x_t, positions, given),
                    self.time.level(t),
                    graph,
                )
                return output.reshape(x_t.shape)

            denoise = make_denoiser(
                predict, self.objective.target, self.time.schedule, options.data_limit
            )
            denoise = keep_given(denoise, given, data, noise, hold=options.hold)
            return take_steps(
                sampler, denoise, self.time.schedule, state, times, keys, offset
            )

        return run

    def _features(
        self, x_t: jax.Array, positions: jax.Array, given: jax.Array
    ) -> jax.Array:
        """Returns a node's inputs: expression, position, and what is given if seen."""
        parts = [x_t, positions]
        if self.conditional:
            parts.append(given.astype(x_t.dtype))
        features = jnp.concatenate(parts, axis=-1)
        return features.reshape(-1, features.shape[-1])
