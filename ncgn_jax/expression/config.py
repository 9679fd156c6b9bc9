"""Fields of the transcriptomics task: their defaults and their checks."""

import numpy as np
from ml_collections import ConfigDict, config_dict

from ncgn_jax.expression.conditioning import CONDITIONINGS, FIELD_TASKS
from ncgn_jax.expression.sets import FIELD_SOURCES
from ncgn_jax.expression.turing import (
    TEST_PLACES,
    TEST_TIMES,
    TRAIN_PLACES,
    TRAIN_TIMES,
)
from ncgn_jax.faults import Faults
from ncgn_jax.parallel import num_devices
from ncgn_jax.tasks.bucketed import make_batch_layout
from ncgn_jax.tasks.settings import (
    base_config,
    graph_config,
    make_time,
    validate_graphs,
)

RESOLUTIONS = ("relative", "absolute")


def default_config() -> ConfigDict:
    """Returns every field of the task with its default."""
    config = base_config()
    config.task = "transcriptomics"
    config.data = ConfigDict(
        {
            "source": "turing",
            "path": config_dict.placeholder(str),
            "coordinates": config_dict.placeholder(str),
            "time_column": config_dict.placeholder(str),
            "genes": (),
            "num_train": 500,
            "num_test": 500,
            "num_nodes": 100,
            "test_fraction": 0.2,
            "extent": (0.1, 0.9),
            "logarithm": False,
            "repeated_cells": "refuse",
            "test_times": TEST_TIMES,
            "test_places": TEST_PLACES,
            "cache_dir": ".cache/data",
        }
    )
    config.dmp = graph_config(num_neighbors=5)
    # Factor of each axis of the positions, time last, before clusters and neighbours
    # are found: a small one brings times nearer than places. () leaves all as it is.
    config.dmp.axis_scale = ()
    config.model = ConfigDict(
        {
            "width": 32,
            "num_layers": 3,
            "convolution": "gcn",
            "norm": "batch",
            # bfloat16: matrix products and messages; sums, norms, coordinates,
            # parameters and output stay float32.
            "dtype": "float32",
            # Tells the network what is given, drawn at random in training.
            "conditional": False,
        }
    )
    config.sample.tasks = FIELD_TASKS
    config.sample.conditioning = "hold"
    # Fields drawn for each test field of a task that imputes; errors are those of
    # their mean, the best guess, while W is that of the first.
    config.sample.num_draws = 1
    # Genes that gene_imputation hides; () for the second of the data.
    config.sample.hidden_genes = ()
    # Layouts of other sizes than in training: supernodes in proportion (`relative`),
    # or as many as in training (`absolute`: clusters and edges keep their extent).
    config.sample.resolution = "relative"
    config.evaluate = ConfigDict({"weights": ("ema", "raw"), "baselines": False})
    return config


def num_nodes(config: ConfigDict) -> int:
    """Returns the nodes of a training graph."""
    if config.data.source == "turing":
        return len(TRAIN_TIMES) * len(TRAIN_PLACES)
    return config.data.num_nodes


def validate(config: ConfigDict, faults: Faults) -> None:
    """Checks the task's own fields."""
    faults.choice(config, "data.source", FIELD_SOURCES)
    faults.choice(config, "data.repeated_cells", ("refuse", "drop", "keep"))
    faults.choice(config, "sample.conditioning", CONDITIONINGS)
    faults.choice(config, "sample.resolution", RESOLUTIONS)
    validate_graphs(config, faults)
    faults.positive_int(config, "data.num_train")
    faults.positive_int(config, "data.num_test")
    faults.positive_int(config, "sample.num_draws")
    scale = tuple(config.dmp.axis_scale)
    faults.check(
        all(np.isfinite(factor) and factor > 0 for factor in scale),
        "dmp.axis_scale",
        scale,
        "a positive factor for each axis, or ()",
    )
    faults.in_range(config, "data.num_nodes", 2)
    faults.in_range(config, "data.test_fraction", 0, 1, without_ends=True)
    extent = tuple(config.data.extent)
    faults.check(
        len(extent) == 2 and 0 <= extent[0] < extent[1] <= 1,
        "data.extent",
        extent,
        "two fractions, 0 <= low < high <= 1",
    )
    for name in ("test_times", "test_places"):
        grid = tuple(config.data[name])
        faults.check(
            len(grid) >= 2 and len(set(grid)) == len(grid),
            f"data.{name}",
            grid,
            "at least two different numbers",
        )
    tasks = tuple(config.sample.tasks)
    faults.check(len(tasks) > 0, "sample.tasks", tasks, f"some of {FIELD_TASKS}")
    for name in tasks:
        faults.check(name in FIELD_TASKS, "sample.tasks", name, FIELD_TASKS)
    faults.check(
        (config.sample.conditioning == "trained") == bool(config.model.conditional),
        "sample.conditioning",
        config.sample.conditioning,
        "`trained` with model.conditional=True, and only then",
    )
    if not faults.lines:
        try:
            time = make_time(config, num_nodes(config), 2)
            make_batch_layout(time, config.train.batch_size, num_devices())
        except ValueError as error:
            faults.lines.append(f"dmp / train.batch_size: {error}")
