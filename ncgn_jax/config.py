"""Reads, overrides, checks and stores configurations.

A configuration is an `ml_collections.ConfigDict` of at most two levels, made by the
`get_config()` of a Python file. Every fault is reported with the dotted field, what
was found and what is allowed, and all faults at once.

Example:
  >>> from ncgn_jax import config
  >>> config.split_config_arguments(["main", "--config=a.py", "--config.dmp.k=3"])
  ('a.py', ['dmp.k=3'], ['main'])
"""

import ast
import copy
import importlib.metadata
import importlib.util
import inspect
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from ncgn_jax import parallel
from ncgn_jax.faults import (
    ConfigError,
    Faults,
    did_you_mean,
    get_field,
    is_type,
    pass_on_stops,
)

# Rises when a field changes its name or meaning; see `domains.complete_config`.
CONFIG_VERSION = 2
_VERSION_KEY = "config_version"
_PLAIN = (bool, int, float, str)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def field_types(config: ConfigDict) -> dict[str, type]:
    """Lists the dotted name and the type of every field; sections are not fields."""
    types: dict[str, type] = {}
    for name in config:
        if isinstance(config[name], ConfigDict):
            section = config[name]
            types |= {f"{name}.{key}": section.get_type(key) for key in section}
        else:
            types[name] = config.get_type(name)
    return types


def load_config(path: str | Path) -> ConfigDict:
    """Runs a configuration file and checks the form of what it returns.

    The file may import its neighbours.

    Args:
      path: Python file that defines `get_config()`, or the bare name of one that comes
        with the package (`modelnet`); with `:argument` behind a file, that text is the
        argument of `get_config`.

    Returns:
      The locked configuration: at most two levels; bool, int, float, str, tuple or
      `config_dict.placeholder(type)`. Lists become tuples.

    Raises:
      ConfigError: If the file is missing, does not run, or returns anything else.
    """
    path, colon, argument = _split_argument(str(path))
    if not path.is_file() and path.name == str(path) and not path.suffix:
        path = _shipped(path.name)
    if not path.is_file():
        nearby = path.parent.glob("*.py") if path.parent.is_dir() else ()
        hint = did_you_mean(path.stem, [other.stem for other in nearby])
        raise ConfigError(f"there is no configuration file {path}{hint}")
    make = _run_file(path)
    wanted = [
        parameter.name
        for parameter in inspect.signature(make).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if colon and not inspect.signature(make).parameters:
        raise ConfigError(
            f"get_config() of {path} takes no argument; found {argument!r} behind it"
        )
    if wanted and not colon:
        raise ConfigError(
            f"get_config() of {path} needs an argument, {wanted[0]}: write "
            f"--config={path}:VALUE"
        )
    try:
        config = make(argument) if colon else make()
    except (Exception, SystemExit) as error:  # a configuration file may raise anything
        pass_on_stops(error)
        message = f"get_config() of {path} fails: {_describe(error)}"
        raise ConfigError(message) from error
    return _checked_form(config, str(path))


def shipped_configs() -> dict[str, Path]:
    """Lists the configuration files that come with the package, by name."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.py"))}
    return {}


def _shipped(name: str) -> Path:
    known = shipped_configs()
    if name not in known:
        raise ConfigError(
            f"there is no configuration {name!r}; allowed: the path of a file, or one "
            f"of {', '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]


def _split_argument(path: str) -> tuple[Path, str, str]:
    """Splits `file.py:argument`; a file whose own name has a colon stays whole."""
    if Path(path).is_file():
        return Path(path), "", ""
    name, colon, argument = path.partition(".py:")
    return Path(name + ".py" if colon else path), colon, argument


def _run_file(path: Path) -> Callable[..., Any]:
    """Runs a configuration file; returns its `get_config`."""
    spec = importlib.util.spec_from_file_location("ncgn_jax_config_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    folder, before = str(path.resolve().parent), set(sys.modules)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise ConfigError(f"syntax error in {place}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # a configuration file may raise anything
        pass_on_stops(error)
        raise ConfigError(f"{path} does not run: {_describe(error)}") from error
    finally:
        sys.path.remove(folder)
        # Another folder may have other neighbours of the same name.
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and str(Path(origin).resolve().parent) == folder:
                del sys.modules[name]
    make = getattr(module, "get_config", None)
    if not callable(make):
        raise ConfigError(f"{path} does not define get_config()")
    return make


def _checked_form(config: Any, origin: str) -> ConfigDict:
    """Refuses values without a type to override by or a form in JSON; locks."""
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise ConfigError(f"{origin} gives a {kind} instead of a ConfigDict")
    faults = Faults()
    config = copy.deepcopy(config)
    sections = {"": config}
    for name in config:
        if isinstance(config[name], ConfigDict):
            sections[f"{name}."] = config[name]
    for prefix, section in sections.items():
        for name in list(section):
            value, field = section[name], f"{prefix}{name}"
            if isinstance(value, ConfigDict):
                faults.check(not prefix, field, "a section", "at most two levels")
            elif value is None:
                typed = section.get_type(name) is not type(None)
                faults.check(typed, field, None, "config_dict.placeholder(type)")
            else:
                if isinstance(value, list):
                    value = _to_tuple(value)
                    del section[name]
                    section[name] = value
                faults.check(
                    _is_plain(value), field, value, "bool, int, float, str or tuple"
                )
    faults.raise_if_any()
    return config.lock()


def split_config_arguments(
    argv: Sequence[str],
) -> tuple[str | None, list[str], list[str]]:
    """Takes `--config=PATH` and `--config.a.b=VALUE` out of a command line.

    A value may also follow as the next argument. A boolean field may stand alone, and
    `--noconfig.a.b` sets it to false.

    Args:
      argv: Command line, with or without the program name.

    Returns:
      The path or None, the overrides `a.b=VALUE` (or `a.b` alone) and the arguments
      that are left, in order.

    Raises:
      ConfigError: If the path is given twice or is empty.
    """
    paths, overrides, rest = [], [], []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--":
            rest += [argument, *arguments]
            break
        name, equals, value = argument.partition("=")
        name = name.removeprefix("-").removeprefix("-")
        is_path, is_field = name == "config", name.startswith("config.")
        if argument.startswith("-") and name.startswith("noconfig.") and not equals:
            overrides.append(name.removeprefix("noconfig.") + "=false")
            continue
        if not argument.startswith("-") or not (is_path or is_field):
            rest.append(argument)
            continue
        if not equals and arguments and not _is_flag(arguments[0]):
            equals, value = "=", arguments.pop(0)
        if is_path:
            paths.append(value)
        else:
            overrides.append(name.removeprefix("config.") + equals + value)
    if len(paths) > 1:
        raise ConfigError(f"--config is given more than once: {', '.join(paths)}")
    if paths and not paths[0]:
        raise ConfigError("--config needs the path of a configuration file")
    return (paths[0] if paths else None), overrides, rest


def apply_overrides(
    config: ConfigDict,
    overrides: Iterable[str],
    item_types: Mapping[str, type] | None = None,
) -> ConfigDict:
    """Sets fields from strings, each read by the type the field has.

    Args:
      config: The configuration; stays as it is.
      overrides: Strings such as `dmp.schedule=linear`. A tuple is written `1,2,3` or
        `(1, 2, 3)`; `none` empties a placeholder; a boolean alone means true.
      item_types: Type of the items of tuples that are empty in the configuration.

    Returns:
      A locked copy with the fields set.

    Raises:
      ConfigError: If fields are unknown or values ill-typed; lists all of them.
    """
    faults = Faults()
    result = copy.deepcopy(config)
    types = field_types(config)
    for override in overrides:
        field, equals, text = override.partition("=")
        if field not in types:
            faults.lines.append(_unknown_field(field, types))
            continue
        try:
            old = get_field(config, field)
            if not equals and types[field] is not bool:
                raise ValueError("no value")
            kind = (item_types or {}).get(field)
            if kind is not None and not old:
                old = (kind(),)
            value = _parse(text if equals else "true", types[field], old)
        except ValueError:
            found = text if equals else "no value"
            faults.check(False, field, found, _type_in_words(types[field], old))
            continue
        section, _, name = field.rpartition(".")
        (result[section] if section else result)[name] = value
    faults.raise_if_any()
    return result.lock()


def check_known_fields(config: ConfigDict, reference: ConfigDict) -> None:
    """Refuses fields that nothing would read, and fields of another type.

    Args:
      config: The configuration.
      reference: A configuration with all fields.

    Raises:
      ConfigError: With every unknown or ill-typed field.
    """
    known = field_types(reference)
    faults = Faults()
    for field in field_types(config):
        if field not in known:
            faults.lines.append(_unknown_field(field, known))
            continue
        value = get_field(config, field)
        if value is not None:
            allowed = _type_in_words(known[field], value)
            faults.check(is_type(value, known[field]), field, value, allowed)
    faults.raise_if_any()


def with_fields(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    """Returns a locked copy with some fields, named by their dots, set."""
    config = copy.deepcopy(config)
    for field, value in fields.items():
        section, _, name = field.rpartition(".")
        (config[section] if section else config)[name] = value
    return config.lock()


class StoredConfig(NamedTuple):
    """A configuration as it was stored.

    Attributes:
      config: Its fields, some of which may mean something else today.
      version: Version of the meanings.
    """

    config: ConfigDict
    version: int


def config_to_json(config: ConfigDict) -> str:
    """Writes a configuration as indented JSON; tuples become lists.

    Beside the fields stands `config_version`, the version of their meanings.
    """
    fields = {_VERSION_KEY: CONFIG_VERSION, **config.to_dict()}
    return json.dumps(fields, indent=2)


def config_from_json(text: str) -> StoredConfig:
    """Reads what `config_to_json` wrote; lists become tuples again.

    JSON does not keep the type of an empty placeholder, so that one accepts anything.
    A text without a version is of version 1.

    Raises:
      ConfigError: If the text is not what `config_to_json` writes.
    """

    def restored(value):
        if isinstance(value, dict):
            return ConfigDict({name: restored(item) for name, item in value.items()})
        if value is None:
            return config_dict.placeholder(object)
        return _to_tuple(value)

    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"found {type(content).__name__}, not fields")
        version = content.pop(_VERSION_KEY, 1)
        if version not in range(1, CONFIG_VERSION + 1):
            raise ValueError(
                f"version {version!r}; this program reads 1 to {CONFIG_VERSION}"
            )
        return StoredConfig(restored(content).lock(), version)
    except (ValueError, AttributeError, RecursionError) as error:  # also bad names
        raise ConfigError(f"not a stored configuration: {error}") from error


def versions() -> dict[str, str | None]:
    """Tells what a result was made with: versions, commit and kind of device."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("ncgn_jax", "jax", "flax", "optax", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found | {"git": _git_commit(), "device": parallel.device_kind()}


def _git_commit() -> str | None:
    """Gives the commit of the checkout this file lies in, `-dirty` if changed."""
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():  # installed, or inside another checkout
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=package, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def _is_flag(argument: str) -> bool:
    """Tells `--workdir` and `-v` from the values `-1.5` and `-`."""
    return (
        argument.startswith("-")
        and not argument[1:2].isdigit()
        and (argument[1:2] not in ("", "."))
    )


def _parse(text: str, kind: type, old: Any) -> Any:
    """Reads a value of a known type; ValueError if it is none."""
    if old is None and text.lower() == "none":
        return None
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if kind is tuple:
        return _parse_tuple(text, old or ())
    if kind is object:
        return text
    return kind(text)


def _parse_tuple(text: str, old: tuple) -> tuple:
    """Reads `1,2,3` or `(1, 2, 3)`, each item by the type of the old ones.

    Where there are none to tell the type, the items are what Python reads, one number
    too; else they are words separated by commas, such as `HLA-A,IC50 (nM)`.
    """
    kinds = {type(item) for item in old}
    if len(kinds) == 1 and kinds <= set(_PLAIN):
        (kind,) = kinds
        items = _quoted(text) if kind is str else None
        if items is None:
            inner = text.strip()
            if _is_enclosed(inner):
                inner = inner[1:-1]
            items = tuple(item.strip().strip("'\"") for item in inner.split(","))
        return tuple(_parse(item, kind, 0) for item in items if item)
    try:
        value = _to_tuple(ast.literal_eval(text))
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        words = tuple(word.strip() for word in text.split(","))
        if kinds or not all(words) or text.lstrip().startswith(("(", "[", "{")):
            raise ValueError(text) from error
        return words
    if isinstance(value, int | float | str) and not old:
        value = (value,)
    if not isinstance(value, tuple) or not _is_plain(value):
        raise ValueError(text)
    return value


def _quoted(text: str) -> tuple[str, ...] | None:
    """Returns texts that stand in quotes, as Python reads them; None for others."""
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    items = (value,) if isinstance(value, str) else _to_tuple(value)
    is_text = isinstance(items, tuple) and all(isinstance(item, str) for item in items)
    return items if is_text else None


def _is_enclosed(text: str) -> bool:
    """Tells whether the first bracket of a text is closed by its last letter.

    The brackets of `(a, b)` are those of the tuple, those of `IC50 (nM)` are not.
    """
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth <= 0:
            return text.startswith("(") and i == len(text) - 1
    return False


def _type_in_words(kind: type, old: Any) -> str:
    """Names a type as the user has to write it."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    if kind is not tuple:
        return words.get(kind, kind.__name__)
    items = " and ".join(sorted({type(item).__name__ for item in old or ()}))
    return f"a tuple of {items} such as {old}" if items else "a tuple such as (1, 2)"


def _unknown_field(field: str, known: Iterable[str]) -> str:
    """Writes the fault line of a field that is not there."""
    known = list(known)
    section, _, name = field.rpartition(".")
    inside = [other for other in known if other.startswith(f"{field}.")]
    if inside:
        return f"{field}: is a section; its fields: {', '.join(inside)}"
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    sections = sorted({other.partition(".")[0] for other in known if "." in other})
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    hint = did_you_mean(field, siblings)
    if not hint and elsewhere:
        hint = f" (did you mean {elsewhere[0]!r}?)"
    hint = hint or did_you_mean(field, known)
    if section and not siblings:
        listed = f"there is no section {section!r}; sections: {', '.join(sections)}"
    elif section:
        names = ", ".join(other.rpartition(".")[2] for other in siblings)
        listed = f"unknown; fields of {section}: {names}"
    else:
        listed = f"unknown; fields: {', '.join(siblings + sections)}"
    return f"{field}: {listed}{hint}"


def _is_plain(value: Any) -> bool:
    """Tells whether JSON and the command line can carry a value."""
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return type(value) in _PLAIN


def _to_tuple(value: Any) -> Any:
    """Turns lists into tuples, all the way down."""
    if isinstance(value, list | tuple):
        return tuple(_to_tuple(item) for item in value)
    return value


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
