"""Declares the fields of molecules and of their first stage, and makes their models."""

from functools import partial

import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import fields, registry
from ncgn_jax.faults import Faults, is_type
from ncgn_jax.fields import Check, Field, number, one_of, whole, with_defaults
from ncgn_jax.models.pair_attention import NUM_HEADS
from ncgn_jax.molecules.autoencoder import (
    BOND_HEADS,
    DECODERS,
    ENCODERS,
    SYMMETRIES,
    LatentSizes,
)
from ncgn_jax.molecules.codec import CodecSettings, MoleculeCodec
from ncgn_jax.molecules.denoiser import NETWORKS
from ncgn_jax.molecules.facts import MoleculeFacts
from ncgn_jax.molecules.gathering import INVALID, MOST_ATOMS, SALTS
from ncgn_jax.molecules.model import (
    NUM_TIME_BINS,
    SELF_CONDITIONINGS,
    Conditions,
    DenoiserSettings,
    MoleculeModel,
)
from ncgn_jax.molecules.process import TIMES, LatentProcess, TrainingTimes
from ncgn_jax.parallel import num_devices
from ncgn_jax.process import Schedule, make_schedule
from ncgn_jax.process.blurring import BLURS, HEAT_KINDS, make_blur, still_schedule
from ncgn_jax.tasks.settings import (
    BASE_FIELDS,
    CACHE_DIR,
    GUIDANCE,
    MAX_REFERENCE,
    NUM_LAYERS,
    NUM_TRAIN,
    OPTIMIZERS,
    PATH,
    SPLIT,
    WIDTH,
    check_base,
    check_guidance,
    make_objective,
    network_field,
)

NAME = "molecules"
AUTOENCODER_NAME = "molecule_autoencoder"
SOURCES = ("auto", "qm9", "sample", "file")
PRIORS = ("noise", "train")
# Fields of the autoencoder that are those of `train` when it is a task by itself.
_TRAIN_FIELDS = ("num_steps", "batch_size", "optimizer", "learning_rate")
# Grids that need noise to change.
_NOISE_GRIDS = ("log_snr", "edm", "dilated_vp", "dilated_ve")

_DATA_FIELDS = (
    Field(
        "data.source",
        "auto",
        "Where molecules come from; auto takes data.path, else an installed QM9, else "
        "the molecules that come with the package.",
        one_of(SOURCES),
    ),
    PATH,
    Field(
        "data.max_atoms",
        9,
        "Heavy atoms that molecules of a file may have; QM9 has 9.",
        whole(2, MOST_ATOMS),
    ),
    Field(
        "data.invalid",
        "skip",
        "What to do with lines of a file that are no molecules.",
        one_of(INVALID),
    ),
    Field(
        "data.salts",
        "refuse",
        "Molecules of several fragments: left out, or reduced to their largest.",
        one_of(SALTS),
    ),
    Field(
        "data.smiles_column",
        None,
        "Column of a table that holds SMILES, or its number from 1 where there is no "
        "header; unset finds it.",
        kind=str,
    ),
    Field("data.properties", (), "Columns of a file to read as numbers.", items=str),
    SPLIT,
    Field(
        "data.split_column",
        None,
        "Column, or property of .sdf, that says train, val or test; unset finds it.",
        kind=str,
    ),
    NUM_TRAIN,
    Field("data.num_validation", 20_000, "Validation molecules, likewise.", whole()),
    CACHE_DIR,
)
_CODEC_FIELDS = (
    Field("autoencoder.encoder", "residual", "Encoder.", one_of(ENCODERS)),
    Field(
        "autoencoder.symmetry",
        "depiction",
        "How the encoder tells equal atoms apart.",
        one_of(SYMMETRIES),
    ),
    Field("autoencoder.decoder", "attention", "Decoder.", one_of(DECODERS)),
    Field(
        "autoencoder.bonds",
        "joint",
        "Decide bonds and orders together, or by networks of their own.",
        one_of(BOND_HEADS),
    ),
    Field("autoencoder.latent_dim", 2, "Numbers that place an atom.", whole()),
    Field("autoencoder.type_dim", 2, "Numbers beside them for what it is.", whole(0)),
    Field(
        "autoencoder.noise_floor",
        0.1,
        "Least deviation of a latent, in deviations over the training set.",
        number(0, without_ends=True),
    ),
    Field("autoencoder.variational", False, "Learn the deviations."),
    Field(
        "autoencoder.divergence_weight",
        1e-3,
        "Weight of the divergence from the prior, if variational.",
        number(0),
    ),
    Field(
        "autoencoder.centered",
        True,
        "Move the mean of a molecule's placing numbers to 0.",
    ),
    Field("autoencoder.width", 64, "Hidden features.", whole()),
    Field("autoencoder.pair_width", 16, "Features of pairs of atoms.", whole()),
    Field("autoencoder.num_layers", 3, "Layers of encoder and decoder.", whole()),
)
_STAGE_FIELDS = (
    Field("autoencoder.num_steps", 3000, "Training steps of the first stage.", whole()),
    Field(
        "autoencoder.batch_size",
        128,
        "Rows of its batch, over all devices; a multiple of them.",
        whole(),
    ),
    Field(
        "autoencoder.optimizer",
        "adam",
        "Its optimiser.",
        one_of(OPTIMIZERS, partial(registry.names, "optimizer")),
    ),
    Field(
        "autoencoder.learning_rate",
        2e-3,
        "Its learning rate.",
        number(0, without_ends=True),
    ),
)
FIELDS = with_defaults(
    (
        *_DATA_FIELDS,
        *_CODEC_FIELDS,
        *_STAGE_FIELDS,
        *BASE_FIELDS,
        GUIDANCE,
        Field(
            "process.chain_steps",
            0,
            "Steps of a discrete chain; 0 for the schedule's own.",
            whole(0),
        ),
        Field(
            "process.rescale_betas",
            False,
            "Let betas grow as steps get fewer, so that the chain ends in noise.",
        ),
        Field(
            "process.heat",
            "none",
            "Heat that blurs latents beside the noise.",
            one_of(("none", *HEAT_KINDS)),
        ),
        Field("process.blur", "sine", "How heat spreads over time.", one_of(BLURS)),
        Field(
            "process.max_blur",
            3.0,
            "How far heat spreads, in bonds.",
            number(0, without_ends=True),
        ),
        Field(
            "process.min_blur",
            0.5,
            "First spread of the blur `levels`, in bonds.",
            number(0, without_ends=True),
        ),
        Field(
            "process.still_noise",
            None,
            "Noise that heat alone is given, in place of the schedule.",
            number(0, without_ends=True),
            float,
        ),
        Field(
            "process.latent_noise",
            1.0,
            "Share of a latent's deviation that is added when it is learned.",
            number(0, 1),
        ),
        Field(
            "process.times",
            "uniform",
            "Where training times lie.",
            one_of(TIMES),
        ),
        Field(
            "process.time_center",
            0.5,
            "Median of logit-normal times.",
            number(0, 1, without_ends=True),
        ),
        Field(
            "process.time_spread",
            1.0,
            "Deviation of the logits of logit-normal times.",
            number(0, without_ends=True),
        ),
        network_field("molecules", NETWORKS),
        WIDTH,
        Field("model.pair_width", 16, "Features of pairs of atoms.", whole()),
        NUM_LAYERS,
        Field(
            "model.self_conditioning",
            "none",
            "What the network reads of its guess of the step before: its latents, or "
            "these decoded as well. Half of the training goes without.",
            one_of(SELF_CONDITIONINGS),
        ),
        Field(
            "model.conditions",
            (),
            "Properties that generation is conditioned on: of the data, or logp, qed, "
            "tpsa by RDKit.",
            items=str,
        ),
        Field(
            "model.condition_dropout",
            0.1,
            "Share of training rows whose condition is hidden, for guidance. Each of "
            "several conditions is hidden in half of the others too.",
            number(0, 1),
        ),
        Field(
            "sample.prior",
            "noise",
            "Where sampling starts: noise, or blurred and noised training molecules.",
            one_of(PRIORS),
        ),
        Field(
            "sample.num_published",
            1000,
            "Molecules by the published protocol: 2 to 8 atoms, equally often.",
            whole(0),
        ),
        Field(
            "sample.num_reconstructed",
            1000,
            "Test molecules decoded from their latents.",
            whole(0),
        ),
        Field(
            "sample.condition_values",
            (),
            "A number for each of model.conditions; () for none.",
            Check(lambda value: all(is_type(item, float) for item in value), "numbers"),
        ),
        Field(
            "sample.guess_guidance",
            0.0,
            "How far predictions move beyond those without the guess of "
            "model.self_conditioning.",
            number(0),
        ),
        MAX_REFERENCE,
    ),
    {
        "data.num_train": 100_000,
        "evaluate.max_reference": 5000,
        "model.width": 96,
        "model.num_layers": 5,
        "sample.num_samples": 1000,
        "sample.batch_size": 500,
        "evaluate.weights": ("ema",),
    },
)
AUTOENCODER_FIELDS = with_defaults(
    (*_DATA_FIELDS, *_CODEC_FIELDS, *BASE_FIELDS),
    {
        "data.num_train": 100_000,
        "sample.num_samples": 1000,
        "sample.batch_size": 500,
        "evaluate.weights": ("ema",),
        **{
            f"train.{row.name.rpartition('.')[2]}": row.default for row in _STAGE_FIELDS
        },
    },
)


def default_config() -> ConfigDict:
    """Returns every field with its default."""
    return fields.default_config(NAME, FIELDS)


def default_autoencoder_config() -> ConfigDict:
    """Returns every field of the first stage as a task of its own."""
    return fields.default_config(AUTOENCODER_NAME, AUTOENCODER_FIELDS)


def first_stage_config(config: ConfigDict) -> ConfigDict:
    """Returns what the first stage of a configuration trains."""
    stage = default_autoencoder_config()
    stage.seed = config.seed
    # Not a copy: that would turn fields which may be unset into None for good.
    given = {name: value for name, value in config.data.items() if value is not None}
    stage.data.update(given)
    own = config.autoencoder.to_dict()
    for name in _TRAIN_FIELDS:
        stage.train[name] = own.pop(name)
    stage.autoencoder.update(own)
    stage.sample.num_samples = max(1, config.sample.num_reconstructed)
    stage.sample.batch_size = config.sample.batch_size
    return stage


def check_autoencoder(config: ConfigDict, faults: Faults) -> None:
    """Checks what holds between fields of data and autoencoder, for both tasks."""
    check_base(config, faults)
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


def check(config: ConfigDict, faults: Faults) -> None:
    """Checks what holds between fields."""
    check_autoencoder(config, faults)
    _check_heads(faults, "model.width", config.model.width, config.model.network)
    faults.check(
        not config.sample.guess_guidance or config.model.self_conditioning != "none",
        "sample.guess_guidance",
        config.sample.guess_guidance,
        "0, unless model.self_conditioning makes guesses",
    )
    _check_heat(config, faults)
    _check_conditions(config, faults)
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


def check_training(config: ConfigDict, faults: Faults) -> None:
    """Checks what must hold on these devices to train."""
    size = config.autoencoder.batch_size
    faults.check(
        size % num_devices() == 0,
        "autoencoder.batch_size",
        size,
        f"a multiple of the {num_devices()} devices",
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


def _check_heat(config: ConfigDict, faults: Faults) -> None:
    process, sample = config.process, config.sample
    faults.check(
        process.blur != "levels" or process.min_blur <= process.max_blur,
        "process.min_blur",
        process.min_blur,
        f"at most process.max_blur, {process.max_blur}",
    )
    if process.still_noise is None:
        return
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


def _check_conditions(config: ConfigDict, faults: Faults) -> None:
    names, values = config.model.conditions, config.sample.condition_values
    faults.check(
        len(values) in (0, len(names)),
        "sample.condition_values",
        tuple(values),
        f"one number for each of model.conditions {tuple(names)}, or none",
    )
    check_guidance(
        config,
        faults,
        has_condition=bool(len(values)),
        dropout="model.condition_dropout",
        how="model.conditions and sample.condition_values",
    )
    faults.check(
        not names or len(values) > 0 or config.model.condition_dropout > 0,
        "model.condition_dropout",
        config.model.condition_dropout,
        "above 0 where conditions are left out: without sample.condition_values",
    )


def make_codec(config: ConfigDict, facts: MoleculeFacts) -> MoleculeCodec:
    """Builds the autoencoder of a configuration and what its data taught it.

    Args:
      config: Of either task.
      facts: Of the training molecules.
    """
    own = config.autoencoder
    settings = CodecSettings(
        own.encoder,
        own.symmetry,
        own.decoder,
        own.bonds,
        LatentSizes(
            own.latent_dim, own.type_dim, own.width, own.pair_width, own.num_layers
        ),
        own.noise_floor,
        own.variational,
        own.divergence_weight,
        own.centered,
    )
    return MoleculeCodec(settings, facts, config.sample.batch_size)


def make_process(config: ConfigDict, max_atoms: int) -> LatentProcess:
    """Builds the process of a configuration."""
    own = config.process
    blur = None
    if own.heat != "none":
        blur = make_blur(own.blur, own.max_blur, own.min_blur)
    return LatentProcess(_make_base(config), max_atoms, own.heat, blur)


def _make_base(config: ConfigDict) -> Schedule:
    own = config.process
    if own.still_noise is not None:
        return still_schedule(own.still_noise)
    options: dict[str, object] = {}
    if own.chain_steps:
        options["num_steps"] = own.chain_steps
    if own.rescale_betas:
        options["rescale_betas"] = True
    return make_schedule(own.schedule, **options)


def make_conditions(facts: MoleculeFacts) -> Conditions | None:
    """Returns the properties that generation is conditioned on, None for none."""
    known = facts.properties
    if not known:
        return None
    return Conditions(
        tuple(own.name for own in known),
        np.asarray([own.mean for own in known], np.float32),
        np.asarray([own.std for own in known], np.float32),
    )


def make_model(config: ConfigDict, facts: MoleculeFacts) -> MoleculeModel:
    """Builds the model of a configuration and what its data taught it."""
    model, process = config.model, config.process
    codec = make_codec(config, facts)
    return MoleculeModel(
        codec=codec,
        process=make_process(config, codec.max_atoms),
        signal=process.signal,
        objective=make_objective(config),
        training_times=TrainingTimes(
            process.times, process.time_center, process.time_spread
        ),
        latent_noise=process.latent_noise,
        network_settings=DenoiserSettings(
            model.network,
            model.width,
            model.pair_width,
            model.num_layers,
            model.self_conditioning,
            registry.find("network", model.network, NAME),
        ),
        conditions=make_conditions(facts),
        condition_dropout=model.condition_dropout,
    )
