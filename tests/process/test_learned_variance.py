"""Compares learned variances with DDPM's tables, quadrature and exact steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate as quadrature
from scipy.stats import norm

from ncgn_jax import process
from ncgn_jax.process.learned_variance import (
    learned_variance_step,
    reverse_log_variance,
    variational_bits,
)

NUM_STEPS = 1000


@pytest.fixture(scope="module")
def ddpm():
    return process.make_schedule("ddpm_linear")


@pytest.fixture(scope="module")
def tables():
    """Returns beta and beta-tilde of Ho et al. 2020, by their own recursion."""
    betas = np.linspace(1e-4, 0.02, NUM_STEPS)
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    posterior = betas * (1 - before) / (1 - kept)
    posterior[0] = posterior[1]
    return betas, posterior


@pytest.mark.parametrize("index", [1, 2, 3, 10, 300, 999])
def test_bounds_are_those_of_ddpm(ddpm, tables, index):
    """Step index n goes from n to n - 1; tables count from 0."""
    t = jnp.asarray([(NUM_STEPS - index) / NUM_STEPS])
    t_next = jnp.asarray([(NUM_STEPS - index + 1) / NUM_STEPS])
    for fraction, table in zip((1.0, 0.0), tables, strict=True):
        found = reverse_log_variance(ddpm, jnp.full((1, 2), fraction), t, t_next)
        np.testing.assert_allclose(found, np.log(table[index - 1]), rtol=2e-3)


def test_fraction_interpolates_logarithms(ddpm):
    t, t_next = jnp.asarray([0.4]), jnp.asarray([0.5])
    at = [
        float(reverse_log_variance(ddpm, jnp.full((1, 1), f), t, t_next)[0, 0])
        for f in (0.0, 0.25, 1.0)
    ]
    assert at[1] == pytest.approx(0.75 * at[0] + 0.25 * at[2], rel=1e-5)
    assert at[0] < at[2]


def test_bits_are_the_divergence_of_the_two_steps(ddpm):
    """Integrates numerically over x_t', with the posterior from Bayes' rule."""
    t, t_next, data, data_hat, fraction = 0.5, 0.6, 0.7, 0.2, 0.3
    at = [float(ddpm.alpha(s)) for s in (t, t_next)]
    st = [float(ddpm.sigma(s)) for s in (t, t_next)]
    x_t = 0.1
    # q(x_t' | x_t, data) is proportional to N(x_t'; a' data, s'^2) N(x_t; r x_t', v).
    ratio = at[0] / at[1]
    forward = st[0] ** 2 - ratio**2 * st[1] ** 2

    def bayes(guess):
        precision = 1 / st[1] ** 2 + ratio**2 / forward
        mean = (at[1] * guess / st[1] ** 2 + ratio * x_t / forward) / precision
        return mean, 1 / precision

    mean, posterior = bayes(data)
    mean_hat, _ = bayes(data_hat)
    deviation_hat = np.exp(
        0.5 * (fraction * np.log(forward) + (1 - fraction) * np.log(posterior))
    )
    q, p = norm(mean, posterior**0.5), norm(mean_hat, deviation_hat)
    nats, _ = quadrature.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mean - 8, mean + 8
    )
    found = variational_bits(
        ddpm,
        jnp.full((1, 1), fraction),
        jnp.full((1, 1), data),
        jnp.full((1, 1), data_hat),
        jnp.asarray([t]),
        jnp.asarray([t_next]),
    )
    np.testing.assert_allclose(found, [nats / np.log(2)], rtol=1e-3)


def test_last_step_is_a_log_density(ddpm):
    t, t_next = 1 - 1 / NUM_STEPS, 1.0
    args = (jnp.zeros((1, 3)), jnp.full((1, 3), 0.02), jnp.zeros((1, 3)))
    found = variational_bits(ddpm, *args, jnp.asarray([t]), jnp.asarray([t_next]))
    times = jnp.asarray([t]), jnp.asarray([t_next])
    log_v = float(reverse_log_variance(ddpm, args[0], *times)[0, 0])
    wanted = -norm(0.0, np.exp(0.5 * log_v)).logpdf(0.02) / np.log(2)
    np.testing.assert_allclose(found, [wanted], rtol=1e-3)


def test_no_gradient_reaches_the_mean(ddpm, rng):
    data = jax.random.normal(rng, (2, 3))
    times = jnp.full(2, 0.5), jnp.full(2, 0.51)

    def bits(data_hat, fraction):
        return variational_bits(ddpm, fraction, data, data_hat, *times).sum()

    fraction = jnp.full((2, 3), 0.5)
    to_mean, to_fraction = jax.grad(bits, (0, 1))(0.3 * data, fraction)
    assert not np.any(to_mean)
    assert np.all(np.isfinite(to_fraction))
    assert np.any(to_fraction)


@pytest.mark.parametrize(("fraction", "variance"), [(0.0, "posterior"), (1, "forward")])
def test_ends_are_the_ancestral_steps(ddpm, rng, fraction, variance):
    x = jax.random.normal(rng, (4, 3))
    t, t_next = jnp.full(4, 0.3), jnp.full(4, 0.4)

    def denoise(x_t, t):
        return process.to_data_and_noise("noise", 0.5 * x_t, x_t, ddpm, t)

    learned = learned_variance_step(
        lambda x_t, t: (*denoise(x_t, t), jnp.full_like(x_t, fraction)),
        ddpm,
        x,
        t,
        t_next,
        rng,
    )
    fixed = process.ancestral_step(denoise, ddpm, x, t, t_next, rng, variance)
    np.testing.assert_allclose(learned, fixed, rtol=1e-5, atol=1e-6)


def test_right_variance_samples_the_data_exactly(ddpm, rng):
    """The exact reverse variance of Gaussian data is known in closed form.

    With it and the exact mean, any number of steps ends at the law of the data; with
    either bound, a walk of few steps does not.
    """
    spread, count = 0.5, 200_000
    times = np.linspace(0.0, 1.0, 6)

    def walk(kind):
        def denoise(x_t, t):
            alpha, sigma = ddpm.alpha(t)[:, None], ddpm.sigma(t)[:, None]
            total = alpha**2 * spread**2 + sigma**2
            data_hat = alpha * spread**2 * x_t / total
            noise_hat = sigma * x_t / total
            if kind != "exact":
                return data_hat, noise_hat, jnp.full_like(x_t, float(kind))
            t_next = t + 0.2
            posterior, forward = process.posterior_variances(ddpm, t, t_next)
            kept = jnp.sqrt(jnp.maximum(ddpm.sigma(t_next) ** 2 - posterior, 0))
            slope = ddpm.alpha(t_next) - ddpm.alpha(t) * kept / ddpm.sigma(t)
            left = spread**2 * ddpm.sigma(t) ** 2 / total[:, 0]
            wanted = posterior + slope**2 * left
            low, high = jnp.log(posterior), jnp.log(forward)
            fraction = (jnp.log(wanted) - low) / (high - low)
            return data_hat, noise_hat, jnp.broadcast_to(fraction[:, None], x_t.shape)

        x = process.integrate(
            process.single_step(learned_variance_step),
            denoise,
            ddpm,
            jax.random.normal(rng, (count, 1)),
            times[:-1],
            jax.random.key(1),
        )
        return float(jnp.std(x))

    at_end = np.hypot(
        float(ddpm.alpha(0.8)) * spread, float(ddpm.sigma(jnp.asarray(0.8)))
    )
    assert walk("exact") == pytest.approx(at_end, rel=5e-3)
    assert abs(walk("0") - at_end) > 0.02 * at_end
    assert abs(walk("1") - at_end) > 0.02 * at_end
