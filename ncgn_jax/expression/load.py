"""Loads the expression fields that a configuration names."""

from ml_collections import ConfigDict

from ncgn_jax.expression.sets import (
    FieldDataset,
    load_profiles,
    load_tissue,
    load_turing,
)
from ncgn_jax.tasks.settings import require_data_path

# The second named cells before this domain had a variable of its own.
DATA_VARIABLES = ("NCGN_EXPRESSION", "NCGN_DATA")


def load_dataset(config: ConfigDict) -> FieldDataset:
    """Loads the fields of a configuration.

    Raises:
      DataError: If what is asked for is not there or is faulty.
    """
    data = config.data
    if data.source == "turing":
        return load_turing(
            data.num_train,
            data.num_test,
            data.test_times,
            data.test_places,
            cache_dir=data.cache_dir or None,
        )
    path = require_data_path(config, DATA_VARIABLES)
    if data.source == "profiles":
        return load_profiles(
            path, data.genes, data.num_nodes, tuple(data.extent), data.test_fraction
        )
    return load_tissue(
        path,
        coordinates=data.coordinates,
        genes=data.genes,
        num_nodes=data.num_nodes,
        num_train=data.num_train,
        num_test=data.num_test,
        test_fraction=data.test_fraction,
        time_column=data.time_column,
        logarithm=data.logarithm,
        repeated_cells=data.repeated_cells,
    )
