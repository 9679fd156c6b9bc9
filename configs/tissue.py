r"""Cells of a tissue: patches of neighbours, hidden cells and hidden genes imputed.

Paper:    none; a real counterpart of configs/transcriptomics.py in two dimensions
Data:     AnnData `.h5ad`, or text tables of expression and coordinates, such as osmFISH
Command:  python -m ncgn_jax.main --config=configs/tissue.py \
              --config.data.path=osmFISH_prep_expression.txt \
              --config.data.coordinates=osmFISH_prep_cell_coordinates.txt
Hardware: 2 CPU cores, 1 device
Expect:   osmFISH with --config.sample.num_draws=64: hidden genes rmse 0.589, r 0.85 (as
          ridge regression); hidden cells 0.845, 0.16. docs/results/expression.md
"""

from ml_collections import ConfigDict

from ncgn_jax.expression.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "cells"
    config.data.num_nodes = 128
    config.data.num_train = 1000
    config.data.num_test = 64
    # Published tables hold some cells twice.
    config.data.repeated_cells = "drop"
    config.dmp.num_neighbors = 7
    config.model.width = 64
    config.model.convolution = "geometric"
    config.model.norm = "layer"
    config.model.conditional = True
    config.train.num_steps = 1500
    config.train.batch_size = 32
    config.train.optimizer = "muon"
    config.train.learning_rate = 4e-3
    config.train.ema_decay = 0.99
    config.sample.num_samples = 64
    config.sample.num_steps = 15
    config.sample.time_grid = "cosine"
    config.sample.num_draws = 8
    config.sample.conditioning = "trained"
    config.sample.tasks = ("unconditional", "gene_imputation", "space_imputation")
    config.evaluate.weights = ("ema",)
    config.evaluate.baselines = True
    return config.lock()
