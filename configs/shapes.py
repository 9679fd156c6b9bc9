"""The shipped model `shapes`: the 16 embedded kinds of shapes, told the kind.

Paper:    Noise-Conditioned Graph Networks (arXiv 2507.09391), section 5.1; geometric
          attention in place of the published convolutions
Command:  python -m ncgn_jax.main --config=configs/shapes.py
Hardware: 2 CPU cores, 1 device
Expect:   the table of its card, ncgn_jax/shipped/shapes/README.md
"""

from ml_collections import ConfigDict

from ncgn_jax.point_clouds.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "embedded"
    config.data.num_train = 8000
    config.data.num_test = 400
    config.model.convolution = "geometric"
    config.model.class_conditional = True
    config.train.num_steps = 6000
    config.train.batch_size = 16
    config.train.optimizer = "muon"
    config.train.learning_rate = 3e-3
    config.train.ema_decay = 0.998
    config.train.checkpoint_every_steps = 500
    config.sample.num_steps = 10
    config.sample.time_grid = "cosine"
    config.sample.num_samples = 400
    config.evaluate.weights = ("ema",)
    return config.lock()
