"""Point clouds: the paper's first experiment (arXiv 2507.09391, section 5.1).

Positions are what is generated, so clusters and neighbours are found anew at every
step, on the device. Clouds train at unit variance and are measured in the paper's
scaling (coordinates in +-0.25).
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import take_batch
from ncgn_jax.graphs import MultiscaleGraph, build_graphs, join_graphs
from ncgn_jax.metrics.table import (
    POINT_CLOUD_COLUMNS,
    Column,
    EvaluationSettings,
    evaluate_anchors,
    evaluate_clouds,
    prepare_reference,
)
from ncgn_jax.models.ncgn import NCGN
from ncgn_jax.parallel import AXIS, device_index, map_over_devices, num_devices
from ncgn_jax.point_clouds.config import (
    DIM,
    bucketed_time,
    default_config,
    layout_of,
    validate,
)
from ncgn_jax.point_clouds.load import load_point_dataset
from ncgn_jax.point_clouds.noise_level import NoiseLevelHead, cloud_statistics
from ncgn_jax.point_clouds.sets import PointDataset
from ncgn_jax.point_clouds.truth import TRUTH_COLUMNS, add_truth
from ncgn_jax.process import (
    Denoiser,
    integrate,
    make_denoiser,
    make_sampler_step,
)
from ncgn_jax.tasks.bucketed import (
    bucket_names,
    draw_prior,
    mean_loss,
    noise_rows,
    row_keys,
    sample_chunks,
    split_time_grid,
)
from ncgn_jax.tasks.settings import describe_network, make_network, make_sample_times

HALF_WIDTH = 0.25
# Where the parameters of the head that infers the noise level stand.
LEVEL_HEAD = "noise_level"

__all__ = ["PointCloudTask", "default_config", "make_task", "validate"]


def make_task(config: ConfigDict) -> "PointCloudTask":
    """Loads the data and builds the task."""
    data = config.data
    dataset = load_point_dataset(
        data.source,
        data.path,
        data.num_points,
        sampling=data.sampling,
        categories=data.categories or None,
        num_train=data.num_train,
        num_test=data.num_test,
        test_fraction=data.test_fraction,
        seed=0,
        cache_dir=data.cache_dir or None,
        allow_download=data.allow_download,
    )
    return PointCloudTask(config, dataset)


class PointCloudTask:
    """Joins clouds, NCGN, process and metrics; see `tasks.Task` for the protocol."""

    columns: tuple[Column, ...] = POINT_CLOUD_COLUMNS + TRUTH_COLUMNS

    def __init__(self, config: ConfigDict, dataset: PointDataset):
        self.config = config
        self.dataset = dataset
        self.time = bucketed_time(config)
        self.layout = layout_of(config, num_devices())
        self.bucket_names = bucket_names(self.time.buckets)
        self.num_classes = (
            len(dataset.class_names) if config.model.class_conditional else 0
        )
        # Neither network nor graphs of a blind model are told the noise level.
        self.is_blind = config.model.noise_conditioning != "time"
        self._train_clouds = dataset.train / np.float32(dataset.scale)

    def describe(self) -> list[str]:
        """Says in a few lines which data, graphs and model are used."""
        data, config = self.dataset, self.config
        lines = [
            f"data: {data.name} ({len(data.train)} train, {len(data.test)} test, "
            f"{config.data.num_points} points a cloud); {data.source}",
            *describe_network(config, self.time),
        ]
        if data.name.startswith("embedded"):
            lines.insert(
                0,
                "NOTE: ModelNet was not found, training on EMBEDDED parametric shapes; "
                "set data.path (or NCGN_DATA) to use real data",
            )
        return lines

    def network(self, axis_name: str | None = None) -> NCGN:
        """Returns the network; `axis_name` joins batch norm over devices."""
        return make_network(self.config, DIM, axis_name)

    def first_stage(self) -> None:
        """Returns what must be trained before: nothing."""
        return

    def init(self, rng: jax.Array) -> tuple[Any, Any]:
        """Returns initial parameters and batch statistics."""
        num_points = self.config.data.num_points
        clouds = jax.random.normal(rng, (1, num_points, DIM))
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

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns `data` [row, point, 3] at unit variance, `label` and `row`."""
        batch = take_batch(
            self._train_clouds,
            self.dataset.train_labels,
            step,
            self.config.train.batch_size,
            self.config.seed,
            self.config.data.num_points,
            rows,
        )
        size = self.config.train.batch_size
        row = np.arange(size, dtype=np.int32)[rows]
        return {"data": batch["data"], "label": batch["label"], "row": row}

    def loss(
        self, params: Any, model_state: Any, batch: dict[str, jax.Array], rng: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Returns a device's weighted loss, new statistics, and loss per bucket.

        Of a blind model the loss holds the mean squared error of the inferred level.
        """
        keys, keys_label = jnp.moveaxis(row_keys(rng, batch["row"], 2), 1, 0)
        label = self._drop_labels(batch["label"], keys_label)
        process = self.config.process
        parts = noise_rows(
            self.time,
            self.layout,
            process.target,
            process.loss_weight,
            batch["data"],
            keys,
        )
        graph_rng = jax.random.fold_in(rng, device_index())
        graphs, inputs = [], []
        for i, (bucket, rows) in enumerate(zip(self.time.buckets, parts, strict=True)):
            key = jax.random.fold_in(graph_rng, i)
            graphs.append(build_graphs(rows.x_t, bucket, key))
            inputs.append(self._features(rows.x_t, self.layout.take(label, i)))
        level = jnp.concatenate([self.time.level(rows.t) for rows in parts])
        told, level_error = level, 0.0
        if self.is_blind:
            x_t = jnp.concatenate([rows.x_t for rows in parts])
            inferred = self.infer_level(params, x_t)
            told, level_error = self._told(inferred), jnp.mean((inferred - level) ** 2)
        output, model_state = self.network(AXIS).apply(
            {"params": params, **model_state},
            jnp.concatenate(inputs),
            told,
            join_graphs(graphs),
            train=True,
            mutable=list(model_state),
        )
        loss, per_bucket = mean_loss(self.layout, parts, output)
        return loss + level_error, (dict(model_state), per_bucket)

    def sample(
        self,
        params: Any,
        model_state: Any,
        num_samples: int,
        seed: int,
        num_steps: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Generates clouds at unit variance times the data's scale, in [-1, 1].

        Args:
          params: Parameters, EMA or raw.
          model_state: Batch statistics.
          num_samples: Clouds to generate.
          seed: Seed of noise and classes.
          num_steps: Sampler steps; the configuration's if None.

        Returns:
          `points` [cloud, point, 3] and `label` [cloud] (zeros without classes).
        """
        keys = jax.random.split(jax.random.key(seed), num_samples)
        step_keys = row_keys(jax.random.key(seed + 1), np.arange(num_samples))
        label = self._labels_to_sample(num_samples, seed)
        parts = []
        for rows in sample_chunks(num_samples, self.config.sample.batch_size):
            x = self._prior(keys[rows])
            own = step_keys[rows]
            for state in self.walk(params, model_state, x, label[rows], own, num_steps):
                x = state["points"]
            parts.append(x[: num_samples - rows[0]])
        points = np.concatenate(parts) * np.float32(self.dataset.scale)
        return {"points": points, "label": label}

    def walk(
        self,
        params: Any,
        model_state: Any,
        x: np.ndarray,
        label: np.ndarray,
        keys: jax.Array,
        num_steps: int | None = None,
    ):
        """Samples stretch by stretch; yields the state at the end of each bucket.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          x: Noise at t = 0, [cloud, point, 3].
          label: Class of each cloud, int32 [cloud].
          keys: Keys of stochastic samplers, [cloud].
          num_steps: Sampler steps; the configuration's if None.

        Yields:
          Dicts with `bucket`, `t` reached and `points` (unit variance). A blind model
          chooses buckets on its way: one dict, at the end, whose bucket is None.
        """
        dim = self.config.data.num_points * DIM
        times = make_sample_times(self.config, self.time.schedule, dim, num_steps)
        variables = {"params": params, **model_state}
        stretches = split_time_grid(self.time, times)
        if self.is_blind:
            stretches = [(None, 0, np.asarray(times))]
        for bucket, offset, stretch in stretches:
            stretch = stretch.astype(np.float32)
            x = self._stretch(bucket)(
                np.asarray(x), label, keys, variables, stretch, np.int32(offset)
            )
            yield {"bucket": bucket, "t": float(stretch[-1]), "points": np.asarray(x)}

    @functools.cache  # noqa: B019 - one compiled stretch per bucket, for the task's life
    def _stretch(self, bucket: int | None):
        """Compiles the sampler within one bucket, over all devices."""
        sample = self.config.sample
        step = make_sampler_step(sample.sampler)

        def run(x, label, keys, variables, times, offset):
            apply = functools.partial(self.apply, variables, bucket)
            if bucket is None:
                apply = functools.partial(self._apply_inferred, variables)
            denoise = self.denoiser(apply, label)
            return integrate(
                step, denoise, self.time.schedule, x, times, keys, step_offset=offset
            )

        return map_over_devices(run, batch_argnums=(0, 1, 2))

    def apply(
        self,
        variables: Any,
        bucket: int,
        x_t: jax.Array,
        t: jax.Array,
        label: jax.Array,
        mutable: Sequence[str] = (),
    ) -> tuple[jax.Array, MultiscaleGraph, Any]:
        """Runs the network on noisy clouds with the static graphs of one bucket.

        Args:
          variables: Parameters and batch statistics.
          bucket: Whose graphs.
          x_t: Noisy clouds, [cloud, point, 3].
          t: Times, [cloud], all alike as in a sampler.
          label: Classes, int32 [cloud].
          mutable: Flax collections to return.

        Returns:
          The prediction [cloud, point, 3], the graphs, and the collections.
        """
        # Random edges, where a baseline has them, follow the time.
        moment = (t[0] * 2**20).astype(jnp.int32)
        rng = jax.random.fold_in(jax.random.key(0), moment)
        graph = build_graphs(x_t, self.time.buckets[bucket], rng)
        told = self.time.level(t)
        if self.is_blind:
            told = self._told(self.infer_level(variables["params"], x_t))
        output, collections = self.network().apply(
            variables, self._features(x_t, label), told, graph, mutable=list(mutable)
        )
        return output.reshape(x_t.shape), graph, collections

    def infer_level(self, params: Any, x_t: jax.Array) -> jax.Array:
        """Infers the noise variable of clouds from the clouds, [cloud] in (0, 1)."""
        statistics = jax.lax.stop_gradient(cloud_statistics(x_t))
        return NoiseLevelHead().apply({"params": params[LEVEL_HEAD]}, statistics)

    def _told(self, inferred: jax.Array) -> jax.Array:
        """Returns what the network of a blind model hears of the noise level."""
        if self.config.model.noise_conditioning == "none":
            return jnp.zeros_like(inferred)
        return jax.lax.stop_gradient(inferred)

    def _apply_inferred(self, variables, x_t, t, label) -> tuple[jax.Array]:
        """As `apply`, with the bucket that a device's clouds show on average."""
        level = jnp.mean(self.infer_level(variables["params"], x_t))
        lows = jnp.asarray([bucket.low for bucket in self.time.buckets[1:]])
        chosen = jnp.searchsorted(lows, level, side="right")
        branches = [
            lambda *args, i=i: self.apply(variables, i, *args)[0]
            for i in range(len(self.time.buckets))
        ]
        return (jax.lax.switch(chosen, branches, x_t, t, label),)

    def denoiser(
        self,
        apply: Callable[[jax.Array, jax.Array, jax.Array], tuple[Any, ...]],
        label: jax.Array,
    ) -> Denoiser:
        """Returns denoise(x_t, t) for clouds of given classes, guidance included.

        Args:
          apply: apply(x_t, t, label), of whose results the first is the prediction,
            as of the method `apply`.
          label: Classes, int32 [cloud].
        """
        sample, target = self.config.sample, self.config.process.target

        def guided(x_t, t):
            prediction = apply(x_t, t, label)[0]
            if self.num_classes and sample.guidance:
                free = apply(x_t, t, jnp.full_like(label, self.num_classes))[0]
                prediction = prediction + sample.guidance * (prediction - free)
            return prediction

        return make_denoiser(guided, target, self.time.schedule, sample.data_limit)

    def evaluate(
        self, samples: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, dict[str, float]], dict[str, object]]:
        """Measures sample sets against the test clouds, with the anchors below."""
        evaluate = self.config.evaluate
        settings = EvaluationSettings(
            half_width=HALF_WIDTH,
            max_matched_clouds=evaluate.max_matched_clouds,
            max_emd_clouds=evaluate.max_emd_clouds,
        )
        test = self.dataset.test[: evaluate.max_reference] * HALF_WIDTH
        train = self.dataset.train[:, : self.config.data.num_points] * HALF_WIDTH
        num_clouds = max(len(arrays["points"]) for arrays in samples.values())
        reference = prepare_reference(test, settings, num_generated=num_clouds)
        rows = {
            name: evaluate_clouds(arrays["points"] * HALF_WIDTH, reference, settings)
            for name, arrays in samples.items()
        }
        rows |= evaluate_anchors(
            train, test, settings, num_clouds=num_clouds, reference=reference
        )
        if self.config.data.source == "primitives":
            rows = add_truth(
                rows,
                samples,
                train,
                test,
                num_clouds=num_clouds,
                half_width=HALF_WIDTH,
            )
        meta = {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{num_clouds} generated, {len(test)} reference, "
            f"{self.config.data.num_points} points",
        }
        return rows, meta

    def draw(
        self,
        params: Any,
        model_state: Any,
        samples: dict[str, np.ndarray],
        folder: str | Path,
    ) -> list[Path]:
        """Saves pictures of samples, denoising path, graphs and attention."""
        from ncgn_jax.point_clouds.pictures import draw_all

        return draw_all(self, params, model_state, samples, Path(folder))

    def prior_clouds(self, num_clouds: int, seed: int) -> np.ndarray:
        """Draws the noise at t = 0 of some clouds, [cloud, point, 3]."""
        return self._prior(jax.random.split(jax.random.key(seed), num_clouds))

    def _prior(self, keys: jax.Array) -> np.ndarray:
        shape = (self.config.data.num_points, DIM)
        return draw_prior(self.time.schedule, keys, shape)

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

    def _drop_labels(self, label: jax.Array, keys: jax.Array) -> jax.Array:
        if not self.num_classes:
            return label
        dropped = jax.vmap(
            lambda key: jax.random.bernoulli(key, self.config.model.label_dropout)
        )(keys)
        return jnp.where(dropped, self.num_classes, label)

    def _labels_to_sample(self, num_samples: int, seed: int) -> np.ndarray:
        """Draws classes with the training set's frequencies."""
        if not self.num_classes:
            return np.zeros(num_samples, np.int32)
        rng = np.random.default_rng(seed)
        return rng.choice(self.dataset.train_labels, num_samples).astype(np.int32)
