"""Tests patches of any size: resized kernels, cutting and joining, positions."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.models.patches import (
    PatchEmbedding,
    kernel_resize_matrix,
    patch_positions,
    patchify,
    resize_matrix,
    rotary_angles,
    rotate,
    unpatchify,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")

SIZES = (1, 2, 3, 4, 7, 8, 12)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("f4")


def embed(images, patch, features=5, base=8):
    """Returns tokens for random parameters, and the parameters."""
    network = PatchEmbedding(features, base)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, patch))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)
    return jax.jit(network.apply, static_argnums=2)(params, images, patch), params


@pytest.mark.parametrize("patch", SIZES)
def test_resizing_is_that_of_jax(patch):
    for base in (8, 5):
        matrix = resize_matrix(base, patch)
        assert matrix.shape == (patch**2, base**2)
        # Column i is the resized basis image i.
        basis = np.eye(base**2, dtype="f4").reshape(-1, base, base)
        resized = jax.image.resize(
            basis, (base**2, patch, patch), "cubic", antialias=True
        )
        columns = np.asarray(resized).reshape(base**2, patch**2).T
        np.testing.assert_allclose(matrix, columns, atol=1e-6)


@pytest.mark.parametrize("patch", [1, 2, 4, 7])
def test_resized_kernels_are_the_least_squares_fit(patch):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=64)
    small = kernel_resize_matrix(8, patch) @ kernel
    # The mean over x ~ N(0, I) equals that over any x with x^T x = I, here a rotation.
    x = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    fit = np.linalg.lstsq(x @ resize_matrix(8, patch).T, x @ kernel, rcond=None)[0]
    np.testing.assert_allclose(small, fit, atol=1e-9)
    # The same holds over samples, up to their noise.
    x = rng.normal(size=(100_000, 64))
    fit = np.linalg.lstsq(x @ resize_matrix(8, patch).T, x @ kernel, rcond=None)[0]
    np.testing.assert_allclose(small, fit, atol=0.1 * np.abs(small).max())


def test_a_larger_kernel_gives_resized_patches_the_same_tokens():
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=64), rng.normal(size=(7, 64))
    large = kernel_resize_matrix(8, 12) @ kernel
    resized = x @ resize_matrix(8, 12).T
    np.testing.assert_allclose(resized @ large, x @ kernel, atol=1e-9)


def test_the_kernel_of_the_base_patch_stays_as_it_is():
    np.testing.assert_allclose(kernel_resize_matrix(8, 8), np.eye(64), atol=1e-12)


def test_constant_patches_stay_constant():
    # A constant patch is resized to itself.
    for base, patch in itertools.product((3, 8), SIZES):
        np.testing.assert_allclose(resize_matrix(base, patch).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_tokens_are_those_of_an_explicit_loop(images, patch):
    tokens, variables = embed(images, patch)
    kernel, bias = (np.float64(variables["params"][k]) for k in ("kernel", "bias"))
    kernel = kernel.reshape(8, 8, 3, 5)
    resize = kernel_resize_matrix(8, patch).reshape(patch, patch, 8, 8)
    rows, columns = 8 // patch, 12 // patch
    assert tokens.shape == (2, rows * columns, 5)
    for image, i, j, out in np.ndindex(2, rows, columns, 5):
        token = bias[out]
        for y, x, channel in np.ndindex(patch, patch, 3):
            weight = np.sum(resize[y, x] * kernel[:, :, channel, out])
            token += images[image, i * patch + y, j * patch + x, channel] * weight
        found = tokens[image, i * columns + j, out]
        np.testing.assert_allclose(found, token, atol=2e-4)


def test_parameters_are_the_same_for_all_patches():
    image = np.zeros((1, 8, 16, 4), "f4")
    network = PatchEmbedding(features=6)
    init = jax.jit(network.init, static_argnums=2)
    first = init(jax.random.key(0), image, 1)
    for patch in (2, 8):
        jax.tree.map(
            np.testing.assert_array_equal, first, init(jax.random.key(0), image, patch)
        )
    kernel = first["params"]["kernel"]
    assert kernel.shape == (8 * 8 * 4, 6)
    assert np.abs(kernel).max() <= math.sqrt(6 / (8 * 8 * 4 + 6))  # Xavier's bound
    assert np.std(kernel) == pytest.approx(math.sqrt(2 / (8 * 8 * 4 + 6)), rel=0.05)


def test_tokens_have_the_type_of_the_images(images):
    network = PatchEmbedding(features=6)
    params = jax.jit(network.init, static_argnums=2)(jax.random.key(0), images, 4)
    half = jnp.asarray(images, jnp.bfloat16)
    assert jax.eval_shape(lambda: network.apply(params, half, 4)).dtype == jnp.bfloat16


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_are_cut_and_joined_pixel_by_pixel(images, patch):
    cut = np.asarray(patchify(images, patch))
    rows, columns = 8 // patch, 12 // patch
    assert cut.shape == (2, rows * columns, patch**2 * 3)
    for i, j in np.ndindex(rows, columns):
        piece = images[
            :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch
        ].reshape(2, -1)
        np.testing.assert_array_equal(cut[:, i * columns + j], piece)
    joined = unpatchify(cut, (rows, columns), patch)
    np.testing.assert_array_equal(joined, images)


def test_positions_by_hand():
    positions = patch_positions((2, 3), patch=4, features=8)
    assert positions.shape == (6, 8)
    assert positions.dtype == np.float32
    # Node 5 is row 1, column 2: its centre lies at y = 6, x = 10. Frequencies 1, 1/100.
    expected = [
        *(math.sin(6), math.sin(0.06), math.cos(6), math.cos(0.06)),
        *(math.sin(10), math.sin(0.1), math.cos(10), math.cos(0.1)),
    ]
    np.testing.assert_allclose(positions[5], expected, atol=1e-7)


def test_a_place_has_the_same_position_in_all_grids():
    # Centres of patches of 3 are centres of every third patch of 1.
    coarse = patch_positions((4, 5), 3, 16).reshape(4, 5, 16)
    fine = patch_positions((12, 15), 1, 16).reshape(12, 15, 16)
    np.testing.assert_allclose(coarse, fine[1::3, 1::3], atol=1e-6)


def test_turned_products_depend_on_distances_in_pixels():
    """An offset of 2 pixels up and 4 left gives the same product for any patches."""
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype("f4")

    def products(grid, patch, down, right):
        angles = rotary_angles(grid, patch, 8)
        nodes = np.arange(len(angles)).reshape(grid)
        ends = nodes[down:, right:].ravel()
        starts = nodes[: grid[0] - down, : grid[1] - right].ravel()
        spread = np.ones((1, len(angles), 1, 1), "f4")
        turned = [rotate(values * spread, angles)[0, :, 0] for values in (query, key)]
        return np.sum(np.asarray(turned[0])[ends] * np.asarray(turned[1])[starts], -1)

    fine, coarse = products((8, 12), 1, 2, 4), products((4, 6), 2, 1, 2)
    np.testing.assert_allclose(fine, fine[0], rtol=1e-4)
    np.testing.assert_allclose(coarse, fine[0], rtol=1e-4)
    assert abs(products((8, 12), 1, 2, 3)[0] - fine[0]) > 1e-2
    np.testing.assert_allclose(products((8, 12), 1, 0, 0), np.sum(query * key), 1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: patchify(x, 5), "found patch 5 and image_size 8 x 12"),
        (lambda x: patchify(x, 8), "found patch 8 and image_size 8 x 12"),
        (lambda x: embed(x, 3), "found patch 3 and image_size 8 x 12"),
        (lambda x: unpatchify(x[0], (2, 5), 1), "2 x 5 .* found 12 tokens of 3"),
        (lambda x: unpatchify(x[0], (3, 4), 2), "2 x 2 wanted, found 12 tokens of 3"),
        (lambda x: patch_positions((2, 2), 1, 6), "multiple of four, found 6"),
        (lambda x: patch_positions((2, 2), 1, 0), "multiple of four, found 0"),
        (lambda x: rotary_angles((2, 2), 1, 6), "multiple of four, found 6"),
        (lambda x: resize_matrix(8, 0), "positive, found 8 and 0"),
    ],
)
def test_impossible_requests_are_refused(images, call, words):
    with pytest.raises(ValueError, match=words):
        call(images)


def test_constants_are_made_once_and_stay_as_they_are():
    for make in (
        lambda: resize_matrix(8, 2),
        lambda: kernel_resize_matrix(8, 2),
        lambda: patch_positions((2, 2), 4, 8),
    ):
        assert make() is make()
        with pytest.raises(ValueError, match="read-only"):
            make()[0, 0] = 1
