"""A domain of 2-D points with a mark, generated together: what a new one needs."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.data.batches import take_batch
from ncgn_jax.fields import Field, whole, with_defaults
from ncgn_jax.graphs import build_graphs, join_graphs
from ncgn_jax.metrics.table import Column
from ncgn_jax.metrics.transport import wasserstein_flat
from ncgn_jax.parallel import AXIS, num_devices
from ncgn_jax.process import make_denoiser, make_sampler, take_steps
from ncgn_jax.tasks import Task, bucketed, sampling, settings
from ncgn_jax.tasks.graph_network import NetworkSettings

GRAPHS = (*settings.GRAPH_FIELDS, *settings.convolution_fields("toy"))
SHARED = (*settings.BASE_FIELDS, *GRAPHS)
SMALL = {"dmp.num_neighbors": 4, "model.width": 8, "model.num_layers": 1}
POINTS = Field("data.num_points", 16, "Points per set.", whole(2))


class Marks(NamedTuple):
    train: np.ndarray  # [set, point, (x, y, mark)]
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class MarkFacts:
    relied_on: ClassVar = ()
    scale: float


@dataclasses.dataclass(frozen=True, eq=False)
class MarkModel:
    num_points: int
    time: bucketed.BucketedTime
    objective: bucketed.Objective
    network: NetworkSettings

    def graphs(self, x_t, bucket):
        return build_graphs(x_t[..., :2], bucket, jax.random.key(0))

    def init(self, rng):
        x = jnp.zeros((1, self.num_points, 3))
        inputs = x[0], jnp.zeros(1), self.graphs(x, self.time.buckets[0])
        variables = dict(self.network.build(3).init(rng, *inputs))
        return variables.pop("params"), variables

    def loss(self, params, state, layout, batch, rng):
        keys = bucketed.row_keys(rng, batch["row"])
        data, goal = batch["data"], self.objective
        parts = bucketed.noise_rows(self.time, layout, goal, data, keys)
        pairs = zip(parts, self.time.buckets, strict=True)
        graphs = join_graphs([self.graphs(part.x_t, b) for part, b in pairs])
        x = jnp.concatenate([part.x_t.reshape(-1, 3) for part in parts])
        level = jnp.concatenate([self.time.level(part.t) for part in parts])
        network, own = self.network.build(3, AXIS), {"params": params, **state}
        output = network.apply(own, x, level, graphs, train=True)
        loss, per_bucket = bucketed.mean_loss(layout, parts, output)
        return loss, (state, per_bucket)

    def start(self, seed, rows):
        keys = bucketed.row_keys(jax.random.key(seed), rows)
        x = bucketed.draw_prior(self.time.schedule, keys, (self.num_points, 3))
        return sampling.Start(x, sampling.sample_keys(seed, rows), ())

    @functools.cached_property
    def sampler(self):
        return sampling.BucketedSampler(self.program, sampling.begin_by_name)

    def program(self, options, bucket):
        time, walker = self.time, make_sampler(options.sampler)

        def run(state, keys, given, variables, times, offset):
            def predict(x_t, t):
                graph = self.graphs(x_t, time.buckets[bucket])
                inputs = x_t.reshape(-1, 3), time.level(t), graph
                output = self.network.build(3).apply(variables, *inputs)
                return output.reshape(x_t.shape)

            denoise = make_denoiser(predict, self.objective.target, time.schedule)
            walk = time.schedule, state, times, keys, offset
            return take_steps(walker, denoise, *walk)

        return run


class MarkTask(Task[Marks, MarkFacts]):
    name, facts_type = "marks", MarkFacts
    columns = (Column("w", "W", 1, 3, "transport"),)
    fields = with_defaults((POINTS, *SHARED), SMALL)

    def __init__(self, config, dataset, facts=None):
        super().__init__(config, dataset, facts)
        time = settings.make_time(config, config.data.num_points, 2)
        parts = settings.make_objective(config), settings.make_network_settings(config)
        self.model = MarkModel(config.data.num_points, time, *parts)
        size = config.train.batch_size
        self.layout = bucketed.make_batch_layout(time, size, num_devices())
        self.bucket_names = bucketed.bucket_names(time.buckets)

    @classmethod
    def load_dataset(cls, config):
        angle = np.random.default_rng(0).uniform(0, 6.28, (60, config.data.num_points))
        marks = np.stack([np.cos(angle), np.sin(angle), np.sign(np.sin(angle))], -1)
        return Marks(*np.split(marks.astype(np.float32), [40]))

    learn = staticmethod(lambda config, data: MarkFacts(float(data.train.std())))

    def describe_data(self):
        return ["data: marked points on a circle"]

    def describe_model(self):
        return []

    def init(self, rng):
        return self.model.init(rng)

    def batch(self, step, rows):
        size = self.config.train.batch_size
        data = self.dataset.train / np.float32(self.facts.scale)
        own = take_batch(data, np.zeros(40), step, size, self.config.seed, rows=rows)
        return {"data": own["data"], "row": np.arange(size, dtype=np.int32)[rows]}

    def loss(self, params, model_state, batch, rng):
        return self.model.loss(params, model_state, self.layout, batch, rng)

    def sample(self, params, model_state, num_samples, seed):
        own, time = settings.make_sampling(self.config), self.model.time
        times = own.times(time.schedule, 3 * self.model.num_points)
        start, shared = functools.partial(self.model.start, seed), {"params": params}
        parts = sampling.split_time_grid(time, times), start, shared | model_state
        draw, size = self.model.sampler.sample, own.batch_size
        points = draw(own, *parts, num_samples, size)
        return {"points": points * np.float32(self.facts.scale)}

    def caption(self):
        return {"data_set": "marked circle", "split": "test", "sizes": "20 test sets"}

    def evaluate(self, samples):
        sets = {name: arrays["points"] for name, arrays in samples.items()}
        sets["train"] = self.dataset.train
        return {
            k: {"w": wasserstein_flat(s, self.dataset.test)} for k, s in sets.items()
        }

    def draw(self, params, model_state, samples, folder):
        return []
