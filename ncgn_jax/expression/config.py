"""Declares the fields of expression over space and time, and makes its model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import fields
from ncgn_jax.expression.conditioning import CONDITIONINGS, FIELD_TASKS
from ncgn_jax.expression.facts import FieldFacts
from ncgn_jax.expression.model import ExpressionModel
from ncgn_jax.expression.sets import FIELD_SOURCES
from ncgn_jax.expression.turing import (
    TEST_PLACES,
    TEST_TIMES,
    TRAIN_PLACES,
    TRAIN_TIMES,
)
from ncgn_jax.faults import DataError, Faults, is_type
from ncgn_jax.fields import Check, Field, one_of, some_of, whole, with_defaults
from ncgn_jax.parallel import num_devices
from ncgn_jax.tasks.bucketed import BatchLayout, make_batch_layout
from ncgn_jax.tasks.settings import (
    BASE_FIELDS,
    CACHE_DIR,
    GRAPH_FIELDS,
    NUM_TEST,
    NUM_TRAIN,
    PATH,
    TEST_FRACTION,
    check_base,
    convolution_fields,
    make_graph_settings,
    make_network_settings,
    make_objective,
    make_time,
)

NAME = "expression"
RESOLUTIONS = ("relative", "absolute")
REPEATED_CELLS = ("refuse", "drop", "keep")


def _is_grid(value: tuple) -> bool:
    return len(value) >= 2 and len(set(value)) == len(value)


_GRID = Check(_is_grid, "at least two different numbers")
_EXTENT = Check(
    lambda value: len(value) == 2 and 0 <= value[0] < value[1] <= 1,
    "two fractions, 0 <= low < high <= 1",
)
_FACTORS = Check(
    lambda value: all(
        is_type(factor, float) and np.isfinite(factor) and factor > 0
        for factor in value
    ),
    "a positive factor for each axis, or ()",
)


def split_genes(genes: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """Returns the names of `data.genes`, or how many of the most variable it asks for.

    Raises:
      ValueError: If it asks for both, or for no number of genes.
    """
    counts = [gene for gene in genes if gene.lower().startswith(_TOP)]
    if not counts:
        return tuple(genes), None
    count = int(counts[0][len(_TOP) :])
    if len(genes) > 1 or count < 1:
        raise ValueError(f"{genes}")
    return (), count


def parse_library_size(text: str) -> float | str | None:
    """Returns the number in `data.library_size`, `median`, or None for none.

    Raises:
      ValueError: If it is neither.
    """
    if text.lower() in ("none", "median"):
        return None if text.lower() == "none" else "median"
    size = float(text)
    if not 0 < size < float("inf"):
        raise ValueError(text)
    return size


def _parses(parse: Callable[[Any], object]) -> Callable[[Any], bool]:
    def passes(value: Any) -> bool:
        try:
            parse(value)
        except (ValueError, AttributeError):
            return False
        return True

    return passes


_TOP = "top:"
_GENES = Check(_parses(split_genes), "names of genes, or top:N alone")
_LIBRARY_SIZE = Check(
    _parses(parse_library_size), "none, median, or a positive number such as 10000"
)
# Fields of the data that a source does not read.
_ONLY_CELLS = (
    "coordinates",
    "coordinate_columns",
    "spatial_key",
    "layer",
    "time_column",
    "cell_column",
    "section_column",
    "section",
    "drop_missing",
    "library_size",
    "logarithm",
)
_UNREAD = {
    "turing": (*_ONLY_CELLS, "path", "genes", "extent", "num_nodes", "test_fraction"),
    "profiles": (*_ONLY_CELLS, "test_times", "test_places"),
    "cells": ("extent", "test_times", "test_places"),
}

FIELDS = with_defaults(
    (
        Field(
            "data.source",
            "turing",
            "Where fields come from: turing simulates them.",
            one_of(FIELD_SOURCES),
        ),
        PATH,
        Field(
            "data.coordinates",
            None,
            "File of the cells' positions, if apart from data.path.",
            kind=str,
        ),
        Field(
            "data.coordinate_columns",
            (),
            "Columns of the positions; () for those with usual names.",
            items=str,
        ),
        Field(
            "data.spatial_key",
            None,
            "Key of the positions in obsm of AnnData; unset for a usual one.",
            kind=str,
        ),
        Field(
            "data.layer",
            None,
            "Layer of AnnData with the expression, or raw; unset for X.",
            kind=str,
        ),
        Field("data.time_column", None, "Column of the time of a cell.", kind=str),
        Field("data.cell_column", None, "Column of the name of a cell.", kind=str),
        Field(
            "data.section_column",
            "auto",
            "Column that tells sections of tissue apart, which patches never mix; auto "
            "for one with a usual name, none for a single section.",
        ),
        Field("data.section", (), "Sections to read; () for all.", items=str),
        Field(
            "data.genes",
            (),
            "Genes to read, by name, or top:500 for so many that vary most; () for "
            "all.",
            _GENES,
            items=str,
        ),
        Field(
            "data.drop_missing",
            False,
            "Leave out cells whose place, time, section or expression is missing.",
        ),
        NUM_TRAIN,
        NUM_TEST,
        Field("data.num_nodes", 100, "Nodes of a training graph.", whole(2)),
        TEST_FRACTION,
        Field("data.extent", (0.1, 0.9), "Part of a profile that is read.", _EXTENT),
        Field(
            "data.library_size",
            "none",
            "Scale the counts of each cell to this sum first: a number, or median.",
            _LIBRARY_SIZE,
        ),
        Field("data.logarithm", False, "Take log(1 + expression), for counts."),
        Field(
            "data.repeated_cells",
            "refuse",
            "What to do with cells that occur twice.",
            one_of(REPEATED_CELLS),
        ),
        Field("data.test_times", TEST_TIMES, "Times of simulated test fields.", _GRID),
        Field(
            "data.test_places", TEST_PLACES, "Places of simulated test fields.", _GRID
        ),
        CACHE_DIR,
        *BASE_FIELDS,
        Field("sample.tasks", FIELD_TASKS, "What is generated.", some_of(FIELD_TASKS)),
        Field(
            "sample.conditioning",
            "hold",
            "How samples keep to what is given: hold shows clean values (as "
            "published), replace noised ones, trained needs model.conditional.",
            one_of(CONDITIONINGS),
        ),
        Field(
            "sample.num_draws",
            1,
            "Draws of each field that is imputed; errors are those of their mean.",
            whole(),
        ),
        Field(
            "sample.hidden_genes",
            (),
            "Genes that gene_imputation hides; () for the second of the data.",
            items=str,
        ),
        Field(
            "sample.resolution",
            "relative",
            "Supernodes of layouts of other sizes than in training: in proportion "
            "(relative), or as many (absolute).",
            one_of(RESOLUTIONS),
        ),
        *GRAPH_FIELDS,
        Field(
            "dmp.axis_scale",
            (),
            "Factor of each axis of the positions, time last, before clusters and "
            "neighbours are found; () leaves them.",
            _FACTORS,
        ),
        *convolution_fields(NAME),
        Field(
            "model.conditional",
            False,
            "Give the network what is given, drawn at random in training.",
        ),
        Field("evaluate.baselines", False, "Add rows of imputation without a network."),
    ),
    {
        "data.test_fraction": 0.2,
        "dmp.num_neighbors": 5,
        "model.width": 32,
        "model.convolution": "gcn",
        "model.norm": "batch",
    },
)


def default_config() -> ConfigDict:
    """Returns every field with its default."""
    return fields.default_config(NAME, FIELDS)


def num_nodes(config: ConfigDict) -> int:
    """Returns the nodes of a training graph."""
    if config.data.source == "turing":
        return len(TRAIN_TIMES) * len(TRAIN_PLACES)
    return config.data.num_nodes


def check(config: ConfigDict, faults: Faults) -> None:
    """Checks what holds between fields."""
    check_base(config, faults)
    defaults = {row.name: row.default for row in FIELDS}
    for name in _UNREAD[config.data.source]:
        field, value = f"data.{name}", config.data[name]
        readers = [s for s in FIELD_SOURCES if name not in _UNREAD[s]]
        faults.check(
            value == defaults[field],
            field,
            value,
            f"its default, because data.source={config.data.source} does not read it; "
            f"{' and '.join(readers)} does",
        )
    if config.data.source == "profiles" and not faults.lines:
        _, top = split_genes(config.data.genes)
        faults.check(top is None, "data.genes", config.data.genes, "names, of profiles")
    tasks = tuple(config.sample.tasks)
    faults.check(len(tasks) > 0, "sample.tasks", tasks, f"some of {FIELD_TASKS}")
    faults.check(
        (config.sample.conditioning == "trained") == bool(config.model.conditional),
        "sample.conditioning",
        config.sample.conditioning,
        "`trained` with model.conditional=True, and only then",
    )
    if not faults.lines:
        try:
            make_time(config, num_nodes(config), 2)
        except ValueError as error:
            faults.lines.append(f"dmp: {error}")


def check_training(config: ConfigDict, faults: Faults) -> None:
    """Checks what must hold on these devices to train."""
    if not faults.lines:
        try:
            make_layout(config, num_nodes(config), 2)
        except ValueError as error:
            faults.lines.append(f"dmp / train.batch_size: {error}")


def make_layout(config: ConfigDict, num_nodes: int, dim: int) -> BatchLayout:
    """Divides the batch over buckets; ValueError if it cannot be."""
    time = make_time(config, num_nodes, dim)
    return make_batch_layout(time, config.train.batch_size, num_devices())


def make_model(config: ConfigDict, facts: FieldFacts) -> ExpressionModel:
    """Builds the model of a configuration and what its data taught it.

    Raises:
      DataError: If `dmp.axis_scale` does not fit the positions.
    """
    factors = tuple(config.dmp.axis_scale) or (1.0,) * facts.dim
    if len(factors) != facts.dim:
        raise DataError(
            f"dmp.axis_scale: found {len(factors)} factors; the positions of this "
            f"data have {facts.dim} axes"
        )
    return ExpressionModel(
        facts=facts,
        axis_scale=factors,
        time=make_time(config, facts.num_nodes, facts.dim),
        objective=make_objective(config),
        graphs=make_graph_settings(config),
        network_settings=make_network_settings(config),
        conditional=config.model.conditional,
    )
