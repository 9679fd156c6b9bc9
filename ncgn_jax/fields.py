"""Declares the fields of configurations, a row each: default, check, choices and help.

Default configurations, validation, `--help` and docs/reference/fields.md all come from
the rows.

Example:
  >>> from ncgn_jax.faults import Faults
  >>> rows = (
  ...     Field("data.num_points", 400, "Points per cloud.", whole(2)),
  ...     Field("data.path", None, "File or folder.", kind=str),
  ... )
  >>> config = default_config("point_clouds", rows)
  >>> config.data.num_points
  400
  >>> config.data.num_points, faults = 1, Faults()
  >>> check_rows(config, rows, faults)
  >>> faults.lines
  ['data.num_points: found 1; allowed: an integer of at least 2']
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict, config_dict

from ncgn_jax.faults import Faults, get_field, is_type

# Every word of help about a section, in the order in which sections are shown.
SECTIONS = {
    "data": "The data set: where it is, what is read of it, how it is split.",
    "process": "The process between noise and data, and what the network predicts.",
    "dmp": "Dynamic message passing: how graphs or patches follow the noise.",
    "autoencoder": "The first stage of molecules.",
    "model": "The network.",
    "train": "The training loop and its optimiser.",
    "sample": "The sampler.",
    "evaluate": "What is measured on the samples.",
}

# What a field decides: what the weights mean (the model), on graphs of which size they
# work (which samples may change), how they are learned (training), which data they are
# learned from, or nothing that a trained run depends on.
Role = Literal["model", "size", "training", "data", "free"]
_ROLES: dict[str, Role] = {
    "": "training",
    "train": "training",
    "data": "data",
    "sample": "free",
    "evaluate": "free",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """Says which values a field may have.

    Attributes:
      passes: Returns whether a value is allowed.
      allowed: The allowed values in words, or the list of choices.
      by_item: Whether the field is a tuple, each item of which is checked.
      more: Returns values that are allowed too, such as those of plug-ins.
    """

    passes: Callable[[Any], bool]
    allowed: str | tuple[Any, ...]
    by_item: bool = False
    more: Callable[[], tuple[Any, ...]] | None = None

    def report(self, field: str, value: Any, faults: Faults) -> None:
        """Records the faults of a value.

        Args:
          field: Name of the field.
          value: Its value.
          faults: Where faults are recorded.
        """
        allowed, more = self.allowed, () if self.more is None else self.more()
        if more and not isinstance(allowed, str):
            allowed = (*allowed, *more)
        for item in value if self.by_item else (value,):
            faults.check(self.passes(item) or item in more, field, item, allowed)

    @property
    def words(self) -> str:
        """The allowed values, as `--help` shows them."""
        listed = self.allowed
        if not isinstance(listed, str):
            listed = " | ".join(str(choice) for choice in listed)
        return f"any of {listed}" if self.by_item else listed


def one_of(
    choices: Iterable[Any], more: Callable[[], tuple[Any, ...]] | None = None
) -> Check:
    """Allows one of some values.

    Args:
      choices: The values.
      more: Returns values that are allowed too, when it is asked.
    """
    listed = tuple(choices)
    return Check(lambda value: value in listed, listed, more=more)


def some_of(choices: Iterable[Any]) -> Check:
    """Allows a tuple of some values.

    Args:
      choices: The values.
    """
    return dataclasses.replace(one_of(choices), by_item=True)


def whole(low: int = 1, high: int | None = None) -> Check:
    """Allows integers from `low` to `high`, ends included.

    Args:
      low: Least value.
      high: Largest value, None for none.
    """

    def passes(value):
        return is_type(value, int) and low <= value and (high is None or value <= high)

    if high is None:
        return Check(passes, f"an integer of at least {low}")
    return Check(passes, f"an integer, {low} <= value <= {high}")


def number(
    low: float | None = None, high: float | None = None, *, without_ends: bool = False
) -> Check:
    """Allows numbers between two ends; NaN and infinity never are.

    Args:
      low: Lower end, None for none.
      high: Upper end, None for none.
      without_ends: Whether the ends themselves are forbidden.
    """

    def passes(value):
        if not is_type(value, float) or not abs(value) < float("inf"):
            return False
        if without_ends and value in (low, high):
            return False
        return (low is None or value >= low) and (high is None or value <= high)

    sign = "<" if without_ends else "<="
    left = "" if low is None else f"{low} {sign} "
    right = "" if high is None else f" {sign} {high}"
    ends = f", {left}value{right}" if left or right else ""
    return Check(passes, f"a finite number{ends}")


def each(check: Check) -> Check:
    """Allows tuples whose items pass a check.

    Args:
      check: Of each item.
    """
    return dataclasses.replace(check, by_item=True)


def _of_type(kind: type) -> Check:
    return Check(lambda value: is_type(value, kind), f"items of type {kind.__name__}")


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a configuration.

    Attributes:
      name: Dotted name, at most one section.
      default: Its default; None for a field that may be unset, which needs a `kind`.
      help: One or two sentences: what it does, unit or range.
      check: Which values are allowed, of those with the right type; None for all.
      kind: Type of the values; that of the default if None.
      items: Type of the items of a tuple, where the default does not show it.
      decides: What it decides, where its section does not say so.
    """

    name: str
    default: Any
    help: str
    check: Check | None = None
    kind: type | None = None
    items: type | None = None
    decides: Role | None = None

    @property
    def role(self) -> Role:
        """What the field decides; the model, in sections that do not say otherwise."""
        return self.decides or _ROLES.get(self.section, "model")

    @property
    def type(self) -> type:
        """The type of the values."""
        return self.kind or type(self.default)

    @property
    def section(self) -> str:
        """The section, empty for a field outside of all."""
        return self.name.rpartition(".")[0]


Rows = Sequence[Field]


def with_defaults(rows: Rows, defaults: Mapping[str, Any]) -> tuple[Field, ...]:
    """Returns the rows with some other defaults.

    Raises:
      KeyError: If a default is for none of the rows.
    """
    unknown = set(defaults) - {row.name for row in rows}
    if unknown:
        raise KeyError(f"no field {', '.join(sorted(unknown))}")
    return tuple(
        dataclasses.replace(row, default=defaults[row.name])
        if row.name in defaults
        else row
        for row in rows
    )


def default_config(task: str, rows: Rows) -> ConfigDict:
    """Returns every field of a task with its default."""
    config = ConfigDict({"task": task})
    for row in rows:
        section = config
        if row.section:
            if row.section not in config:
                config[row.section] = ConfigDict()
            section = config[row.section]
        name = row.name.rpartition(".")[2]
        value = row.default
        section[name] = config_dict.placeholder(row.type) if value is None else value
    return config


def check_rows(config: ConfigDict, rows: Rows, faults: Faults) -> None:
    """Checks every field on its own, by its row; unset fields pass.

    Args:
      config: The configuration.
      rows: The fields that it must have.
      faults: Takes what is wrong.
    """
    for row in rows:
        try:
            value = get_field(config, row.name)
        except KeyError:
            faults.lines.append(f"{row.name}: missing from the configuration")
            continue
        if row.items is not None:
            each(_of_type(row.items)).report(row.name, value, faults)
        if row.check is not None and value is not None:
            row.check.report(row.name, value, faults)


def item_types(rows: Rows) -> dict[str, type]:
    """Returns the type of the items of tuple fields whose defaults do not show it."""
    return {row.name: row.items for row in rows if row.items is not None}


def format_value(value: Any) -> str:
    """Writes a value as it would be given on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(format_value(item) for item in value) or "()"
    return str(value)


def by_section(rows: Rows) -> Iterator[tuple[str, list[Field]]]:
    """Groups rows by section, in the order of `SECTIONS`; those without come first."""
    found: dict[str, list[Field]] = {}
    for row in rows:
        found.setdefault(row.section, []).append(row)
    for section in ("", *SECTIONS):
        if section in found:
            yield section, found.pop(section)
    if found:
        raise KeyError(f"say in SECTIONS what {', '.join(found)} holds")
