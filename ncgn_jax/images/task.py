"""Images: a diffusion transformer whose patches follow the noise.

(arXiv 2507.09391, section "Images".) Every training step belongs to one noise bucket,
the same on all devices, so that each patch size is one compiled program; times are
spread over the bucket's interval within the batch, and buckets over steps, so that
together they are uniform. Pixels and latents train in about [-1, 1].
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.faults import DataError
from ncgn_jax.graphs.grids import GridBucket, make_grid_buckets
from ncgn_jax.images.config import (
    default_config,
    images_a_step,
    make_range_resolution,
    network_sizes,
    validate,
)
from ncgn_jax.images.costs import (
    COST_COLUMNS,
    count_macs,
    describe_patches,
    mean_step_macs,
    training_and_sampling_costs,
)
from ncgn_jax.images.load import check_fit, load_dataset
from ncgn_jax.images.sampling import split_output, walk_stretch
from ncgn_jax.images.scores import ImageScorer
from ncgn_jax.images.sets import ImageDataset, check_finite
from ncgn_jax.images.times import (
    bucket_at,
    bucket_shares,
    cut_time_grid,
    spread_times,
)
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.models.dit import DiT
from ncgn_jax.parallel import map_over_devices, replicate
from ncgn_jax.process import (
    interpolate,
    linear_skip,
    loss_weight,
    make_schedule,
    make_target,
    to_data_and_noise,
    weighted_mse,
)
from ncgn_jax.process.learned_variance import variational_bits
from ncgn_jax.tasks import NO_ROWS, StepKind
from ncgn_jax.tasks.bucketed import (
    BucketedTime,
    draw_prior,
    row_keys,
    sample_chunks,
)
from ncgn_jax.tasks.settings import make_sample_times

__all__ = ["ImageBatch", "ImageTask", "default_config", "make_task", "validate"]

_PIXEL_LIMIT = 1.0
_FEW_CLASSES = 10


def make_task(config: ConfigDict) -> "ImageTask":
    """Loads the data and builds the task.

    Raises:
      DataError: If the data are faulty, or do not fit the configuration.
    """
    dataset = load_dataset(config)
    check_fit(config, dataset)
    return ImageTask(config, dataset)


@flax.struct.dataclass
class ImageBatch:
    """Training images of one noise bucket.

    Attributes:
      images: In the units of training, [row, height, width, channel].
      label: Classes, int32 [row].
      row: Number of each row in the global batch, int32 [row].
      bucket: Noise bucket of all rows; part of the structure, so that every bucket
        is traced once.
    """

    images: jax.Array
    label: jax.Array
    row: jax.Array
    bucket: int = flax.struct.field(pytree_node=False)


class ImageTask:
    """Images, patches, network, loss and sampler; see `tasks.Task`."""

    def __init__(self, config: ConfigDict, dataset: ImageDataset):
        self.config = config
        self.dataset = dataset
        height, width, self.num_channels = dataset.image_shape
        dmp = config.dmp
        try:
            buckets = make_grid_buckets(
                (height, width),
                tuple(dmp.patches),
                dmp.num_neighbors,
                make_range_resolution(config),
                dmp.reverse_schedule,
            )
        except ValueError as error:
            raise DataError(f"dmp: {error}") from error
        self.time = BucketedTime(
            make_schedule(config.process.schedule),
            buckets,
            config.process.signal,
            dmp.random_buckets,
            dmp.overlap,
        )
        self.bucket_names = tuple(f"p{b.patch}_w{b.window}" for b in buckets)
        self.shares = bucket_shares(self.time)
        self.images_a_step = tuple(images_a_step(config, b.patch) for b in buckets)
        many = len(dataset.class_names)
        self.num_classes = many if many > 1 else 0
        self._stretches: dict[int, Any] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What `evaluate` measures."""
        return (*self.scorer.columns, *COST_COLUMNS)

    @functools.cached_property
    def scorer(self) -> ImageScorer:
        """Measures images against the data; learns its features when first asked."""
        data, evaluate = self.dataset, self.config.evaluate
        return ImageScorer(
            data.rows("train"),
            data.train_labels,
            data.rows("test"),
            data.test_labels,
            len(data.class_names),
            num_steps=classifier_steps(evaluate.classifier_steps, self.num_classes),
            inception=evaluate.inception,
            limit=None if data.is_latent else _PIXEL_LIMIT,
            max_nearest=evaluate.max_nearest,
        )

    def describe(self) -> list[str]:
        """Says in a few lines which data, patches and network are used."""
        config, data, process = self.config, self.dataset, self.config.process
        width, layers, heads = network_sizes(config)
        return [
            f"data: {data.name}; {data.source}",
            describe_patches(self),
            f"model: DiT, width {width}, {layers} layers, {heads} heads; "
            f"{process.schedule} process, {process.target} target"
            + (", learned variance" if config.model.learned_variance else ""),
        ]

    def notes(self) -> list[str]:
        """Warns of patches that the sampler never uses."""
        count, seed = self.config.sample.num_steps, self.config.seed
        used = {bucket for bucket, _, _ in self.stretches(seed)}
        unused = [b.patch for i, b in enumerate(self.time.buckets) if i not in used]
        if not unused:
            return []
        least = "more" if self.time.random_buckets else len(self.time.buckets)
        return [
            f"NOTE: sample.num_steps={count} leaves no step to patches "
            f"{', '.join(map(str, unused))}; {least} steps would use all"
        ]

    def network(self) -> DiT:
        """Returns the network."""
        model = self.config.model
        width, num_layers, num_heads = network_sizes(self.config)
        return DiT(
            patches=tuple(bucket.patch for bucket in self.time.buckets),
            out_channels=self.num_channels * (2 if model.learned_variance else 1),
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            num_classes=self.num_classes,
            base_patch=model.base_patch,
            rotary=model.rotary,
            dtype=jnp.dtype(model.dtype),
        )

    def first_stage(self) -> None:
        """Returns what must be trained before: nothing (see data.source=latents)."""
        return

    def init(self, rng: jax.Array) -> tuple[Any, Any]:
        """Returns initial parameters; there is no model state."""
        bucket = self.time.buckets[0]
        x, label = jnp.zeros((1, *self.dataset.image_shape)), jnp.zeros(1, jnp.int32)
        variables = self.network().init(
            rng, x, jnp.zeros(1), label, patch=bucket.patch, window=bucket.window
        )
        return variables["params"], {}

    def bucket_of_step(self, step: ArrayLike) -> np.ndarray:
        """Returns the noise bucket of training steps, int of their shape.

        Of any stretch of steps each bucket has its share, to within a step or two.
        """
        return bucket_at(self.shares, step, self.config.seed)

    def step_kinds(self, start: int, stop: int) -> list[StepKind]:
        """Lists the noise buckets of the steps from `start` to before `stop`."""
        found = self.bucket_of_step(np.arange(start, stop))
        buckets, first, counts = np.unique(found, return_index=True, return_counts=True)
        return [
            StepKind(self.bucket_names[b], start + int(i), count / (stop - start))
            for b, i, count in zip(buckets, first, counts.tolist(), strict=True)
        ]

    def batch(self, step: int, rows: slice) -> ImageBatch:
        """Returns this host's rows of the batch of a step."""
        size, bucket = self.config.train.batch_size, int(self.bucket_of_step(step))
        index = batch_indices(len(self.dataset.train), size, step, self.config.seed)
        fewer = size // self.images_a_step[bucket]
        rows = slice(rows.start // fewer, rows.stop // fewer)
        images, label = self.dataset.take(index[rows])
        row = np.arange(size, dtype=np.int32)[rows]
        if self.config.data.flip:
            rng = np.random.default_rng([self.config.seed, 7, step])
            mirrored = (rng.random(size) < 0.5)[rows, None, None, None]
            images = np.where(mirrored, images[:, :, ::-1], images)
        return ImageBatch(images, label, row, bucket)

    def loss(
        self, params: Any, model_state: Any, batch: ImageBatch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Returns a device's mean loss, and the loss of the batch's bucket."""
        keys = row_keys(rng, batch.row, 3)
        keys_noise, keys_time, keys_label = jnp.moveaxis(keys, 1, 0)
        process, schedule, data = self.config.process, self.time.schedule, batch.images
        shape = data.shape[1:]
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys_noise)
        t = self._training_times(batch, keys_time)
        x_t = interpolate(schedule, t, data, noise)
        label = self._hide_some(batch.label, keys_label)
        bucket = self.time.buckets[batch.bucket]
        output = self.predict(params, bucket, x_t, t, label)
        output, fraction = split_output(self, output)
        target = make_target(process.target, schedule, t, data, noise)
        weight = loss_weight(process.loss_weight, process.target, schedule, t)
        per_row = weighted_mse(output, target, weight)
        if fraction is not None:
            data_hat, _ = to_data_and_noise(process.target, output, x_t, schedule, t)
            t_next = t + 1.0 / self.config.model.num_variance_steps
            per_row += variational_bits(schedule, fraction, data, data_hat, t, t_next)
        loss = jnp.mean(per_row)
        mine = np.arange(len(self.time.buckets)) == batch.bucket
        return loss, (model_state, jnp.where(mine, loss, NO_ROWS))

    def sample(
        self, params: Any, model_state: Any, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates images of `sample.classes`, or of classes as in training.

        Returns:
          `images`, pixels 0..255 as bytes or latents as stored (see
          `ImageDataset.to_saved`), and the `labels` they were asked for.

        Raises:
          DataError: If an image is not finite.
        """
        labels, params = self.draw_labels(num_samples, seed), replicate(params)
        parts = []
        for rows in sample_chunks(num_samples, self.config.sample.batch_size):
            *_, (images, _, _) = self.walk(params, labels[rows], rows, seed)
            parts.append(images[: num_samples - rows[0]])
        images = np.concatenate(parts)
        check_finite(images, "samples")
        return {"images": self.dataset.to_saved(images), "labels": labels}

    def draw_labels(self, count: int, seed: int) -> np.ndarray:
        """Takes `sample.classes` in turn, or draws as in training; int32 [count]."""
        if self.config.sample.classes:
            return np.resize(self.config.sample.classes, count).astype(np.int32)
        rng = np.random.default_rng([seed, 11])
        known = np.asarray(self.dataset.train_labels)
        return known[rng.integers(len(known), size=count)].astype(np.int32)

    def walk(
        self,
        params: Any,
        labels: np.ndarray,
        rows: np.ndarray,
        seed: int,
    ) -> Iterator[tuple[np.ndarray, float, GridBucket]]:
        """Samples stretch by stretch; yields images, t and the bucket that led there.

        Args:
          params: Of the network.
          labels: Class of each image, int [row].
          rows: Numbers of the images, which decide on their noise, [row].
          seed: Seed of the noise.
        """
        params = replicate(params)
        keys = row_keys(jax.random.key(seed), rows)
        x = draw_prior(self.time.schedule, keys, self.dataset.image_shape)
        step_keys = row_keys(jax.random.key(seed + 1), rows)
        for bucket, offset, times in self.stretches(seed):
            x = self._stretch(bucket)(
                np.asarray(x), labels, step_keys, params, times, np.int32(offset)
            )
            yield np.asarray(x), float(times[-1]), self.time.buckets[bucket]

    def stretches(self, seed: int) -> list[tuple[int, int, np.ndarray]]:
        """Cuts the sampler's time grid into stretches of one bucket.

        Patches drawn at random have a stretch for every step.

        Args:
          seed: Seed of patches drawn at random.

        Returns:
          (bucket, number of steps before, times float32) of each.
        """
        dim = int(np.prod(self.dataset.image_shape))
        times = make_sample_times(self.config, self.time.schedule, dim)
        model = self.config.model
        chain = model.num_variance_steps if model.learned_variance else None
        return cut_time_grid(self.time, times, seed, chain)

    def _stretch(self, bucket: int):
        """Compiles the sampler within one bucket, over all devices."""
        if bucket not in self._stretches:
            run = functools.partial(walk_stretch, self, self.time.buckets[bucket])
            self._stretches[bucket] = map_over_devices(run, batch_argnums=(0, 1, 2))
        return self._stretches[bucket]

    def evaluate(
        self, samples: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, Row], dict[str, object]]:
        """Measures generated images beside training, test and noise images."""
        named = {
            name: (self.dataset.from_saved(arrays["images"]), arrays["labels"])
            for name, arrays in samples.items()
        }
        rows, meta = self.scorer.rows(named, self.config.evaluate.max_images)
        if self.config.sample.classes:
            meta["classes"] = ", ".join(map(str, self.config.sample.classes))
        return rows, {"data_set": self.dataset.name, "split": "test", **meta}

    def draw(
        self,
        params: Any,
        model_state: Any,
        samples: dict[str, np.ndarray],
        folder: str | Path,
    ) -> list[Path]:
        """Saves pictures of samples, paths, nearest training images and costs."""
        from ncgn_jax.images.pictures import draw_all

        return draw_all(self, params, samples, Path(folder))

    @functools.cached_property
    def forward_macs(self) -> np.ndarray:
        """Multiply-adds of one image through the network, by XLA's count, [bucket]."""
        return count_macs(self, with_gradient=False)

    def step_macs(self) -> float:
        """Returns the mean multiply-adds of a training step, all its images."""
        return mean_step_macs(self)

    def costs(self, num_steps: int) -> dict[str, float]:
        """Counts multiply-adds of a training and of one sample, see `image_costs`."""
        return training_and_sampling_costs(self, num_steps)

    @property
    def is_guided(self) -> bool:
        """Whether the sampler asks the network twice, with and without a class."""
        return self.num_classes > 0 and self.config.sample.guidance != 1.0

    def _training_times(self, batch: ImageBatch, keys: jax.Array) -> jax.Array:
        interval = self.time.training_intervals()[batch.bucket]
        t = spread_times(interval, batch.row, keys, self.images_a_step[batch.bucket])
        if self.config.model.learned_variance:
            # A chain has whole steps.
            count = self.config.model.num_variance_steps
            t = jnp.minimum(jnp.floor(t * count), count - 1) / count
        return t

    def _hide_some(self, label: jax.Array, keys: jax.Array) -> jax.Array:
        dropout = self.config.model.label_dropout
        hide = jax.vmap(lambda key: jax.random.bernoulli(key, dropout))(keys)
        return jnp.where(hide, self.num_classes, label)

    def predict(
        self,
        params: Any,
        bucket: GridBucket,
        x_t: jax.Array,
        t: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """Runs the network with the patches of a bucket.

        Args:
          params: Of the network.
          bucket: Whose patches and window; static.
          x_t: Noisy images, [row, height, width, channel].
          t: Times, [row].
          label: Classes, int [row]; `num_classes` for none.

        Returns:
          The prediction, with twice the channels if variances are learned.
        """
        output = self.network().apply(
            {"params": params},
            x_t,
            self.time.level(t),
            label,
            patch=bucket.patch,
            window=bucket.window,
        )
        if not self.config.model.skip:
            return output
        kind, mean = self.config.process.target, output[..., : self.num_channels]
        skip, scale = linear_skip(kind, self.time.schedule, t, x_t)
        mean = skip * x_t + scale * mean
        return jnp.concatenate([mean, output[..., self.num_channels :]], axis=-1)


def classifier_steps(num_steps: int, num_classes: int) -> int:
    """Returns the steps that the classifier of the measures is trained for.

    Args:
      num_steps: Steps for ten classes or fewer; more classes get more in proportion.
      num_classes: Classes of the images, 0 for none.
    """
    return num_steps * max(1, -(-num_classes // _FEW_CLASSES))
