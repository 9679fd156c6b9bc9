"""Declares the fields that domains share, and turns them into arguments.

`BASE_FIELDS` belong to every task, `RANGE_FIELDS` to those whose network follows the
noise, `GRAPH_FIELDS` to those on graphs. A domain adds rows of its own. Two levels, no
inheritance: configuration files change what they need of a domain's defaults.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial

from ml_collections import ConfigDict

from ncgn_jax import registry
from ncgn_jax.data.splits import SPLITTINGS
from ncgn_jax.faults import DataError, Faults, get_field, is_type
from ncgn_jax.fields import Check, Field, number, one_of, some_of, whole
from ncgn_jax.graphs import (
    CLUSTERINGS,
    CONNECTIVITIES,
    RANGE_SCHEDULES,
    RangeResolution,
)
from ncgn_jax.models.graph_convolutions import CONVOLUTIONS
from ncgn_jax.models.layers import NORMS
from ncgn_jax.parallel import num_devices
from ncgn_jax.process import (
    LOSS_WEIGHTS,
    PREDICTION_KINDS,
    SAMPLERS,
    SCHEDULES,
    TIME_GRIDS,
    make_schedule,
    make_time_grid,
)
from ncgn_jax.tasks.bucketed import BucketedTime, Objective
from ncgn_jax.tasks.flow_map import STEP_GRAPHS, FlowMap
from ncgn_jax.tasks.flow_map import TARGETS as FLOW_MAP_TARGETS
from ncgn_jax.tasks.graph_network import NETWORKS, GraphSettings, NetworkSettings
from ncgn_jax.tasks.sampling import FLOW_MAP, MAX_SEED, Sampling

DTYPES = ("float32", "bfloat16")
DECAYS = ("constant", "cosine")
OPTIMIZERS = ("adam", "muon")
SIGNALS = ("mixing", "time")
WEIGHTS = ("ema", "raw")
_SMALL_ALPHA = 1e-3

BASE_FIELDS = (
    Field(
        "seed",
        0,
        "Seed of weights, batches, noise and samples.",
        whole(0, MAX_SEED),
    ),
    Field(
        "process.schedule",
        "linear",
        "Noise schedule; linear is flow matching.",
        one_of(SCHEDULES),
    ),
    Field(
        "process.target",
        "velocity",
        "What the network predicts.",
        one_of(PREDICTION_KINDS),
    ),
    Field(
        "process.loss_weight",
        "uniform",
        "Weight of the squared error over time.",
        one_of(LOSS_WEIGHTS),
        decides="training",
    ),
    Field(
        "process.signal",
        "mixing",
        "Noise variable of graphs and network: alpha / (alpha + sigma) (mixing), or t "
        "itself as in the published code (time).",
        one_of(SIGNALS),
    ),
    Field("train.num_steps", 10_000, "Training steps.", whole(), decides="free"),
    Field(
        "train.batch_size",
        128,
        "Rows of a batch, over all devices; a multiple of them.",
        whole(),
    ),
    Field(
        "train.start_from",
        None,
        "Folder of a run, or of an exported model, whose weights training starts from; "
        "arrays that do not fit start anew.",
        kind=str,
    ),
    Field(
        "train.optimizer",
        "adam",
        "Optimiser: one of these or of a plug-in.",
        one_of(OPTIMIZERS, partial(registry.names, "optimizer")),
    ),
    Field(
        "train.learning_rate",
        1e-3,
        "Learning rate after the warm-up.",
        number(0, without_ends=True),
    ),
    Field(
        "train.warmup_steps", 100, "Steps over which the learning rate rises.", whole(0)
    ),
    Field(
        "train.decay",
        "cosine",
        "Course of the learning rate after the warm-up.",
        one_of(DECAYS),
    ),
    Field("train.weight_decay", 0.0, "Decoupled weight decay.", number(0)),
    Field(
        "train.clip_norm",
        1.0,
        "Largest l2 norm of the gradient; 0 for no limit.",
        number(0),
    ),
    Field(
        "train.spare_unused",
        False,
        "Keep value and moments of arrays that a step does not use.",
    ),
    Field(
        "train.ema_decay",
        0.999,
        "Decay of the averaged weights per step, after a warm-up.",
        number(0, 1),
    ),
    Field(
        "train.log_every_steps",
        50,
        "Steps between lines of the log.",
        whole(),
        decides="free",
    ),
    Field(
        "train.checkpoint_every_steps",
        500,
        "Steps between checkpoints.",
        whole(),
        decides="free",
    ),
    Field(
        "train.steps_per_call",
        1,
        "Steps that the host starts together; more spare an accelerator waiting.",
        whole(),
        decides="free",
    ),
    Field(
        "train.max_to_keep",
        3,
        "Newest checkpoints that are kept, besides the best.",
        whole(),
        decides="free",
    ),
    Field("sample.num_samples", 442, "Samples to generate.", whole()),
    Field(
        "sample.sampler",
        "heun",
        "Sampler step; heun asks the network twice a step, all others once. flow_map "
        "takes the long steps that process.flow_map_steps trained.",
        one_of((*SAMPLERS, FLOW_MAP)),
    ),
    Field("sample.num_steps", 50, "Sampler steps from noise to data.", whole()),
    Field(
        "sample.time_grid",
        "uniform",
        "How the sampler's times are spaced.",
        one_of(TIME_GRIDS),
    ),
    Field(
        "sample.dilation",
        5.0,
        "Width of the dilated part of dilated grids, in units of 1 / sqrt(dim).",
        number(0, without_ends=True),
    ),
    Field(
        "sample.time_table",
        (),
        "Pairs (t, share of the steps) of the grid `table`, as ncgn_jax.levels prints.",
    ),
    Field(
        "sample.batch_size",
        64,
        "Most samples in a call, over all devices; no sample depends on it.",
        whole(),
    ),
    Field(
        "sample.data_limit",
        None,
        "Bound on predicted data while sampling; unset for none.",
        number(0, without_ends=True),
        float,
    ),
    Field(
        "evaluate.weights",
        ("ema", "raw"),
        "Weights that are sampled and measured: averaged, last, or both.",
        some_of(WEIGHTS),
    ),
)
RANGE_FIELDS = (
    Field(
        "dmp.schedule",
        "exp",
        "Range/resolution schedule: how fast graphs get finer as noise falls.",
        one_of(RANGE_SCHEDULES),
    ),
    Field(
        "dmp.curvature",
        10.0,
        "Curvature of the schedules exp and log.",
        number(0, without_ends=True),
    ),
    Field(
        "dmp.split",
        0.6,
        "Signal level up to which the schedule relu stays coarse.",
        number(0, 1),
    ),
    Field(
        "dmp.exponent",
        2.0,
        "Exponent of the schedule power.",
        number(0, without_ends=True),
    ),
    Field(
        "dmp.table",
        (),
        "Pairs (signal level, share of full resolution) of the schedule `table`.",
    ),
    Field(
        "dmp.reverse_schedule",
        False,
        "Fine where noisy, coarse where clean: a control.",
    ),
    Field(
        "dmp.random_buckets",
        False,
        "Train every graph shape at every noise level: a control, and what "
        "ncgn_jax.levels finds the best schedule with.",
        decides="training",
    ),
)
NUM_NEIGHBORS = Field(
    "dmp.num_neighbors",
    7,
    "Neighbours of a node, or token, on the finest graph; 0 for all where allowed.",
    whole(0),
)
GRAPH_FIELDS = (
    Field(
        "dmp.connectivity",
        "dmp",
        "Graphs: dmp follows the noise, the others are baselines.",
        one_of(CONNECTIVITIES),
    ),
    Field(
        "dmp.clustering",
        "balanced",
        "How points are clustered into supernodes; voxel as published.",
        one_of(CLUSTERINGS),
    ),
    *RANGE_FIELDS,
    NUM_NEIGHBORS,
    Field(
        "dmp.short_fraction",
        0.5,
        "Share of short edges of long_short graphs.",
        number(0, 1),
    ),
)
WIDTH = Field("model.width", 64, "Features of a hidden node or token.", whole())
NUM_LAYERS = Field("model.num_layers", 3, "Layers of the network.", whole())
NETWORK_FIELDS = (
    WIDTH,
    NUM_LAYERS,
    Field(
        "model.dtype",
        "float32",
        "Type of matrix products and messages; sums, norms, coordinates, parameters "
        "and output stay float32.",
        one_of(DTYPES),
        decides="training",
    ),
)
# Fields of several domains.
PATH = Field(
    "data.path",
    None,
    "File or folder of the data; unset takes what the environment names.",
    kind=str,
)
CACHE_DIR = Field(
    "data.cache_dir",
    ".cache/data",
    "Folder for prepared data; empty for none.",
    decides="free",
)
LABEL_KEY = Field(
    "data.label_key",
    None,
    "Name of the array or column of the classes; unset finds usual names.",
    kind=str,
)
SPLIT = Field(
    "data.split",
    "given",
    "Take the split that folders, lists, columns or names of files give, where they "
    "do; or draw one at random in any case.",
    one_of(SPLITTINGS),
)
TEST_FRACTION = Field(
    "data.test_fraction",
    0.1,
    "Share of the data held out where they have no split.",
    number(0, 1, without_ends=True),
)
NUM_TRAIN = Field(
    "data.num_train", 500, "Training samples to make, draw, or keep at most.", whole()
)
NUM_TEST = Field("data.num_test", 500, "Test samples to make or draw.", whole())
MAX_REFERENCE = Field(
    "evaluate.max_reference",
    442,
    "Most test samples that measures compare with.",
    whole(),
)
GUIDANCE = Field(
    "sample.guidance",
    0.0,
    "How far predictions move beyond those without a condition: told + g (told - "
    "free). 0 for none.",
    number(0),
)
LABEL_DROPOUT = Field(
    "model.label_dropout",
    0.1,
    "Share of training rows whose class is hidden, for guidance.",
    Check(
        lambda value: is_type(value, float) and 0 <= value < 1,
        "at least 0 and less than 1, at which the network never sees a class",
    ),
    decides="training",
)


FLOW_MAP_FIELDS = (
    Field(
        "process.flow_map_steps",
        0,
        "Train long steps too, for sample.sampler=flow_map: so many from noise to "
        "data, half as many, and so on down to one; 0 for none. Best with "
        "train.start_from.",
        Check(
            lambda value: (
                is_type(value, int)
                and (value == 0 or (value > 1 and value.bit_count() == 1))
            ),
            "0 or a power of 2 from 2 on",
        ),
    ),
    Field(
        "process.flow_map_share",
        0.5,
        "Share of the rows that train long steps; the others train the velocity.",
        number(0, 1, without_ends=True),
        decides="training",
    ),
    Field(
        "process.flow_map_graph",
        "start",
        "Graph of a long step: that of its start, middle or end.",
        one_of(STEP_GRAPHS),
    ),
)


def network_field(domain: str, choices: Sequence[str]) -> Field:
    """Declares `model.network` of a domain.

    Args:
      domain: The domain, for which plug-ins may register more.
      choices: Its own networks, the default first.
    """
    return Field(
        "model.network",
        choices[0],
        "Network: one of these or of a plug-in.",
        one_of(choices, partial(registry.names, "network", domain)),
    )


def convolution_fields(domain: str) -> tuple[Field, ...]:
    """Declares the network of a domain whose data are graphs."""
    return (
        network_field(domain, tuple(NETWORKS)),
        *NETWORK_FIELDS,
        Field("model.convolution", "gat", "Message passing.", one_of(CONVOLUTIONS)),
        Field(
            "model.norm", "layer", "Normalisation of hidden features.", one_of(NORMS)
        ),
    )


def check_base(config: ConfigDict, faults: Faults) -> None:
    """Checks what holds between shared fields."""
    faults.check(
        len(config.evaluate.weights) > 0,
        "evaluate.weights",
        config.evaluate.weights,
        f"at least one of {', '.join(WEIGHTS)}",
    )
    _check_long_steps(config, faults)
    if config.sample.time_grid == "table":
        try:
            make_time_grid("table", 1, table=config.sample.time_table)
        except ValueError as error:
            faults.lines.append(f"sample.time_table: {error}")


def _check_long_steps(config: ConfigDict, faults: Faults) -> None:
    """Checks that the sampler takes long steps only as they are trained."""
    sample = config.sample
    if sample.sampler != FLOW_MAP:
        return
    most = config.process.get("flow_map_steps", 0)
    if not most:
        faults.check(
            False,
            "sample.sampler",
            sample.sampler,
            "another one, unless process.flow_map_steps trains long steps",
        )
        return
    flow_map = FlowMap(most)
    for name, allowed, words in (
        ("num_steps", flow_map.rungs, f"{flow_map.walks}, for which it is trained"),
        ("time_grid", ("uniform",), "uniform with sample.sampler=flow_map"),
        ("data_limit", (None,), "unset with sample.sampler=flow_map"),
        ("guidance", (0,), "0 with sample.sampler=flow_map, trained without"),
    ):
        value = sample.get(name, allowed[0])
        faults.check(value in allowed, f"sample.{name}", value, words)


def check_flow_map(config: ConfigDict, faults: Faults) -> None:
    """Checks that a network and its target can learn long steps.

    Args:
      config: Configuration with `process.flow_map_steps` above 0.
      faults: Takes what is wrong.
    """
    faults.check(
        config.process.target in FLOW_MAP_TARGETS,
        "process.flow_map_steps",
        config.process.flow_map_steps,
        f"0 unless process.target is {' or '.join(FLOW_MAP_TARGETS)}, of which the "
        "velocity is known at t = 0 too",
    )
    faults.check(
        config.model.network in NETWORKS,
        "process.flow_map_steps",
        config.process.flow_map_steps,
        f"0 unless model.network is {' or '.join(NETWORKS)}",
    )


def check_training(config: ConfigDict, faults: Faults) -> None:
    """Checks what must hold between shared fields on these devices to train."""
    train = config.train
    faults.check(
        train.checkpoint_every_steps % train.steps_per_call == 0,
        "train.steps_per_call",
        train.steps_per_call,
        f"what divides train.checkpoint_every_steps, {train.checkpoint_every_steps}",
    )
    faults.check(
        train.batch_size % num_devices() == 0,
        "train.batch_size",
        train.batch_size,
        f"a multiple of the {num_devices()} devices",
    )


def check_guidance(
    config: ConfigDict, faults: Faults, *, has_condition: bool, dropout: str, how: str
) -> None:
    """Refuses guidance that nothing was trained for.

    Args:
      config: Configuration with `sample.guidance`.
      faults: Takes what is wrong.
      has_condition: Whether the network has a condition.
      dropout: Name of the field that says how often training hides it.
      how: What gives the network a condition, in words.
    """
    guidance = config.sample.guidance
    faults.check(
        not guidance or has_condition, "sample.guidance", guidance, f"0 without {how}"
    )
    faults.check(
        not guidance or get_field(config, dropout) > 0,
        "sample.guidance",
        guidance,
        f"0 without {dropout}: guidance needs a network that knows no condition too",
    )


def make_range_resolution(config: ConfigDict) -> RangeResolution:
    """Returns the range/resolution schedule of the section `dmp`."""
    dmp = config.dmp
    return RangeResolution(
        dmp.schedule, dmp.curvature, dmp.split, dmp.exponent, tuple(dmp.table)
    )


def make_graph_settings(config: ConfigDict) -> GraphSettings:
    """Returns the graphs of the section `dmp`."""
    dmp = config.dmp
    return GraphSettings(
        make_range_resolution(config),
        dmp.num_neighbors,
        dmp.connectivity,
        dmp.clustering,
        dmp.reverse_schedule,
        dmp.short_fraction,
    )


def make_network_settings(config: ConfigDict) -> NetworkSettings:
    """Returns the network of the section `model`."""
    model = config.model
    return NetworkSettings(
        model.width,
        model.num_layers,
        model.convolution,
        model.norm,
        model.dtype,
        model.network,
        registry.find("network", model.network, config.task),
        knows_span=config.process.get("flow_map_steps", 0) > 0,
    )


def make_flow_map(config: ConfigDict) -> FlowMap | None:
    """Returns the long steps of the section `process`, None for none."""
    own = config.process
    if not own.flow_map_steps:
        return None
    return FlowMap(own.flow_map_steps, own.flow_map_share, own.flow_map_graph)


def flow_map_notes(config: ConfigDict) -> list[str]:
    """Says that long steps are learned from scratch, if they are."""
    if not config.process.flow_map_steps or config.train.start_from is not None:
        return []
    return [
        f"NOTE: process.flow_map_steps={config.process.flow_map_steps} without "
        "train.start_from: long steps and the velocity that they lead along are both "
        "learned from scratch"
    ]


def make_time(config: ConfigDict, num_nodes: int, dim: int) -> BucketedTime:
    """Builds the time axis and its noise buckets of graphs.

    Args:
      config: Configuration with the sections `dmp` and `process`.
      num_nodes: Nodes of a graph.
      dim: Dimension of the positions.

    Raises:
      ValueError: If the section `dmp` does not fit such graphs.
    """
    return BucketedTime(
        make_schedule(config.process.schedule),
        make_graph_settings(config).buckets(num_nodes, dim),
        config.process.signal,
        config.dmp.random_buckets,
    )


def make_objective(config: ConfigDict) -> Objective:
    """Returns what the network is trained for."""
    return Objective(config.process.target, config.process.loss_weight)


def make_sampling(config: ConfigDict) -> Sampling:
    """Returns the sampler's settings."""
    own = config.sample
    return Sampling(
        own.sampler,
        own.num_steps,
        own.time_grid,
        own.dilation,
        tuple(own.time_table),
        own.batch_size,
        own.data_limit,
        own.get("guidance", 0.0),
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


def data_path(
    config: ConfigDict,
    variables: tuple[str, ...],
    environment: Mapping[str, str] = os.environ,
) -> str | None:
    """Returns where the data are: `data.path`, else what the environment names.

    Args:
      config: Configuration with the field `data.path`.
      variables: Variables of the environment, the first that is set counts.
      environment: The environment.
    """
    named = (environment.get(variable) for variable in variables)
    return config.data.path or next(filter(None, named), None)


def require_data_path(config: ConfigDict, variables: tuple[str, ...]) -> str:
    """Returns where the data are.

    Raises:
      DataError: If neither the field nor a variable says it.
    """
    path = data_path(config, variables)
    if not path:
        raise DataError(
            f"data.source={config.data.source!r} needs data: set data.path or "
            f"{variables[0]}"
        )
    return path
