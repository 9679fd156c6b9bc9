"""Compares samplers with closed forms for Gaussian data."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process
from tests.process.conftest import SCHEDULES

pytestmark = pytest.mark.usefixtures("x64")

MEAN = np.array([0.7, -0.3])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
# Of each kind of schedule the one whose ends are the hardest.
ONE_STEP = ("linear", "ddpm_linear_one_step", "ddpm_cosine", "vp_small_floor", "ve")


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
    walk = functools.partial(
        process.integrate,
        process.make_sampler(sampler, **options),
        make_gaussian_denoiser(schedule),
        schedule,
    )
    return jax.jit(lambda x: walk(x, times, rng))(x_0)


def fit_order(schedule, sampler, make_grid, rng):
    """Returns minus the slope of log error over log steps, and the errors."""
    x_0 = process.sample_prior(schedule, rng, (16, 2))
    expected = exact_end(schedule, x_0)
    counts = np.array([64, 128, 256, 512])
    # Padding with steps of length 0 gives one compilation for all counts.
    sampler, denoise = process.make_sampler(sampler), make_gaussian_denoiser(schedule)
    walk = jax.jit(
        lambda times: process.integrate(sampler, denoise, schedule, x_0, times, rng)
    )
    errors = []
    for count in counts:
        times = make_grid(count)
        times = np.concatenate([np.zeros(counts[-1] - count), times])
        errors.append(np.sqrt(np.mean(np.square(np.asarray(walk(times)) - expected))))
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0], errors


def uneven_grid(count):
    """Every other step is three times as long as the one before."""
    spans = np.tile([1.0, 3.0], count // 2)
    return np.concatenate([[0.0], np.cumsum(spans) / spans.sum()])


def cosine_grid(count):
    return process.make_time_grid("cosine", count)


@pytest.mark.parametrize(
    ("sampler", "order"), [("euler", 1.0), ("heun", 2.0), ("ab2", 2.0), ("ddim", 1.0)]
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
    fitted, errors = fit_order(
        schedule, sampler, functools.partial(process.make_time_grid, "uniform"), rng
    )
    assert errors[-1] < 0.02
    assert fitted == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize(
    ("sampler", "name", "options", "make_grid"),
    [
        ("ab2", "linear", {}, uneven_grid),
        ("ab2", "vp", {"time_floor": 0.1}, uneven_grid),
        ("ab2", "ve", {"sigma_min": 0.05, "sigma_max": 5.0}, cosine_grid),
        ("dpmpp_2m", "linear", {}, cosine_grid),
        ("dpmpp_2m", "trigonometric", {}, cosine_grid),
        ("dpmpp_2m", "vp", {}, cosine_grid),
        ("dpmpp_2m", "vp", {"time_floor": 0.1}, uneven_grid),
        ("dpmpp_2m", "ve", {}, uneven_grid),
        ("dpmpp_2m", "ve", {}, cosine_grid),
    ],
)
def test_steps_of_any_length_keep_the_second_order(
    sampler, name, options, make_grid, rng
):
    schedule = process.make_schedule(name, **options)
    fitted, errors = fit_order(schedule, sampler, make_grid, rng)
    assert errors[-1] < 0.01
    assert fitted == pytest.approx(2.0, abs=0.15), errors


def test_even_steps_in_time_leave_dpm_solver_a_logarithm(rng):
    """Log-SNR steps next to infinite ends stay long, as its docstring says."""
    schedule = process.make_schedule("linear")
    grid = functools.partial(process.make_time_grid, "uniform")
    fitted, _ = fit_order(schedule, "dpmpp_2m", grid, rng)
    assert 1.6 < fitted < 1.95
    assert fit_order(schedule, "ddim", grid, rng)[0] < 1.15


def test_adams_bashforth_is_exact_for_a_velocity_linear_in_time():
    """Its first step is Euler's, whose error is the rest of the integral."""
    schedule = process.make_schedule("linear")
    times = np.array([0.1, 0.15, 0.5, 0.6, 1.0])

    def denoise(x, t):  # On the straight line the velocity is data - noise.
        return x, x - (3.0 - 2.0 * t[:, None])

    walk = process.make_sampler("ab2"), denoise, schedule
    x = process.integrate(*walk, jnp.zeros((1, 1)), times, jax.random.key(0))
    exact = 3.0 * (1.0 - 0.1) - (1.0 - 0.1**2)
    first_step = (3.0 - 2 * 0.1) * 0.05 - (3.0 * 0.05 - (0.15**2 - 0.1**2))
    np.testing.assert_allclose(x, [[exact + first_step]], rtol=1e-10)


def test_dpm_solver_is_that_of_the_paper():
    """Algorithm 2 of arXiv 2211.01095, with its own lambda, h and r, in NumPy."""
    schedule = process.make_schedule("vp")
    times = np.array([0.1, 0.15, 0.5, 0.6, 0.9])

    def data_hat(x, t):
        return np.sin(3 * x) + t

    alpha, sigma = np.asarray(schedule.alpha(times)), np.asarray(schedule.sigma(times))
    lam = np.log(alpha / sigma)
    x, before = 0.7, None
    for i in range(1, len(times)):
        h = lam[i] - lam[i - 1]
        found = data_hat(x, times[i - 1])
        mixed = found
        if before is not None:
            r = (lam[i - 1] - lam[i - 2]) / h
            mixed = (1 + 1 / (2 * r)) * found - 1 / (2 * r) * before
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * np.expm1(-h) * mixed
        before = found

    denoise = process.make_denoiser(
        lambda x, t: jnp.sin(3 * x) + t[:, None], "data", schedule
    )
    walk = process.make_sampler("dpmpp_2m"), denoise, schedule
    ours = process.integrate(*walk, jnp.full((1, 1), 0.7), times, jax.random.key(0))
    np.testing.assert_allclose(ours, [[x]], rtol=1e-9)


@pytest.mark.parametrize(
    ("times", "is_ddim"),
    [
        ([0.0, 0.3, 0.6], True),  # no data at the step before
        ([0.2, 0.5, 1.0], True),  # no noise at the end
        ([0.2, 0.5, 0.8], False),
    ],
)
def test_dpm_solver_next_to_infinite_log_snr_is_ddim(times, is_ddim, rng):
    schedule = process.make_schedule("linear")
    x = jax.random.normal(rng, (8, 2))
    ends = [run(schedule, name, times, x, rng) for name in ("dpmpp_2m", "ddim")]
    assert np.allclose(*ends, rtol=1e-12, atol=1e-12) == is_ddim


@pytest.mark.parametrize("sampler", ["heun", "ab2", "dpmpp_2m"])
@pytest.mark.parametrize("name", ["linear", "vp"])
def test_flows_run_backwards(sampler, name, rng):
    """From data to noise along falling times, where sigma is 0 at the start."""
    schedule = process.make_schedule(name)
    x_0 = jax.random.normal(rng, (8, 2))
    times = cosine_grid(200)[::-1]
    walk = process.make_sampler(sampler), make_gaussian_denoiser(schedule), schedule
    x_1 = jnp.asarray(exact_end(schedule, x_0))
    back = jax.jit(lambda x: process.integrate(*walk, x, times, rng))(x_1)
    np.testing.assert_allclose(back, x_0, atol=2e-3)


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
        pytest.param(
            *("ddpm_linear", "ancestral", {}, "uniform", 1000),
            marks=pytest.mark.thorough,
        ),
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
        pytest.param(
            *("ddpm_cosine", 50, "ancestral", 0.272090), marks=pytest.mark.thorough
        ),
        ("ddpm_linear", 20, "renoise", 0.174265),
    ],
)
def test_known_spread_on_the_chain_itself(name, num_steps, sampler, expected, rng):
    options = {"rescale_betas": True} if name == "ddpm_linear" else {}
    schedule = process.make_schedule(name, num_steps=num_steps, **options)
    denoise = make_gaussian_denoiser(schedule, np.zeros(1), np.array([[0.09]]))
    walk = process.make_sampler(sampler), denoise, schedule
    times = process.make_time_grid("uniform", num_steps)
    is_random = sampler != "ddim"
    shape = (50_000, 1) if is_random else (1, 1)
    x_0 = jax.random.normal(rng, shape) if is_random else jnp.ones(shape)
    x_1 = jax.jit(lambda x: process.integrate(*walk, x, times, jax.random.key(1)))(x_0)
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
    t, t_next = (jnp.full(2, schedule.time_of_step(n)) for n in (index, index - 1))
    x_t = jnp.full((2, 1), x_t)
    step = functools.partial(process.ancestral_step, variance=variance)
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
    with pytest.raises(ValueError, match="euler, heun, ab2, dpmpp_2m, ddim, ancestral"):
        process.make_sampler("dpm")
    with pytest.raises(ValueError, match="valid: eta"):
        process.make_sampler("ddim", churn=1)
    with pytest.raises(ValueError, match="eta must be"):
        process.make_sampler("ddim", eta=2.0)
    with pytest.raises(ValueError, match="posterior, forward"):
        process.make_sampler("ancestral", variance="learned")
    with pytest.raises(ValueError, match="valid: none"):
        process.make_sampler("ab2", order=3)


@pytest.mark.parametrize(
    "schedule_id",
    [
        pytest.param(name, marks=() if name in ONE_STEP else pytest.mark.thorough)
        for name in SCHEDULES
    ],
    indirect=True,
)
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
                sampler = process.make_sampler(name)
                state = sampler.begin(x_0)
                state = sampler.step(denoise, schedule, state, t, t_next, rng)
                results[kind, name] = state.x
        return results, schedule.sigma(t_next)

    results, sigma = sample()
    chex.assert_tree_all_finite(list(results.values()))
    if float(sigma[0]) == 0.0:
        for name in ("ddim", "dpmpp_2m", "ancestral", "renoise"):
            for kind in ("data", "velocity"):
                np.testing.assert_allclose(results[kind, name], data, atol=2e-3)
