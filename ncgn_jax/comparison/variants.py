"""Variants of one configuration: read from the command line, checked together.

`--vary=FIELD=A,B` varies one field; `--variant="NAME: FIELD=A FIELD=B"` names a set
of fields. All that is given is crossed with each other. Values of a tuple field are
separated by semicolons (`--vary=dmp.table=1,2;3,4`).

Example:
  >>> from ncgn_jax.comparison.variants import parse_variants
  >>> parse_variants(["model.num_layers=1,2"], [])
  [('num_layers=1', ['model.num_layers=1']), ('num_layers=2', ['model.num_layers=2'])]
"""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from ncgn_jax.config import field_types, load_config
from ncgn_jax.domains import (
    DOMAINS,
    default_config,
    plain_fields,
    set_fields,
    validate,
)
from ncgn_jax.faults import ConfigError

Named = tuple[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One configuration of a comparison.

    Attributes:
      name: What tables print.
      folder: Its sub-folder.
      config: Complete, validated configuration.
    """

    name: str
    folder: str
    config: ConfigDict


def make_variants(
    config_path: str,
    overrides: Sequence[str] = (),
    vary: Sequence[str] = (),
    explicit: Sequence[str] = (),
) -> list[Variant]:
    """Builds and validates every variant.

    Weights default to the averaged ones alone: `evaluate.weights` counts only where
    the configuration or an override changes it.

    Args:
      config_path: The configuration they all start from.
      overrides: Fields set in all of them, as `a.b=VALUE`.
      vary: `FIELD=VALUE,VALUE`, each crossed with all others.
      explicit: `NAME: FIELD=VALUE FIELD=VALUE`.

    Returns:
      The variants in the order given; one named after the file if none is asked for.

    Raises:
      ConfigError: With the faults of all variants.
    """
    base = load_config(config_path)
    task = DOMAINS.get(base.get("task"))
    default = default_config(base.task) if task else None
    anchors = task.anchors if task else ()
    asked = any(override.startswith("evaluate.weights") for override in overrides)
    if default is not None and not asked:
        weights = base.get("evaluate", {}).get("weights")
        if weights == default.evaluate.weights:
            overrides = [*overrides, "evaluate.weights=ema"]
    try:
        parsed = parse_variants(vary, explicit, field_types(base), anchors)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    variants, faults = [], []
    for name, fields in parsed:
        try:
            config = set_fields(base, [*overrides, *fields])
            validate(config)
            variants.append(Variant(name, _folder(name), config))
        except ConfigError as error:
            faults.append(f"variant {name!r}: {error}")
        if name in anchors:
            faults.append(
                f"variant {name!r}: every table has a row of that name (of "
                f"{', '.join(anchors)}); choose another"
            )
    folders = [_folder(name) for name, _ in parsed]
    for folder in sorted({folder for folder in folders if folders.count(folder) > 1}):
        faults.append(f"{folders.count(folder)} variants would share folder {folder!r}")
    if faults:
        raise ConfigError("\n".join(faults))
    return variants


def parse_variants(
    vary: Sequence[str],
    explicit: Sequence[str],
    types: Mapping[str, type] = MappingProxyType({}),
    anchors: Sequence[str] = (),
) -> list[Named]:
    """Reads variants as (name, overrides); see the module's docstring.

    Args:
      vary: `FIELD=VALUE,VALUE`.
      explicit: `NAME: FIELD=VALUE FIELD=VALUE`.
      types: Types of the fields; values of text fields name themselves.
      anchors: Rows that a table has without a model; no variant is named like them.

    Raises:
      ValueError: With every argument that cannot be read.
    """
    factors, faults = [], []
    if explicit:
        named = []
        for text in explicit:
            name, colon, fields = text.partition(":")
            if not colon or not name.strip():
                faults.append(f"--variant={text!r}: write 'NAME: FIELD=VALUE ...'")
            named.append((name.strip(), shlex.split(fields)))
        factors.append(named)
    for text in vary:
        field, equals, listed = text.partition("=")
        values = listed.split(";" if ";" in listed else ",")
        values = [value.strip() for value in values if value.strip()]
        if not equals or not values:
            faults.append(f"--vary={text!r}: write FIELD=VALUE,VALUE")
        # String values name their variant, unless the name would clash with an anchor.
        is_clear = types.get(field) is str and not set(values) & {*anchors}
        label = "" if is_clear else field.split(".")[-1] + "="
        factors.append([(label + value, [f"{field}={value}"]) for value in values])
    if faults:
        raise ValueError("\n".join(faults))
    product = itertools.product(*factors) if factors else [(("base", []),)]
    return [
        (", ".join(name for name, _ in chosen), [f for _, more in chosen for f in more])
        for chosen in product
    ]


def training_fields(config: ConfigDict) -> dict[str, Any]:
    """Lists the fields that decide what is learnt, by dotted name, as in JSON."""
    found = plain_fields(config, ("model", "size", "training", "data"))
    steps = config.train.num_steps
    return {"task": config.task, "train.num_steps": steps, **found}


def _folder(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", name).strip("_.") or "variant"
