"""Starts a run from the weights of another one (`train.start_from`).

Weights are taken where they fit: arrays of the same name and shape. Where names that
the weights rely on differ (classes, genes, atoms), arrays that have a place for each
name start anew, because nothing is relabelled by position. All is said.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from ncgn_jax.faults import ConfigError
from ncgn_jax.loading import read_source
from ncgn_jax.run.model_file import ModelFile, Weights
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.facts import to_plain

Tree = Any
_MAX_LISTED = 6


@dataclasses.dataclass(frozen=True)
class Start:
    """A trained model to start from.

    Attributes:
      name: Where it was read.
      about: What it is.
      weights: Its arrays by path.
      anew: Arrays that cannot be taken, each with the reason.
    """

    name: str
    about: ModelFile
    weights: Weights
    anew: Mapping[str, str]

    @property
    def has_state(self) -> bool:
        """Whether the model's state, such as a first stage, is taken too."""
        return not any(path.startswith("model_state/") for path in self.anew)

    def describe(self) -> list[str]:
        """Says what is taken and what starts anew, a line each."""
        lines = [
            f"starting from {self.name}, {self.about.step} steps: "
            f"{len(self.weights)} arrays"
        ]
        listed = [f"  anew: {path}, {why}" for path, why in self.anew.items()]
        rest = len(listed) - _MAX_LISTED
        return lines + listed[:_MAX_LISTED] + [f"  and {rest} more"] * (rest > 0)

    def fill(self, params: Tree, model_state: Tree) -> tuple[Tree, Tree]:
        """Returns initial parameters and model state with what is taken."""
        tree = {"params": params, "model_state": model_state}
        flat = flax.traverse_util.flatten_dict(tree, sep="/", keep_empty_nodes=True)
        taken = {path: np.asarray(array) for path, array in self.weights.items()}
        whole = flax.traverse_util.unflatten_dict({**flat, **taken}, sep="/")
        return whole["params"], whole["model_state"]


def read_start(task: Task, source: str) -> Start:
    """Reads what a task can take from a trained model.

    Args:
      task: What is to be trained.
      source: Folder of a run or of an exported model.

    Raises:
      ConfigError: If the model is of another domain, or nothing fits.
    """
    about, weights = read_source(source)
    if about.domain != task.name:
        raise ConfigError(
            f"train.start_from: {source} is a model of {about.domain}; allowed: one of "
            f"{task.name}"
        )
    needed = _shapes(task)
    old, new = about.facts, to_plain(task.facts)
    renamed = [name for name in task.facts_type.relied_on if old.get(name) != new[name]]
    by_name = _arrays_by_name(task, needed) if renamed else frozenset()
    anew: dict[str, str] = {}
    taken: dict[str, np.ndarray] = {}
    for path, shape in needed.items():
        if path not in weights:
            anew[path] = "which it does not have"
        elif weights[path].shape != shape:
            anew[path] = f"{shape} here, {weights[path].shape} there"
        elif path in by_name:
            anew[path] = f"because {', '.join(renamed)} differ"
        else:
            taken[path] = weights[path]
    state = [path for path in needed if path.startswith("model_state/")]
    if any(path in anew for path in state):
        # Statistics and first stages are whole, or not from there.
        for path in state:
            if taken.pop(path, None) is not None:
                anew[path] = "like the rest of the model's state"
    if not taken:
        raise ConfigError(f"train.start_from: none of the weights of {source} fit")
    return Start(source, about, taken, anew)


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """Lists the arrays of a task's network."""
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))
    tree = {"params": params, "model_state": model_state}
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _arrays_by_name(task: Task, needed: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Finds the arrays that have a place for each class, gene or atom.

    Those are the ones that are larger with one name more.
    """
    larger = _shapes(task.with_facts(task.facts.with_another_name()))
    return {path for path in needed if larger.get(path) != needed[path]}
