"""ImageNet 256 x 256 as latents of an autoencoder, on a pod: the paper's setting.

Paper:    arXiv 2507.09391, section "Images": DiT-DMP-S on latents [32, 32, 4],
          DDPM of 1,000 steps with learned variance, guidance 1.5, 250 steps
Command:  python -m ncgn_jax.main --config=configs/imagenet_latents.py
          --config.data.path=/data/imagenet_latents
Hardware: a TPU or GPU pod; batch 256 over all devices. A step with patches of 1 keeps
          up to 0.5 GB an image with S, 3.5 GB with XL: nothing is computed again
Expect:   nothing measured yet

The folder holds train/ and test/ with latents-00000.npy, labels-00000.npy, ...; see
README.md, "Your own images". `--config.model.size=XL` for larger models;
`--config.sample.guidance_channels=3` guides three channels only, as published.
"""

from ml_collections import ConfigDict

from ncgn_jax.tasks.images import default_config


def get_config() -> ConfigDict:
    """Returns the experiment."""
    config = default_config()
    config.data.source = "latents"
    config.dmp.patches = (4, 2, 1)
    config.model.size = "S"
    config.model.learned_variance = True
    config.model.dtype = "bfloat16"
    config.process.schedule = "ddpm_linear"
    config.process.target = "noise"
    config.train.num_steps = 400_000
    config.train.batch_size = 256
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 0
    config.train.decay = "constant"
    config.train.clip_norm = 0.0
    config.train.ema_decay = 0.9999
    config.train.checkpoint_every_steps = 10_000
    config.sample.num_samples = 10_000
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 250
    config.sample.guidance = 1.5
    return config.lock()
