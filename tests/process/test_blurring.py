import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dct
from scipy.linalg import eigvalsh_tridiagonal, expm

from ncgn_jax import process
from ncgn_jax.process.blurring import (
    BLURS,
    HEAT_KINDS,
    dct_basis,
    from_modes,
    heat_rates,
    make_blur,
    make_heat_modes,
    still_schedule,
    to_modes,
    with_heat,
)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def laplacian(kind, n):
    """Returns a Laplacian from the edges of the graph."""
    if kind == "complete":
        return np.eye(n) - np.full((n, n), 1 / n)
    path = np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    return np.diag(path.sum(1)) - path


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_basis_is_scipys_orthonormal_dct(n):
    expected = dct(np.eye(n), type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(dct_basis(n), expected, atol=1e-13)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_modes_diagonalise_both_laplacians(n):
    basis = dct_basis(n)
    for kind in HEAT_KINDS:
        turned = basis @ laplacian(kind, n) @ basis.T
        np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-13)
    np.testing.assert_allclose(np.diag(turned), heat_rates("complete", n), atol=1e-13)


def test_dct_rates_are_those_of_a_fine_path():
    """Refines a rod of unit length per node until its path is continuous."""
    n, finer = 5, 400
    matrix = laplacian("dct", n * finer) * finer**2
    bands = np.diag(matrix), np.diag(matrix, 1)
    fine = eigvalsh_tridiagonal(*bands, select="i", select_range=(0, n - 1))
    np.testing.assert_allclose(heat_rates("dct", n), fine, 1e-4, 1e-8)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_kernel_of_the_complete_graph_is_scipys_and_moves_with_the_nodes(n):
    modes = make_heat_modes("complete", 8)
    basis, rates = (np.asarray(part[n], float) for part in (modes.basis, modes.rates))
    kernel = (basis.T * np.exp(-0.7 * rates)) @ basis
    np.testing.assert_allclose(
        kernel[:n, :n], expm(-0.7 * laplacian("complete", n)), atol=1e-6
    )
    order = np.random.default_rng(0).permutation(n)
    np.testing.assert_allclose(kernel[order][:, order], kernel[:n, :n], atol=1e-6)


def test_padding_stays_zero_and_modes_round_trip():
    modes = make_heat_modes("dct", 6)
    values = np.zeros((2, 6, 3), np.float32)
    rng = np.random.default_rng(0)
    values[0, :4], values[1] = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    basis = jnp.asarray(modes.basis[[4, 6]])
    coefficients = to_modes(basis, values)
    assert not np.any(np.asarray(coefficients)[0, 4:])
    np.testing.assert_allclose(from_modes(basis, coefficients), values, atol=1e-6)
    np.testing.assert_allclose(
        np.sum(np.asarray(coefficients) ** 2), np.sum(values**2), rtol=1e-5
    )


@pytest.mark.parametrize("name", BLURS)
def test_blur_falls_from_its_maximum_to_zero(name):
    blur = make_blur(name, 2.0)
    t = jnp.linspace(0, 1, 101)
    values = np.asarray(blur(t))
    assert values[0] == pytest.approx(2.0)
    assert values[-1] == pytest.approx(0.0, abs=1e-12)
    assert (np.diff(values) < 0).all()


def test_levels_are_log_spaced_above_zero():
    blur = make_blur("levels", 20.0, 0.5, num_levels=4)
    levels = np.asarray(blur(1.0 - jnp.arange(5) / 4))
    np.testing.assert_allclose(levels[0], 0, atol=1e-12)
    ratio = (20 / 0.5) ** (1 / 3)
    np.testing.assert_allclose(levels[1:], 0.5 * ratio ** np.arange(4), rtol=1e-6)


def heated(kind="dct", base="linear", rows=(4, 6), max_blur=2.0):
    modes = make_heat_modes(kind, 6)
    rates = jnp.asarray(modes.rates[list(rows)], float)
    basis = jnp.asarray(modes.basis[list(rows)], float)
    blur = make_blur("sine", max_blur)
    return with_heat(process.make_schedule(base), rates, blur), basis, rates, blur


def test_interpolant_blurs_with_the_heat_kernel(rng):
    schedule, basis, rates, blur = heated()
    data = np.zeros((2, 6, 3))
    data[0, :4], data[1] = (
        np.random.default_rng(0).normal(size=(10, 3)).reshape(10, 3)[:4],
        np.random.default_rng(1).normal(size=(6, 3)),
    )
    t = jnp.array([0.3, 0.6])
    x = process.interpolate(schedule, t, to_modes(basis, data), jnp.zeros((2, 6, 3)))
    x = np.asarray(from_modes(basis, x))
    for row, n in enumerate((4, 6)):
        own = np.asarray(basis[row, :n, :n])
        tau = float(blur(t[row])) ** 2 / 2
        heat = expm(-tau * own.T @ np.diag(np.asarray(rates[row, :n])) @ own)
        expected = float(t[row]) * heat @ data[row, :n]
        np.testing.assert_allclose(x[row, :n], expected, atol=1e-6)
        assert not x[row, n:].any()


@pytest.mark.parametrize("kind", process.PREDICTION_KINDS)
def test_every_target_gives_back_data_and_noise(kind, rng):
    schedule, _, _, _ = heated()
    data = jax.random.normal(rng, (2, 6, 3))
    noise = jax.random.normal(jax.random.fold_in(rng, 1), (2, 6, 3))
    t = jnp.array([0.4, 0.8])
    x_t = process.interpolate(schedule, t, data, noise)
    target = process.make_target(kind, schedule, t, data, noise)
    pair = process.to_data_and_noise(kind, target, x_t, schedule, t)
    np.testing.assert_allclose(pair[0], data, atol=1e-9)
    np.testing.assert_allclose(pair[1], noise, atol=1e-9)


@pytest.mark.parametrize(
    ("sampler", "num_steps"),
    [
        ("ab2", 60),
        ("ddim", 60),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (("heun", 60), ("dpmpp_2m", 60), ("ancestral", 500))
        ),
    ],
)
def test_samplers_turn_noise_into_gaussian_data(sampler, num_steps, rng):
    """Samples must have the known variance of the data in each mode.

    Ancestral steps lose variance in proportion to their size.
    """
    count = 4000
    modes = make_heat_modes("dct", 3)
    rates = jnp.broadcast_to(jnp.asarray(modes.rates[3], float), (count, 3))
    schedule = with_heat(
        process.make_schedule("trigonometric"), rates, make_blur("sine", 1.0)
    )
    variance = jnp.array([1.0, 0.25, 4.0])[None, :, None]

    def predict(x, t):
        alpha, sigma, _, _ = schedule.coefficients(t)
        return alpha * variance * x / (alpha**2 * variance + sigma**2)

    denoise = process.make_denoiser(predict, "data", schedule)
    x = jax.random.normal(rng, (count, 3, 2))
    times = process.make_time_grid("uniform", num_steps)
    walk = process.make_sampler(sampler), denoise, schedule
    x = process.integrate(*walk, x, times, jax.random.fold_in(rng, 1))
    np.testing.assert_allclose(
        np.var(np.asarray(x), axis=(0, 2)), variance[0, :, 0], rtol=0.06
    )


def test_still_heat_is_inverse_heat_dissipation(rng):
    """renoise_step blurs the predicted data to the next level and adds sigma z."""
    rates = jnp.asarray(make_heat_modes("dct", 5).rates[[5]], float)
    blur = make_blur("levels", 4.0, 0.5, 10)
    schedule = with_heat(still_schedule(0.01), rates, blur)
    truth = jax.random.normal(rng, (1, 5, 2))
    denoise = process.make_denoiser(lambda x, t: truth, "data", schedule)
    t, later = jnp.array([0.4]), jnp.array([0.5])
    key = jax.random.key(3)
    x = process.renoise_step(denoise, schedule, truth, t, later, key)
    tau = float(blur(later)[0]) ** 2 / 2
    mean = np.exp(-np.asarray(rates)[0] * tau)[:, None] * np.asarray(truth[0])
    z = np.asarray(jax.random.normal(key, truth.shape))[0]
    np.testing.assert_allclose(x[0], mean + 0.01 * z, atol=1e-12)


def test_works_on_traced_rates_and_under_grad(rng):
    modes = make_heat_modes("complete", 4)
    table = jnp.asarray(modes.rates)
    blur = make_blur("sine", 3.0)

    @jax.jit
    def spread(counts, t, scale):
        schedule = with_heat(
            process.make_schedule("linear"), table[counts] * scale, blur
        )
        return jnp.sum(schedule.coefficients(t)[0]), schedule.coefficients(t)[2]

    value, slope = spread(jnp.array([2, 4]), jnp.array([0.5, 0.7]), 1.0)
    step = 1e-6
    above, _ = spread(jnp.array([2, 4]), jnp.array([0.5, 0.7]) + step, 1.0)
    assert (above - value) / step == pytest.approx(float(jnp.sum(slope)), rel=1e-4)
    grad = jax.grad(lambda s: spread(jnp.array([3]), jnp.array([0.5]), s)[0])(1.0)
    assert np.isfinite(grad)
    assert grad < 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_blur("linear", 1.0), "sine"),
        (lambda: make_blur("sine", 0.0), "max_blur"),
        (lambda: make_blur("levels", 1.0, 2.0), "min_blur"),
        (lambda: heat_rates("ring", 4), "complete"),
        (lambda: still_schedule(-0.1), "sigma"),
        (lambda: dct_basis(0), "num_nodes"),
    ],
)
def test_what_is_out_of_range_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
