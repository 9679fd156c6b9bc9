"""The shipped model `turing`: genes of a simulated Turing system in time and place.

Paper:    Noise-Conditioned Graph Networks (arXiv 2507.09391), section 5.2; geometric
          attention in place of the published convolutions, which see no directions
Command:  python -m ncgn_jax.main --config=configs/turing.py
Hardware: 2 CPU cores, 1 device
Expect:   the table of its card, ncgn_jax/shipped/turing/README.md
"""

from ml_collections import ConfigDict

from ncgn_jax.expression.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.model.convolution = "geometric"
    config.model.norm = "layer"
    config.train.num_steps = 4000
    config.train.batch_size = 32
    config.train.optimizer = "muon"
    config.train.learning_rate = 4e-3
    config.train.ema_decay = 0.995
    config.sample.num_samples = 250
    config.sample.num_steps = 20
    config.sample.batch_size = 250
    config.evaluate.weights = ("ema",)
    return config.lock()
