"""Keeps what data taught a model as JSON.

Facts are frozen dataclasses of numbers, strings and None, tuples of these, and
dataclasses of the same kind.

Example:
  >>> import dataclasses
  >>> @dataclasses.dataclass(frozen=True)
  ... class Facts:
  ...     scale: float
  ...     names: tuple[str, ...]
  >>> stored = to_plain(Facts(0.5, ("chair", "lamp")))
  >>> stored
  {'scale': 0.5, 'names': ['chair', 'lamp']}
  >>> from_plain(Facts, stored)
  Facts(scale=0.5, names=('chair', 'lamp'))
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar

import msgspec
import numpy as np

from ncgn_jax.data.digest import counts
from ncgn_jax.faults import DataError


class DataFacts(Protocol):
    """A frozen dataclass of what data taught a model.

    Attributes:
      relied_on: Fields that the weights rely on, so that other data must have the same.
    """

    relied_on: ClassVar[tuple[str, ...]]

    def with_another_name(self) -> Self:
        """Returns facts with a class, gene or atom more, to find what depends on it."""


Facts = TypeVar("Facts", bound=DataFacts)


def to_plain(facts: Any) -> dict[str, Any]:
    """Returns facts as JSON has them: objects, lists, numbers and strings.

    Raises:
      DataError: If a number is not finite.
    """
    values = _without_unset(facts, msgspec.to_builtins(facts))
    bad = [name for name, value in values.items() if not _is_finite(value)]
    if bad:
        raise DataError(f"the data give {', '.join(bad)} that are not finite")
    return json.loads(json.dumps(values))


def from_plain(kind: type[Facts], plain: Mapping[str, Any]) -> Facts:
    """Returns the facts that `to_plain` made plain.

    Raises:
      DataError: If a value is missing or of another type.
    """
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"facts of the data: {error}") from error


def _without_unset(facts: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what later versions added and is not set, to compare with earlier."""
    kept = {}
    for field in dataclasses.fields(facts):
        value = getattr(facts, field.name)
        if counts(field, value):
            is_nested = dataclasses.is_dataclass(value)
            own = plain[field.name]
            kept[field.name] = _without_unset(value, own) if is_nested else own
    return kept


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or bool(np.isfinite(value))
