"""Compares schedules chosen from losses with every possible choice."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.graphs import RangeResolution, make_noise_buckets
from ncgn_jax.graphs.fitted_schedules import least_loss_schedule
from ncgn_jax.graphs.range_resolution import (
    num_supernodes_exact,
    weight_of_supernodes,
)

SIZES = (60, 120, 400)
WEIGHTS = tuple(weight_of_supernodes(size, 400, 7) for size in SIZES)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_no_rising_choice_has_less_loss(seed, num_levels):
    losses = np.random.default_rng(seed).uniform(size=(num_levels, len(SIZES)))
    levels = (np.arange(num_levels) + 0.5) / num_levels
    table = least_loss_schedule(levels, WEIGHTS, losses)
    schedule = RangeResolution("table", table=table)
    exact = [num_supernodes_exact(level, 400, 7, schedule) for level in levels]
    chosen = [int(np.argmin(np.abs(np.subtract(SIZES, size)))) for size in exact]
    np.testing.assert_allclose(exact, np.take(SIZES, chosen), rtol=1e-2)
    choices = itertools.product(range(len(SIZES)), repeat=num_levels)
    rising = [choice for choice in choices if list(choice) == sorted(choice)]
    rows = range(num_levels)
    best = min(losses[rows, choice].sum() for choice in rising)
    assert losses[rows, chosen].sum() == pytest.approx(best)


def test_ties_go_to_the_coarser_graph_and_buckets_follow():
    losses = [[1, 1, 1], [1, 1, 1], [2, 1, 1], [3, 2, 1]]
    table = least_loss_schedule((0.2, 0.4, 0.6, 0.8), WEIGHTS, losses)
    assert [level for level, _ in table] == [0, 0.4, 0.6, 0.8, 1]
    buckets = make_noise_buckets(
        400, 7, 3, schedule=RangeResolution("table", table=table)
    )
    assert [b.num_supernodes for b in buckets] == [50, 100, 200, 400]
    assert buckets[0].high > 0.4 > 0.2
    assert buckets[-1].low < 0.8


def test_weights_of_supernodes_undo_the_number_of_supernodes():
    for u in (0.0, 0.3, 1.0):
        schedule = RangeResolution("table", table=((0, u), (1, u)))
        size = num_supernodes_exact(0.5, 400, 7, schedule)
        assert weight_of_supernodes(size, 400, 7) == pytest.approx(u)
    assert weight_of_supernodes(10, 400, 7) == 0.0


@pytest.mark.parametrize(
    ("levels", "weights", "losses", "expected"),
    [
        ((0.2, 0.8), (0, 1), np.ones((2, 3)), r"\[2, 2\]"),
        ((0.2, 0.8), (0, 1), [[1, np.nan], [1, 1]], "finite"),
        ((0.8, 0.2), (0, 1), np.ones((2, 2)), "must rise"),
        ((0.0, 0.5), (0, 1), np.ones((2, 2)), "must rise"),
        ((0.2, 0.8), (1, 0), np.ones((2, 2)), "weights rise"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(levels, weights, losses, expected):
    with pytest.raises(ValueError, match=expected):
        least_loss_schedule(levels, weights, losses)
