"""Errors of networks at noise levels, and the schedules of their sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import make_task
from ncgn_jax.graphs import RangeResolution, make_noise_buckets
from ncgn_jax.graphs.fitted_schedules import table_of_weights
from ncgn_jax.graphs.grids import make_grid_buckets
from ncgn_jax.process import (
    ORDERS,
    fit_error_table,
    integrate,
    make_denoiser,
    make_sampler,
    make_schedule,
    make_time_grid,
)
from ncgn_jax.tasks.bucketed import BucketedTime
from ncgn_jax.tasks.level_errors import LevelProbe
from tests.images.image_tasks import LEARNED, REPOSITORY, init_params, small_task

TIMES = np.asarray([0.1, 0.5, 0.9])


def point_cloud_task(*overrides):
    config = load_config(REPOSITORY / "configs" / "smoke.py")
    return make_task(apply_overrides(config, overrides))


def probe_of(task, count):
    """A probe of an untrained network."""
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    return task.probe(zeros, model_state, count)


@pytest.mark.parametrize("make", [point_cloud_task, small_task])
def test_errors_of_a_network_that_predicts_nothing(make):
    """A velocity of 0 takes x_t for the data: wrong by (1 - t)(noise - data)."""
    probe = probe_of(make(), 6)
    probe = probe._replace(predict=lambda bucket, x_t, t: jnp.zeros_like(x_t))
    data_error, own_error = probe.errors(TIMES)
    np.testing.assert_allclose(own_error, own_error[0], rtol=1e-5)
    assert 1.0 < own_error[0] < 3.0
    np.testing.assert_allclose(data_error, (1 - TIMES) ** 2 * own_error, rtol=1e-4)


def test_noise_is_paired_as_in_training():
    alone, paired = (
        probe_of(point_cloud_task(*own), 6)
        for own in ([], ["process.pairing=splits", "process.pairing_leaf=4"])
    )
    gaps = [jnp.mean((probe.noise - probe.data) ** 2) for probe in (alone, paired)]
    assert gaps[1] < 0.7 * gaps[0]
    both = (np.sort(probe.noise, axis=1) for probe in (alone, paired))
    np.testing.assert_array_equal(*both)


def test_buckets_are_those_of_the_times_or_the_one_asked_for():
    task, used = small_task(), []
    probe = probe_of(task, 2)
    probe = probe._replace(predict=lambda b, x_t, t: (used.append(b), x_t)[1])
    probe.errors(TIMES)
    probe.errors(TIMES, 1)
    assert used == [*task.model.time.bucket_of_times(TIMES), 1, 1, 1]


@pytest.mark.parametrize(("sampler", "power"), [("euler", 2), ("ab2", 3)])
def test_grids_fitted_to_steps_have_the_best_density(sampler, power):
    """The velocity's p-th derivative is (1 + 3 t)^(p + 1): density like 1 + 3 t.

    On the quarter circle, where the spread of x_t is 1, whatever x_t.
    """
    probe = probe_of(small_task(), 2)
    time = dataclasses.replace(probe.time, schedule=make_schedule("trigonometric"))

    def predict(bucket, x_t, t):
        factors = np.cumprod([3.0 * (power + k) for k in range(1, power)])[-1]
        u = (1 + 3 * t) ** (2 * power - 1) / factors
        return jnp.broadcast_to(u[:, None, None, None], x_t.shape)

    probe = probe._replace(time=time, predict=predict, target="velocity")
    errors = probe.step_errors(make_sampler(sampler), np.linspace(0, 1, 41))
    order = ORDERS[sampler]
    table = np.asarray(fit_error_table(np.linspace(0, 1, 41), errors, order))
    best = (table[:, 0] + 1.5 * table[:, 0] ** 2) / 2.5
    np.testing.assert_allclose(table[:, 1], best, atol=2e-3)
    assert np.abs(table[:, 1] - table[:, 0]).max() > 0.1


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_fitted_grids_lessen_the_error(sampler):
    """Of a mixture of two normal laws of deviation 0.3, whose velocity is known."""
    schedule = make_schedule("vp")
    middle, spread = np.sqrt(1 - 0.3**2), 0.3
    signs = np.where(np.arange(256) % 2, 1.0, -1.0)
    own = np.random.default_rng(0).normal(size=256)
    data = jnp.asarray((signs * middle + spread * own)[:, None], jnp.float32)

    def predict(bucket, x_t, t):
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        var = alpha**2 * spread**2 + sigma**2
        sign = jnp.tanh(alpha * middle * x_t / var)
        return (alpha * spread**2 * x_t + sigma**2 * middle * sign) / var

    time = BucketedTime(schedule, small_task().model.time.buckets)
    noise = jax.random.normal(jax.random.key(0), data.shape)
    probe = LevelProbe(time, "data", data, noise, predict, (), ())
    times = make_time_grid("uniform", 40)
    how = {"unrolled": True} if sampler == "heun" else {}
    errors = probe.step_errors(make_sampler(sampler, **how), times)
    table = fit_error_table(times, errors, ORDERS[sampler])
    denoise = make_denoiser(functools.partial(predict, 0), "data", schedule)
    x_0 = jax.random.normal(jax.random.key(1), data.shape)

    def walk(sampler, grid, num_steps):
        times = make_time_grid(grid, num_steps, table=table)
        walker = make_sampler(sampler)
        return integrate(walker, denoise, schedule, x_0, times, jax.random.key(0))

    exact = walk("heun", "cosine", 600)
    fitted, *others = (
        np.sqrt(np.mean(np.square(walk(sampler, grid, 12) - exact)))
        for grid in ("table", "uniform", "cosine")
    )
    assert fitted < 0.7 * min(others), (fitted, others)


@pytest.mark.parametrize(
    "overrides",
    [
        LEARNED,
        pytest.param([], marks=pytest.mark.thorough),
        pytest.param(["model.skip=True"], marks=pytest.mark.thorough),
    ],
)
def test_images_are_predicted_as_in_training(overrides):
    """With their own classes, and without the channels of variances."""
    task = small_task(*overrides)
    params = init_params(task)
    probe = task.probe(params, {}, 5)
    x_t = jax.random.normal(jax.random.key(0), probe.data.shape)
    t = jnp.full(5, 0.3)
    rows = np.asarray(task.dataset.rows("test"))
    for bucket, shape in enumerate(task.model.time.buckets):
        found = np.asarray(probe.predict(bucket, x_t, t))
        predict = jax.jit(functools.partial(task.model.predict, params, shape))
        for row, image in enumerate(np.asarray(probe.data)):
            (index,) = np.flatnonzero((rows == image).all(axis=(1, 2, 3)))
            label = jnp.asarray(task.dataset.test_labels[index : index + 1])
            one = predict(x_t[row : row + 1], t[row : row + 1], label)
            np.testing.assert_allclose(
                found[row], one[0, ..., : task.model.num_channels], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    ("make", "rebuild"),
    [
        (
            point_cloud_task,
            lambda task, schedule: make_noise_buckets(
                task.config.data.num_points,
                task.config.dmp.num_neighbors,
                3,
                schedule=schedule,
            ),
        ),
        (
            small_task,
            lambda task, schedule: make_grid_buckets(
                (8, 8), tuple(task.config.dmp.patches), 4, schedule
            ),
        ),
    ],
)
def test_a_schedule_of_a_weight_has_the_size_it_is_the_weight_of(make, rebuild):
    task = make()
    probe = probe_of(task, 2)
    for size, weight in zip(probe.sizes, probe.weights, strict=True):
        table = table_of_weights((0.5,), (weight,))
        (bucket,) = rebuild(task, RangeResolution("table", table=table))
        assert bucket.num_supernodes == size


def test_weights_of_patch_sizes_are_shares_of_the_tokens():
    """An image of 8 x 8 has 4, 16 and 64 patches."""
    probe = probe_of(small_task(), 2)
    assert probe.sizes == (4, 16, 64)
    np.testing.assert_allclose(probe.weights, [0.0, 12 / 60, 1.0])
    backwards = probe_of(small_task("dmp.reverse_schedule=True"), 2)
    np.testing.assert_allclose(backwards.weights, [1.0, 12 / 60, 0.0])
    alone = probe_of(small_task("dmp.patches=(2,)"), 2)
    assert alone.sizes == (16,)
    assert alone.weights == (0.0,)
