"""Chooses among named alternatives, with errors that list the valid choices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def require_choice(what: str, name: str, valid: Iterable[str]) -> None:
    """Checks that `name` is one of the valid choices.

    Args:
      what: Kind of thing chosen, for the message ("schedule", "sampler").
      name: The choice.
      valid: The names that exist.

    Raises:
      ValueError: if `name` is not among them; the message lists them all.
    """
    valid = tuple(valid)
    if name not in valid:
        raise ValueError(f"unknown {what} {name!r}; valid: {', '.join(valid)}")


def build_named(
    what: str,
    factories: Mapping[str, Callable[..., T]],
    name: str,
    options: Mapping[str, object],
) -> T:
    """Calls the factory registered under `name` with keyword `options`.

    Args:
      what: Kind of thing built, for the messages.
      factories: Factories by name; all their parameters have defaults.
      name: Name of the factory.
      options: Keyword arguments for it.

    Returns:
      The result of the factory.

    Raises:
      ValueError: if the name, or the name of an option, does not exist.
    """
    require_choice(what, name, factories)
    factory = factories[name]
    valid = tuple(inspect.signature(factory).parameters)
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise ValueError(
            f"{what} {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"valid: {', '.join(valid) or 'none'}"
        )
    return factory(**options)
