"""Smoke test: a network of toy size through every part of the program, on a CPU.

Paper:    none; not meant to learn anything
Command:  python -m ncgn_jax.main --config=configs/smoke.py
Hardware: 1 CPU core
Time:     under a minute
"""

from ml_collections import ConfigDict

from ncgn_jax.point_clouds.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "embedded"
    config.data.num_train = 40
    config.data.num_test = 16
    config.data.num_points = 32
    config.data.cache_dir = ""
    config.dmp.num_neighbors = 4
    config.model.width = 8
    config.model.num_layers = 1
    config.train.num_steps = 8
    config.train.batch_size = 32
    config.train.warmup_steps = 2
    config.train.log_every_steps = 2
    config.train.checkpoint_every_steps = 4
    config.sample.num_samples = 8
    config.sample.num_steps = 6
    # Few steps, and yet one in every noise bucket.
    config.sample.time_grid = "cosine"
    config.sample.batch_size = 8
    config.evaluate.max_reference = 8
    config.evaluate.max_matched_clouds = 4
    config.evaluate.max_emd_clouds = 4
    return config.lock()
