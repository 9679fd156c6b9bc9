"""ImageNet 256 x 256 as latents of an autoencoder, on a pod: the paper's setting.

Paper:    arXiv 2507.09391, section "Images": DiT-DMP-S on latents [32, 32, 4],
          DDPM of 1,000 steps with learned variance, 250 steps, guidance 0.5 (1.5 where
          1 means none)
Command:  python -m ncgn_jax.main --config=configs/imagenet_latents.py
          --config.data.path=/data/imagenet_latents
Hardware: a TPU or GPU pod; batch 256 over all devices. A step with patches of 1 keeps
          up to 0.5 GB an image with S, 3.5 GB with XL: nothing is computed again
Expect:   nothing measured yet

The folder holds train/ and test/ with latents-00000.npy, labels-00000.npy, ...; see
docs/how-to/images.md, "Latents". `--config.model.size=XL` for larger models;
`--config.sample.guidance_channels=3` guides three channels only, as published.

The published grids follow the step of the chain, so `process.signal` is `time`. Of 250
sampling steps 183 have 64 tokens, 48 have 256 and 19 have 1,024: with the S network
3.7 GMAC a step on average, doubled by guidance, where DiT-S/4 has 1.4. The control
`dmp.reverse_schedule` costs the same. By `mixing` it would not: this chain is nearly
pure noise for most of its steps, and its mean would be 8.5 GMAC against 2.2.
"""

from ml_collections import ConfigDict

from ncgn_jax.images.config import default_config


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
    config.process.signal = "time"
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
    config.sample.guidance = 0.5
    # Of 1.28 million, which would be 5e13 multiply-adds on a host for each row.
    config.evaluate.max_nearest = 100_000
    return config.lock()
