import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax import process

pytestmark = pytest.mark.usefixtures("x64")

KINDS = process.PREDICTION_KINDS


def test_weighted_mse_is_a_mean_over_real_nodes(rng):
    prediction, target = jax.random.normal(rng, (2, 3, 5, 2))
    mask = jnp.arange(5)[None, :] < jnp.array([5, 2, 0])[:, None]
    weight = jnp.array([1.0, 0.5, 7.0])
    loss = process.weighted_mse(prediction, target, weight, mask)
    errors = np.square(np.asarray(prediction - target))
    expected = [errors[0].mean(), 0.5 * errors[1, :2].mean(), 0.0]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    whole = process.weighted_mse(prediction, target, weight)
    np.testing.assert_allclose(whole, weight * errors.mean((1, 2)), rtol=1e-12)


def test_padding_has_no_influence_on_loss_or_gradient(rng):
    target = jax.random.normal(rng, (1, 4, 3))
    mask = jnp.array([[True, True, False, False]])
    prediction = jnp.zeros_like(target).at[:, 2:].set(jnp.nan)

    def loss(x):
        return process.weighted_mse(x, target, 1.0, mask).sum()

    value, gradient = jax.value_and_grad(loss)(prediction)
    assert float(value) == pytest.approx(float((target[:, :2] ** 2).mean()))
    np.testing.assert_array_equal(gradient[:, 2:], 0.0)
    np.testing.assert_allclose(gradient[:, :2], -target[:, :2] / 3, rtol=1e-12)


def test_low_precision_errors_are_summed_in_float32():
    prediction = jnp.ones((1, 4096), jnp.bfloat16)
    loss = process.weighted_mse(prediction, jnp.zeros_like(prediction), 1.0)
    assert loss.dtype == jnp.float32
    assert float(loss[0]) == 1.0


def test_weighted_error_is_the_same_for_all_kinds(default_schedule):
    schedule, t = default_schedule, jnp.array([0.1, 0.3, 0.5, 0.8])
    data, noise = jnp.full((4, 1), 0.3), jnp.full((4, 1), -1.1)

    @jax.jit
    def losses():
        x_t = process.interpolate(schedule, t, data, noise)
        # A wrong guess of the data, expressed in each kind, x_t fixed.
        wrong = process.to_data_and_noise("data", data + 0.2, x_t, schedule, t)
        out = {name: [] for name in ("snr", "min_snr", "sigmoid")}
        for kind in KINDS:
            truth = process.make_target(kind, schedule, t, data, noise)
            guess = process.make_target(kind, schedule, t, *wrong)
            for name, values in out.items():
                weight = process.loss_weight(name, kind, schedule, t)
                values.append(process.weighted_mse(guess, truth, weight))
        return out

    # The data weight of "snr" is limited to 1e4.
    is_below_limit = np.exp(np.asarray(schedule.log_snr(t))) < 1e4
    for name, by_kind in losses().items():
        by_kind = np.asarray(by_kind)[:, is_below_limit if name == "snr" else slice(4)]
        first = np.tile(by_kind[:1], (4, 1))
        np.testing.assert_allclose(by_kind, first, rtol=1e-6, err_msg=name)


def test_weights_against_published_formulas():
    schedule, t = process.make_schedule("trigonometric"), jnp.array([0.2, 0.5, 0.9])
    snr = np.tan(np.pi * np.asarray(t) / 2) ** 2

    def weight(*args):
        return process.loss_weight(*args, schedule, t)

    np.testing.assert_allclose(weight("uniform", "velocity"), 1.0)
    np.testing.assert_allclose(weight("snr", "noise"), 1.0)
    np.testing.assert_allclose(weight("snr", "data"), snr)
    # Hang et al. 2023, section 3.4: noise min(SNR, g)/SNR, data min(SNR, g), and
    # v min(SNR, g)/(SNR + 1); on a circle our velocity is v times -pi/2.
    clipped = np.minimum(snr, 5.0)
    np.testing.assert_allclose(weight("min_snr", "data"), clipped)
    np.testing.assert_allclose(weight("min_snr", "noise"), clipped / snr)
    np.testing.assert_allclose(
        weight("min_snr", "velocity"), clipped / (snr + 1) / (np.pi / 2) ** 2
    )
    # Kingma & Gao 2023: sigmoid(-log SNR) on the noise error, sigma^2 on a circle.
    expected = np.cos(np.pi * np.asarray(t) / 2) ** 2
    np.testing.assert_allclose(weight("sigmoid", "noise"), expected)


@pytest.mark.usefixtures("float32")
def test_weights_are_finite_at_the_ends(default_schedule):
    schedule = default_schedule
    t = jnp.array([0.0, 1e-6, 0.5, 1.0], jnp.float32)

    @jax.jit
    def evaluate():
        return [
            process.loss_weight(name, kind, schedule, t)
            for name in process.LOSS_WEIGHTS
            for kind in KINDS
        ]

    weights = evaluate()
    chex.assert_tree_all_finite(weights)
    assert min(float(w.min()) for w in weights) >= 0


def test_errors_name_the_valid_choices():
    schedule, x = process.make_schedule("linear"), jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="uniform, snr, min_snr, sigmoid"):
        process.loss_weight("p2", "data", schedule, 0.5)
    with pytest.raises(ValueError, match="data, noise, velocity, score"):
        process.loss_weight("snr", "v", schedule, 0.5)
    with pytest.raises(ValueError, match="shape"):
        process.weighted_mse(x, x[:1], 1.0)
    with pytest.raises(ValueError, match="mask"):
        process.weighted_mse(x, x, 1.0, jnp.ones((3,), bool))


def test_logit_normal_times_by_hand():
    # Quantiles of a normal law at -1, 0 and 1 deviations; sigmoid(0 + 2 * that).
    u = jnp.array([0.158655253931457, 0.5, 0.841344746068543])
    t = process.logit_normal_times(u, 0.5, 2.0)
    np.testing.assert_allclose(t, [0.119202922, 0.5, 0.880797078], atol=1e-9)
    # Odds of 3 to 1 in the middle; 0 and 1 are kept.
    t = process.logit_normal_times(jnp.array([0.0, 0.5, 1.0]), 0.75, 1.3)
    np.testing.assert_allclose(t, [0.0, 0.75, 1.0], atol=1e-12)
    with jax.enable_x64(False):
        t = process.logit_normal_times(jnp.linspace(0.0, 1.0, 1001), 0.75, 1.3)
    assert (np.diff(t) > 0).all()
