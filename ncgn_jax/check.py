"""Reads data and says what it found, without a configuration: `ncgn check PATH`.

    ncgn check my_shapes
    ncgn check cells.csv --domain=expression --config.data.logarithm=true

Ends with 0 if the data can be trained on, else with 2 and one message.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ncgn_jax.config import load_config, split_config_arguments, with_fields
from ncgn_jax.domains import DOMAINS, load_data, set_fields, validate
from ncgn_jax.faults import ConfigError, NcgnError


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
    except NcgnError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _check(path: Path, domain: str | None, overrides: list[str]) -> None:
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    domain = domain or _guess(path)
    kind = DOMAINS[domain]
    fields = {"data.path": str(path), **(kind.recognise(path) or kind.unknown_fields)}
    config = with_fields(load_config(kind.usual_config), fields)
    config = set_fields(config, overrides)
    validate(config, to_train=False)
    dataset = load_data(config)
    print("\n".join([f"domain: {domain}", *dataset.report.lines(dataset.name)]))
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    given += [f"--config.{text}" for text in overrides]
    command = shlex.join(["ncgn", "train", f"--config={kind.usual_config}", *given])
    print(f"train on it: {command}")


def _guess(path: Path) -> str:
    """Returns the only domain that recognises a path."""
    found = [name for name in _domains() if DOMAINS[name].recognise(path) is not None]
    if len(found) == 1:
        return found[0]
    what = f"may be data of {' or '.join(found)}" if found else "nothing recognised"
    raise ConfigError(
        f"{path}: {what}; name the domain with --domain={'|'.join(found or _domains())}"
    )


def _domains() -> list[str]:
    return [name for name, kind in DOMAINS.items() if kind.usual_config]
