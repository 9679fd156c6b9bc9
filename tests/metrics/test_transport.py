"""Transport against brute force over permutations, and what W cannot see."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ncgn_jax.metrics import transport
from ncgn_jax.metrics.transport import (
    _shift_by_duals,
    all_pairs,
    emd_pairs,
    wasserstein_flat,
    wasserstein_matched,
)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def best_permutation(p, q, power):
    costs = [
        np.mean(np.linalg.norm(p - q[list(order)], axis=1) ** power)
        for order in itertools.permutations(range(len(p)))
    ]
    return min(costs) ** (1 / power)


def best_assignment_of_sets(cost):
    orders = itertools.permutations(range(len(cost)))
    return min(np.mean([cost[i, j] for i, j in enumerate(o)]) for o in orders)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dim", [2, 3])
def test_emd_is_the_best_permutation(draw, power, dim):
    a, b = draw.normal(size=(3, 5, dim)), 2 + draw.normal(size=(2, 5, dim))
    pairs = all_pairs(3, 2)
    expected = [best_permutation(a[i], b[j], power) for i, j in pairs]
    np.testing.assert_allclose(emd_pairs(a, b, pairs, power=power), expected)


def test_emd_of_a_shift_is_the_shift(draw):
    a = draw.normal(size=(2, 30, 3))
    moved = draw.permutation(a + np.array([[[0.3, 0.0, 0.4]]]), axis=1)
    for power in (1, 2):
        distances = emd_pairs(a, moved, [(0, 0), (1, 1)], power=power)
        # A common shift is an optimal move for squared cost; for p = 1 as well,
        # as no plan can beat the distance of the means.
        np.testing.assert_allclose(distances, 0.5)


@pytest.mark.parametrize("num_points", [2, 17, 120])
@pytest.mark.parametrize("spread", [1e-8, 1.0, 1e6])
def test_dual_shift_changes_no_optimum(draw, num_points, spread):
    for _ in range(3):
        cost = spread * draw.exponential(size=(num_points, num_points)) ** 3
        cost[0] *= 1e3  # an outlier
        plain = cost[linear_sum_assignment(cost)].sum()
        shifted = _shift_by_duals(cost)
        assert np.isfinite(shifted).all()
        quick = cost[linear_sum_assignment(shifted)].sum()
        np.testing.assert_allclose(quick, plain, rtol=1e-12)


def test_dual_shift_handles_constant_costs():
    for value in (0.0, 3.0):
        assert np.isfinite(_shift_by_duals(np.full((4, 4), value))).all()


def test_threads_change_nothing(draw, monkeypatch):
    a, b = draw.normal(size=(2, 6, 40, 3))
    pairs, found = all_pairs(6, 6), []
    for number in (1, 4):
        monkeypatch.setattr(transport, "_num_cores", lambda number=number: number)
        found.append(emd_pairs(a, b, pairs))
    np.testing.assert_array_equal(*found)


def test_flat_w_is_an_assignment_for_equal_sizes(draw):
    a, b = draw.normal(size=(2, 5, 7, 3))
    cost = np.linalg.norm(a.reshape(5, 1, -1) - b.reshape(1, 5, -1), axis=-1)
    expected = best_assignment_of_sets(cost) / 7
    assert wasserstein_flat(a, b) == pytest.approx(expected, rel=1e-12)


def test_flat_w_of_unequal_sizes_splits_the_mass():
    generated = np.array([0.0, 1.0]).reshape(2, 1, 1)
    reference = np.array([0.0, 1.0, 4.0]).reshape(3, 1, 1)
    # Masses 1/2, 1/2 onto 1/3 each: 1/6 moves 0 -> 1 and 1/3 moves 1 -> 4.
    assert wasserstein_flat(generated, reference) == pytest.approx(1 / 6 + 1)


def test_matched_w_against_brute_force(draw):
    a, b = draw.normal(size=(2, 3, 4, 2))
    cost = np.array([[2 * best_permutation(p, q, 2) for q in b] for p in a])
    expected = best_assignment_of_sets(cost) / 4
    result = wasserstein_matched(a, b)
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert (result.num_generated, result.num_reference) == (3, 3)
    assert result.value <= wasserstein_flat(a, b)


def test_only_the_matched_w_ignores_the_order_of_points(draw):
    a, b = draw.normal(size=(2, 6, 12, 3))
    a, b = np.sort(a, axis=1), np.sort(b, axis=1)  # an order to destroy
    shuffled = draw.permuted(np.arange(6 * 12).reshape(6, 12), axis=1)
    mixed = a.reshape(-1, 3)[shuffled]
    before, after = wasserstein_matched(a, b), wasserstein_matched(mixed, b)
    assert before.value == pytest.approx(after.value, rel=1e-12)
    assert wasserstein_flat(mixed, b) > 1.5 * wasserstein_flat(a, b)
    assert wasserstein_matched(a, mixed).value == pytest.approx(0, abs=1e-12)


def test_flat_w_rewards_collapse_and_matched_w_does_not(draw):
    def ellipsoids(num):
        return draw.normal(size=(num, 40, 3)) * np.array([[[1.0, 0.2, 0.05]]])

    reference, real, collapsed = ellipsoids(24), ellipsoids(24), np.zeros((24, 40, 3))
    assert wasserstein_flat(collapsed, reference) < wasserstein_flat(real, reference)
    matched = wasserstein_matched(real, reference).value
    assert matched < 0.7 * wasserstein_matched(collapsed, reference).value


def test_matched_subsets_are_seeded_and_stated(draw):
    a, b = draw.normal(size=(9, 5, 3)), draw.normal(size=(4, 5, 3))
    result = wasserstein_matched(a, b, max_clouds=6, seed=1)
    assert (result.num_generated, result.num_reference) == (6, 4)
    assert result == wasserstein_matched(a, b, max_clouds=6, seed=1)
    assert result != wasserstein_matched(a, b, max_clouds=6, seed=2)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 4, 3)), "equal points"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "clouds, points, dimensions"),
        (np.zeros((0, 3, 3)), np.zeros((2, 3, 3)), "empty"),
        (np.full((2, 3, 3), np.nan), np.zeros((2, 3, 3)), "2 of 2 clouds"),
    ],
)
def test_wrong_sets_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        wasserstein_flat(a, b)
    with pytest.raises(ValueError, match=message):
        emd_pairs(a, b, [(0, 0)])


def test_wrong_power_is_refused():
    with pytest.raises(ValueError, match="choose 1 or 2"):
        emd_pairs(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), [(0, 0)], power=3)
