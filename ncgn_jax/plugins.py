"""Registers networks, optimisers, measures, readers and domains of one's own.

A plug-in is a Python file or module that calls the functions below when it is
imported. `--plugin=mine.py` imports it for a command; entry points of the group
`ncgn_jax.plugins` of installed packages are imported by all commands, by
`ncgn_jax.load` and by `ncgn_jax.train`. docs/examples/plugin.py has one of each kind.

A run stores the names, not the code: whoever trains on or samples it imports the same
plug-in. Nothing is ever imported because a run or a model says so.
"""

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ncgn_jax import registry
from ncgn_jax.domains import DOMAINS
from ncgn_jax.faults import ConfigError, RequestError, did_you_mean, pass_on_stops
from ncgn_jax.tasks import Task

GROUP = "ncgn_jax.plugins"
Made = TypeVar("Made", bound=Callable[..., Any])
TaskType = TypeVar("TaskType", bound=type[Task])


def optimizer(name: str) -> Callable[[Made], Made]:
    """Registers a value of `train.optimizer`.

    Args:
      name: The value.

    Returns:
      A decorator of make(rate, weight_decay), which returns an
      `optax.GradientTransformation`. `rate` is the learning rate by step; the norm of
      gradients has been clipped before.
    """
    return _register("optimizer", name)


def network(domain: str, name: str) -> Callable[[Made], Made]:
    """Registers a value of `model.network` of a domain.

    Args:
      domain: The domain.
      name: The value.

    Returns:
      A decorator of make(settings, ...), which returns a `flax.linen` module. It is
      called as the domain's own network is:
      point_clouds and expression: make(settings, out_dim, axis_name), called as
        `models.ncgn.NCGN`;
      molecules: make(settings, sizes), called as `molecules.denoiser.MoleculeDenoiser`,
        whose sizes are `molecules.codec`'s;
      images: make(settings, out_channels, num_classes), called as `models.dit.DiT`.

    Raises:
      RequestError: If there is no such domain.
    """
    return _register("network", name, domain)


def measure(
    domain: str, name: str, *, title: str = "", digits: int = 3
) -> Callable[[Made], Made]:
    """Registers a column of a domain's tables.

    Args:
      domain: The domain.
      name: Key of the column in table.json.
      title: Its head; the name if empty.
      digits: Digits after the point.

    Returns:
      A decorator of the function of a `registry.Measure`.

    Raises:
      RequestError: If there is no such domain.
    """

    def decorate(function: Made) -> Made:
        check_domain(domain)
        own = registry.Measure(title or name, function, digits)
        registry.register("measure", name, own, domain)
        return function

    return decorate


def reader(domain: str, ending: str) -> Callable[[Made], Made]:
    """Registers how files with an ending become data.

    Args:
      domain: The domain.
      ending: Such as `.las`.

    Returns:
      A decorator of read(path), which returns what `ncgn_jax.train` takes as `data`.

    Raises:
      RequestError: If there is no such domain.
    """
    return _register("reader", ending.lower(), domain)


def domain(name: str) -> Callable[[TaskType], TaskType]:
    """Registers a domain, for configurations with this `task`.

    Args:
      name: The value of `task`.

    Returns:
      A decorator of the subclass of `tasks.Task`.

    Raises:
      RequestError: If another domain has the name.
    """

    def decorate(task: TaskType) -> TaskType:
        known = DOMAINS.get(name)
        if known is not None and known.__qualname__ != task.__qualname__:
            raise RequestError(f"domain {name!r} exists already: {known.__qualname__}")
        DOMAINS[name] = task
        return task

    return decorate


def import_plugins(sources: Sequence[str] = ()) -> None:
    """Imports plug-ins, those of installed packages before.

    Args:
      sources: Files (`mine.py`) or modules (`mine.shapes`).

    Raises:
      ConfigError: If one is not there or fails.
    """
    _import_installed()
    for source in sources:
        try:
            _import_one(source)
        except (Exception, SystemExit) as error:  # A plug-in may raise anything.
            pass_on_stops(error)
            raise ConfigError(
                f"--plugin={source}: {type(error).__name__}: {error}"
            ) from error


def split_plugins(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--plugin=FILE` and `--plugin FILE` out of a command line.

    They come first, since other arguments may name what plug-ins register.

    Returns:
      The plug-ins, and the other arguments.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    found, rest = parser.parse_known_args(list(arguments))
    return found.plugin, rest


@functools.cache
def _import_installed() -> None:
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            point.load()
        except (Exception, SystemExit) as error:  # A plug-in may raise anything.
            pass_on_stops(error)
            raise ConfigError(
                f"plug-in {point.name} ({point.value}): {type(error).__name__}: {error}"
            ) from error


def _import_one(source: str) -> None:
    if not source.endswith(".py"):
        importlib.import_module(source)
        return
    path = Path(source).resolve()
    name = f"ncgn_plugin_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _register(
    kind: registry.Kind, name: str, domain: str = ""
) -> Callable[[Made], Made]:
    if domain:
        check_domain(domain)

    def decorate(made: Made) -> Made:
        registry.register(kind, name, made, domain)
        return made

    return decorate


def check_domain(domain: str) -> None:
    """Refuses a name that is no domain's.

    Raises:
      RequestError: If there is no such domain.
    """
    if domain not in DOMAINS:
        hint = did_you_mean(domain, DOMAINS)
        raise RequestError(
            f"domain: found {domain!r}; allowed: {', '.join(DOMAINS)}{hint}"
        )
