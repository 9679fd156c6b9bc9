"""Models of point clouds: network, loss and sampler, without data and configuration.

Positions are what is generated, so clusters and neighbours are found anew at every
step, on the device (arXiv 2507.09391, section 5.1). Clouds have unit variance here;
times `scale` they are those of the data, after these were normalised (`sets.Frame`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs import (
    MultiscaleGraph,
    NoiseBucket,
    Pairing,
    build_graphs,
    join_graphs,
)
from ncgn_jax.graphs.layouts import scale_bucket
from ncgn_jax.models.apply import apply_network
from ncgn_jax.parallel import AXIS, device_index
from ncgn_jax.point_clouds.facts import CloudFacts
from ncgn_jax.point_clouds.noise_level import NoiseLevelHead, cloud_statistics
from ncgn_jax.process import (
    Denoiser,
    interpolate,
    make_denoiser,
    make_sampler,
    take_steps,
    to_velocity,
)
from ncgn_jax.process.given import keep_given
from ncgn_jax.process.likelihood import (
    backward_flow,
    log_normal,
    pack,
    random_signs,
    unpack,
)
from ncgn_jax.process.steps import flow_velocity
from ncgn_jax.tasks.bucketed import (
    BatchLayout,
    BucketedTime,
    Objective,
    describe_process,
    draw_noise,
    draw_prior,
    mean_loss,
    mix_rows,
    row_keys,
)
from ncgn_jax.tasks.classes import draw_classes, hide_classes
from ncgn_jax.tasks.flow_map import FlowMap, Question
from ncgn_jax.tasks.graph_network import GraphSettings, NetworkSettings
from ncgn_jax.tasks.sampling import (
    FLOW_MAP,
    BucketedSampler,
    Reached,
    Sampling,
    Start,
    Stretch,
    as_times,
    begin_by_name,
    guide,
    sample_keys,
    split_time_grid,
)

Tree = Any
DIM = 3
NOISE_CONDITIONINGS = ("time", "none", "inferred")
# Where the parameters of the head that infers the noise level stand.
LEVEL_HEAD = "noise_level"


class CloudSampler(NamedTuple):
    """What a compiled stretch of the sampler depends on besides shapes."""

    sampler: str
    data_limit: float | None
    guidance: float
    keeps: bool = False
    num_probes: int | None = None  # of the likelihood; 0 for the exact trace
    span: float = 0.0  # of steps whose mean velocity is asked for


@dataclasses.dataclass(frozen=True, eq=False)
class PointCloudModel:
    """A generative model of point clouds.

    Attributes:
      num_points: Points per cloud.
      facts: What the training clouds taught.
      time: Process and noise buckets.
      objective: Target and loss.
      graphs: How the buckets' graphs were chosen.
      network_settings: Size and kind of the network.
      class_conditional: Whether the network gets the class of a cloud.
      label_dropout: Share of training clouds whose class is hidden.
      noise_conditioning: One of `NOISE_CONDITIONINGS`.
      pairing: How training pairs points and noise.
      flow_map: Long steps that the network knows, None for none.
    """

    num_points: int
    facts: CloudFacts
    time: BucketedTime[NoiseBucket]
    objective: Objective
    graphs: GraphSettings
    network_settings: NetworkSettings
    class_conditional: bool = False
    label_dropout: float = 0.1
    noise_conditioning: str = "time"
    pairing: Pairing = Pairing()
    flow_map: FlowMap | None = None

    @property
    def num_classes(self) -> int:
        """Classes that the network distinguishes, 0 for none."""
        return len(self.facts.class_names) if self.class_conditional else 0

    @property
    def is_blind(self) -> bool:
        """Whether neither network nor graphs get the noise level of the time."""
        return self.noise_conditioning != "time"

    def describe(self) -> list[str]:
        """Describes graphs and network, a line each."""
        process = describe_process(self.objective, self.time.schedule.name)
        process += f"; {self.pairing.describe()}"
        if self.flow_map is not None:
            process += f"; {self.flow_map.describe()}"
        return [
            self.graphs.describe(self.time.buckets),
            f"{self.network_settings.describe()}; {process}",
        ]

    def network(self, axis_name: str | None = None) -> nn.Module:
        """Returns the network; `axis_name` joins batch norm over devices.

        Args:
          axis_name: Axis over devices; None for one device.
        """
        return self.network_settings.build(DIM, axis_name)

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and batch statistics.

        Args:
          rng: Key of the weights.
        """
        clouds = jax.random.normal(rng, (1, self.num_points, DIM))
        graph = build_graphs(clouds, self.time.buckets[0], rng)
        label = jnp.zeros((1,), jnp.int32)
        variables = self.network().init(
            rng, self._features(clouds, label), jnp.zeros((1,)), graph
        )
        variables = dict(variables)
        params = variables.pop("params")
        if self.is_blind:
            head = NoiseLevelHead().init(rng, cloud_statistics(clouds))
            params = {**params, LEVEL_HEAD: head["params"]}
        return params, variables

    def loss(
        self,
        params: Tree,
        model_state: Tree,
        layout: BatchLayout,
        batch: dict[str, jax.Array],
        rng: jax.Array,
        average: Tree | None = None,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's weighted loss, new statistics, and loss per bucket.

        The loss of a blind model includes the mean squared error of the inferred level.
        That of one with a flow map has its parts after the buckets.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          layout: Which rows of a batch belong to which bucket.
          batch: `data` [row, point, 3], `label` [row], and `row`, the number of each
            row in the global batch.
          rng: Key of the step.
          average: Weights that compute the targets of a flow map; None for `params`.
        """
        keys, keys_label = jnp.moveaxis(row_keys(rng, batch["row"], 2), 1, 0)
        label = batch["label"]
        if self.num_classes:
            label = hide_classes(
                label, keys_label, self.label_dropout, self.num_classes
            )
        noise, keys_time = draw_noise(batch["data"], keys, self.pairing)
        mixed = self.time, layout, self.objective, batch["data"], noise, keys_time
        parts = mix_rows(*mixed)
        asked = [
            Question(i, rows.x_t, rows.t, jnp.zeros_like(rows.t))
            for i, rows in enumerate(parts)
        ]
        labels = [layout.take(label, i) for i in range(len(layout.counts))]
        graph_rng = jax.random.fold_in(rng, device_index())
        if self.flow_map is not None:
            own = params if average is None else average
            velocities = functools.partial(
                self._velocities,
                {"params": own, **model_state},
                labels[len(parts) :],
                graph_rng,
            )
            steps, targets = self.flow_map.noise_steps(*mixed, velocities)
            asked, parts = asked + steps, parts + targets
        inputs, level, graph, span = self._join(asked, labels, graph_rng)
        shown, level_error = level, jnp.zeros(())
        if self.is_blind:
            x_t = jnp.concatenate([rows.x_t for rows in parts])
            inferred = self.infer_level(params, x_t)
            shown, level_error = (
                self._shown(inferred),
                jnp.mean((inferred - level) ** 2),
            )
        output, model_state = self.network(AXIS).apply(
            {"params": params, **model_state},
            inputs,
            shown,
            graph,
            **span,
            train=True,
            mutable=list(model_state),
        )
        loss, per_bucket = mean_loss(layout, parts, output)
        if self.is_blind:
            loss = loss + level_error
        return loss, (dict(model_state), per_bucket)

    def _join(
        self, asked: Sequence[Question], labels: Sequence[jax.Array], rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, MultiscaleGraph, dict[str, Any]]:
        """Returns inputs, level and graphs of all questions, and what else is told."""
        graphs, inputs = [], []
        for i, (question, label) in enumerate(zip(asked, labels, strict=True)):
            bucket = self.time.buckets[question.bucket]
            key = jax.random.fold_in(rng, i)
            graphs.append(build_graphs(question.x, bucket, key))
            inputs.append(self._features(question.x, label))
        level = jnp.concatenate([self.time.level(q.t) for q in asked])
        span: dict[str, Any] = {}
        if self.flow_map is not None:
            span["span"] = jnp.concatenate([q.span for q in asked])
        return jnp.concatenate(inputs), level, join_graphs(graphs), span

    def _velocities(
        self,
        variables: Tree,
        labels: Sequence[jax.Array],
        rng: jax.Array,
        asked: Sequence[Question],
    ) -> list[jax.Array]:
        """Answers questions about mean velocities."""
        inputs, level, graph, span = self._join(asked, labels, rng)
        output = apply_network(self.network(), variables, inputs, level, graph, **span)
        ends = np.cumsum([len(q.x) * self.num_points for q in asked])[:-1]
        kind, schedule = self.objective.target, self.time.schedule
        return [
            to_velocity(kind, part.reshape(q.x.shape), q.x, schedule, q.t)
            for q, part in zip(asked, jnp.split(output, ends), strict=True)
        ]

    def apply(
        self,
        variables: Tree,
        bucket: int,
        x_t: jax.Array,
        t: jax.Array,
        label: jax.Array,
        mutable: Sequence[str] = (),
        span: float = 0.0,
    ) -> tuple[jax.Array, MultiscaleGraph, Tree]:
        """Runs the network on noisy clouds with the static graphs of one bucket.

        Args:
          variables: Parameters and batch statistics.
          bucket: The bucket of the graphs.
          x_t: Noisy clouds, [cloud, point, 3].
          t: Times, [cloud], all alike as in a sampler.
          label: Classes, int32 [cloud].
          mutable: Flax collections to return.
          span: Length in t of the step whose mean velocity is asked for; 0 unless the
            model has a flow map.

        Returns:
          The prediction [cloud, point, 3], the graphs, and the collections.
        """
        # Random edges, where a baseline has them, follow the time.
        moment = (t[0] * 2**20).astype(jnp.int32)
        rng = jax.random.fold_in(jax.random.key(0), moment)
        graph = build_graphs(x_t, self.time.buckets[bucket], rng)
        shown = self.time.level(t)
        if self.is_blind:
            shown = self._shown(self.infer_level(variables["params"], x_t))
        told: dict[str, Any] = (
            {} if self.flow_map is None else {"span": jnp.full_like(t, span)}
        )
        output, collections = self.network().apply(
            variables,
            self._features(x_t, label),
            shown,
            graph,
            **told,
            mutable=list(mutable),
        )
        return output.reshape(x_t.shape), graph, collections

    def infer_level(self, params: Tree, x_t: jax.Array) -> jax.Array:
        """Infers the noise variable of clouds from the clouds, [cloud] in (0, 1).

        Args:
          params: Parameters.
          x_t: Noisy clouds, [cloud, point, 3].
        """
        statistics = jax.lax.stop_gradient(cloud_statistics(x_t))
        head = {"params": params[LEVEL_HEAD]}
        return apply_network(NoiseLevelHead(), head, statistics)

    def infer_bucket(self, params: Tree, x_t: jax.Array) -> jax.Array:
        """Infers the bucket from the mean level of some clouds, int [].

        Args:
          params: Parameters.
          x_t: Noisy clouds, [cloud, point, 3].
        """
        level = jnp.mean(self.infer_level(params, x_t))
        lows = jnp.asarray([bucket.low for bucket in self.time.buckets[1:]])
        return jnp.searchsorted(lows, level, side="right")

    def denoiser(
        self,
        predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
        label: jax.Array,
        guidance: float,
        data_limit: float | None,
    ) -> Denoiser:
        """Returns denoise(x_t, t) for clouds of given classes, guidance included.

        Args:
          predict: predict(x_t, t, label) returns the network's prediction.
          label: Classes, int32 [cloud].
          guidance: g of `tasks.sampling.guide`.
          data_limit: See `process.make_denoiser`.
        """

        def guided(x_t, t):
            told = predict(x_t, t, label)
            if not (self.num_classes and guidance):
                return told
            free = predict(x_t, t, jnp.full_like(label, self.num_classes))
            return guide(told, free, guidance)

        return make_denoiser(
            guided, self.objective.target, self.time.schedule, data_limit
        )

    def draw_labels(self, num_samples: int, seed: int) -> np.ndarray:
        """Draws classes as often as in training; zeros without classes, int32.

        Args:
          num_samples: Number of labels.
          seed: Seed of the draws.
        """
        if not self.num_classes:
            return np.zeros(num_samples, np.int32)
        return draw_classes(self.facts.class_counts, num_samples, seed)

    def resized(self, num_points: int) -> "PointCloudModel":
        """Returns the model for clouds of another number of points.

        Larger clouds get graphs of the size that the network knows, with more points to
        a supernode; those of 2,048 points are then nearer to real ones than with
        supernodes in proportion, in two thirds of the time. Connectivities without
        coarse graphs, and smaller clouds, get graphs in proportion.

        Args:
          num_points: Points of a cloud, at least 2.
        """
        if num_points == self.num_points:
            return self
        keep_size = self.graphs.connectivity == "dmp"
        buckets = tuple(
            scale_bucket(bucket, num_points, keep_size=keep_size)
            for bucket in self.time.buckets
        )
        time = dataclasses.replace(self.time, buckets=buckets)
        return dataclasses.replace(self, num_points=num_points, time=time)

    def sample(
        self,
        params: Tree,
        model_state: Tree,
        label: np.ndarray,
        seed: int,
        sampling: Sampling,
    ) -> np.ndarray:
        """Generates clouds in the units of the data, float32 [cloud, point, 3].

        Args:
          params: Parameters, EMA or raw.
          model_state: Batch statistics.
          label: Class of each cloud, int32 [cloud].
          seed: Seed of the noise.
          sampling: The sampler's settings.
        """
        points = self._sampler.sample(
            _options(sampling),
            self.stretches(sampling),
            functools.partial(self.start, label, seed),
            {"params": params, **model_state},
            len(label),
            sampling.batch_size,
        )
        return points * np.float32(self.facts.scale)

    def refine(
        self,
        params: Tree,
        model_state: Tree,
        points: np.ndarray,
        is_given: np.ndarray,
        label: np.ndarray,
        seed: int,
        sampling: Sampling,
        level: float,
    ) -> np.ndarray:
        """Noises clouds up to a level and generates them anew, around some points.

        Given points are moved along their interpolants (replacement: Song et al. 2021,
        arXiv 2011.13456, appendix I.2), and are returned unchanged.

        Args:
          params: Parameters, EMA or raw.
          model_state: Batch statistics.
          points: Clouds in the units of the data, [cloud, point, 3].
          is_given: Which points are given, [cloud, point].
          label: Class of each cloud, int32 [cloud].
          seed: Seed of the noise.
          sampling: The sampler's settings.
          level: Signal level up to which noise is added, in [0, 1).

        Returns:
          Clouds in the units of the data, float32 [cloud, point, 3].
        """
        schedule, kept = self.time.schedule, is_given[..., None]
        data = np.asarray(points, np.float32) / np.float32(self.facts.scale)
        t = float(schedule.time_of_signal_level(level))

        def start(rows: np.ndarray) -> Start:
            clean, keys = jnp.asarray(data[rows]), sample_keys(seed, rows)
            noise = jnp.asarray(self.start(label, seed, rows).x)
            noise = self.pairing(clean, noise, keys)
            x = interpolate(schedule, jnp.full(len(rows), t), clean, noise)
            given = label[rows], kept[rows], data[rows], np.asarray(noise)
            return Start(np.asarray(x), keys, given)

        found = self._sampler.sample(
            _options(sampling)._replace(keeps=True),
            self.stretches(sampling, t),
            start,
            {"params": params, **model_state},
            len(label),
            sampling.batch_size,
        )
        return np.where(kept, points, found * np.float32(self.facts.scale))

    def to_noise(
        self,
        params: Tree,
        model_state: Tree,
        points: np.ndarray,
        label: np.ndarray,
        sampling: Sampling,
    ) -> np.ndarray:
        """Runs the flow backwards, from clouds to their noise, [cloud, point, 3].

        Args:
          params: Parameters.
          model_state: Batch statistics.
          points: Clouds in the units of the data, [cloud, point, 3].
          label: Class of each cloud, int32 [cloud].
          sampling: The sampler's settings; its steps must be free of noise.
        """
        x = np.asarray(points, np.float32) / np.float32(self.facts.scale)
        options, way = _options(sampling), self._backwards(sampling)
        return self._run(params, model_state, x, label, options, way, sampling)

    def from_noise(
        self,
        params: Tree,
        model_state: Tree,
        noise: np.ndarray,
        label: np.ndarray,
        sampling: Sampling,
    ) -> np.ndarray:
        """Runs the flow from given noise; inverts `to_noise` up to its steps.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          noise: Noise, [cloud, point, 3].
          label: Number of the class of each cloud.
          sampling: Steps and guidance of the flow.
        """
        options, way = _options(sampling), self.stretches(sampling)
        points = self._run(params, model_state, noise, label, options, way, sampling)
        return points * np.float32(self.facts.scale)

    def log_likelihood(
        self,
        params: Tree,
        model_state: Tree,
        points: np.ndarray,
        label: np.ndarray,
        seed: int,
        sampling: Sampling,
        num_probes: int,
    ) -> np.ndarray:
        """Returns the log density of clouds under the flow, in nats, [cloud].

        The density is that of the points in their order and in the units of the data.
        Where graphs change along the way the flow jumps, which the divergence does not
        see.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          points: Clouds in the units of the data, [cloud, point, 3].
          label: Class of each cloud, int32 [cloud].
          seed: Seed of the probes.
          sampling: The sampler's settings, of which the times are used.
          num_probes: Probes of the trace, see `process.likelihood`; 0 for the exact
            trace, which takes 3 num_points times as long as a step.
        """
        scale, shape = np.float32(self.facts.scale), (self.num_points, DIM)
        x = np.asarray(points, np.float32) / scale
        packed = np.asarray(pack(jnp.asarray(x), jnp.zeros(len(x))))
        options = _options(sampling)._replace(num_probes=num_probes)
        way = self._backwards(sampling)
        states = self._run(
            params, model_state, packed, label, options, way, sampling, seed
        )
        noise, change = unpack(jnp.asarray(states), shape)
        alpha, sigma, _, _ = self.time.schedule.coefficients(0.0)
        deviation = float(np.sqrt(alpha**2 + sigma**2))
        found = log_normal(noise, deviation) - change
        return np.asarray(found) - noise[0].size * np.log(scale)

    def walk(
        self,
        params: Tree,
        model_state: Tree,
        start: Start,
        stretches: Sequence[Stretch],
        sampling: Sampling,
    ) -> Iterator[Reached]:
        """Samples clouds stretch by stretch; yields the state after each.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          start: From `start`.
          stretches: From `stretches`.
          sampling: The sampler's settings.
        """
        variables = {"params": params, **model_state}
        return self._sampler.walk(_options(sampling), stretches, start, variables)

    def start(
        self,
        label: np.ndarray,
        seed: int,
        rows: np.ndarray,
    ) -> Start:
        """Returns the noise of some clouds.

        Args:
          label: Class of every cloud, int32 [cloud].
          seed: Seed of the samples.
          rows: Numbers of the clouds, int [row].
        """
        keys = jax.random.split(jax.random.key(seed), len(label))[rows]
        x = draw_prior(self.time.schedule, keys, (self.num_points, DIM))
        return Start(x, sample_keys(seed, rows), label[rows])

    def stretches(self, sampling: Sampling, start: float = 0.0) -> list[Stretch]:
        """Cuts the sampler's time grid; a blind model chooses buckets on its way.

        Args:
          sampling: The sampler's settings.
          start: Time to start at; the grid's times after it are kept.
        """
        if sampling.sampler == FLOW_MAP and self.flow_map is not None:
            return self.flow_map.stretches(self.time, sampling.num_steps)
        times = sampling.times(self.time.schedule, self.num_points * DIM)
        if start > 0:
            times = np.concatenate([[start], times[times > start]])
        if self.is_blind:
            return [Stretch(None, 0, as_times(times))]
        return split_time_grid(self.time, times)

    def _backwards(self, sampling: Sampling) -> list[Stretch]:
        """Returns the sampler's stretches from data to noise."""
        return [
            Stretch(bucket, offset, times[::-1])
            for bucket, offset, times in reversed(self.stretches(sampling))
        ]

    def _run(
        self,
        params: Tree,
        model_state: Tree,
        x: np.ndarray,
        label: np.ndarray,
        options: CloudSampler,
        way: Sequence[Stretch],
        sampling: Sampling,
        seed: int = 0,
    ) -> np.ndarray:
        """Carries given states along some stretches, at unit variance."""

        def start(rows: np.ndarray) -> Start:
            return Start(x[rows], sample_keys(seed, rows), label[rows])

        return self._sampler.sample(
            options,
            way,
            start,
            {"params": params, **model_state},
            len(x),
            sampling.batch_size,
        )

    @functools.cached_property
    def _sampler(self) -> BucketedSampler:
        return BucketedSampler(self._program, begin_by_name)

    def _program(self, options: CloudSampler, bucket: int | None):
        sampler = make_sampler(options.sampler)

        def run(state, keys, given, variables, times, offset):
            label, *kept = given if options.keeps else (given,)

            def predict(x_t, t, label):
                if bucket is None:
                    return self._predict_inferred(variables, x_t, t, label)
                found = self.apply(variables, bucket, x_t, t, label, span=options.span)
                return found[0]

            denoise = self.denoiser(
                predict, label, options.guidance, options.data_limit
            )
            if options.num_probes is not None:
                shape, probes = (self.num_points, DIM), None
                if options.num_probes:
                    probes = random_signs(keys, options.num_probes, shape)
                velocity = functools.partial(flow_velocity, denoise, self.time.schedule)
                x = backward_flow(velocity, state.x, shape, times, probes)
                return state._replace(x=x)
            if kept:
                denoise = keep_given(denoise, *kept, hold=False)
            return take_steps(
                sampler, denoise, self.time.schedule, state, times, keys, offset
            )

        return run

    def _predict_inferred(self, variables, x_t, t, label) -> jax.Array:
        """Predicts with the bucket that a device's clouds show on average."""
        branches = [
            lambda *args, i=i: self.apply(variables, i, *args)[0]
            for i in range(len(self.time.buckets))
        ]
        chosen = self.infer_bucket(variables["params"], x_t)
        return jax.lax.switch(chosen, branches, x_t, t, label)

    def _shown(self, inferred: jax.Array) -> jax.Array:
        """Returns the noise variable that the network of a blind model sees."""
        if self.noise_conditioning == "none":
            return jnp.zeros_like(inferred)
        return jax.lax.stop_gradient(inferred)

    def _features(self, clouds: jax.Array, label: jax.Array) -> jax.Array:
        """Returns a point's inputs: its position and the class of its cloud."""
        flat = clouds.reshape(-1, DIM)
        if not self.num_classes:
            return flat
        # The class after the last is `none`, for guidance.
        hot = jax.nn.one_hot(label, self.num_classes + 1)
        return jnp.concatenate(
            [flat, jnp.repeat(hot, clouds.shape[1], axis=0)], axis=-1
        )


def _options(sampling: Sampling) -> CloudSampler:
    if sampling.sampler == FLOW_MAP:
        # Euler's step along the mean velocity ends where the path does.
        return CloudSampler("euler", None, 0.0, span=1.0 / sampling.num_steps)
    return CloudSampler(sampling.sampler, sampling.data_limit, sampling.guidance)
