r"""Pair-rule genes along the axis of fly embryos of different ages: real profiles.

Paper:    none; a real counterpart of configs/transcriptomics.py
Data:     `.npz` with `expression` [embryo, place, gene], `age_minutes` and `genes`
Command:  NCGN_DATA=drosophila_pair_rule.npz \
              python -m ncgn_jax.main --config=configs/drosophila.py
Hardware: 2 CPU cores, 1 device
Expect:   after 4 minutes on one core, of 36 held-out embryos: Prd from Eve and Run rmse
          0.033, r 0.95; half of the places 0.060, r 0.88; below all plain baselines.
          docs/results/expression.md
"""

from ml_collections import ConfigDict

from ncgn_jax.expression.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "profiles"
    config.data.genes = ("Eve", "Run", "Prd")
    config.data.num_nodes = 100
    config.model.convolution = "geometric"
    config.model.norm = "layer"
    config.model.conditional = True
    config.train.num_steps = 1500
    config.train.batch_size = 32
    config.train.optimizer = "muon"
    config.train.learning_rate = 4e-3
    config.train.ema_decay = 0.99
    config.sample.num_samples = 36
    config.sample.num_steps = 20
    config.sample.time_grid = "cosine"
    config.sample.num_draws = 16
    config.sample.conditioning = "trained"
    config.sample.tasks = ("unconditional", "gene_imputation", "space_imputation")
    config.sample.hidden_genes = ("Prd",)
    config.evaluate.weights = ("ema",)
    config.evaluate.baselines = True
    return config.lock()
