import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process

pytestmark = pytest.mark.usefixtures("x64")


H = 1e-7  # step of the finite differences
# 0 and 1; points close to them, within DDPM's first step; and others, none of them at
# a whole step of a chain, where the second derivative jumps.
EXTRA_TIMES = [0.0, 1e-4, 0.99937, 0.9999, 0.99995, 1.0]
GRID = np.sort(np.concatenate([np.linspace(0.00013, 0.99983, 2000), EXTRA_TIMES]))


@pytest.fixture(scope="module")
def curves(x64, schedule):
    """Returns all curves of a schedule on GRID, and their finite differences."""

    @jax.jit
    def evaluate(t):
        level = schedule.signal_level(t)
        names = ("alpha", "sigma", "d_alpha", "d_sigma")
        return dict(
            zip(names, schedule.coefficients(t), strict=True),
            log_snr=schedule.log_snr(t),
            level=level,
            back=schedule.time_of_signal_level(level),
        )

    # Three points around each time, at the ends to one side; differences of second
    # order in H at the first, middle or last of them.
    first = np.clip(GRID - H, 0.0, 1.0 - 2 * H)
    times = np.concatenate([GRID, first, first + H, first + 2 * H])
    out = {k: np.split(np.asarray(v), 4) for k, v in evaluate(times).items()}
    curve = {name: parts[0] for name, parts in out.items()}
    place = np.rint((GRID - first) / H).astype(int)
    weights = np.array([[-3, 4, -1], [-1, 0, 1], [1, -4, 3]])[place] / (2 * H)
    for name in ("alpha", "sigma"):
        curve[f"difference_{name}"] = (weights * np.stack(out[name][1:], 1)).sum(1)
    return curve


def test_ends(curves, ends):
    assert curves["alpha"][-1] == pytest.approx(1.0, abs=6e-5)
    if ends[0] is not None:
        assert curves["alpha"][0] == pytest.approx(ends[0], rel=1e-6, abs=1e-15)
    if ends[1] is not None:
        assert curves["sigma"][-1] == pytest.approx(ends[1], rel=1e-6, abs=1e-15)


def test_keeps_variance_where_promised(schedule, curves):
    variance = curves["alpha"] ** 2 + curves["sigma"] ** 2
    if schedule.name in ("linear", "ve"):
        assert abs(variance - 1).max() > 0.1
    else:
        np.testing.assert_allclose(variance, 1.0, atol=1e-12)


@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_derivatives_are_finite_differences(curves, name):
    derivative, difference = curves[f"d_{name}"], curves[f"difference_{name}"]
    scale = abs(derivative).max()
    np.testing.assert_allclose(derivative, difference, rtol=1e-4, atol=1e-6 * scale)


def test_signal_level_rises_within_its_range(schedule, curves):
    level = curves["level"]
    assert (np.diff(level) > 0).all()
    assert level[0] >= 0
    assert level[-1] <= 1
    if schedule.name != "ve" and schedule.num_steps != 1:
        assert level[0] < 0.02
    assert level[-1] > 0.98


def test_time_of_signal_level_inverts(curves):
    np.testing.assert_allclose(curves["back"], GRID, atol=1e-9)


def test_log_snr_agrees_with_coefficients(curves):
    inner = slice(20, -20)
    ratio = np.square(curves["alpha"][inner]) / np.square(curves["sigma"][inner])
    log_snr = curves["log_snr"][inner]
    np.testing.assert_allclose(log_snr, np.log(ratio), rtol=1e-9, atol=1e-12)


def test_time_of_signal_level_outside_jit():
    schedule = process.make_schedule("trigonometric")
    for half in (0.5, np.array([[0.5]])):
        t = schedule.time_of_signal_level(half)
        assert t.shape == np.shape(half)
        np.testing.assert_allclose(t, 0.5, atol=1e-9)


def test_levels_out_of_reach_give_the_nearest_end():
    schedule = process.make_schedule("ve")
    t = schedule.time_of_signal_level(jnp.array([0.0, 1e-3, 0.9999, 1.0]))
    np.testing.assert_allclose(t, [0, 0, 1, 1], atol=1e-12)


@pytest.mark.usefixtures("float32")
def test_single_precision_is_finite_everywhere(schedule):
    t = jnp.array([0.0, 1e-7, 1e-3, 0.5, 0.999, 1 - 6e-8, 1.0], jnp.float32)
    t = jnp.concatenate([t, jnp.linspace(0.0, 1.0, 101)])

    @jax.jit
    def evaluate(t):
        level = schedule.signal_level(t)
        inverse = schedule.time_of_signal_level
        gradients = [jax.vmap(jax.grad(schedule.log_snr))(t)]
        slope = jax.vmap(jax.grad(schedule.signal_level))(t)
        inverse_slope = jax.vmap(jax.grad(inverse))(level)
        gradients += [slope, inverse_slope]
        values = (*schedule.coefficients(t), schedule.log_snr(t), level)
        return inverse(level), values, gradients

    back, values, gradients = evaluate(t)
    chex.assert_tree_all_finite((back, values, gradients))
    assert {v.dtype for v in (back, *values, *gradients)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(back, t, atol=2e-5)
    assert (values[1] >= 0).all()
    # The derivative of an inverse, from times that are off by rounding.
    np.testing.assert_allclose(gradients[-1] * gradients[-2], 1.0, rtol=0.02)


@pytest.mark.parametrize("num_steps", [1, 2, 50, 1000])
@pytest.mark.parametrize("name", ["ddpm_linear", "ddpm_cosine"])
def test_table_is_cumulative_product_of_betas(name, num_steps):
    if name == "ddpm_linear":
        betas = np.linspace(1e-4, 0.02, num_steps)
    else:
        angle = (np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2
        f = np.cos(angle) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    schedule = process.make_schedule(name, num_steps=num_steps)
    t = schedule.time_of_step(np.arange(num_steps + 1))
    alpha, sigma, _, _ = jax.jit(schedule.coefficients)(t)
    np.testing.assert_allclose(alpha**2, alpha_bar, rtol=1e-10)
    np.testing.assert_allclose(sigma**2, 1 - alpha_bar, rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(schedule.step_index(t), np.arange(num_steps + 1))


@pytest.mark.parametrize(
    ("name", "options", "index", "alpha_bar"),
    [
        ("ddpm_linear", {}, 250, 5.240854e-01),
        ("ddpm_linear", {}, 750, 3.350550e-03),
        ("ddpm_linear", {}, 1000, 4.035830e-05),
        ("ddpm_cosine", {}, 1, 9.999587e-01),
        ("ddpm_cosine", {}, 750, 1.442721e-01),
        ("ddpm_cosine", {}, 1000, 2.428767e-09),
        ("ddpm_linear", {"num_steps": 100, "rescale_betas": True}, 50, 7.4197e-02),
        ("ddpm_linear", {"num_steps": 100, "rescale_betas": True}, 100, 2.039009e-05),
        ("ddpm_cosine", {"num_steps": 40, "power": 4.0}, 10, 7.174296e-01),
        ("ddpm_linear", {"num_steps": 50}, 50, 0.603),
    ],
)
@pytest.mark.usefixtures("float32")
def test_known_alpha_bar_in_single_precision(name, options, index, alpha_bar):
    schedule = process.make_schedule(name, **options)
    alpha = jax.jit(schedule.alpha)(schedule.time_of_step(index))
    assert float(alpha) ** 2 == pytest.approx(
        alpha_bar, rel=1e-3 if index == 50 else 5e-5
    )


def test_table_is_smooth_in_between():
    # A chain of 1000 steps is close to the continuous process it discretises.
    table = process.make_schedule("ddpm_linear")
    continuous = process.make_schedule("vp", time_floor=1e-6)
    # They differ by sum(beta^2) / 2 = 0.068 in the exponent, the end of log(1 - beta).
    t = jnp.linspace(0.0, 0.97, 3001)
    ours, theirs = jax.jit(table.log_snr)(t), jax.jit(continuous.log_snr)(t)
    np.testing.assert_allclose(ours, theirs, atol=0.07)
    bends, their_bends = np.diff(ours, 2)[:2700], np.diff(theirs, 2)[:2700]
    np.testing.assert_allclose(bends, their_bends, atol=1e-4)


def test_betas_may_be_anything_legal(rng):
    betas = jax.random.uniform(rng, (12,), minval=1e-3, maxval=0.9)
    schedule = process.schedule_from_betas(betas, "mine")
    level = jax.jit(schedule.signal_level)(jnp.linspace(0.0, 1.0, 4001))
    assert (jnp.diff(level) > 0).all()
    assert schedule.num_steps == 12


@pytest.mark.parametrize("name", ["ddpm_linear", "ddpm_cosine"])
def test_derivatives_are_continuous_at_whole_steps(name):
    schedule = process.make_schedule(name, num_steps=20)
    knots, h = np.arange(1, 20) / 20, 1e-9
    times = np.concatenate([knots - h, knots + h])
    for value in jax.jit(schedule.coefficients)(times):
        before, after = np.split(np.asarray(value), 2)
        np.testing.assert_allclose(before, after, rtol=1e-5)


def test_step_index_counts_from_data_to_noise():
    schedule = process.make_schedule("ddpm_linear", num_steps=50)
    np.testing.assert_allclose(schedule.step_index([1.0, 0.5, 0.0]), [0, 25, 50])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: process.make_schedule("cosine"), "linear, trigonometric, ddpm_linear"),
        (lambda: process.make_schedule("vp", beta=1), "beta_min, beta_max, time_floor"),
        (lambda: process.make_schedule("trigonometric", s=1), "valid: none"),
        (lambda: process.make_schedule("linear", sigma_min=1.0), "sigma_min"),
        (lambda: process.make_schedule("vp", time_floor=0.0), "time_floor"),
        (lambda: process.make_schedule("vp", beta_min=3, beta_max=2), "beta_min"),
        (lambda: process.make_schedule("ve", sigma_max=0.001), "sigma_max"),
        (lambda: process.make_schedule("ddpm_cosine", num_steps=0), "num_steps"),
        (lambda: process.make_schedule("ddpm_cosine", power=0.0), "power"),
        (lambda: process.make_schedule("ddpm_linear", beta_end=1.5), "betas"),
        (lambda: process.schedule_from_betas([], "none"), "non-empty"),
        (lambda: process.make_schedule("linear").step_index(0.5), "continuous"),
        (lambda: process.make_schedule("ve").time_of_step(1), "continuous"),
    ],
)
def test_errors_name_the_valid_choices(call, message):
    with pytest.raises(ValueError, match=message):
        call()
