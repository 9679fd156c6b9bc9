"""The closed-form set: distribution, exact distances and fits."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ncgn_jax.point_clouds import primitives
from ncgn_jax.point_clouds.primitive_fits import best_fit
from ncgn_jax.point_clouds.primitives import (
    BOX,
    SPHERE,
    TORUS,
    distance_to_surface,
    in_prior,
    make_primitives,
    rotation_matrix,
)


@pytest.fixture(scope="module")
def drawn():
    return make_primitives(60, 400, seed=0)


def surface(label, sizes, seed=0):
    pose = np.random.default_rng(seed).normal(size=4)
    pose /= np.linalg.norm(pose)
    return np.concatenate([[0.05, -0.1, 0.02], pose, sizes])


SURFACES = [
    (SPHERE, [0.6, 0, 0]),
    (TORUS, [0.5, 0.2, 0]),
    (BOX, [0.2, 0.3, 0.5]),
]


def test_points_lie_on_their_surfaces_within_the_cube(drawn):
    points, labels, parameters = drawn
    assert set(labels) == {SPHERE, TORUS, BOX}
    assert np.abs(points).max() <= 1
    for cloud, label, surface_ in zip(points, labels, parameters, strict=True):
        assert distance_to_surface(cloud, label, surface_).max() < 1e-6
        assert in_prior(label, surface_)


def test_rotations_are_proper_and_uniform():
    _, _, parameters = make_primitives(4000, 1, seed=1)
    turns = np.stack([rotation_matrix(row) for row in parameters])
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-9)
    np.testing.assert_allclose(turns.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose(np.square(turns).mean(axis=0), 1 / 3, atol=0.03)


def test_torus_angle_has_the_density_of_area():
    ring, tube, count = 0.5, 0.25, 40000
    points = primitives._sample_torus(
        np.array([ring, tube, 0]), count, np.random.default_rng(0)
    )
    across = np.hypot(points[:, 0], points[:, 1]) - ring
    angle = np.sort(np.arctan2(points[:, 2], across) % (2 * np.pi))
    # Distribution function of the density (R + r cos a) / (2 pi R).
    expected = (angle + tube / ring * np.sin(angle)) / (2 * np.pi)
    gap = np.abs(expected - (np.arange(count) + 0.5) / count).max()
    assert gap < 1.63 / np.sqrt(count)  # Kolmogorov-Smirnov, 1 %
    around = np.sort(np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5)
    assert np.abs(around - np.arange(count) / count).max() < 1.7 / np.sqrt(count)


def test_box_faces_and_sphere_moments():
    sizes, rng = np.array([0.2, 0.3, 0.5]), np.random.default_rng(0)
    box = primitives._sample_box(sizes, 20000, rng)
    shares = np.bincount((np.abs(box) / sizes).argmax(axis=1)) / len(box)
    areas = np.array([0.15, 0.1, 0.06])
    np.testing.assert_allclose(shares, areas / areas.sum(), atol=0.015)
    sphere = primitives._sample_sphere(np.array([0.7, 0, 0]), 20000, rng)
    np.testing.assert_allclose(
        sphere.T @ sphere / 20000, np.eye(3) * 0.49 / 3, atol=5e-3
    )


@pytest.mark.parametrize(("label", "sizes"), SURFACES)
def test_distance_against_dense_sampling(label, sizes):
    truth, rng = surface(label, sizes), np.random.default_rng(1)
    dense = primitives._SAMPLERS[label](np.array(sizes), 400_000, rng)
    dense = dense @ rotation_matrix(truth).T + truth[:3]
    queries = rng.uniform(-1.2, 1.2, size=(500, 3))
    brute, _ = cKDTree(dense).query(queries)
    exact = distance_to_surface(queries, label, truth)
    assert (exact <= brute + 1e-9).all()
    # The nearest sample is about 1/sqrt(density) off along the surface.
    np.testing.assert_allclose(brute, exact, atol=0.012)
    assert np.abs(brute - exact).mean() < 5e-4


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_best_fit_recovers_the_surface(drawn, noise):
    rng = np.random.default_rng(0)
    for cloud, label, truth in zip(*(part[:24] for part in drawn), strict=True):
        noisy = cloud + noise * rng.normal(size=cloud.shape)
        found_label, found, rms = best_fit(noisy)
        assert found_label == label
        assert rms < 1.15 * noise + 1e-6
        assert rms > 0.85 * noise
        slack = 1e-5 + noise
        assert in_prior(found_label, found, tolerance=slack)
        np.testing.assert_allclose(
            np.sort(found[7:]), np.sort(truth[7:]), atol=slack, rtol=0
        )
        residual = distance_to_surface(noisy, found_label, found)
        assert np.sqrt(np.square(residual).mean()) == pytest.approx(rms, abs=1e-9)


@pytest.mark.parametrize(("label", "sizes"), SURFACES)
def test_slopes_are_those_of_the_distance(label, sizes):
    from ncgn_jax.point_clouds import primitive_fits as fits

    truth = surface(label, sizes)
    cloud = np.random.default_rng(2).uniform(-1, 1, size=(60, 3))
    start = fits._Surface(label, truth[:3], rotation_matrix(truth), truth[7:])
    _, slopes = fits._linearise(cloud, start)
    for column in range(slopes.shape[1]):
        step = np.zeros(slopes.shape[1])
        step[column] = 1e-6
        ahead, _ = fits._linearise(cloud, fits._move(start, step))
        behind, _ = fits._linearise(cloud, fits._move(start, -step))
        numeric = (ahead - behind) / 2e-6
        np.testing.assert_allclose(slopes[:, column], numeric, atol=1e-6)


def test_noise_is_far_from_every_primitive():
    cloud = np.random.default_rng(0).normal(size=(400, 3)) * 0.45
    _, _, rms = best_fit(cloud)
    assert rms > 0.1


@pytest.mark.parametrize("kind", ["plane", "line", "doubled"])
def test_degenerate_clouds_are_fitted_all_the_same(kind):
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    if kind == "plane":
        cloud[:, 2] = 0
    elif kind == "line":
        cloud[:, 1:] = 0
    else:
        cloud[:25] = cloud[0]
    _, parameters, rms = best_fit(cloud)
    assert np.isfinite(parameters).all()
    assert np.isfinite(rms)


def test_unusable_clouds():
    with pytest.raises(ValueError, match="allowed"):
        best_fit(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        best_fit(np.full((20, 3), np.nan))
    with pytest.raises(ValueError, match="coincide"):
        best_fit(np.ones((20, 3)))


def test_prior_bounds():
    assert not in_prior(SPHERE, surface(SPHERE, [0.95, 0, 0]))
    assert in_prior(SPHERE, surface(SPHERE, [0.95, 0, 0]), tolerance=0.06)
    assert not in_prior(TORUS, surface(TORUS, [0.5, 0.3, 0]))
    assert not in_prior(BOX, surface(BOX, [0.2, 0.3, 0.1]))
