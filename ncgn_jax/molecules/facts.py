"""Says what molecules teach their model besides its weights."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.descriptors import DESCRIPTORS
from ncgn_jax.molecules.sets import MoleculeSet

# A property varies if its values differ by more than rounding to float32.
_RELATIVE_SPREAD = 1e-6


@dataclasses.dataclass(frozen=True)
class PropertyFacts:
    """What the training molecules show of a property that is a condition.

    Attributes:
      name: Its name.
      mean: Mean over the molecules of which it is known.
      std: Standard deviation over them.
      low: Least value.
      high: Largest value.
    """

    name: str
    mean: float
    std: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class MoleculeFacts:
    """What the training molecules taught a model.

    Attributes:
      classes: Atom classes, element and charge, in the order of the decoder's logits.
      max_atoms: Atoms that molecules are padded to.
      mean_log_degree: Mean of log(degree + 1) over the training atoms.
      size_counts: Training molecules of each number of atoms, from 0.
      properties: Of each condition, in the order of `model.conditions`.
    """

    relied_on: ClassVar[tuple[str, ...]] = ("classes", "max_atoms")

    classes: tuple[str, ...]
    max_atoms: int
    mean_log_degree: float
    size_counts: tuple[int, ...]
    properties: tuple[PropertyFacts, ...] = ()

    def with_another_name(self) -> Self:
        """Returns facts with a name more, see `tasks.facts`."""
        return dataclasses.replace(self, classes=(*self.classes, "another"))


def learn_facts(
    molecules: MoleculeSet, conditions: Sequence[str] = ()
) -> MoleculeFacts:
    """Finds the facts of training molecules.

    Args:
      molecules: The molecules.
      conditions: Properties that generation is conditioned on.

    Raises:
      DataError: If the molecules lack one of these.
    """
    return MoleculeFacts(
        tuple(molecules.classes),
        molecules.atoms.shape[1],
        mean_log_degree(molecules),
        tuple(np.bincount(molecules.num_atoms).tolist()),
        tuple(_property_facts(molecules, name) for name in conditions),
    )


def check_wanted(values: Sequence[float], facts: MoleculeFacts) -> None:
    """Raises DataError if a value is asked for that no training molecule comes near.

    Args:
      values: A number for each condition; none to ask for nothing.
      facts: What the training molecules taught.
    """
    for value, own in zip(values, facts.properties, strict=False):
        if not own.low <= value <= own.high:
            raise DataError(
                f"sample.condition_values: found {own.name} {value:g}; the training "
                f"molecules have {own.low:g} to {own.high:g}"
            )


def mean_log_degree(molecules: MoleculeSet) -> float:
    """Returns the mean of log(degree + 1) over all atoms, delta of `models.pna`."""
    degrees = (molecules.bonds > 0).sum(axis=2)[molecules.node_mask]
    return float(np.mean(np.log(degrees + 1.0)))


def _property_facts(molecules: MoleculeSet, name: str) -> PropertyFacts:
    if name not in molecules.properties:
        known = ", ".join(sorted({*molecules.properties, *DESCRIPTORS}))
        raise DataError(
            f"model.conditions: the data has no property {name!r}; allowed: {known}"
        )
    values = molecules.properties[name]
    values = values[np.isfinite(values)]
    if not values.size:
        raise DataError(f"model.conditions: {name!r} is known of no molecule")
    low, high = float(values.min()), float(values.max())
    if high - low <= _RELATIVE_SPREAD * max(abs(low), abs(high)):
        raise DataError(
            f"model.conditions: {name!r} is {low:g} in every molecule, so nothing "
            "follows from it; leave it out"
        )
    return PropertyFacts(name, float(values.mean()), float(values.std()), low, high)
