"""Defines the protocol between a domain and the rest: `Task`.

A task joins a model with a data set. It is made from a validated configuration and
turns fields into arguments: below a domain's `config.py`, `load.py` and `task.py`
there is no ConfigDict. The training loop, the sampler, the evaluation and the
comparison know a domain through this class alone; `ncgn_jax.domains` lists them.
"""

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.faults import Faults
from ncgn_jax.fields import Rows
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.tasks.level_errors import LevelProbe

Tree = Any
Arrays = Mapping[str, np.ndarray]
Data = TypeVar("Data")
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


class Task(abc.ABC, Generic[Data]):
    """Offers a domain to the loop; see `point_clouds.task` for an example.

    Attributes:
      name: Value of the field `task`.
      fields: Every field of the configuration, a row each.
      anchors: Names of rows that `evaluate` adds, which no variant may have.
      extra_samples: Fields that ask for samples besides `sample.num_samples`.
      counts_macs: Whether `step_macs` and `costs` count multiply-adds.
      config: The configuration.
      dataset: The data.
      bucket_names: A name for each noise bucket, in the order of `loss`'s metric.
      columns: What `evaluate` measures, in the order to print.
    """

    name: ClassVar[str]
    fields: ClassVar[Rows]
    anchors: ClassVar[tuple[str, ...]] = ()
    extra_samples: ClassVar[tuple[str, ...]] = ()
    counts_macs: ClassVar[bool] = False
    bucket_names: tuple[str, ...]

    def __init__(self, config: ConfigDict, dataset: Data) -> None:
        """Builds the task; raises DataError if data and configuration do not fit."""
        self.config = config
        self.dataset = dataset

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Records what is wrong between several fields.

        Each field on its own has passed the check of its row only if `faults` is empty.
        """

    @classmethod
    @abc.abstractmethod
    def load_dataset(cls, config: ConfigDict) -> Data:
        """Loads the data of a validated configuration."""

    @classmethod
    def first_stage_config(cls, config: ConfigDict) -> ConfigDict | None:
        """Returns what must be trained before a configuration, None for nothing."""
        return None

    def with_config(self, config: ConfigDict) -> Self:
        """Builds the task of another configuration on the same data."""
        return type(self)(config, self.dataset)

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns of the domain's table."""

    @abc.abstractmethod
    def describe(self) -> list[str]:
        """Describes data, graphs and model in a few lines."""

    def notes(self) -> list[str]:
        """Warns of what the settings leave undone, a line each."""
        return []

    def first_stage(self) -> "tuple[ConfigDict, Task] | None":
        """Returns the run that must be trained before this one, None for nothing.

        `adopt` takes over what it trained.
        """
        return None

    def adopt(self, params: Tree, model_state: Tree) -> None:
        """Takes over what the first stage trained."""
        raise NotImplementedError(f"{self.name} has no first stage")

    @abc.abstractmethod
    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and model state."""

    @abc.abstractmethod
    def batch(self, step: int, rows: slice) -> Tree:
        """Returns this host's rows of the global batch of a step.

        A batch may be any tree of arrays. Where its structure differs from step to
        step, each structure is compiled once.
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
        """

    @abc.abstractmethod
    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Generates arrays by name, ready to be saved and evaluated."""

    @abc.abstractmethod
    def caption(self) -> dict[str, object]:
        """States what the table is measured on.

        Returns:
          At least `data_set`, `split` and `sizes`.
        """

    @abc.abstractmethod
    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Measures named sample sets; returns their rows, then those of anchors."""

    def warnings(self, rows: Mapping[str, Row]) -> list[str]:
        """Warns readers of a table with these rows, a line each."""
        return []

    @abc.abstractmethod
    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves the domain's pictures into a folder; returns their paths."""

    def step_macs(self) -> float:
        """Counts multiply-adds of a training step, the mean over its kinds."""
        raise NotImplementedError(f"{self.name} does not count its multiply-adds")

    def costs(self, num_steps: int) -> dict[str, float]:
        """Returns what a run of some steps cost, by columns of the table."""
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
