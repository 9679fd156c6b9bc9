"""One file a domain: data, model, process, metrics and pictures behind one protocol.

A task is made from a validated configuration and turns its fields into arguments;
no ConfigDict goes below this package. Everything the training loop, the sampler and
the evaluation need of a domain is the `Task` protocol here.
"""

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.faults import ConfigError, Faults
from ncgn_jax.metrics.table import Column

Tree = Any
# In `bucket_loss`, of a noise bucket that no row of the step belongs to.
NO_ROWS = -np.inf
TASKS = (
    "point_clouds",
    "transcriptomics",
    "molecules",
    "molecule_autoencoder",
    "images",
)
# Tasks with methods `costs` and `step_macs`.
COUNTING_TASKS = ("images",)


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


class Task(Protocol):
    """What a domain offers to the loop; see `tasks.point_clouds` for one.

    Attributes:
      bucket_names: A name for each noise bucket, in the order of `loss`'s metric.
      columns: What `evaluate` measures, in the order to print.
      dataset: The data; a task is made anew from it and another configuration.
    """

    bucket_names: tuple[str, ...]
    columns: tuple[Column, ...]
    dataset: Any

    def describe(self) -> list[str]:
        """Says in a few lines which data, graphs and model are used."""

    def first_stage(self) -> "tuple[ConfigDict, Task] | None":
        """Returns the run that must be trained before this one, if there is one.

        What it trained is handed to `adopt(params, model_state)`, which only such
        tasks have.
        """

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and model state."""

    def batch(self, step: int, rows: slice) -> Tree:
        """Returns this host's rows of the global batch of a step.

        A batch may be any tree of arrays; where its structure differs from step to
        step, each structure is compiled once.
        """

    def loss(
        self, params: Tree, model_state: Tree, batch: Tree, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss, new model state, and loss of each bucket.

        The last is NO_ROWS for a bucket without rows in the batch.

        Runs per device under `parallel.data_parallel`; `rng` is the step's key.
        """

    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Returns generated arrays by name, ready to be saved and evaluated."""

    def evaluate(
        self, samples: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, dict[str, float]], dict[str, object]]:
        """Measures named sample sets; returns table rows with anchors, and metadata."""

    def draw(
        self, params: Tree, model_state: Tree, samples: dict[str, np.ndarray], folder
    ) -> list:
        """Saves the domain's pictures into a folder; returns their paths."""


def validate_task(config: ConfigDict, faults: Faults) -> None:
    """Checks the fields that belong to the configuration's task."""
    if faults.choice(config, "task", TASKS):
        _module(config.task).validate(config, faults)


def make_task(config: ConfigDict) -> Task:
    """Builds the task of a validated configuration; loads its data."""
    return _module(config.task).make_task(config)


def default_config(task: str) -> ConfigDict:
    """Returns every field a task knows, with its default."""
    return _module(task).default_config()


def step_kinds(task: Task, start: int, stop: int) -> list[StepKind]:
    """Lists the kinds of training steps, each compiled once.

    Args:
      task: A task; those whose batches differ in structure have a method of this name.
      start: First step.
      stop: Step after the last, above `start`.

    Returns:
      Kinds that occur among these steps; their shares sum to 1.
    """
    kinds = getattr(task, "step_kinds", None)
    return [StepKind("all", start, 1.0)] if kinds is None else kinds(start, stop)


def task_notes(task: Task) -> list[str]:
    """Warns of what a task's settings leave undone, a line each; often nothing.

    Args:
      task: A task; those that have such warnings have a method `notes`.
    """
    notes = getattr(task, "notes", None)
    return [] if notes is None else notes()


def run_costs(task: Task, num_steps: int) -> dict[str, float]:
    """Returns what a run cost by columns of its table, where the task counts it.

    Args:
      task: A task; those with a method `costs` count multiply-adds.
      num_steps: Training steps of the run.
    """
    count = getattr(task, "costs", None)
    return {} if count is None else count(num_steps)


def first_stage_config(config: ConfigDict) -> ConfigDict | None:
    """Returns what must be trained before a configuration, None for nothing.

    As `Task.first_stage`, but without building the task.
    """
    make = getattr(_module(config.task), "first_stage_config", None)
    return make and make(config)


def complete_config(config: ConfigDict) -> ConfigDict:
    """Adds the fields that a stored configuration is too old to have.

    Their defaults stand for what was done before there was a choice.

    Args:
      config: A configuration as it was stored with a run.

    Returns:
      A locked copy.

    Raises:
      ConfigError: If it is of no task that there is, or a field of another type.
    """
    faults = Faults()
    faults.choice(config, "task", TASKS)
    faults.raise_if_any()
    whole = default_config(config.task)
    with whole.unlocked():
        for name, section in config.items():
            try:
                if not isinstance(section, ConfigDict) or name not in whole:
                    whole[name] = section
                    continue
                for field, value in section.items():
                    whole[name][field] = value
            except TypeError as error:
                raise ConfigError(f"stored field of {name}: {error}") from error
    return whole.lock()


def _module(task: str):
    from ncgn_jax.expression import task as transcriptomics
    from ncgn_jax.images import task as images
    from ncgn_jax.molecules import autoencoder_task as molecule_autoencoder
    from ncgn_jax.molecules import task as molecules
    from ncgn_jax.point_clouds import task as point_clouds

    return {
        "point_clouds": point_clouds,
        "transcriptomics": transcriptomics,
        "molecules": molecules,
        "molecule_autoencoder": molecule_autoencoder,
        "images": images,
    }[task]
