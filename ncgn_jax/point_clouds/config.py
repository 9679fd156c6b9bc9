"""Fields of the point-cloud task: their defaults, their checks, and its buckets."""

from ml_collections import ConfigDict, config_dict

from ncgn_jax.faults import Faults
from ncgn_jax.parallel import num_devices
from ncgn_jax.point_clouds.load import SOURCES
from ncgn_jax.tasks.bucketed import BatchLayout, BucketedTime, make_batch_layout
from ncgn_jax.tasks.settings import (
    base_config,
    graph_config,
    make_time,
    validate_graphs,
)

DIM = 3
NOISE_CONDITIONINGS = ("time", "none", "inferred")


def default_config() -> ConfigDict:
    """Returns every field of the task with its default."""
    config = base_config()
    config.task = "point_clouds"
    config.data = ConfigDict(
        {
            "source": "auto",
            "path": config_dict.placeholder(str),
            "num_points": 400,
            "sampling": "vertices",
            "categories": (),
            "num_train": 4000,
            "num_test": 400,
            "test_fraction": 0.1,
            "cache_dir": ".cache/data",
            "allow_download": False,
        }
    )
    config.dmp = graph_config(num_neighbors=7)
    config.model = ConfigDict(
        {
            "width": 64,
            "num_layers": 3,
            "convolution": "gat",
            "norm": "layer",
            # bfloat16: matrix products and messages; sums, norms, coordinates,
            # parameters and output stay float32.
            "dtype": "float32",
            "class_conditional": False,
            "label_dropout": 0.1,
            # What the network is told of the noise: the level that goes with the
            # time; nothing; or what it infers from the cloud. The last two choose
            # the graph by the inferred level as well.
            "noise_conditioning": "time",
        }
    )
    config.sample.guidance = 0.0
    config.evaluate = ConfigDict(
        {
            "weights": ("ema", "raw"),
            "max_reference": 442,
            "max_matched_clouds": 64,
            "max_emd_clouds": 64,
        }
    )
    return config


def validate(config: ConfigDict, faults: Faults) -> None:
    """Checks the task's own fields."""
    faults.choice(config, "data.source", SOURCES)
    faults.choice(config, "data.sampling", ("vertices", "surface"))
    faults.choice(config, "model.noise_conditioning", NOISE_CONDITIONINGS)
    validate_graphs(config, faults)
    for field in (
        "data.num_train",
        "data.num_test",
        "evaluate.max_reference",
    ):
        faults.positive_int(config, field)
    faults.in_range(config, "data.num_points", 2)
    faults.in_range(config, "data.test_fraction", 0, 1, without_ends=True)
    faults.in_range(config, "model.label_dropout", 0, 1)
    if not faults.lines:
        try:
            layout_of(config, num_devices())
        except ValueError as error:
            faults.lines.append(f"dmp / train.batch_size: {error}")


def bucketed_time(config: ConfigDict) -> BucketedTime:
    """Builds the time axis and its noise buckets from a configuration."""
    return make_time(config, config.data.num_points, DIM)


def layout_of(config: ConfigDict, devices: int) -> BatchLayout:
    """Divides a configuration's batch over buckets; ValueError if it cannot be."""
    return make_batch_layout(bucketed_time(config), config.train.batch_size, devices)
