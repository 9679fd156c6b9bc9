"""Measures of pixels against closed forms and loops over images."""

import numpy as np
import pytest

from ncgn_jax.images import pixels
from ncgn_jax.images.pixels import (
    class_accuracy,
    memorisation,
    nearest_training_distance,
    sliced_wasserstein_patches,
    sliced_wasserstein_pixels,
)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_a_shift_of_all_images_is_its_root_mean_square(draw):
    a, shift = draw.normal(size=(6, 4, 5, 2)), draw.normal(size=(4, 5, 2))
    found = sliced_wasserstein_pixels(a, a[::-1] + shift, num_projections=5_000)
    np.testing.assert_allclose(found, np.sqrt((shift**2).mean()), rtol=0.03)


def test_the_pyramid_adds_up_and_separates_scales():
    """A constant is all in the coarsest level, alternating pixels in the finest."""
    image = np.random.default_rng(1).normal(size=(2, 29, 32, 3))
    levels = pixels._laplacian_pyramid(image, 7)
    assert [level.shape[1:3] for level in levels] == [(29, 32), (15, 16), (8, 8)]
    sides = {12: 1, 13: 2, 27: 3}  # 12 would be halved to 6, less than a patch
    for side, count in sides.items():
        assert len(pixels._laplacian_pyramid(np.ones((1, side, 40, 1)), 7)) == count
    flat = pixels._laplacian_pyramid(np.full((1, 28, 28, 1), 3.0), 7)
    assert [level.shape[1] for level in flat] == [28, 14, 7]
    np.testing.assert_allclose(flat[-1], 3.0)
    for level in flat[:-1]:
        np.testing.assert_allclose(level, 0, atol=1e-12)
    board = np.indices((16, 16)).sum(axis=0)[None, :, :, None] % 2 * 2.0 - 1.0
    fine, coarse = pixels._laplacian_pyramid(board, 7)
    np.testing.assert_allclose(fine, board, atol=1e-12)
    np.testing.assert_allclose(coarse, 0, atol=1e-12)


def test_the_blur_by_loops(draw):
    """Weights 1 4 6 4 1 along each axis, borders mirrored without repetition."""
    image = draw.normal(size=(5, 6))
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    padded = np.pad(image, 2, mode="reflect")
    expected = [
        [(padded[i : i + 5, j : j + 5] * weights).sum() for j in range(6)]
        for i in range(5)
    ]
    found = pixels._blur(image[None, :, :, None])[0, :, :, 0]
    np.testing.assert_allclose(found, expected)


def test_patches_are_cut_from_every_image_and_place():
    """Pixels that say where they are: a patch is an unbroken square of one image."""
    image = np.arange(3 * 9 * 8, dtype=float).reshape(3, 9, 8, 1)
    (patches,) = (part[..., 0] for part in pixels._pyramid_patches(image, 7, 40, 0))
    assert patches.shape == (120, 7, 7)
    corners = patches[:, 0, 0]
    steps = 8 * np.arange(7)[:, None] + np.arange(7)
    np.testing.assert_array_equal(patches, corners[:, None, None] + steps)
    allowed = {72 * i + 8 * y + x for i in range(3) for y in range(3) for x in range(2)}
    assert set(corners) == allowed
    assert [int(c // 72) for c in corners] == [i for i in range(3) for _ in range(40)]


def test_patches_of_images_of_one_patch_are_the_images(draw):
    """Then only each channel's own mean and scale are taken out."""
    a, b = draw.normal(size=(12, 5, 5, 2)), draw.uniform(size=(9, 5, 5, 2)) ** 3

    def standardised(part):
        return np.stack(
            [(part[..., c] - part[..., c].mean()) / part[..., c].std() for c in (0, 1)],
            axis=-1,
        )

    expected = sliced_wasserstein_pixels(standardised(a), standardised(b))
    found = sliced_wasserstein_patches(a, b, patches_per_image=3)
    np.testing.assert_allclose(found, expected)


def test_patches_see_texture_but_neither_brightness_nor_contrast(draw, monkeypatch):
    real = np.cumsum(draw.normal(size=(60, 16, 16, 2)), axis=1)
    other = np.cumsum(draw.normal(size=(60, 16, 16, 2)), axis=1)
    floor = sliced_wasserstein_patches(real, other)
    scaled = other * np.array([3.0, 0.5])
    np.testing.assert_allclose(sliced_wasserstein_patches(real, scaled), floor)
    assert sliced_wasserstein_patches(real, other.swapaxes(1, 2)) > 1.5 * floor
    assert sliced_wasserstein_patches(real, np.zeros_like(real)) > 1.5 * floor
    monkeypatch.setattr(pixels, "_BLOCK", 7)
    assert sliced_wasserstein_patches(real, other) == floor
    whole = pixels._normalise_channels(real + 5.0)
    np.testing.assert_allclose([whole.mean(), whole.std()], [0, 1], atol=1e-12)


def test_nearest_images_by_loops(draw, monkeypatch):
    generated = draw.uniform(-1, 1, size=(11, 3, 4, 2)).astype(np.float32)
    train = draw.uniform(-1, 1, size=(17, 3, 4, 2)).astype(np.float32)
    generated[4] = train[13]
    distances = [
        [np.sqrt(((g.astype(float) - r) ** 2).sum()) for r in train] for g in generated
    ]
    found = nearest_training_distance(generated, train)
    np.testing.assert_array_equal(found.row, np.argmin(distances, axis=1))
    np.testing.assert_allclose(found.distance, np.min(distances, axis=1))
    assert found.row[4] == 13
    assert found.distance[4] == 0
    monkeypatch.setattr(pixels, "_BLOCK", 4)
    blocked = nearest_training_distance(generated, train)
    np.testing.assert_array_equal(blocked.row, found.row)
    np.testing.assert_array_equal(blocked.distance, found.distance)


def test_near_images_far_from_zero_are_told_apart(draw):
    """|x|^2 + |y|^2 - 2 x.y from the origin would lose the difference."""
    train = 1e6 + draw.uniform(size=(40, 4, 4, 1))
    generated = train[[5, 31]] + 1e-5
    found = nearest_training_distance(generated, train)
    assert found.row.tolist() == [5, 31]
    np.testing.assert_allclose(found.distance, 4e-5, rtol=1e-3)


def test_memorisation_by_hand():
    test = np.arange(1.0, 102.0)  # median 51, first percentile 2
    found = memorisation([0.5, 1.9, 2.0, 102.0], test)
    assert found.ratio == pytest.approx(1.95 / 51)
    assert found.share_near == 0.5
    assert memorisation(test, test) == (1, pytest.approx(1 / 101))
    assert memorisation(np.zeros(3), test) == (0, 1)
    assert np.isnan(memorisation([1.0], [0.0]).ratio)


def test_class_accuracy_by_hand():
    assert class_accuracy([0, 2, 1, 1], [0, 1, 1, 2]) == 0.5


def test_bad_arguments_are_refused():
    good = np.zeros((3, 8, 8, 1))
    measures = (
        sliced_wasserstein_pixels,
        sliced_wasserstein_patches,
        nearest_training_distance,
    )
    for measure in measures:
        for bad in (np.zeros((3, 8, 8, 3)), good[0], good[:0], good + np.nan):
            with pytest.raises(ValueError, match="set|finite"):
                measure(good, bad)
    with pytest.raises(ValueError, match="patches_per_image=0"):
        sliced_wasserstein_patches(good, good, patches_per_image=0)
    for bad in ([], [[1.0]], [-1.0], [np.inf]):
        with pytest.raises(ValueError, match="distances"):
            memorisation(bad, [1.0])
    for bad in ([0], [[0, 1]]):
        with pytest.raises(ValueError, match="classes"):
            class_accuracy(bad, [0, 1])
