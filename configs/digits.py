"""Images in three minutes: the embedded 8 x 8 digits, patches following the noise.

Paper:    Noise-Conditioned Graph Networks (arXiv 2507.09391), section "Images"
Command:  python -m ncgn_jax.main --config=configs/digits.py
Hardware: 2 CPU cores, 1 device
Expect:   after 2 minutes: Frechet distance (classifier) 0.142, training images 0.096;
          96.8 % of the samples in the class that was asked for. docs/results/images.md
"""

from ml_collections import ConfigDict

from ncgn_jax.images.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.dmp.patches = (4, 2, 1)
    config.model.width = 64
    config.model.num_layers = 4
    config.train.num_steps = 1600
    config.train.batch_size = 64
    config.train.optimizer = "muon"
    config.train.learning_rate = 5e-3
    config.train.ema_decay = 0.99
    config.sample.num_samples = 1000
    config.sample.num_steps = 20
    config.sample.batch_size = 250
    config.evaluate.weights = ("ema",)
    return config.lock()
