"""Fields of the image task: their defaults and their checks."""

import math

from ml_collections import ConfigDict, config_dict

from ncgn_jax.faults import Faults, is_type
from ncgn_jax.graphs import SCHEDULES as DMP_SCHEDULES
from ncgn_jax.graphs import RangeResolution
from ncgn_jax.images.sets import CHANNEL_AXES
from ncgn_jax.models.dit import DIT_SIZES
from ncgn_jax.parallel import num_devices
from ncgn_jax.tasks.settings import DTYPES, WEIGHTS, base_config

IMAGE_SOURCES = ("digits", "arrays", "folder", "latents")
BAD_IMAGES = ("stop", "skip")
# Fields of `data` that a source reads; others must keep their defaults.
_READ = {
    "digits": ("flip",),
    "arrays": (
        "path", "image_size", "channel_axis", "value_range", "test_fraction",
        "split_seed", "flip",
    ),
    "folder": (
        "path", "image_size", "channels", "test_fraction", "split_seed", "bad_images",
        "flip",
    ),
    "latents": (
        "path", "channel_axis", "test_fraction", "split_seed", "latent_scale", "flip",
    ),
}  # fmt: skip


def default_config() -> ConfigDict:
    """Returns every field of the task with its default."""
    config = base_config()
    config.task = "images"
    config.data = ConfigDict(
        {
            "source": "digits",
            "path": config_dict.placeholder(str),
            # Side that images of a folder are cut and scaled to, and that arrays are
            # padded to with background; 0 leaves arrays as they are.
            "image_size": 0,
            "channels": 0,  # of a folder: 1 or 3; 0 for what its images have
            "channel_axis": "auto",
            # Black and white of arrays; () for 0..1 of floats, and 0..255.
            "value_range": (),
            "test_fraction": 0.1,
            "split_seed": 0,
            "bad_images": "stop",
            "latent_scale": 0.18215,
            "flip": False,  # mirrors every other training image
        }
    )
    # Which patches and windows at which noise; see `graphs.grids`.
    config.dmp = ConfigDict(
        {
            "patches": (4, 2, 1),
            "num_neighbors": 4,  # of the smallest patches; 0 for full attention
            "schedule": "exp",
            "curvature": 10.0,
            "split": 0.6,
            "exponent": 2.0,
            "table": (),
            "reverse_schedule": False,
            # Patches are drawn at random, in training and for each sampler step, as
            # often as the schedule has them: the control for following the noise.
            "random_buckets": False,
            # Steps of smaller patches take fewer images, so that all cost about the
            # same: train.batch_size is that of the largest patches.
            "equal_tokens": False,
            # How far training of a patch size goes beyond the ends of its noise levels,
            # in lengths of its own: a network is at its worst where its levels end.
            "overlap": 0.0,
        }
    )
    config.model = ConfigDict(
        {
            "size": config_dict.placeholder(str),  # S, B, L or XL sets the next three
            "width": 64,
            "num_layers": 4,
            "num_heads": 4,
            "base_patch": 8,
            "rotary": False,  # attention is told of distances; see `models.patches`
            # Adds to the output what is linear in the image; see `process.linear_skip`.
            "skip": False,
            "label_dropout": 0.1,
            "learned_variance": False,
            "num_variance_steps": 1000,  # steps of the chain that variances belong to
            "dtype": "float32",
        }
    )
    config.train.spare_unused = True
    config.sample.classes = ()  # numbers, taken in turn; () for all as in training
    config.sample.guidance = 1.0
    config.sample.guidance_channels = 0  # the first so many alone; 0 for all
    config.evaluate = ConfigDict(
        {
            "weights": ("ema", "raw"),
            "max_images": 10_000,
            # Training images among which nearest ones are looked for; 0 for all.
            "max_nearest": 0,
            "classifier_steps": 400,
            "inception": config_dict.placeholder(str),
        }
    )
    return config


def network_sizes(config: ConfigDict) -> tuple[int, int, int]:
    """Returns width, layers and heads, from `model.size` if it is set."""
    model = config.model
    if model.size is not None:
        return DIT_SIZES[model.size]
    return model.width, model.num_layers, model.num_heads


def images_a_step(config: ConfigDict, patch: int) -> int:
    """Returns the images of a global batch that has patches of a size.

    With `dmp.equal_tokens`, batch_size (patch / largest patch)^2.
    """
    size = config.train.batch_size
    if not config.dmp.equal_tokens:
        return size
    return size * patch**2 // max(config.dmp.patches) ** 2


def make_range_resolution(config: ConfigDict) -> RangeResolution:
    """Returns the range/resolution schedule of the section `dmp`."""
    dmp = config.dmp
    return RangeResolution(
        dmp.schedule, dmp.curvature, dmp.split, dmp.exponent, tuple(dmp.table)
    )


def validate(config: ConfigDict, faults: Faults) -> None:
    """Checks the task's own fields."""
    data, model, sample = config.data, config.model, config.sample
    evaluate = config.evaluate
    faults.choice(config, "data.source", IMAGE_SOURCES)
    faults.choice(config, "data.channel_axis", CHANNEL_AXES)
    faults.choice(config, "data.bad_images", BAD_IMAGES)
    faults.choice(config, "data.channels", (0, 1, 3))
    faults.in_range(config, "data.image_size", 0)
    faults.in_range(config, "data.split_seed", 0)
    faults.in_range(config, "data.test_fraction", 0, 1, without_ends=True)
    faults.in_range(config, "data.latent_scale", 0, without_ends=True)
    faults.check(
        data.source != "folder" or data.image_size > 0,
        "data.image_size",
        data.image_size,
        "at least 1 for data.source='folder'",
    )
    faults.check(
        not (data.flip and data.source == "latents"),
        "data.flip",
        data.flip,
        "False for latents, which a mirror image does not mirror",
    )
    _validate_ignored(config, faults)
    span = tuple(data.value_range)
    faults.check(
        not span
        or (
            len(span) == 2
            and all(is_type(value, float) and math.isfinite(value) for value in span)
            and span[0] < span[1]
        ),
        "data.value_range",
        span,
        "() or (black, white), two numbers, the smaller first",
    )
    patches = tuple(config.dmp.patches)
    whole = all(is_type(patch, int) and patch >= 1 for patch in patches)
    faults.check(
        bool(patches) and whole and len(set(patches)) == len(patches),
        "dmp.patches",
        patches,
        "different whole numbers of at least 1",
    )
    if not faults.lines and config.dmp.equal_tokens:
        unit = num_devices() * max(patches) ** 2
        faults.check(
            all(config.train.batch_size * patch**2 % unit == 0 for patch in patches),
            "train.batch_size",
            config.train.batch_size,
            "with dmp.equal_tokens, batch_size (patch / largest patch)^2 is a multiple "
            f"of the {num_devices()} devices for each of the patches {patches}",
        )
    faults.check(
        config.train.steps_per_call == 1 or len(patches) == 1,
        "train.steps_per_call",
        config.train.steps_per_call,
        "1 where dmp.patches has several sizes: steps of each are another program",
    )
    faults.in_range(config, "dmp.num_neighbors", 0)
    faults.in_range(config, "dmp.overlap", 0)
    if faults.choice(config, "dmp.schedule", DMP_SCHEDULES):
        try:
            make_range_resolution(config)
        except ValueError as error:
            faults.lines.append(f"dmp: {error}")
    if model.size is not None:
        faults.choice(config, "model.size", DIT_SIZES)
    for field in ("width", "num_layers", "num_heads", "base_patch"):
        faults.positive_int(config, f"model.{field}")
    faults.positive_int(config, "model.num_variance_steps")
    if not faults.lines:
        width, _, heads = network_sizes(config)
        faults.check(width % heads == 0, "model.num_heads", heads, f"divides {width}")
        faults.check(width % 4 == 0, "model.width", width, "a multiple of 4")
        faults.check(
            not model.rotary or width % (4 * heads) == 0,
            "model.num_heads",
            heads,
            f"with model.rotary, heads of {width} / num_heads features, 4 divides",
        )
    faults.check(
        0 <= model.label_dropout < 1,
        "model.label_dropout",
        model.label_dropout,
        "at least 0 and less than 1, at which no class is ever told",
    )
    faults.choice(config, "model.dtype", DTYPES)
    faults.check(
        all(is_type(number, int) and number >= 0 for number in sample.classes),
        "sample.classes",
        sample.classes,
        "() or numbers of classes, from 0",
    )
    faults.in_range(config, "sample.guidance", 0)
    faults.in_range(config, "sample.guidance_channels", 0)
    faults.check(
        sample.guidance == 1.0 or model.label_dropout > 0,
        "sample.guidance",
        sample.guidance,
        "1 without model.label_dropout: guidance needs a network that knows no class",
    )
    if model.learned_variance:
        faults.choice(config, "process.target", ("noise", "data"))
        faults.choice(config, "sample.sampler", ("ancestral",))
        faults.check(
            config.process.schedule.startswith("ddpm"),
            "process.schedule",
            config.process.schedule,
            "a ddpm schedule with model.learned_variance",
        )
    faults.check(
        len(evaluate.weights) > 0,
        "evaluate.weights",
        evaluate.weights,
        f"at least one of {', '.join(WEIGHTS)}",
    )
    faults.in_range(config, "sample.num_samples", 2)
    for name in evaluate.weights:
        faults.check(name in WEIGHTS, "evaluate.weights", name, WEIGHTS)
    faults.in_range(config, "evaluate.max_images", 4)
    faults.in_range(config, "evaluate.max_nearest", 0)
    faults.positive_int(config, "evaluate.classifier_steps")
    faults.check(
        evaluate.inception is None or data.source != "latents",
        "evaluate.inception",
        evaluate.inception,
        "none for data.source='latents': Inception sees pixels",
    )


def _validate_ignored(config: ConfigDict, faults: Faults) -> None:
    """Refuses fields that the source of the data would not look at."""
    source, defaults = config.data.source, default_config().data
    for name in defaults:
        if source not in _READ or name in ("source", *_READ[source]):
            continue
        readers = [other for other in _READ if name in _READ[other]]
        faults.check(
            config.data[name] == defaults[name],
            f"data.{name}",
            config.data[name],
            f"{defaults[name]!r}, as data.source={source!r} does not read it; "
            f"{', '.join(readers)} do",
        )
