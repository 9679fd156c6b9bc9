"""Orders of integers and floats, against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.graphs import sorting


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


@pytest.mark.parametrize("num_bits", [0, 3, 16, 17, 32])
@pytest.mark.parametrize("shape", [(1,), (50,), (3, 200)])
def test_integers_are_sorted_and_ties_keep_their_order(numbers, num_bits, shape):
    keys = numbers.integers(0, 2**num_bits, shape).astype(np.uint32)
    keys[..., -1] = keys[..., 0]
    order = sorting.argsort_integers(jnp.asarray(keys), num_bits)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(order, np.argsort(keys, axis=-1, kind="stable"))


def test_floats_are_sorted_whatever_their_sign_and_size(numbers):
    values = np.float32(
        numbers.normal(size=(4, 300)) * 10.0 ** numbers.uniform(-38, 38)
    )
    values[0, :8] = [np.inf, -np.inf, np.nan, -np.nan, 1e-40, -1e-40, 2.0, 2.0]
    order = sorting.argsort_floats(jnp.asarray(values))
    np.testing.assert_array_equal(order, np.argsort(values, axis=-1, kind="stable"))


def test_zeros_of_both_signs_have_one_order():
    order = sorting.argsort_floats(jnp.asarray([0.0, -0.0, 1.0, -1.0]))
    np.testing.assert_array_equal(order, [3, 1, 0, 2])


def test_more_keys_than_16_bits_number(numbers):
    keys = numbers.integers(0, 2**20, 70_000).astype(np.int32)
    order = sorting.argsort_integers(jnp.asarray(keys), 20)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))


def test_the_inverse_undoes_a_permutation(numbers):
    order = numbers.permuted(np.tile(np.arange(77), (2, 1)), axis=1)
    inverse = sorting.invert(jnp.asarray(order))
    np.testing.assert_array_equal(
        np.take_along_axis(order, np.asarray(inverse), axis=1),
        np.tile(np.arange(77), (2, 1)),
    )


def test_wide_numbers_are_sorted_too(numbers):
    values = 1 + 1e-12 * numbers.permutation(50)
    with jax.enable_x64(True):
        found = [
            sorting.argsort_floats(jnp.asarray(values)),
            sorting.argsort_integers(jnp.asarray(values).astype(int), 1),
        ]
    assert {order.dtype for order in found} == {jnp.dtype("int32")}
    np.testing.assert_array_equal(found[0], np.argsort(values))
    np.testing.assert_array_equal(found[1], np.arange(50))
