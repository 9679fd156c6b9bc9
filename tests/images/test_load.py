"""Configurations and data of images that are refused before training."""

import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.config import load_config
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.graphs.grids import make_grid_buckets
from ncgn_jax.images.times import bucket_shares
from ncgn_jax.process import make_schedule
from ncgn_jax.tasks.bucketed import BucketedTime
from ncgn_jax.tasks.settings import make_range_resolution
from tests.images.image_tasks import REPOSITORY, small_config, small_task, stubbed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.label_dropout=1.0"], "model.label_dropout"),
        (["data.value_range=(1,1)"], "data.value_range"),
        (
            ["data.source=digits", "data.path=a.npz"],
            "data.path: .*'digits' does not read it; arrays, idx",
        ),
        (["data.source=digits", "data.split_seed=2"], "data.split_seed: .*not read it"),
        (
            ["data.source=arrays", "data.channels=3"],
            "data.channels: .*; folder, parq",
        ),
        (["data.source=arrays", "data.bad_images=skip"], "data.bad_images"),
        (["data.source=latents", "data.image_size=32"], "data.image_size"),
        (
            ["data.source=folder", "data.image_size=8", "data.channel_axis=last"],
            "data.channel_axis",
        ),
        (["data.source=arrays", "data.latent_scale=1.0"], "data.latent_scale"),
        (["evaluate.weights=()"], "evaluate.weights"),
        (["evaluate.max_nearest=-1"], "evaluate.max_nearest"),
        (["sample.num_samples=1"], "sample.num_samples"),
        (["data.source=latents", "evaluate.inception=a.pth"], "evaluate.inception"),
    ],
)
def test_faulty_fields_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        validate(small_config(*overrides))


@pytest.mark.parametrize(
    ("shape", "num_classes", "overrides", "message"),
    [
        ((3, 8, 1), 2, (), "images of 3x8; allowed: at least 4x4"),
        ((8, 8, 1), 1, ("sample.guidance=2.0",), "sample.guidance=2, but .* no class"),
        (
            (8, 8, 3),
            2,
            ("sample.guidance_channels=4",),
            "=4, but images have 3",
        ),
        ((8, 8, 1), 2, ("evaluate.inception=absent.pth",), "absent.pth: no such file"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(
    tmp_path, shape, num_classes, overrides, message
):
    images = np.full((20, *shape), 200, np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % num_classes)
    path = f"data.path={tmp_path / 'a.npz'}"
    axis = "data.channel_axis=last"
    config = small_config(
        "data.source=arrays", "data.test_fraction=0.3", "dmp.patches=(1,)",
        path, axis, *overrides
    )  # fmt: skip
    validate(config)
    if overrides and "inception" in overrides[0]:
        pytest.importorskip("torch")
    with pytest.raises(DataError, match=message):
        make_task(config)


def test_samples_that_are_not_finite_are_refused_in_words():
    """A network that breaks on zeros: five of the six images."""

    def predict(params, bucket, x_t, t, label):
        return jnp.where(label == 0, jnp.nan, 1.0)[:, None, None, None] + 0 * x_t

    task = stubbed(small_task("sample.classes=(0,0,0,0,0,1)"), predict)
    with pytest.raises(DataError, match="samples: 5 of 6 images hold NaN or infinity"):
        task.sample({}, {}, 6, 0)


def test_fields_that_the_digits_do_not_have_are_refused_where_they_are_meant():
    config = small_config("data.split_seed=2")
    validate(config)
    with pytest.raises(DataError, match=r"so the digits are taken: data\.split_seed"):
        make_task(config)


def test_fields_that_the_source_reads_are_accepted():
    for overrides in (
        ["data.source=arrays", "data.image_size=8", "data.value_range=(0,16)"],
        ["data.source=folder", "data.image_size=8", "data.channels=1"],
        ["data.source=latents", "data.latent_scale=1.0", "data.channel_axis=first"],
    ):
        validate(small_config(*overrides, "data.path=a", "data.split_seed=3"))


def test_grids_of_the_latents_follow_the_step_of_the_chain():
    """The published schedule counts steps: 64 tokens in three quarters of them.

    So the control, fine when noisy, costs as much.
    """
    config = load_config(REPOSITORY / "configs" / "imagenet_latents.py")
    assert config.process.signal == "time"
    shares = []
    for reverse in (False, True):
        resolution = make_range_resolution(config)
        grids = make_grid_buckets((32, 32), config.dmp.patches, 4, resolution, reverse)
        time = BucketedTime(
            make_schedule(config.process.schedule), grids, config.process.signal, False
        )
        shares.append(bucket_shares(time))
    np.testing.assert_allclose(shares[0], [0.73, 0.19, 0.08], atol=0.01)
    np.testing.assert_allclose(shares[0], shares[1][::-1], atol=1e-6)
