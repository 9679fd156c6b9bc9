"""Toy diffusion against closed forms, quadrature, Monte Carlo and autodiff."""

import jax
import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import kstest

from ncgn_jax.process import interpolate, make_schedule, schedule_from_betas
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.toy_diffusion import exact, knothe, networks, samples, sampling
from tests.studies.toy_world import COSINE, LINEAR, MIXTURE, NOISE_KEY, NUM, SINGLE_STEP

UNEVEN = exact.Mixture(
    np.array([[1.0, 0.5, -1.0], [-1.0, 0.2, 0.4], [0.3, -1.5, 0.0]]),
    np.array([0.5, 0.3, 0.2]),
    0.4,
)


pytestmark = pytest.mark.usefixtures("compile_quickly")

draw_mixture = jax.jit(exact.draw_mixture, static_argnums=2)


def alpha_bar(name, num_steps):
    schedule = samples.make_toy_schedule(name, num_steps)
    return exact.chain_coefficients(schedule)[0] ** 2


@pytest.mark.parametrize(
    ("name", "num_steps", "expected"),
    [
        (LINEAR, 1000, {1: 9.999000e-01, 250: 5.240854e-01, 500: 7.858724e-02}),
        (LINEAR, 1000, {750: 3.350550e-03, 1000: 4.035830e-05}),
        (COSINE, 1000, {1: 9.999587e-01, 250: 8.470122e-01, 500: 4.938436e-01}),
        (COSINE, 1000, {750: 1.442721e-01, 1000: 2.428767e-09}),
        (LINEAR, 100, {25: 5.279164e-01, 50: 7.419700e-02, 100: 2.039009e-05}),
        (COSINE, 100, {100: 2.428572e-07}),
    ],
)
def test_alpha_bar_is_the_published_table(name, num_steps, expected):
    found = alpha_bar(name, num_steps)
    assert found[0] == 1.0
    np.testing.assert_allclose(
        found[list(expected)], list(expected.values()), rtol=2e-7 * 5
    )


@pytest.mark.parametrize(
    ("name", "num_steps", "below"),
    [
        (LINEAR, 100, (0.34, 0.53, 0.2712)),
        (LINEAR, 1000, (0.327, 0.525, 0.2755)),
        (COSINE, 100, (0.07, 0.21, 0.4911)),
        (COSINE, 1000, (0.065, 0.207, 0.4956)),
    ],
)
def test_shares_of_steps_without_signal(name, num_steps, below):
    found = alpha_bar(name, num_steps)[1:]
    assert (np.mean(found < 0.01), np.mean(found < 0.1)) == below[:2]
    np.testing.assert_allclose(found.mean(), below[2], atol=5e-5)


def test_clipped_betas_of_short_chains():
    """1000 / T times the last beta is 1 at T = 20 and must be clipped."""
    found = alpha_bar(LINEAR, 20)
    np.testing.assert_allclose(found[-1] / found[-2], 1e-3, rtol=1e-6)


# T: single lin, cos; ancestral lin, cos; renoise lin, cos; ddim lin, cos.
WIDTHS = {
    20: "6.73e-7 2.215e-4 .209809 .244962 .174265 .188923 .243432 .266736",
    50: "2.505e-4 8.869e-5 .252767 .272090 .191696 .198990 .275497 .286171",
    100: "4.064e-4 4.435e-5 .272254 .284252 .198963 .203659 .287067 .292949",
    1000: "5.718e-4 4.435e-6 .296253 .298073 .209079 .210203 .298541 .299257",
}


@pytest.mark.parametrize("num_steps", WIDTHS)
def test_closed_form_widths(num_steps):
    schedules = [samples.make_toy_schedule(n, num_steps) for n in (LINEAR, COSINE)]
    found = [
        exact.final_std(method, schedule, 0.3)
        for method in exact.METHODS
        for schedule in schedules
    ]
    expected = np.array(WIDTHS[num_steps].split(), float)
    np.testing.assert_allclose(found[2:], expected[2:], atol=1e-6)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-3)
    for linear, cosine in zip(found[2::2], found[3::2], strict=True):
        assert abs(cosine - 0.3) < abs(linear - 0.3)


@pytest.mark.parametrize("method", exact.METHODS)
def test_widths_are_those_of_the_samplers(method):
    """Compares the recursions with the library's own steps, all n in one batch.

    With a Gaussian about 0 each step is x' = factor x + spread z, with z known.
    """
    schedule, std, key = samples.make_toy_schedule(COSINE, 10), 0.5, NOISE_KEY
    denoise = mixture_denoiser(np.zeros((1, 1)), np.ones(1), std, schedule)
    step = samples.STEPS[sampling.TITLES[method]]
    n = np.arange(10, 0, -1)
    times = schedule.time_of_step(n), schedule.time_of_step(n - 1)

    @jax.jit
    def advance(x):
        return step(denoise, schedule, x, *times, key), jax.random.normal(key, x.shape)

    (low, noise), (high, _) = (
        map(np.asarray, advance(x)) for x in np.mgrid[:2.0, :10, :1][0]
    )
    factor, spread = high - low, low / noise
    variance = 1.0
    for a, b in zip(factor[:, 0], spread[:, 0], strict=True):
        variance = a**2 * variance + b**2
    expected = exact.final_std(method, schedule, std)
    np.testing.assert_allclose(np.sqrt(variance), expected, rtol=1e-7)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method: found 'heun'"):
        exact.final_std("heun", make_schedule("ddpm_cosine", num_steps=4), 1.0)


@pytest.mark.parametrize("name", [LINEAR, COSINE])
def test_laws_of_the_widths(name):
    schedule = samples.make_toy_schedule(name, 1000)
    last = exact.chain_coefficients(schedule)[0][-1]
    found = exact.final_std("single_step", schedule, 1.0)
    np.testing.assert_allclose(found, last, rtol=1e-9)
    short = samples.make_toy_schedule(name, 100)
    for std in (0.3, 0.7):
        gaps = [
            abs(exact.final_std("renoise", chain, std) * np.sqrt(2) / std - 1)
            for chain in (short, schedule)
        ]
        # 1.4 % for linear and 0.9 % for cosine betas at s = .3, and falling.
        assert gaps[1] < min(0.015, gaps[0] / 3)


@pytest.mark.parametrize("name", [LINEAR, COSINE])
def test_least_losses_against_monte_carlo(name):
    """Returns the residual of the exact predictor and its standard error."""
    schedule, num = samples.make_toy_schedule(name, 10), NUM
    losses = exact.bayes_losses(MIXTURE, schedule)
    denoise = mixture_denoiser(*MIXTURE, schedule)

    @jax.jit
    def residuals(t):
        rng_data, rng_noise = jax.random.split(jax.random.key(0))
        data = exact.draw_mixture(MIXTURE, rng_data, num)
        noise = jax.random.normal(rng_noise, data.shape)
        pair = denoise(interpolate(schedule, t, data, noise), t)
        squares = ((data - pair[0]) ** 2, (noise - pair[1]) ** 2)
        return dict(zip(("data", "noise"), squares, strict=True))

    for n in (1, 4, 10):
        found = residuals(np.full(num, schedule.time_of_step(n)))
        for target, squares in found.items():
            residual = np.mean(squares, axis=1)
            error = residual.std() / np.sqrt(num)
            assert abs(residual.mean() - losses[target][n - 1]) < 4 * error
    _, sigma = exact.chain_coefficients(schedule)
    np.testing.assert_allclose(losses["score"], losses["noise"] / sigma[1:] ** 2)


def test_least_losses_and_known_shares():
    """Mean over t at T = 100; two decimals of the R^2."""
    found = {}
    for name in (LINEAR, COSINE):
        schedule = samples.make_toy_schedule(name, 100)
        losses = exact.bayes_losses(MIXTURE, schedule)
        known = 1 - losses["data"] / exact.variance_of_mixture(MIXTURE)
        means = losses["data"].mean(), losses["noise"].mean()
        found[name] = [*means, np.mean(known < 0.05), known[49]]
    expected = {LINEAR: [0.905, 0.170, 0.39, 0.19], COSINE: [0.506, 0.296, 0.09, 0.83]}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=5e-3)


def test_least_losses_need_two_modes():
    schedule = make_schedule("ddpm_cosine", num_steps=4)
    with pytest.raises(ValueError, match="8 modes"):
        exact.bayes_losses(exact.ring_of_modes(), schedule)


def test_mean_of_a_step_is_the_score_formula():
    """(x + beta score) / sqrt(al) on the chain (Ho et al. 2020, eq. 11)."""
    betas = np.linspace(0.1, 0.6, 10)
    schedule = schedule_from_betas(betas, "ten")
    denoise = mixture_denoiser(*MIXTURE, schedule)
    n = np.arange(1, 11)
    t, t_next = schedule.time_of_step(n), schedule.time_of_step(n - 1)

    @jax.jit
    def compute(x):
        known = denoise(x, t)
        score = -known[1] / schedule.sigma(t)[:, None]
        expected = (x + betas[:, None] * score) / np.sqrt(1 - betas)[:, None]
        found = SINGLE_STEP(denoise, schedule, x, t, t_next, None)
        rebuilt = networks.step_denoiser(lambda x, t: expected, schedule)
        return expected, found, rebuilt(x, t), known

    x = np.random.default_rng(7).normal(size=(10, 2))
    expected, found, rebuilt, known = compute(x)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    for ours, theirs in zip(rebuilt, known, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("mixture", [MIXTURE, UNEVEN, exact.ring_of_modes()])
def test_drawn_data_have_the_mixture_s_moments(mixture):
    data = np.asarray(draw_mixture(mixture, jax.random.key(1), NUM))
    variance = exact.variance_of_mixture(mixture)
    error = 4 * np.sqrt(2 * variance / NUM)
    mean = mixture.weights @ mixture.means
    np.testing.assert_allclose(data.mean(axis=0), mean, atol=error)
    np.testing.assert_allclose(data.var(axis=0).mean(), variance, rtol=0.06)


def test_every_part_of_a_reference_has_even_shares():
    data = np.asarray(exact.draw_reference(MIXTURE, jax.random.key(0), NUM))
    is_first = data @ MIXTURE.means[0] > 0
    for num in (10, 100, NUM):
        assert is_first[:num].sum() == pytest.approx(0.7 * num, abs=2)
    offsets = data - np.where(is_first[:, None], *MIXTURE.means)
    np.testing.assert_allclose(offsets.std(axis=0), 0.3, rtol=0.06)
    assert abs(np.corrcoef(is_first, offsets[:, 0])[0, 1]) < 0.08


# The map to noise.


def test_transport_is_the_distribution_functions_in_turn():
    """Compares with quadrature of the mixture's density, in three dimensions."""
    point = np.array([0.4, -0.6, 0.3])
    weights, given = UNEVEN.weights, UNEVEN.weights.copy()
    expected = []
    for j in range(3):
        means = UNEVEN.means[:, j]
        grid = np.linspace(-8, point[j], 200_001)
        densities = np.exp(-0.5 * ((grid[:, None] - means) / UNEVEN.std) ** 2)
        mass = np.trapezoid(densities @ given, grid)
        total = given.sum() * UNEVEN.std * np.sqrt(2 * np.pi)
        expected.append(ndtri(mass / total))
        given = given * np.exp(-0.5 * ((point[j] - means) / UNEVEN.std) ** 2)
    assert weights is UNEVEN.weights
    found = knothe.to_noise(UNEVEN, point[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_transport_of_one_gaussian_standardises():
    gaussian = exact.Mixture(np.array([[2.0, -1.0]]), np.ones(1), 0.3)
    points = np.array([[2.3, -1.6], [-5.0, 11.0]])
    found = np.asarray(knothe.to_noise(gaussian, points))
    # The second point is 23 and 40 standard deviations out.
    expected = (points - np.array([[2.0, -1.0]])) / 0.3
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1, 0], expected[1, 0], rtol=1e-12)


@pytest.mark.parametrize("mixture", [MIXTURE, UNEVEN, exact.ring_of_modes()])
def test_transport_covers_noise_and_comes_back(mixture):
    rng_data, rng_noise = jax.random.split(jax.random.key(0))
    data = draw_mixture(mixture, rng_data, NUM)
    noise = knothe.to_noise(mixture, data)
    for column in np.asarray(noise).T:
        assert kstest(column, "norm").pvalue > 1e-3
    covariance = np.cov(np.asarray(noise).T)
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=0.08)
    np.testing.assert_allclose(knothe.to_data(mixture, noise), data, atol=1e-9)
    z = jax.random.normal(rng_noise, data.shape)
    again = knothe.to_noise(mixture, knothe.to_data(mixture, z))
    np.testing.assert_allclose(again, z, atol=1e-9)


def test_new_data_from_noise_have_the_mixture_s_shares():
    """Uses noise on a lattice, so that nothing is random."""
    lattice = np.stack([np.arange(NUM) / NUM, 0.618034 * np.arange(NUM) % 1], axis=1)
    noise = ndtri((lattice + 0.5 / NUM) % 1)
    data = np.asarray(knothe.to_data(MIXTURE, noise))
    reference = exact.draw_reference(MIXTURE, jax.random.key(3), NUM)
    measures = samples.measure_samples(MIXTURE, data, reference)
    assert measures.share_error < 1e-3
    assert measures.width == pytest.approx(1, abs=0.01)
    assert measures.stray < 1e-3
    assert measures.distance < 0.03


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.7, 1.0])
def test_the_deterministic_process_is_triangular_and_invertible(alpha):
    sigma = np.sqrt(1 - alpha**2)
    data = np.asarray(draw_mixture(UNEVEN, jax.random.key(0), NUM))
    full = [np.full(NUM, value) for value in (alpha, sigma)]
    x_t = alpha * data + sigma * np.asarray(knothe.to_noise(UNEVEN, data))
    back = knothe.recover_data(UNEVEN, x_t, *full)
    np.testing.assert_allclose(back, data, atol=1e-9)
    slopes = np.asarray(knothe.noised_jacobian(UNEVEN, data, *full))
    assert np.all(slopes[:, *np.triu_indices(3, 1)] == 0)
    assert np.all(np.diagonal(slopes, axis1=1, axis2=2) > 0)
    # By the change of variables: the first slope is density over normal density.
    offsets = (data[:, :1] - UNEVEN.means[:, 0]) / UNEVEN.std
    density = np.exp(-0.5 * offsets**2) @ UNEVEN.weights / UNEVEN.std
    score = ndtri(ndtr(offsets) @ UNEVEN.weights)
    expected = alpha + sigma * density / np.exp(-0.5 * score**2)
    np.testing.assert_allclose(slopes[:, 0, 0], expected, rtol=1e-6)


def test_the_exact_denoiser_is_constant_along_a_path():
    """Hence any number of steps, one included, ends at the same point."""
    schedule = samples.make_toy_schedule(COSINE, 10)
    coefficients = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))

    def denoise(x_t, t):
        found = knothe.recover_data(MIXTURE, x_t, *coefficients(t))
        return np.asarray(found), np.asarray(knothe.to_noise(MIXTURE, found))

    def mix(t, data, noise):
        alpha, sigma = (np.asarray(c)[:, None] for c in coefficients(t))
        return alpha * data + sigma * noise

    data = np.asarray(draw_mixture(MIXTURE, jax.random.key(0), NUM))
    t = np.linspace(0, 0.99, NUM)
    pair = denoise(mix(t, data, np.asarray(knothe.to_noise(MIXTURE, data))), t)
    np.testing.assert_allclose(pair[0], data, atol=1e-9)
    later = mix(0.5 + 0.5 * t, *pair)
    for ours, theirs in zip(denoise(later, 0.5 + 0.5 * t), pair, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
