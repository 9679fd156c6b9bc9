"""Information in Gaussian fields: closed forms against determinants and samples."""

import math

import jax
import numpy as np
import pytest

from ncgn_jax.studies.range_and_resolution import fields
from ncgn_jax.studies.range_and_resolution import mutual_information as information

EXP3 = (2, "exponential", 3.0)


def log_det(matrix):
    return np.linalg.slogdet(matrix)[1]


# --- Range --------------------------------------------------------------------------


MOMENTS = {
    0.0: (1, 1.0, 1.0),
    1.0: (5, 0.773225, 0.711157),
    math.sqrt(2): (9, 0.706958, 0.635740),
    2.0: (13, 0.647407, 0.565700),
    3.0: (29, 0.525602, 0.437940),
    4.0: (49, 0.438572, 0.353692),
}

# SNR: best radius, its nodes, I there, and I at radius 0, 1, 2, 4, 8.
RANGE = {
    100: (0, 1, 2.307560, 2.307560, 0.911170, 0.673362, 0.392091, 0.165530),
    3: (1, 5, 0.731920, 0.693147, 0.731920, 0.616853, 0.381312, 0.163549),
    1: (2**0.5, 9, 0.553116, 0.346574, 0.533809, 0.528102, 0.360932, 0.159614),
    0.3: (5**0.5, 21, 0.362189, 0.131182, 0.284518, 0.356501, 0.304493, 0.147224),
    0.1: (10**0.5, 37, 0.218183, 0.047655, 0.124567, 0.188421, 0.211441, 0.120543),
    0.03: (4, 49, 0.102914, 0.014779, 0.042255, 0.071888, 0.102914, 0.073842),
    0.01: (5, 81, 0.042941, 0.004975, 0.014646, 0.026044, 0.041869, 0.035086),
}


@pytest.mark.parametrize("radius", MOMENTS)
def test_moments_to_the_stated_digits(radius):
    found = information.moments(radius, *EXP3)
    np.testing.assert_allclose(found, MOMENTS[radius], atol=5.1e-7)


@pytest.mark.parametrize("snr", RANGE)
def test_range_to_the_stated_digits(snr):
    radius = information.best_radius(snr, fields.RADII, *EXP3)
    best = information.moments(radius, *EXP3)
    shown = [
        information.mean_information(snr, information.moments(r, *EXP3))
        for r in (0.0, 1.0, 2.0, 4.0, 8.0)
    ]
    found = (radius, best.num_nodes, information.mean_information(snr, best), *shown)
    np.testing.assert_allclose(found, RANGE[snr], atol=5.1e-7)


@pytest.mark.parametrize(
    ("kernel", "length", "radii"),
    [
        ("exponential", 6.0, (0, 0, 1, 2, 3, 4, 6, 8, 10)),
        (
            "squared_exponential",
            3.0,
            (1, 2**0.5, 2, 5**0.5, 3, 10**0.5, 4, 4, 5),
        ),
    ],
)
def test_best_radii_as_measured_before(kernel, length, radii):
    snrs = (100, 10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0.001)
    for snr, radius in zip(snrs, radii, strict=True):
        assert information.best_radius(snr, fields.RADII, 2, kernel, length) == radius


@pytest.mark.parametrize("kernel", information.KERNELS)
@pytest.mark.parametrize("dim", [1, 2])
def test_the_lemma_against_the_joint_covariance(kernel, dim):
    """Checks 1/2 log(|A| |B| / |AB|) of the covariance of (x_i, mean)."""
    snr, radius, length = 0.4, 2.3, 2.0
    points = information.offsets_within(radius, dim)
    assert len(points) == {1: 5, 2: 21}[dim]
    centre = np.flatnonzero((points == 0).all(-1))[0]
    clean = information.pair_correlation(points, kernel, length)
    pick = np.stack(
        [np.eye(len(points))[centre], np.full(len(points), 1 / len(points))]
    )
    # Of (x_i, mean x) and of the noise, which only the mean has.
    joint = pick @ clean @ pick.T
    joint[1, 1] += 1 / (snr * len(points))
    expected = 0.5 * math.log(joint[0, 0] * joint[1, 1] / np.linalg.det(joint))
    around = information.moments(radius, dim, kernel, length)
    found = information.mean_information(snr, around)
    assert found == pytest.approx(expected, rel=1e-12)
    # Best weights: the same with all of the neighbours.
    noisy = clean + np.eye(len(points)) / snr
    joint = np.block(
        [
            [clean[centre : centre + 1, centre : centre + 1], clean[[centre]]],
            [clean[:, [centre]], noisy],
        ]
    )
    expected = 0.5 * (log_det(noisy) - log_det(joint))
    weighted = information.weighted_information(snr, radius, dim, kernel, length)
    assert weighted == pytest.approx(expected, rel=1e-10)
    assert weighted > found


def test_weights_can_only_gain_from_a_larger_radius():
    told = [information.weighted_information(0.3, r, *EXP3) for r in fields.RADII[:10]]
    assert np.all(np.diff(told) > 0)


def test_the_lemma_on_samples(rng):
    found, error = fields.sampled_information(rng, 0.3, 2.0, *EXP3, 400_000)
    exact = information.mean_information(0.3, information.moments(2.0, *EXP3))
    assert exact == pytest.approx(0.35650, abs=5e-6)
    assert error < 0.0013
    assert abs(found - exact) < min(0.005, 4 * error)


def test_the_standard_error_is_that_of_many_repetitions(rng):
    keys = jax.random.split(rng, 24)
    runs = np.array(
        [fields.sampled_information(key, 1.0, 1.0, *EXP3, 500) for key in keys]
    )
    # The spread of 24 draws has a relative error of a seventh.
    assert runs[:, 0].std() == pytest.approx(runs[:, 1].mean(), rel=0.45)


@pytest.mark.parametrize(
    ("kernel", "dim", "value"),
    [
        ("exponential", 1, 1.256431),
        ("exponential", 2, 1.793282),
        ("squared_exponential", 2, 1.585201),
        # sqrt(pi / 2) erf(u / sqrt 2) = 2 u exp(-u^2 / 2)
        ("squared_exponential", 1, 1.399985),
    ],
)
def test_continuum_constants(kernel, dim, value):
    found = information.continuum_radius(kernel, dim)
    assert found == pytest.approx(value, abs=1e-6)
    searched = information.continuum_radius_by_search(kernel, dim)
    assert searched == pytest.approx(found, abs=1e-6)


def test_a_fine_grid_has_the_continuum_s_best_radius():
    length = 20.0
    radii = np.arange(25.0, 48.0)
    distance = np.sqrt((information.offsets_within(48.0, 2) ** 2).sum(-1))
    near = np.exp(-distance / length)
    sums = [near[distance <= r].sum() ** 2 / (distance <= r).sum() for r in radii]
    best = radii[int(np.argmax(sums))]
    assert best / length == pytest.approx(1.793282, abs=0.05)


def test_limits_of_the_ratio():
    around = information.moments(2.0, *EXP3)
    slope = 0.5 * around.num_nodes * around.to_centre**2
    assert information.mean_information(1e-8, around) / 1e-8 == pytest.approx(slope)
    plateau = -0.5 * math.log(1 - around.to_centre**2 / around.within)
    assert information.mean_information(1e10, around) == pytest.approx(plateau)


def test_crossover_parts_the_two_ranges():
    near, far = (information.moments(r, *EXP3) for r in (1.0, 3.0))
    cross = information.crossover_snr(near, far)
    for factor, better in ((0.9, far), (1.1, near)):
        told = [information.mean_information(factor * cross, m) for m in (near, far)]
        assert max(told) == information.mean_information(factor * cross, better)
    at = [information.mean_information(cross, m) for m in (near, far)]
    assert at[0] == pytest.approx(at[1], abs=1e-14)


def test_crossover_says_when_there_is_none():
    # Beyond u* = 1.79 lengths a larger radius gains nothing.
    far, further = (information.moments(r, *EXP3) for r in (6.0, 8.0))
    assert information.crossover_snr(far, further) is None
    assert information.crossover_snr(further, far) == math.inf
    for snr in (1e-6, 1.0, 1e6):
        told = [information.mean_information(snr, m) for m in (far, further)]
        assert told[0] > told[1]


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel: found 'cubic'"):
        information.moments(1.0, 2, "cubic", 1.0)


# --- Resolution ---------------------------------------------------------------------

RETAINED = {
    2: (0.3618, 0.4776, 0.6569, 0.7911, 0.8530, 0.8685),
    3: (0.1984, 0.2993, 0.4962, 0.6745, 0.7643, 0.7876),
    4: (0.1272, 0.2066, 0.3883, 0.5850, 0.6924, 0.7210),
    6: (0.0659, 0.1155, 0.2516, 0.4484, 0.5756, 0.6113),
}
LIMITS = {2: 0.870745, 3: 0.791023, 4: 0.725278, 6: 0.616642}
SNRS = (100, 10, 1, 0.1, 0.01, 0.001)


@pytest.mark.thorough
def test_resolution_to_the_stated_digits():
    found, limits = fields.retained_by_blocks(SNRS, "exponential", 6.0)
    for block, row in RETAINED.items():
        column = found[:, fields.BLOCKS.index(block)]
        np.testing.assert_allclose(column, row, atol=5.1e-5)
        limit = limits[fields.BLOCKS.index(block)]
        assert limit == pytest.approx(LIMITS[block], abs=5.1e-7)
    assert fields.coarsest_blocks(found) == [1, 1, 2, 3, 4, 6]
    assert np.all(np.diff(found[:, 1:], axis=0) > 0)
    found, _ = fields.retained_by_blocks((1e-8, 1e14), "exponential", 6.0)
    np.testing.assert_allclose(found[0], limits, rtol=1e-5)
    # To 1 / block^2, as slowly as a logarithm.
    gap = found[1] * np.square(fields.BLOCKS) - 1
    assert np.all((gap[1:] > 0) & (gap[1:] < 0.2))


def test_resolution_of_a_smooth_field():
    found, _ = fields.retained_by_blocks(SNRS, "squared_exponential", 3.0)
    for block, ends in {2: (0.9082, 0.9466), 3: (0.7127, 0.8679)}.items():
        column = found[:, fields.BLOCKS.index(block)]
        np.testing.assert_allclose(column[[0, -1]], ends, atol=5.1e-5)


def test_block_information_against_the_joint_covariance():
    """Checks I(X; P Y) = 1/2 log(|X| |PY| / |joint|) on 4 x 4 nodes."""
    side, snr = 4, 0.7
    points = information.grid_points(side)
    clean = information.pair_correlation(points, "exponential", 2.0)
    means = information.block_means(side, (1, 2))
    pooled = means @ (clean + np.eye(16) / snr) @ means.T
    joint = np.block([[clean, clean @ means.T], [means @ clean, pooled]])
    expected = 0.5 * (log_det(clean) + log_det(pooled) - log_det(joint))
    spectrum = information.block_spectrum(clean, means)
    found = information.field_information(snr, spectrum)
    assert found == pytest.approx(expected, rel=1e-10)


def test_block_means_average_what_lies_together():
    points = information.grid_points(6)
    centres = information.block_means(6, (2, 3)) @ points
    expected = [(r + 0.5, c + 1.0) for r in (0, 2, 4) for c in (0, 3)]
    np.testing.assert_allclose(centres, expected, atol=1e-12)
    with pytest.raises(ValueError, match="do not tile"):
        information.block_means(6, (4, 2))
