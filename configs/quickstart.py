"""Quick start: embedded shapes, from nothing to a table and pictures on a laptop.

Paper:    Noise-Conditioned Graph Networks (arXiv 2507.09391), section 5.1, in small
Command:  bash launch/quickstart.sh
Hardware: 2 CPU cores, no accelerator
Time:     under 5 minutes, table and pictures included
Expect:   see the table that it prints
"""

from ml_collections import ConfigDict

from ncgn_jax.point_clouds.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "embedded"
    # Few kinds, so that a few minutes are enough to recognise them.
    config.data.categories = ("chair", "table", "lamp", "bottle")
    config.data.num_train = 2000
    config.data.num_test = 128
    config.data.num_points = 256
    config.model.convolution = "geometric"
    config.train.num_steps = 280
    config.train.batch_size = 32
    config.train.optimizer = "muon"
    config.train.learning_rate = 4e-3
    config.train.ema_decay = 0.99
    config.train.checkpoint_every_steps = 100
    config.sample.num_samples = 64
    config.sample.num_steps = 12
    # Few steps, and yet some in the finest bucket, so that pictures show its graph.
    config.sample.time_grid = "cosine"
    config.evaluate.weights = ("ema",)
    config.evaluate.max_reference = 64
    config.evaluate.max_matched_clouds = 16
    config.evaluate.max_emd_clouds = 16
    return config.lock()
