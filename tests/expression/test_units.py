"""Counts are scaled, taken the logarithm of and standardised, and back again."""

import dataclasses

import numpy as np
import pytest

import ncgn_jax as ncgn
from ncgn_jax.data.digest import digest
from ncgn_jax.expression.facts import FieldFacts
from ncgn_jax.expression.tissue import load_tissue
from ncgn_jax.expression.trained import (
    TrainedFields,
    _cover,
    _library_sizes,
    _read_annotated,
    _read_arrays,
)
from ncgn_jax.expression.units import CellUnits
from ncgn_jax.faults import DataError, RequestError
from ncgn_jax.tasks.facts import from_plain, to_plain
from tests.expression.test_cell_cases import annotated, table_of
from tests.test_models_alone import MODELS

COUNTS = np.array([[1.0, 2, 7], [0, 0, 0], [4, 4, 12], [3, 0, 1]])
TOTALS = COUNTS.sum(axis=1)


def units_of(library_size=100.0, logarithm=True):
    return CellUnits(
        logarithm, (1.0, 2, 3), (0.5, 1, 2), 1.0, None, None, library_size, 12.0
    )


def test_counts_are_scaled_before_the_logarithm():
    found = units_of().to_fields(COUNTS, TOTALS)
    # By hand: of the first cell's 10 counts the second gene has 2, which are 20 of 100.
    assert found[0, 1] == pytest.approx((np.log(21) - 2) / 1)
    assert found[2, 2] == pytest.approx((np.log(61) - 3) / 2)
    np.testing.assert_allclose(found[1], [-2, -2, -1.5])  # no counts: 0 of everything
    found = units_of(logarithm=False).to_fields(COUNTS, TOTALS)
    assert found[0, 2] == pytest.approx((70 - 3) / 2)


@pytest.mark.parametrize("logarithm", [True, False])
@pytest.mark.parametrize("library_size", [None, 100.0])
def test_what_was_done_is_undone(library_size, logarithm):
    units = units_of(library_size, logarithm)
    totals = None if library_size is None else TOTALS
    back = units.to_file(units.to_fields(COUNTS, totals), totals)
    np.testing.assert_allclose(back, COUNTS, atol=1e-9)
    # Several draws of the same cells.
    fields = np.stack([units.to_fields(COUNTS, totals)] * 2)
    np.testing.assert_allclose(units.to_file(fields, totals)[1], COUNTS, atol=1e-9)


def test_generated_cells_get_the_usual_sum():
    units = units_of()
    made = units.to_file(units.to_fields(COUNTS, TOTALS))
    kept = TOTALS > 0
    np.testing.assert_allclose(made[kept].sum(axis=1), 12.0)
    np.testing.assert_allclose(made[0], COUNTS[0] * 12 / 10)


def write_counts(path, *, negative=False):
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 10, (60, 2))
    counts = rng.poisson([2, 5, 30, 1], (60, 4)).astype(float)
    counts[7] = 0
    if negative:
        counts[3, 1] = -1
    rows = [[f"c{i}", *places[i], *counts[i]] for i in range(60)]
    return table_of(path, ["", "x", "y", "a", "b", "c", "d"], rows), places, counts


@pytest.mark.parametrize(("asked", "target"), [("median", None), (500.0, 500.0)])
def test_a_tissue_is_scaled_by_all_genes_of_the_file(tmp_path, asked, target):
    path, places, counts = write_counts(tmp_path / "t.csv")
    data = load_tissue(
        path,
        num_nodes=5,
        num_train=20,
        num_test=5,
        logarithm=True,
        library_size=asked,
        gene_columns=["d", "a"],
    )
    axis = int(np.argmax(np.ptp(places, axis=0)))
    is_train = places[:, axis] < np.quantile(places[:, axis], 0.8)
    totals = counts.sum(axis=1)
    usual = np.median(totals[is_train & (totals > 0)])
    target = usual if target is None else target
    scaled = counts * (target / np.maximum(totals, 1))[:, None]
    known = np.log1p(scaled)[:, [3, 0]]
    units = data.units
    assert units.library_size == pytest.approx(target)
    assert units.usual_total == usual
    np.testing.assert_allclose(units.mean, known[is_train].mean(axis=0))
    np.testing.assert_allclose(units.scale, known[is_train].std(axis=0))
    shares = counts[is_train].sum(axis=0) / counts[is_train].sum()
    np.testing.assert_allclose(units.shares, shares[[3, 0]])
    expected = (known - units.mean) / units.scale
    for patch in data.train.values:
        near = np.abs(expected[:, None] - patch[None]).max(axis=2).min(axis=0)
        assert near.max() < 1e-5
    assert f"cells scaled to a sum of {target:.6g} over all genes" in str(data.report)
    assert "then log(1 + x), then genes standardised" in str(data.report)
    assert "1 cells have no counts and stay at 0" in str(data.report)


def test_what_cannot_be_counts_is_refused_or_said(tmp_path):
    path, *_ = write_counts(tmp_path / "n.csv", negative=True)
    with pytest.raises(DataError, match="-1 is negative; data.library_size needs the"):
        load_tissue(path, num_nodes=5, library_size="median", gene_columns=["a"])
    path, *_ = write_counts(tmp_path / "t.csv")
    text = path.read_text()
    data = load_tissue(path, num_nodes=5)
    assert "are trained on as they are; data.logarithm=true takes" in str(data.report)
    lines = text.splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:-1], "0.5"])
    path.write_text("\n".join(lines))
    data = load_tissue(path, num_nodes=5, logarithm=True)
    assert "expression has fractions, and data.logarithm is for counts" in str(
        data.report
    )


def test_facts_of_older_runs_load():
    old = ("logarithm", "mean", "scale", "half_width", "first_time", "time_span")
    facts = FieldFacts(("a",), (0.0,), (1.0,), 2, (((0.0,), (1.0,)),))
    facts = dataclasses.replace(facts, units=CellUnits(True, (1.0,), (2.0,), 3.0))
    stored = to_plain(facts)
    assert tuple(stored["units"]) == old
    assert from_plain(FieldFacts, stored) == facts
    # Nor does what is not set change the digest that a run knows its data by.
    types = [(name, object) for name in old]
    earlier = dataclasses.make_dataclass("CellUnits", types)
    values = [getattr(facts.units, name) for name in old]
    assert digest(facts.units) == digest(earlier(*values))
    scaled = dataclasses.replace(facts, units=units_of())
    assert to_plain(scaled)["units"]["library_size"] == 100.0
    assert from_plain(FieldFacts, to_plain(scaled)) == scaled
    assert digest(scaled.units) != digest(dataclasses.replace(units_of(), layer="a"))


# Imputation.


def test_library_sizes_make_up_for_what_is_not_known():
    shares = np.array([0.1, 0.3, 0.2])  # of all counts; 0.4 are of other genes
    known = np.array([[1.0, 3, 2], [1, np.nan, 2], [np.nan, np.nan, np.nan]])
    names, places = ("a", "b", "c"), np.zeros((3, 2))
    table = _read_arrays(known, places, names, None)
    found = _library_sizes(table, known, names, shares)
    np.testing.assert_allclose(found, [6 / 0.6, 3 / 0.3, 0])
    # With genes that the model has not, all but the hidden ones were counted.
    whole = np.concatenate([known, [[4.0], [4.0], [4.0]]], axis=1)
    table = _read_arrays(whole, places, (*names, "other"), None)
    found = _library_sizes(table, known, names, shares)
    np.testing.assert_allclose(found, [10, 7 / 0.7, 4 / 0.4])


def test_patches_to_impute_cover_all_cells_and_mix_no_sections():
    rng = np.random.default_rng(0)
    places, sections = rng.uniform(size=(90, 2)), rng.integers(0, 3, 90)
    times = rng.integers(0, 2, 90)
    patches = _cover(places, times, 8, sections)
    assert set(np.concatenate(patches)) == set(range(90))
    for rows in patches:
        assert len(set(sections[rows])) == len(set(times[rows])) == 1


def test_sections_layers_and_keys_of_annotated_cells():
    content = annotated(40, obs={"library_id": np.repeat(["u", "v"], 20)})
    content.layers["counts"] = content.X * 2
    content.obsm["coords"] = content.obsm.pop("spatial")
    table = _read_annotated(content, None, None, "", None)
    np.testing.assert_array_equal(table.sections, np.repeat([0, 1], 20))
    np.testing.assert_array_equal(table.take(1), content.X[:, 1])
    np.testing.assert_array_equal(table.positions, content.obsm["coords"])
    table = _read_annotated(content, "coords", None, "counts", "none")
    assert table.sections is None
    np.testing.assert_array_equal(table.take(1), 2 * content.X[:, 1])
    with pytest.raises(RequestError, match="'spliced', that of training; allowed: X"):
        _read_annotated(content, None, None, "spliced", None)
    with pytest.raises(RequestError, match="no column 'donor' in obs; it has library"):
        _read_annotated(content, None, None, "", "donor")
    with pytest.raises(RequestError, match="found 'nowhere'; obsm has coords"):
        _read_annotated(content, "nowhere", None, "", None)


def test_imputed_values_have_the_sum_of_their_own_cell(monkeypatch):
    """The network gives the mean of training for all; counts differ by the cell."""
    model = ncgn.load(MODELS / "expression")
    units = CellUnits(
        True, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), 1.0, None, None, 100.0, 50.0,
        (0.25, 0.25, 0.5),
    )  # fmt: skip
    facts = dataclasses.replace(model.model.facts, units=units)
    monkeypatch.setattr(model, "model", dataclasses.replace(model.model, facts=facts))

    def generate(self, layouts, fixed, seed, sampling):
        return np.where(fixed.given, fixed.values, 0.0).astype(np.float32)

    monkeypatch.setattr(TrainedFields, "_generate", generate)
    rng = np.random.default_rng(0)
    counts = rng.poisson(20, (30, 3)).astype(float)
    places = rng.uniform(size=(30, 2)) + 1e8
    found = model.impute(counts, places, model.genes, genes=[model.genes[1]])
    totals = (counts[:, 0] + counts[:, 2]) / 0.75
    expected = (np.exp(2) - 1) * totals / 100
    np.testing.assert_allclose(found.values[:, 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(found.values[:, [0, 2]], counts[:, [0, 2]])
    with pytest.raises(RequestError, match="appear|stands there more than once"):
        model.impute(counts, places, ["Gad2", "Gad2", "Ttr"])
