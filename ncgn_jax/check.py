"""Reads data and says what it found, without a configuration: `ncgn check PATH`.

    ncgn check my_shapes
    ncgn check cells.csv --domain=expression --config.data.logarithm=true

Ends with 0 if the data can be trained on, else with 2 and one message.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ncgn_jax.config import load_config, split_config_arguments, with_fields
from ncgn_jax.data.array_files import open_npy, read_npz
from ncgn_jax.data.file_trees import open_tree
from ncgn_jax.domains import DOMAINS, load_data, set_fields, validate
from ncgn_jax.faults import (
    ConfigError,
    DataError,
    NcgnError,
    describe_machine,
    get_field,
)

# Data may have several faults, each with its own proposal.
_MOST_TRIALS = 20


def check(arguments: Sequence[str]) -> None:
    """Prints the report of the data at a path and the command that trains on them."""
    _, overrides, rest = split_config_arguments(["ncgn check", *arguments])
    parser = argparse.ArgumentParser(
        prog="ncgn check",
        description="Reads data and says what was found, used and left out.",
        epilog="--config.data.FIELD=VALUE sets how they are read (`ncgn fields`).",
    )
    parser.add_argument("path", type=Path, help="file or folder")
    parser.add_argument("--domain", choices=_domains(), help="where several are likely")
    options = parser.parse_args(rest[1:])
    try:
        _check(options.path, options.domain, overrides)
    except (NcgnError, OSError) as error:
        reason = describe_machine(error) if isinstance(error, OSError) else error
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(2)


def _check(path: Path, domain: str | None, overrides: list[str]) -> None:
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    domain, found_fields = _recognise(path, domain)
    kind = DOMAINS[domain]
    fields = {"data.path": str(path), **found_fields}
    config = with_fields(load_config(kind.usual_config), fields)
    config = set_fields(config, overrides)
    asked = {text.partition("=")[0] for text in overrides}
    found = _load(config, asked)
    report, name = found.dataset.report, found.dataset.name
    print("\n".join([f"domain: {domain}", *report.lines(name)]))
    for field, (was, now, reason) in found.proposed.items():
        before = was if was != () else "all"
        print(
            f"  NOTE: read with {field}={now}, since with {before} it cannot be "
            f"({reason})"
        )
        fields[field] = now
    if found.problem is not None:
        raise found.problem
    print("".join(f"  {note}\n" for note in found.notes), end="")
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    given += [f"--config.{text}" for text in overrides]
    command = shlex.join(["ncgn", "train", f"--config={kind.usual_config}", *given])
    print(f"train on it: {command}")


class _Found(NamedTuple):
    """Data that were read, and whether they can be trained on."""

    dataset: Any
    proposed: dict[str, tuple[Any, Any, str]]  # what a field was and is, and why
    notes: list[str]
    problem: DataError | None


def _load(config: ConfigDict, asked: Set[str]) -> _Found:
    """Loads data, with other values of fields where an error proposes them.

    Args:
      config: Configuration of the data.
      asked: Fields that somebody has set, and that stay.
    """
    changed: dict[str, tuple[Any, Any, str]] = {}
    trials_left = _MOST_TRIALS
    while True:
        validate(config, to_train=False)
        dataset = None
        try:
            dataset = load_data(config)
            task = DOMAINS[config.task](config, dataset)
            return _Found(dataset, changed, task.notes(), None)
        except DataError as error:
            proposed = {n: v for n, v in error.proposal.items() if n not in asked}
            other = set_fields(config, [f"{n}={v}" for n, v in proposed.items()])
            fields = {
                name: value
                for name, value in proposed.items()
                if get_field(config, name) != get_field(other, name)
            }
            if not fields or not trials_left:
                if dataset is None:
                    raise
                return _Found(dataset, changed, [], error)
            reason = str(error).removeprefix(f"{config.data.path}: ")
            reason = reason.partition("; allowed")[0]
        trials_left -= 1
        for name, value in fields.items():
            was = changed.get(name, (get_field(config, name),))[0]
            changed[name] = was, value, reason
        config = other


def _recognise(path: Path, domain: str | None) -> tuple[str, Mapping[str, Any]]:
    """Returns the domain of the data at a path, and the fields that load them.

    Args:
      path: The file or folder.
      domain: The domain if somebody has named it, else the only one that recognises
        the path.
    """
    asked = _domains() if domain is None else [domain]
    fields = {name: DOMAINS[name].recognise(path) for name in asked}
    if domain is not None:
        return domain, fields[domain] or DOMAINS[domain].unknown_fields
    found = {name: own for name, own in fields.items() if own is not None}
    if len(found) == 1:
        return found.popitem()
    if found:
        what = f"may be data of {' or '.join(found)}"
    else:
        # What cannot be opened says so here.
        with open_tree(path, "list") as tree:
            what = f"nothing recognised; found {tree.describe()}"
        if path.suffix in (".npy", ".npz"):
            (open_npy if path.suffix == ".npy" else read_npz)(path)
    raise ConfigError(
        f"{path}: {what}; name the domain with --domain={'|'.join(found or _domains())}"
    )


def _domains() -> list[str]:
    return [name for name, kind in DOMAINS.items() if kind.usual_config]
