"""Defines the protocol between a domain and the rest: `Task`.

A task joins a model with a data set. It is made from a validated configuration and
turns fields into arguments: below a domain's `config.py`, `load.py` and `task.py`
there is no ConfigDict. What the data teach the model, beside its weights, are the
task's facts: a frozen dataclass of plain values (`tasks.facts`) that is stored with
every checkpoint. With stored facts a task samples without its data.

The training loop, the sampler, the evaluation and the comparison know a domain through
this class alone; `ncgn_jax.domains` lists them.
"""

import abc
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import registry
from ncgn_jax.data.digest import digest
from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import DataError, Faults, RequestError
from ncgn_jax.fields import Rows
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks.facts import DataFacts
from ncgn_jax.tasks.level_errors import LevelProbe
from ncgn_jax.tasks.trained import TrainedModel

Tree = Any
Arrays = Mapping[str, np.ndarray]
Data = TypeVar("Data")
Facts = TypeVar("Facts", bound=DataFacts)
# Stands in `bucket_loss` for a noise bucket without rows in the step's batch.
NO_ROWS = -np.inf


class StepKind(NamedTuple):
    """Training steps that share one compiled program.

    Attributes:
      name: What they have in common.
      step: Number of the first of them.
      share: Their share of the steps that were asked about.
    """

    name: str
    step: int
    share: float


class Task(abc.ABC, Generic[Data, Facts]):
    """Offers a domain to the loop; see `point_clouds.task` for an example.

    Attributes:
      name: Value of the field `task`.
      facts_type: Class of the facts.
      fields: Every field of the configuration, a row each.
      anchors: Names of rows that `evaluate` adds, which no variant may have.
      extra_samples: Fields that ask for samples besides `sample.num_samples`.
      samples_beside_data: Whether `sample` adds, where there are data, what is made
        from them.
      usual_config: Configuration that `ncgn_jax.train` starts from; empty for the
        defaults.
      unknown_fields: Fields that let the readers say what is wrong with a path that
        `recognise` does not know.
      counts_macs: Whether `step_macs` and `costs` count multiply-adds.
      config: The configuration.
      facts: What the data taught the model.
      bucket_names: A name for each noise bucket, in the order of `loss`'s metric.
      columns: What `evaluate` measures, in the order to print.
    """

    name: ClassVar[str]
    facts_type: ClassVar[type[DataFacts]]
    fields: ClassVar[Rows]
    anchors: ClassVar[tuple[str, ...]] = ()
    extra_samples: ClassVar[tuple[str, ...]] = ()
    samples_beside_data: ClassVar[bool] = False
    usual_config: ClassVar[str] = ""
    unknown_fields: ClassVar[Mapping[str, Any]] = {}
    counts_macs: ClassVar[bool] = False
    config: ConfigDict
    facts: Facts
    bucket_names: tuple[str, ...]

    def __init__(
        self, config: ConfigDict, dataset: Data | None, facts: Facts | None = None
    ) -> None:
        """Builds the task of a validated configuration.

        Args:
          config: The configuration.
          dataset: The data; None for a task that only samples.
          facts: What a run's data taught its model; found in `dataset` if None.

        Raises:
          DataError: If data, facts and configuration do not fit each other.
        """
        self.config = config
        self._dataset = dataset
        self.facts = self.learn(config, self.dataset) if facts is None else facts

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Records what is wrong between several fields.

        Each field on its own has passed the check of its row only if `faults` is empty.

        Args:
          config: The configuration.
          faults: Where faults are recorded.
        """

    @classmethod
    def check_training(cls, config: ConfigDict, faults: Faults) -> None:
        """Records what keeps a configuration from being trained on these devices.

        That is besides what `tasks.settings.check_training` does, of shared fields.

        Args:
          config: The configuration.
          faults: Where faults are recorded.
        """

    @classmethod
    @abc.abstractmethod
    def load_dataset(cls, config: ConfigDict) -> Data:
        """Loads the data of a validated configuration.

        Args:
          config: The configuration.
        """

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        """Returns the fields that load a file or folder, besides `data.path`.

        A look at names and first bytes decides; the content may still be faulty.

        Args:
          path: An existing file or folder.

        Returns:
          The fields, None if nothing there looks like data of this domain.
        """
        return None

    @classmethod
    def write_data(cls, data: Any, stem: Path) -> tuple[Path, dict[str, Any]]:
        """Writes data of `ncgn_jax.train`, or of a plug-in's reader, as a file.

        Args:
          data: Arrays, as the domain documents.
          stem: Path of the file without its ending.

        Returns:
          The file, and the fields besides `data.path` that load it.

        Raises:
          RequestError: If the data are not as documented.
        """
        raise RequestError(f"data: {cls.name} takes a path and no arrays")

    @classmethod
    @abc.abstractmethod
    def learn(cls, config: ConfigDict, dataset: Data) -> Facts:
        """Finds in the data what the model needs of them.

        Args:
          config: The configuration.
          dataset: The data.
        """

    def trained(self, weights: Weights, about: ModelFile) -> TrainedModel:
        """Joins the model with weights to one that stands on its own.

        Args:
          weights: Arrays by path.
          about: Where they come from.

        Raises:
          CheckpointError: If the weights are those of another network.
        """
        raise NotImplementedError(f"{self.name} has none")

    @property
    def dataset(self) -> Data:
        """The data.

        Raises:
          DataError: If the task was made without.
        """
        if self._dataset is None:
            raise DataError("this needs the data set, and the model was loaded alone")
        return self._dataset

    @functools.cached_property
    def about_data(self) -> list[str]:
        """Describes the data, or those that a model without them was trained on."""
        return self.describe_data()

    @property
    def report(self) -> DataReport | None:
        """How the data were read; None if that is not known."""
        return None

    @property
    def has_data(self) -> bool:
        """Whether the task was made with its data."""
        return self._dataset is not None

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the content of the data, whatever file it came from."""
        return digest(self.dataset)

    @classmethod
    def first_stage_config(cls, config: ConfigDict) -> ConfigDict | None:
        """Returns what must be trained before a configuration, None for nothing.

        Args:
          config: The configuration.
        """
        return None

    def with_config(self, config: ConfigDict) -> Self:
        """Builds the task of another configuration on the same data.

        Args:
          config: Another configuration.
        """
        return type(self)(config, self._dataset)

    def with_facts(self, facts: Facts) -> Self:
        """Builds the task of a model whose data taught it these facts.

        Args:
          facts: What the data of that model taught it.
        """
        return type(self)(self.config, self._dataset, facts)

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns of the domain's table."""

    @abc.abstractmethod
    def describe_data(self) -> list[str]:
        """Describes the data in a line or a few."""

    @abc.abstractmethod
    def describe_model(self) -> list[str]:
        """Describes graphs and model in a few lines."""

    def notes(self) -> list[str]:
        """Warns of what the settings leave undone, a line each."""
        return []

    def first_stage(self) -> "tuple[ConfigDict, Task] | None":
        """Returns the run that must be trained before this one, None for nothing.

        `adopt` takes over what it trained.
        """
        return None

    def adopt(self, params: Tree, model_state: Tree) -> None:
        """Takes over what the first stage trained.

        Args:
          params: Its parameters.
          model_state: Its model state.
        """
        raise NotImplementedError(f"{self.name} has no first stage")

    @abc.abstractmethod
    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and model state.

        Args:
          rng: Key of the initial weights.
        """

    @abc.abstractmethod
    def batch(self, step: int, rows: slice) -> Tree:
        """Returns this host's rows of the global batch of a step.

        A batch may be any tree of arrays. Where its structure differs from step to
        step, each structure is compiled once.

        Args:
          step: Number of the step.
          rows: Rows of the global batch that are this host's.
        """

    def step_kinds(self, start: int, stop: int) -> list[StepKind]:
        """Lists the kinds of training steps, each compiled once.

        Args:
          start: First step.
          stop: Step after the last, above `start`.

        Returns:
          Kinds that occur among these steps; their shares sum to 1.
        """
        return [StepKind("all", start, 1.0)]

    @abc.abstractmethod
    def loss(
        self, params: Tree, model_state: Tree, batch: Tree, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss, new model state, and loss of each bucket.

        The last is NO_ROWS for a bucket without rows in the batch. Runs per device
        under `parallel.data_parallel`; `rng` is the step's key.

        Args:
          params: Parameters.
          model_state: Model state, such as batch statistics.
          batch: This device's rows of `batch`.
          rng: Key of the step.
        """

    def loss_with_average(
        self,
        params: Tree,
        average: Tree,
        model_state: Tree,
        batch: Tree,
        rng: jax.Array,
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns what `loss` does, for targets that averaged weights compute.

        Args:
          params: Parameters.
          average: Their moving average, which no gradient reaches.
          model_state: Model state.
          batch: This device's rows of `batch`.
          rng: Key of the step.
        """
        return self.loss(params, model_state, batch, rng)

    @abc.abstractmethod
    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates arrays by name, ready to be saved and evaluated.

        Args:
          params: Parameters.
          model_state: Model state.
          num_samples: Number of samples.
          seed: Seed of the noise.
        """

    @abc.abstractmethod
    def caption(self) -> dict[str, object]:
        """States what the table is measured on.

        Returns:
          At least `data_set`, `split` and `sizes`.
        """

    @abc.abstractmethod
    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Measures named sample sets; returns their rows, then those of anchors.

        Args:
          samples: Arrays by name, for each set.
        """

    def measure(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Returns the rows of `evaluate` with the measures of plug-ins.

        Args:
          samples: Arrays by name, for each set.
        """
        rows = self.evaluate(samples)
        for name in registry.names("measure", self.name):
            own: registry.Measure = registry.find("measure", name, self.name)
            for kind, arrays in samples.items():
                value = float(own.function(arrays, self.dataset))
                rows[kind] = {**rows[kind], name: value}
        return rows

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The columns of the domain's table, and those of plug-ins."""
        found = []
        for name in registry.names("measure", self.name):
            own: registry.Measure = registry.find("measure", name, self.name)
            found.append(Column(name, own.title, 1, own.digits, "of a plug-in"))
        return (*self.columns, *found)

    def warnings(self, rows: Mapping[str, Row]) -> list[str]:
        """Warns readers of a table with these rows, a line each.

        Args:
          rows: Rows of the table by name.
        """
        return []

    @abc.abstractmethod
    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves the domain's pictures into a folder; returns their paths.

        Args:
          params: Parameters.
          model_state: Model state.
          samples: Arrays that `sample` made.
          folder: Where pictures go.
        """

    def step_macs(self) -> float:
        """Counts multiply-adds of a training step, the mean over its kinds."""
        raise NotImplementedError(f"{self.name} does not count its multiply-adds")

    def costs(self, num_steps: int) -> dict[str, float]:
        """Returns what a run of some steps cost, by columns of the table.

        Args:
          num_steps: Training steps of the run.
        """
        return {}

    def probe(self, params: Tree, model_state: Tree, count: int) -> LevelProbe | None:
        """Returns the network with some test data to measure errors by noise level.

        Args:
          params: Parameters.
          model_state: Batch statistics.
          count: Rows of test data, drawn at random.

        Returns:
          The probe, None if the domain has none.
        """
        return None
