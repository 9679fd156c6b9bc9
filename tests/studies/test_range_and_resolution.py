"""Graphs of equal cost on fields and shapes, and the schedules derived from them."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.graphs import RangeResolution, make_noise_buckets, range_and_resolution
from ncgn_jax.graphs.fitted_schedules import table_overrides
from ncgn_jax.graphs.range_resolution import weight_of_supernodes
from ncgn_jax.loop import validate
from ncgn_jax.studies.range_and_resolution import fields, shapes, study
from ncgn_jax.studies.range_and_resolution import mutual_information as information
from ncgn_jax.studies.range_and_resolution import schedule as schedules
from ncgn_jax.studies.range_and_resolution.derived import report_published
from ncgn_jax.studies.report import Report
from ncgn_jax.tasks.settings import make_time

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.usefixtures("compile_quickly"), pytest.mark.thorough]


# --- Graphs of equal cost -----------------------------------------------------------


def test_equal_cost_gains_against_conditioning():
    """Compares with conditional variances by brute force on 6 x 6 nodes."""
    side, snr, k = 6, 0.8, 4
    points = information.grid_points(side)
    clean = information.pair_correlation(points, "exponential", 2.0)
    found = schedules.field_gains((snr,), clean, side, ((2, 3), (1, 1)), k)
    noisy = clean + np.eye(36) / snr
    for place, (shape, degree) in enumerate((((2, 3), 5), ((1, 1), 4))):
        centres = information.block_means(side, shape) @ points
        own = np.array(
            [np.argmin(((centres - p) ** 2).sum(-1)) for p in points]
        )  # nearest centre is that of its own block
        left = []
        for node in range(36):
            gaps = ((centres - centres[own[node]]) ** 2).sum(-1)
            gaps[own[node]] = np.inf
            joined = np.argsort(gaps, kind="stable")[:degree]
            rows = [np.eye(36)[node], (own == own[node]) * 1.0]
            rows.append(np.isin(own, joined) * 1.0)
            rows = np.stack(rows[:1] + rows[2:] if shape == (1, 1) else rows)
            cross = rows @ clean[node]
            left.append(1 - cross @ np.linalg.solve(rows @ noisy @ rows.T, cross))
        expected = 1 - np.mean(left) * (1 + snr)
        assert found[0, place] == pytest.approx(expected, rel=1e-9)


def test_finer_graphs_win_as_the_noise_falls_on_fields():
    points = information.grid_points(12)
    clean = information.pair_correlation(points, "exponential", 3.0)
    gains = schedules.field_gains((0.01, 30.0), clean, 12, ((2, 2), (1, 1)), 4)
    assert gains[0, 0] > gains[0, 1]
    assert gains[1, 1] > gains[1, 0]
    assert np.all((gains > 0) & (gains < 1))


def test_relative_gains():
    gains = np.array([[0.2, 0.1, -0.1], [0.0005, 0.0001, -0.0002]])
    found = schedules.relative_gains(gains)
    np.testing.assert_allclose(found, [[1, 0.5, 0], [0, 0, 0]])


def test_derived_schedules_are_monotone_and_accepted():
    levels, weights = (0.2, 0.4, 0.6, 0.8), (0.0, 0.1, 0.4, 1.0)
    best = (1, 0, 2, 3)  # the first two are out of order
    gains = np.full((4, 4), 0.1)
    gains[np.arange(4), best] = (0.2, 0.4, 0.4, 0.4)
    table = schedules.derive_schedule(levels, weights, gains)
    # Stakes 1/2 and 3/4: u = (0.1 * 1/2 + 0 * 3/4) / (5/4).
    expected = ((0, 0.04), (0.4, 0.04), (0.6, 0.4), (0.8, 1), (1, 1))
    np.testing.assert_allclose(table, expected, atol=1e-12)
    schedule = RangeResolution("table", table=table)
    buckets = make_noise_buckets(400, 7, 3, schedule=schedule)
    assert [b.num_supernodes for b in buckets] == [50, 100, 200, 400]


def test_levels_where_nothing_is_at_stake_do_not_count():
    gains = np.array([[0.0, 0.0004, 0.0], [0.4, 0.3, 0.1], [0.1, 0.2, 0.4]])
    table = schedules.derive_schedule((0.1, 0.5, 0.9), (0.0, 0.5, 1.0), gains)
    assert table == ((0, 0), (0.5, 0), (0.9, 1), (1, 1))


def test_what_cannot_be_a_schedule_is_refused():
    with pytest.raises(ValueError, match="gains must be"):
        schedules.derive_schedule((0.1, 0.5), (0.0, 1.0), np.ones((2, 3)))
    for levels in ((0.5, 0.1), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="levels must rise"):
            schedules.derive_schedule(levels, (0.0, 1.0), np.ones((2, 2)))


def test_weight_inverts_the_number_of_supernodes():
    sizes = (53, 100, 250, 400)
    weights = [weight_of_supernodes(s, 400, 7) for s in sizes]
    levels = (0.0, 0.3, 0.6, 1.0)
    table = ((0.0, 0.0), (0.3, weights[1]), (0.6, weights[2]), (1.0, 1.0))
    schedule = RangeResolution("table", table=table)
    found = [range_and_resolution(level, 400, 7, schedule)[0] for level in levels]
    np.testing.assert_allclose(found, sizes, atol=1)
    assert weight_of_supernodes(10, 400, 7) == 0.0


def test_what_a_schedule_keeps():
    levels, sizes = (0.25, 0.75), (100, 200, 400)
    weights = [weight_of_supernodes(s, 400, 7) for s in sizes]
    gains = np.array([[0.4, 0.2, 0.1], [0.1, 0.1, 0.2]])
    best = RangeResolution(
        "table", table=((0, weights[0]), (0.25, weights[0]), (0.75, 1), (1, 1))
    )
    args = (levels, weights, gains, 400, 7)
    assert schedules.share_kept(best, *args) == pytest.approx(1.0)
    fine = RangeResolution("constant")
    assert schedules.share_kept(fine, *args) == pytest.approx(0.3 / 0.6)
    # Two halvings apart at the first level, none at the second.
    apart = schedules.distance_in_octaves(fine, best, levels, 400, 7)
    assert apart == pytest.approx(1.0)
    # Half way in log s between 100 and 200.
    middle = weight_of_supernodes(math.sqrt(20_000), 400, 7)
    found = schedules.resample_gains(weights, gains, [middle], 400, 7)
    np.testing.assert_allclose(found, [[0.3], [0.1]], atol=1e-12)


def test_overrides_work_on_the_configuration_they_name():
    table = ((0.0, 0.0), (0.5, 0.05), (0.8, 0.4), (1.0, 1.0))
    overrides = table_overrides(table)
    config = load_config(REPOSITORY / "configs" / "modelnet.py")
    config = apply_overrides(config, overrides)
    validate(config)
    assert config.dmp.schedule == "table"
    assert config.dmp.table == table
    expected = make_noise_buckets(
        400, 7, 3, schedule=RangeResolution("table", table=table)
    )
    assert make_time(config, 400, 3).buckets == expected
    assert expected != make_noise_buckets(400, 7, 3)


# --- Shapes -------------------------------------------------------------------------


def test_expected_squared_gap():
    assert shapes.expected_squared_gap(0.5, 0.01, 3) == pytest.approx(1.5025)
    sampled, error = shapes.sampled_squared_gap(jax.random.key(3), 0.8, 1.5, 2, 50_000)
    exact = 0.8**2 * 1.5**2 + 2 * 2 * 0.2**2
    assert shapes.expected_squared_gap(0.8, 1.5**2, 2) == pytest.approx(exact)
    assert abs(sampled - exact) < 4 * error
    assert error < 0.01


def test_ranks_against_sorting(rng):
    clean = jax.random.normal(rng, (2, 30, 3))
    noisy = clean + 0.5 * jax.random.normal(jax.random.key(1), clean.shape)
    found = np.asarray(shapes.true_neighbor_ranks(clean, noisy, 4))
    assert found.shape == (2, 30, 4)
    for cloud in range(2):
        for node in range(30):
            order = [
                np.argsort(((x[cloud] - x[cloud, node]) ** 2).sum(-1))
                for x in (np.asarray(clean), np.asarray(noisy))
            ]
            ranks = [list(order[1]).index(other) for other in order[0][1:5]]
            assert list(found[cloud, node]) == ranks
    same = np.asarray(shapes.true_neighbor_ranks(clean, clean, 4))
    np.testing.assert_array_equal(same, np.broadcast_to([1, 2, 3, 4], same.shape))


def test_rank_that_finds_a_share():
    ranks = np.array([[1, 5, 2, 9, 7]])
    assert [shapes.rank_that_finds(ranks, p) for p in (0.2, 0.6, 0.61, 1.0)] == [
        *(1, 5, 7, 9)
    ]


def test_graphs_spend_the_same_edges():
    for size in shapes.SIZES:
        bucket = shapes.equal_cost_bucket(400, size, 7)
        assert bucket.num_supernodes == size
        assert 2750 <= bucket.num_edges <= 2800 + size
    assert shapes.equal_cost_bucket(400, 400, 7).clustering == "identity"
    sizes = [b.num_edges for b in make_noise_buckets(400, 7, 3)]
    assert sizes == [
        shapes.equal_cost_bucket(400, s, 7).num_edges for s in (50, 100, 200, 400)
    ]


@pytest.mark.parametrize("size", [5, 20])
def test_graph_features_against_loops(size):
    noisy = np.asarray(jax.random.normal(jax.random.key(2), (2, 20, 3)))
    bucket = shapes.equal_cost_bucket(20, size, 3)
    found = np.asarray(shapes.graph_features(jnp.asarray(noisy), bucket))
    assert found.shape == (2, 20, 18)
    for cloud, points in enumerate(noisy):
        np.testing.assert_array_equal(found[cloud, :, :3], points)
        own = found[cloud, :, 3:6]
        # Points of one cluster agree on its mean, and it is their mean.
        centres, cluster = np.unique(own.round(9), axis=0, return_inverse=True)
        assert len(centres) == size
        for c in range(size):
            np.testing.assert_allclose(
                points[cluster == c].mean(0), centres[c], atol=1e-8
            )
        for node, point in enumerate(points):
            gaps = ((centres - centres[cluster[node]]) ** 2).sum(-1)
            joined = np.argsort(gaps)[1 : bucket.num_neighbors + 1]
            members = points[np.isin(cluster, joined)]
            mean = members.mean(axis=0)
            covariance = np.cov(members.T, bias=True)
            np.testing.assert_allclose(found[cloud, node, 6:9], mean, atol=1e-9)
            entries = covariance[np.triu_indices(3)]
            np.testing.assert_allclose(found[cloud, node, 9:15], entries, atol=1e-9)
            along = covariance @ (point - mean)
            np.testing.assert_allclose(found[cloud, node, 15:], along, atol=1e-9)


def test_ridge_finds_a_linear_law_and_the_error_of_noise():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 50, 4)) * [1.0, 5.0, 0.1, 1.0] + 3.0
    law = rng.normal(size=(4, 3))
    noise = 0.3 * rng.normal(size=(40, 50, 3))
    exact = shapes.ridge_errors(inputs, inputs @ law - 1.0, 20)
    assert exact.shape == (20,)
    assert exact.max() < 1e-8
    noisy = shapes.ridge_errors(inputs, inputs @ law + noise, 20)
    expected = (noise[20:] ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(noisy, expected, rtol=0.05)


def test_pointwise_ridge_is_the_wiener_filter_of_unit_variance():
    clouds = jax.random.normal(jax.random.key(4), (64, 100, 3))
    noise = jax.random.normal(jax.random.key(5), clouds.shape)
    t = 0.6
    errors = shapes.ridge_errors(t * clouds + (1 - t) * noise, clouds, 32)
    # 1 - t^2 / (t^2 + (1 - t)^2)
    assert errors.mean() == pytest.approx(0.16 / 0.52, rel=0.03)


def test_explained_beyond_and_its_standard_error():
    rng = np.random.default_rng(1)
    runs = []
    for _ in range(300):
        base = 1.0 + 0.3 * rng.random((1, 40))
        errors = base * 0.8 + 0.1 * rng.normal(size=(1, 40))
        found = shapes.explained_beyond(errors, base)
        runs.append((found[0], shapes.explained_errors(errors, base)[0]))
    values, errors = np.array(runs).T
    assert values.mean() == pytest.approx(0.2, abs=0.003)
    assert values.std() == pytest.approx(errors.mean(), rel=0.15)


def test_measured_clouds_know_more_together_than_alone():
    """Only the other points determine a cloud's own centre."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(60, 1, 3))
    data = (centres + 0.2 * rng.normal(size=(60, 24, 3))).astype(np.float32)
    clouds = shapes.Clouds("balls", data[:40], data[40:])
    found = shapes.measure_clouds(clouds, (0.3, 0.9), (8, 24), 3, seed=0)
    assert found.moments.shape == found.means.shape == (2, 2, 20)
    assert found.pointwise.shape == (2, 20)
    assert [ranks.shape for ranks in found.ranks] == [(20, 24, 3)] * 2
    gains = shapes.explained_beyond(found.means, found.pointwise[:, None])
    # At much noise 7 clusters of 3 average more of it away than 3 points.
    assert gains[0, 0] > 0.3 > gains[0, 1] > 0.0
    assert (found.ranks[0] <= 3).mean() < (found.ranks[1] <= 3).mean()


def test_loaded_clouds_have_unit_variance(monkeypatch, tmp_path):
    monkeypatch.delenv("NCGN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    clouds = shapes.load_clouds(32, 16, 50, seed=0)
    assert clouds.train.shape == (32, 50, 3)
    assert clouds.test.shape == (16, 50, 3)
    assert clouds.train.dtype == np.float32
    variance = clouds.train.var(axis=(0, 1)).mean()
    assert variance == pytest.approx(1.0, abs=1e-3)


# --- The study ----------------------------------------------------------------------


def made_up(levels, num_clouds=8):
    """Returns errors whose best size grows with the level, except for one step."""
    rng = np.random.default_rng(3)
    num_sizes = len(shapes.SIZES)
    best = np.round(np.linspace(0, num_sizes - 1, len(levels)))
    miss = np.abs(best[:, None] - np.arange(num_sizes)[None]) / num_sizes
    pointwise = np.ones((len(levels), num_clouds))
    errors = np.repeat((0.7 + 0.3 * miss)[..., None], num_clouds, axis=2)
    ranks = [
        rng.integers(1, max(2, int(400 * (1 - level))), (num_clouds, 20, 7))
        for level in levels
    ]
    return shapes.Measured(ranks, pointwise, errors, errors)


@pytest.fixture
def small_fields(monkeypatch):
    monkeypatch.setattr(study, "SIDE", 12)
    monkeypatch.setattr(fields, "RADII", [r for r in fields.RADII if r <= 7])
    monkeypatch.setattr(fields, "_LEMMA_CASES", fields._LEMMA_CASES[:1])


@pytest.mark.usefixtures("small_fields")
def test_the_study_on_made_up_clouds(tmp_path, capsys):
    report = Report("range_and_resolution", tmp_path, quick=True)
    levels = (0.1, 0.3, 0.5, 0.7, 0.9)
    study.report_shapes(report, "made up", made_up(levels), levels)
    report_published(report)
    results = json.loads(report.write(0.0).read_text())
    verdicts = {f["claim"][:12]: f["verdict"] for f in results["findings"]}
    assert verdicts["At equal cos"] == "holds"
    tables = results["tables"]
    assert [row[0] for row in tables["overrides"]["rows"]] == [
        *("derived, fields", "derived, shapes", "derived, both")
    ]
    kept = {row[0]: row[2] for row in tables["judged"]["rows"]}
    # Tables hold four digits of u.
    assert kept["derived, shapes"] == pytest.approx(1.0, abs=1e-3)
    assert max(kept, key=kept.get) == "derived, shapes"
    published = {row[0]: row[1:] for row in tables["published"]["rows"]}
    assert published == {
        "exp": ["142 x 142", "142 x 141", "148 x 136", "212 x 95", "1000 x 20"],
        "linear": ["142 x 141", "357 x 57", "571 x 36", "786 x 26", "1000 x 20"],
        "log": ["142 x 142", "590 x 34", "783 x 26", "908 x 23", "1000 x 20"],
        "relu": [*["142 x 141"] * 3, "464 x 44", "1000 x 20"],
    }
    assert set(results["figures"]) == {"gains", "schedule", "neighbors"}


@pytest.mark.usefixtures("small_fields")
def test_a_reversed_world_is_reported_as_such(tmp_path, capsys):
    """Spoils the clouds that choose the sizes, not those that judge them."""
    report = Report("range_and_resolution", tmp_path, quick=True)
    levels = (0.1, 0.5, 0.9)
    world = made_up(levels)
    errors = world.moments.copy()
    errors[..., ::2] = errors[::-1, ..., ::2]
    world = world._replace(ranks=world.ranks[::-1], moments=errors)
    study.report_shapes(report, "made up", world, levels)
    verdicts = {f.claim[:20]: f.verdict for f in report.findings}
    assert verdicts["At equal cost the be"] == "does not hold"
    assert verdicts["Proposition 3.3 on s"] == "does not hold"
    kept = {row[0]: row[2] for row in report.tables["judged"].rows}
    assert kept["derived, shapes"] < 0.7 < kept["linear"]


@pytest.mark.usefixtures("small_fields")
def test_what_is_exact_is_found_to_hold(tmp_path, capsys):
    report = Report("range_and_resolution", tmp_path, quick=True)
    fields.report_range(report, 4_000)
    fields.report_resolution(report)
    study.report_positions(report, 5_000)
    verdicts = [finding.verdict for finding in report.findings]
    assert verdicts == ["holds", "holds", "holds", "holds in part", "holds", "holds"]
