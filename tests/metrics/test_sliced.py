"""Sliced transport against closed forms and transport on the line."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm, wasserstein_distance

from ncgn_jax.metrics.sliced import sliced_wasserstein


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_point_masses(dim):
    """Two points: SW2^2 is |v|^2 E[u_1^2] = |v|^2 / D."""
    v = np.linspace(1, 2, dim)
    found = sliced_wasserstein(np.zeros((1, dim)), v[None], 20_000)
    np.testing.assert_allclose(found, np.linalg.norm(v) / np.sqrt(dim), rtol=0.02)


def test_a_shift_along_the_line_is_the_shift(draw):
    a = draw.normal(size=(50, 1))
    np.testing.assert_allclose(sliced_wasserstein(a, draw.permutation(a + 0.7)), 0.7)


def test_shifted_and_scaled_gaussians():
    """W2^2 on a line = shift^2 + (difference of stds)^2; quantiles as samples."""
    quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    found = sliced_wasserstein(0.5 + 2.0 * quantiles, quantiles)
    np.testing.assert_allclose(found, np.sqrt(0.25 + 1.0), rtol=1e-3)


@pytest.mark.parametrize("sizes", [(6, 6), (6, 4), (7, 3), (1, 5)])
def test_unequal_sets_on_the_line(draw, sizes):
    """Points repeated to a common size, then matched by brute force."""
    a, b = (draw.normal(size=(size, 1)) for size in sizes)
    common = np.lcm(*sizes)
    many = [np.repeat(points, common // len(points), axis=0) for points in (a, b)]
    cost = (many[0] - many[1].T) ** 2
    rows, columns = linear_sum_assignment(cost)
    expected = np.sqrt(cost[rows, columns].mean())
    np.testing.assert_allclose(sliced_wasserstein(a, b), expected)


def test_between_two_values_it_follows_scipys_distance(draw):
    """0/1 sets move a share p over length 1: W1 = p = W2^2."""
    a, b = (draw.integers(0, 2, size=(size, 1)) for size in (30, 41))
    expected = wasserstein_distance(a[:, 0], b[:, 0])
    np.testing.assert_allclose(sliced_wasserstein(a, b) ** 2, expected)


def test_axes_are_averaged_over_the_circle(draw):
    """Many directions against a fine grid of angles, in two dimensions."""
    a, b = draw.normal(size=(40, 2)), 1.0 + 0.3 * draw.normal(size=(40, 2))
    angles = np.pi * np.arange(2000) / 2000
    lines = np.stack([np.cos(angles), np.sin(angles)])
    gaps = np.sort(a @ lines, axis=0) - np.sort(b @ lines, axis=0)
    expected = np.sqrt(np.mean(gaps**2))
    np.testing.assert_allclose(sliced_wasserstein(a, b, 5000), expected, rtol=0.01)


def test_more_directions_than_are_taken_at_once(draw):
    """The directions of a longer run begin with those of a shorter one."""
    a, b = draw.normal(size=(9, 3)), draw.normal(size=(8, 3))
    squares = [sliced_wasserstein(a, b, n, seed=4) ** 2 * n for n in range(1, 72)]
    assert np.all(np.diff(squares) > 0)
    assert sliced_wasserstein(a, b, 5, 1) != sliced_wasserstein(a, b, 5, 2)


def test_bad_sets_are_refused():
    good = np.zeros((3, 2))
    for bad in (np.zeros((3, 3)), np.zeros(3), np.zeros((0, 2)), good + np.nan):
        with pytest.raises(ValueError, match="set|finite"):
            sliced_wasserstein(good, bad)
    with pytest.raises(ValueError, match="num_projections"):
        sliced_wasserstein(good, good, 0)
