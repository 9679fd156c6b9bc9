"""Plain imputation against loops, textbook formulas and functions they must recover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from ncgn_jax.expression.baselines import (
    GaussianProcess,
    fit_gaussian_process,
    gaussian_process,
    linear_in_space,
    linear_regression,
    nearest_in_space,
)

SOME_PROCESS = GaussianProcess(
    np.array([0.5, -1.0]), np.array([0.3, 0.8]), np.array([0.01, 0.1])
)


def regress(values, hidden, positions):
    train = np.random.default_rng(5).normal(size=(4, 9, 2)).cumsum(axis=2)
    return linear_regression(train, values, hidden)


def process(values, hidden, positions):
    return gaussian_process(values, hidden, positions, SOME_PROCESS)


BASELINES = {
    "nearest": nearest_in_space,
    "linear": linear_in_space,
    "process": process,
    "regression": regress,
}


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def make_case(rng, num_samples=3, num_nodes=9, num_genes=2, dim=1):
    values = rng.normal(size=(num_samples, num_nodes, num_genes))
    hidden = rng.random(values.shape) < 0.5
    hidden[:, rng.integers(num_nodes)] = False  # every gene is seen somewhere
    return values, hidden, rng.random((num_samples, num_nodes, dim))


# What holds for all.


@pytest.mark.parametrize("fill", BASELINES.values(), ids=BASELINES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_hidden_values_are_never_read_and_visible_ones_kept(fill, seed):
    values, hidden, positions = make_case(np.random.default_rng(seed))
    filled = fill(values, hidden, positions)
    assert filled.shape == values.shape
    np.testing.assert_array_equal(filled[~hidden], values[~hidden])
    for junk in (np.nan, 1e300):
        other = fill(np.where(hidden, junk, values), hidden, positions)
        np.testing.assert_array_equal(filled, other)


@pytest.mark.parametrize("fill", BASELINES.values(), ids=BASELINES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_nodes_and_other_samples_do_not_matter(fill, seed):
    rng = np.random.default_rng(seed)
    values, hidden, positions = make_case(rng)
    filled = fill(values, hidden, positions)
    order = rng.permutation(values.shape[1])
    shuffled = fill(values[:, order], hidden[:, order], positions[:, order])
    np.testing.assert_allclose(shuffled, filled[:, order], rtol=1e-9, atol=1e-9)
    alone = fill(values[1:2], hidden[1:2], positions[1:2])
    np.testing.assert_allclose(alone[0], filled[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fill", BASELINES.values(), ids=BASELINES)
def test_shared_positions_and_masks_broadcast(draw, fill):
    values, _, positions = make_case(draw)
    of_nodes = (np.arange(9) % 3 == 1)[:, None]
    short = fill(values, of_nodes, positions[0])
    full = fill(
        values,
        np.broadcast_to(of_nodes, values.shape),
        np.broadcast_to(positions[0], positions.shape),
    )
    np.testing.assert_array_equal(short, full)
    np.testing.assert_array_equal(fill(values, np.array(False), positions), values)


@pytest.mark.parametrize("fill", BASELINES.values(), ids=BASELINES)
def test_bad_input(draw, fill):
    values, hidden, positions = make_case(draw)
    with pytest.raises(ValueError, match=r"got \(9, 2\) and bool"):
        fill(values[0], hidden[0], positions)
    with pytest.raises(ValueError, match="and float64"):
        fill(values, hidden.astype(float), positions)
    holed = np.where(hidden, values, np.inf)
    with pytest.raises(ValueError, match=r"visible value at \[sample, node, gene\]"):
        fill(holed, hidden, positions)
    if fill is not regress:
        with pytest.raises(ValueError, match=r"positions must be .*got \(3, 8, 1\)"):
            fill(values, hidden, positions[:, :8])
        with pytest.raises(ValueError, match="positions are not all finite"):
            fill(values, hidden, np.nan * positions)


# Nearest and linear.


def test_nearest_by_loops(draw):
    values, hidden, positions = make_case(draw, dim=3)
    filled = nearest_in_space(values, hidden, positions)
    for s, n, g in np.argwhere(hidden):
        distance, nearest = min(
            (np.linalg.norm(positions[s, n] - positions[s, m]), m)
            for m in range(9)
            if not hidden[s, m, g]
        )
        assert distance > 0
        assert filled[s, n, g] == values[s, nearest, g]


def test_of_equally_near_nodes_the_first_counts():
    values = np.array([5.0, 0.0, 7.0]).reshape(1, 3, 1)
    hidden = np.array([False, True, False])[:, None]
    filled = nearest_in_space(values, hidden, np.array([[1.0], [0.0], [-1.0]]))
    assert filled.ravel().tolist() == [5, 5, 7]


def test_linear_by_hand():
    values = np.array([9.0, 1.0, -9, 3.0, -9, -9]).reshape(1, 6, 1)
    places = np.array([4.0, 0.0, 1.0, 2.0, 7.0, -2.0])[:, None]
    filled = linear_in_space(values, values == -9, places)
    # Between 1 at 0 and 3 at 2; beyond the ends, the end's value.
    assert filled.ravel().tolist() == [9, 1, 2, 3, 9, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-10, 10), st.floats(-10, 10))
def test_linear_recovers_lines(seed, slope, offset):
    rng = np.random.default_rng(seed)
    places = rng.random((12, 1))
    truth = (offset + slope * places)[None]
    hidden = rng.random(truth.shape) < 0.6
    hidden[0, [places.argmin(), places.argmax()]] = False
    filled = linear_in_space(truth, hidden, places)
    np.testing.assert_allclose(filled, truth, atol=1e-10)


def test_linear_needs_a_line(draw):
    values, hidden, positions = make_case(draw, dim=2)
    with pytest.raises(ValueError, match=r"on a line, \[\.\.\., 1\]; got \(3, 9, 2\)"):
        linear_in_space(values, hidden, positions)


@pytest.mark.parametrize("fill", [nearest_in_space, linear_in_space])
def test_gene_hidden_throughout_a_sample(draw, fill):
    values, hidden, positions = make_case(draw)
    hidden[1, :, 1] = True
    with pytest.raises(ValueError, match="gene 1 is hidden at all nodes of sample 1"):
        fill(values, hidden, positions)
    filled = fill(values, hidden, positions, fallback=[4.0, 5.0])
    assert (filled[1, :, 1] == 5).all()
    hidden[1, 0, 1] = False
    np.testing.assert_array_equal(
        filled[[0, 2]], fill(values, hidden, positions)[[0, 2]]
    )
    assert (fill(values, hidden, positions)[1, :, 1] == values[1, 0, 1]).all()


# Gaussian process.


def joint_covariance(places, length, noise):
    squared = np.square(places[:, None] - places[None]).sum(-1)
    return np.exp(-squared / (2 * length**2)) + noise * np.eye(len(places))


@pytest.mark.parametrize(("dim", "together"), [(1, False), (2, False), (2, True)])
def test_process_is_the_conditional_mean_of_a_gaussian(draw, dim, together):
    """By the precision of all nodes: E[h | v] = m - P_hh^-1 P_hv (v - m)."""
    values, hidden, positions = make_case(draw, dim=dim)
    if together:  # genes hidden at the same nodes are solved for together
        hidden = hidden[..., :1] & np.array([True, True])
    filled = gaussian_process(values, hidden, positions, SOME_PROCESS)
    for sample, gene in np.ndindex(3, 2):
        mean, length, noise = (field[gene] for field in SOME_PROCESS)
        # Noise of a hidden node is no part of what it is filled with, nor of this mean.
        precision = np.linalg.inv(joint_covariance(positions[sample], length, noise))
        h = hidden[sample, :, gene]
        seen = values[sample, ~h, gene] - mean
        expected = mean - np.linalg.solve(
            precision[np.ix_(h, h)], precision[np.ix_(h, ~h)] @ seen
        )
        np.testing.assert_allclose(filled[sample, h, gene], expected, rtol=1e-8)


def test_process_gives_its_mean_where_nothing_is_known(draw):
    values, hidden, positions = make_case(draw)
    hidden[1, :, 0] = True
    filled = gaussian_process(values, hidden, positions, SOME_PROCESS)
    assert (filled[1, :, 0] == 0.5).all()
    positions[2, hidden[2, :, 1]] += 1e3  # too far away to be told anything
    filled = gaussian_process(values, hidden, positions, SOME_PROCESS)
    np.testing.assert_allclose(filled[2, hidden[2, :, 1], 1], -1.0)


def test_process_recovers_a_linear_function(draw):
    places = draw.random((60, 2))
    truth = np.stack([1 + 2 * places[:, 0] - places[:, 1], 5 * places[:, 1]], axis=1)
    truth = truth[None] * np.array([1.0, -2.0, 0.5])[:, None, None]
    hidden = draw.random(truth.shape) < 0.5
    filled = gaussian_process(truth, hidden, places)
    np.testing.assert_allclose(filled, truth, atol=0.01)  # of a range of 10
    assert (fit_gaussian_process(truth, hidden, places).noise_ratio < 1e-5).all()


def test_process_fit_is_the_likeliest_pair(draw):
    """Against scipy's Gaussian density, its variance found by a scan."""
    values, hidden, positions = make_case(draw, num_samples=3, num_nodes=14)
    values[:, :, 0] += 4 * np.sin(5 * positions[:, :, 0])
    lengths, noises = (0.05, 0.2, 0.6), (0.01, 0.2, 2.0)
    grid = {"length_scales": lengths, "noise_ratios": noises}
    fit = fit_gaussian_process(values, hidden, positions, **grid)
    for other in range(1, 4):  # everything is used, so the draws play no part
        again = fit_gaussian_process(values, hidden, positions, seed=other, **grid)
        np.testing.assert_array_equal(np.stack(again), np.stack(fit))
    for gene in range(2):
        seen = ~hidden[:, :, gene]
        mean = values[:, :, gene][seen].mean()
        assert fit.mean[gene] == pytest.approx(mean)
        best = {}
        for length in lengths:
            for noise in noises:
                scores = np.zeros(400)
                for sample in range(3):
                    places = positions[sample, seen[sample]]
                    y = values[sample, seen[sample], gene]
                    base = joint_covariance(places, length, noise)
                    scores += [
                        multivariate_normal.logpdf(y, np.full(len(y), mean), s * base)
                        for s in np.geomspace(1e-3, 1e4, 400)
                    ]
                best[length, noise] = scores.max()
        assert (fit.length_scale[gene], fit.noise_ratio[gene]) == max(
            best, key=best.get
        )


@pytest.mark.parametrize("length", [0.05, 0.4])
@pytest.mark.parametrize("noise", [1e-4, 0.3])
def test_process_finds_the_scales_it_was_drawn_from(draw, length, noise):
    places = draw.random((120, 1))
    root = np.linalg.cholesky(joint_covariance(places, length, noise))
    values = 7 + 3 * np.einsum("ij,sjg->sig", root, draw.normal(size=(4, 120, 2)))
    hidden = draw.random(values.shape) < 0.3
    fit = fit_gaussian_process(
        values,
        hidden,
        places,
        length_scales=(0.01, 0.05, 0.15, 0.4, 1.2),
        noise_ratios=(1e-6, 1e-4, 0.03, 0.3, 3.0),
    )
    assert fit.length_scale.tolist() == [length] * 2
    assert fit.noise_ratio.tolist() == [noise] * 2


def test_process_beats_the_nearest_node_on_noisy_smooth_fields(draw):
    places = np.linspace(0, 1, 60)[:, None]
    smooth = np.sin(7 * places)[None] * np.ones((3, 1, 2))
    noisy = smooth + 0.3 * draw.normal(size=smooth.shape)
    hidden = draw.random(noisy.shape) < 0.5
    errors = {
        fill.__name__: np.square(fill(noisy, hidden, places) - smooth)[hidden].mean()
        for fill in (gaussian_process, nearest_in_space, linear_in_space)
    }
    assert errors["gaussian_process"] < 0.03  # noise alone has 0.09
    assert errors["gaussian_process"] < 0.4 * errors["linear_in_space"]
    assert errors["linear_in_space"] < errors["nearest_in_space"]


def test_process_fit_reads_no_hidden_value(draw):
    values, hidden, positions = make_case(draw)
    holed = np.where(hidden, np.nan, values)
    pair = [fit_gaussian_process(v, hidden, positions) for v in (values, holed)]
    np.testing.assert_array_equal(*map(np.stack, pair))


def test_process_fit_uses_a_seeded_part(draw):
    values, hidden, positions = make_case(draw, num_samples=6, num_nodes=40)
    some = {"max_nodes": 5, "max_samples": 2}
    fits = [
        fit_gaussian_process(values, hidden, positions, seed=seed, **some)
        for seed in (0, 0, 1, 2, 3, 4)
    ]
    for one, two in zip(fits[0], fits[1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert len({(*f.length_scale, *f.noise_ratio) for f in fits}) > 1
    expected = [values[..., g][~hidden[..., g]].mean() for g in range(2)]
    np.testing.assert_allclose(fits[0].mean, expected)  # of all that is visible


def test_process_survives_constant_genes_and_coinciding_nodes(draw):
    values, hidden, positions = make_case(draw)
    values[:, :, 0] = 3.5
    np.testing.assert_allclose(gaussian_process(values, hidden, positions)[..., 0], 3.5)
    for places in (0 * positions, np.round(positions)):
        assert np.isfinite(gaussian_process(values, hidden, places)).all()


def test_process_faults(draw):
    values, hidden, positions = make_case(draw)
    for bad in ({"length_scales": [0.0, 1.0]}, {"noise_ratios": [-1.0]}):
        with pytest.raises(ValueError, match="must be positive"):
            fit_gaussian_process(values, hidden, positions, **bad)
    with pytest.raises(ValueError, match="must be positive, one or more"):
        fit_gaussian_process(values, hidden, positions, length_scales=[])
    with pytest.raises(ValueError, match="parameters of 2 genes for 1 genes"):
        process(values[..., :1], hidden[..., :1], positions)
    hidden[..., 1] = True
    with pytest.raises(ValueError, match="gene 1 is hidden everywhere"):
        gaussian_process(values, hidden, positions)


# Regression on other genes.


def test_regression_is_ridge_on_standardised_genes(draw):
    """Node by node as least squares with penalty rows, nothing shared."""
    mixing = draw.normal(size=(5, 5))
    train = draw.normal(size=(3, 11, 5)) @ mixing + np.arange(5)
    values = draw.normal(size=(2, 7, 5)) @ mixing
    hidden = draw.random(values.shape) < 0.4
    ridge = 0.3
    filled = linear_regression(train, values, hidden, ridge=ridge)
    rows = train.reshape(-1, 5)
    mean, spread = rows.mean(0), rows.std(0)
    for s, n, g in np.argwhere(hidden):
        seen = np.flatnonzero(~hidden[s, n])
        regressors = (rows[:, seen] - mean[seen]) / spread[seen]
        penalty = np.sqrt(ridge * len(rows)) * np.eye(len(seen))
        target = np.concatenate([rows[:, g] - mean[g], np.zeros(len(seen))])
        weights = np.linalg.lstsq(np.concatenate([regressors, penalty]), target)[0]
        expected = mean[g] + (values[s, n, seen] - mean[seen]) / spread[seen] @ weights
        np.testing.assert_allclose(filled[s, n, g], expected, rtol=1e-9, atol=1e-9)


def test_regression_recovers_linear_genes(draw):
    def make(num):
        free = draw.normal(size=(num, 10, 3))
        bound = 4 + free @ np.array([[1.0], [-2.0], [0.5]])
        return np.concatenate([free, bound], axis=2)

    train, truth = make(5), make(4)
    hidden = np.arange(4) == draw.integers(4, size=(4, 10, 1))
    filled = linear_regression(train, truth, hidden, ridge=1e-10)
    np.testing.assert_allclose(filled, truth, atol=1e-6)


def test_regression_without_visible_genes_gives_the_training_mean(draw):
    train, truth = draw.random((5, 10, 2)), draw.random((3, 10, 2))
    filled = linear_regression(train, truth, np.array([True, True]))
    np.testing.assert_allclose(filled, np.broadcast_to(train.mean((0, 1)), (3, 10, 2)))


def test_regression_with_genes_that_never_vary(draw):
    train, values = draw.normal(size=(3, 8, 3)), draw.normal(size=(2, 8, 3))
    train[..., 0] = 2.0
    filled = linear_regression(train, values, np.array([False, True, False]))
    others = linear_regression(train[..., 1:], values[..., 1:], np.array([True, False]))
    np.testing.assert_allclose(filled[..., 1], others[..., 0])
    filled = linear_regression(train, values, np.array([True, False, False]))
    np.testing.assert_allclose(filled[..., 0], 2.0)


def test_regression_faults(draw):
    train, values = draw.normal(size=(3, 8, 3)), draw.normal(size=(2, 8, 2))
    with pytest.raises(ValueError, match="3 genes in training, 2 to fill"):
        linear_regression(train, values, np.array(True))
    for ridge in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="must be positive"):
            linear_regression(train, train, np.array(True), ridge=ridge)
    with pytest.raises(ValueError, match="visible value"):
        linear_regression(np.where(train > 1, np.nan, train), train, np.array(True))
