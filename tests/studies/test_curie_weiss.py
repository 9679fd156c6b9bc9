"""Curie-Weiss spins against brute force, closed forms and their limit."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from ncgn_jax.process import to_velocity
from ncgn_jax.studies.high_dim_schedules import curie_weiss_tables as spins_study
from ncgn_jax.studies.high_dim_schedules.curie_weiss import (
    CurieWeiss,
    exact_denoiser,
    exact_share,
    two_point_denoiser,
)
from ncgn_jax.studies.high_dim_schedules.ways import four_ways, scaled_schedule

pytestmark = pytest.mark.usefixtures("compile_quickly")


def brute_force_mean(model, tilt):
    """Returns E[a | x] over all 2^d states, tilt = alpha x / sigma^2, [dim]."""
    states = np.array(list(itertools.product([-1.0, 1.0], repeat=model.dim)))
    total = states.sum(axis=1)
    log_weight = model.coupling / (2 * model.dim) * total**2 + states @ tilt
    log_weight = log_weight + model.field / model.dim * total
    weight = np.exp(log_weight - log_weight.max())
    return weight @ states / weight.sum(), weight[total > 0].sum() / weight.sum()


@pytest.mark.parametrize("coupling", [1.3, 2.0])
def test_the_quadrature_is_the_sum_over_all_states(coupling, rng):
    model, schedule = CurieWeiss(8, coupling, 0.9), scaled_schedule(1.7)
    x = 2.0 * jax.random.normal(rng, (12, 8))
    t = jnp.linspace(0.0, 0.97, 12)
    data_hat, noise_hat = jax.jit(exact_denoiser(model, schedule))(x, t)
    alpha, sigma = np.asarray(t), 1.7 * (1 - np.asarray(t))
    tilts = (alpha / sigma**2)[:, None] * np.asarray(x)
    expected = [brute_force_mean(model, tilt)[0] for tilt in tilts]
    np.testing.assert_allclose(data_hat, expected, atol=1e-10)
    rebuilt = alpha[:, None] * data_hat + sigma[:, None] * noise_hat
    np.testing.assert_allclose(rebuilt, x, atol=1e-10)


@pytest.mark.parametrize("is_trigonometric", [False, True])
def test_the_velocity_of_spins_in_closed_form(is_trigonometric, rng):
    model, schedule = CurieWeiss(8), scaled_schedule(1.4, is_trigonometric)
    x, t = jax.random.normal(rng, (5, 8)), jnp.linspace(0.1, 0.9, 5)
    data_hat, _ = jax.jit(exact_denoiser(model, schedule))(x, t)
    found = to_velocity("data", data_hat, x, schedule, t)
    t = t[:, None]
    expected = (data_hat - x) / (1 - t)
    if is_trigonometric:
        expected = (data_hat - t * x) / (1 - t**2)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_constants_of_the_model():
    model = CurieWeiss(8)
    assert abs(model.magnetisation - 0.957504024) < 1e-9
    assert abs(model.share - 0.790407) < 1e-6
    shares = {8: 0.777523, 16: 0.785260, 64: 0.789518, 256: 0.790198, 1024: 0.790356}
    for dim, share in shares.items():
        assert abs(exact_share(CurieWeiss(dim)) - share) < 1e-6
    odd = CurieWeiss(9, 1.5, 0.7)
    np.testing.assert_allclose(
        exact_share(odd), brute_force_mean(odd, np.zeros(9))[1], rtol=1e-12
    )


def test_two_points_are_the_limit_of_the_quadrature(rng):
    """The error falls as 1 / d, and the weight of a mode is right."""
    schedule, errors = scaled_schedule(1.0), []
    for dim in (64, 256):
        model = CurieWeiss(dim)
        t = jnp.full(8, 0.4 / math.sqrt(dim))
        x = jax.random.normal(rng, (8, dim)) + 0.05
        pair = [
            jax.jit(make(model, schedule))(x, t)[0]
            for make in (two_point_denoiser, exact_denoiser)
        ]
        errors.append(float(np.abs(pair[0] - pair[1]).max()))
    assert errors[1] < 0.01
    assert 2.5 < errors[0] / errors[1] < 6.0


def test_two_points_in_the_other_form(rng):
    model, schedule = CurieWeiss(30), scaled_schedule(2.0)
    x, t = jax.random.normal(rng, (6, 30)), jnp.linspace(0.0, 0.8, 6)
    found, _ = jax.jit(two_point_denoiser(model, schedule))(x, t)
    m, field, beta = model.magnetisation, model.field, model.coupling
    t = np.asarray(t)[:, None]
    tilt = t / (2 * (1 - t)) ** 2 * np.asarray(x)
    logit = 2 * field * m + np.sum(
        np.log1p(m * np.tanh(tilt)) - np.log1p(-m * np.tanh(tilt)), axis=1
    )
    weight = expit(logit)[:, None]
    expected = weight * np.tanh(beta * m + tilt)
    expected += (1 - weight) * np.tanh(tilt - beta * m)
    np.testing.assert_allclose(found, expected, atol=1e-10)


SPINS = {
    ("VP, equal steps", 256): (0.842, 1.0000, 0.9592),
    ("VE, equal steps", 256): (0.798, 0.9459, 0.9876),
    ("VP, dilated 3", 256): (0.808, 1.0000, 0.9642),
    ("VE, dilated 3", 256): (0.802, 0.9959, 0.9662),
    ("VE, equal steps", 1024): (0.798, 0.9212, 0.9997),
}


@pytest.mark.parametrize(("name", "dim"), SPINS)
def test_spins_of_the_four_ways(name, dim, rng):
    way = {way.name: way for way in four_ways(3.0)}[name]
    share, square, agreement = spins_study.sample_spins(way, dim, 20, 250, rng)
    expected = SPINS[name, dim]
    # A share is exact to one sample in 250.
    assert abs(share - expected[0]) <= 0.0065
    assert abs(square - expected[1]) < 5e-4
    # 250 means of dim signs: an error of about 0.29 / sqrt(250 dim).
    assert abs(agreement - expected[2]) < 4 * 0.29 / math.sqrt(250 * dim) + 1e-4


def test_growth_of_steps_from_first_to_last():
    assert spins_study.growth_exponent([64, 1024], [28, 112]) == pytest.approx(0.5)
    assert math.isnan(spins_study.growth_exponent([64, 1024], [28, None]))
