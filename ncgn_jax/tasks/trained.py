"""Trained models: a network with its weights and all that its data taught it.

`ncgn_jax.load` returns one of these, a class for each domain, with the verbs that the
domain allows. It needs neither data nor configuration file.
"""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import flax.traverse_util
import jax
import numpy as np

from ncgn_jax.faults import CheckpointError, RequestError, did_you_mean
from ncgn_jax.parallel import check_devices
from ncgn_jax.process import SAMPLERS
from ncgn_jax.run.checkpoint_format import tree_differences
from ncgn_jax.run.model_file import ModelFile, Weights, write_model
from ncgn_jax.tasks.classes import Label, choose_classes
from ncgn_jax.tasks.flow_map import FlowMap
from ncgn_jax.tasks.sampling import FLOW_MAP, MAX_SEED, Sampling

Tree = Any
_MAX_LISTED = 3


class Initialised(Protocol):
    """A model that knows the form of its weights."""

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters and model state."""


Model = TypeVar("Model", bound=Initialised)


class ClassFacts(Protocol):
    """Facts that name classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the training data."""


class Classes(Initialised, Protocol):
    """A model that may know classes."""

    @property
    def facts(self) -> ClassFacts:
        """What the training data taught."""

    @property
    def num_classes(self) -> int:
        """Classes that the network distinguishes, 0 for none."""

    def draw_labels(self, num_samples: int, seed: int) -> np.ndarray:
        """Draws classes as often as in training, int32 [sample]."""


Classed = TypeVar("Classed", bound=Classes)


class TrainedModel(abc.ABC, Generic[Model]):
    """A model with its weights.

    Attributes:
      domain: Name of the domain.
      formats: Endings of the files that samples are saved to; none for a folder.
      model: Network, process and sampler.
      sampling: Settings of the sampler, where a call does not name others.
      params: Parameters.
      model_state: Everything else that the network computes with.
      about: Where the model comes from.
    """

    domain: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()
    model: Model
    sampling: Sampling
    params: Tree
    model_state: Tree
    about: ModelFile

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
          MachineError: If JAX is set to what nothing can be computed with.
        """
        # In 64 bits, for instance, every array would be of another type.
        check_devices()
        self.model, self.sampling, self.about = model, sampling, about
        needed = jax.eval_shape(model.init, jax.random.key(0))
        expected = dict(zip(("params", "model_state"), needed, strict=True))
        stored = [
            {"path": path, "shape": array.shape, "dtype": array.dtype.name}
            for path, array in weights.items()
        ]
        wrong = tree_differences(stored, expected)
        if wrong:
            more = len(wrong) - _MAX_LISTED
            listed = "; ".join(wrong[:_MAX_LISTED])
            rest = f"; and {more} more" if more > 0 else ""
            raise CheckpointError(
                f"the weights are not those of this {self.domain} model: {listed}{rest}"
            )
        tree = flax.traverse_util.unflatten_dict(dict(weights), sep="/")
        self.params, self.model_state = (tree.get(name, {}) for name in expected)

    def __repr__(self) -> str:
        """Says what the model is in a line."""
        data = self.about.data[0].removeprefix("data: ").split(";")[0]
        return f"<{type(self).__name__}, {self.about.step} steps on {data}>"

    if not TYPE_CHECKING:  # It would make any attribute pass for one.

        def __getattr__(self, name: str) -> Any:
            """Says what models of this domain can do instead."""
            public = (verb for verb in dir(type(self)) if not verb.startswith("_"))
            verbs = [verb for verb in public if callable(getattr(type(self), verb))]
            raise AttributeError(
                f"models of {self.domain} have no {name!r}; they have "
                f"{', '.join(verbs)}"
            )

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
        flow_map = self._flow_map
        samplers = SAMPLERS if flow_map is None else (*SAMPLERS, FLOW_MAP)
        if sampler not in samplers:
            hint = did_you_mean(str(sampler), samplers)
            raise RequestError(
                f"sampler: found {sampler!r}; allowed: {', '.join(samplers)}{hint}"
            )
        if "steps" in named:
            named["num_steps"] = at_least("steps", named.pop("steps"), 1)
        if named.get("guidance", 0) < 0:
            raise RequestError(
                f"guidance: found {named['guidance']}; allowed: at least 0"
            )
        if flow_map is None:
            return dataclasses.replace(self.sampling, **named)
        if (sampler == FLOW_MAP) != (self.sampling.sampler == FLOW_MAP):
            # So few steps suit no other sampler, and so many no flow map.
            named = {"num_steps": flow_map.num_steps, **named}
        found = dataclasses.replace(self.sampling, **named)
        if sampler == FLOW_MAP:
            _check_long_steps(flow_map, found)
        return found

    def _flow(self, **asked: Any) -> Sampling:
        """Returns settings as `_settings`, for what may begin at any time.

        Long steps begin where they were trained to; Heun's rule takes their place.
        """
        if self.sampling.sampler == FLOW_MAP:
            asked = {"sampler": "heun", **asked}
        return self._settings(**asked)

    @property
    def _flow_map(self) -> FlowMap | None:
        """The long steps that the model knows, None for none."""
        return None


def _check_long_steps(flow_map: FlowMap, sampling: Sampling) -> None:
    """Refuses long steps that were not trained.

    Raises:
      RequestError: If their number or guidance is another one.
    """
    if sampling.num_steps not in flow_map.rungs:
        raise RequestError(
            f"steps: found {sampling.num_steps}; allowed with flow_map: "
            f"{flow_map.walks}"
        )
    if sampling.guidance:
        raise RequestError(
            f"guidance: found {sampling.guidance}; allowed with flow_map: 0, because "
            "its steps were trained without"
        )


class ClassedModel(TrainedModel[Classed]):
    """A trained model whose samples may have classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that can be asked for; () without."""
        return self.model.facts.class_names if self.model.num_classes else ()

    def _labels(
        self, label: Label | Sequence[Label] | None, num: int, seed: int
    ) -> np.ndarray:
        """Returns the classes asked for, or some as in training, int32 [num].

        Raises:
          RequestError: If there is no such class, or the model has none.
        """
        if label is None:
            return self.model.draw_labels(num, seed)
        if not self.model.num_classes:
            raise RequestError(
                f"label: found {label!r}; this model was trained without classes"
            )
        return choose_classes(label, num, self.class_names)

    def _names(self, labels: np.ndarray) -> tuple[str, ...]:
        """Returns the name of each class; () without."""
        names = self.class_names
        return tuple(names[i] for i in labels) if names else ()


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


def in_range_of_seeds(seed: Any) -> int:
    """Returns a seed, or refuses it.

    Raises:
      RequestError: If it is no integer from 0 to `sampling.MAX_SEED`.
    """
    if at_least("seed", seed, 0) > MAX_SEED:
        raise RequestError(
            f"seed: found {seed!r}; allowed: an integer, 0 <= value <= {MAX_SEED}"
        )
    return int(seed)
