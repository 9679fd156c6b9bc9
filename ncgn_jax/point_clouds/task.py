"""Trains and evaluates models of point clouds (arXiv 2507.09391, section 5.1).

Clouds train at unit variance and are measured in the paper's scaling, with coordinates
in +-0.25; those that are not scaled each by itself are brought there all alike.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import take_batch
from ncgn_jax.data.digest import digest
from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import DataError, Faults
from ncgn_jax.metrics.table import Row
from ncgn_jax.point_clouds.anchors import ANCHOR_NAMES
from ncgn_jax.point_clouds.columns import (
    POINT_CLOUD_COLUMNS,
    add_floor,
    say_unmeasured,
    warn_below_floor,
)
from ncgn_jax.point_clouds.config import (
    FIELDS,
    NAME,
    check,
    check_training,
    file_options,
    make_layout,
    make_model,
)
from ncgn_jax.point_clouds.evaluation import (
    EvaluationSettings,
    evaluate_anchors,
    evaluate_clouds,
    prepare_reference,
)
from ncgn_jax.point_clouds.facts import CloudFacts, learn_facts
from ncgn_jax.point_clouds.load import load_point_dataset
from ncgn_jax.point_clouds.own_data import write_clouds
from ncgn_jax.point_clouds.recognise import looks_like_clouds
from ncgn_jax.point_clouds.sets import Frame, PointDataset
from ncgn_jax.point_clouds.trained import TrainedClouds
from ncgn_jax.point_clouds.truth import TRUTH_COLUMNS, add_truth
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks import Arrays, Task, Tree
from ncgn_jax.tasks.bucketed import BatchLayout, bucket_names
from ncgn_jax.tasks.level_errors import LevelProbe
from ncgn_jax.tasks.settings import flow_map_notes, make_sampling

HALF_WIDTH = 0.25

# Measures compare two halves of the test clouds.
_LEAST_MEASURED = 4


class PointCloudTask(Task[PointDataset, CloudFacts]):
    """Joins a model of point clouds with its data."""

    name = NAME
    facts_type = CloudFacts
    usual_config = "modelnet"
    fields = FIELDS
    anchors = ANCHOR_NAMES
    columns = POINT_CLOUD_COLUMNS + TRUTH_COLUMNS

    def __init__(
        self,
        config: ConfigDict,
        dataset: PointDataset | None,
        facts: CloudFacts | None = None,
    ) -> None:
        super().__init__(config, dataset, facts)
        self._check_frame()
        self.model = make_model(config, self.facts)
        self.sampling = make_sampling(config)
        self.bucket_names = bucket_names(self.model.time.buckets)
        if self.model.flow_map is not None:
            self.bucket_names += self.model.flow_map.part_names(self.model.time)

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what holds between fields."""
        check(config, faults)

    @classmethod
    def check_training(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what must hold on these devices to train."""
        check_training(config, faults)

    @classmethod
    def load_dataset(cls, config: ConfigDict) -> PointDataset:
        """Loads the clouds of a configuration."""
        data = config.data
        return load_point_dataset(
            data.source,
            data.path,
            data.num_points,
            sampling=data.sampling,
            categories=data.categories or None,
            num_train=data.num_train,
            num_test=data.num_test,
            test_fraction=data.test_fraction,
            cache_dir=data.cache_dir or None,
            normalise=data.normalise,
            options=file_options(config),
        )

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        """Returns no further fields for clouds and meshes, None for anything else."""
        return {} if looks_like_clouds(path) else None

    @classmethod
    def write_data(cls, data: Any, stem: Path) -> tuple[Path, dict[str, Any]]:
        """Writes data as `own_data.write_clouds`."""
        return write_clouds(data, stem), {"data.source": "files"}

    def trained(self, weights: Weights, about: ModelFile) -> TrainedClouds:
        """Joins the model with weights to one that stands on its own."""
        return TrainedClouds(self.model, self.sampling, weights, about)

    @classmethod
    def learn(cls, config: ConfigDict, dataset: PointDataset) -> CloudFacts:
        """Finds scale and classes of the training clouds."""
        return learn_facts(dataset)

    @functools.cached_property
    def layout(self) -> BatchLayout:
        """Which rows of a batch belong to which bucket."""
        return make_layout(self.config)

    @functools.cached_property
    def _train_clouds(self) -> np.ndarray:
        return self._seen(self.dataset.train) / np.float32(self.facts.scale)

    def _check_frame(self) -> None:
        """Refuses data that were scaled otherwise than those of the model's run."""
        if not self.has_data:
            return
        ours, theirs = self.facts.frame, self.dataset.frame
        if ours.is_plain and theirs.is_plain:
            return
        if ours.normalise != theirs.normalise:
            raise DataError(
                f"data.normalise={theirs.normalise!r}, but the model was trained with "
                f"{ours.normalise!r}"
            )

    def _seen(self, clouds: np.ndarray) -> np.ndarray:
        """Returns clouds of the data set as the model sees them."""
        ours, theirs = self.facts.frame, self.dataset.frame
        return clouds if ours == theirs else ours.from_file(theirs.to_file(clouds))

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the clouds and classes.

        That of clouds that were scaled each by itself does not tell how, so that it is
        still the one of runs that knew no other way.
        """
        content = {
            field.name: getattr(self.dataset, field.name)
            for field in dataclasses.fields(self.dataset)
        }
        left = {"name", "report"} | ({"frame"} if content["frame"].is_plain else set())
        return digest({n: v for n, v in content.items() if n not in left})

    @property
    def report(self) -> DataReport | None:
        """How the clouds were read or made; None without them."""
        return self.dataset.report if self.has_data else None

    def describe_data(self) -> list[str]:
        """Describes the data and how they were read."""
        lines = self.dataset.report.lines(self.dataset.name)
        if not self.dataset.name.startswith("embedded"):
            return lines
        return [
            "NOTE: ModelNet was not found, training on EMBEDDED parametric shapes; "
            "set data.path (or NCGN_DATA) to use real data",
            *lines,
        ]

    def describe_model(self) -> list[str]:
        """Describes graphs and model in a few lines."""
        return self.model.describe()

    def notes(self) -> list[str]:
        """Warns of data too few to measure against, and of maps without a start."""
        found = flow_map_notes(self.config)
        if not self.has_data or len(self.dataset.test) >= _LEAST_MEASURED:
            return found
        return [
            *found,
            f"NOTE: {len(self.dataset.test)} test clouds; the table leaves out what "
            f"needs {_LEAST_MEASURED} (data.test_fraction holds out more)",
        ]

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and batch statistics."""
        return self.model.init(rng)

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns `data` [row, point, 3] at unit variance, `label` and `row`."""
        size = self.config.train.batch_size
        batch = take_batch(
            self._train_clouds,
            self.dataset.train_labels,
            step,
            size,
            self.config.seed,
            self.model.num_points,
            rows,
        )
        row = np.arange(size, dtype=np.int32)[rows]
        return {"data": batch["data"], "label": batch["label"], "row": row}

    def loss(
        self, params: Tree, model_state: Tree, batch: Tree, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's weighted loss, new statistics, and loss per bucket."""
        return self.model.loss(params, model_state, self.layout, batch, rng)

    def loss_with_average(
        self,
        params: Tree,
        average: Tree,
        model_state: Tree,
        batch: Tree,
        rng: jax.Array,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns what `loss` does; targets of a flow map are the average's."""
        if self.model.flow_map is None:
            return self.loss(params, model_state, batch, rng)
        return self.model.loss(params, model_state, self.layout, batch, rng, average)

    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates clouds.

        Returns:
          `points` [cloud, point, 3] in the units of the file if `data.normalise` kept
          these, else in [-1, 1]; and `label` [cloud] (zeros without classes).
        """
        label = self.model.draw_labels(num_samples, seed)
        points = self.model.sample(params, model_state, label, seed, self.sampling)
        return {"points": self.facts.frame.to_file(points), "label": label}

    def caption(self) -> dict[str, object]:
        """States what the table is measured on."""
        num_test = min(len(self.dataset.test), self.config.evaluate.max_reference)
        caption: dict[str, object] = {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{self.config.sample.num_samples} generated, {num_test} "
            f"reference, {self.model.num_points} points",
        }
        if self.model.num_classes:
            caption["guidance"] = self.sampling.guidance
        if self.has_data and self._measured != Frame():
            center = ", ".join(f"{x:.6g}" for x in self._measured.center)
            caption["scaling"] = (
                f"data.normalise={self.facts.frame.normalise}; all clouds minus "
                f"({center}), over {self._measured.unit:.6g}"
            )
        return caption

    @functools.cached_property
    def _measured(self) -> Frame:
        """How clouds of the file come into [-1, 1], where measures look at them.

        Clouds that were scaled each by itself are there, and primitives nearly.
        """
        frame = self.facts.frame
        if frame.normalise == "cloud" or self.config.data.source == "primitives":
            return Frame()
        if frame.normalise == "set":
            return dataclasses.replace(frame, normalise="cloud")
        train = self._seen(self.dataset.train).astype(np.float64)
        center = train.mean(axis=(0, 1))
        x, y, z = center.tolist()
        return Frame("cloud", (x, y, z), float(np.abs(train - center).max()))

    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Measures sample sets against the test clouds, with the anchors below."""
        evaluate = self.config.evaluate
        settings = EvaluationSettings(
            half_width=HALF_WIDTH,
            max_matched_clouds=evaluate.max_matched_clouds,
            max_emd_clouds=evaluate.max_emd_clouds,
        )
        to_file, measured = self.dataset.frame.to_file, self._measured.from_file
        test = self.dataset.test[: evaluate.max_reference]
        test = measured(to_file(test)) * HALF_WIDTH
        train = self.dataset.train[:, : self.model.num_points]
        train = measured(to_file(train)) * HALF_WIDTH
        num_clouds = max(len(arrays["points"]) for arrays in samples.values())
        reference = prepare_reference(test, settings, num_generated=num_clouds)
        rows = {
            name: evaluate_clouds(
                measured(arrays["points"]) * HALF_WIDTH, reference, settings
            )
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
        return add_floor(rows)

    def warnings(self, rows: Mapping[str, Row]) -> list[str]:
        """Warns of W below its floor, and says what could not be measured."""
        return [*warn_below_floor(rows), *say_unmeasured(rows)]

    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves pictures of samples, denoising path, graphs and attention."""
        from ncgn_jax.point_clouds.pictures import draw_all

        seen = self.facts.frame.from_file(samples["points"])
        samples = {**samples, "points": seen}
        dataset = self._dataset
        if dataset is not None:
            dataset = dataclasses.replace(dataset, test=self._seen(dataset.test))
        return draw_all(
            self.model,
            params,
            model_state,
            samples,
            dataset,
            self.sampling,
            self.config.seed,
            folder,
        )

    def probe(self, params: Tree, model_state: Tree, count: int) -> LevelProbe:
        """Returns the network with test clouds to measure errors by noise level."""
        from ncgn_jax.point_clouds.views import NetworkView, choose_clouds, level_probe

        data, model = self.dataset, self.model
        test = self._seen(data.test[:, : model.num_points])
        clouds = choose_clouds(test, data.test_labels, self.facts.scale, count)
        return level_probe(NetworkView(model, params, model_state), clouds)
