"""Trains and evaluates models of expression over space and time.

(arXiv 2507.09391, section 5.2.) One conditional sampler serves all tasks of
`expression.conditioning`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import take_batch
from ncgn_jax.data.report import DataReport
from ncgn_jax.expression.conditioning import given_mask
from ncgn_jax.expression.config import (
    FIELDS,
    NAME,
    check,
    check_training,
    make_layout,
    make_model,
)
from ncgn_jax.expression.facts import FieldFacts, learn_facts
from ncgn_jax.expression.load import load_dataset
from ncgn_jax.expression.model import Fixed, Layouts
from ncgn_jax.expression.own_data import write_cells
from ncgn_jax.expression.recognise import recognise
from ncgn_jax.expression.scores import (
    BASELINES,
    FIELD_COLUMNS,
    IMPUTATION_TASKS,
    FieldCase,
    evaluate_fields,
)
from ncgn_jax.expression.sets import FieldDataset, FieldSet
from ncgn_jax.expression.trained import TrainedFields
from ncgn_jax.faults import DataError, Faults
from ncgn_jax.metrics.table import Row
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks import Arrays, Task, Tree
from ncgn_jax.tasks.bucketed import BatchLayout, bucket_names
from ncgn_jax.tasks.sampling import sample_chunks
from ncgn_jax.tasks.settings import make_sampling

# Draws of the noise anchor, whatever the seed of the samples.
_ANCHOR_SEED = 7


class ExpressionTask(Task[FieldDataset, FieldFacts]):
    """Joins a model of expression fields with its data."""

    name = NAME
    facts_type = FieldFacts
    usual_config = "tissue"
    fields = FIELDS
    anchors = ("noise", "train", *BASELINES)
    samples_beside_data = True
    columns = FIELD_COLUMNS

    def __init__(
        self,
        config: ConfigDict,
        dataset: FieldDataset | None,
        facts: FieldFacts | None = None,
    ) -> None:
        super().__init__(config, dataset, facts)
        self.model = make_model(config, self.facts)
        self.sampling = make_sampling(config)
        self.bucket_names = bucket_names(self.model.time.buckets)
        # Every task must fit the data before anything is trained.
        if dataset is not None:
            self.cases = self._cases_of_data()

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what holds between fields."""
        check(config, faults)

    @classmethod
    def check_training(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what must hold on these devices to train."""
        check_training(config, faults)

    @classmethod
    def load_dataset(cls, config: ConfigDict) -> FieldDataset:
        """Loads the fields of a configuration."""
        return load_dataset(config)

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        """Returns the fields that load a file or folder of cells or profiles."""
        return recognise(path)

    @classmethod
    def write_data(cls, data: Any, stem: Path) -> tuple[Path, dict[str, Any]]:
        """Writes data as `own_data.write_cells`."""
        path, fields = write_cells(data, stem)
        return path, {"data.source": "cells", **fields}

    def trained(self, weights: Weights, about: ModelFile) -> TrainedFields:
        """Joins the model with weights to one that stands on its own."""
        return TrainedFields(self.model, self.sampling, weights, about, hold=self._hold)

    @classmethod
    def learn(cls, config: ConfigDict, dataset: FieldDataset) -> FieldFacts:
        """Finds genes, moments and layouts of the training fields."""
        return learn_facts(dataset)

    @functools.cached_property
    def layout(self) -> BatchLayout:
        """Which rows of a batch belong to which bucket."""
        return make_layout(self.config, self.facts.num_nodes, self.facts.dim)

    @functools.cached_property
    def _train_values(self) -> np.ndarray:
        return self.model.standardise(self.dataset.train.values)

    @functools.cached_property
    def _train_layouts(self) -> Layouts:
        layouts = self.dataset.train.layouts
        return self.model.connect(layouts, self.facts.num_nodes)

    def describe_data(self) -> list[str]:
        """Describes the data: found, used and left out."""
        return self.report.lines(self.dataset.name)

    @property
    def report(self) -> DataReport:
        """How the data were read."""
        return self.dataset.report

    def describe_model(self) -> list[str]:
        """Describes graphs and model in a few lines."""
        graphs, model = self.model.describe()
        return [graphs, f"{model}; conditioning: {self.config.sample.conditioning}"]

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and batch statistics."""
        return self.model.init(rng)

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
        self, params: Tree, model_state: Tree, batch: Tree, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's weighted loss, new statistics, and loss per bucket."""
        return self.model.loss(
            params, model_state, self._train_layouts, self.layout, batch, rng
        )

    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
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
        arrays: dict[str, np.ndarray] = {}
        for name, case in self.cases.items():
            many = self.config.sample.num_draws if name in IMPUTATION_TASKS else 1
            draws = [
                self.model.sample(
                    params,
                    model_state,
                    self.test_layouts,
                    fixed_of(case.first(num_samples)),
                    # Far apart, since the seed next to one is that of its sampler.
                    seed + 1000 * k,
                    self.sampling,
                    hold=self._hold,
                )
                for k in range(many)
            ]
            arrays[name] = draws[0]
            if many > 1:
                total = sum(draws[1:], draws[0])
                arrays[f"{name}_mean"] = total / np.float32(many)
        return arrays

    def caption(self) -> dict[str, object]:
        """States what the table is measured on."""
        sample, num_test = self.config.sample, len(self.dataset.test)
        return {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{min(sample.num_samples, num_test)} fields per task, "
            f"{num_test} test fields",
            "conditioning": sample.conditioning,
        }

    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Measures sample sets against the test fields, with the anchors below."""

        def make_noise(count, shape):
            return self.model.undo(self.model.prior(count, shape, _ANCHOR_SEED))

        return evaluate_fields(
            samples,
            self.cases,
            self.dataset,
            make_noise,
            with_baselines=self.config.evaluate.baselines,
        )

    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves pictures of fields beside the truth."""
        from ncgn_jax.expression.pictures import draw_all

        def walk():
            return self.first_path(params, model_state, "unconditional")

        facts = self.facts
        return draw_all(
            samples, self.cases, self._dataset, facts.genes, walk, folder, facts.unit
        )

    def first_path(
        self, params: Tree, model_state: Tree, name: str
    ) -> list[tuple[np.ndarray, float]]:
        """Returns states of a task's first sample, as `sample` walks through them.

        Returns:
          Fields [node, gene] in the units of the data with their signal levels, at the
          noise and at the end of every bucket.
        """
        model, layouts, sampling = self.model, self.test_layouts, self.sampling
        fixed = fixed_of(self.cases[name].first(self.config.sample.num_samples))
        rows = next(sample_chunks(len(fixed.layout), sampling.batch_size))
        start = model.start(layouts, fixed, self.config.seed, rows)
        stretches = model.stretches(sampling, layouts)
        states = [(model.undo(start.x[0]), 0.0)]
        for reached in model.walk(
            params, model_state, layouts, start, stretches, sampling, hold=self._hold
        ):
            level = float(model.time.level(jnp.float32(reached.t)))
            states.append((model.undo(reached.x[0]), level))
        return states

    @functools.cached_property
    def test_layouts(self) -> Layouts:
        """Layouts that samples lie on, those of the test fields, with their graphs."""
        fields, resolution = self._sampled_fields, self.config.sample.resolution
        return self.model.connect(
            fields.layouts, fields.values.shape[1], keep_size=resolution == "absolute"
        )

    @functools.cached_property
    def _sampled_fields(self) -> FieldSet:
        """The test fields; without data as many empty ones on layouts of training."""
        if self._dataset is not None:
            return self._dataset.test
        facts, count = self.facts, self.config.sample.num_samples
        layouts = tuple(facts.positions())
        nothing = np.zeros((count, facts.num_nodes, len(facts.genes)), np.float32)
        index = np.arange(count, dtype=np.int32) % len(layouts)
        return FieldSet(nothing, layouts, index, facts.grid)

    @property
    def _hold(self) -> bool:
        return self.config.sample.conditioning != "replace"

    def _cases_of_data(self) -> dict[str, FieldCase]:
        wanted = self.config.sample
        hidden = _hidden_genes(wanted.hidden_genes, self.facts.genes)
        return {name: self._case(name, hidden) for name in wanted.tasks}

    @functools.cached_property
    def cases(self) -> dict[str, FieldCase]:
        """What is sampled, by task; without data the one that needs no test fields."""
        fields = self._sampled_fields
        given = np.zeros(fields.values.shape, bool)
        return {"unconditional": FieldCase(fields, given, fields.values)}

    def _case(self, name: str, hidden_genes: tuple[int, ...]) -> FieldCase:
        """Returns the test fields of a task, as many as are sampled.

        A knocked-out gene is given as exactly 0.
        """
        fields = self.dataset.knockout if name == "knockout" else self.dataset.test
        if fields is None:
            raise DataError("sample.tasks: knockout needs fields with a lost gene")
        fields = fields.first(self.config.sample.num_samples)
        given, known = given_mask(name, fields, hidden_genes), fields.values
        if name == "knockout" and self.dataset.zero is not None:
            known = np.where(given, self.dataset.zero[None], known)
        return FieldCase(fields, given, known)


def fixed_of(case: FieldCase) -> Fixed:
    """Returns what the samples of a task must keep to."""
    return Fixed(case.fields.layout, case.given, case.known)


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
