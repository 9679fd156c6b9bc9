"""AnnData files give the same cells as tables, and their faults are named."""

import sys

import numpy as np
import pytest

from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.faults import DataError
from tests.expression.cell_tables import (
    CELLS,
    GENES,
    PLACES,
    TIMES,
    VALUES,
    check,
    place_table,
    write,
)


def test_without_anndata_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.h5ad").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(DataError, match=r"a\.h5ad: needs anndata.*pip install.*\.csv"):
        load_cells(tmp_path / "a.h5ad")


@pytest.fixture
def annotated():
    """Makes an AnnData of the example; its obs has categories, texts and numbers."""
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")

    def make(values=VALUES):
        content = anndata.AnnData(
            X=values,
            obs=pandas.DataFrame(
                {
                    "age": TIMES,
                    "stage": pandas.Categorical([str(time) for time in TIMES]),
                    "region": ["L1", "L2", "L2", "L6"],
                    "x": PLACES[:, 1],
                    "y": PLACES[:, 0],
                    "label": [cell.upper() for cell in CELLS],
                },
                index=list(CELLS),
            ),
            var=pandas.DataFrame(index=list(GENES)),
        )
        content.obsm["spatial"] = PLACES.astype(np.float64)
        return content

    return make


@pytest.mark.parametrize("kind", ["dense", "float64", "int", "csr", "csc"])
def test_anndata_comes_back(tmp_path, annotated, kind):
    sparse = pytest.importorskip("scipy.sparse")
    convert = {
        "dense": np.asarray,
        "float64": np.float64,
        "int": lambda values: values.astype(np.int64),
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
    }[kind]
    annotated(convert(VALUES)).write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    if kind == "int":
        np.testing.assert_array_equal(table.expression, np.trunc(VALUES))
        return
    check(table)
    table = load_cells(tmp_path / "a.h5ad", gene_columns=["Ttr", "Gad2"])
    np.testing.assert_array_equal(table.expression, VALUES[:, [2, 0]])


def test_anndata_columns(tmp_path, annotated, example):
    annotated().write_h5ad(tmp_path / "a.h5ad")
    for column in ("age", "stage"):
        check(load_cells(tmp_path / "a.h5ad", time_column=column), TIMES)
    table = load_cells(tmp_path / "a.h5ad", coordinate_columns=["y", "x"])
    np.testing.assert_array_equal(table.positions, PLACES)
    table = load_cells(tmp_path / "a.h5ad", cell_column="label")
    assert table.cells == ("LEFT", "MID", "RIGHT", "FAR")
    example.places = [[x, y, "7"] for x, y in example.places]
    places = write(tmp_path / "p.txt", place_table(example, ("ID", "X", "Y", "Z")))
    table = load_cells(tmp_path / "a.h5ad", coordinates=places)
    np.testing.assert_array_equal(table.positions[:, :2], PLACES)
    assert table.positions[:, 2].tolist() == [7] * 4


def test_anndata_spatial_key(tmp_path, annotated):
    content = annotated()
    content.obsm["here"] = content.obsm["spatial"][:, ::-1]
    del content.obsm["spatial"]
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad", spatial_key="here")
    np.testing.assert_array_equal(table.positions, PLACES[:, ::-1])
    with pytest.raises(DataError, match=r"obsm\['there'\]: no such .* out of 'here'"):
        load_cells(tmp_path / "a.h5ad", spatial_key="there")
    # obs has columns x and y, of other places.
    found = load_cells(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.positions, PLACES[:, ::-1])
    assert "columns x, y" in "; ".join(found.contents)


@pytest.mark.filterwarnings("ignore:.* names are not unique")
def test_anndata_faults(tmp_path, annotated):
    file = tmp_path / "a.h5ad"
    file.write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"a\.h5ad: not readable as HDF5"):
        load_cells(file)
    values = VALUES.copy()
    values[1, 2] = np.nan
    annotated(values).write_h5ad(file)
    with pytest.raises(DataError, match="cell 'mid', gene 'Ttr' is 'nan'"):
        load_cells(file)
    annotated().write_h5ad(file)
    with pytest.raises(DataError, match="obs: cell 'left', column 'region' is 'L1'"):
        load_cells(file, time_column="region")
    with pytest.raises(DataError, match="no column 'day' for data.time_c.*'age'"):
        load_cells(file, time_column="day")
    with pytest.raises(DataError, match="no gene 'Vip'; .*'Gad2'"):
        load_cells(file, gene_columns=["Vip"])
    content = annotated()
    content.obsm["spatial"] = np.zeros((4, 5))
    content.write_h5ad(file)
    with pytest.raises(DataError, match=r"shape \(4, 5\); allowed: \[cell, 1 to 3\]"):
        load_cells(file)
    content.obsm["spatial"] = np.array([[0, 1], [np.nan, 1], [1, 2], [2, 3]])
    content.write_h5ad(file)
    with pytest.raises(DataError, match=r"obsm\['spatial'\]: cell 'mid', axis 'x' is"):
        load_cells(file)
    content = annotated()
    content.obs_names = ["left", "mid", "mid", "far"]
    content.write_h5ad(file)
    assert load_cells(file).cells == ("left", "mid", "mid", "far")
    content = annotated()
    content.X = None
    content.write_h5ad(file)
    with pytest.raises(DataError, match="no expression matrix X"):
        load_cells(file)
    annotated()[:0].write_h5ad(file)
    with pytest.raises(DataError, match="no cells; allowed: at least one"):
        load_cells(file)
