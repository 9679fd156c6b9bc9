import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax import process

pytestmark = pytest.mark.usefixtures("x64")

KINDS = process.PREDICTION_KINDS
MEAN, STD = 0.7, 0.4  # of the Gaussian data


def test_interpolate_and_broadcasting():
    schedule = process.make_schedule("linear")
    data, noise = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 5.0)
    x_t = process.interpolate(schedule, jnp.array([0.25, 1.0]), data, noise)
    np.testing.assert_allclose(x_t[0], 0.25 + 0.75 * 5)
    np.testing.assert_allclose(x_t[1], 1.0)
    assert process.expand_like(jnp.zeros(2), data).shape == (2, 1, 1)
    assert process.expand_like(0.5, data).shape == ()


def test_targets_of_a_straight_line():
    schedule = process.make_schedule("linear")
    data, noise, t = jnp.array([[3.0]]), jnp.array([[1.0]]), jnp.array([0.5])
    values = [process.make_target(k, schedule, t, data, noise) for k in KINDS]
    np.testing.assert_allclose(np.ravel(values), [3.0, 1.0, 2.0, -2.0])


def test_velocity_target_is_the_time_derivative(default_schedule, rng):
    schedule = default_schedule
    data, noise = jax.random.normal(rng, (2, 2, 5, 3))

    @jax.jit
    def compare(t):
        def path(t):
            return process.interpolate(schedule, t, data, noise)

        target = process.make_target("velocity", schedule, t, data, noise)
        return target, jax.jvp(path, (t,), (jnp.ones_like(t),))[1]

    target, derivative = compare(jnp.array([0.2, 0.97]))
    np.testing.assert_allclose(target, derivative, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_skip_is_the_least_squares_fit(default_schedule, kind):
    """The fit is of a target on x_t, for uncorrelated data and noise of unit size."""
    data, noise = jnp.array([[1.0, 1, -1, -1]]), jnp.array([[1.0, -1, 1, -1]])
    for t in (0.0, 0.1, 0.6, 0.97):
        t = jnp.array([t])
        x_t = process.interpolate(default_schedule, t, data, noise)[0]
        target = process.make_target(kind, default_schedule, t, data, noise)[0]
        slope, *_ = np.linalg.lstsq(np.asarray(x_t)[:, None], target)
        skip, scale = process.linear_skip(kind, default_schedule, t, data)
        assert skip.shape == scale.shape == (1, 1)
        np.testing.assert_allclose(skip[0], slope, rtol=1e-9, atol=1e-12)
        rest = np.sqrt(np.mean(np.square(target - slope * x_t)))
        np.testing.assert_allclose(scale[0, 0], rest, rtol=1e-7, atol=1e-9)


def test_linear_skip_is_finite_at_the_ends(default_schedule):
    for kind in KINDS:
        both = process.linear_skip(kind, default_schedule, jnp.arange(2.0), jnp.ones(2))
        assert np.isfinite(both).all()


@pytest.fixture(scope="module")
def compiled_round_trip(x64, default_schedule):
    """Returns (data, noise, t) -> data_hat, noise_hat, velocity, score per kind."""
    schedule = default_schedule

    @jax.jit
    def convert(data, noise, t):
        x_t = process.interpolate(schedule, t, data, noise)
        results = {}
        for kind in KINDS:
            target = process.make_target(kind, schedule, t, data, noise)
            args = (kind, target, x_t, schedule, t)
            pair = process.to_data_and_noise(*args)
            results[kind] = (*pair, process.to_velocity(*args), process.to_score(*args))
        truth = [process.make_target(k, schedule, t, data, noise) for k in KINDS]
        return results, truth

    return convert


@settings(max_examples=25, deadline=None)
@given(
    t=st.floats(0.01, 0.99),
    data=st.floats(-10.0, 10.0),
    noise=st.floats(-5.0, 5.0),
)
def test_round_trip_of_every_kind(compiled_round_trip, t, data, noise):
    results, truth = compiled_round_trip(
        jnp.full((1, 2), data), jnp.full((1, 2), noise), jnp.full((1,), t)
    )
    for kind, values in results.items():
        for value, expected in zip(values, truth, strict=True):
            np.testing.assert_allclose(
                value, expected, rtol=1e-6, atol=1e-6, err_msg=kind
            )


def gaussian_denoiser(schedule):
    """Returns E[data | x_t], E[noise | x_t] for normal data, by linear regression."""

    def denoise(x_t, t):
        alpha, sigma, _, _ = schedule.coefficients(t)
        alpha, sigma = (process.expand_like(c, x_t) for c in (alpha, sigma))
        variance = alpha**2 * STD**2 + sigma**2
        centred = (x_t - alpha * MEAN) / variance
        return MEAN + alpha * STD**2 * centred, sigma * centred

    return denoise


def test_score_and_velocity_of_gaussian_data(default_schedule, rng):
    schedule = default_schedule

    def log_density(x, t):
        alpha, sigma, _, _ = schedule.coefficients(t)
        scale = jnp.sqrt(alpha**2 * STD**2 + sigma**2)
        return jax.scipy.stats.norm.logpdf(x, alpha * MEAN, scale)

    def convert(x_t, t):
        data_hat, noise_hat = gaussian_denoiser(schedule)(x_t, t)
        args = (x_t, schedule, t)
        velocity = process.to_velocity("data", data_hat, *args)
        scores = [
            process.to_score("data", data_hat, *args),
            process.to_score("noise", noise_hat, *args),
        ]
        return velocity, scores

    @jax.jit
    def compare(x_t, t):
        log_p_x, log_p_t = jax.vmap(jax.grad(log_density, (0, 1)))(x_t, t)
        primals, tangents = jax.jvp(lambda x: convert(x, t), (x_t,), (x_t * 0 + 1,))
        return log_p_x, log_p_t, *primals, tangents[0]

    t = jnp.repeat(jnp.array([0.05, 0.4, 0.9]), 8)
    x_t = jax.random.normal(rng, t.shape)
    score, log_p_t, velocity, scores, d_velocity = compare(x_t, t)
    for value in scores:
        np.testing.assert_allclose(value, score, rtol=1e-7, atol=1e-9)
    # Continuity equation: d/dt log p + u d/dx log p + du/dx = 0.
    residual = log_p_t + velocity * score + d_velocity
    assert abs(log_p_t).max() > 0.01
    np.testing.assert_allclose(residual / abs(log_p_t).max(), 0.0, atol=1e-9)


@pytest.mark.usefixtures("float32")
def test_ends_are_finite_with_finite_gradients(default_schedule, rng):
    schedule = default_schedule
    t = jnp.array([0.0, 1.0], jnp.float32)
    data, noise = jax.random.normal(rng, (2, 2, 3), jnp.float32)

    def evaluate(scale):
        outputs = []
        for kind in KINDS:
            target = process.make_target(kind, schedule, t, data, noise)
            args = (kind, scale * target, data + noise, schedule, t)
            outputs += [process.to_velocity(*args), process.to_score(*args)]
            outputs += [*process.to_data_and_noise(*args), target]
        return outputs

    @jax.jit
    def evaluate_with_derivative(scale):
        return jax.jvp(evaluate, (scale,), (jnp.ones_like(scale),))

    chex.assert_tree_all_finite(evaluate_with_derivative(jnp.float32(1.3)))


def test_what_stands_in_where_there_is_no_answer():
    schedule = process.make_schedule("trigonometric")
    x_t, guess = jnp.full((2, 1), 2.0), jnp.full((2, 1), 0.5)
    t = jnp.array([0.0, 1.0])
    data_hat, _ = process.to_data_and_noise("noise", guess, x_t, schedule, t)
    np.testing.assert_allclose(data_hat[:, 0], [0.0, 2.0], atol=1e-12)
    _, noise_hat = process.to_data_and_noise("data", guess, x_t, schedule, t)
    np.testing.assert_allclose(noise_hat[:, 0], [2.0, 0.0], atol=1e-12)


def test_shapes_that_would_broadcast_are_refused():
    schedule, x = process.make_schedule("linear"), jnp.zeros((3, 2))
    with pytest.raises(AssertionError, match="different shapes"):
        process.interpolate(schedule, 0.5, x, x[:1])
    with pytest.raises(AssertionError, match="different shapes"):
        process.to_data_and_noise("noise", x[:, :1], x, schedule, 0.5)


def test_unknown_kind_lists_the_valid_ones():
    schedule, x = process.make_schedule("linear"), jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="data, noise, velocity, score"):
        process.to_velocity("v", x, x, schedule, 0.5)
    with pytest.raises(ValueError, match="'eps'"):
        process.make_target("eps", schedule, 0.5, x, x)
