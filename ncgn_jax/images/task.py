"""Trains and evaluates models of images.

Times are spread over a bucket's interval within the batch, and buckets over steps, so
that together they are uniform.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import Faults
from ncgn_jax.images.config import (
    FIELDS,
    NAME,
    check,
    check_training,
    images_per_step,
    make_model,
    network_sizes,
)
from ncgn_jax.images.costs import (
    COST_COLUMNS,
    count_macs,
    describe_patches,
    sampling_macs,
    training_macs,
)
from ncgn_jax.images.facts import ImageFacts, learn_facts
from ncgn_jax.images.load import (
    DATA_VARIABLE,
    check_data,
    check_sampling,
    load_dataset,
)
from ncgn_jax.images.model import ImageBatch
from ncgn_jax.images.own_data import write_images
from ncgn_jax.images.recognition import find_source
from ncgn_jax.images.scores import ImageScorer
from ncgn_jax.images.sets import ImageDataset, check_finite
from ncgn_jax.images.times import bucket_at
from ncgn_jax.images.trained import TrainedImages, save_samples
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks import Arrays, StepKind, Task, Tree
from ncgn_jax.tasks.level_errors import LevelProbe
from ncgn_jax.tasks.sampling import Reached, Start, Stretch, sample_chunks
from ncgn_jax.tasks.settings import data_path, make_sampling

_PIXEL_LIMIT = 1.0
_FEW_CLASSES = 10


class ImageTask(Task[ImageDataset, ImageFacts]):
    """Joins a model of images with its data."""

    name = NAME
    facts_type = ImageFacts
    usual_config = "digits"
    fields = FIELDS
    anchors = ("noise", "train", "held_out")
    unknown_fields: ClassVar[Mapping[str, Any]] = {"data.source": "auto"}
    counts_macs = True

    def __init__(
        self,
        config: ConfigDict,
        dataset: ImageDataset | None,
        facts: ImageFacts | None = None,
    ) -> None:
        super().__init__(config, dataset, facts)
        if dataset is not None:
            check_data(config, dataset)
        check_sampling(config, self.facts)
        self.model = make_model(config, self.facts)
        self.sampling = make_sampling(config)
        buckets = self.model.time.buckets
        self.bucket_names = tuple(f"p{b.patch}_w{b.window}" for b in buckets)
        self.images_per_step = np.asarray(
            [images_per_step(config, bucket.patch) for bucket in buckets]
        )

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what holds between fields."""
        check(config, faults)

    @classmethod
    def check_training(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what must hold on these devices to train."""
        check_training(config, faults)

    @classmethod
    def load_dataset(cls, config: ConfigDict) -> ImageDataset:
        """Loads the images of a configuration."""
        return load_dataset(config)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the domain's table."""
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
            num_steps=classifier_steps(
                evaluate.classifier_steps, self.model.num_classes
            ),
            inception=evaluate.inception,
            limit=None if data.units.is_latent else _PIXEL_LIMIT,
            max_nearest=evaluate.max_nearest,
            classes=tuple(self.config.sample.classes),
        )

    @classmethod
    def write_data(cls, data: Any, stem: Path) -> tuple[Path, dict[str, Any]]:
        """Writes data as `own_data.write_images`."""
        return write_images(data, stem), {"data.source": "arrays"}

    def trained(self, weights: Weights, about: ModelFile) -> TrainedImages:
        """Joins the model with weights to one that stands on its own."""
        return TrainedImages(self.model, self.sampling, weights, about)

    @classmethod
    def learn(cls, config: ConfigDict, dataset: ImageDataset) -> ImageFacts:
        """Finds shape, classes and units of the training images."""
        return learn_facts(dataset)

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        """Returns how the images at a path are stored."""
        source = find_source(path)
        return None if source is None else {"data.source": source}

    @property
    def report(self) -> DataReport:
        """How the images were read."""
        return self.dataset.report

    def describe_data(self) -> list[str]:
        """Describes the data: found, used and left out."""
        lines = self.report.lines(self.dataset.name)
        is_named = data_path(self.config, (DATA_VARIABLE,)) is not None
        if is_named or self.config.data.source != "auto":
            return lines
        return [
            "NOTE: no data.path, training on the EMBEDDED digits; set data.path (or "
            f"{DATA_VARIABLE}) to use other images",
            *lines,
        ]

    def describe_model(self) -> list[str]:
        """Describes patches and network in a few lines."""
        config, process = self.config, self.config.process
        width, layers, heads = network_sizes(config)
        return [
            describe_patches(
                self.model,
                self.forward_macs,
                config.dmp.schedule,
                reverse=config.dmp.reverse_schedule,
            ),
            f"model: DiT, width {width}, {layers} layers, {heads} heads; "
            f"{process.schedule} process, {process.target} target"
            + (", learned variance" if config.model.learned_variance else ""),
        ]

    def notes(self) -> list[str]:
        """Warns of patches that the sampler never uses."""
        count, buckets = self.sampling.num_steps, self.model.time.buckets
        used = {bucket for bucket, _, _ in self.stretches()}
        unused = [b.patch for i, b in enumerate(buckets) if i not in used]
        if not unused:
            return []
        least = "more" if self.config.sample.random_buckets else len(buckets)
        return [
            f"NOTE: sample.num_steps={count} leaves no step to patches "
            f"{', '.join(map(str, unused))}; {least} steps would use all"
        ]

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters; there is no model state."""
        return self.model.init(rng)

    def bucket_of_step(self, step: ArrayLike) -> np.ndarray:
        """Returns the noise bucket of training steps, int of their shape.

        In any stretch of steps each bucket has its share, to within a step or two.
        """
        return bucket_at(self.model.shares, step, self.config.seed)

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
        fewer = size // int(self.images_per_step[bucket])
        rows = slice(rows.start // fewer, rows.stop // fewer)
        images, label = self.dataset.take(index[rows])
        row = np.arange(size, dtype=np.int32)[rows]
        if self.config.data.flip:
            rng = np.random.default_rng([self.config.seed, 7, step])
            mirrored = (rng.random(size) < 0.5)[rows, None, None, None]
            images = np.where(mirrored, images[:, :, ::-1], images)
        return ImageBatch(images, label, row, bucket)

    def loss(
        self, params: Tree, model_state: Tree, batch: ImageBatch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss, and the loss of the batch's bucket."""
        size = int(self.images_per_step[batch.bucket])
        return self.model.loss(params, model_state, batch, rng, size)

    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates images of `sample.classes`, or of classes as in training.

        Returns:
          `images`, pixels 0..255 as bytes or latents as stored (see
          `ImageUnits.to_saved`), and the `labels` they were asked for.

        Raises:
          DataError: If an image is not finite.
        """
        labels = self.draw_labels(num_samples, seed)
        channels = self.config.sample.guidance_channels
        images = self.model.sample(
            params, labels, seed, self.stretches(), self.sampling, channels
        )
        check_finite(images, "samples")
        return {"images": self.facts.units.to_saved(images), "labels": labels}

    def draw_labels(self, count: int, seed: int) -> np.ndarray:
        """Takes `sample.classes` in turn, or draws as in training; int32 [count]."""
        if self.config.sample.classes:
            return np.resize(self.config.sample.classes, count).astype(np.int32)
        return self.model.draw_labels(count, seed)

    def stretches(self) -> list[Stretch]:
        """Cuts the sampler's time grid into stretches of one bucket."""
        at_random = self.config.sample.random_buckets
        seed = self.config.seed if at_random else None
        return self.model.stretches(self.sampling, random_seed=seed)

    def first_paths(self, params: Tree) -> tuple[Start, list[Reached]]:
        """Walks the first samples as `sample` does, so that nothing is compiled."""
        labels = self.draw_labels(self.config.sample.num_samples, self.config.seed)
        rows = next(sample_chunks(len(labels), self.sampling.batch_size))
        start = self.model.start(labels, self.config.seed, rows)
        channels = self.config.sample.guidance_channels
        path = self.model.walk(params, start, self.stretches(), self.sampling, channels)
        return start, list(path)

    def caption(self) -> dict[str, object]:
        """States what the table is measured on."""
        sample, evaluate = self.config.sample, self.config.evaluate
        count, num_test = (
            min(size, evaluate.max_images)
            for size in (sample.num_samples, self.scorer.num_reference)
        )
        caption: dict[str, object] = {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{count} images per set, {num_test} test images",
            "features": self.scorer.describe_features(),
            "nearest": f"among {self.scorer.looked_at} training images",
        }
        if self.model.num_classes:
            caption["guidance"] = self.sampling.guidance
        if sample.classes:
            names = self.facts.class_names
            caption["classes"] = ", ".join(names[i] for i in sample.classes)
            caption["reference"] = self.scorer.describe_reference(names)
        return caption

    def warnings(self, rows: Mapping[str, Row]) -> list[str]:
        """Warns where samples of some classes are compared with all test images."""
        if not self.scorer.lacks_classes:
            return []
        described = self.scorer.describe_reference(self.facts.class_names)
        return [f"NOTE: sample.classes are compared with {described}"]

    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Measures generated images beside training, test and noise images."""
        named = {
            name: (self.facts.units.from_saved(arrays["images"]), arrays["labels"])
            for name, arrays in samples.items()
        }
        return self.scorer.rows(named, self.config.evaluate.max_images)

    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves pictures of samples, paths, nearest training images and costs.

        The first samples are saved as files of their own in the folder `samples`.
        """
        from ncgn_jax.images import pictures

        model, facts = self.model, self.facts
        start, path = self.first_paths(params)
        paths = [
            pictures.draw_classes(
                samples, facts, folder / "samples.png", self._sheet_title()
            ),
            pictures.draw_paths(model, start, path, folder / "paths.png"),
            pictures.draw_cost(model, self.forward_macs, folder / "cost.png"),
            save_samples(samples, facts, folder / "samples"),
        ]
        if self._dataset is not None:
            nearest = folder / "nearest.png"
            paths.append(
                pictures.draw_neighbors(
                    samples["images"], self.dataset, self.scorer, nearest
                )
            )
        return paths

    def _sheet_title(self) -> str:
        """Says above a picture what it shows, and with classes how it was guided."""
        if not self.model.num_classes:
            return "Generated images"
        return f"Generated images, guidance {self.sampling.guidance:g}"

    @functools.cached_property
    def forward_macs(self) -> np.ndarray:
        """Multiply-adds of one image through the network, by XLA's count, [bucket]."""
        return count_macs(self.model, with_gradient=False)

    @functools.cached_property
    def _training_macs(self) -> np.ndarray:
        return count_macs(self.model, with_gradient=True)

    def step_macs(self) -> float:
        """Counts multiply-adds of a training step, the mean over noise buckets."""
        shares = self.model.shares
        return training_macs(shares, self.images_per_step, self._training_macs)

    def costs(self, num_steps: int) -> dict[str, float]:
        """Counts multiply-adds of training and of one sample.

        Returns:
          `train_tmac`, in 10^12, of all images of all steps; `sample_mmac`, in 10^6.
        """
        visits = np.bincount(
            self.bucket_of_step(np.arange(num_steps)),
            minlength=len(self.model.time.buckets),
        )
        trained = training_macs(visits, self.images_per_step, self._training_macs)
        sampled = sampling_macs(
            self.model, self.stretches(), self.sampling, self.forward_macs
        )
        return {"train_tmac": trained / 1e12, "sample_mmac": sampled / 1e6}

    def probe(self, params: Tree, model_state: Tree, count: int) -> LevelProbe:
        """Returns the network with test images to measure errors by noise level."""
        from ncgn_jax.images.level_probe import level_probe

        test = self.dataset.rows("test")
        chosen = np.random.default_rng(0).permutation(len(test))
        chosen = np.sort(np.resize(chosen, count))
        labels = np.asarray(self.dataset.test_labels)[chosen]
        return level_probe(self.model, params, test[chosen], labels)


def classifier_steps(num_steps: int, num_classes: int) -> int:
    """Returns the steps that the classifier of the measures is trained for.

    Args:
      num_steps: Steps for ten classes or fewer; more classes get more in proportion.
      num_classes: Classes of the images, 0 for none.
    """
    return num_steps * max(1, -(-num_classes // _FEW_CLASSES))
