"""Models of images: a diffusion transformer whose patches follow the noise.

(arXiv 2507.09391, section "Images".) Every training step belongs to one noise bucket,
the same on all devices, so that each patch size is one compiled program. Pixels and
latents are in about [-1, 1].
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.grids import GridBucket
from ncgn_jax.images.facts import ImageFacts
from ncgn_jax.images.times import bucket_shares, cut_time_grid, spread_times
from ncgn_jax.models.apply import apply_network
from ncgn_jax.models.dit import DiT
from ncgn_jax.process import (
    interpolate,
    linear_skip,
    loss_weight,
    make_denoiser,
    make_sampler,
    make_target,
    single_step,
    take_steps,
    to_data_and_noise,
    weighted_mse,
)
from ncgn_jax.process.given import keep_given
from ncgn_jax.process.learned_variance import learned_variance_step, variational_bits
from ncgn_jax.tasks import NO_ROWS
from ncgn_jax.tasks.bucketed import BucketedTime, Objective, draw_prior, row_keys
from ncgn_jax.tasks.classes import draw_classes, hide_classes
from ncgn_jax.tasks.sampling import (
    BucketedSampler,
    Kept,
    Reached,
    Sampling,
    Start,
    Stretch,
    begin_by_name,
    guide,
    sample_keys,
)

Tree = Any


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

    images: jax.Array | np.ndarray
    label: jax.Array | np.ndarray
    row: jax.Array | np.ndarray
    bucket: int = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class TransformerSettings:
    """The size and kind of a diffusion transformer; see `models.dit.DiT`.

    Attributes:
      width: Features of a token.
      num_layers: Layers.
      num_heads: Heads of attention.
      base_patch: Patch whose embedding the others start from.
      rotary: Whether attention depends on distances of tokens.
      dtype: Type of matrix products.
      make: Builds a network of a plug-in; None for the transformer.
    """

    width: int
    num_layers: int
    num_heads: int
    base_patch: int
    rotary: bool
    dtype: str
    make: Callable[..., nn.Module] | None = None


class ImageSampler(NamedTuple):
    """What a compiled stretch of the sampler depends on besides shapes."""

    sampler: str
    data_limit: float | None
    guidance: float
    guidance_channels: int
    keeps: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class ImageModel:
    """A generative model of images.

    Attributes:
      facts: What the training images taught.
      time: Process and noise buckets.
      objective: Target and loss.
      network_settings: Size and kind of the network.
      label_dropout: Share of training images whose class is hidden.
      skip: Whether what is linear in the image is added to the output.
      num_variance_steps: Steps of the chain whose variances are learned, 0 for none.
    """

    facts: ImageFacts
    time: BucketedTime[GridBucket]
    objective: Objective
    network_settings: TransformerSettings
    label_dropout: float = 0.1
    skip: bool = False
    num_variance_steps: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.facts.image_shape

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return self.image_shape[2]

    @property
    def num_classes(self) -> int:
        """Classes that the network distinguishes, 0 for none."""
        many = len(self.facts.class_names)
        return many if many > 1 else 0

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """Share of [0, 1] that each bucket has, [bucket]."""
        return bucket_shares(self.time)

    def network(self) -> nn.Module:
        """Returns the network, which is called as `models.dit.DiT` is."""
        own = self.network_settings
        out_channels = self.num_channels * (2 if self.num_variance_steps else 1)
        if own.make is not None:
            return own.make(own, out_channels, self.num_classes)
        return DiT(
            patches=tuple(bucket.patch for bucket in self.time.buckets),
            out_channels=out_channels,
            width=own.width,
            num_layers=own.num_layers,
            num_heads=own.num_heads,
            num_classes=self.num_classes,
            base_patch=own.base_patch,
            rotary=own.rotary,
            dtype=jnp.dtype(own.dtype),
        )

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters; there is no model state.

        Args:
          rng: Key of the weights.
        """
        bucket = self.time.buckets[0]
        x, label = jnp.zeros((1, *self.image_shape)), jnp.zeros(1, jnp.int32)
        variables = self.network().init(
            rng, x, jnp.zeros(1), label, patch=bucket.patch, window=bucket.window
        )
        return variables["params"], {}

    def loss(
        self,
        params: Tree,
        model_state: Tree,
        batch: ImageBatch,
        rng: jax.Array,
        batch_size: int,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss, and the loss of the batch's bucket.

        Args:
          params: Parameters.
          model_state: Passed on.
          batch: Images of one bucket.
          rng: Key of the step.
          batch_size: Rows of the global batch, over which times are spread.
        """
        keys = row_keys(rng, batch.row, 3)
        keys_noise, keys_time, keys_label = jnp.moveaxis(keys, 1, 0)
        schedule, data = self.time.schedule, jnp.asarray(batch.images)
        target = self.objective.target
        shape = data.shape[1:]
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys_noise)
        interval = self.time.training_intervals()[batch.bucket]
        t = spread_times(interval, batch.row, keys_time, batch_size)
        if self.num_variance_steps:
            # A chain has whole steps.
            count = self.num_variance_steps
            t = jnp.minimum(jnp.floor(t * count), count - 1) / count
        x_t = interpolate(schedule, t, data, noise)
        label = hide_classes(
            batch.label, keys_label, self.label_dropout, self.num_classes
        )
        bucket = self.time.buckets[batch.bucket]
        output, fraction = self.split_output(
            self.predict(params, bucket, x_t, t, label)
        )
        wanted = make_target(target, schedule, t, data, noise)
        weight = loss_weight(self.objective.loss_weight, target, schedule, t)
        per_row = weighted_mse(output, wanted, weight)
        if fraction is not None:
            data_hat, _ = to_data_and_noise(target, output, x_t, schedule, t)
            t_next = t + 1.0 / self.num_variance_steps
            per_row += variational_bits(schedule, fraction, data, data_hat, t, t_next)
        loss = jnp.mean(per_row)
        mine = np.arange(len(self.time.buckets)) == batch.bucket
        return loss, (model_state, jnp.where(mine, loss, NO_ROWS))

    def predict(
        self,
        params: Tree,
        bucket: GridBucket,
        x_t: jax.Array,
        t: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """Runs the network with the patches of a bucket.

        Args:
          params: Parameters.
          bucket: The bucket whose patches and window are used; static.
          x_t: Noisy images, [row, height, width, channel].
          t: Times, [row].
          label: Classes, int [row]; `num_classes` for none.

        Returns:
          The prediction, with twice the channels if variances are learned.
        """
        output = apply_network(
            self.network(),
            {"params": params},
            x_t,
            self.time.level(t),
            label,
            patch=bucket.patch,
            window=bucket.window,
        )
        if not self.skip:
            return output
        kind, mean = self.objective.target, output[..., : self.num_channels]
        skip, scale = linear_skip(kind, self.time.schedule, t, x_t)
        mean = skip * x_t + scale * mean
        return jnp.concatenate([mean, output[..., self.num_channels :]], axis=-1)

    def guided(
        self,
        params: Tree,
        bucket: GridBucket,
        x_t: jax.Array,
        t: jax.Array,
        label: jax.Array,
        guidance: float,
        guidance_channels: int = 0,
    ) -> jax.Array:
        """Predicts with guidance, see `tasks.sampling.guide`.

        Args:
          params: Parameters.
          bucket: The bucket whose patches and window are used; static.
          x_t: Noisy images, [row, height, width, channel].
          t: Times, [row].
          label: Classes, int [row].
          guidance: How far to move beyond the prediction without a class.
          guidance_channels: The first so many channels alone move; 0 for all.

        Returns:
          As `predict`. Variances, where there are any, are those of the class.
        """
        if not (self.num_classes and guidance):
            return self.predict(params, bucket, x_t, t, label)
        none = jnp.full_like(label, self.num_classes)
        twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
        both = self.predict(params, bucket, *twice, jnp.concatenate([label, none]))
        told, free = jnp.split(both, 2)
        many = guidance_channels or self.num_channels
        chosen = np.arange(told.shape[-1]) < many
        moved = guide(told, free, guidance)
        return jnp.where(chosen[None, None, None], moved, told)

    def split_output(self, output: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Splits a network's output into the prediction and the fraction of variances.

        The fraction, see `process.learned_variance`, is None if none are learned.

        Args:
          output: Output of the network, [image, height, width, channel].
        """
        if not self.num_variance_steps:
            return output, None
        output, raw = jnp.split(output, 2, axis=-1)
        return output, 0.5 * (raw + 1.0)

    def draw_labels(self, num_samples: int, seed: int) -> np.ndarray:
        """Draws classes as often as in training, int32 [sample].

        Args:
          num_samples: Number of labels.
          seed: Seed of the draws.
        """
        return draw_classes(self.facts.class_counts, num_samples, seed)

    def sample(
        self,
        params: Tree,
        labels: np.ndarray,
        seed: int,
        stretches: Sequence[Stretch],
        sampling: Sampling,
        guidance_channels: int = 0,
        kept: Kept | None = None,
    ) -> np.ndarray:
        """Generates images in the units of training.

        Args:
          params: Parameters, EMA or raw.
          labels: Class of each image, int [image].
          seed: Seed of the noise.
          stretches: From `stretches`.
          sampling: The sampler's settings.
          guidance_channels: See `guided`.
          kept: Pixels that are given; they come back unchanged.
        """
        options = _options(sampling, guidance_channels)._replace(keeps=kept is not None)
        images = self._sampler.sample(
            options,
            stretches,
            functools.partial(self.start, labels, seed, kept=kept),
            params,
            len(labels),
            sampling.batch_size,
        )
        return images if kept is None else np.where(kept.is_given, kept.data, images)

    def walk(
        self,
        params: Tree,
        start: Start,
        stretches: Sequence[Stretch],
        sampling: Sampling,
        guidance_channels: int = 0,
    ) -> Iterator[Reached]:
        """Samples images stretch by stretch; yields the state after each.

        Args:
          params: Parameters.
          start: Noise, keys and labels.
          stretches: Parts of the time grid, one noise bucket each.
          sampling: Sampler and its settings.
          guidance_channels: First channels that are guided; 0 for all.
        """
        options = _options(sampling, guidance_channels)
        return self._sampler.walk(options, stretches, start, params)

    def start(
        self,
        labels: np.ndarray,
        seed: int,
        rows: np.ndarray,
        kept: Kept | None = None,
    ) -> Start:
        """Returns the noise of some images.

        Args:
          labels: Class of every image, int [image].
          seed: Seed of the samples.
          rows: Numbers of the images, int [row].
          kept: Pixels of every image that are given.
        """
        keys = row_keys(jax.random.key(seed), rows)
        x = draw_prior(self.time.schedule, keys, self.image_shape)
        given: Any = labels[rows]
        if kept is not None:
            given = given, kept.is_given[rows], kept.data[rows], x
        return Start(x, sample_keys(seed, rows), given)

    def stretches(
        self, sampling: Sampling, *, random_seed: int | None = None
    ) -> list[Stretch]:
        """Cuts the sampler's time grid into stretches of one bucket.

        Args:
          sampling: The sampler's settings.
          random_seed: Draws the patches of every step at random instead, as often as
            the schedule has them.
        """
        dim = int(np.prod(self.image_shape))
        times = sampling.times(self.time.schedule, dim)
        chain = self.num_variance_steps or None
        return cut_time_grid(self.time, times, random_seed, chain)

    @functools.cached_property
    def _sampler(self) -> BucketedSampler:
        return BucketedSampler(self._program, begin_by_name)

    def _program(self, options: ImageSampler, index: int | None):
        if index is None:
            raise ValueError("patches of images belong to a bucket")
        bucket, schedule = self.time.buckets[index], self.time.schedule
        target = self.objective.target

        def run(state, keys, given, params, times, offset):
            labels, *kept = given if options.keeps else (given,)

            def network(x_t, t):
                return self.guided(
                    params,
                    bucket,
                    x_t,
                    t,
                    labels,
                    options.guidance,
                    options.guidance_channels,
                )

            if not self.num_variance_steps:
                denoise = make_denoiser(network, target, schedule, options.data_limit)
                if kept:
                    denoise = keep_given(denoise, *kept, hold=False)
                sampler = make_sampler(options.sampler)
                return take_steps(
                    sampler, denoise, schedule, state, times, keys, offset
                )

            def denoise_and_vary(x_t, t):
                output, fraction = self.split_output(network(x_t, t))
                known = make_denoiser(
                    lambda *_: output, target, schedule, options.data_limit
                )
                return *known(x_t, t), fraction

            return take_steps(
                single_step(learned_variance_step),
                denoise_and_vary,
                schedule,
                state,
                times,
                keys,
                offset,
            )

        return run


def _options(sampling: Sampling, guidance_channels: int) -> ImageSampler:
    return ImageSampler(
        sampling.sampler, sampling.data_limit, sampling.guidance, guidance_channels
    )
