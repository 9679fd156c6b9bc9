"""Set scores against loops, examples worked by hand and known limits."""

import chex
import numpy as np
import pytest
from scipy.stats import norm

from ncgn_jax.point_clouds import distances as point_clouds
from ncgn_jax.point_clouds.distances import (
    chamfer_matrix,
    coverage,
    emd_matrix,
    jensen_shannon_divergence,
    minimum_matching_distance,
    nearest_neighbor_halves,
)


def nearest_neighbor_accuracy(*distances):
    return np.mean(nearest_neighbor_halves(*distances))


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def chamfer_loop(p, q):
    forth = [min(np.sum((x - y) ** 2) for y in q) for x in p]
    back = [min(np.sum((x - y) ** 2) for x in p) for y in q]
    return np.mean(forth) + np.mean(back)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_chamfer_is_the_double_loop(draw, dim):
    a, b = draw.normal(size=(3, 9, dim)), draw.normal(size=(4, 6, dim))
    expected = [[chamfer_loop(p, q) for q in b] for p in a]
    np.testing.assert_allclose(chamfer_matrix(a, b), expected, rtol=1e-5)


def test_chamfer_of_one_hand_made_pair():
    p = np.array([[[0.0, 0.0], [1.0, 0.0]]])
    q = np.array([[[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    # There: (0 + 1) / 2. Back: (0 + 4 + 0) / 3.
    assert chamfer_matrix(p, q)[0, 0] == pytest.approx(0.5 + 4 / 3)


def test_chamfer_blocks_and_padding(draw, monkeypatch):
    a, b = draw.normal(size=(7, 10, 3)), draw.normal(size=(5, 10, 3))
    whole = chamfer_matrix(a, b)
    monkeypatch.setattr(point_clouds, "_CLOUDS_PER_BLOCK", 3)
    np.testing.assert_allclose(chamfer_matrix(a, b), whole, rtol=1e-6)
    np.testing.assert_allclose(chamfer_matrix(a), chamfer_matrix(a, a), rtol=1e-6)


def test_chamfer_does_not_cancel_far_from_the_origin(draw):
    a = (draw.normal(size=(4, 50, 3)) * 1e-2 + 100).astype(np.float32)
    distances = chamfer_matrix(a)
    np.testing.assert_array_equal(np.diag(distances), 0)
    expected = chamfer_loop(a[0].astype(np.float64), a[1].astype(np.float64))
    np.testing.assert_allclose(distances[0, 1], expected, rtol=1e-5)


def test_chamfer_ignores_the_order_of_points(draw):
    a, b = draw.normal(size=(2, 3, 20, 3))
    np.testing.assert_allclose(
        chamfer_matrix(a[:, ::-1], b), chamfer_matrix(a, b), rtol=1e-5
    )


def test_chamfer_compiles_once_per_shape(draw, monkeypatch):
    counted = chex.assert_max_traces(point_clouds._directed_blocks.__wrapped__, n=1)
    monkeypatch.setattr(
        point_clouds,
        "_directed_blocks",
        point_clouds.jax.jit(counted, static_argnames="block"),
    )
    for _ in range(3):
        chamfer_matrix(draw.normal(size=(4, 11, 3)))


def test_chamfer_refuses_other_dimensions():
    with pytest.raises(ValueError, match="equal dimensions"):
        chamfer_matrix(np.zeros((2, 4, 3)), np.zeros((2, 4, 2)))


def test_emd_matrix_is_symmetric_and_consistent(draw):
    a = draw.normal(size=(4, 15, 3))
    whole = emd_matrix(a, a)
    np.testing.assert_allclose(emd_matrix(a), whole, atol=1e-12)
    np.testing.assert_array_equal(np.diag(whole), 0)
    # Line: the optimal matching on a line keeps the order.
    line = draw.normal(size=(2, 9, 1))
    expected = np.abs(np.sort(line[0], 0) - np.sort(line[1], 0)).mean()
    assert emd_matrix(line)[0, 1] == pytest.approx(expected)


def line_distances(generated, reference):
    g, r = np.array(generated, float), np.array(reference, float)
    return [np.abs(x[:, None] - y[None, :]) for x, y in ((g, g), (g, r), (r, r))]


def test_nearest_neighbor_accuracy_by_hand():
    # On a line, g at 0, 1, 10 and r at 2.5, 10.9, 11.5. Nearest others: 0 -> 1 (own),
    # 1 -> 0 (own), 10 -> 10.9 (other); 2.5 -> 1 (other), 10.9 and 11.5 pair (own).
    distances = line_distances([0, 1, 10], [2.5, 10.9, 11.5])
    assert nearest_neighbor_accuracy(*distances) == pytest.approx(4 / 6)
    # Samples miss two of three: g 2 has its own at 1, r 0.4 a sample, 100 and 101 none.
    narrow = line_distances([0, 1, 2], [0.4, 100, 101])
    assert nearest_neighbor_halves(*narrow) == pytest.approx((1 / 3, 2 / 3))


def test_nearest_neighbor_accuracy_limits(draw):
    far = line_distances(draw.normal(size=9), 100 + draw.normal(size=9))
    assert nearest_neighbor_accuracy(*far) == 1
    points = draw.normal(size=9)
    copies = line_distances(points, points)
    assert nearest_neighbor_accuracy(*copies) == 0
    same_law = line_distances(*draw.normal(size=(2, 2000)))
    # Neighbouring points share their votes' luck: allow four binomial deviations.
    deviation = np.sqrt(0.25 / 4000) * np.sqrt(2)
    assert abs(nearest_neighbor_accuracy(*same_law) - 0.5) < 4 * deviation


def test_ties_share_their_vote():
    everything_equal = line_distances(np.zeros(4), np.zeros(4))
    assert nearest_neighbor_accuracy(*everything_equal) == pytest.approx(3 / 7)


def test_nearest_neighbor_accuracy_refuses_unequal_sets():
    with pytest.raises(ValueError, match="equal size"):
        nearest_neighbor_accuracy(*line_distances([0, 1, 2], [0, 1]))


def test_coverage_and_mmd_by_hand():
    _, d_gr, _ = line_distances([0, 0.1, 5], [0, 1, 4, 9])
    # Nearest references: 0, 0, 4. Nearest samples: 0, 0.9, 1, 4 away.
    assert coverage(d_gr) == pytest.approx(2 / 4)
    assert minimum_matching_distance(d_gr) == pytest.approx((0 + 0.9 + 1 + 4) / 4)


def test_scores_of_identical_sets(draw):
    clouds = draw.normal(size=(6, 20, 3)) / 4
    for distances in (chamfer_matrix(clouds, clouds), emd_matrix(clouds, clouds)):
        assert coverage(distances) == 1
        assert minimum_matching_distance(distances) == 0
    assert jensen_shannon_divergence(clouds, clouds) == 0


def test_jsd_of_disjoint_sets_is_one_bit():
    left, right = np.full((2, 5, 3), -0.5), np.full((3, 4, 3), 0.5)
    assert jensen_shannon_divergence(left, right) == pytest.approx(1, abs=1e-12)


def test_jsd_by_hand_in_two_cells():
    # Shares (1, 0) against (1/2, 1/2); mixture (3/4, 1/4).
    p, q = np.full((1, 2, 1), -0.5), np.array([[[-0.5], [0.5]]])
    mixture = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    found = jensen_shannon_divergence(p, q, resolution=2)
    assert found == pytest.approx(mixture - 0.5)


def test_jsd_of_gaussians_is_that_of_their_cells(draw):
    edges = np.linspace(-1, 1, 9)[1:-1]
    shares = [np.diff(norm.cdf(edges, m, 0.4), prepend=0, append=1) for m in (0, 0.3)]
    mean = sum(shares) / 2
    expected = sum((s * np.log2(s / mean)).sum() / 2 for s in shares)
    points = [m + 0.4 * draw.normal(size=(400, 500, 1)) for m in (0, 0.3)]
    found = jensen_shannon_divergence(*points, resolution=8)
    assert found == pytest.approx(expected, abs=0.003)


def test_jsd_scales_with_its_cube(draw):
    a, b = draw.uniform(-1, 1, size=(2, 4, 50, 2)) * np.array([[[[1.0, 0.5]]]])
    whole = jensen_shannon_divergence(a, b, resolution=6)
    half = jensen_shannon_divergence(a / 4, b / 4, resolution=6, half_width=0.25)
    assert whole == pytest.approx(half)
    # Outside points fall into the border cells.
    assert jensen_shannon_divergence(np.full((1, 1, 2), 9.0), np.ones((1, 1, 2))) == 0


def test_chamfer_of_surveyed_clouds_is_that_of_centred_ones():
    rng = np.random.default_rng(0)
    small, other = rng.normal(size=(2, 2, 64, 3)) * 0.01
    place = np.array([500_000.0, 4_649_776.0, 120.0])
    found, expected = (
        chamfer_matrix(small + place, other + place),
        chamfer_matrix(small, other),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(
        chamfer_matrix(small + place), chamfer_matrix(small), rtol=1e-4, atol=1e-12
    )


@pytest.mark.filterwarnings("error")
def test_infinite_clouds_are_infinitely_far():
    clouds = np.random.default_rng(0).normal(size=(2, 8, 3))
    lost = clouds.copy()
    lost[1] = np.inf
    found = chamfer_matrix(lost, clouds)
    np.testing.assert_array_equal(found[0], chamfer_matrix(clouds)[0])
    assert not np.isfinite(found[1]).any()


@pytest.mark.parametrize("measure", [chamfer_matrix, jensen_shannon_divergence])
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
def test_empty_sets_are_refused(measure, shape):
    for sets in (
        (np.zeros(shape), np.zeros((2, 4, 3))),
        (np.zeros((2, 4, 3)), np.zeros(shape)),
    ):
        with pytest.raises(ValueError, match="sets must not be empty"):
            measure(*sets)


def test_unknown_distances_have_unknown_scores():
    unknown = np.full((6, 6), np.nan)
    assert np.isnan(coverage(unknown))
    assert np.isnan(minimum_matching_distance(unknown))
    assert np.isnan(
        nearest_neighbor_accuracy(np.ones((6, 6)), unknown, np.ones((6, 6)))
    )


def test_jsd_refuses_a_reference_outside_of_its_cube():
    cloud = np.random.default_rng(0).normal(size=(1, 300, 3))
    with pytest.raises(ValueError, match=r"half_width: found 1, and 100% of the ref"):
        jensen_shannon_divergence(cloud + 100, cloud + 200)
    # Samples may lie anywhere.
    assert jensen_shannon_divergence(cloud + 100, cloud / 6) > 0.9
