"""Keeps what plug-ins register, by kind, domain and name; see `ncgn_jax.plugins`."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Kind = Literal["optimizer", "network", "measure", "reader"]


class Measure(NamedTuple):
    """A number of one's own for each set of samples.

    Attributes:
      title: Its column in tables.
      function: Gets the arrays of a sample set by name, and the data set of the task;
        returns a number.
      digits: Digits after the point.
    """

    title: str
    function: Callable[..., float]
    digits: int


_REGISTERED: dict[tuple[str, str, str], Any] = {}


def register(kind: Kind, name: str, made: Any, domain: str = "") -> None:
    """Registers something under a name; the last one of a name counts.

    Args:
      kind: What it is.
      name: Its name.
      made: The thing.
      domain: The domain; empty for kinds that belong to none.
    """
    _REGISTERED[kind, domain, name] = made


def names(kind: Kind, domain: str = "") -> tuple[str, ...]:
    """Returns the registered names of a kind, of a domain; see `register`."""
    return tuple(name for k, d, name in _REGISTERED if (k, d) == (kind, domain))


def find(kind: Kind, name: str, domain: str = "") -> Any:
    """Returns what is registered under a name, None for nothing; see `register`."""
    return _REGISTERED.get((kind, domain, name))
