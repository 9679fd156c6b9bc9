"""Images in colour: CIFAR-10 in pixels, flow matching with guidance.

Paper:    arXiv 2507.09391, section "Images", on pixels
Command:  python -m ncgn_jax.main --config=configs/cifar10.py
          --config.data.path=cifar10.npz
Hardware: 8 devices of 24 GB, or 1 GPU of 80 GB with --config.train.batch_size=128
Expect:   nothing measured yet

A step with patches of 1 keeps up to 0.5 GB an image (474 MiB, as XLA plans it for a
CPU), since nothing is computed again in the backward pass; patches of 4 keep 25 MiB.
"""

from ml_collections import ConfigDict

from ncgn_jax.images.config import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "auto"
    config.data.flip = True
    config.dmp.patches = (4, 2, 1)
    config.model.size = "S"
    config.model.dtype = "bfloat16"
    config.train.num_steps = 200_000
    config.train.batch_size = 256
    config.train.learning_rate = 3e-4
    config.train.warmup_steps = 1000
    config.train.ema_decay = 0.9999
    config.train.checkpoint_every_steps = 5000
    config.sample.num_samples = 10_000
    config.sample.num_steps = 50
    config.sample.guidance = 0.5
    return config.lock()
