"""Exact reductions against samplers in full dimension, fine grids and limit laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from ncgn_jax.process import (
    ddim_step,
    euler_step,
    expand_like,
    integrate,
    sample_prior,
    single_step,
    to_velocity,
)
from ncgn_jax.studies.high_dim_schedules import gaussian_mixture_reduction as reduction
from ncgn_jax.studies.high_dim_schedules import study as command
from ncgn_jax.studies.high_dim_schedules.gaussian_mixture_reduction import Mixture
from ncgn_jax.studies.high_dim_schedules.ways import (
    VERY_LARGE,
    Way,
    draw_samples,
    four_ways,
    recovered,
    scaled_schedule,
)
from ncgn_jax.studies.mixtures import mixture_denoiser, mixture_log_density

VP, VE, VP_DILATED, VE_DILATED = four_ways(5.0)

pytestmark = pytest.mark.usefixtures("compile_quickly")


def denoiser_of(mixture, schedule):
    r = np.ones(mixture.dim)
    weights = [mixture.share, 1 - mixture.share]
    return mixture_denoiser(np.stack([r, -r]), weights, mixture.std, schedule)


def mixture_velocity(mixture, schedule, x_t, t):
    """Returns the velocity u(x, t) of the module's formula, shape of x_t."""
    coefficients = schedule.coefficients(t)
    alpha, sigma, d_alpha, d_sigma = (expand_like(c, x_t) for c in coefficients)
    variance = sigma**2 + (mixture.std * alpha) ** 2
    growth = (sigma * d_sigma + mixture.std**2 * alpha * d_alpha) / variance
    pull = sigma * (sigma * d_alpha - d_sigma * alpha) / variance
    along = jnp.sum(x_t, axis=-1, keepdims=True)
    return growth * x_t + pull * jnp.tanh(mixture.bias + alpha * along / variance)


def velocity_of(mixture, schedule):
    return jax.jit(functools.partial(mixture_velocity, mixture, schedule))


# Velocities of the mixture.


@pytest.mark.parametrize(
    ("noise_scale", "is_trigonometric", "t", "expected"),
    [
        (1.0, False, 0.3, [0.91832716, 1.26315475, 0.64246509, 0.36660302]),
        (1.0, True, 0.3, [0.85192943] * 4),
        (2.0, False, 0.3, [0.65748402, 1.26724012, 0.16967914, -0.31812574]),
        (2.0, True, 0.3, [0.66643875, 0.78708218, 0.56992401, 0.47340926]),
        (2.0, False, 0.9, [0.64286822, 0.34875057, 0.87816234, 1.11345646]),
    ],
)
def test_velocities_have_the_published_values(
    noise_scale, is_trigonometric, t, expected
):
    schedule = scaled_schedule(noise_scale, is_trigonometric)
    x, t = jnp.array([[0.3, -0.2, 0.7, 1.1]]), jnp.array([t])
    found = velocity_of(Mixture(4), schedule)(x, t)
    np.testing.assert_allclose(found[0], expected, atol=1e-7)


@pytest.mark.parametrize("is_trigonometric", [False, True])
@pytest.mark.parametrize("noise_scale", [1.0, 2.0, math.sqrt(50.0)])
def test_the_process_gives_the_same_velocity(noise_scale, is_trigonometric, rng):
    mixture = Mixture(50, share=0.7, std=0.8)
    schedule = scaled_schedule(noise_scale, is_trigonometric)
    x = noise_scale * jax.random.normal(rng, (200, 50))
    t = jnp.linspace(0.0, 0.99, 200)

    @jax.jit
    def velocity_by_process(x, t):
        data_hat, _ = denoiser_of(mixture, schedule)(x, t)
        return to_velocity("data", data_hat, x, schedule, t)

    found = velocity_by_process(x, t)
    expected = velocity_of(mixture, schedule)(x, t)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("is_trigonometric", [False, True])
def test_the_velocity_carries_the_density(is_trigonometric, rng):
    """Checks d p / dt + div(p u) = 0 by automatic differentiation of the density."""
    mixture, schedule = Mixture(2, std=0.6), scaled_schedule(1.5, is_trigonometric)
    means, weights = np.array([[1.0, 1.0], [-1.0, -1.0]]), [0.8, 0.2]

    def log_density(x, t):
        args = x[None], t[None], means, weights, 0.6, schedule
        return mixture_log_density(*args)[0]

    def velocity(x, t):
        return mixture_velocity(mixture, schedule, x[None], t[None])[0]

    def residual(x, t):
        slope, score = jax.grad(log_density, 1)(x, t), jax.grad(log_density)(x, t)
        divergence = jnp.trace(jax.jacfwd(velocity)(x, t))
        return slope + divergence + jnp.dot(velocity(x, t), score)

    x = jax.random.normal(rng, (30, 2))
    found = jax.jit(jax.vmap(residual))(x, jnp.linspace(0.05, 0.9, 30))
    np.testing.assert_allclose(found, 0.0, atol=1e-11)


# The reduction to one dimension.


def midpoint_step(denoise, schedule, x_t, t, t_next, rng):
    """Takes Euler's step with the velocity of the middle time."""
    middle = 0.5 * (t + t_next)
    data_hat, _ = denoise(x_t, middle)
    velocity = to_velocity("data", data_hat, x_t, schedule, middle)
    return x_t + (t_next - t)[:, None] * velocity


STEPS = {"euler": euler_step, "euler_midpoint": midpoint_step, "ddim": ddim_step}
CURVED = Way("", True, "dilated_ve_trigonometric", 3.0, is_trigonometric=True)


@pytest.mark.parametrize(
    ("way", "rule", "dim"),
    [
        (VP, "euler", 300),
        (VE, "euler", 16384),
        (VP_DILATED, "euler", 300),
        (VE_DILATED, "euler", 300),
        (VP, "euler_midpoint", 300),
        (CURVED, "euler", 300),
        (CURVED, "ddim", 300),
    ],
)
def test_samplers_in_full_dimension_do_what_the_reduction_says(way, rule, dim, rng):
    mixture = Mixture(dim, share=0.7, std=0.8)
    schedule, times = way.schedule(dim), way.times(12, dim)
    x = sample_prior(schedule, rng, (6, dim))
    denoise = denoiser_of(mixture, schedule)
    walk = functools.partial(integrate, single_step(STEPS[rule]), denoise, schedule)
    end = jax.jit(walk)(x, times, rng)
    steps = reduction.reduce_steps(mixture, schedule, times, rule)
    root = math.sqrt(dim)
    found = reduction.walk_along(steps, mixture.bias, x.sum(axis=1) / root)
    np.testing.assert_allclose(found, end.sum(axis=1) / root, rtol=1e-9, atol=1e-9)
    across = x - x.mean(axis=1, keepdims=True)
    expected = end - end.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(across * np.prod(steps.gain), expected, atol=1e-9)
    variance = reduction.variance_within(steps, way.noise_scale(dim))
    ratio = np.var(end, axis=1) / np.var(x, axis=1) * way.noise_scale(dim) ** 2
    np.testing.assert_allclose(ratio, variance, rtol=1e-9)


@pytest.mark.parametrize("way", [VP, VE_DILATED])
def test_the_share_is_that_of_a_fine_grid_of_starts(way):
    dim, starts = 1024, np.linspace(-9.0, 9.0, 40001)
    mixture, scale = Mixture(dim, share=0.7), way.noise_scale(dim)
    steps = reduction.reduce_steps(mixture, way.schedule(dim), way.times(20, dim))
    ends = np.asarray(reduction.walk_along(steps, mixture.bias, scale * starts))
    assert (np.diff(ends) > 0).all()
    mass = np.diff(ndtr(starts))
    expected = mass[ends[:-1] > 0].sum()
    found = reduction.majority_share(mixture, steps, scale)
    # The grid is off by at most the mass of one cell.
    np.testing.assert_allclose(found, expected, atol=mass.max())


def test_shares_in_full_dimension_are_within_sampling_error(rng):
    dim, times = 100, VP.times(20, 100)
    schedule = VP.schedule(dim)
    denoise = denoiser_of(Mixture(dim), schedule)
    samples = draw_samples(denoise, schedule, times, dim, 4000, rng)
    share, variance = recovered(VP, dim, 20)
    error = math.sqrt(share * (1 - share) / len(samples.along))
    assert abs(np.mean(samples.along > 0) - share) < 3.5 * error
    # The mean of 4000 x 99 squares.
    assert abs(samples.across.mean() / variance - 1) < 3.5 * math.sqrt(2 / 4e3 / 99)
    stratified = draw_samples(
        denoise, schedule, times, dim, 4000, rng, is_stratified=True
    )
    assert abs(np.mean(stratified.along > 0) - share) < 1e-3
    assert len(stratified.along) >= 4000


def test_maps_that_may_fall_are_refused():
    steps = reduction.ReducedSteps(np.array([-0.1]), np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="gains must be positive, the least is -0.1"):
        reduction.majority_share(Mixture(4), steps, 1.0)
    with pytest.raises(ValueError, match="unknown rule 'heun'"):
        reduction.reduce_steps(Mixture(4), VP.schedule(4), [0.0, 1.0], "heun")


TABLE = {
    # Share and variance of VP, VE, dilated VP, dilated VE.
    (64, 50): ".810433 .949877 .802889 .862495 .813144 .945321 .803029 .831138",
    (256, 50): ".819643 .949877 .802816 .760092 .812016 .940121 .803822 .842581",
    (1024, 50): ".839925 .949877 .802797 .583811 .811546 .922330 .804776 .846907",
    (4096, 50): ".886724 .949877 .802793 .331345 .811332 .912334 .805223 .847066",
    (65536, 50): ".9995 .9499 .8028 .0350 .8112 .9047 .8056 .8387",
    (10**6, 50): "1. .9499 .8028 .0024 .8111 .9029 .8056 .8285",
    (1024, 200): ".8092 .9872 .8007 .8772 .8028 .9800 .8012 .9594",
    (65536, 200): ".8850 .9872 .8007 .3384 .8027 .9753 .8014 .9555",
    (10**6, 200): ".9992 .9872 .8007 .0377 .8027 .9748 .8014 .9444",
}


@pytest.mark.parametrize(("dim", "num_steps"), TABLE)
def test_shares_and_variances_of_the_four_ways(dim, num_steps):
    found = np.ravel([recovered(way, dim, num_steps) for way in four_ways(5.0)])
    digits = 6e-7 if num_steps == 50 and dim <= 4096 else 6e-5
    expected = [float(cell) for cell in TABLE[dim, num_steps].split()]
    np.testing.assert_allclose(found, expected, atol=digits)


# Numbers of steps.


def needed(name, is_exploding, kappa, dim):
    way = Way("", is_exploding, name, kappa)
    schedule = way.schedule(dim)
    make_times = functools.partial(way.times, dim=dim)
    return reduction.steps_needed(Mixture(dim), schedule, make_times)


STEPS_NEEDED = {
    16: [52, 86, 68, 52, 86, 86, 86],
    64: [52, 144, 56, 56, 180, 144, 144],
    256: [52, 266, 76, 62, 168, 266, 400],
    1024: [96, 512, 88, 80, 162, 256, 384],
    4096: [186, 1000, 94, 90, 162, 252, 376],
}


@pytest.mark.parametrize("dim", STEPS_NEEDED)
def test_the_least_number_of_steps(dim):
    found = [
        needed(way.grid, way.is_exploding, way.kappa, dim).both
        for way in command.STEP_WAYS
    ]
    assert found == STEPS_NEEDED[dim]


@pytest.mark.parametrize(("way", "dim"), [(VP, 1024), (VE, 64), (VE_DILATED, 256)])
def test_one_step_fewer_than_needed_is_not_enough(way, dim):
    """Compares with the shares and variances themselves."""
    counts = needed(way.grid, way.is_exploding, way.kappa, dim)
    for count, part in ((counts.share, 0), (counts.variance, 1)):
        tolerance, target = ((0.02, 0.8), (0.05, 1.0))[part]
        assert abs(recovered(way, dim, count)[part] - target) < tolerance
        assert abs(recovered(way, dim, count - 2)[part] - target) >= tolerance
    assert counts.both == max(counts.share, counts.variance)


def test_how_the_number_of_steps_grows():
    kinds = {
        "VP": ("constant", False, 5.0),
        "VE": ("constant", True, 5.0),
        "VP dilated": ("dilated_vp", False, 5.0),
        "VE dilated": ("dilated_ve", True, 8.0),
    }
    near = {name: needed(*kind, 4096) for name, kind in kinds.items()}
    far = {name: needed(*kind, 65536) for name, kind in kinds.items()}
    ratios = {name: far[name].both / near[name].both for name in kinds}
    assert 3.7 <= ratios["VP"] <= 4.1
    assert 3.8 <= ratios["VE"] <= 4.1
    assert ratios["VP dilated"] < 1.25
    assert far["VP dilated"].both <= 110
    assert ratios["VE dilated"] < 1.1
    assert far["VE dilated"].both <= 280
    assert (far["VP"].both, far["VE"].both) == (734, 3942)
    assert (far["VP"].variance, far["VE"].share) == (52, 8)


def test_a_search_that_ends_says_so():
    way, dim = VE, 1024
    make_times = functools.partial(way.times, dim=dim)
    found = reduction.steps_needed(
        Mixture(dim), way.schedule(dim), make_times, most=500
    )
    assert found == (8, None, None)


def test_the_search_starts_at_two_steps():
    make_times = functools.partial(VP.times, dim=64)
    found = reduction.steps_needed(
        Mixture(64), VP.schedule(64), make_times, variance_tolerance=2.0
    )
    assert found == (28, 2, 28)


def test_a_share_that_is_too_small_counts_as_one_too_large():
    make_times = functools.partial(VP.times, dim=64)
    pair = [
        reduction.steps_needed(Mixture(64, share), VP.schedule(64), make_times)
        for share in (0.2, 0.8)
    ]
    assert pair[0] == pair[1]


# Laws of large dimension.


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [(20, 0.87928032), (50, 0.94987672), (100, 0.97461880), (200, 0.98722817)],
)
def test_equal_steps_of_vp_lose_the_same_variance_in_every_dimension(
    num_steps, expected
):
    for dim in (64, 10**6):
        assert abs(recovered(VP, dim, num_steps)[1] - expected) < 1e-8
    collapse = recovered(VE, 10**8, num_steps)[1] * 10**8 / (num_steps - 1) ** 2
    assert abs(collapse - 1) < 2e-3


def test_the_collapse_goes_with_the_fourth_power_of_the_width():
    dim, num_steps, std = 10**8, 30, 0.5
    mixture = Mixture(dim, std=std)
    steps = reduction.reduce_steps(mixture, VE.schedule(dim), VE.times(num_steps, dim))
    found = reduction.variance_within(steps, VE.noise_scale(dim)) * dim / 29**2
    np.testing.assert_allclose(found, std**4, rtol=2e-3)


def test_the_asymmetry_is_lost_only_if_time_zero_is_never_asked():
    expected = {64: 0.7941, 1024: 0.7758, 16384: 0.6732, 10**6: 0.5270, 10**8: 0.5027}
    for dim, share in expected.items():
        assert abs(recovered(VP, dim, 50, "euler_midpoint")[0] - share) < 6e-5
    assert recovered(VP, 10**8, 50)[0] > 1 - 1e-9


@pytest.mark.parametrize("kappa", [3.0, 5.0, 8.0])
def test_dilated_ve_follows_its_limit_law(kappa):
    ve = four_ways(kappa)[3]
    for num_steps in (20, 400):
        law = reduction.limit_variance_of_dilated_ve(kappa, num_steps)
        found = recovered(ve, VERY_LARGE, num_steps)[1]
        np.testing.assert_allclose(found, law, rtol=2e-4)
    many = reduction.limit_variance_of_dilated_ve(kappa, 10**5)
    law = reduction.limit_variance_of_dilated_ve(kappa, None)
    np.testing.assert_allclose(many, law, rtol=2e-4)
    np.testing.assert_allclose(law, kappa**2 / (kappa**2 + 1))


def test_the_limit_of_dilated_ve_in_another_width():
    ve, mixture = four_ways(3.0)[3], Mixture(VERY_LARGE, std=0.7)
    schedule, times = ve.schedule(VERY_LARGE), ve.times(300, VERY_LARGE)
    steps = reduction.reduce_steps(mixture, schedule, times)
    found = reduction.variance_within(steps, ve.noise_scale(VERY_LARGE))
    law = reduction.limit_variance_of_dilated_ve(3.0, 300, std=0.7)
    np.testing.assert_allclose(found, law, rtol=2e-4)


@pytest.mark.parametrize("kappa", [1.0, 1.5, 3.0])
def test_dilated_vp_follows_its_limit_law(kappa):
    vp = four_ways(kappa)[2]
    share, variance = recovered(vp, VERY_LARGE, 8000)
    # Euler's steps leave an error of about 1 / num_steps.
    law = reduction.limit_share_of_dilated_vp(kappa, 0.8)
    assert abs(share - law) < 5e-4
    np.testing.assert_allclose(variance, recovered(VP, 64, 4000)[1], atol=1e-4)


def test_curved_noise_and_dilation():
    assert abs(recovered(CURVED, 1024, 100)[1] - 2.33) < 5e-3
    assert abs(recovered(CURVED, 10**6, 100)[1] - 1351) < 0.5
    assert abs(recovered(CURVED, 10**6, 100, "ddim")[1] - 1) < 0.15
    for grid in ("constant", "dilated_vp"):
        vp = Way("", False, grid, 3.0, is_trigonometric=True)
        assert abs(recovered(vp, 1024, 17)[1] - 1) < 1e-12
    # With linear coefficients the two rules are one.
    for way in four_ways(5.0):
        pairs = [recovered(way, 256, 16, rule) for rule in ("euler", "ddim")]
        np.testing.assert_allclose(*pairs, rtol=1e-10)
