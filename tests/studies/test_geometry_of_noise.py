"""Blind fields against quadrature, automatic gradients, brute force and their laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate as quadrature
from scipy.special import logsumexp, softmax

from ncgn_jax.process import integrate, make_schedule, single_step, to_velocity
from ncgn_jax.studies.geometry_of_noise import blind_fields, errors, near_data, sampling
from ncgn_jax.studies.geometry_of_noise import study as geometry_of_noise
from ncgn_jax.studies.mixtures import mixture_denoiser, mixture_log_density

FLOW = make_schedule("linear")
VP = make_schedule("vp", time_floor=geometry_of_noise.VP_TIME_FLOOR)
SCHEDULES = {"FM": FLOW, "VP": VP}
RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(6, 3))
X = RNG.normal(size=(5, 3))


pytestmark = pytest.mark.usefixtures("compile_quickly")

blind_prediction = jax.jit(blind_fields.blind_prediction, static_argnums=(0, 3))
decompose_field = jax.jit(blind_fields.decompose_field, static_argnums=(0, 3))
marginal_energy = jax.jit(blind_fields.marginal_energy, static_argnums=2)
walk = jax.jit(sampling.walk, static_argnums=(0, 3, 5))
make_circles = jax.jit(sampling.make_circles, static_argnums=(0, 1))
circle_distances = jax.jit(sampling.circle_distances)


def uniform(**limits):
    return blind_fields.uniform_noise_prior(48, **limits)


def brute_force_mean(target, x, schedule, prior):
    """Returns E[target(data, noise, t) | x] by loops over levels and points."""
    top, bottom = 0.0, 0.0
    alpha, sigma, _, _ = (np.asarray(c) for c in schedule.coefficients(prior.times))
    for node, log_weight in enumerate(np.asarray(prior.log_weights)):
        for point in POINTS:
            gap = x - alpha[node] * point
            weight = np.exp(log_weight - 0.5 * gap @ gap / sigma[node] ** 2)
            weight /= sigma[node] ** len(x)
            top += weight * target(point, gap / sigma[node], node)
            bottom += weight
    return top / bottom, bottom


@pytest.mark.parametrize("name", SCHEDULES)
def test_blind_fields_are_means_over_levels_and_points(name):
    schedule, prior = SCHEDULES[name], uniform()
    data, x = jnp.asarray(POINTS), jnp.asarray(X)
    _, _, d_alpha, d_sigma = (np.asarray(c) for c in schedule.coefficients(prior.times))
    noise_times = 1.0 - np.asarray(prior.times)
    targets = {
        "data": lambda point, noise, node: point,
        "noise": lambda point, noise, node: noise,
        "velocity": lambda p, n, node: d_alpha[node] * p + d_sigma[node] * n,
        "equilibrium": lambda p, n, node: noise_times[node] * (n - p),
    }
    assert set(targets) == set(blind_fields.FIELD_KINDS)
    for kind, target in targets.items():
        found = blind_prediction(kind, x, data, schedule, prior)
        for row, place in zip(found, X, strict=True):
            expected, _ = brute_force_mean(target, place, schedule, prior)
            np.testing.assert_allclose(row, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_energy_is_that_of_the_mixtures_of_all_levels(name):
    schedule, prior = SCHEDULES[name], uniform(most=0.999)
    weights = np.full(len(POINTS), 1 / len(POINTS))

    def log_density(t):
        times = jnp.full(len(X), t)
        return mixture_log_density(X, times, POINTS, weights, 0.0, schedule)

    densities = np.asarray(jax.jit(jax.vmap(log_density))(prior.times))
    joint = np.asarray(prior.log_weights)[:, None] + densities
    energy = marginal_energy(X, POINTS, schedule, prior)
    np.testing.assert_allclose(energy, -logsumexp(joint, axis=0), rtol=1e-12)
    noise_posterior = jax.jit(blind_fields.noise_posterior, static_argnums=2)
    posterior = noise_posterior(X, POINTS, schedule, prior)
    np.testing.assert_allclose(posterior, softmax(joint, axis=0).T, atol=1e-13)


def test_energy_is_the_integral_over_uniform_noise_times():
    """Compares one point in one dimension with adaptive quadrature."""
    place = 0.3

    def density(s):
        return np.exp(-0.5 * ((place - (1 - s) * 0.7) / s) ** 2) / s

    expected, _ = quadrature.quad(density, 1e-3, 1, epsabs=1e-12, limit=200)
    expected /= (1 - 1e-3) * np.sqrt(2 * np.pi)
    prior = blind_fields.uniform_noise_prior(4096, least=1e-3)
    x, data = jnp.array([[place]]), jnp.array([[0.7]])
    energy = marginal_energy(x, data, FLOW, prior)
    np.testing.assert_allclose(np.exp(-energy), expected, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_identities_of_the_paper(name):
    """The gradient equals autodiff's and the parts add up, to 1e-10."""
    prior = uniform(most=0.999)
    found = jax.jit(geometry_of_noise.identity_errors, static_argnums=2)(
        jnp.asarray(X), jnp.asarray(POINTS), SCHEDULES[name], prior
    )
    assert set(found) == {"grad E", *blind_fields.FIELD_KINDS}
    assert max(float(error) for error in found.values()) < 1e-10


def test_decomposition_by_its_definition():
    """Compares natural gradient and drift with separate sums over levels."""
    prior = uniform(most=0.999)
    x, data = jnp.asarray(X[:1]), jnp.asarray(POINTS)
    parts = decompose_field("velocity", x, data, FLOW, prior)
    s = 1.0 - np.asarray(prior.times)
    factor = s / (1.0 - s)  # lambda = (b/a)(d a - c b) with c = -1, d = 1
    mean_factor, _ = brute_force_mean(
        lambda p, n, node: factor[node], X[0], FLOW, prior
    )
    gradient, _ = brute_force_mean(lambda p, n, node: n / s[node], X[0], FLOW, prior)
    drift, _ = brute_force_mean(lambda p, n, node: 1 / (1 - s[node]), X[0], FLOW, prior)
    # Our velocity is minus the paper's, and so are lambda and c / alpha.
    np.testing.assert_allclose(parts.natural[0], -mean_factor * gradient, rtol=1e-9)
    np.testing.assert_allclose(parts.drift[0], drift * X[0], rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["data", "noise", "velocity"])
def test_gains_are_those_of_the_conversions(kind, name):
    t = jnp.array([0.1, 0.5, 0.9, 0.999])
    x, field = jax.random.normal(jax.random.key(1), (2, 4, 3))
    mu, nu = blind_fields.sampler_gains(kind, SCHEDULES[name], t)
    found = mu[:, None] * x + nu[:, None] * field
    expected = to_velocity(kind, field, x, SCHEDULES[name], t)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_gains_of_the_note():
    t = 1.0 - jnp.array([0.5, 0.1, 1e-4])
    mu, nu = blind_fields.sampler_gains("velocity", FLOW, t)
    np.testing.assert_allclose(mu, 0.0, atol=1e-12)
    np.testing.assert_allclose(nu, 1.0, atol=1e-12)
    # The paper reverses time, so nu of noise and data change sign.
    _, nu = blind_fields.sampler_gains("noise", FLOW, t)
    np.testing.assert_allclose(-nu[1], 1.111111, atol=1e-6)
    _, nu = blind_fields.sampler_gains("data", FLOW, t)
    np.testing.assert_allclose(-nu[1], -10.0, atol=1e-6)
    _, nu = blind_fields.sampler_gains("noise", VP, t)
    np.testing.assert_allclose(-nu[0], 5.236261, atol=1e-6)
    np.testing.assert_allclose(-nu[2] * VP.sigma(t[2]), 0.050995, atol=1e-6)
    # As x - alpha data = sigma noise, equilibrium on FM is (1 - t)(noise - data).
    mu, nu = blind_fields.sampler_gains("equilibrium", FLOW, t)
    np.testing.assert_allclose(mu, 0.0, atol=1e-12)
    np.testing.assert_allclose(nu, -1.0 / (1.0 - t), rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_told_predictions_are_the_limit_of_a_narrow_prior(name):
    schedule, t = SCHEDULES[name], 0.6
    prior = uniform(least=0.4 - 1e-6, most=0.4 + 1e-6)

    @jax.jit
    def told(x, data):
        times = jnp.full(len(x), t)
        return {
            kind: blind_fields.told_prediction(kind, x, times, data, schedule)
            for kind in blind_fields.FIELD_KINDS
        }

    for kind, expected in told(X, POINTS).items():
        blind = blind_prediction(kind, X, POINTS, schedule, prior)
        np.testing.assert_allclose(blind, expected, atol=1e-4)


@pytest.mark.parametrize(("codimension", "length"), [(8, 2.553231), (32, 5.523051)])
def test_laws_near_a_point(codimension, length):
    distance = np.array([0.01])
    found = near_data.measure_near_point(codimension, distance, FLOW)
    found = {key: float(value[0]) for key, value in found.items()}
    np.testing.assert_allclose(found["gradient"] * 0.01, codimension - 1, atol=1e-3)
    np.testing.assert_allclose(found["noise"], length, atol=1e-3)
    np.testing.assert_allclose(found["velocity"], length, atol=1e-3)
    np.testing.assert_allclose(found["equilibrium"], 0.01, atol=1e-6)
    share = near_data.correction_share(codimension)
    np.testing.assert_allclose(found["correction"], share, rtol=1e-4)
    law = near_data.natural_gradient_length(codimension)
    np.testing.assert_allclose(found["natural"], law, rtol=1e-4)


def test_laws_near_data_of_the_note():
    for k, length, natural in (
        (3, 1.253314, 2.506628),
        (8, 2.553231, 2.978769),
        (32, 5.523051, 5.707153),
        (128, 11.247266, 11.336530),
    ):
        np.testing.assert_allclose(near_data.mean_noise_length(k), length, atol=1e-6)
        found = near_data.natural_gradient_length(k)
        np.testing.assert_allclose(found, natural, atol=1e-6)
    assert near_data.natural_gradient_length(2) == np.inf


@pytest.mark.parametrize("k", [5, 9])
def test_laws_by_integration(k):
    """Compares the laws with moments of p(s) ~ s^-k exp(-1 / 2 s^2)."""

    def moment(power):
        return quadrature.quad(
            lambda s: s ** (power - k) * np.exp(-0.5 / s**2), 0, np.inf
        )[0]

    length = moment(-1) / moment(0)
    natural = moment(1) * moment(-2) / moment(0) ** 2
    np.testing.assert_allclose(near_data.mean_noise_length(k), length, rtol=1e-7)
    np.testing.assert_allclose(near_data.natural_gradient_length(k), natural, rtol=1e-7)
    share = 1.0 - natural / length
    np.testing.assert_allclose(near_data.correction_share(k), share, rtol=1e-6)


def test_velocity_near_a_point_of_the_note():
    """lambda_bar |grad E| of the velocity field: 2.980 at distance 1e-3."""
    prior = blind_fields.uniform_noise_prior(512, 1e-5, 0.999)
    x = 1e-3 * np.eye(8)[:1]
    parts = decompose_field("velocity", x, np.zeros((1, 8)), FLOW, prior)
    np.testing.assert_allclose(np.linalg.norm(parts.natural), 2.980, atol=5e-4)


def test_near_a_ring_the_codimension_counts():
    found = near_data.measure_near_ring(6, 0.05, FLOW, 1024)
    np.testing.assert_allclose(found["gradient"] * 0.05, 4.0, rtol=0.02)
    length = near_data.mean_noise_length(5)
    np.testing.assert_allclose(found["noise"], length, rtol=0.02)
    np.testing.assert_allclose(found["inward"] * 0.05, length, rtol=0.03)
    np.testing.assert_allclose(found["equilibrium"], 0.05, rtol=1e-3)


def test_field_errors_near_data_follow_their_law():
    """Both schedules, 1-t = 1e-4, dimension 32; two to three standard errors."""
    rng, num = jax.random.key(0), 256
    points = make_circles(16, 32, rng).points
    prior = blind_fields.uniform_noise_prior(192, least=1e-6)
    gains = jax.jit(blind_fields.sampler_gains, static_argnums=(0, 1))
    for name, kinds, codimension in (
        ("VP", ("noise", "data"), 31),
        ("FM", ("velocity", "noise"), 32),
    ):
        schedule = SCHEDULES[name]
        found = errors.drift_errors(kinds, schedule, points, prior, 1e-4, num, rng)
        for kind in set(kinds) - {"data"}:
            gain = abs(float(gains(kind, schedule, 1 - 1e-4)[1]))
            law = errors.expected_field_error(32, codimension)
            error = np.mean(found[kind]) / gain
            np.testing.assert_allclose(error, law, atol=2.5 * 0.43 / num**0.5)
        if name == "VP":
            assert np.max(found["data"]) < 1e-6


def test_expected_field_error_by_monte_carlo():
    length = np.linalg.norm(np.random.default_rng(1).normal(size=(200_000, 8)), axis=-1)
    expected = np.abs(length - near_data.mean_noise_length(8)).mean()
    np.testing.assert_allclose(errors.expected_field_error(8, 8), expected, atol=3e-3)


def test_drift_error_is_the_difference_of_velocities():
    """Compares with `to_velocity` of both predictions, which uses no gains."""
    rng, prior = jax.random.key(3), uniform()
    kinds = ("noise", "data")
    found = errors.drift_errors(kinds, VP, POINTS, prior, 0.2, 4, rng)

    @jax.jit
    def gaps(points):
        x, _ = errors.noised_samples(points, VP, 0.2, 4, rng)
        t = jnp.full(4, 0.8)
        denoise = mixture_denoiser(points, jnp.full(6, 1 / 6), 0.0, VP)
        told = dict(zip(("data", "noise"), denoise(x, t), strict=True))
        blind = {
            kind: blind_fields.blind_prediction(kind, x, points, VP, prior)
            for kind in kinds
        }
        return {
            kind: to_velocity(kind, blind[kind], x, VP, t)
            - to_velocity(kind, told[kind], x, VP, t)
            for kind in kinds
        }

    for kind, gap in gaps(POINTS).items():
        lengths = np.linalg.norm(gap, axis=-1)
        np.testing.assert_allclose(found[kind], lengths, rtol=1e-8)


def test_jensen_gap_and_spread_in_high_dimension():
    """Gaussian posterior of relative width w = 1/sqrt(2 dim): gap |N(0, w^2)|."""
    rng, dim, num = jax.random.key(0), 128, 256
    points = make_circles(16, dim, rng).points
    prior = blind_fields.uniform_noise_prior(128, least=1e-3)
    found = errors.jensen_gaps(FLOW, points, prior, 0.1, num, rng)
    width = (2 * dim) ** -0.5
    np.testing.assert_allclose(np.mean(found["log_sd"]), width, rtol=0.05)
    expected = width * np.sqrt(2 / np.pi)
    tolerance = 3 * 0.75 / num**0.5
    np.testing.assert_allclose(np.mean(found["gap"]), expected, rtol=tolerance)


def test_correction_share_of_noised_points():
    """Near data it is 1 / (dim - 2) at every distance of the sample."""
    rng = jax.random.key(0)
    points = make_circles(8, 16, rng).points
    prior = blind_fields.uniform_noise_prior(96, least=1e-4, most=0.999)
    shares = errors.correction_shares(FLOW, points, prior, 0.01, 8, rng)
    np.testing.assert_allclose(shares, 1 / 14, rtol=0.04)


def test_circles_and_distances(rng):
    circles = make_circles(8, 5, rng)
    circles = jax.tree.map(np.asarray, circles)
    np.testing.assert_allclose(circles.frame.T @ circles.frame, np.eye(2), atol=1e-12)
    radii = np.linalg.norm(circles.points, axis=-1)
    np.testing.assert_allclose(radii, [1.0] * 4 + [0.5] * 4, atol=1e-12)
    off_plane = np.linalg.qr(np.concatenate([circles.frame, np.ones((5, 1))], axis=1))[
        0
    ][:, 2]
    x = 1.1 * circles.points + 0.3 * off_plane[None]
    found = circle_distances(x, circles.frame)
    in_plane = np.array([0.1] * 4 + [0.05] * 4)
    np.testing.assert_allclose(found.in_plane, in_plane, atol=1e-12)
    np.testing.assert_allclose(found.full, np.hypot(in_plane, 0.3), atol=1e-12)
    np.testing.assert_array_equal(found.nearest, [0] * 4 + [1] * 4)
    with pytest.raises(ValueError, match="dim >= 2"):
        sampling.make_circles(7, 5, rng)


def test_summary_of_distances():
    full = np.array([0.0, 0.3, 0.04, 0.4])
    distances = sampling.Distances(full, full / 10, np.array([0, 0, 1, 1]))
    found = sampling.summarise(distances, num_draws=2)
    rms = np.array([np.sqrt(0.045), np.sqrt(0.0808)])
    np.testing.assert_allclose(found["rms"], rms.mean())
    np.testing.assert_allclose(found["rms_sd"], rms.std(ddof=1))
    assert (found["share"], found["outer"], found["in_plane_share"]) == (0.5, 0.25, 1.0)


@functools.cache
def final_distances(name, dim, num_steps=60):
    rng_plane, rng_start = jax.random.split(jax.random.key(0))
    circles = make_circles(64, dim, rng_plane)
    way = sampling.WAYS[name]
    prior = blind_fields.uniform_noise_prior(96)
    start = jax.random.normal(rng_start, (64, dim))
    x = walk(way, start, circles.points, SCHEDULES[way.process], prior, num_steps)
    return sampling.summarise(circle_distances(x, circles.frame), 1)


@pytest.mark.parametrize("name", ["told velocity FM", "told noise VP"])
def test_told_models_reach_the_circles(name):
    assert final_distances(name, 8)["share"] == 1.0
    assert final_distances(name, 8)["rms"] < 0.02


def test_blind_models_in_eight_dimensions():
    """Bounds, for 64 samples, an RMS that is .31-.37, .52-.62, .0001 for 256."""
    assert 0.2 < final_distances("blind velocity FM", 8)["rms"] < 0.5
    assert 0.4 < final_distances("blind noise VP", 8)["rms"] < 0.85
    assert final_distances("blind equilibrium", 8)["rms"] < 1e-2
    assert final_distances("blind equilibrium", 8)["share"] == 1.0


def test_in_two_dimensions_descent_collapses():
    found = final_distances("blind equilibrium", 2, 100)
    np.testing.assert_allclose(found["rms"], 0.43, atol=0.02)
    assert found["share"] == 0.0


def test_blindness_that_never_sets_in_is_told():
    way, schedule = sampling.WAYS["blind noise VP"], VP
    points, prior = POINTS, uniform()
    start = np.random.default_rng(1).normal(size=(4, 3))
    told = way._replace(is_blind=False)
    arguments = (start, points, schedule, prior, 8)
    never = walk(way, *arguments, 1.0)
    np.testing.assert_allclose(never, walk(told, *arguments), atol=1e-12)
    always = walk(way, *arguments)
    np.testing.assert_allclose(always, walk(way, *arguments, -1.0), atol=1e-12)
    assert np.max(np.abs(np.asarray(always) - never)) > 0.01


def test_of_the_space_off_the_plane_only_the_distance_counts():
    """In a space of 3 reweighted dimensions the walk in 7 is the same.

    Off the plane of the data only the distance counts, and the dimension enters by
    sigma^-dim alone: data (point, 0) in 3 dimensions, prior times sigma^-4.
    """
    prior = uniform()
    circles = make_circles(8, 7, jax.random.key(2))
    circles = jax.tree.map(np.asarray, circles)
    start = np.random.default_rng(3).normal(size=(4, 7))
    flat, low = start @ circles.frame, circles.points @ circles.frame
    height = np.linalg.norm(start - flat @ circles.frame.T, axis=-1)
    low_prior = prior._replace(
        log_weights=prior.log_weights - 4 * np.log(FLOW.sigma(prior.times))
    )
    low_points = np.pad(low, ((0, 0), (0, 1)))
    low_start = np.concatenate([flat, height[:, None]], axis=1)
    way = sampling.WAYS["blind velocity FM"]
    x = np.asarray(walk(way, start, circles.points, FLOW, prior, 4))
    low_x = np.asarray(walk(way, low_start, low_points, FLOW, low_prior, 4))
    np.testing.assert_allclose(x @ circles.frame, low_x[:, :2], atol=1e-10)
    off = x - (x @ circles.frame) @ circles.frame.T
    np.testing.assert_allclose(
        np.linalg.norm(off, axis=-1), np.abs(low_x[:, 2]), atol=1e-10
    )


def test_descent_is_gradient_descent():
    sampler = single_step(sampling.make_descent(lambda x: 2.0 * x, 0.1))
    x = integrate(
        sampler, None, FLOW, np.ones((2, 3)), np.linspace(0, 1, 4), jax.random.key(0)
    )
    np.testing.assert_allclose(x, 0.8**3)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="0 < least < most"):
        blind_fields.uniform_noise_prior(8, least=0.0)
    with pytest.raises(ValueError, match="unknown field kind 'score'"):
        blind_fields.target_coefficients("score", FLOW, jnp.zeros(1))
