"""Checks, normalisation and draws of point clouds."""

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.sets import (
    check_clouds,
    draw_points,
    make_dataset,
    normalise_clouds,
    standardise,
)


@pytest.fixture
def draws():
    return np.random.default_rng(0)


@pytest.fixture
def clouds(draws):
    size = np.array([1.0, 5.0, 0.2])
    return draws.normal(size=(6, 80, 3)) * size + np.array([100.0, -3.0, 7.0])


def test_normalised_mean_is_the_origin_and_largest_coordinate_one(clouds):
    unit = normalise_clouds(clouds)
    np.testing.assert_allclose(unit.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(unit).max(axis=(1, 2)), 1, rtol=1e-6)
    # One factor for all axes: proportions stay.
    extent, before = np.ptp(unit, axis=1), np.ptp(clouds, axis=1)
    np.testing.assert_allclose(
        extent / extent.max(axis=1)[:, None],
        before / before.max(axis=1)[:, None],
        rtol=1e-5,
    )


@pytest.mark.parametrize("flat_axes", [(0,), (2,), (0, 2)])
def test_planar_and_straight_clouds_are_fine(clouds, flat_axes):
    clouds[..., list(flat_axes)] = 3.7
    unit = normalise_clouds(clouds)
    assert np.isfinite(unit).all()
    np.testing.assert_allclose(unit[..., list(flat_axes)], 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(unit).max(axis=(1, 2)), 1, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_sizes(draws, scale):
    points = draws.normal(size=(2, 30, 3))
    np.testing.assert_allclose(
        normalise_clouds(points * scale), normalise_clouds(points), atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coincident_points_are_refused_with_index(clouds, value, dtype):
    clouds[4] = value
    with pytest.raises(DataError, match="field z: all 80 points of cloud 4 coincide"):
        check_clouds(clouds.astype(dtype), "field z")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_with_index(clouds, value):
    clouds[3, 17, 1] = value
    with pytest.raises(DataError, match=r"a\.npz: cloud 3, point 17, y=-?(nan|inf)"):
        check_clouds(clouds, "a.npz")


def test_numbers_that_become_not_finite_in_double_precision_are_refused(clouds):
    signalling = clouds.astype(np.float32)
    signalling.view(np.uint32)[3, 17, 1] = 0x7F800001  # casting it warns
    with pytest.raises(DataError, match="cloud 3, point 17, y=nan"):
        check_clouds(signalling, "a")
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        huge = clouds.astype(np.longdouble)
        huge[3, 17, 1] = np.longdouble(10) ** 4000
        with pytest.raises(DataError, match="cloud 3, point 17, y=inf"):
            check_clouds(huge, "a")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((4, 5, 2)), r"shape \(4, 5, 2\); allowed"),
        (np.zeros((0, 5, 3)), "no point clouds"),
        (np.zeros((2, 0, 3)), "0 points"),
        (np.zeros((2, 5, 3), bool), "dtype bool"),
        (np.full((2, 5, 3), "a"), "numbers expected"),
    ],
)
def test_wrong_shapes_are_refused(points, message):
    with pytest.raises(DataError, match=message):
        check_clouds(points, "x")


def test_too_few_points_names_the_choices():
    wanted = (
        r"file X: 312 points, num_points=400 asked; allowed: data.num_points <= 312, "
        r"or of meshes data\.sampling=surface"
    )
    with pytest.raises(DataError, match=wanted):
        check_clouds(np.ones((1, 312, 3)), "file X", 400)


def test_draw_is_a_subset_without_repeats(draws):
    clouds = np.arange(4 * 50 * 3, dtype=np.float64).reshape(4, 50, 3)
    drawn = draw_points(clouds, 20, draws)
    for cloud, subset in zip(clouds, drawn, strict=True):
        assert len(np.unique(subset[:, 0])) == 20
        assert np.isin(subset[:, 0], cloud[:, 0]).all()
        np.testing.assert_array_equal(subset[:, 1], subset[:, 0] + 1)
    assert draw_points(clouds[0], 20, draws).shape == (20, 3)


def test_draw_takes_every_point_equally_often(draws):
    clouds = np.broadcast_to(np.arange(10.0)[None, :, None], (4000, 10, 3))
    counts = np.bincount(draw_points(clouds, 3, draws)[..., 0].astype(int).ravel())
    assert np.abs(counts - 1200).max() < 4.5 * np.sqrt(4000 * 0.3 * 0.7)


def test_scale_gives_unit_variance(draws):
    train = draws.normal(size=(500, 40, 3)) * np.array([0.3, 0.1, 0.2]) + 0.5
    expected = np.sqrt((0.09 + 0.01 + 0.04) / 3)
    assert standardise(train) == pytest.approx(expected, rel=0.01)
    scaled = train / standardise(train)
    assert (scaled - scaled.mean(axis=(0, 1))).std() == pytest.approx(1)


def test_dataset_is_typed_and_checked(clouds):
    labels = np.zeros(6, np.int64)
    data = make_dataset("n", clouds, clouds, labels, labels, ("a",), "made up")
    assert data.train.dtype == data.test.dtype == np.float32
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert isinstance(data.scale, float)
    with pytest.raises(DataError, match="6 clouds but labels of shape"):
        make_dataset("n", clouds, clouds, labels[:5], labels, ("a",), "")
    with pytest.raises(DataError, match="labels 1..1 for 1 class names"):
        make_dataset("n", clouds, clouds, labels + 1, labels, ("a",), "")


def test_the_scale_of_large_sets_is_found_in_parts(clouds, monkeypatch):
    whole = standardise(clouds)
    monkeypatch.setattr("ncgn_jax.point_clouds.sets._STD_AT_ONCE", 1000)
    assert standardise(clouds) == pytest.approx(whole, rel=1e-12)
