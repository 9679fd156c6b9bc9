"""Classes in every form, alike for all that has classes."""

import numpy as np
import pytest

from ncgn_jax.data.labels import RawLabels, clean_names, plain_labels
from ncgn_jax.faults import DataError

NUMBERS = [2, 0, -1]


@pytest.mark.parametrize(
    ("stored", "values", "note"),
    [
        (np.array(NUMBERS, np.int8), NUMBERS, ""),
        (np.array(NUMBERS)[:, None], NUMBERS, ""),
        (np.array(NUMBERS, np.float16), NUMBERS, "whole numbers stored as float16"),
        (np.array(7), [7], ""),
        (np.array([True, False]), [1, 0], "False (0) and True (1)"),
        (np.eye(4, dtype=np.uint8)[[3, 1]], [3, 1], "one-hot rows of 4"),
        (np.array([" ant", "bee"]), ["ant", "bee"], ""),
        (np.array([b"ant ", "b\xe9e".encode()], object), ["ant", "b\xe9e"], ""),
    ],
)
def test_forms_of_classes_are_told_apart(stored, values, note):
    found, said = plain_labels(RawLabels(stored, "a"), "cloud")
    assert found.tolist() == values
    assert found.dtype.kind in "iU"
    assert said.endswith(note)
    assert bool(said) == bool(note)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.array([0.5]), r"float64 with 0\.5; .*one for each cloud"),
        (np.array([np.nan]), "with nan"),
        (np.array([1e300]), r"1e\+300"),
        (np.array([2**63], np.uint64), r"9\.22337e\+18"),
        (np.ones((2, 3)), "row 0 is 1 1 1"),
        (np.ones((2, 3, 1)), r"shape \(2, 3, 1\)"),
        (np.array([["a", "b"]]), r"texts of shape \(1, 2\); allowed: \[cloud\]"),
        (np.array([b"\xff"]), "not readable as UTF-8"),
        (np.array([None]), "dtype object"),
        (np.array([1j]), "dtype complex128"),
    ],
)
def test_what_is_no_class_is_refused(stored, message):
    with pytest.raises(DataError, match=f"^a: .*{message}"):
        plain_labels(RawLabels(stored, "a"), "cloud")


def test_names_of_classes_are_texts_without_spaces():
    assert clean_names(np.array([b" a", "b"], object), "a") == ("a", "b")
    assert clean_names(np.array([3, 1]), "a") == ("3", "1")
    with pytest.raises(DataError, match=r"a: shape \(1, 1\); allowed: \[class\]"):
        clean_names(np.array([["a"]]), "a")
