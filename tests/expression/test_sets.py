"""Fields from simulations, profiles and tissues: splits, positions, units, errors."""

import csv
import tracemalloc

import numpy as np
import pytest

from ncgn_jax.data.report import Reading
from ncgn_jax.expression.sets import (
    FieldDataset,
    FieldSet,
    load_profiles,
    load_turing,
)
from ncgn_jax.expression.tissue import load_tissue
from ncgn_jax.expression.turing import TEST_PLACES, TEST_TIMES
from ncgn_jax.faults import DataError


@pytest.fixture(scope="module")
def turing(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return load_turing(12, 4, TEST_TIMES, TEST_PLACES, cache_dir=cache)


def test_simulations_lie_in_the_unit_interval_on_the_published_positions(turing):
    train, test = turing.train, turing.test
    assert train.values.shape == (12, 100, 3)
    assert test.values.shape == turing.knockout.values.shape == (4, 96, 3)
    # Bounds are those of the training set at the training times.
    by_time = train.values.reshape(12, 10, 10, 3)
    np.testing.assert_allclose(by_time.min(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(by_time.max(axis=(0, 2, 3)), 1, atol=1e-6)
    assert -0.5 < test.values.min() < test.values.max() < 1.5
    # Node by node: all places of the first time, then the next time.
    np.testing.assert_allclose(train.layouts[0][0], [0, 0])
    np.testing.assert_allclose(train.layouts[0][1], [6 / 54, 0])
    np.testing.assert_allclose(train.layouts[0][-1], [1, 1])
    np.testing.assert_allclose(test.layouts[0][13], [5 / 54, 12.5 / 90])


def test_a_knocked_out_gene_is_zero_expression_everywhere(turing):
    for field, gene in zip(
        turing.knockout.values, turing.knockout.knocked_out, strict=True
    ):
        np.testing.assert_allclose(field[:, gene], turing.zero[:, gene], atol=1e-6)
    assert np.ptp(turing.zero.reshape(8, 12, 3), axis=(1, 2)).max() < 1e-6


def test_the_floor_is_the_training_set_on_the_test_grid(turing):
    # The first time is on both grids, and so is the first place.
    floor = turing.floor.reshape(4, 8, 12, 3)[:, 0, 0]
    train = turing.train.values.reshape(12, 10, 10, 3)[:4, 0, 0]
    np.testing.assert_allclose(floor, train, atol=1e-6)


@pytest.mark.thorough
def test_other_grids_show_the_same_simulations(turing, tmp_path):
    dense = load_turing(12, 4, (0.0, 12.5, 20.0), (0.0, 5.0, 7.0, 10.0))
    fields = dense.test.values.reshape(4, 3, 4, 3)
    known = turing.test.values.reshape(4, 8, 12, 3)
    np.testing.assert_allclose(fields[:, :2, [0, 1, 3]], known[:, :2, :3], atol=1e-5)


def write_profiles(path, values, times, genes=("a", "b")):
    np.savez(path, expression=values, age_minutes=times, genes=np.array(genes))
    return path


def test_profiles_are_split_over_time_and_scaled_by_the_training_part(tmp_path):
    rng = np.random.default_rng(0)
    values, times = rng.uniform(5, 9, (20, 50, 2)), rng.uniform(10, 40, 20)
    values[:, :3] = np.nan
    path = write_profiles(tmp_path / "p.npz", values, times)
    data = load_profiles(path, ("b",), num_nodes=10, extent=(0.2, 0.8))
    assert data.genes == ("b",)
    assert len(data.train) == 16
    assert len(data.test) == 4
    assert data.train.values.min() == pytest.approx(0, abs=1e-6)
    assert data.train.values.max() == pytest.approx(1, abs=1e-6)
    ages = np.array([points[0, 1] for points in data.test.layouts])
    np.testing.assert_allclose(np.diff(np.sort(ages)) > 0.02, True)
    # Every profile is all of one time, and its places lie in the extent.
    for points in (*data.train.layouts, *data.test.layouts):
        assert np.ptp(points[:, 1]) == 0
        assert 0.19 < points[0, 0] < points[-1, 0] < 0.81
    # The floor is the profile of the nearest training time.
    trained = np.array([points[0, 1] for points in data.train.layouts])
    nearest = np.abs(trained - ages[0]).argmin()
    np.testing.assert_array_equal(data.floor[0], data.train.values[nearest])


def test_profiles_that_cannot_be_used_are_refused(tmp_path):
    values, times = np.ones((6, 50, 2)), np.arange(6.0)
    path = write_profiles(tmp_path / "p.npz", values, times)
    with pytest.raises(DataError, match="no gene z; allowed: a, b"):
        load_profiles(path, ("z",))
    with pytest.raises(DataError, match="100 nodes asked of 40"):
        load_profiles(path)
    values[3, 25, 1] = np.nan
    path = write_profiles(tmp_path / "nan.npz", values, times)
    with pytest.raises(DataError, match=r"profile 3, node \d+, gene b: found nan"):
        load_profiles(path, num_nodes=40)
    path = write_profiles(tmp_path / "short.npz", np.ones((6, 50, 2)), times[:5])
    with pytest.raises(DataError, match="for 5 times and 2 genes"):
        load_profiles(path, num_nodes=10)
    np.savez(tmp_path / "no.npz", expression=values)
    with pytest.raises(DataError, match="no array genes; found expression"):
        load_profiles(tmp_path / "no.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match="not a readable"):
        load_profiles(tmp_path / "text.npz")


def write_tissue(path, positions, expression, time=None):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        extra = [] if time is None else ["time"]
        writer.writerow(["cell", "x", "y", *extra, "g1", "g2"])
        for i, (place, genes) in enumerate(zip(positions, expression, strict=True)):
            moment = [] if time is None else [time[i]]
            writer.writerow([f"c{i}", *place, *moment, *genes])
    return path


def test_patches_of_a_tissue_are_neighbours_and_keep_to_their_side(tmp_path):
    rng = np.random.default_rng(0)
    positions = rng.uniform(size=(400, 2)) * [10, 30]
    # The first gene tells where a cell lies.
    expression = np.stack([positions[:, 1], rng.normal(size=400)], axis=1)
    path = write_tissue(tmp_path / "t.csv", positions, expression)
    data = load_tissue(path, num_nodes=16, num_train=30, num_test=10)
    assert data.train.values.shape == (30, 16, 2)
    assert data.test.values.shape == (10, 16, 2)
    # Standardised by the training cells, increasing with the long axis.
    assert data.test.values[..., 0].min() > data.train.values[..., 0].max()
    for patch, points in zip(data.train.values, data.train.layouts, strict=True):
        assert np.corrcoef(patch[:, 0], points[:, 1])[0, 1] > 0.999
        np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-5)
    assert 0.3 < np.std(np.concatenate(data.train.layouts)) < 1.0


def test_small_sections_become_smaller_padded_graphs(tmp_path):
    rng = np.random.default_rng(1)
    positions, expression = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    time = np.repeat([0, 1, 2], [40, 12, 8])
    path = write_tissue(tmp_path / "t.csv", positions, expression, time)
    data = load_tissue(
        path, num_nodes=10, num_train=8, time_column="time", test_fraction=0.4
    )
    sizes = [len(points) for points in data.train.layouts]
    assert max(sizes) == 10
    assert min(sizes) < 10
    np.testing.assert_array_equal(data.train.point_mask.sum(axis=1), sizes)
    assert (data.train.values[~data.train.point_mask] == 0).all()
    assert {float(points[0, 2]) for points in data.train.layouts} <= {0.0, 0.5, 1.0}


def test_negative_counts_are_refused_under_the_logarithm(tmp_path):
    rng = np.random.default_rng(1)
    path = write_tissue(
        tmp_path / "t.csv", rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    )
    with pytest.raises(DataError, match="is negative; data.logarithm is for counts"):
        load_tissue(path, num_nodes=5, logarithm=True)


def test_real_profiles_and_tissue_load(shared_data):
    path = shared_data / "drosophila_pair_rule.npz"
    data = load_profiles(path, ("Eve", "Run", "Prd"))
    assert (len(data.train), len(data.test)) == (142, 36)
    folder = shared_data / "osmfish"
    data = load_tissue(
        folder / "osmFISH_prep_expression.txt",
        coordinates=folder / "osmFISH_prep_cell_coordinates.txt",
        repeated_cells="drop",
        num_train=50,
        num_test=20,
    )
    assert data.train.values.shape == (50, 128, 33)


@pytest.mark.parametrize("num_genes", [1, 2, 9, 40])
def test_moments_are_equal_however_many_values_are_converted_together(
    monkeypatch, num_genes
):
    """Runs know their data by them."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (6, 50, num_genes)).astype(np.float32)
    layouts = tuple(np.zeros((50 - i, 2), np.float32) for i in range(6))
    fields = FieldSet(values, layouts, np.arange(6, dtype=np.int32))
    report = Reading("mine", "cells").report({})
    dataset = FieldDataset("mine", report, ("a",) * num_genes, fields, fields)
    nodes = values[fields.point_mask].astype(np.float64)
    for most in (1, 400, 10**6):
        monkeypatch.setattr("ncgn_jax.expression.sets._MOST_VALUES", most)
        mean, scale = dataset.moments()
        np.testing.assert_array_equal(mean, nodes.mean(axis=0))
        np.testing.assert_array_equal(scale, nodes.std(axis=0))


def test_few_values_are_in_double_precision_together(monkeypatch):
    values = np.ones((20, 100, 64), np.float32)
    layouts = (np.zeros((100, 2), np.float32),) * 20
    fields = FieldSet(values, layouts, np.arange(20, dtype=np.int32))
    report = Reading("mine", "cells").report({})
    dataset = FieldDataset("mine", report, ("a",) * 64, fields, fields)
    monkeypatch.setattr("ncgn_jax.expression.sets._MOST_VALUES", 2000 * 8)
    tracemalloc.start()
    dataset.moments()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All at once it would be twice the values in double precision.
    assert peak < 8 * values.size
