"""Values of black and white that are named: scikit-learn's digits, 16 bits, -1 to 1."""

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.images.array_parts import ArrayOptions
from ncgn_jax.images.arrays import load_arrays as load_named_arrays


def load_arrays(path, **options):
    return load_named_arrays(path, ArrayOptions(**options))


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i8", "f8"])
def test_any_range_of_values_can_be_named(tmp_path, pixels, dtype):
    stored = (pixels // 16).astype(dtype)
    path = write(tmp_path / "a.npz", train=stored, test=stored)
    data = load_arrays(path, value_range=(0, 15), pad_to=9)
    assert data.train.dtype == (np.float32 if dtype == "f8" else np.uint8)
    images, _ = data.take(slice(None))
    expected = stored.astype(float) * 2 / 15 - 1
    np.testing.assert_allclose(images[:, 1:7, 2:7], expected, atol=1e-6)
    assert np.all(images[:, 0] == -1)
    with pytest.raises(DataError, match=r"0\.\.15; .*value_range=\(0, 14\)"):
        load_arrays(path, value_range=(0, 14))


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (-1, 1)])
def test_ranges_beyond_bytes_are_kept(tmp_path, low, high):
    rng = np.random.default_rng(0)
    stored = low + rng.random((12, 6, 6, 1)) * (high - low)
    stored = stored.astype(np.uint16 if high > 1 else np.float32)
    path = write(tmp_path / "a.npz", train=stored, test=stored)
    data = load_arrays(path, value_range=(low, high), pad_to=8)
    images, _ = data.take(slice(None))
    expected = (stored.astype(float) - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(images[:, 1:7, 1:7], expected, atol=1e-6)
    assert np.all(images[:, 0] == -1)
