"""Fields that tasks share: process, optimiser, run length, sampling, graphs.

`base_config` lists those of every task with defaults, `validate_base` checks them;
`graph_config` and `validate_graphs` are for tasks on NCGN. A task adds its own
sections. Two levels, no inheritance: configuration files copy what they change
from the task's `default_config()`.
"""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, config_dict

from ncgn_jax.faults import Faults
from ncgn_jax.graphs import (
    CLUSTERINGS,
    CONNECTIVITIES,
    RangeResolution,
    make_noise_buckets,
)
from ncgn_jax.graphs import SCHEDULES as DMP_SCHEDULES
from ncgn_jax.models.graph_convolutions import CONVOLUTIONS
from ncgn_jax.models.layers import NORMS
from ncgn_jax.models.ncgn import NCGN
from ncgn_jax.process import (
    LOSS_WEIGHTS,
    PREDICTION_KINDS,
    SAMPLERS,
    SCHEDULES,
    TIME_GRIDS,
    Schedule,
    make_schedule,
    make_time_grid,
)
from ncgn_jax.tasks.bucketed import BucketedTime

DTYPES = ("float32", "bfloat16")
DECAYS = ("constant", "cosine")
OPTIMIZERS = ("adam", "muon")
SIGNALS = ("mixing", "time")
WEIGHTS = ("ema", "raw")
_SMALL_ALPHA = 1e-3


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
            # Arrays that a step does not use keep their value and their moments.
            "spare_unused": False,
            "ema_decay": 0.999,
            "ema_warm_up": True,
            "log_every_steps": 50,
            "checkpoint_every_steps": 500,
            # Steps that the host starts at a time; more spare an accelerator waiting.
            "steps_per_call": 1,
            "max_to_keep": 3,
        }
    )
    config.sample = ConfigDict(
        {
            "num_samples": 442,
            "sampler": "heun",
            "num_steps": 50,
            "time_grid": "uniform",
            # For dilated grids: width of the dilated part in units of 1 / sqrt(dim).
            "dilation": 5.0,
            # For `table`: pairs (t, share of the steps).
            "time_table": (),
            "batch_size": 64,
            "data_limit": config_dict.placeholder(float),
        }
    )
    return config


def graph_config(num_neighbors: int) -> ConfigDict:
    """Returns the section `dmp`: how graphs follow the noise.

    Args:
      num_neighbors: Default of k, neighbours a node has on the full graph.
    """
    return ConfigDict(
        {
            "connectivity": "dmp",
            "clustering": "balanced",
            "schedule": "exp",
            "curvature": 10.0,
            "split": 0.6,
            "exponent": 2.0,
            "table": (),
            "num_neighbors": num_neighbors,
            "reverse_schedule": False,
            "short_fraction": 0.5,
            # Train every graph shape at every noise level, to find the best schedule.
            "random_buckets": False,
        }
    )


def validate_graphs(config: ConfigDict, faults: Faults) -> None:
    """Checks the section `dmp` and the network's common fields."""
    faults.choice(config, "dmp.connectivity", CONNECTIVITIES)
    faults.choice(config, "dmp.clustering", CLUSTERINGS)
    faults.choice(config, "dmp.schedule", DMP_SCHEDULES)
    faults.choice(config, "model.convolution", CONVOLUTIONS)
    faults.choice(config, "model.norm", NORMS)
    faults.choice(config, "model.dtype", DTYPES)
    for field in ("dmp.num_neighbors", "model.width", "model.num_layers"):
        faults.positive_int(config, field)
    faults.in_range(config, "dmp.short_fraction", 0, 1)
    for name in config.evaluate.weights:
        faults.check(name in WEIGHTS, "evaluate.weights", name, WEIGHTS)


def make_time(config: ConfigDict, num_nodes: int, dim: int) -> BucketedTime:
    """Builds the time axis and its noise buckets.

    Args:
      config: Configuration with the sections `dmp` and `process`.
      num_nodes: Nodes of a graph.
      dim: Dimension of the positions.
    """
    dmp = config.dmp
    schedule = RangeResolution(
        dmp.schedule, dmp.curvature, dmp.split, dmp.exponent, dmp.table
    )
    buckets = make_noise_buckets(
        num_nodes,
        dmp.num_neighbors,
        dim,
        schedule=schedule,
        clustering=dmp.clustering,
        connectivity=dmp.connectivity,
        reverse_schedule=dmp.reverse_schedule,
        short_fraction=dmp.short_fraction,
    )
    return BucketedTime(
        make_schedule(config.process.schedule),
        buckets,
        config.process.signal,
        dmp.random_buckets,
    )


def make_sample_times(
    config: ConfigDict, schedule: Schedule, dim: int, num_steps: int | None = None
) -> np.ndarray:
    """Returns the times that the sampler visits, float64 [step + 1].

    Args:
      config: Configuration with the section `sample`.
      schedule: The noise.
      dim: Numbers a sample has.
      num_steps: Steps; the configuration's if None.
    """
    sample = config.sample
    return make_time_grid(
        sample.time_grid,
        num_steps or sample.num_steps,
        schedule,
        dim=dim,
        kappa=sample.dilation,
        table=sample.time_table,
    )


def make_network(config: ConfigDict, out_dim: int, axis_name: str | None) -> NCGN:
    """Builds the NCGN of a configuration.

    Args:
      config: Configuration with the section `model`.
      out_dim: Features predicted for each point.
      axis_name: Device axis that batch norm joins; None outside pmap.
    """
    model = config.model
    return NCGN(
        out_dim=out_dim,
        width=model.width,
        num_layers=model.num_layers,
        convolution=model.convolution,
        norm=model.norm,
        axis_name=axis_name,
        dtype=jnp.dtype(model.dtype),
    )


def describe_network(config: ConfigDict, time: BucketedTime) -> tuple[str, str]:
    """Says in a line each which graphs and which network are used."""
    dmp, model, process = config.dmp, config.model, config.process
    narrow = "" if model.dtype == "float32" else f", {model.dtype}"
    shapes = (f"{b.num_supernodes} x {b.num_neighbors}" for b in time.buckets)
    return (
        f"graphs: {dmp.connectivity}, {dmp.clustering} clustering, {dmp.schedule} "
        f"schedule; supernodes x neighbours {', '.join(shapes)}",
        f"model: NCGN {model.convolution}, width {model.width}, {model.num_layers} "
        f"layers, {model.norm} norm{narrow}; {process.schedule} process, "
        f"{process.target} target",
    )


def sampling_notes(config: ConfigDict) -> list[str]:
    """Warns of settings that are allowed but seldom meant, a line each.

    data_hat = (x_t - sigma noise_hat) / alpha: where alpha starts at 0, the least error
    of a noise or score prediction throws the first steps of a sampler far off.
    """
    process = config.process
    if process.target not in ("noise", "score") or config.sample.data_limit is not None:
        return []
    alpha = float(make_schedule(process.schedule).coefficients(0.0)[0])
    if alpha > _SMALL_ALPHA:
        return []
    return [
        f"NOTE: process.target={process.target!r} divides by alpha, which is "
        f"{alpha:.1g} at t = 0 of the {process.schedule} schedule; samples may leave "
        "all bounds unless sample.data_limit (say 4) is set"
    ]


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
        "train.steps_per_call",
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
    faults.in_range(config, "sample.dilation", 0, without_ends=True)
    if config.sample.time_grid == "table":
        try:
            make_time_grid("table", 1, table=config.sample.time_table)
        except ValueError as error:
            faults.lines.append(f"sample.time_table: {error}")
    if config.sample.data_limit is not None:
        faults.in_range(config, "sample.data_limit", 0, without_ends=True)
    if config.train.steps_per_call > 0:
        faults.check(
            config.train.checkpoint_every_steps % config.train.steps_per_call == 0,
            "train.steps_per_call",
            config.train.steps_per_call,
            "what divides train.checkpoint_every_steps, "
            f"{config.train.checkpoint_every_steps}",
        )
    if config.train.batch_size > 0:
        faults.check(
            config.train.batch_size % num_devices == 0,
            "train.batch_size",
            config.train.batch_size,
            f"a multiple of the {num_devices} devices",
        )
