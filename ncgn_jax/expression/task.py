"""Gene expression over space and time: the paper's second experiment.

(arXiv 2507.09391, section 5.2.) Positions are data and only expression is noised, so
clusters and neighbours of every noise bucket are found once for each layout; the
jitted steps gather them. One conditional sampler serves all tasks of
`tasks.conditioning`. Fields train at zero mean and unit variance for each gene.
"""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import take_batch
from ncgn_jax.expression.conditioning import given_mask, keep_given, random_masks
from ncgn_jax.expression.config import default_config, validate
from ncgn_jax.expression.scores import (
    FIELD_COLUMNS,
    IMPUTATION_TASKS,
    evaluate_fields,
)
from ncgn_jax.expression.sets import (
    FieldDataset,
    FieldSet,
    load_profiles,
    load_tissue,
    load_turing,
)
from ncgn_jax.faults import DataError
from ncgn_jax.graphs import Connectivity, connect_layouts, join_graphs, take_graphs
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.models.ncgn import NCGN
from ncgn_jax.parallel import AXIS, map_over_devices, num_devices
from ncgn_jax.point_clouds.load import DATA_VARIABLE
from ncgn_jax.process import (
    integrate,
    make_denoiser,
    make_sampler_step,
)
from ncgn_jax.tasks.bucketed import (
    bucket_names,
    draw_prior,
    make_batch_layout,
    mean_loss,
    noise_rows,
    row_keys,
    sample_chunks,
    split_time_grid,
)
from ncgn_jax.tasks.settings import (
    describe_network,
    make_network,
    make_sample_times,
    make_time,
)

__all__ = ["TranscriptomicsTask", "default_config", "make_task", "validate"]


def make_task(config: ConfigDict) -> "TranscriptomicsTask":
    """Loads the data and builds the task."""
    data = config.data
    if data.source == "turing":
        dataset = load_turing(
            data.num_train,
            data.num_test,
            data.test_times,
            data.test_places,
            cache_dir=data.cache_dir or None,
        )
        return TranscriptomicsTask(config, dataset)
    path = data.path or os.environ.get(DATA_VARIABLE)
    if not path:
        raise DataError(
            f"data.source={data.source!r} needs a file: set data.path or "
            f"{DATA_VARIABLE}"
        )
    if data.source == "profiles":
        dataset = load_profiles(
            path, data.genes, data.num_nodes, tuple(data.extent), data.test_fraction
        )
    else:
        dataset = load_tissue(
            path,
            data.coordinates,
            data.genes,
            data.num_nodes,
            data.num_train,
            data.num_test,
            data.test_fraction,
            time_column=data.time_column,
            logarithm=data.logarithm,
            repeated_cells=data.repeated_cells,
        )
    return TranscriptomicsTask(config, dataset)


class TranscriptomicsTask:
    """Fields, graphs, network, losses and samplers; see `tasks.Task`."""

    columns: tuple[Column, ...] = FIELD_COLUMNS

    def __init__(self, config: ConfigDict, dataset: FieldDataset):
        self.config = config
        self.dataset = dataset
        self.num_genes = len(dataset.genes)
        train = dataset.train
        dim = train.layouts[0].shape[1]
        scale = tuple(config.dmp.axis_scale) or (1.0,) * dim
        if len(scale) != dim:
            raise DataError(
                f"dmp.axis_scale: found {len(scale)} factors; the positions of this "
                f"data have {dim} axes"
            )
        self._axis_scale = np.asarray(scale, np.float32)
        self.time = make_time(config, train.values.shape[1], dim)
        self.layout = make_batch_layout(
            self.time, config.train.batch_size, num_devices()
        )
        self.bucket_names = bucket_names(self.time.buckets)
        self.hidden_genes = _hidden_genes(config.sample.hidden_genes, dataset.genes)
        mean, scale = dataset.moments()
        self._mean, self._scale = mean.astype(np.float32), scale.astype(np.float32)
        self._train_values = self.standardise(train.values)
        self._positions = train.padded_positions()
        self._train_graphs = connect_layouts(
            self._scaled(train), self.time.buckets, train.values.shape[1]
        )
        self._real = train.layout_mask
        # Every task must fit the data before anything is trained.
        for task in config.sample.tasks:
            self.given(task)

    def describe(self) -> list[str]:
        """Says in a few lines which data, graphs and model are used."""
        data, config = self.dataset, self.config
        names = ", ".join(data.genes[:6])
        more = f" and {len(data.genes) - 6} more" if len(data.genes) > 6 else ""
        graphs, model = describe_network(config, self.time)
        return [
            f"data: {data.name}; {data.source}; genes {names}{more}",
            f"{graphs}; found once for {len(data.train.layouts)} layouts",
            f"{model}; conditioning: {config.sample.conditioning}",
        ]

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Takes fields from the units of the data to those of training."""
        return ((values - self._mean) / self._scale).astype(np.float32)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Takes fields from the units of training to those of the data."""
        return values * self._scale + self._mean

    def network(self, axis_name: str | None = None) -> NCGN:
        """Returns the network; `axis_name` joins batch norm over devices."""
        return make_network(self.config, self.num_genes, axis_name)

    def first_stage(self) -> None:
        """Returns what must be trained before: nothing."""
        return

    def init(self, rng: jax.Array) -> tuple[Any, Any]:
        """Returns initial parameters and batch statistics."""
        index = np.zeros(1, np.int32)
        x = jax.random.normal(rng, (1, *self._train_values.shape[1:]))
        features = self._features(x, self._positions[index], jnp.zeros(x.shape, bool))
        graph = take_graphs(self._train_graphs[0], index)
        variables = dict(self.network().init(rng, features, jnp.zeros((1,)), graph))
        return variables.pop("params"), variables

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns `data` [row, node, gene], `layout` [row] and `row` [row]."""
        size = self.config.train.batch_size
        batch = take_batch(
            self._train_values,
            self.dataset.train.layout,
            step,
            size,
            self.config.seed,
            rows=rows,
        )
        row = np.arange(size, dtype=np.int32)[rows]
        return {"data": batch["data"], "layout": batch["label"], "row": row}

    def loss(
        self, params: Any, model_state: Any, batch: dict[str, jax.Array], rng: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Returns a device's weighted loss, new statistics, and loss per bucket."""
        keys, keys_given = jnp.moveaxis(row_keys(rng, batch["row"], 2), 1, 0)
        process = self.config.process
        parts = noise_rows(
            self.time,
            self.layout,
            process.target,
            process.loss_weight,
            batch["data"],
            keys,
        )
        positions, real = jnp.asarray(self._positions), jnp.asarray(self._real)
        graphs, inputs, counted = [], [], []
        for i, rows in enumerate(parts):
            data, index, own_keys = (
                self.layout.take(r, i)
                for r in (batch["data"], batch["layout"], keys_given)
            )
            graphs.append(take_graphs(self._train_graphs[i], index))
            given = jnp.zeros(data.shape, bool)
            if self.config.model.conditional:
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
        loss, per_bucket = mean_loss(
            self.layout, parts, output, jnp.concatenate(counted)
        )
        return loss, (dict(model_state), per_bucket)

    def fields_of(self, task: str) -> FieldSet:
        """Returns the test fields of a task, as many as are sampled."""
        fields = self.dataset.knockout if task == "knockout" else self.dataset.test
        if fields is None:
            raise DataError("sample.tasks: knockout needs fields with a lost gene")
        return fields.first(self.config.sample.num_samples)

    @functools.cache  # noqa: B019 - for the task's life: every draw and table asks
    def given(self, task: str) -> np.ndarray:
        """Returns what a task gives of its test fields, bool [sample, node, gene]."""
        return given_mask(task, self.fields_of(task), self.hidden_genes)

    def known(self, task: str) -> np.ndarray:
        """Returns the test fields of a task; only given entries may be looked at.

        A knocked-out gene is given as exactly 0.
        """
        fields = self.fields_of(task)
        if task != "knockout":
            return fields.values
        return np.where(self.given(task), self.dataset.zero[None], fields.values)

    def sample(
        self, params: Any, model_state: Any, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates the fields of every task of `sample.tasks`.

        Args:
          params: Parameters, EMA or raw.
          model_state: Batch statistics.
          num_samples: Fields of each task, at most as many as there are test fields.
          seed: Seed of the noise.

        Returns:
          For each task fields [sample, node, gene] in the units of the data, whose
          given part is that of the test field with the same number; and for tasks that
          impute, if there are several draws, their mean as `<task>_mean`.
        """
        variables = {"params": params, **model_state}
        arrays = {}
        for task in self.config.sample.tasks:
            many = self.config.sample.num_draws if task in IMPUTATION_TASKS else 1
            # Far apart, since the seed next to one is that of its sampler.
            seeds = [seed + 1000 * k for k in range(many)]
            total = 0.0
            for k, own in enumerate(seeds):
                drawn = self._sample_task(variables, task, num_samples, own)
                if k == 0:
                    arrays[task] = drawn
                total = total + drawn
            if many > 1:
                arrays[f"{task}_mean"] = total / np.float32(many)
        return arrays

    def _sample_task(self, variables, task, num_samples, seed) -> np.ndarray:
        given, known = self.given(task)[:num_samples], self.known(task)[:num_samples]
        fields = self.fields_of(task).first(num_samples)
        count = len(fields)
        noise = self.prior_fields(count, fields.values.shape[1:], seed)
        parts = []
        for rows in sample_chunks(count, self.config.sample.batch_size):
            keys = row_keys(jax.random.key(seed + 1), rows)
            data = self.standardise(known[rows])
            path = self.walk(
                variables, fields, rows, noise[rows], given[rows], data, keys
            )
            *_, (last, _) = path
            parts.append(last[: count - rows[0]])
        generated = self.undo(np.concatenate(parts))
        generated = np.where(given, known, generated)
        return np.where(fields.point_mask[:, :, None], generated, 0).astype(np.float32)

    def walk(self, variables, fields, rows, noise, given, data, keys):
        """Samples stretch by stretch; yields (x, t) at the end of each bucket.

        Args:
          variables: Parameters and batch statistics.
          fields: Where the graphs come from.
          rows: Which samples of `fields`, [row].
          noise: State at t = 0, [row, node, gene].
          given: What is given, bool [row, node, gene].
          data: Its values in the units of training; anything elsewhere.
          keys: Keys of stochastic samplers, [row].
        """
        times = make_sample_times(self.config, self.time.schedule, noise[0].size)
        positions = fields.padded_positions()[fields.layout[rows]]
        index, x = fields.layout[rows], noise
        for bucket, offset, stretch in split_time_grid(self.time, times):
            x = self._stretch(bucket)(
                np.asarray(x),
                noise,
                given,
                data,
                positions,
                index,
                keys,
                self.test_graphs[bucket],
                variables,
                stretch.astype(np.float32),
                np.int32(offset),
            )
            yield np.asarray(x), float(stretch[-1])

    @functools.cache  # noqa: B019 - one compiled stretch per bucket, for the task's life
    def _stretch(self, bucket: int):
        """Compiles the sampler within one bucket, over all devices."""
        sample, target = self.config.sample, self.config.process.target
        step = make_sampler_step(sample.sampler)

        def run(
            x, noise, given, data, positions, index, keys, graphs, variables, times, at
        ):
            graph = take_graphs(graphs, index)

            def predict(x_t, t):
                output = self.network().apply(
                    variables,
                    self._features(x_t, positions, given),
                    self.time.level(t),
                    graph,
                )
                return output.reshape(x_t.shape)

            denoise = make_denoiser(
                predict, target, self.time.schedule, sample.data_limit
            )
            hold = sample.conditioning != "replace"
            denoise = keep_given(denoise, given, data, noise, hold=hold)
            return integrate(
                step, denoise, self.time.schedule, x, times, keys, step_offset=at
            )

        return map_over_devices(run, batch_argnums=tuple(range(7)))

    def prior_fields(self, count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Draws the noise at t = 0 of some fields, [field, node, gene]."""
        keys = jax.random.split(jax.random.key(seed), count)
        return draw_prior(self.time.schedule, keys, shape)

    def evaluate(
        self, samples: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, Row], dict[str, object]]:
        """Measures sample sets against the test fields, with the anchors below."""
        rows = evaluate_fields(self, samples)
        count = max(
            len(fields) for arrays in samples.values() for fields in arrays.values()
        )
        meta = {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{count} fields a task, {len(self.dataset.test)} test fields",
        }
        return rows, meta

    def draw(
        self,
        params: Any,
        model_state: Any,
        samples: dict[str, np.ndarray],
        folder: str | Path,
    ) -> list[Path]:
        """Saves pictures of fields beside the truth."""
        from ncgn_jax.expression.pictures import draw_all

        return draw_all(self, params, model_state, samples, Path(folder))

    @functools.cached_property
    def test_graphs(self) -> tuple[Connectivity, ...]:
        """Graphs of every test layout in each noise bucket."""
        keep_size = self.config.sample.resolution == "absolute"
        layouts = self._scaled(self.dataset.test)
        return connect_layouts(layouts, self.time.buckets, keep_size=keep_size)

    def _scaled(self, fields: FieldSet) -> list[np.ndarray]:
        """Returns the positions in which clusters and neighbours are found."""
        return [points * self._axis_scale for points in fields.layouts]

    def _features(
        self, x_t: jax.Array, positions: jax.Array, given: jax.Array
    ) -> jax.Array:
        """Returns a node's inputs: expression, position, and what is given if told."""
        parts = [x_t, positions]
        if self.config.model.conditional:
            parts.append(given.astype(x_t.dtype))
        features = jnp.concatenate(parts, axis=-1)
        return features.reshape(-1, features.shape[-1])


def _hidden_genes(names: tuple[str, ...], genes: tuple[str, ...]) -> tuple[int, ...]:
    if not names:
        return (min(1, len(genes) - 1),)
    unknown = [name for name in names if name not in genes]
    if unknown:
        raise DataError(
            f"sample.hidden_genes: no gene {', '.join(unknown)}; "
            f"allowed: {', '.join(genes)}"
        )
    return tuple(genes.index(name) for name in names)
