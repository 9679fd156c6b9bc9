"""Batches are functions of (seed, step)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.data.batches import batch_indices, take_batch


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 5))
def test_every_epoch_visits_every_example_once(num_examples, batch_size, seed):
    num_steps = 3 * num_examples // batch_size + 1
    row = np.concatenate(
        [batch_indices(num_examples, batch_size, s, seed) for s in range(num_steps)]
    )
    for start in range(0, len(row) - num_examples + 1, num_examples):
        epoch = row[start : start + num_examples]
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_order_depends_on_seed_and_epoch_alone():
    def orders(seed):
        return [tuple(batch_indices(50, 50, step, seed)) for step in range(3)]

    assert orders(0) == orders(0)
    assert len(set(orders(0) + orders(1))) == 6
    late = batch_indices(50, 7, 10**9, 3)  # no walk through the steps before
    np.testing.assert_array_equal(late, batch_indices(50, 7, 10**9, 3))


@pytest.mark.parametrize("sizes", [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="allowed"):
        batch_indices(*sizes, seed=0)


@pytest.fixture
def clouds():
    return np.arange(9 * 40 * 3, dtype=np.float32).reshape(9, 40, 3)


def test_whole_clouds(clouds):
    labels = np.arange(9)
    batch = take_batch(clouds, labels, step=3, batch_size=4, seed=1)
    index = batch_indices(9, 4, 3, 1)
    np.testing.assert_array_equal(batch["data"], clouds[index])
    np.testing.assert_array_equal(batch["label"], index)
    assert batch["label"].dtype == np.int32
    assert set(take_batch(clouds, None, 0, 4, 0)) == {"data", "index"}


def test_fresh_draws_without_repeats(clouds):
    batches = [take_batch(clouds, None, s, 9, 0, num_points=16) for s in range(2)]
    for batch in batches:
        assert batch["data"].shape == (9, 16, 3)
        for index, cloud in zip(batch["index"], batch["data"], strict=True):
            assert len(np.unique(cloud[:, 0])) == 16
            assert np.isin(cloud[:, 0], clouds[index, :, 0]).all()
    one, two = (set(batch["data"][:, :, 0].ravel()) for batch in batches)
    assert one != two
    again = take_batch(clouds, None, 1, 9, 0, num_points=16)
    np.testing.assert_array_equal(again["data"], batches[1]["data"])
    with pytest.raises(ValueError, match="num_points=41; allowed: <= 40"):
        take_batch(clouds, None, 0, 4, 0, num_points=41)


def test_draws_take_every_point_equally_often(clouds):
    counts = np.zeros(40)
    for step in range(200):
        drawn = take_batch(clouds, None, step, 9, 0, num_points=10)["data"]
        np.add.at(counts, (drawn[..., 0].astype(int) // 3) % 40, 1)
    assert np.abs(counts - 450).max() < 4.5 * np.sqrt(1800 * 0.25 * 0.75)


def test_hosts_together_hold_the_batch(clouds):
    whole = take_batch(clouds, np.arange(9), 2, 8, 5, num_points=11)
    parts = [
        take_batch(clouds, np.arange(9), 2, 8, 5, num_points=11, rows=rows)
        for rows in (slice(0, 4), slice(4, 8))
    ]
    for key, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), value)
