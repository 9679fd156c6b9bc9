"""Trained models: a network with its weights and all that its data taught it.

`ncgn_jax.load` returns one of these, a class for each domain, with the verbs that the
domain allows. It needs neither data nor configuration file.
"""

import abc
import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import flax.traverse_util
import jax
import numpy as np

from ncgn_jax.faults import CheckpointError, RequestError, did_you_mean
from ncgn_jax.process import SAMPLERS
from ncgn_jax.run.checkpoint_format import pack, tree_differences
from ncgn_jax.run.model_file import ModelFile, Weights, write_model
from ncgn_jax.tasks.sampling import Sampling

Tree = Any
_MAX_LISTED = 3


class Initialised(Protocol):
    """A model that knows the form of its weights."""

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and model state."""


Model = TypeVar("Model", bound=Initialised)


class TrainedModel(abc.ABC, Generic[Model]):
    """A model with its weights.

    Attributes:
      domain: Name of the domain.
      model: Network, process and sampler.
      sampling: Settings of the sampler, where a call does not name others.
      params: Parameters.
      model_state: Everything else that the network computes with.
      about: Where the model comes from.
    """

    domain: ClassVar[str]

    def __init__(
        self, model: Model, sampling: Sampling, weights: Weights, about: ModelFile
    ) -> None:
        """Joins a model with weights.

        Args:
          model: The model.
          sampling: Settings of the sampler.
          weights: Arrays by path, `params/...` and `model_state/...`.
          about: Where they come from.

        Raises:
          CheckpointError: If the weights are those of another network.
        """
        self.model, self.sampling, self.about = model, sampling, about
        tree = flax.traverse_util.unflatten_dict(dict(weights), sep="/")
        found = {name: tree.get(name, {}) for name in ("params", "model_state")}
        needed = jax.eval_shape(model.init, jax.random.key(0))
        expected = dict(zip(("params", "model_state"), needed, strict=True))
        wrong = tree_differences(pack(found)[0], expected)
        wrong += [f"{name}: unknown" for name in sorted(set(tree) - set(found))]
        if wrong:
            more = len(wrong) - _MAX_LISTED
            listed = "; ".join(wrong[:_MAX_LISTED])
            rest = f"; and {more} more" if more > 0 else ""
            raise CheckpointError(
                f"the weights are not those of this {self.domain} model: {listed}{rest}"
            )
        self.params, self.model_state = found["params"], found["model_state"]

    def __repr__(self) -> str:
        """Says what the model is in a line."""
        data = self.about.data[0].removeprefix("data: ").split(";")[0]
        return f"<{type(self).__name__}, {self.about.step} steps on {data}>"

    def export(self, folder: str | Path) -> Path:
        """Writes the model as `model.json` and `weights.safetensors`.

        `ncgn_jax.load` reads the folder anywhere, without the run.

        Args:
          folder: Where to.

        Returns:
          The folder.
        """
        tree = {"params": self.params, "model_state": self.model_state}
        flat = flax.traverse_util.flatten_dict(jax.device_get(tree), sep="/")
        arrays = {name: np.asarray(array) for name, array in flat.items()}
        write_model(folder, self.about, arrays)
        return Path(folder)

    def _settings(self, **asked: Any) -> Sampling:
        """Returns the sampler's settings with those that a call names.

        Raises:
          RequestError: If one of them is not possible.
        """
        named = {name: value for name, value in asked.items() if value is not None}
        sampler = named.get("sampler", self.sampling.sampler)
        if sampler not in SAMPLERS:
            hint = did_you_mean(str(sampler), SAMPLERS)
            raise RequestError(
                f"sampler: found {sampler!r}; allowed: {', '.join(SAMPLERS)}{hint}"
            )
        if "steps" in named:
            named["num_steps"] = at_least("steps", named.pop("steps"), 1)
        if named.get("guidance", 0) < 0:
            raise RequestError(
                f"guidance: found {named['guidance']}; allowed: at least 0"
            )
        return dataclasses.replace(self.sampling, **named)


def at_least(argument: str, value: Any, low: int) -> int:
    """Returns an integer argument, or refuses it.

    Raises:
      RequestError: If it is no integer of at least `low`.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < low:
        raise RequestError(
            f"{argument}: found {value!r}; allowed: an integer of at least {low}"
        )
    return int(value)
