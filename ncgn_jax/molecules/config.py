"""Fields of the molecule task and of its first stage: defaults and checks."""

from ml_collections import ConfigDict, config_dict

from ncgn_jax.faults import Faults, is_type
from ncgn_jax.models.pair_attention import NUM_HEADS
from ncgn_jax.molecules.autoencoder import (
    BOND_HEADS,
    DECODERS,
    ENCODERS,
    SYMMETRIES,
)
from ncgn_jax.molecules.denoiser import NETWORKS
from ncgn_jax.parallel import num_devices
from ncgn_jax.process.blurring import BLURS, HEAT_KINDS
from ncgn_jax.tasks.settings import OPTIMIZERS, WEIGHTS, base_config

SOURCES = ("auto", "qm9", "sample", "file")
INVALID = ("skip", "stop")
PRIORS = ("noise", "train")
# Fields of the autoencoder that are those of `train` when it is a task by itself.
_TRAIN_FIELDS = ("num_steps", "batch_size", "optimizer", "learning_rate")
SELF_CONDITIONINGS = ("none", "latents", "decoded")
TIMES = ("uniform", "logit_normal")
# Grids that need noise to change.
_NOISE_GRIDS = ("log_snr", "edm", "dilated_vp", "dilated_ve")
# Times of a batch are spread over this many equally likely parts of [0, 1].
NUM_TIME_BINS = 4


def default_config() -> ConfigDict:
    """Returns every field of the task with its default."""
    config = base_config()
    config.task = "molecules"
    config.data = _data_config()
    # The first stage; what is trained here is frozen afterwards.
    config.autoencoder = ConfigDict(
        {
            "encoder": "residual",
            "symmetry": "depiction",
            "decoder": "attention",
            "bonds": "joint",
            "latent_dim": 2,
            "type_dim": 2,
            # Least deviation of a latent, in units of that over the training set.
            "noise_floor": 0.1,
            "variational": False,
            "divergence_weight": 1e-3,
            # Moves the mean of the first `latent_dim` numbers of a molecule to 0.
            "centered": True,
            "width": 64,
            "pair_width": 16,
            "num_layers": 3,
            "num_steps": 3000,
            "batch_size": 128,
            "optimizer": "adam",
            "learning_rate": 2e-3,
        }
    )
    config.model = ConfigDict(
        {
            "network": "attention",
            "width": 96,
            "pair_width": 16,
            "num_layers": 5,
            # What it reads of its guess of the step before: `none`, its `latents`, or
            # these `decoded` as well; half of the training goes without.
            "self_conditioning": "none",
            # Properties of the data that generation is conditioned on.
            "conditions": (),
            "condition_dropout": 0.1,
        }
    )
    config.process.update(
        {
            # Discrete chains: steps (0 for the schedule's own), and whether betas grow
            # as steps get fewer, so that the chain ends in noise all the same.
            "chain_steps": 0,
            "rescale_betas": False,
            "heat": "none",
            "blur": "sine",
            "max_blur": 3.0,
            "min_blur": 0.5,
            # Noise that heat alone is given, in place of the schedule.
            "still_noise": config_dict.placeholder(float),
            # How much of the deviation of a latent is added when it is learned.
            "latent_noise": 1.0,
            # Where training times lie: `uniform`, or `logit_normal` with a median and
            # a deviation of their logits.
            "times": "uniform",
            "time_center": 0.5,
            "time_spread": 1.0,
        }
    )
    config.sample.update(
        {
            "num_samples": 1000,
            "batch_size": 500,
            "prior": "noise",
            # Molecules by the published protocol: 2 to 8 atoms, equally often.
            "num_published": 1000,
            "num_reconstructed": 1000,
            "condition_values": (),
            "guidance": 0.0,
            # How far predictions are moved on from those made without the guess that
            # `model.self_conditioning` reads, to those made with it and beyond.
            "guess_guidance": 0.0,
        }
    )
    config.evaluate = ConfigDict({"weights": ("ema",), "max_reference": 5000})
    return config


def default_autoencoder_config() -> ConfigDict:
    """Returns every field of the first stage as a task of its own."""
    return first_stage_config(default_config())


def first_stage_config(config: ConfigDict) -> ConfigDict:
    """Returns what the first stage of a configuration trains."""
    stage = base_config()
    stage.task = "molecule_autoencoder"
    stage.seed = config.seed
    # Not a copy: that would turn fields which may be unset into None for good.
    stage.data = _data_config()
    given = {name: value for name, value in config.data.items() if value is not None}
    stage.data.update(given)
    own = config.autoencoder.to_dict()
    for field in _TRAIN_FIELDS:
        stage.train[field] = own.pop(field)
    stage.autoencoder = ConfigDict(own)
    stage.sample.num_samples = max(1, config.sample.num_reconstructed)
    stage.sample.batch_size = config.sample.batch_size
    stage.evaluate = ConfigDict({"weights": ("ema",)})
    return stage


def validate_autoencoder(config: ConfigDict, faults: Faults) -> None:
    """Checks data and autoencoder, which both tasks have."""
    faults.choice(config, "data.source", SOURCES)
    faults.choice(config, "data.invalid", INVALID)
    faults.in_range(config, "data.max_atoms", 2, 64)
    for field in ("data.num_train", "data.num_validation"):
        faults.positive_int(config, field)
    own = "autoencoder."
    faults.choice(config, own + "encoder", ENCODERS)
    faults.choice(config, own + "symmetry", SYMMETRIES)
    faults.choice(config, own + "decoder", DECODERS)
    faults.choice(config, own + "bonds", BOND_HEADS)
    for field in ("latent_dim", "width", "pair_width", "num_layers"):
        faults.positive_int(config, own + field)
    faults.in_range(config, own + "type_dim", 0)
    faults.in_range(config, own + "noise_floor", 0, without_ends=True)
    faults.in_range(config, own + "divergence_weight", 0)
    own = config.autoencoder
    _check_heads(faults, "autoencoder.width", own.width, own.decoder)
    faults.check(
        own.encoder == "pna" or own.latent_dim == 2,
        "autoencoder.latent_dim",
        own.latent_dim,
        f"2 with encoder {own.encoder!r}, whose latents are places in a drawing",
    )
    faults.check(
        own.encoder != "depiction" or not own.variational,
        "autoencoder.variational",
        own.variational,
        "False with encoder 'depiction', which has nothing to learn",
    )
    for name in config.evaluate.weights:
        faults.check(name in WEIGHTS, "evaluate.weights", name, WEIGHTS)


def validate(config: ConfigDict, faults: Faults) -> None:
    """Checks the task's own fields."""
    validate_autoencoder(config, faults)
    faults.positive_int(config, "autoencoder.num_steps")
    faults.choice(config, "autoencoder.optimizer", OPTIMIZERS)
    faults.in_range(config, "autoencoder.learning_rate", 0, without_ends=True)
    size = config.autoencoder.batch_size
    faults.check(
        size > 0 and size % num_devices() == 0,
        "autoencoder.batch_size",
        size,
        f"a multiple of the {num_devices()} devices",
    )
    faults.choice(config, "model.network", NETWORKS)
    faults.choice(config, "model.self_conditioning", SELF_CONDITIONINGS)
    _check_heads(faults, "model.width", config.model.width, config.model.network)
    for field in ("model.width", "model.pair_width", "model.num_layers"):
        faults.positive_int(config, field)
    faults.in_range(config, "model.condition_dropout", 0, 1)
    faults.in_range(config, "process.chain_steps", 0)
    faults.choice(config, "process.heat", ("none", *HEAT_KINDS))
    faults.choice(config, "process.blur", BLURS)
    faults.in_range(config, "process.max_blur", 0, without_ends=True)
    faults.in_range(config, "process.min_blur", 0, without_ends=True)
    faults.in_range(config, "process.latent_noise", 0, 1)
    faults.choice(config, "process.times", TIMES)
    faults.in_range(config, "process.time_center", 0, 1, without_ends=True)
    faults.in_range(config, "process.time_spread", 0, without_ends=True)
    faults.choice(config, "sample.prior", PRIORS)
    for field in ("num_published", "num_reconstructed", "guidance", "guess_guidance"):
        faults.in_range(config, f"sample.{field}", 0)
    faults.check(
        not config.sample.guess_guidance or config.model.self_conditioning != "none",
        "sample.guess_guidance",
        config.sample.guess_guidance,
        "0, unless model.self_conditioning makes guesses",
    )
    _validate_heat(config, faults)
    _validate_conditions(config, faults)
    process = config.process
    faults.check(
        not process.chain_steps or process.schedule.startswith("ddpm"),
        "process.chain_steps",
        process.chain_steps,
        f"0 with process.schedule {process.schedule!r}, which has no steps",
    )
    faults.check(
        not process.rescale_betas or process.schedule == "ddpm_linear",
        "process.rescale_betas",
        process.rescale_betas,
        "False, but with process.schedule 'ddpm_linear'",
    )
    size = NUM_TIME_BINS * num_devices()
    faults.check(
        config.train.batch_size % size == 0,
        "train.batch_size",
        config.train.batch_size,
        f"a multiple of {size}: {NUM_TIME_BINS} parts of time on each device",
    )


def _check_heads(faults: Faults, field: str, width: int, kind: str) -> None:
    faults.check(
        kind != "attention" or width % NUM_HEADS == 0,
        field,
        width,
        f"a multiple of {NUM_HEADS}, the heads of attention",
    )


def _validate_heat(config: ConfigDict, faults: Faults) -> None:
    process, sample = config.process, config.sample
    faults.check(
        process.blur != "levels" or process.min_blur <= process.max_blur,
        "process.min_blur",
        process.min_blur,
        f"at most process.max_blur, {process.max_blur}",
    )
    if process.still_noise is None:
        return
    faults.in_range(config, "process.still_noise", 0, without_ends=True)
    faults.check(
        process.heat != "none",
        "process.still_noise",
        process.still_noise,
        "unset (None) without process.heat, which it is the noise of",
    )
    faults.check(
        process.target == "data",
        "process.target",
        process.target,
        "'data' with process.still_noise: other targets say nothing of the mean",
    )
    faults.check(
        sample.prior == "train",
        "sample.prior",
        sample.prior,
        "'train' with process.still_noise: heat alone does not end in noise",
    )
    faults.check(
        sample.time_grid not in _NOISE_GRIDS,
        "sample.time_grid",
        sample.time_grid,
        "one that does not go by the noise, with process.still_noise: uniform, "
        "cosine, quadratic, table",
    )


def _validate_conditions(config: ConfigDict, faults: Faults) -> None:
    names, values = config.model.conditions, config.sample.condition_values
    faults.check(
        len(values) in (0, len(names))
        and all(is_type(value, float) for value in values),
        "sample.condition_values",
        tuple(values),
        f"one number for each of model.conditions {tuple(names)}, or none",
    )
    without = names and (config.sample.guidance or not values)
    faults.check(
        not without or config.model.condition_dropout > 0,
        "model.condition_dropout",
        config.model.condition_dropout,
        "above 0 where conditions are left out: with sample.guidance, or without "
        "sample.condition_values",
    )


def _data_config() -> ConfigDict:
    return ConfigDict(
        {
            "source": "auto",
            "path": config_dict.placeholder(str),
            # Of a file of one's own, like the three fields below; QM9 has 9.
            "max_atoms": 9,
            "invalid": "skip",
            "smiles_column": config_dict.placeholder(str),
            "properties": (),
            "num_train": 100_000,
            "num_validation": 20_000,
            "cache_dir": ".cache/data",
        }
    )
