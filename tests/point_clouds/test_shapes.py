"""The embedded set, and the sampler of solids beneath it."""

import numpy as np
import pytest

from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.shapes import CATEGORIES, load_embedded, make_shapes
from ncgn_jax.point_clouds.solids import Solids


def sample(add, num_points=20000):
    solids = Solids(1)
    add(solids)
    return solids.sample(num_points, np.random.default_rng(0))[0].astype(np.float64)


def test_box_faces_in_proportion_to_area():
    points = sample(lambda s: s.box((1, 0, 0), (1, 2, 4)))
    local = np.abs(points - [1, 0, 0]) / [0.5, 1, 2]
    np.testing.assert_allclose(local.max(axis=1), 1, atol=1e-6)
    shares = np.bincount(local.argmax(axis=1)) / len(points)
    np.testing.assert_allclose(shares, np.array([8, 4, 2]) / 14, atol=0.015)


def test_cone_radius_is_uniform_by_area():
    points = sample(lambda s: s.frustum((0, 0, 0), (0, 0, 2), (0.5, 1.5)))
    radius = np.hypot(points[:, 0], points[:, 1])
    np.testing.assert_allclose(radius, 0.5 + points[:, 2] / 2, atol=1e-6)
    # Area within radius r of the axis grows as r^2.
    assert ((radius**2 - 0.25) / 2).mean() == pytest.approx(0.5, abs=0.01)


def test_ellipsoid_is_uniform_by_area():
    half = np.array([1.0, 0.5, 0.25])
    points = sample(lambda s: s.ellipsoid((0, 0, 0), half))
    np.testing.assert_allclose(np.square(points / half).sum(axis=1), 1, atol=1e-5)
    # Mean of x^2 by quadrature over the sphere with the stretch as weight.
    cosine, angle = np.meshgrid(
        np.linspace(-1, 1, 801)[1::2], np.linspace(0, 2 * np.pi, 400, endpoint=False)
    )
    sine = np.sqrt(1 - cosine**2)
    normal = np.stack([sine * np.cos(angle), sine * np.sin(angle), cosine], axis=-1)
    weight = np.linalg.norm(normal * half[[1, 2, 0]] * half[[2, 0, 1]], axis=-1)
    expected = (weight * np.square(normal[..., 0])).sum() / weight.sum()
    assert np.square(points[:, 0]).mean() == pytest.approx(expected, abs=0.008)


def test_torus_lies_on_the_outside_more_often():
    points = sample(lambda s: s.torus((0, 0, 0), (0, 1, 0), (1.0, 0.4)))
    across = np.hypot(points[:, 0], points[:, 2])
    np.testing.assert_allclose(np.hypot(across - 1, points[:, 1]), 0.4, atol=1e-6)
    # E[R + r cos] under a density proportional to R + r cos is R + r^2 / 2R.
    assert across.mean() == pytest.approx(1 + 0.16 / 2, abs=0.01)


def test_hidden_parts_have_no_points():
    def add(solids):
        solids.box((0, 0, 0), (2, 2, 2))
        solids.ellipsoid((1, 0, 0), (0.5, 0.5, 0.5))

    points = sample(add)
    in_box = (np.abs(points) < 1 - 1e-3).all(axis=1)
    in_ball = np.linalg.norm(points - [1, 0, 0], axis=1) < 0.5 - 1e-3
    assert not in_box.any()
    assert not in_ball.any()
    # Half the ball's surface against the box's, less the disc it hides.
    on_ball = np.abs(np.linalg.norm(points - [1, 0, 0], axis=1) - 0.5) < 1e-5
    expected = (np.pi / 2) / (np.pi / 2 + 24 - np.pi / 4)
    assert on_ball.mean() == pytest.approx(expected, abs=0.006)


def test_parts_may_be_absent_from_some_shapes():
    solids = Solids(2)
    solids.box((0, 0, 0), (1, 1, 1))
    solids.rod((0, 0, 0), (0, 0, 5), 0.1, present=np.array([True, False]))
    clouds = solids.sample(300, np.random.default_rng(0))
    assert clouds[0, :, 2].max() > 4
    assert clouds[1, :, 2].max() <= 0.5


def test_all_categories_are_normalised_and_differ():
    points, labels, names = make_shapes(96, 200, seed=0)
    assert names == CATEGORIES
    assert len(names) >= 12
    np.testing.assert_array_equal(np.bincount(labels), 96 // len(names))
    assert points.dtype == np.float32
    np.testing.assert_allclose(points.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(points).max(axis=(1, 2)), 1, atol=1e-5)
    # Same shape twice would have the same box.
    assert len(np.unique(np.round(points.max(axis=1), 4), axis=0)) == 96


def test_upright():
    for name, axis in (("ladder", 2), ("bottle", 2), ("car", 0)):
        points, _, _ = make_shapes(8, 200, 0, [name])
        extent = np.ptp(points, axis=1)
        np.testing.assert_array_equal(extent.argmax(axis=1), axis)
    table = make_shapes(8, 400, 0, ["table"])[0]
    assert (table[..., 2] > 0).mean() > 0.5  # the board is on top


def test_seeds():
    one, two, other = (make_shapes(20, 50, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_faults():
    with pytest.raises(DataError, match=r"\['boat'\]; allowed: airplane, bed"):
        make_shapes(4, 10, 0, ["boat"])
    with pytest.raises(DataError, match="num_shapes=0"):
        make_shapes(0, 10, 0)
    with pytest.raises(DataError, match="num_points=1"):
        make_shapes(4, 1, 0)


def test_embedded_set_is_cached_and_its_splits_are_distinct(tmp_path, monkeypatch):
    data = load_embedded(30, 30, 60, seed=2, cache_dir=tmp_path)
    assert data.train.shape == (30, 60, 3)
    assert data.test.shape == (30, 60, 3)
    boxes = np.concatenate([data.train, data.test]).max(axis=1)
    assert len(np.unique(np.round(boxes, 5), axis=0)) == 60
    assert "not ModelNet" in str(data.report)
    with monkeypatch.context() as patch:
        patch.setattr(Solids, "sample", lambda *_: pytest.fail("made again"))
        again = load_embedded(30, 30, 60, seed=2, cache_dir=tmp_path)
    np.testing.assert_array_equal(data.train, again.train)
