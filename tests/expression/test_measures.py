"""Measures of fields against closed forms, brute force and what they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.expression.measures import (
    dominant_wavelength,
    energy_distance,
    field_transport,
    imputation_scores,
    pattern_amplitude,
    wavelength_distance,
)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def distance(a, b):
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a.flat, b.flat, strict=True)))


# Transport.


def test_transport_is_the_best_assignment(draw):
    a, b = draw.normal(size=(2, 5, 7, 3))
    expected = min(
        np.mean([distance(a[i], b[j]) for i, j in enumerate(order)])
        for order in itertools.permutations(range(5))
    )
    assert field_transport(a, b) == pytest.approx(expected, rel=1e-12)


def test_transport_of_a_shuffled_set_is_zero(draw):
    a = draw.normal(size=(8, 5, 2))
    assert field_transport(a, a[draw.permutation(8)]) == pytest.approx(0, abs=1e-12)
    # Nodes are places: shuffling them is a change.
    assert field_transport(a, a[:, ::-1]) > 1


def test_transport_of_a_shift_is_its_length(draw):
    a, shift = draw.normal(size=(9, 6, 2)), draw.normal(size=(1, 6, 2))
    expected = distance(shift, 0 * shift)  # no plan can beat the move of the mean
    moved = (a + shift)[draw.permutation(9)]
    assert field_transport(a, moved) == pytest.approx(expected, rel=1e-9)


def test_transport_of_unequal_sets_splits_the_mass():
    a = np.array([0.0, 1.0]).reshape(2, 1, 1) * np.ones((2, 4, 1))
    b = np.array([0.0, 1.0, 4.0]).reshape(3, 1, 1) * np.ones((3, 4, 1))
    # Masses 1/2, 1/2 onto 1/3 each: 1/6 moves 0 -> 1, 1/3 moves 1 -> 4; four nodes
    # double every distance.
    assert field_transport(a, b) == pytest.approx(2 * (1 / 6 + 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_transport_is_a_distance_of_sets(seed, scale):
    rng = np.random.default_rng(seed)
    a, b, c = (rng.normal(size=(rng.integers(1, 6), 4, 2)) for _ in range(3))
    value = field_transport(a, b)
    assert field_transport(b, a) == pytest.approx(value)
    assert field_transport(scale * a, scale * b) == pytest.approx(scale * value)
    nodes = rng.permutation(4)
    assert field_transport(a[:, nodes], b[:, nodes]) == pytest.approx(value)
    assert value <= field_transport(a, c) + field_transport(c, b) + 1e-9
    gap = np.linalg.norm(a.mean(0) - b.mean(0))
    assert value >= gap - 1e-9


# Energy distance.


def mean_absolute(mean, variance):
    """E|Z| of a Gaussian."""
    deviation = math.sqrt(variance)
    return deviation * math.sqrt(2 / math.pi) * math.exp(
        -(mean**2) / (2 * variance)
    ) + mean * math.erf(mean / (deviation * math.sqrt(2)))


@pytest.mark.parametrize(
    ("shift", "spread", "num_x", "num_y"),
    [
        (0.0, 1.0, 1500, 1200),
        (1.5, 1.0, 1500, 1200),
        (0.5, 3.0, 1500, 1200),
        (0.5, 3.0, 2, 3),
        pytest.param(0.0, 1.0, 2, 3, marks=pytest.mark.thorough),
        pytest.param(1.5, 1.0, 2, 3, marks=pytest.mark.thorough),
    ],
)
def test_energy_distance_of_gaussians(draw, shift, spread, num_x, num_y):
    expected = 2 * mean_absolute(shift, 1 + spread**2)
    expected -= mean_absolute(0, 2) + mean_absolute(0, 2 * spread**2)
    # Unbiased: tiny sets are right on average, as large ones are at once.
    num_draws = 4 if num_x > 100 else 20000
    values = np.array(
        [
            energy_distance(
                draw.normal(size=(num_x, 1, 1)),
                shift + spread * draw.normal(size=(num_y, 1, 1)),
            )
            for _ in range(num_draws)
        ]
    )
    error = max(values.std() / math.sqrt(num_draws), 0.01)
    assert values.mean() == pytest.approx(expected, abs=4 * error)


def test_energy_distance_against_loops(draw):
    x, y = draw.normal(size=(4, 3, 2)), 1 + draw.normal(size=(3, 3, 2))

    def mean_over(pairs):
        return np.mean([distance(a, b) for a, b in pairs])

    expected = 2 * mean_over(itertools.product(x, y))
    expected -= mean_over(itertools.permutations(x, 2))
    expected -= mean_over(itertools.permutations(y, 2))
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(y, x) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(3 * x, 3 * y) == pytest.approx(3 * expected, rel=1e-12)


# Imputation.


def test_imputation_scores_against_numpy(draw):
    truth = draw.normal(size=(5, 8, 3)) * np.array([1, 10, 0.1])
    imputed = truth + draw.normal(size=truth.shape) + 0.5
    hidden = draw.random(truth.shape) < 0.4
    scores = imputation_scores(imputed, truth, hidden)
    for gene in range(3):
        a, b = (x[..., gene][hidden[..., gene]] for x in (imputed, truth))
        assert scores.pearson[gene] == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert scores.rmse[gene] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    assert scores.mean_pearson == pytest.approx(scores.pearson.mean())
    assert scores.mean_rmse == pytest.approx(scores.rmse.mean())


def test_imputation_reads_hidden_entries_only(draw):
    truth, imputed = draw.normal(size=(2, 4, 6, 2))
    hidden = draw.random(truth.shape) < 0.5
    one = imputation_scores(imputed, truth, hidden)
    two = imputation_scores(
        np.where(hidden, imputed, np.nan), np.where(hidden, truth, 7.0), hidden
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_imputation_masks_broadcast(draw):
    truth, imputed = draw.normal(size=(2, 4, 6, 2))
    of_gene = imputation_scores(imputed, truth, np.array([False, True]))
    assert np.isnan(of_gene.rmse[0])
    assert np.isnan(of_gene.pearson[0])
    assert of_gene.mean_rmse == of_gene.rmse[1]
    of_nodes = imputation_scores(imputed, truth, np.arange(6)[:, None] < 2)
    error = imputed[:, :2] - truth[:, :2]
    np.testing.assert_allclose(of_nodes.rmse, np.sqrt((error**2).mean((0, 1))))


def test_constant_genes_have_no_correlation(draw):
    truth = draw.normal(size=(4, 6, 3))
    truth[..., 0] = 0.1
    imputed = truth.copy()
    imputed[..., 1] = 1e6 + 0.1
    imputed[..., 0] += 2
    scores = imputation_scores(imputed, truth, np.array(True))
    assert np.isnan(scores.pearson[:2]).all()
    assert scores.rmse[0] == pytest.approx(2)
    assert scores.pearson[2] == pytest.approx(1)
    assert scores.mean_pearson == pytest.approx(1)
    nothing = imputation_scores(imputed, truth, np.array(False))
    assert np.isnan([nothing.mean_pearson, nothing.mean_rmse]).all()
    single = imputation_scores(imputed, truth, np.arange(24).reshape(4, 6, 1) == 0)
    assert np.isnan(single.mean_pearson)
    assert np.isfinite(single.mean_rmse)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3),
    st.floats(-1e3, 1e3),
)
def test_correlation_ignores_scale_and_offset(seed, scale, offset):
    rng = np.random.default_rng(seed)
    truth, imputed = rng.normal(size=(2, 3, 5, 2))
    before = imputation_scores(imputed, truth, np.array(True)).pearson
    after = imputation_scores(scale * imputed + offset, truth, np.array(True)).pearson
    np.testing.assert_allclose(after, np.sign(scale) * before, atol=1e-6)
    exact = imputation_scores(scale * truth + offset, truth, np.array(True)).pearson
    np.testing.assert_allclose(exact, np.sign(scale), atol=1e-6)
    assert (np.abs(exact) <= 1).all()


# Patterns on a line.


def waves(periods, num_places=200, num_phases=24):
    phases = np.linspace(0, 2 * np.pi, num_phases, endpoint=False)[:, None]
    places = np.arange(num_places) / num_places
    return np.sin(2 * np.pi * periods * places + phases)[:, :, None]


@pytest.mark.parametrize(
    ("periods", "tolerance"),
    [(1, 0.2), (2, 0.05), (2.5, 0.03), (3, 0.02), (5, 0.01), (20.3, 1e-3), (90, 1e-3)],
)
def test_wavelength_of_a_sine(periods, tolerance):
    spacing = 0.7
    found = dominant_wavelength(waves(periods), spacing)
    assert found.shape == (24, 1)
    np.testing.assert_allclose(found, 200 * spacing / periods, rtol=tolerance)


def test_wavelength_peaks_where_the_spectrum_does(draw):
    """Against a fine scan of the sum that defines the spectrum."""
    samples = draw.normal(size=(6, 30, 2)).cumsum(axis=1) + 3 * waves(4.3, 30, 6)
    found = dominant_wavelength(samples, 0.5)
    places = 0.5 * np.arange(30)
    frequencies = np.linspace(0.02, 1, 40000)  # 1 is Nyquist's
    wave = np.exp(-2j * np.pi * frequencies[:, None] * places)
    for sample, gene in np.ndindex(found.shape):
        x = samples[sample, :, gene]
        scan = np.abs(wave @ (x - x.mean())) ** 2
        best = frequencies[scan.argmax()]
        if best * 15 < 0.8:
            assert np.isnan(found[sample, gene])
        else:
            assert 1 / found[sample, gene] == pytest.approx(best, abs=1e-4)
    assert np.isfinite(found).sum() >= 6


def test_strongest_wave_wins():
    mixture = 1.0 * waves(4) + 1.5 * waves(11)
    np.testing.assert_allclose(dominant_wavelength(mixture, 1.0), 200 / 11, rtol=0.01)


def test_shortest_wave():
    alternating = np.tile([1.0, -1.0], 10).reshape(1, 20, 1)
    np.testing.assert_allclose(dominant_wavelength(alternating, 0.5), 1.0, rtol=1e-12)


@pytest.mark.parametrize("num_places", [12, 64, 301])
def test_no_pattern_no_wavelength(num_places):
    x = np.linspace(0, 1, num_places)
    shapes = [
        0 * x,
        0 * x + 0.1,
        x,
        -(x**2),
        np.exp(-5 * x),
        x > 0.5,
        np.tanh(9 * x - 3),
    ]
    shapes.append(1 + 2e-16 * (-1) ** np.arange(num_places))  # rounding
    flat = np.stack(shapes)[:, :, None]
    assert np.isnan(dominant_wavelength(flat, 0.1)).all()
    assert np.isfinite(
        dominant_wavelength(flat + 9 * waves(1, num_places, 8), 0.1)
    ).all()


def test_weak_patterns_can_be_left_out():
    both = np.concatenate([waves(5), 0.1 * waves(5)], axis=2)
    found = dominant_wavelength(both, 1.0, min_amplitude=0.1)
    assert np.isfinite(found[:, 0]).all()
    assert np.isnan(found[:, 1]).all()  # its amplitude is 0.07


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-12, 1e12),
    st.floats(-10, 10),
    st.floats(0.01, 100),
)
def test_wavelength_ignores_scale_offset_and_direction(seed, scale, offset, spacing):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(3, 17, 2)) + waves(3.3, 17, 3)
    before = dominant_wavelength(samples, 1.0)
    after = dominant_wavelength(scale * (samples[:, ::-1] + offset), spacing)
    np.testing.assert_allclose(after, spacing * before, rtol=1e-6)


def test_amplitude_of_a_sine():
    fields_on_line = np.concatenate([3 * waves(5), 2 + 0.5 * waves(7)], axis=2)
    amplitude = pattern_amplitude(fields_on_line)
    assert amplitude.shape == (24, 2)
    np.testing.assert_allclose(amplitude[:, 0], 3 / math.sqrt(2))
    np.testing.assert_allclose(amplitude[:, 1], 0.5 / math.sqrt(2))


def test_wavelength_distance_by_hand(draw):
    a = draw.gamma(3, size=(40, 3))
    b = draw.permutation(a, axis=0) + np.array([0.0, 2.0, 0.0])
    b[:, 2] = draw.gamma(5, size=40)
    expected = [0, 2, np.abs(np.sort(a[:, 2]) - np.sort(b[:, 2])).mean()]
    np.testing.assert_allclose(wavelength_distance(a, b), expected, atol=1e-12)


def test_wavelength_distance_skips_what_has_none():
    a = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 1.0]])
    b = np.array([[2.0, 1.0], [2.0, 1.0]])
    np.testing.assert_allclose(wavelength_distance(a, b), [1.0, 0.0])
    lone = wavelength_distance(a[:2], b)
    assert lone[0] == 1
    assert np.isnan(lone[1])


# Faults.


def test_bad_shapes_and_values():
    good, holed = np.zeros((3, 8, 2)), np.zeros((3, 8, 2))
    holed[1, 2, 0] = np.nan
    for measure in (field_transport, energy_distance):
        with pytest.raises(ValueError, match=r"\[sample, node, gene\].*got \(3, 8\)"):
            measure(good[..., 0], good)
        with pytest.raises(ValueError, match=r"got \(3, 8, 2\) and \(3, 8, 1\)"):
            measure(good, good[..., :1])
        with pytest.raises(ValueError, match="1 of 3 fields are not finite"):
            measure(good, holed)
        with pytest.raises(ValueError, match="none of them 0"):
            measure(good, good[:0])
    with pytest.raises(ValueError, match="sets of 1 and 3 fields; at least 2"):
        energy_distance(good[:1], good)
    with pytest.raises(ValueError, match=r"got \(3, 8, 2\), \(3, 8, 1\)"):
        imputation_scores(good, good[..., :1], np.array(True))
    with pytest.raises(ValueError, match="float64"):
        imputation_scores(good, good, good)
    with pytest.raises(ValueError, match="shape"):
        imputation_scores(good, good, np.ones((4, 2), bool))
    with pytest.raises(ValueError, match="gene 0 holds hidden values"):
        imputation_scores(holed, good, np.array(True))
    for spacing in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="at least 4 and a positive spacing"):
            dominant_wavelength(good, spacing)
    with pytest.raises(ValueError, match="3 places"):
        dominant_wavelength(good[:, :3], 1.0)
    with pytest.raises(ValueError, match="not finite"):
        dominant_wavelength(holed, 1.0)
    with pytest.raises(ValueError, match="not finite"):
        pattern_amplitude(holed)
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 1\)"):
        wavelength_distance(np.ones((3, 2)), np.ones((3, 1)))
