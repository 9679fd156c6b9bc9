"""Compares samplers with closed forms for Gaussian data."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process

pytestmark = pytest.mark.usefixtures("x64")

MEAN = np.array([0.7, -0.3])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


def make_gaussian_denoiser(schedule, mean=MEAN, covariance=COVARIANCE):
    """Returns E[data | x_t] and E[noise | x_t] for normal data, by regression."""
    eigenvalues, axes = np.linalg.eigh(covariance)

    def denoise(x_t, t):
        alpha, sigma, _, _ = schedule.coefficients(t)
        alpha, sigma = alpha[:, None], sigma[:, None]
        dtype = x_t.dtype
        s2, q = jnp.asarray(eigenvalues, dtype), jnp.asarray(axes, dtype)
        centre = jnp.asarray(mean, dtype)[None, :]
        centred = (x_t - alpha * centre) @ q
        centred = centred / (alpha**2 * s2[None, :] + sigma**2)
        return centre + alpha * (centred * s2[None, :]) @ q.T, sigma * centred @ q.T

    return denoise


def exact_end(schedule, x_0):
    """Returns the end of the probability-flow ODE, which keeps x_0 standardised."""
    eigenvalues, q = np.linalg.eigh(COVARIANCE)
    alpha, sigma, _, _ = (np.asarray(c) for c in schedule.coefficients([0.0, 1.0]))
    x_0 = np.asarray(x_0)
    std = np.sqrt(alpha[:, None] ** 2 * eigenvalues + sigma[:, None] ** 2)
    return alpha[1] * MEAN + (((x_0 - alpha[0] * MEAN) @ q) * std[1] / std[0]) @ q.T


def run(schedule, sampler, times, x_0, rng, **options):
    step = process.make_sampler_step(sampler, **options)
    denoise = make_gaussian_denoiser(schedule)
    return jax.jit(lambda x: process.integrate(step, denoise, schedule, x, times, rng))(
        x_0
    )


@pytest.mark.parametrize(
    ("sampler", "order"), [("euler", 1.0), ("heun", 2.0), ("ddim", 1.0)]
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {}),
        ("trigonometric", {}),
        ("vp", {"time_floor": 0.1}),
        ("ve", {"sigma_min": 0.05, "sigma_max": 5.0}),
    ],
)
def test_order_of_convergence(sampler, order, name, options, rng):
    schedule = process.make_schedule(name, **options)
    x_0 = jax.random.normal(rng, (16, 2))
    expected = exact_end(schedule, x_0)
    counts = np.array([64, 128, 256, 512])
    errors = []
    step = process.make_sampler_step(sampler)
    denoise = make_gaussian_denoiser(schedule)
    # Padding with steps of length 0 gives one compilation for all counts.
    walk = jax.jit(
        lambda times: process.integrate(step, denoise, schedule, x_0, times, rng)
    )
    for count in counts:
        times = process.make_time_grid("uniform", count)
        times = np.concatenate([np.zeros(counts[-1] - count), times])
        errors.append(np.sqrt(np.mean(np.square(np.asarray(walk(times)) - expected))))
    fitted = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert errors[-1] < 0.02
    assert fitted == pytest.approx(order, abs=0.15), errors


def test_ddim_is_euler_on_a_straight_line(rng):
    schedule = process.make_schedule("linear")
    x_0, times = jax.random.normal(rng, (4, 2)), process.make_time_grid("cosine", 7)
    euler = np.asarray(run(schedule, "euler", times, x_0, rng))
    np.testing.assert_allclose(
        run(schedule, "ddim", times, x_0, rng), euler, rtol=1e-10
    )
    expected = exact_end(schedule, x_0)
    assert abs(euler - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "sampler", "options", "grid", "num_steps"),
    [
        ("linear", "heun", {}, "uniform", 64),
        ("ddpm_cosine", "heun", {}, "cosine", 64),
        ("ve", "heun", {}, "edm", 48),
        ("linear", "ddim", {"eta": 0.5}, "log_snr", 200),
        ("ddpm_linear", "ancestral", {}, "uniform", 1000),
        ("vp", "ancestral", {"variance": "forward"}, "quadratic", 400),
    ],
)
def test_mean_and_covariance_of_samples(name, sampler, options, grid, num_steps, rng):
    schedule = process.make_schedule(name)
    num = 5_000
    x_0 = process.sample_prior(schedule, rng, (num, 2))
    times = process.make_time_grid(grid, num_steps, schedule)
    x_1 = np.asarray(run(schedule, sampler, times, x_0, rng, **options))
    # Five standard errors of sampling, and 2 % for the finite number of steps.
    error = 5 / np.sqrt(num)
    np.testing.assert_allclose(x_1.mean(0), MEAN, atol=error * 0.71 + 0.01)
    np.testing.assert_allclose(
        np.cov(x_1.T), COVARIANCE, atol=error * np.sqrt(2) * 0.5 + 0.01
    )


# Standard deviation after T steps from x ~ N(0, 1), of data N(0, 0.3^2), by scalar
# recursions that were computed separately.
@pytest.mark.parametrize(
    ("name", "num_steps", "sampler", "expected"),
    [
        ("ddpm_linear", 20, "ddim", 0.243432),
        ("ddpm_cosine", 50, "ddim", 0.286171),
        ("ddpm_cosine", 1000, "ddim", 0.299257),
        ("ddpm_linear", 20, "ancestral", 0.209809),
        ("ddpm_cosine", 50, "ancestral", 0.272090),
        ("ddpm_linear", 20, "renoise", 0.174265),
    ],
)
def test_known_spread_on_the_chain_itself(name, num_steps, sampler, expected, rng):
    options = {"rescale_betas": True} if name == "ddpm_linear" else {}
    schedule = process.make_schedule(name, num_steps=num_steps, **options)
    denoise = make_gaussian_denoiser(schedule, np.zeros(1), np.array([[0.09]]))
    step = process.make_sampler_step(sampler)
    times = process.make_time_grid("uniform", num_steps)
    is_random = sampler != "ddim"
    shape = (50_000, 1) if is_random else (1, 1)
    x_0 = jax.random.normal(rng, shape) if is_random else jnp.ones(shape)
    x_1 = jax.jit(
        lambda x: process.integrate(
            step, denoise, schedule, x, times, jax.random.key(1)
        )
    )(x_0)
    std = float(jnp.std(x_1)) if is_random else float(x_1[0, 0])
    # Five standard errors of a standard deviation, or the digits given.
    tolerance = 5 * expected / np.sqrt(2 * shape[0]) if is_random else 1e-6
    assert std == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("variance", ["posterior", "forward", "none"])
@pytest.mark.parametrize("index", [1, 50])
def test_ancestral_step_is_the_textbook_posterior(variance, index, rng):
    # Ho et al. 2020, eq. 6-7, from betas, in numpy.
    betas = np.linspace(1e-3, 0.2, 50)
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    beta, now, before = betas[index - 1], alpha_bar[index], alpha_bar[index - 1]
    data, x_t = -0.8, 1.7
    mean = np.sqrt(before) * beta / (1 - now) * data
    mean += np.sqrt(1 - beta) * (1 - before) / (1 - now) * x_t
    tilde = (1 - before) / (1 - now) * beta
    expected = tilde if variance == "posterior" or index == 1 else beta
    expected = 0.0 if variance == "none" else expected

    schedule = process.schedule_from_betas(betas, "mine")
    denoise = process.make_denoiser(lambda x, t: 0 * x + data, "data", schedule)
    step = process.make_sampler_step("ancestral", variance=variance)
    t, t_next = (jnp.full(2, schedule.time_of_step(n)) for n in (index, index - 1))
    x_t = jnp.full((2, 1), x_t)
    x_next = jax.jit(lambda: step(denoise, schedule, x_t, t, t_next, rng))()
    z = jax.random.normal(rng, (2, 1))
    std = float((x_next[1, 0] - x_next[0, 0]) / (z[1, 0] - z[0, 0]))
    np.testing.assert_allclose(std**2, expected, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(x_next - std * z, mean, rtol=1e-8)


def test_posterior_variance_of_a_straight_line():
    # Bayes with x_t = (alpha_t/alpha_s) x_s + rest, by hand: alpha = t, sigma = 1 - t.
    t, s = 0.4, 0.7
    ratio = t / s
    rest = (1 - t) ** 2 - ratio**2 * (1 - s) ** 2
    posterior = 1 / (1 / (1 - s) ** 2 + ratio**2 / rest)
    schedule = process.make_schedule("linear")
    ours = process.posterior_variances(schedule, jnp.array([t]), jnp.array([s]))
    np.testing.assert_allclose(np.ravel(ours), [posterior, rest], rtol=1e-10)


def test_ddim_with_eta_one_is_ancestral(rng):
    schedule = process.make_schedule("vp")
    x_0, times = jax.random.normal(rng, (4, 2)), process.make_time_grid("uniform", 9)
    np.testing.assert_array_equal(
        run(schedule, "ddim", times, x_0, rng, eta=1.0),
        run(schedule, "ancestral", times, x_0, rng),
    )


def test_unknown_sampler_and_options_list_the_valid_ones():
    with pytest.raises(ValueError, match="euler, heun, ddim, ancestral, renoise"):
        process.make_sampler_step("dpm")
    with pytest.raises(ValueError, match="valid: eta"):
        process.make_sampler_step("ddim", churn=1)
    with pytest.raises(ValueError, match="eta must be"):
        process.make_sampler_step("ddim", eta=2.0)
    with pytest.raises(ValueError, match="posterior, forward"):
        process.make_sampler_step("ancestral", variance="learned")


@pytest.mark.usefixtures("float32")
def test_one_step_from_end_to_end_is_finite(schedule, rng):
    """Takes the whole way in one step, in single precision."""
    data = jnp.array([[0.5, -1.0, 2.0]])
    x_0 = process.sample_prior(schedule, rng, (1, 3))
    t, t_next = jnp.zeros(1), jnp.ones(1)

    @jax.jit
    def sample():
        # A network that knows `data`, as far as its prediction can express it.
        noise = process.to_data_and_noise("data", data, x_0, schedule, t)[1]
        results = {}
        for kind in ("data", "velocity"):  # the others lack an answer at t = 0
            target = process.make_target(kind, schedule, t, data, noise)
            denoise = process.make_denoiser(lambda x, t, y=target: y, kind, schedule)
            for name in process.SAMPLERS:
                step = process.make_sampler_step(name)
                results[kind, name] = step(denoise, schedule, x_0, t, t_next, rng)
        return results, schedule.sigma(t_next)

    results, sigma = sample()
    chex.assert_tree_all_finite(list(results.values()))
    if float(sigma[0]) == 0.0:
        for name in ("ddim", "ancestral", "renoise"):
            for kind in ("data", "velocity"):
                np.testing.assert_allclose(results[kind, name], data, atol=2e-3)
