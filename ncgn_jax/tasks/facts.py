"""Keeps what data taught a model as JSON, and tells data sets apart.

Facts are frozen dataclasses of numbers, strings and None, tuples of these, and
dataclasses of the same kind.

Example:
  >>> import dataclasses, numpy as np
  >>> @dataclasses.dataclass(frozen=True)
  ... class Facts:
  ...     scale: float
  ...     names: tuple[str, ...]
  >>> stored = to_plain(Facts(0.5, ("chair", "lamp")))
  >>> stored
  {'scale': 0.5, 'names': ['chair', 'lamp']}
  >>> from_plain(Facts, stored)
  Facts(scale=0.5, names=('chair', 'lamp'))
  >>> digest({"x": np.ones(3)}) == digest({"x": np.ones((3, 1))})
  False
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar

import msgspec
import numpy as np

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
# Fields of data sets that are texts about them, or follow from the rest by way of
# another program.
_NOT_CONTENT = frozenset(("name", "source", "smiles", "depictions"))
# Rows of data that stay on disk are looked at here and there.
_NUM_LOOKED_AT = 256


def to_plain(facts: Any) -> dict[str, Any]:
    """Returns facts as JSON has them: objects, lists, numbers and strings.

    Raises:
      DataError: If a number is not finite.
    """
    values = msgspec.to_builtins(facts)
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


def digest(content: Any) -> str:
    """Returns 16 letters that change with any array, number or name in a data set.

    Names and origins of a whole data set do not count. Of rows that are no numpy
    array, such as shards on disk, shape and type count, and some of the rows.

    Args:
      content: A dataclass, mapping, sequence, array, string or number.
    """
    state = hashlib.sha256()
    for piece in _pieces(content):
        state.update(piece)
    return state.hexdigest()[:16]


def _pieces(content: Any) -> Iterator[bytes | memoryview]:
    """Yields the bytes of all that a data set consists of, in order."""
    if isinstance(content, np.ndarray):
        yield f"{content.dtype.str} {content.shape} ".encode()
        yield np.ascontiguousarray(content).reshape(-1).view(np.uint8).data
    elif dataclasses.is_dataclass(content):
        names = {field.name for field in dataclasses.fields(content)} - _NOT_CONTENT
        yield from _pieces({n: getattr(content, n) for n in names})
    elif isinstance(content, Mapping):
        for name in sorted(content):
            yield f"{name}: ".encode()
            yield from _pieces(content[name])
    elif isinstance(content, tuple | list):
        yield f"{len(content)} of ".encode()
        for item in content:
            yield from _pieces(item)
    elif hasattr(content, "shape"):
        rows = np.unique(np.linspace(0, len(content) - 1, _NUM_LOOKED_AT).astype(int))
        yield f"{content.dtype} {content.shape} ".encode()
        yield from _pieces(np.asarray(content[rows]))
    else:
        yield f"{content!r} ".encode()


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or bool(np.isfinite(value))
