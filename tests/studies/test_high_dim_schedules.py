"""Exact reductions against samplers in full dimension, quadrature and brute force."""

import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, ndtr

from ncgn_jax.process import (
    ddim_step,
    euler_step,
    integrate,
    sample_prior,
    to_velocity,
)
from ncgn_jax.studies.high_dim_schedules import curie_weiss_tables as spins_study
from ncgn_jax.studies.high_dim_schedules import gaussian_mixture_reduction as reduction
from ncgn_jax.studies.high_dim_schedules import limits
from ncgn_jax.studies.high_dim_schedules import study as command
from ncgn_jax.studies.high_dim_schedules.curie_weiss import (
    CurieWeiss,
    exact_denoiser,
    exact_share,
    two_point_denoiser,
)
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
from ncgn_jax.studies.report import Report

VP, VE, VP_DILATED, VE_DILATED = four_ways(5.0)

pytestmark = pytest.mark.usefixtures("compile_quickly")


def denoiser_of(mixture, schedule):
    r = np.ones(mixture.dim)
    weights = [mixture.share, 1 - mixture.share]
    return mixture_denoiser(np.stack([r, -r]), weights, mixture.std, schedule)


def velocity_of(mixture, schedule):
    return jax.jit(functools.partial(reduction.mixture_velocity, mixture, schedule))


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
    """d p / dt + div(p u) = 0, by automatic differentiation of the density."""
    mixture, schedule = Mixture(2, std=0.6), scaled_schedule(1.5, is_trigonometric)
    means, weights = np.array([[1.0, 1.0], [-1.0, -1.0]]), [0.8, 0.2]

    def log_density(x, t):
        args = x[None], t[None], means, weights, 0.6, schedule
        return mixture_log_density(*args)[0]

    def velocity(x, t):
        return reduction.mixture_velocity(mixture, schedule, x[None], t[None])[0]

    def residual(x, t):
        slope, score = jax.grad(log_density, 1)(x, t), jax.grad(log_density)(x, t)
        divergence = jnp.trace(jax.jacfwd(velocity)(x, t))
        return slope + divergence + jnp.dot(velocity(x, t), score)

    x = jax.random.normal(rng, (30, 2))
    found = jax.jit(jax.vmap(residual))(x, jnp.linspace(0.05, 0.9, 30))
    np.testing.assert_allclose(found, 0.0, atol=1e-11)


# The reduction to one dimension.


def midpoint_step(denoise, schedule, x_t, t, t_next, rng):
    """Euler's step with the velocity of the middle time."""
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
    walk = functools.partial(integrate, STEPS[rule], denoise, schedule)
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
    """By the shares and variances themselves."""
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


# Curie-Weiss.


def brute_force_mean(model, tilt):
    """E[a | x] over all 2^d states, tilt = alpha x / sigma^2, [dim]."""
    states = np.array(list(itertools.product([-1.0, 1.0], repeat=model.dim)))
    total = states.sum(axis=1)
    log_weight = model.coupling / (2 * model.dim) * total**2 + states @ tilt
    log_weight = log_weight + model.field / model.dim * total
    weight = np.exp(log_weight - log_weight.max())
    return weight @ states / weight.sum(), weight[total > 0].sum() / weight.sum()


@pytest.mark.parametrize("coupling", [1.3, 2.0])
def test_the_quadrature_is_the_sum_over_all_states(coupling, rng):
    model, schedule = CurieWeiss(8, coupling, 0.9), scaled_schedule(1.7)
    x = 2.0 * jax.random.normal(rng, (12, 8))
    t = jnp.linspace(0.0, 0.97, 12)
    data_hat, noise_hat = jax.jit(exact_denoiser(model, schedule))(x, t)
    alpha, sigma = np.asarray(t), 1.7 * (1 - np.asarray(t))
    tilts = (alpha / sigma**2)[:, None] * np.asarray(x)
    expected = [brute_force_mean(model, tilt)[0] for tilt in tilts]
    np.testing.assert_allclose(data_hat, expected, atol=1e-10)
    rebuilt = alpha[:, None] * data_hat + sigma[:, None] * noise_hat
    np.testing.assert_allclose(rebuilt, x, atol=1e-10)


@pytest.mark.parametrize("is_trigonometric", [False, True])
def test_the_velocity_of_spins_in_closed_form(is_trigonometric, rng):
    model, schedule = CurieWeiss(8), scaled_schedule(1.4, is_trigonometric)
    x, t = jax.random.normal(rng, (5, 8)), jnp.linspace(0.1, 0.9, 5)
    data_hat, _ = jax.jit(exact_denoiser(model, schedule))(x, t)
    found = to_velocity("data", data_hat, x, schedule, t)
    t = t[:, None]
    expected = (data_hat - x) / (1 - t)
    if is_trigonometric:
        expected = (data_hat - t * x) / (1 - t**2)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_constants_of_the_model():
    model = CurieWeiss(8)
    assert abs(model.magnetisation - 0.957504024) < 1e-9
    assert abs(model.share - 0.790407) < 1e-6
    shares = {8: 0.777523, 16: 0.785260, 64: 0.789518, 256: 0.790198, 1024: 0.790356}
    for dim, share in shares.items():
        assert abs(exact_share(CurieWeiss(dim)) - share) < 1e-6
    odd = CurieWeiss(9, 1.5, 0.7)
    np.testing.assert_allclose(
        exact_share(odd), brute_force_mean(odd, np.zeros(9))[1], rtol=1e-12
    )


def test_two_points_are_the_limit_of_the_quadrature(rng):
    """The error falls as 1 / d, and the weight of a mode is as it should be."""
    schedule, errors = scaled_schedule(1.0), []
    for dim in (64, 256):
        model = CurieWeiss(dim)
        t = jnp.full(8, 0.4 / math.sqrt(dim))
        x = jax.random.normal(rng, (8, dim)) + 0.05
        pair = [
            jax.jit(make(model, schedule))(x, t)[0]
            for make in (two_point_denoiser, exact_denoiser)
        ]
        errors.append(float(np.abs(pair[0] - pair[1]).max()))
    assert errors[1] < 0.01
    assert 2.5 < errors[0] / errors[1] < 6.0


def test_two_points_in_the_other_form(rng):
    model, schedule = CurieWeiss(30), scaled_schedule(2.0)
    x, t = jax.random.normal(rng, (6, 30)), jnp.linspace(0.0, 0.8, 6)
    found, _ = jax.jit(two_point_denoiser(model, schedule))(x, t)
    m, field, beta = model.magnetisation, model.field, model.coupling
    t = np.asarray(t)[:, None]
    tilt = t / (2 * (1 - t)) ** 2 * np.asarray(x)
    logit = 2 * field * m + np.sum(
        np.log1p(m * np.tanh(tilt)) - np.log1p(-m * np.tanh(tilt)), axis=1
    )
    weight = expit(logit)[:, None]
    expected = weight * np.tanh(beta * m + tilt)
    expected += (1 - weight) * np.tanh(tilt - beta * m)
    np.testing.assert_allclose(found, expected, atol=1e-10)


SPINS = {
    ("VP, equal steps", 256): (0.842, 1.0000, 0.9592),
    ("VE, equal steps", 256): (0.798, 0.9459, 0.9876),
    ("VP, dilated 3", 256): (0.808, 1.0000, 0.9642),
    ("VE, dilated 3", 256): (0.802, 0.9959, 0.9662),
    ("VE, equal steps", 1024): (0.798, 0.9212, 0.9997),
}


@pytest.mark.parametrize(("name", "dim"), SPINS)
def test_spins_of_the_four_ways(name, dim, rng):
    way = {way.name: way for way in four_ways(3.0)}[name]
    share, square, agreement = spins_study.sample_spins(way, dim, 20, 250, rng)
    expected = SPINS[name, dim]
    # A share is known to one sample in 250.
    assert abs(share - expected[0]) <= 0.0065
    assert abs(square - expected[1]) < 5e-4
    # 250 means of dim signs: an error of about 0.29 / sqrt(250 dim).
    assert abs(agreement - expected[2]) < 4 * 0.29 / math.sqrt(250 * dim) + 1e-4


def test_growth_of_steps_from_first_to_last():
    assert spins_study.growth_exponent([64, 1024], [28, 112]) == pytest.approx(0.5)
    assert math.isnan(spins_study.growth_exponent([64, 1024], [28, None]))


# The report.


@pytest.fixture
def report(tmp_path):
    return Report("high_dim_schedules", tmp_path, quick=True)


def test_the_mixture_part_of_the_report(report):
    command.add_recovery(report, [64, 4096, 10**6])
    command.add_sampled(report, {64: 60})
    assert [f.verdict for f in report.findings] == ["holds", "holds in part", "holds"]
    report.write(0.0)
    results = json.loads((report.workdir / "results.json").read_text())
    assert results["figures"] == {"recovery": "recovery.png"}
    assert len(results["tables"]["recovery"]["rows"]) == 6


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "holds"),
        ({"VP": (0.85, 0.95)}, "holds in part"),
        ({"VP": (1.0, 0.8)}, "holds in part"),
        ({"VE": (0.83, 0.01)}, "holds in part"),
        ({"VE": (0.8, 0.6)}, "holds in part"),
        ({"VP": (0.85, 0.8), "VE": (0.9, 0.9)}, "does not hold"),
    ],
)
def test_each_part_of_the_claim_about_equal_steps_counts(
    changed, verdict, report, monkeypatch
):
    found = {"VP": (1.0, 0.95), "VE": (0.8, 0.01), **changed}
    monkeypatch.setattr(command, "recovered", lambda way, *_: found[way.name[:2]])
    command.add_recovery(report, [64, 4096])
    assert report.findings[0].verdict == verdict


def steps_as_claimed(way, dim):
    count = 3 * math.isqrt(int(dim)) if way.grid == "constant" else 100
    return reduction.StepsNeeded(8, count, count)


def steps_that_all_grow(way, dim):
    count = int(dim) if dim < 10**5 else None
    return reduction.StepsNeeded(8, count, count)


@pytest.mark.parametrize(
    ("steps_of", "verdicts", "exponent"),
    [
        (steps_as_claimed, ["holds", "holds"], 0.5),
        (steps_that_all_grow, ["does not hold", "does not hold"], 1.0),
    ],
)
def test_the_steps_part_of_the_report(
    steps_of, verdicts, exponent, report, monkeypatch
):
    monkeypatch.setattr(command, "_steps_of", steps_of)
    command.add_steps(report, [64, 1024, 4096, 2**20])
    assert [finding.verdict for finding in report.findings] == verdicts
    rows = report.tables["exponents"].rows
    assert rows[0][0] == "VP, equal steps"
    assert rows[0][1] == pytest.approx(exponent)
    last = report.tables["steps_both"].rows[3]
    assert last[1] == (3072 if steps_of is steps_as_claimed else "> 8192")


def test_the_limits_part_of_the_report(report):
    limits.add_windows(report, (3.0, 5.0))
    limits.add_asymmetry(report, (64, 10**8))
    limits.add_curved_noise(report, (1024, 4096), num_steps=40)
    assert [f.verdict for f in report.findings] == ["holds in part"] * 3


GOOD, BAD = spins_study.Spins(0.79, 1.0, 0.958), spins_study.Spins(1.0, 0.9, 1.0)
LIMITS = {"VP": BAD._replace(square=1.0), "VE": BAD._replace(share=0.79)}


def sample_as_claimed(way, dim, num_steps, num_samples, rng, is_exact=False):
    """Equal steps recover one feature unless there are 3 sqrt(d) of them."""
    if way.grid != "constant" or num_steps >= 3 * math.sqrt(dim):
        return GOOD
    return LIMITS[way.name[:2]]


def sample_without_gain(way, dim, num_steps, num_samples, rng, is_exact=False):
    """Dilated steps are no better than equal ones."""
    way = way._replace(grid="constant")
    return sample_as_claimed(way, dim, num_steps, num_samples, rng)


def sample_badly(*args):
    return BAD


@pytest.mark.parametrize(
    ("sample", "verdicts"),
    [
        (sample_as_claimed, ["holds", "holds"]),
        (sample_without_gain, ["holds in part", "holds in part"]),
        (sample_badly, ["holds in part", "does not hold"]),
    ],
)
def test_the_curie_weiss_part_of_the_report(sample, verdicts, report, monkeypatch):
    monkeypatch.setattr(spins_study, "sample_spins", sample)
    spins_study.add_spins(report, [(4096, 20), (4096, 200)], 3.0, 40, exact_dim=8)
    ladder = (24, 48, 96, 192)
    spins_study.add_spin_steps(report, (64, 256, 1024), 3.0, ladder, 40)
    assert len(report.tables["curie_weiss"].rows) == 8
    assert len(report.tables["curie_weiss_exact"].rows) == 8
    assert [finding.verdict for finding in report.findings] == verdicts
    if sample is sample_as_claimed:
        rows = report.tables["curie_weiss_steps"].rows
        assert rows[0] == [64, 24, 24, 24, 24]
        assert rows[2] == [1024, 96, 96, 24, 24]
