"""The model of images: guidance by hand, what is linear in the image, classes."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.images.image_tasks import init_params, small_task, stubbed


def predict_by_class(params, bucket, x_t, t, label):
    """3 where a class is told, 1 where none is."""
    told = (label < 10)[:, None, None, None]
    return jnp.where(told, 3.0, 1.0) * jnp.ones_like(x_t)


@pytest.fixture(scope="module")
def guided():
    return stubbed(small_task("sample.guidance=1.0"), predict_by_class)


@pytest.mark.parametrize(("guidance", "wanted"), [(0.0, 3.0), (1.0, 5.0), (1.5, 6.0)])
def test_guidance_moves_beyond_the_class(guided, guidance, wanted):
    model, x = guided.model, jnp.zeros((3, 8, 8, 1))
    label = jnp.asarray([0, 4, 9])
    found = model.guided({}, model.time.buckets[0], x, jnp.zeros(3), label, guidance)
    assert found.shape == x.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("channels", "wanted"), [(0, [5, 5, 5, 3, 3, 3]), (2, [5, 5, 3, 3, 3, 3])]
)
def test_guidance_moves_the_channels_asked_for_and_no_variances(
    guided, channels, wanted
):
    """Of three channels and their variances."""
    facts = dataclasses.replace(guided.facts, image_shape=(8, 8, 3))
    model = dataclasses.replace(guided.model, facts=facts, num_variance_steps=100)

    def predict(params, bucket, x_t, t, label):
        return predict_by_class(
            params, bucket, jnp.concatenate([x_t, x_t], -1), t, label
        )

    vars(model).update(predict=predict)
    x, label = jnp.zeros((2, 8, 8, 3)), jnp.asarray([0, 9])
    bucket = model.time.buckets[0]
    found = model.guided({}, bucket, x, jnp.zeros(2), label, 1.0, channels)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, (2, 8, 8, 6)))


def test_guidance_of_the_configuration_reaches_the_sampler(guided):
    """A velocity of 5 carries every pixel by 5 from t = 0 to t = 1; one of 3 by 3."""
    for task, wanted in ((guided, 5), (stubbed(small_task(), predict_by_class), 3)):
        start, path = task.first_paths({})
        np.testing.assert_allclose(path[-1].x - start.x, wanted, rtol=1e-5)


def test_without_classes_there_is_nothing_to_guide_to(guided):
    facts = dataclasses.replace(guided.facts, class_names=("all",))
    model = dataclasses.replace(guided.model, facts=facts)
    asked = []

    def predict(params, bucket, x_t, t, label):
        asked.append(len(x_t))
        return x_t

    vars(model).update(predict=predict)
    x, label = jnp.ones((2, 8, 8, 1)), jnp.zeros(2, int)
    found = model.guided({}, model.time.buckets[0], x, jnp.zeros(2), label, 1.0)
    np.testing.assert_array_equal(found, x)
    assert asked == [2]


def test_the_network_tells_classes_apart():
    task = small_task()
    params, x = init_params(task), jnp.zeros((3, 8, 8, 1))
    apply = jax.jit(task.model.predict, static_argnums=1)
    label = jnp.asarray([0, 9, 10])  # the last is none
    found = apply(params, task.model.time.buckets[0], x, jnp.full(3, 0.5), label)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-3


@pytest.mark.parametrize(("skip", "wanted"), [
    (False, [3, 3, 3, 3]),
    # From noise to data on a line: v = data - noise. Times -1, 0, 15/17, 1 the image,
    # and 1, sqrt(2), 1 / sqrt(0.68), 1 times the output.
    (True, [1.0, 4.242641, 5.402739, 5.0]),
])  # fmt: skip
def test_skip_adds_what_is_linear_in_the_image(skip, wanted):
    """And leaves variances alone."""
    model = dataclasses.replace(small_task().model, skip=skip, num_variance_steps=100)

    def apply(variables, x_t, level, label, patch, window):
        return jnp.concatenate([jnp.full_like(x_t, 3), jnp.full_like(x_t, 7)], axis=-1)

    vars(model).update(network=lambda: types.SimpleNamespace(apply=apply))
    t, label = jnp.asarray([0.0, 0.5, 0.8, 1.0]), jnp.zeros(4, int)
    x = jnp.full((4, 8, 8, 1), 2.0)
    found = np.asarray(model.predict({}, model.time.buckets[0], x, t, label))
    wanted = np.broadcast_to(np.asarray(wanted)[:, None, None], (4, 8, 8))
    np.testing.assert_allclose(found[..., 0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found[..., 1], 7)
