"""Log-likelihoods under the flow, against normal distributions in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ncgn_jax.process import make_schedule
from ncgn_jax.process.likelihood import (
    backward_flow,
    divergence,
    log_normal,
    pack,
    random_signs,
    unpack,
)
from ncgn_jax.process.steps import flow_velocity

MEAN = np.array([0.3, -0.2, 0.1, 0.0])
ROOT = np.random.default_rng(0).normal(size=(4, 4)) / 3 + 0.5 * np.eye(4)
COVARIANCE = ROOT @ ROOT.T
SHAPE = (2, 2)


def exact_denoiser(schedule):
    """E[data | x_t] and E[noise | x_t] of data N(MEAN, COVARIANCE)."""

    def denoise(x_t, t):
        alpha, sigma, _, _ = schedule.coefficients(t[0])
        flat = x_t.reshape(len(x_t), -1) - alpha * MEAN[None]
        whole = alpha**2 * COVARIANCE + sigma**2 * jnp.eye(4)
        solved = jnp.linalg.solve(whole, flat.T).T
        data_hat = MEAN[None] + alpha * solved @ COVARIANCE
        return data_hat.reshape(x_t.shape), (sigma * solved).reshape(x_t.shape)

    return denoise


def log_likelihood(schedule, x, num_steps, probes):
    velocity = functools.partial(flow_velocity, exact_denoiser(schedule), schedule)
    times = jnp.linspace(1.0, 0.0, num_steps + 1)
    state = pack(x, jnp.zeros(len(x)))
    noise, change = unpack(backward_flow(velocity, state, SHAPE, times, probes), SHAPE)
    alpha, sigma, _, _ = schedule.coefficients(0.0)
    return log_normal(noise, np.sqrt(alpha**2 + sigma**2)) - change


def data(count=6):
    rng = np.random.default_rng(1)
    return rng.multivariate_normal(MEAN, COVARIANCE, count).reshape(count, *SHAPE)


@pytest.mark.parametrize("name", ["linear", "trigonometric"])
def test_exact_traces_give_the_density_of_normal_data(name):
    schedule, x = make_schedule(name), data()
    expected = multivariate_normal(MEAN, COVARIANCE).logpdf(x.reshape(6, 4))
    with jax.enable_x64(True):
        errors = [
            np.abs(log_likelihood(schedule, jnp.asarray(x), n, None) - expected).max()
            for n in (20, 40, 80)
        ]
    assert errors[-1] < 2e-3
    # Second order.
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def test_random_probes_are_right_on_average():
    schedule, x = make_schedule("linear"), jnp.asarray(data(), jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(x))
    exact = log_likelihood(schedule, x, 40, None)
    few, many = (
        log_likelihood(schedule, x, 40, random_signs(keys, n, SHAPE)) for n in (1, 4000)
    )
    np.testing.assert_allclose(many, exact, atol=0.05)
    assert np.abs(few - exact).max() > 0.05


def test_divergence_is_the_trace_of_the_jacobian():
    matrix = jnp.asarray(np.random.default_rng(2).normal(size=(4, 4)))

    def velocity(x, t):
        return (t[:, None] * (x.reshape(-1, 4) @ matrix)).reshape(x.shape)

    x, t = jnp.ones((3, *SHAPE)), jnp.array([1.0, 2.0, 0.5])
    u, found = divergence(velocity, x, t, None)
    np.testing.assert_allclose(found, t * jnp.trace(matrix), rtol=1e-5)
    np.testing.assert_allclose(u, velocity(x, t))
