"""Fields that every task shares: process, optimiser, run length, sampling.

`base_config` lists them with defaults, `validate_base` checks them. A task adds its
own sections. Two levels, no inheritance: configuration files copy what they change
from the task's `default_config()`.
"""

from ml_collections import ConfigDict, config_dict

from ncgn_jax.faults import Faults
from ncgn_jax.process import (
    LOSS_WEIGHTS,
    PREDICTION_KINDS,
    SAMPLERS,
    SCHEDULES,
    TIME_GRIDS,
)

DECAYS = ("constant", "cosine")
OPTIMIZERS = ("adam", "muon")
SIGNALS = ("mixing", "time")


def base_config() -> ConfigDict:
    """Returns the shared sections with their defaults."""
    config = ConfigDict()
    config.seed = 0
    config.process = ConfigDict(
        {
            "schedule": "linear",
            "target": "velocity",
            "loss_weight": "uniform",
            # What graphs and network are told of the noise: alpha / (alpha + sigma)
            # (`mixing`), or t itself as in the published code (`time`).
            "signal": "mixing",
        }
    )
    config.train = ConfigDict(
        {
            "num_steps": 10_000,
            "batch_size": 128,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "decay": "cosine",
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "ema_decay": 0.999,
            "ema_warm_up": True,
            "log_every_steps": 50,
            "checkpoint_every_steps": 500,
            "max_to_keep": 3,
        }
    )
    config.sample = ConfigDict(
        {
            "num_samples": 442,
            "sampler": "heun",
            "num_steps": 50,
            "time_grid": "cosine",
            "batch_size": 64,
            "data_limit": config_dict.placeholder(float),
        }
    )
    return config


def validate_base(config: ConfigDict, faults: Faults, num_devices: int) -> None:
    """Checks the shared sections, reporting every fault."""
    faults.choice(config, "process.schedule", SCHEDULES)
    faults.choice(config, "process.target", PREDICTION_KINDS)
    faults.choice(config, "process.loss_weight", LOSS_WEIGHTS)
    faults.choice(config, "process.signal", SIGNALS)
    for field in (
        "train.num_steps",
        "train.batch_size",
        "train.log_every_steps",
        "train.checkpoint_every_steps",
        "train.max_to_keep",
        "sample.num_samples",
        "sample.num_steps",
        "sample.batch_size",
    ):
        faults.positive_int(config, field)
    faults.in_range(config, "train.warmup_steps", 0)
    faults.in_range(config, "train.learning_rate", 0, without_ends=True)
    faults.in_range(config, "train.clip_norm", 0)
    faults.in_range(config, "train.weight_decay", 0)
    faults.in_range(config, "train.ema_decay", 0, 1)
    faults.choice(config, "train.optimizer", OPTIMIZERS)
    faults.choice(config, "train.decay", DECAYS)
    faults.choice(config, "sample.sampler", SAMPLERS)
    faults.choice(config, "sample.time_grid", TIME_GRIDS)
    if config.sample.data_limit is not None:
        faults.in_range(config, "sample.data_limit", 0, without_ends=True)
    if config.train.batch_size > 0:
        faults.check(
            config.train.batch_size % num_devices == 0,
            "train.batch_size",
            config.train.batch_size,
            f"a multiple of the {num_devices} devices",
        )
