"""A domain of 2-D points with a mark, generated together: what a new one needs."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax import fields
from ncgn_jax.data.batches import take_batch
from ncgn_jax.fields import Field, whole, with_defaults
from ncgn_jax.graphs import build_graphs, join_graphs
from ncgn_jax.metrics.table import Column
from ncgn_jax.metrics.transport import wasserstein_flat
from ncgn_jax.parallel import AXIS, num_devices
from ncgn_jax.process import integrate, make_denoiser, make_sampler_step
from ncgn_jax.tasks import Task, bucketed, sampling, settings
from ncgn_jax.tasks.graph_network import NetworkSettings

SHARED = (*settings.BASE_FIELDS, *settings.GRAPH_FIELDS, *settings.CONVOLUTION_FIELDS)
FIELDS = with_defaults(
    (Field("data.num_points", 16, "Points per set.", whole(2)), *SHARED),
    {"dmp.num_neighbors": 4, "model.width": 8, "model.num_layers": 1},
)


def default_config():
    return fields.default_config("marks", FIELDS)


class Marks(NamedTuple):
    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class MarkModel:
    """Points [row, point, (x, y, mark)]; graphs come from the first two."""

    num_points: int
    time: bucketed.BucketedTime
    objective: bucketed.Objective
    network: NetworkSettings

    def graphs(self, x_t, bucket):
        return build_graphs(x_t[..., :2], bucket, jax.random.key(0))

    def init(self, rng):
        x = jnp.zeros((1, self.num_points, 3))
        graph = self.graphs(x, self.time.buckets[0])
        inputs = x.reshape(-1, 3), jnp.zeros(1), graph
        variables = dict(self.network.build(3).init(rng, *inputs))
        return variables.pop("params"), variables

    def loss(self, params, state, layout, batch, rng):
        keys = bucketed.row_keys(rng, batch["row"])
        parts = bucketed.noise_rows(
            self.time, layout, self.objective, batch["data"], keys
        )
        pairs = zip(parts, self.time.buckets, strict=True)
        graphs = join_graphs([self.graphs(part.x_t, b) for part, b in pairs])
        inputs = jnp.concatenate([part.x_t.reshape(-1, 3) for part in parts])
        level = jnp.concatenate([self.time.level(part.t) for part in parts])
        output = self.network.build(3, AXIS).apply(
            {"params": params, **state}, inputs, level, graphs, train=True
        )
        loss, per_bucket = bucketed.mean_loss(layout, parts, output)
        return loss, (state, per_bucket)

    def start(self, seed, rows):
        keys = bucketed.row_keys(jax.random.key(seed), rows)
        x = bucketed.draw_prior(self.time.schedule, keys, (self.num_points, 3))
        return sampling.Start(x, sampling.sample_keys(seed, rows), ())

    @functools.cached_property
    def sampler(self):
        return sampling.BucketedSampler(self.program)

    def program(self, options, bucket):
        shape, target = self.time.buckets[bucket], self.objective.target

        def run(x, keys, given, variables, times, offset):
            def predict(x_t, t):
                inputs = x_t.reshape(-1, 3), self.time.level(t)
                graph = self.graphs(x_t, shape)
                return (
                    self.network.build(3)
                    .apply(variables, *inputs, graph)
                    .reshape(x_t.shape)
                )

            denoise = make_denoiser(predict, target, self.time.schedule)
            step = make_sampler_step(options)
            return integrate(step, denoise, self.time.schedule, x, times, keys, offset)

        return run


class MarkTask(Task[Marks]):
    name, fields, columns = "marks", FIELDS, (Column("w", "W", 1, 3, "transport"),)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        time = settings.make_time(config, config.data.num_points, 2)
        self.model = MarkModel(
            config.data.num_points,
            time,
            settings.make_objective(config),
            settings.make_network_settings(config),
        )
        self.layout = bucketed.make_batch_layout(
            time, config.train.batch_size, num_devices()
        )
        self.bucket_names = bucketed.bucket_names(time.buckets)

    @classmethod
    def load_dataset(cls, config):
        angle = np.random.default_rng(0).uniform(0, 6.28, (60, config.data.num_points))
        marks = np.stack([np.cos(angle), np.sin(angle), np.sign(np.sin(angle))], -1)
        return Marks(*np.split(marks.astype(np.float32), [40]))

    def describe(self):
        return ["data: marked points on a circle"]

    def init(self, rng):
        return self.model.init(rng)

    def batch(self, step, rows):
        size, train = self.config.train.batch_size, self.dataset.train
        labels = np.zeros(len(train), np.int32)
        batch = take_batch(train, labels, step, size, self.config.seed, rows=rows)
        return {"data": batch["data"], "row": np.arange(size, dtype=np.int32)[rows]}

    def loss(self, params, model_state, batch, rng):
        return self.model.loss(params, model_state, self.layout, batch, rng)

    def sample(self, params, model_state, num_samples, seed):
        own, time = settings.make_sampling(self.config), self.model.time
        times = own.times(time.schedule, 3 * self.model.num_points)
        points = self.model.sampler.sample(
            own.sampler,
            sampling.split_time_grid(time, times),
            functools.partial(self.model.start, seed),
            {"params": params, **model_state},
            num_samples,
            own.batch_size,
        )
        return {"points": points}

    def caption(self):
        sizes = f"{self.config.sample.num_samples} sets"
        return {"data_set": "marked circle", "split": "test", "sizes": sizes}

    def evaluate(self, samples):
        sets = {name: arrays["points"] for name, arrays in samples.items()}
        sets["train"] = self.dataset.train
        test = self.dataset.test
        return {name: {"w": wasserstein_flat(s, test)} for name, s in sets.items()}

    def draw(self, params, model_state, samples, folder):
        return []
