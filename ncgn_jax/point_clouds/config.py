"""Declares the fields of point clouds and turns them into a model."""

from ml_collections import ConfigDict

from ncgn_jax import fields
from ncgn_jax.faults import Faults
from ncgn_jax.fields import Field, number, one_of, whole, with_defaults
from ncgn_jax.graphs import PAIRINGS, Pairing
from ncgn_jax.parallel import num_devices
from ncgn_jax.point_clouds.cloud_reader import SAMPLINGS, FileOptions
from ncgn_jax.point_clouds.facts import CloudFacts
from ncgn_jax.point_clouds.load import SOURCES
from ncgn_jax.point_clouds.model import DIM, NOISE_CONDITIONINGS, PointCloudModel
from ncgn_jax.point_clouds.sets import NORMALISATIONS
from ncgn_jax.tasks.bucketed import BatchLayout, make_batch_layout
from ncgn_jax.tasks.settings import (
    BASE_FIELDS,
    CACHE_DIR,
    FLOW_MAP_FIELDS,
    GRAPH_FIELDS,
    GUIDANCE,
    LABEL_DROPOUT,
    LABEL_KEY,
    MAX_REFERENCE,
    NUM_TEST,
    NUM_TRAIN,
    PATH,
    SPLIT,
    TEST_FRACTION,
    check_base,
    check_flow_map,
    check_guidance,
    convolution_fields,
    make_flow_map,
    make_graph_settings,
    make_network_settings,
    make_objective,
    make_time,
)

NAME = "point_clouds"
FIELDS = with_defaults(
    (
        Field(
            "data.source",
            "auto",
            "Where clouds come from; auto takes data.path, else ModelNet in ./data, "
            "else the embedded shapes.",
            one_of(SOURCES),
        ),
        PATH,
        Field("data.num_points", 400, "Points per cloud.", whole(2), decides="size"),
        Field(
            "data.sampling",
            "auto",
            "Points of a mesh: its vertices (published), or drawn on its surface; auto "
            "takes vertices of ModelNet, the surface of others.",
            one_of(SAMPLINGS),
        ),
        Field("data.categories", (), "Classes to load; () for all.", items=str),
        Field(
            "data.normalise",
            "cloud",
            "Centre and scale each cloud by itself (published), or all of the set "
            "alike, or none; the last two give samples in the units of the file.",
            one_of(NORMALISATIONS),
        ),
        SPLIT,
        Field(
            "data.class_level",
            None,
            "Level of the folders below data.path that name classes, from 1, without "
            "those of the split; 0 for no classes; unset takes the first that differs.",
            whole(0),
            kind=int,
        ),
        Field(
            "data.points_key",
            None,
            "Array of the clouds in .npz, .h5 and .pt; unset finds it.",
            kind=str,
        ),
        LABEL_KEY,
        Field(
            "data.pattern",
            None,
            "Files to read, such as *.ply; unset reads all.",
            kind=str,
        ),
        NUM_TRAIN,
        NUM_TEST,
        TEST_FRACTION,
        CACHE_DIR,
        *BASE_FIELDS,
        Field(
            "process.pairing",
            "none",
            "How training pairs the points of a cloud with its noise: independently, "
            "by nested median splits of both, or by optimal transport of their parts.",
            one_of(PAIRINGS),
            decides="training",
        ),
        Field(
            "process.pairing_leaf",
            1,
            "Most points of a part of the splits; within parts pairs are independent.",
            whole(),
            decides="training",
        ),
        Field(
            "process.pairing_independent",
            0.0,
            "Share of points that are paired independently in any case.",
            number(0, 1),
            decides="training",
        ),
        *FLOW_MAP_FIELDS,
        GUIDANCE,
        *GRAPH_FIELDS,
        *convolution_fields(NAME),
        Field(
            "model.class_conditional", False, "Give the network the class of a cloud."
        ),
        LABEL_DROPOUT,
        Field(
            "model.noise_conditioning",
            "time",
            "Noise variable that the network sees: that of the time, none, or the one "
            "it infers from the cloud. The last two choose graphs by it too.",
            one_of(NOISE_CONDITIONINGS),
        ),
        MAX_REFERENCE,
        Field(
            "evaluate.max_matched_clouds",
            64,
            "Most clouds of measures that match points.",
        ),
        Field("evaluate.max_emd_clouds", 64, "Most clouds of measures with exact EMD."),
    ),
    {"data.num_train": 4000, "data.num_test": 400},
)


def default_config() -> ConfigDict:
    """Returns every field with its default."""
    return fields.default_config(NAME, FIELDS)


def check(config: ConfigDict, faults: Faults) -> None:
    """Checks what holds between fields."""
    check_base(config, faults)
    check_guidance(
        config,
        faults,
        has_condition=config.model.class_conditional,
        dropout="model.label_dropout",
        how="model.class_conditional",
    )
    if config.process.flow_map_steps:
        check_flow_map(config, faults)
        faults.check(
            config.model.noise_conditioning == "time",
            "process.flow_map_steps",
            config.process.flow_map_steps,
            "0 where model.noise_conditioning is not time, because the graphs of a "
            "step are known ahead",
        )
    if not faults.lines:
        try:
            make_time(config, config.data.num_points, DIM)
        except ValueError as error:
            faults.lines.append(f"dmp: {error}")


def check_training(config: ConfigDict, faults: Faults) -> None:
    """Checks what must hold on these devices to train."""
    if not faults.lines:
        try:
            make_layout(config)
        except ValueError as error:
            faults.lines.append(f"dmp / train.batch_size: {error}")


def file_options(config: ConfigDict) -> FileOptions:
    """Returns what a configuration decides of files that leave it open."""
    data = config.data
    return FileOptions(
        split=data.split,
        class_level=data.class_level,
        points_key=data.points_key,
        label_key=data.label_key,
        pattern=data.pattern,
    )


def make_layout(config: ConfigDict) -> BatchLayout:
    """Divides the batch over buckets; ValueError if it cannot be."""
    time = make_time(config, config.data.num_points, DIM)
    flow_map, size = make_flow_map(config), config.train.batch_size
    if flow_map is not None:
        return flow_map.layout(time, size, num_devices())
    return make_batch_layout(time, size, num_devices())


def make_model(config: ConfigDict, facts: CloudFacts) -> PointCloudModel:
    """Builds the model of a configuration and what its data taught it."""
    model, process = config.model, config.process
    return PointCloudModel(
        num_points=config.data.num_points,
        facts=facts,
        time=make_time(config, config.data.num_points, DIM),
        objective=make_objective(config),
        graphs=make_graph_settings(config),
        network_settings=make_network_settings(config),
        class_conditional=model.class_conditional,
        label_dropout=model.label_dropout,
        noise_conditioning=model.noise_conditioning,
        pairing=Pairing(
            process.pairing, process.pairing_leaf, process.pairing_independent
        ),
        flow_map=make_flow_map(config),
    )
