"""Loads the expression fields that a configuration names."""

from ml_collections import ConfigDict

from ncgn_jax.expression.config import parse_library_size, split_genes
from ncgn_jax.expression.sets import (
    FieldDataset,
    load_profiles,
    load_turing,
)
from ncgn_jax.expression.tissue import load_tissue
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
    names, top = split_genes(data.genes)
    if data.source == "profiles":
        return load_profiles(
            path, names, data.num_nodes, tuple(data.extent), data.test_fraction
        )
    return load_tissue(
        path,
        coordinates=data.coordinates,
        gene_columns=names or None,
        top_genes=top,
        coordinate_columns=tuple(data.coordinate_columns) or None,
        time_column=data.time_column,
        cell_column=data.cell_column,
        section_column=data.section_column,
        sections=tuple(data.section),
        spatial_key=data.spatial_key,
        layer=data.layer,
        drop_missing=data.drop_missing,
        repeated_cells=data.repeated_cells,
        num_nodes=data.num_nodes,
        num_train=data.num_train,
        num_test=data.num_test,
        test_fraction=data.test_fraction,
        logarithm=data.logarithm,
        library_size=parse_library_size(data.library_size),
    )
