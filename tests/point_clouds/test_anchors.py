"""Anchor sets: sizes, meaning, no overlap between the halves."""

import numpy as np
import pytest

from ncgn_jax.data.batches import split_reference
from ncgn_jax.point_clouds.anchors import ANCHOR_NAMES, make_anchor_sets


def numbered(num, start=0):
    """Clouds that carry their number, so that draws can be traced."""
    return np.broadcast_to(
        np.arange(start, start + num, dtype=np.float32)[:, None, None], (num, 6, 3)
    )


def test_sizes_and_members():
    train, test = numbered(30), numbered(21, start=100)
    sets = make_anchor_sets(train, test, num_clouds=8, seed=3)
    assert tuple(sets) == ANCHOR_NAMES
    assert {clouds.shape for clouds in sets.values()} == {(8, 6, 3)}
    assert not sets["origin"].any()
    drawn = sets["train"][:, 0, 0]
    assert len(set(drawn)) == 8
    assert set(drawn) <= set(range(30))
    assert list(drawn) != sorted(drawn)


def test_held_out_never_meets_its_reference():
    test = numbered(21)
    first, second = split_reference(test, seed=3)
    held_out = make_anchor_sets(numbered(5), test, num_clouds=50, seed=3)["held_out"]
    np.testing.assert_array_equal(held_out, second)
    assert len(first) == len(second) == 10
    assert not set(first[:, 0, 0]) & set(second[:, 0, 0])
    again, _ = split_reference(test, seed=3)
    np.testing.assert_array_equal(first, again)
    other, _ = split_reference(test, seed=4)
    assert (first != other).any()


def test_noise_is_standard_normal():
    train = np.zeros((2, 400, 3))
    sets = make_anchor_sets(train, train, num_clouds=50, seed=0)
    assert sets["noise"].std() == pytest.approx(1.0, rel=0.02)
    assert abs(sets["noise"].mean()) < 0.04


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="but test is"):
        make_anchor_sets(numbered(3), np.zeros((3, 7, 3)), num_clouds=2, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        make_anchor_sets(numbered(3), numbered(3), num_clouds=0, seed=0)
    with pytest.raises(ValueError, match="halves"):
        split_reference(numbered(1), seed=0)
