"""Statistics of clouds whose values are known."""

import numpy as np
import pytest

from ncgn_jax.point_clouds.statistics import cloud_statistics, statistics_distance


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_statistics_of_a_square():
    square = np.array([[[0.0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 0]]])
    found = {name: v[0] for name, v in cloud_statistics(square + 5).items()}
    expected = {
        "std": np.sqrt((1 + 0.25) / 3),
        "std_0": 1,
        "std_1": 0.5,
        "std_2": 0,
        "extent": 2,
        "extent_0": 2,
        "extent_1": 1,
        "extent_2": 0,
        "planarity": 0,
        "nearest_distance": 1,
        "num_stray": 0,
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_points_far_from_all_others_are_stray():
    line = np.stack([np.arange(40.0), np.zeros(40), np.zeros(40)], axis=-1)
    # Neighbour distances: 1, 1, ..., then those of the moved points.
    line[-1, 1], line[-2, 1] = 5.0, -2.0
    # |(1, 7)| = 7.07 and |(1, 2)| = 2.24, so the mean is 1.18.
    assert cloud_statistics(line[None])["num_stray"] == 1
    line[-2, 1] = -4.0
    assert cloud_statistics(line[None])["num_stray"] == 2


def test_planarity_is_a_ratio_of_variances_in_any_pose(draw):
    sides = np.array([[[1.0, 0.5, 0.1]]])
    rotation, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    clouds = draw.normal(size=(3, 20000, 3)) * sides @ rotation
    planarity = cloud_statistics(clouds)["planarity"]
    np.testing.assert_allclose(planarity, 0.01, rtol=0.05)


def test_a_single_place_has_no_shape():
    collapsed = cloud_statistics(np.ones((2, 5, 3)))
    assert all((values == 0).all() for values in collapsed.values())


def test_statistics_scale_and_do_not_see_position_or_order(draw):
    clouds = draw.normal(size=(3, 30, 3))
    before = cloud_statistics(clouds)
    after = cloud_statistics(3 * clouds[:, ::-1] + 7)
    for name, values in before.items():
        factor = 1 if name in ("planarity", "num_stray") else 3
        np.testing.assert_allclose(after[name], factor * values, rtol=1e-9)


def test_distance_of_shifted_statistics_is_the_shift(draw):
    values = {"std": draw.normal(size=50), "extent": draw.normal(size=50)}
    moved = {"std": values["std"][::-1] + 0.25, "extent": values["extent"]}
    found = statistics_distance(values, moved)
    assert found == pytest.approx({"std": 0.25, "extent": 0})


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="differ"):
        statistics_distance({"std": np.zeros(2)}, {"extent": np.zeros(2)})
    with pytest.raises(ValueError, match="not finite"):
        cloud_statistics(np.full((1, 3, 3), np.inf))
    with pytest.raises(ValueError, match="N > 1"):
        cloud_statistics(np.zeros((4, 1, 3)))
