"""Toy diffusion against closed forms, quadrature, Monte Carlo and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import kstest

from ncgn_jax.pictures import save_figure
from ncgn_jax.pictures.vector_fields import (
    FieldPanel,
    draw_sample_panels,
    draw_vector_fields,
)
from ncgn_jax.process import interpolate, make_schedule, schedule_from_betas
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.report import Report
from ncgn_jax.studies.toy_diffusion import (
    exact,
    knothe,
    learning,
    networks,
    pairing,
    samples,
    sampling,
    study,
    sweep,
)

LINEAR, COSINE = samples.SCHEDULE_NAMES
SINGLE_STEP = samples.STEPS["single step"]
MIXTURE = exact.two_modes()
# Most arrays are of one size: every operation is compiled once.
NUM = 4000
NOISE_KEY = jax.random.key(7)
UNEVEN = exact.Mixture(
    np.array([[1.0, 0.5, -1.0], [-1.0, 0.2, 0.4], [0.3, -1.5, 0.0]]),
    np.array([0.5, 0.3, 0.2]),
    0.4,
)


pytestmark = pytest.mark.usefixtures("compile_quickly")


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
    """1000 / T times the last beta is 1 at T = 20: it must be clipped, not refused."""
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
    """The recursions against the library's own steps, all n in one batch.

    With a Gaussian about 0 each step is x' = factor x + spread z, with z known.
    """
    schedule, std, key = samples.make_toy_schedule(COSINE, 10), 0.5, NOISE_KEY
    denoise = mixture_denoiser(np.zeros((1, 1)), np.ones(1), std, schedule)
    step = samples.STEPS[sampling.TITLES[method]]
    n = np.arange(10, 0, -1)
    times = schedule.time_of_step(n), schedule.time_of_step(n - 1)
    ends = [step(denoise, schedule, x, *times, key) for x in np.mgrid[:2.0, :10, :1][0]]
    factor, spread = ends[1] - ends[0], ends[0] / jax.random.normal(key, (10, 1))
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
    """The residual of the exact predictor, with its standard error."""
    schedule, num = samples.make_toy_schedule(name, 10), NUM
    losses = exact.bayes_losses(MIXTURE, schedule)
    rng_data, rng_noise = jax.random.split(jax.random.key(0))
    data = exact.draw_mixture(MIXTURE, rng_data, num)
    noise = jax.random.normal(rng_noise, data.shape)
    denoise = mixture_denoiser(*MIXTURE, schedule)
    for n in (1, 4, 10):
        t = jnp.full(num, schedule.time_of_step(n))
        x_t = interpolate(schedule, t, data, noise)
        pair = denoise(x_t, t)
        for target, wanted, found in zip(
            ("data", "noise"), (data, noise), pair, strict=True
        ):
            residual = np.mean((wanted - found) ** 2, axis=1)
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
    x, n = jax.random.normal(NOISE_KEY, (10, 2)), np.arange(1, 11)
    t, t_next = schedule.time_of_step(n), schedule.time_of_step(n - 1)
    score = -denoise(x, t)[1] / schedule.sigma(t)[:, None]
    expected = (x + betas[:, None] * score) / np.sqrt(1 - betas)[:, None]
    found = SINGLE_STEP(denoise, schedule, x, t, t_next, None)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    rebuilt = networks.step_denoiser(lambda x, t: expected, schedule)
    for ours, known in zip(rebuilt(x, t), denoise(x, t), strict=True):
        np.testing.assert_allclose(ours, known, atol=1e-7)


@pytest.mark.parametrize("mixture", [MIXTURE, UNEVEN, exact.ring_of_modes()])
def test_drawn_data_have_the_mixture_s_moments(mixture):
    data = np.asarray(exact.draw_mixture(mixture, jax.random.key(1), NUM))
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
    """By quadrature of the mixture's density, in three dimensions."""
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
    found = knothe.to_noise(UNEVEN, jnp.asarray(point)[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_transport_of_one_gaussian_standardises():
    gaussian = exact.Mixture(np.array([[2.0, -1.0]]), np.ones(1), 0.3)
    points = jnp.array([[2.3, -1.6], [-5.0, 11.0]])
    found = knothe.to_noise(gaussian, points)
    # The second point is 23 and 40 standard deviations out.
    expected = (points - jnp.array([[2.0, -1.0]])) / 0.3
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1, 0], expected[1, 0], rtol=1e-12)


@pytest.mark.parametrize("mixture", [MIXTURE, UNEVEN, exact.ring_of_modes()])
def test_transport_covers_noise_and_comes_back(mixture):
    rng_data, rng_noise = jax.random.split(jax.random.key(0))
    data = exact.draw_mixture(mixture, rng_data, NUM)
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
    """Noise on a lattice, so that chance takes no part."""
    lattice = np.stack([np.arange(NUM) / NUM, 0.618034 * np.arange(NUM) % 1], axis=1)
    noise = ndtri((lattice + 0.5 / NUM) % 1)
    data = np.asarray(knothe.to_data(MIXTURE, jnp.asarray(noise)))
    reference = exact.draw_reference(MIXTURE, jax.random.key(3), NUM)
    measures = samples.measure_samples(MIXTURE, data, reference)
    assert measures.share_error < 1e-3
    assert measures.width == pytest.approx(1, abs=0.01)
    assert measures.stray < 1e-3
    assert measures.distance < 0.03


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.7, 1.0])
def test_the_deterministic_process_is_triangular_and_invertible(alpha):
    sigma = np.sqrt(1 - alpha**2)
    data = exact.draw_mixture(UNEVEN, jax.random.key(0), NUM)
    full = [jnp.full(NUM, value) for value in (alpha, sigma)]
    x_t = full[0][:, None] * data + full[1][:, None] * knothe.to_noise(UNEVEN, data)
    back = knothe.recover_data(UNEVEN, x_t, *full)
    np.testing.assert_allclose(back, data, atol=1e-9)
    slopes = np.asarray(knothe.noised_jacobian(UNEVEN, data, *full))
    assert np.all(slopes[:, *np.triu_indices(3, 1)] == 0)
    assert np.all(np.diagonal(slopes, axis1=1, axis2=2) > 0)
    # By the change of variables: the first slope is density over normal density.
    offsets = (np.asarray(data[:, :1]) - UNEVEN.means[:, 0]) / UNEVEN.std
    density = np.exp(-0.5 * offsets**2) @ UNEVEN.weights / UNEVEN.std
    score = ndtri(ndtr(offsets) @ UNEVEN.weights)
    expected = alpha + sigma * density / np.exp(-0.5 * score**2)
    np.testing.assert_allclose(slopes[:, 0, 0], expected, rtol=1e-6)


def test_the_exact_denoiser_says_the_same_all_along_a_path():
    """So that any number of steps, one included, ends at the same point."""
    schedule = samples.make_toy_schedule(COSINE, 10)
    denoise = knothe.knothe_denoiser(MIXTURE, schedule)
    data = exact.draw_mixture(MIXTURE, jax.random.key(0), NUM)
    t = jnp.linspace(0, 0.99, NUM)
    x_t = interpolate(schedule, t, data, knothe.to_noise(MIXTURE, data))
    pair = denoise(x_t, t)
    np.testing.assert_allclose(pair[0], data, atol=1e-9)
    later = interpolate(schedule, 0.5 + 0.5 * t, *pair)
    for ours, theirs in zip(denoise(later, 0.5 + 0.5 * t), pair, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


# Networks.

# One shape of all lessons: training is compiled once for each.
SMALL = networks.Plan(num_epochs=20, batch_size=50, learning_rate=1e-2)


def make_lesson():
    sizes = study.Sizes(num_points=500, num_seeds=2, num_learned=NUM // 2)
    lesson = study.make_lesson(sizes, jax.random.key(0))
    return lesson._replace(num_steps=10, plan=SMALL)


def train(lesson, schedule, target, noise=None):
    return networks.train_networks(
        lesson.rngs, schedule, target, lesson.data, noise, lesson.plan
    )


def test_the_network_has_the_paper_s_542_parameters_and_learns():
    lesson = make_lesson()
    params, losses = train(lesson, samples.make_toy_schedule(COSINE, 10), "noise")
    assert sum(leaf[0].size for leaf in jax.tree.leaves(params)) == 542
    assert losses.shape == (2, 200)
    assert losses[:, -20:].mean() < 0.6 * losses[:, :5].mean()


def test_seeds_are_trained_apart_and_repeatably():
    lesson, schedule = make_lesson(), samples.make_toy_schedule(COSINE, 10)
    _, both = train(lesson, schedule, "noise")
    _, again = train(lesson, schedule, "noise")
    np.testing.assert_array_equal(both, again)
    assert abs(both[0] - both[1]).max() > 0.01
    # What becomes of the second seed has no bearing on the first.
    changed = lesson._replace(
        rngs=lesson.rngs[jnp.array([0, 0])], data=lesson.data.at[1].set(0.0)
    )
    _, other = train(changed, schedule, "noise")
    np.testing.assert_allclose(other[0], both[0], rtol=1e-3)


@pytest.mark.parametrize("target", networks.TARGETS)
def test_examples_have_the_least_loss_under_the_exact_predictor(target):
    """Each target's examples, judged by a predictor that never saw them."""
    schedule = samples.make_toy_schedule(LINEAR, 10)
    points = exact.draw_mixture(MIXTURE, jax.random.key(1), NUM)[None]
    visits = draw_visits(points)
    x_t, t, wanted = make_examples(schedule, target, points, visits)
    denoise = mixture_denoiser(*MIXTURE, schedule)
    data_hat, noise_hat = denoise(x_t, t)
    known = {
        "data": data_hat,
        "noise": noise_hat,
        "score": -noise_hat / schedule.sigma(t)[:, None],
        "step": SINGLE_STEP(denoise, schedule, x_t, t, t + 1 / 10, None),
    }[target]
    residual = np.mean((wanted - known) ** 2, axis=1)
    least = exact.bayes_losses(MIXTURE, schedule)[target].mean()
    error = residual.std() / np.sqrt(len(residual))
    assert abs(residual.mean() - least) < 5 * error
    steps = np.bincount(np.asarray(visits.step_index[0]), minlength=11)
    assert steps[0] == 0
    np.testing.assert_allclose(steps[1:], len(t) / 10, rtol=0.15)


def draw_visits(points):
    plan = networks.Plan(num_epochs=5)
    key = jax.random.key(9)[None]
    return networks._draw_visits(plan, 10, points.shape[1:], key)


def make_examples(schedule, target, points, visits):
    examples = networks._make_examples(schedule, target, points, None, visits)
    return (values[0] for values in examples)


def test_every_point_is_visited_at_most_once_an_epoch():
    plan = networks.Plan(num_epochs=3, batch_size=7)
    keys = jax.random.split(jax.random.key(0))
    places = networks._draw_visits(plan, 5, (30, 2), keys).place
    assert places.shape == (2, 3 * 28)
    epochs = np.sort(np.asarray(places).reshape(6, 28), axis=1)
    assert np.all(np.diff(epochs, axis=1) > 0)
    assert len(np.unique(epochs, axis=0)) > 1


def test_points_keep_the_noise_that_is_given():
    """Noise equal to the data: x_t = (alpha + sigma) data hides nothing."""
    lesson, schedule = make_lesson(), samples.make_toy_schedule(LINEAR, 10)
    last = [train(lesson, schedule, "data", noise)[1] for noise in (None, lesson.data)]
    fresh, own = (float(losses[:, -20:].mean()) for losses in last)
    assert own < 0.1 * fresh


def test_bad_lessons_are_refused():
    lesson, schedule = make_lesson(), samples.make_toy_schedule(LINEAR, 10)
    with pytest.raises(ValueError, match="target: found 'velocity'"):
        train(lesson, schedule, "velocity")
    with pytest.raises(ValueError, match="no sample of a chain"):
        train(lesson, schedule, "step", lesson.data)
    with pytest.raises(ValueError, match="20 points do not fill a batch of 50"):
        train(lesson._replace(data=lesson.data[:, :20]), schedule, "data")


def test_a_step_of_the_chain_returns_the_prediction_itself():
    schedule = samples.make_toy_schedule(COSINE, 10)

    def predict(x, t):
        return jnp.sin(3 * x) + t[:, None]

    denoise = networks.step_denoiser(predict, schedule)
    x = jax.random.normal(NOISE_KEY, (10, 2))
    t = schedule.time_of_step(np.arange(10, 0, -1))
    found = SINGLE_STEP(denoise, schedule, x, t, t + 1 / 10, None)
    np.testing.assert_allclose(found, predict(x, t), atol=1e-9)
    alpha, sigma, _, _ = schedule.coefficients(t)
    rebuilt = interpolate(schedule, t, *denoise(x, t))
    np.testing.assert_allclose(rebuilt, x, atol=1e-9)
    assert np.all(alpha > 0)
    assert np.all(sigma > 0)


def test_excess_and_least_loss_are_the_loss_on_fresh_data():
    """Networks that have learned little, so that their excess is far from 0."""
    schedule = samples.make_toy_schedule(COSINE, 10)
    fresh = exact.draw_mixture(MIXTURE, jax.random.key(8), NUM)
    lesson = make_lesson()._replace(reference=fresh)
    for target in ("data", "step"):
        params, _ = train(lesson, schedule, target)
        found = learning.excess_losses(lesson, params, schedule, target)
        least = exact.bayes_losses(MIXTURE, schedule)[target].mean()
        x_t, t, wanted = make_examples(
            schedule, target, fresh[None], draw_visits(fresh[None])
        )
        for seed in range(2):
            one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], params)
            residual = (networks.make_predict(one)(x_t, t) - wanted) ** 2
            np.testing.assert_allclose(residual.mean(), least + found[seed], rtol=0.1)
            assert found[seed] > 0.1 * least


def test_a_limit_holds_and_agrees_with_the_noise():
    lesson = make_lesson()
    schedule = samples.make_toy_schedule(COSINE, 10)
    params, _ = train(lesson, schedule, "noise")
    one = jax.tree.map(lambda leaf: leaf[0], params)
    x, t = lesson.reference, jnp.zeros(len(lesson.reference))
    free = networks.network_denoiser(one, schedule, "noise")(x, t)
    held = networks.network_denoiser(one, schedule, "noise", data_limit=2.7)(x, t)
    # alpha is nearly 0 here: what is divided by it is anything.
    assert abs(free[0]).max() > 10
    assert abs(held[0]).max() == 2.7
    np.testing.assert_allclose(interpolate(schedule, t, *held), x, atol=1e-9)


# Samples and their measures.


def test_measures_of_made_up_samples():
    start = np.random.default_rng(0).normal(size=(3000, 2))
    first = np.arange(3000) < 1800
    centre = np.where(first[:, None], MIXTURE.means[0], MIXTURE.means[1])
    data = exact.draw_mixture(MIXTURE, jax.random.key(0), 3000)
    drawn = centre + 0.15 * start
    found = samples.measure_samples(MIXTURE, drawn, data, start)
    np.testing.assert_allclose(found.first_share, 0.6)
    np.testing.assert_allclose(found.share_error, 0.1)
    np.testing.assert_allclose(found.width, 0.5, rtol=0.03)
    np.testing.assert_allclose(found.memory, 1.0)
    assert found.stray == 0
    # All at one mean: nothing is covered, nothing remembered.
    found = samples.measure_samples(MIXTURE, 0 * drawn + centre[:1], data, start)
    assert found.coverage == 1 / 1000
    assert (found.width, found.memory, found.share_error) == pytest.approx((0, 0, 0.3))
    # SW2^2 = s^2 + .3 |2 mu|^2 / 2 for one point at the first mean.
    np.testing.assert_allclose(found.distance, np.sqrt(0.09 + 0.6 * 3.25), rtol=0.03)
    far = np.concatenate([drawn[:2250], np.zeros((750, 2))])
    found = samples.measure_samples(MIXTURE, far, data)
    assert found.stray == 0.25
    assert np.isnan(found.memory)
    itself = samples.measure_samples(MIXTURE, data, data)
    assert (itself.distance, itself.coverage) == (0, 1)
    mean = samples.mean_measures([found, itself])
    assert mean.stray == pytest.approx((0.25 + itself.stray) / 2)


@pytest.fixture(scope="module")
def exact_measures(compile_quickly):
    """Of exact predictors under the linear schedule, T = 50."""
    with jax.enable_x64(True):
        num, schedule = NUM, samples.make_toy_schedule(LINEAR, 50)
        data = exact.draw_reference(MIXTURE, jax.random.key(0), num)
        return {
            method: sampling.sample_exactly(
                MIXTURE, schedule, method, data, jax.random.key(1), num
            )
            for method in ("single step", "whole step", "one shot", "DDIM")
        }


def test_what_is_wrong_with_each_method(exact_measures):
    single, _ = exact_measures["single step"]
    assert single.width * 0.3 < 0.005
    assert max(single.first_share, 1 - single.first_share) > 0.99
    assert single.distance == pytest.approx(1.42, abs=0.03)
    shot, points = exact_measures["one shot"]
    assert np.max(np.std(points, axis=0)) < 0.02
    np.testing.assert_allclose(points.mean(axis=0), [0.6, 0.4], atol=0.01)
    whole, _ = exact_measures["whole step"]
    assert whole.width * 0.3 == pytest.approx(0.20, abs=0.01)
    assert whole.first_share == pytest.approx(0.787, abs=0.015)
    assert whole.distance == pytest.approx(0.59, abs=0.03)
    assert abs(whole.memory) < 0.05
    ddim, _ = exact_measures["DDIM"]
    # Wider than one Gaussian's .2755: some samples end on the way between modes.
    assert ddim.width * 0.3 == pytest.approx(0.280, abs=0.007)
    assert ddim.first_share == pytest.approx(0.7, abs=0.02)
    assert ddim.memory > 0.5
    assert shot.distance > whole.distance > ddim.distance


# Tables, findings and figures.


@pytest.fixture
def report(tmp_path):
    return Report("toy_diffusion", tmp_path, quick=True)


def verdicts(report):
    return [finding.verdict for finding in report.findings]


def test_exact_parts_fill_the_report(report):
    study.study_signal(report)
    sampling.study_widths(report)
    assert verdicts(report) == ["holds"] * 4
    rows = {row[0]: row[1:] for row in report.tables["signal"].rows}
    assert rows["1000, cosine"][0] == 0.065
    lengths = [row[0] for row in report.tables["widths"].rows]
    assert lengths == ["20", "50", "100", "1000"]
    assert (report.workdir / report.figures["signal"]).stat().st_size > 5000


def test_the_transport_map_is_reported(report):
    lesson = make_lesson()
    pairing.study_transport_map(report, lesson)
    assert verdicts(report) == ["holds", "holds"]
    rows = {row[0]: row[1:] for row in report.tables["invertible"].rows}
    assert rows["0, linear"] == [1.0, 0.0, 0.0]
    assert 0 < rows["10, linear"][0] < 1e-3


def fake(distance, width=1.0, share=0.7):
    return samples.Measures(distance, share, 0.0, width, 0.0, 0.5, 0.0)


def fake_runs(worse_noise):
    measures = {}
    for name in (LINEAR, COSINE):
        for target, method, limit in learning._RUNS:
            value = 0.3 if name == LINEAR else 0.2
            if name == COSINE and target != "data" and limit is None:
                value = worse_noise
            key = (name, target, method, limit is not None)
            measures[key] = [fake(value, 0.1 if target == "step" else 1.0)] * 2
    return measures


@pytest.mark.parametrize(
    ("worse_noise", "expected"),
    [
        (0.5, ["holds", "does not hold", "holds", "holds", "does not hold"]),
        (0.1, ["holds", "holds", "does not hold", "holds", "holds in part"]),
    ],
)
def test_verdicts_on_networks_come_from_the_numbers(report, worse_noise, expected):
    lesson = make_lesson()
    learning._report_samples(report, lesson, fake_runs(worse_noise))
    assert verdicts(report) == expected
    assert len(report.tables["networks"].rows) == len(learning._RUNS)


def test_what_networks_learn_comes_from_the_numbers(report):
    lesson = make_lesson()
    small = {
        (n, t): np.full(2, 0.01) for n in (LINEAR, COSINE) for t in networks.TARGETS
    }
    learning._report_losses(report, lesson, small)
    large = {key: value + 0.5 for key, value in small.items()}
    other = Report("again", report.workdir)
    learning._report_losses(other, lesson, large)
    assert verdicts(report) == ["holds"]
    assert verdicts(other) == ["does not hold"]


def test_pairings_are_compared(report):
    lesson = make_lesson()
    pairing.study_pairings(report, lesson)
    rows = {row[0]: row[1:] for row in report.tables["pairings"].rows}
    assert len(rows) == 7
    assert rows["exact inverse"][-1] < 1e-9
    assert verdicts(report)[0] == "holds"
    for name in (LINEAR, COSINE):
        fresh, frozen, transport = (
            rows[f"{kind}, {name}"]
            for kind in (pairing.FRESH, pairing.FROZEN, pairing.TRANSPORT)
        )
        assert transport[0] < 0.5 * min(fresh[0], frozen[0])
        # Chance says nothing of the data: the mean is the best guess at n = T.
        assert fresh[-1] > 1.2 > transport[-1]


@pytest.mark.parametrize(
    ("transport", "frozen", "expected"),
    [
        ([0.01, 0.1, 1, 0, 0.1, 0.05], 0.95, ["holds", "holds", "does not hold"]),
        ([0.01, 0.1, 1, 0, 0.1, 0.30], 0.50, ["holds", "holds in part", "holds"]),
        (
            [0.90, 0.9, 1, 0, 0.1, 0.90],
            0.95,
            ["holds", "does not hold", "does not hold"],
        ),
    ],
)
def test_verdicts_on_pairings_come_from_the_numbers(
    report, transport, frozen, expected
):
    fresh = [1.0, 1.0, 0.1, 0.0, 0.3, 1.7]
    rows = {}
    for name in (LINEAR, COSINE):
        rows[pairing.FRESH, name] = fresh
        rows[pairing.FROZEN, name] = [frozen, *fresh[1:]]
        rows[pairing.TRANSPORT, name] = transport
    of_map = [0.0, 0.01, 1.0, 0.0, 0.01, 1e-13]
    pairing._judge_pairings(report, rows, of_map)
    assert verdicts(report) == expected


def test_sweeps_come_from_the_numbers(report, monkeypatch):
    calls = []

    def sample(mixture, schedule, method, *rest):
        calls.append((len(mixture.weights), mixture.means.shape[1], method))
        is_cosine = schedule.name != "ddpm_linear"
        width = (
            0.01 if method == "single step" else 0.7 if method == "whole step" else 0.95
        )
        return fake(0.1 + 0.1 * is_cosine, width + 0.03 * is_cosine), None

    monkeypatch.setattr(sweep, "sample_exactly", sample)
    sweep.study_cosines(report, 10, jax.random.key(0))
    # Only an offset of .3 loses against linear betas.
    assert verdicts(report) == ["holds in part"]
    assert len(calls) == len(report.tables["cosines"].rows) == 12
    sweep.study_worlds(report, 10, jax.random.key(0), few=False)
    assert verdicts(report)[1:] == ["holds", "holds", "holds", "does not hold"]
    assert {call[:2] for call in calls} == {(2, 2), (2, 8), (2, 32), (8, 2), (25, 2)}


def test_fields_are_drawn_where_they_point(tmp_path):
    schedule = samples.make_toy_schedule(COSINE, 100)
    pull, score = study.field_panels(schedule, 0.5)
    half = len(pull.places) // 2
    # On the axis at the far right the pull is to the left, and so is the score.
    assert pull.arrows[half, -1, 0] < -1
    assert score.arrows[half, -1, 0] < 0
    # The density is highest near alpha times the heavier mean.
    row, column = np.unravel_index(score.log_density.argmax(), score.log_density.shape)
    peak = score.fine_places[[column, row]]
    alpha = float(schedule.alpha(0.5))
    np.testing.assert_allclose(peak, alpha * MIXTURE.means[0], atol=0.1)
    figure = draw_vector_fields({"a": [pull, score]})
    assert save_figure(figure, tmp_path / "f.png", dpi=40).stat().st_size > 3000


def test_clouds_of_samples_are_drawn(tmp_path):
    points = np.concatenate([np.zeros((9, 2)), np.full((1, 2), 50.0)])
    figure = draw_sample_panels({"row": {"left": points, "right": points[:9]}}, 3.0)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["10 % outside"]
    assert save_figure(figure, tmp_path / "s.png", dpi=40).stat().st_size > 1000


@pytest.mark.parametrize("rows", [{}, {"a": []}, {"a": [1], "b": []}])
def test_uneven_rows_of_pictures_are_refused(rows):
    with pytest.raises(ValueError, match="equally many panels"):
        draw_vector_fields(rows)


def test_field_panels_name_their_longest_arrow():
    places = np.array([0.0, 1.0])
    arrows = np.zeros((2, 2, 2))
    arrows[0, 1] = [3.0, 4.0]
    panel = FieldPanel("here", places, arrows, places, np.zeros((2, 2)) - places)
    figure = draw_vector_fields({"a": [panel]})
    assert figure.axes[0].get_title(loc="left") == "here, longest 5"
