"""Networks of toy diffusion, and their samples, against exact predictors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.process import interpolate
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.toy_diffusion import exact, learning, networks, samples, sampling
from tests.studies.toy_world import (
    COSINE,
    LINEAR,
    MIXTURE,
    NOISE_KEY,
    NUM,
    SINGLE_STEP,
    make_lesson,
)

pytestmark = [pytest.mark.usefixtures("compile_quickly"), pytest.mark.thorough]


# Networks.


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
    # The second seed does not affect the first.
    changed = lesson._replace(
        rngs=lesson.rngs[jnp.array([0, 0])], data=lesson.data.at[1].set(0.0)
    )
    _, other = train(changed, schedule, "noise")
    np.testing.assert_allclose(other[0], both[0], rtol=1e-3)


@pytest.mark.parametrize("target", networks.TARGETS)
def test_examples_have_the_least_loss_under_the_exact_predictor(target):
    """Judges each target's examples by a predictor that never saw them."""
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
    """With noise equal to the data, x_t = (alpha + sigma) data hides nothing."""
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
    """Returns networks with little training, whose excess is far from 0."""
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
    # alpha is nearly 0 here, so that quotients by it are arbitrary.
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
    # At one mean all samples cover nothing and remember nothing.
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
    """Measures exact predictors under the linear schedule, T = 50."""
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
