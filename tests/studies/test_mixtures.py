"""Exact predictors against automatic gradients and numerical integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.process import interpolate, make_schedule
from ncgn_jax.studies import mixtures

MEANS = np.array([[1.5, 1.0], [-1.5, -1.0], [0.3, 2.0]])
WEIGHTS = np.array([0.5, 0.3, 0.2])


@pytest.mark.parametrize("schedule", ["linear", "ddpm_cosine", "ve"])
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_noise_hat_is_the_gradient_of_the_log_density(schedule, std, rng):
    schedule = make_schedule(schedule)
    x = jax.random.normal(rng, (40, 2))
    t = jnp.linspace(0.05, 0.95, 40)

    def log_density(x):
        return mixtures.mixture_log_density(x, t, MEANS, WEIGHTS, std, schedule).sum()

    denoise = mixtures.mixture_denoiser(MEANS, WEIGHTS, std, schedule)
    data_hat, noise_hat = denoise(x, t)
    alpha, sigma, _, _ = schedule.coefficients(t)
    score = jax.grad(log_density)(x)
    np.testing.assert_allclose(noise_hat, -sigma[:, None] * score, atol=1e-9)
    rebuilt = interpolate(schedule, t, data_hat, noise_hat)
    np.testing.assert_allclose(rebuilt, x, atol=1e-9)


def test_the_density_is_that_of_noised_data():
    """Compares with quadrature over a fine grid of data, in one dimension."""
    schedule, t, std = make_schedule("linear"), jnp.array([0.6]), 0.4
    means, weights = np.array([[-1.0], [2.0]]), np.array([0.3, 0.7])
    data = np.linspace(-6, 7, 20001)
    prior = sum(
        w * np.exp(-0.5 * ((data - m) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        for m, w in zip(means[:, 0], weights, strict=True)
    )
    x = 0.5
    kernel = np.exp(-0.5 * ((x - 0.6 * data) / 0.4) ** 2) / (0.4 * np.sqrt(2 * np.pi))
    expected = np.trapezoid(prior * kernel, data)
    mean = np.trapezoid(prior * kernel * data, data) / expected
    at = jnp.array([[x]])
    found = mixtures.mixture_log_density(at, t, means, weights, std, schedule)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)
    denoise = mixtures.mixture_denoiser(means, weights, std, schedule)
    np.testing.assert_allclose(denoise(at, t)[0], mean, rtol=1e-9)
