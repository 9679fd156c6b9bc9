"""Distances of feature sets against closed forms, SciPy, and loops over pairs."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from ncgn_jax.images import features
from ncgn_jax.images.features import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def with_moments(draw, mean, covariance, count):
    """Points whose own mean and covariance are exactly these."""
    points = draw.normal(size=(count, len(mean)))
    points -= points.mean(axis=0)
    own = np.linalg.cholesky(np.cov(points, rowvar=False))
    return points @ np.linalg.inv(own).T @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians_that_commute(draw):
    """Diagonal covariances: sum of (difference of means)^2 + (difference of stds)^2."""
    means = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    stds = np.array([1.0, 2.0, 0.5]), np.array([1.5, 0.1, 0.5])
    a, b = (
        with_moments(draw, m, np.diag(s**2), 50)
        for m, s in zip(means, stds, strict=True)
    )
    expected = 0.5**2 + 3.0**2 + 0.5**2 + 1.9**2
    np.testing.assert_allclose(frechet_distance(a, b), expected)


@pytest.mark.parametrize("sizes", [(40, 60), (30, 5)])
def test_frechet_distance_follows_scipys_square_root(draw, sizes):
    """Also where a covariance is singular, of fewer images than features."""
    a = draw.normal(size=(sizes[0], 8)) @ draw.normal(size=(8, 8))
    b = draw.normal(size=(sizes[1], 8)) @ draw.normal(size=(8, 8)) + 1
    c_a, c_b = (np.cov(part.T) for part in (a, b))
    root = scipy.linalg.sqrtm(c_a @ c_b).real
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    expected = shift + np.trace(c_a + c_b - 2 * root)
    # SciPy's root of a singular product is good to about 1e-7.
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-5)


def test_frechet_distance_of_a_set_from_itself_is_zero(draw):
    points = draw.normal(size=(9, 4))
    assert 0 <= frechet_distance(points, points[::-1]) < 1e-12
    assert frechet_distance(points[:, :1], points[:, :1] + 2) == pytest.approx(4)


def kernel_loop(a, b):
    """The unbiased estimate pair by pair."""

    def k(x, y):
        return (sum(x * y) / len(x) + 1) ** 3

    def within(points):
        n = len(points)
        pairs = [k(points[i], points[j]) for i in range(n) for j in range(n) if i != j]
        return sum(pairs) / (n * (n - 1))

    across = [k(x, y) for x in a for y in b]
    return within(a) + within(b) - 2 * sum(across) / len(across)


def test_kernel_distance_of_whole_sets(draw):
    a, b = draw.normal(size=(9, 3)), draw.normal(size=(9, 3)) + 0.5
    np.testing.assert_allclose(kernel_distance(a, b), kernel_loop(a, b))


def test_kernel_distance_averages_over_subsets(draw):
    """Of a set and all but one of it, every subset of 2 of 3 is one of three."""
    a, b = draw.normal(size=(3, 2)), draw.normal(size=(2, 2))
    values = [kernel_loop(a[[i, j]], b) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = kernel_distance(a, b, num_subsets=4000, seed=1)
    np.testing.assert_allclose(found, np.mean(values), atol=4 * np.std(values) / 60)
    assert min(values) - 1e-9 <= kernel_distance(a, b, 1) <= max(values) + 1e-9
    assert kernel_distance(a, b, 3, seed=0) == kernel_distance(a, b, 3, seed=0)


def test_kernel_distance_is_unbiased(draw):
    """Small sets of one distribution: 0 on average; a shift: above."""
    found = [
        kernel_distance(draw.normal(size=(8, 2)), draw.normal(size=(12, 2)), 2)
        for _ in range(400)
    ]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    shifted = kernel_distance(draw.normal(size=(99, 2)), draw.normal(size=(99, 2)) + 1)
    assert shifted > 1


def kth_distance(points, i, k):
    others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
    return sorted(others)[k - 1]


def covered_share(points, around, k):
    hits = [
        any(
            np.linalg.norm(p - q) <= kth_distance(around, j, k)
            for j, q in enumerate(around)
        )
        for p in points
    ]
    return np.mean(hits)


@pytest.fixture
def two_sets(draw):
    return draw.normal(size=(30, 3)), 0.7 * draw.normal(size=(23, 3)) + 0.8


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_loops(two_sets, k):
    real, generated = two_sets
    found = precision_recall(real, generated, k)
    np.testing.assert_allclose(found.precision, covered_share(generated, real, k))
    np.testing.assert_allclose(found.recall, covered_share(real, generated, k))
    assert found.precision != found.recall
    assert 0 < found.recall < 1


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_by_loops(two_sets, k):
    real, generated = two_sets
    inside = np.array(
        [
            [np.linalg.norm(p - q) < kth_distance(real, j, k) for p in generated]
            for j, q in enumerate(real)
        ]
    )
    found = density_coverage(real, generated, k)
    np.testing.assert_allclose(found.density, inside.sum() / (k * len(generated)))
    np.testing.assert_allclose(found.coverage, inside.any(axis=1).mean())
    assert 0 < found.coverage < 1


def test_hand_made_sets_on_a_line():
    """Real at 0, 1, 3: balls with k = 1 reach 1, 1 and 2."""
    real = np.array([[0.0], [1.0], [3.0]])
    generated = np.array([[2.0], [2.5], [9.0]])
    # 2 is in the closed balls of 1 and 3, 2.5 in that of 3; 1 lies on 3's edge.
    # Generated balls reach 0.5, 0.5 and 6.5: 3 is on the edge of 2.5's and in 9's.
    assert precision_recall(real, generated, k=1) == pytest.approx((2 / 3, 1 / 3))
    # Open balls: 2 and 2.5 are in that of 3 alone.
    assert density_coverage(real, generated, k=1) == pytest.approx((2 / 3, 1 / 3))


def test_identical_disjoint_and_collapsed_sets(draw):
    real = draw.normal(size=(40, 2))
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real) == pytest.approx((1, 1))
    assert precision_recall(real, real + 100) == (0, 0)
    assert density_coverage(real, real + 100) == (0, 0)
    collapsed = np.repeat(real[:1], 40, axis=0)
    precise = precision_recall(real, collapsed)
    assert precise == pytest.approx((1, 1 / 40))
    _, coverage = density_coverage(real, collapsed)
    assert 0 < coverage < 0.5


def test_coverage_of_fresh_real_data(draw):
    """1 - (S / (S + T))^k, which the docstring promises."""
    real, generated = draw.normal(size=(600, 2)), draw.normal(size=(300, 2))
    found = density_coverage(real, generated, k=3)
    assert found.coverage == pytest.approx(1 - (2 / 3) ** 3, abs=0.05)
    assert found.density == pytest.approx(1, abs=0.1)


def test_features_may_be_scaled(two_sets):
    real, generated = two_sets
    for measure in (precision_recall, density_coverage):
        assert measure(1e3 * real, 1e3 * generated) == measure(real, generated)


def test_blocks_do_not_change_results(two_sets, monkeypatch):
    whole = [f(*two_sets) for f in (precision_recall, density_coverage)]
    monkeypatch.setattr(features, "_BLOCK", 70)  # two or three rows at once
    assert [f(*two_sets) for f in (precision_recall, density_coverage)] == whole


def test_memory_stays_bounded(draw):
    """All distances of 8,000 to 4,000 would take 256 MB."""
    real, generated = draw.normal(size=(4_000, 1)), draw.normal(size=(8_000, 1))
    tracemalloc.start()
    precision_recall(real, generated)
    density_coverage(real, generated)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5e8


def test_inception_score_by_hand():
    assert inception_score(np.eye(4)) == pytest.approx(4)
    assert inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)
    # Two images, mean probabilities 0.75 and 0.25.
    first = np.log(1 / 0.75)
    second = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    found = inception_score([[1.0, 0.0], [0.5, 0.5]])
    assert found == pytest.approx(np.exp((first + second) / 2))


def test_bad_sets_are_refused(draw):
    good = draw.normal(size=(9, 2))
    measures = (frechet_distance, kernel_distance, precision_recall, density_coverage)
    for measure in measures:
        for bad in (np.zeros((9, 3)), np.zeros(9), np.zeros((0, 2)), good + np.nan):
            with pytest.raises(ValueError, match="set|finite"):
                measure(good, bad)
    for measure in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match="at least 2"):
            measure(good[:1], good)
    with pytest.raises(ValueError, match="at least 4"):
        precision_recall(good, good[:3], k=3)
    with pytest.raises(ValueError, match="more than k = 5"):
        density_coverage(good[:5], good)
    with pytest.raises(ValueError, match="k=0"):
        precision_recall(good, good, k=0)
    with pytest.raises(ValueError, match="subset"):
        kernel_distance(good, good, num_subsets=0)
    for bad in ([[0.5, 0.4]], [[1.5, -0.5]], [0.5, 0.5], np.zeros((0, 3))):
        with pytest.raises(ValueError, match="allowed|sum 1"):
            inception_score(bad)
