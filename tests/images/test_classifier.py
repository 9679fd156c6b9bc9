"""The classifier: sizes, independence of images, and what its parts compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.images.classifier import (
    ImageClassifier,
    _quarter_means,
    shift_at_random,
)
from tests.weights import drawn

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.mark.parametrize(
    "shape",
    [
        (4, 4, 1),
        pytest.param((5, 7, 3), marks=pytest.mark.thorough),
        (19, 12, 4),
    ],
)
def test_any_size_and_number_of_channels(rng, shape):
    net = ImageClassifier(num_classes=3)
    images = jax.random.normal(rng, (2, *shape))
    params = drawn(net.init, rng, images)
    logits, features = jax.jit(net.apply)(params, images)
    assert logits.shape == (2, 3)
    assert features.shape == (2, 64)
    # All of an image is read, its last row and column too.
    slope = jax.jit(jax.grad(lambda x: jnp.sum(net.apply(params, x)[0] ** 2)))(images)
    assert np.all(np.any(slope != 0, axis=(0, 2, 3)))
    assert np.all(np.any(slope != 0, axis=(0, 1, 3)))


def test_images_are_independent_and_logits_are_linear_in_features(rng):
    net = ImageClassifier(num_classes=3)
    images = jax.random.normal(rng, (4, 8, 8, 1))
    params = drawn(net.init, rng, images)
    apply = jax.jit(net.apply)
    logits, features = apply(params, images)
    alone, _ = apply(params, images[2:3])
    np.testing.assert_allclose(alone[0], logits[2], rtol=1e-4, atol=1e-5)
    ones = np.concatenate([features, np.ones((4, 1))], axis=1)
    head = params["params"]["head"]
    weights = np.concatenate([head["kernel"], head["bias"][None]])
    np.testing.assert_allclose(ones @ weights, logits, rtol=1e-4, atol=1e-5)


def test_small_images_are_refused(rng):
    with pytest.raises(ValueError, match="3 x 9 pixels"):
        ImageClassifier(2).init(rng, jnp.zeros((1, 3, 9, 1)))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5)])
def test_means_of_quarters(height, width):
    hidden = np.random.default_rng(0).normal(size=(2, height, width, 3))
    found = _quarter_means(jnp.asarray(hidden)).reshape(2, 4, 3)
    down, right = height // 2, width // 2
    quarters = [
        hidden[:, :down, :right],
        hidden[:, :down, right:],
        hidden[:, down:, :right],
        hidden[:, down:, right:],
    ]
    for i, quarter in enumerate(quarters):
        expected = quarter.reshape(2, -1, 3).mean(axis=1)
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_one_pixel_is_the_pixel_four_times():
    hidden = jnp.arange(6.0).reshape(2, 1, 1, 3)
    expected = np.tile(np.arange(6.0).reshape(2, 1, 3), (1, 4, 1)).reshape(2, 12)
    np.testing.assert_array_equal(_quarter_means(hidden), expected)


def test_random_shifts_reach_every_place_and_repeat_edges(rng):
    """Each result is one of the 25 shifts by at most 2, and all of them occur."""
    image = np.random.default_rng(0).normal(size=(6, 7, 2)).astype(np.float32)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    allowed = {
        padded[y : y + 6, x : x + 7].tobytes() for y in range(5) for x in range(5)
    }
    many = shift_at_random(jnp.repeat(image[None], 600, axis=0), 2, rng)
    assert {np.asarray(one).tobytes() for one in many} == allowed
    same = shift_at_random(jnp.asarray(image[None]), 0, rng)
    np.testing.assert_array_equal(same[0], image)
