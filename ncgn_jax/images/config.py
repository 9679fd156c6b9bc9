"""Declares the fields of images and turns them into a model."""

import math

from ml_collections import ConfigDict

from ncgn_jax import fields, registry
from ncgn_jax.faults import DataError, Faults, is_type
from ncgn_jax.fields import Check, Field, each, number, one_of, whole, with_defaults
from ncgn_jax.graphs.grids import make_grid_buckets
from ncgn_jax.images.facts import ImageFacts
from ncgn_jax.images.folders import CLASS_FOLDERS
from ncgn_jax.images.idx_files import TRANSPOSE
from ncgn_jax.images.model import ImageModel, TransformerSettings
from ncgn_jax.images.picture_files import BAD_IMAGES
from ncgn_jax.images.sets import CHANNEL_AXES
from ncgn_jax.models.dit import DIT_SIZES
from ncgn_jax.parallel import num_devices
from ncgn_jax.process import make_schedule
from ncgn_jax.tasks.bucketed import BucketedTime
from ncgn_jax.tasks.settings import (
    BASE_FIELDS,
    GUIDANCE,
    LABEL_DROPOUT,
    LABEL_KEY,
    NETWORK_FIELDS,
    NUM_NEIGHBORS,
    PATH,
    RANGE_FIELDS,
    TEST_FRACTION,
    check_base,
    check_guidance,
    make_objective,
    make_range_resolution,
    network_field,
)

NAME = "images"
IMAGE_SOURCES = (
    "auto", "digits", "arrays", "idx", "cifar", "folder", "parquet", "latents",
)  # fmt: skip
_SPLIT = ("path", "test_fraction", "split_seed")
_PICTURES = (
    *_SPLIT, "image_size", "channels", "bad_images", "value_range", "flip",
)  # fmt: skip
# Fields of `data` that a source reads; others must keep their defaults.
_READ = {
    "digits": ("flip",),
    "arrays": (
        *_SPLIT, "image_size", "channel_axis", "value_range", "image_key", "label_key",
        "flip",
    ),
    "idx": (*_SPLIT, "image_size", "value_range", "transpose", "flip"),
    "cifar": (*_SPLIT, "image_size", "label_key", "flip"),
    "folder": (*_PICTURES, "class_folder"),
    "parquet": (*_PICTURES, "image_key", "label_key"),
    "latents": (*_SPLIT, "channel_axis", "latent_scale", "flip"),
}  # fmt: skip


def _is_span(span: tuple) -> bool:
    numbers = all(is_type(value, float) and math.isfinite(value) for value in span)
    return not span or (len(span) == 2 and numbers and span[0] < span[1])


def _are_patches(patches: tuple) -> bool:
    whole = all(is_type(patch, int) and patch >= 1 for patch in patches)
    return bool(patches) and whole and len(set(patches)) == len(patches)


FIELDS = with_defaults(
    (
        Field(
            "data.source",
            "auto",
            "How images are stored: auto looks at data.path, else takes the embedded "
            "digits; arrays (.npz, .npy, .mat); idx files of MNIST; CIFAR's and "
            "STL-10's; a folder or archive of pictures; parquet; or latents of an "
            "autoencoder.",
            one_of(IMAGE_SOURCES),
        ),
        PATH,
        Field(
            "data.image_size",
            0,
            "Side that pictures are cut and scaled to, and that arrays are padded to; "
            "0 leaves them as they are, pictures if all have one size.",
            whole(0),
        ),
        Field(
            "data.channels",
            0,
            "Channels of pictures; 0 for what they have.",
            one_of((0, 1, 3)),
        ),
        Field(
            "data.channel_axis", "auto", "Axis of the channels.", one_of(CHANNEL_AXES)
        ),
        Field(
            "data.image_key",
            None,
            "Name of the array or column of the images; unset finds usual names.",
            kind=str,
        ),
        LABEL_KEY,
        Field(
            "data.class_folder",
            "auto",
            "Folder that names the class of a picture where folders lie in folders: "
            "the first, the last, or all in the path; auto refuses these.",
            one_of(CLASS_FOLDERS),
        ),
        Field(
            "data.transpose",
            "auto",
            "Swap rows and columns of idx images; auto does so for EMNIST's files.",
            one_of(TRANSPOSE),
        ),
        Field(
            "data.value_range",
            (),
            "Black and white of arrays and of 16-bit grey pictures; () for 0..1 of "
            "floats, and 0..255 or 0..65535.",
            Check(_is_span, "() or (black, white), two numbers, the smaller first"),
        ),
        TEST_FRACTION,
        Field("data.split_seed", 0, "Seed of that split.", whole(0)),
        Field(
            "data.bad_images",
            "stop",
            "What to do with files that cannot be read.",
            one_of(BAD_IMAGES),
        ),
        Field(
            "data.latent_scale",
            0.18215,
            "Factor of latents, as their autoencoder publishes it.",
            number(0, without_ends=True),
        ),
        Field(
            "data.flip",
            False,
            "Mirror every other training image.",
            decides="training",
        ),
        *BASE_FIELDS,
        GUIDANCE,
        Field(
            "sample.guidance_channels",
            0,
            "Channels that guidance moves, the first so many; 0 for all.",
            whole(0),
        ),
        Field(
            "sample.classes",
            (),
            "Numbers of classes, taken in turn; () for all as in training.",
            each(whole(0)),
        ),
        Field(
            "sample.random_buckets",
            False,
            "Draw the patch size of every sampler step at random: a control.",
        ),
        Field(
            "dmp.patches",
            (4, 2, 1),
            "Sides of the patches in pixels.",
            Check(_are_patches, "different whole numbers of at least 1"),
        ),
        NUM_NEIGHBORS,
        *RANGE_FIELDS,
        Field(
            "dmp.equal_tokens",
            False,
            "Take fewer images in steps of smaller patches, so that all steps cost the "
            "same; train.batch_size is that of the largest patches.",
        ),
        Field(
            "dmp.overlap",
            0.0,
            "How far training of a patch size goes beyond the ends of its noise "
            "levels, in lengths of its own.",
            number(0),
        ),
        Field(
            "model.size",
            None,
            "Published size; sets width, layers and heads.",
            one_of(DIT_SIZES),
            str,
        ),
        network_field(NAME, ("dit",)),
        *NETWORK_FIELDS,
        Field("model.num_heads", 4, "Heads of attention.", whole()),
        Field(
            "model.base_patch",
            8,
            "Side of the kernel that all patch embeddings are resized from.",
            whole(),
        ),
        Field("model.rotary", False, "Make attention depend on distances of tokens."),
        Field("model.skip", False, "Add what is linear in the image to the output."),
        LABEL_DROPOUT,
        Field("model.learned_variance", False, "Learn the variances of a chain."),
        Field(
            "model.num_variance_steps",
            1000,
            "Steps of the chain whose variances are learned.",
            whole(),
        ),
        Field("evaluate.max_images", 10_000, "Most images of a set.", whole(4)),
        Field(
            "evaluate.max_nearest",
            0,
            "Training images among which nearest ones are looked for; 0 for all.",
            whole(0),
        ),
        Field(
            "evaluate.classifier_steps",
            400,
            "Training steps of the measures' classifier, for ten classes or fewer.",
            whole(),
        ),
        Field(
            "evaluate.inception",
            None,
            "File of Inception's weights, for FID.",
            kind=str,
        ),
    ),
    {
        "dmp.num_neighbors": 4,
        "model.num_layers": 4,
        "train.spare_unused": True,
    },
)


def default_config() -> ConfigDict:
    """Returns every field with its default."""
    return fields.default_config(NAME, FIELDS)


def network_sizes(config: ConfigDict) -> tuple[int, int, int]:
    """Returns width, layers and heads, from `model.size` if it is set."""
    model = config.model
    if model.size is not None:
        return DIT_SIZES[model.size]
    return model.width, model.num_layers, model.num_heads


def images_per_step(config: ConfigDict, patch: int) -> int:
    """Returns the images of a global batch with patches of a size.

    With `dmp.equal_tokens`, batch_size (patch / largest patch)^2.
    """
    size = config.train.batch_size
    if not config.dmp.equal_tokens:
        return size
    return size * patch**2 // max(config.dmp.patches) ** 2


def make_model(config: ConfigDict, facts: ImageFacts) -> ImageModel:
    """Builds the model of a configuration and what its data taught it.

    Raises:
      DataError: If the section `dmp` does not fit the images.
    """
    model, dmp = config.model, config.dmp
    height, width, _ = facts.image_shape
    try:
        buckets = make_grid_buckets(
            (height, width),
            tuple(dmp.patches),
            dmp.num_neighbors,
            make_range_resolution(config),
            dmp.reverse_schedule,
        )
    except ValueError as error:
        raise _unfit(config, (height, width), str(error)) from error
    time = BucketedTime(
        make_schedule(config.process.schedule),
        buckets,
        config.process.signal,
        dmp.random_buckets,
        dmp.overlap,
    )
    sizes = network_sizes(config)
    return ImageModel(
        facts=facts,
        time=time,
        objective=make_objective(config),
        network_settings=TransformerSettings(
            *sizes,
            model.base_patch,
            model.rotary,
            model.dtype,
            registry.find("network", model.network, NAME),
        ),
        label_dropout=model.label_dropout,
        skip=model.skip,
        num_variance_steps=model.num_variance_steps if model.learned_variance else 0,
    )


def check(config: ConfigDict, faults: Faults) -> None:
    """Checks what holds between fields."""
    check_base(config, faults)
    _check_data(config, faults)
    _check_patches(config, faults)
    _check_network(config, faults)
    check_guidance(
        config,
        faults,
        has_condition=True,
        dropout="model.label_dropout",
        how="classes",
    )
    faults.check(
        config.sample.num_samples >= 2,
        "sample.num_samples",
        config.sample.num_samples,
        "at least 2, which the measures of images need",
    )
    evaluate = config.evaluate
    faults.check(
        evaluate.inception is None or config.data.source != "latents",
        "evaluate.inception",
        evaluate.inception,
        "none for data.source='latents': Inception sees pixels",
    )


def _check_data(config: ConfigDict, faults: Faults) -> None:
    data, source = config.data, config.data.source
    faults.check(
        not (data.flip and source == "latents"),
        "data.flip",
        data.flip,
        "False for latents, which a mirror image does not mirror",
    )
    if source != "auto":
        faults.lines.extend(unread_fields(config, source))


def unread_fields(config: ConfigDict, source: str) -> list[str]:
    """Names the fields of `data` that are set and that a source does not read."""
    lines = []
    defaults = default_config().data
    for name in defaults:
        if name in ("source", *_READ[source]) or config.data[name] == defaults[name]:
            continue
        readers = [other for other in _READ if name in _READ[other]]
        lines.append(
            f"data.{name}: found {config.data[name]!r}; allowed: {defaults[name]!r}, "
            f"as data.source={source!r} does not read it; {', '.join(readers)} do"
            + ", and auto finds which"
            * (name == "path")
        )
    return lines


def _unfit(config: ConfigDict, image: tuple[int, int], reason: str) -> DataError:
    """Words why patches do not fit images, with the ways out."""
    patches, source = tuple(config.dmp.patches), config.data.source
    divisor, unit = math.gcd(*image), math.lcm(*patches)
    if all(divisor % patch == 0 for patch in patches):
        return DataError(f"dmp: {reason}")
    fitting = [side for side in range(1, divisor + 1) if divisor % side == 0]
    allowed = f"dmp.patches among {', '.join(map(str, fitting))}"
    # Pictures are scaled, arrays are padded.
    smaller, larger = min(image) // unit * unit, -(-max(image) // unit) * unit
    size = (smaller or unit) if source in ("folder", "parquet") else larger
    if "image_size" not in _READ.get(source, ()):
        return DataError(f"dmp: {reason}; allowed: {allowed}")
    return DataError(
        f"dmp: {reason}; allowed: {allowed}, or data.image_size={size}",
        {"data.image_size": size},
    )


def _check_patches(config: ConfigDict, faults: Faults) -> None:
    try:
        make_range_resolution(config)
    except ValueError as error:
        faults.lines.append(f"dmp: {error}")


def check_training(config: ConfigDict, faults: Faults) -> None:
    """Checks what must hold on these devices to train."""
    patches, train = tuple(config.dmp.patches), config.train
    if config.dmp.equal_tokens:
        unit = num_devices() * max(patches) ** 2
        faults.check(
            all(train.batch_size * patch**2 % unit == 0 for patch in patches),
            "train.batch_size",
            train.batch_size,
            "with dmp.equal_tokens, batch_size (patch / largest patch)^2 is a multiple "
            f"of the {num_devices()} devices for each of the patches {patches}",
        )
    faults.check(
        train.steps_per_call == 1 or len(patches) == 1,
        "train.steps_per_call",
        train.steps_per_call,
        "1 where dmp.patches has several sizes: steps of each are another program",
    )


def _check_network(config: ConfigDict, faults: Faults) -> None:
    model, sample = config.model, config.sample
    width, _, heads = network_sizes(config)
    faults.check(width % heads == 0, "model.num_heads", heads, f"divides {width}")
    faults.check(width % 4 == 0, "model.width", width, "a multiple of 4")
    faults.check(
        not model.rotary or width % (4 * heads) == 0,
        "model.num_heads",
        heads,
        f"with model.rotary, heads of {width} / num_heads features, 4 divides",
    )
    if not model.learned_variance:
        return
    target, schedule = config.process.target, config.process.schedule
    faults.check(
        target in ("noise", "data"), "process.target", target, ("noise", "data")
    )
    faults.check(
        sample.sampler == "ancestral", "sample.sampler", sample.sampler, ("ancestral",)
    )
    faults.check(
        schedule.startswith("ddpm"),
        "process.schedule",
        schedule,
        "a ddpm schedule with model.learned_variance",
    )
