"""Formats of cells: 10x, Xenium, MERSCOPE, CosMx, zarr, parquet, compressed tables."""

import gzip
import json
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from ncgn_jax.expression.cell_files import load_cells, read_anndata_file
from ncgn_jax.expression.cell_folders import check_ending
from ncgn_jax.expression.recognise import recognise
from ncgn_jax.faults import DataError
from tests.expression.cell_tables import write_zarr
from tests.expression.test_cell_cases import (
    GENES,
    annotated,
    cells_of,
    left_out,
    notes,
    table_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*[zZ]arr", "ignore:Consolidated")
h5py = pytest.importorskip("h5py")
NUM = 12
BARCODES = [f"AAC{i}-1" for i in range(NUM)]
FEATURES = [*GENES, "NegControlProbe_1", "CD4_antibody"]
KINDS = [*["Gene Expression"] * 4, "Negative Control Probe", "Antibody Capture"]


@pytest.fixture
def counts():
    places, genes = cells_of(NUM)
    others = np.full((NUM, 2), 7.0)
    return places, np.concatenate([genes, others], axis=1)


@pytest.fixture(autouse=True)
def _undamaged(monkeypatch, request):
    if "damaged" not in request.node.name:
        name = "ncgn_jax.expression.cell_matrices.check_hdf5"
        monkeypatch.setattr(name, lambda path: None)


def write_10x_folder(folder, matrix, packed):
    folder.mkdir(parents=True)
    matrix = scipy.sparse.coo_matrix(matrix.T)
    features = [
        f"ENS{i}\t{n}\t{k}"
        for i, (n, k) in enumerate(zip(FEATURES, KINDS, strict=True))
    ]
    texts = {"features.tsv": features, "barcodes.tsv": BARCODES}
    scipy.io.mmwrite(folder / "matrix.mtx", matrix, field="integer")
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    for name in ("matrix.mtx", *texts) if packed else ():
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def write_10x_hdf5(path, matrix, *, old=False):
    matrix = scipy.sparse.csc_matrix(matrix.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("GRCh38" if old else "matrix")
        group["barcodes"] = np.array(BARCODES, "S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = matrix.shape
        if old:
            group["gene_names"] = group["genes"] = np.array(FEATURES, "S")
            return
        features = group.create_group("features")
        features["name"] = features["id"] = np.array(FEATURES, "S")
        features["feature_type"] = np.array(KINDS, "S")


def write_visium_places(folder, places, header):
    (folder / "spatial").mkdir(parents=True, exist_ok=True)
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    rows = [[b, int(i != 1), i, i, *places[i, ::-1]] for i, b in enumerate(BARCODES)]
    first = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres",
             "pxl_col_in_fullres"]  # fmt: skip
    rows = [first, *rows] if header else rows
    table_of(folder / "spatial" / name, rows[0], rows[1:])


def check_visium(table, counts):
    kept = [i for i in range(NUM) if i != 1]
    assert table.genes == GENES
    assert table.cells == tuple(BARCODES[i] for i in kept)
    np.testing.assert_array_equal(table.expression, counts[1][kept, :4])
    np.testing.assert_array_equal(table.positions, counts[0][kept])


@pytest.mark.parametrize("packed", [True, False])
def test_folder_of_space_ranger(tmp_path, counts, packed):
    outs = tmp_path / "sample" / "outs"
    write_10x_folder(outs / "filtered_feature_bc_matrix", counts[1], packed)
    write_visium_places(outs, counts[0], header=packed)
    for path in (tmp_path / "sample", outs, outs / "filtered_feature_bc_matrix"):
        assert recognise(path) == {"data.source": "cells"}
        table = load_cells(path)
        check_visium(table, counts)
        assert left_out(table) == [
            "1 spots outside the tissue (in_tissue = 0) (first AAC1-1)",
            "1 features 'Negative Control Probe' (first NegControlProbe_1)",
            "1 features 'Antibody Capture' (first CD4_antibody)",
        ]
        assert "tissue_positions" in notes(table)
    assert "read from outs/" in notes(load_cells(tmp_path / "sample"))


@pytest.mark.parametrize("old", [True, False])
def test_hdf5_of_10x(tmp_path, counts, old):
    write_10x_hdf5(tmp_path / "x_filtered_feature_bc_matrix.h5", counts[1], old=old)
    write_10x_hdf5(tmp_path / "raw_feature_bc_matrix.h5", counts[1] * 2)
    write_visium_places(tmp_path, counts[0], header=True)
    assert recognise(tmp_path) == {"data.source": "cells"}
    table = load_cells(tmp_path)
    if old:  # which knows no kinds of features
        assert table.genes == (*GENES, "CD4_antibody")
    else:
        check_visium(table, counts)
    shutil.rmtree(tmp_path / "spatial")
    with pytest.raises(DataError, match=r"no positions by a usual name"):
        load_cells(tmp_path)


def test_folder_of_xenium(tmp_path, counts):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write_10x_hdf5(tmp_path / "cell_feature_matrix.h5", counts[1])
    write_10x_folder(tmp_path / "cell_feature_matrix", counts[1], packed=True)
    cells = pandas.DataFrame(
        {
            "cell_id": [b.encode() for b in BARCODES],
            "x_centroid": counts[0][:, 0],
            "y_centroid": counts[0][:, 1],
            "transcript_counts": 3,
        }
    ).sample(frac=1, random_state=0)
    cells.to_parquet(tmp_path / "cells.parquet")
    table = load_cells(tmp_path)
    assert table.genes == GENES
    np.testing.assert_array_equal(table.positions, counts[0])
    np.testing.assert_array_equal(table.expression, counts[1][:, :4])
    assert "cells.parquet beside" in notes(table)
    (tmp_path / "cells.parquet").unlink()
    cells["cell_id"] = cells["cell_id"].str.decode("utf-8")
    cells.to_csv(tmp_path / "cells.csv.gz", index=False)
    np.testing.assert_array_equal(load_cells(tmp_path).positions, counts[0])


def test_folder_of_merscope(tmp_path, counts):
    places, genes = counts[0], counts[1][:, :4]
    names = [str(10**12 + i) for i in range(NUM)]
    rows = [[n, *row, 0] for n, row in zip(names, genes, strict=True)]
    table_of(tmp_path / "cell_by_gene.csv", ["cell", *GENES, "Blank-1"], rows)
    rows = [
        [n, i // 6, 1.0, *place]
        for i, (n, place) in enumerate(zip(names, places, strict=True))
    ]
    header = ["", "fov", "volume", "center_x", "center_y"]
    table_of(tmp_path / "cell_metadata.csv", header, rows[::-1])
    for path in (tmp_path, tmp_path / "cell_by_gene.csv"):
        assert recognise(path) == {"data.source": "cells"}
        table = load_cells(path, section_column="none")
        assert table.genes == GENES
        np.testing.assert_array_equal(table.positions, places)
        np.testing.assert_array_equal(table.expression, genes)
        assert left_out(table) == ["1 controls Blank (first Blank-1)"]


def test_folder_of_cosmx(tmp_path, counts):
    """Cells are numbered anew in each field; number 0 is what lies outside of cells."""
    places, genes = counts[0], counts[1][:, :4]
    fov = [1 + i // 6 for i in range(NUM)]
    rows = [
        [f, i % 6 + 1, *row] for i, (f, row) in enumerate(zip(fov, genes, strict=True))
    ]
    rows += [[1, 0, 9, 9, 9, 9], [2, 0, 9, 9, 9, 9]]
    header = ["fov", "cell_ID", *GENES]
    table_of(tmp_path / "S0_exprMat_file.csv", header, rows)
    rows = [[fov[i], i % 6 + 1, 55, 1.0, 2.0, *places[i]] for i in range(NUM)]
    header = ["fov", "cell_ID", "Area", "CenterX_local_px", "CenterY_local_px",
              "CenterX_global_px", "CenterY_global_px"]  # fmt: skip
    table_of(tmp_path / "S0_metadata_file.csv", header, rows[::-1])
    table = load_cells(tmp_path)
    assert table.cells[0] == "1_1"
    assert table.genes == GENES
    np.testing.assert_array_equal(table.positions, places)
    np.testing.assert_array_equal(table.expression, genes)
    assert "2 counts outside of cells (cell_ID 0) (first 1_0)" in left_out(table)
    assert "such as CenterX_local_px, CenterY_local_px" in notes(table)


@pytest.mark.parametrize("form", [2, 3])
def test_zarr_of_anndata_and_spatialdata(tmp_path, form):
    pytest.importorskip("zarr")
    content = annotated(30)
    content.X = scipy.sparse.csr_matrix(content.X)
    write_zarr(content, tmp_path / "a.zarr", form)
    content.obs["region"] = np.repeat(["one", "two"], 15)
    content.uns["spatialdata_attrs"] = {"region_key": "region", "region": ["one"]}
    write_zarr(content, tmp_path / "s.zarr" / "tables" / "table", form)
    (tmp_path / "s.zarr" / "zarr.json").write_text('{"node_type": "group"}')
    for name in ("a.zarr", "s.zarr"):
        assert recognise(tmp_path / name) == {"data.source": "cells"}
        table = load_cells(tmp_path / name)
        np.testing.assert_array_equal(table.positions, cells_of(30)[0])
        np.testing.assert_array_equal(table.expression, cells_of(30)[1])
    assert set(table.sections) == {"one", "two"}
    assert "tables/table is the table that was read" in notes(table)
    shutil.copytree(tmp_path / "s.zarr/tables/table", tmp_path / "s.zarr/tables/more")
    with pytest.raises(DataError, match="'tables/more', 'tables/table'; allowed: AnnD"):
        load_cells(tmp_path / "s.zarr")
    assert len(load_cells(tmp_path / "s.zarr/tables/table").cells) == 30
    assert read_anndata_file(tmp_path / "a.zarr").n_obs == 30


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_unreadable_parts_that_are_not_needed_are_left_out_and_said(tmp_path, ending):
    pytest.importorskip("zarr")
    content = annotated(30)
    content.layers["counts"] = content.X * 2
    content.raw = content.copy()
    content.uns["later"] = {"kind": np.arange(3)}
    file = tmp_path / f"a.{ending}"
    if ending == "zarr":
        write_zarr(content, file, 2)
        of_uns = file / "uns" / "later" / ".zattrs"
        of_uns.write_text('{"encoding-type": "none yet", "encoding-version": "9"}')
        (file / ".zmetadata").unlink(missing_ok=True)
    else:
        content.write_h5ad(file)
        with h5py.File(file, "a") as opened:
            opened["uns/later"].attrs["encoding-type"] = "none yet"
    for layer, genes in (
        (None, cells_of(30)[1]),
        ("counts", 2 * cells_of(30)[1]),
        ("raw", cells_of(30)[1]),
    ):
        table = load_cells(file, layer=layer)
        np.testing.assert_array_equal(table.positions, cells_of(30)[0])
        np.testing.assert_array_equal(table.expression, genes)
        assert "read without `uns`, `obsp` and the like" in notes(table)
    with pytest.raises(DataError, match="not readable as AnnData"):
        read_anndata_file(file)


def test_zarr_of_several_modalities(tmp_path):
    pytest.importorskip("zarr")
    write_zarr(annotated(30), tmp_path / "m.zarr", 2)
    write_zarr(annotated(30), tmp_path / "m.zarr" / "mod" / "rna", 2)
    assert recognise(tmp_path / "m.zarr") == {"data.source": "cells"}
    table = load_cells(tmp_path / "m.zarr")
    assert "mod/rna is the table that was read" in notes(table)
    write_zarr(annotated(30), tmp_path / "m.zarr" / "mod" / "atac", 2)
    with pytest.raises(DataError, match="tables 'mod/atac', 'mod/rna'; allowed: AnnDa"):
        load_cells(tmp_path / "m.zarr")
    assert len(load_cells(tmp_path / "m.zarr" / "mod" / "rna").cells) == 30


class _Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_zarr_runs_no_code_and_follows_no_link(tmp_path, capsys):
    pytest.importorskip("zarr")
    write_zarr(annotated(30), tmp_path / "a.zarr", 2)
    file = tmp_path / "a.zarr" / "obsm" / "spatial" / ".zarray"
    good, chunk = json.loads(file.read_text()), file.parent / "0.0"
    chunk.write_bytes(pickle.dumps(_Trap()))
    for filters in ([{"id": "pickle"}], [{"id": "numcodecs.pickle"}]):
        file.write_text(json.dumps({**good, "filters": filters, "compressor": None}))
        with pytest.raises(DataError, match=r"\.zarray: filter '.*pickle'; allowed:"):
            load_cells(tmp_path / "a.zarr")
    assert "unpickled" not in capsys.readouterr().out
    file.write_text(json.dumps({**good, "shape": [10**15, 2]}))
    with pytest.raises(DataError, match="an array of 2,000,000,000,000,000 entries"):
        load_cells(tmp_path / "a.zarr")
    file.write_text(json.dumps(good))
    chunk.unlink()
    chunk.symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="is a link; allowed: files and folders"):
        load_cells(tmp_path / "a.zarr")


def test_links_out_of_an_hdf5_file_are_refused_as_damaged(tmp_path):
    annotated(30).write_h5ad(tmp_path / "other.h5ad")
    annotated(30).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink("other.h5ad", "/X")
    with pytest.raises(DataError, match=r"a\.h5ad: .*links? .*another file"):
        load_cells(tmp_path / "a.h5ad")


def test_damaged_market_files_are_refused(tmp_path, counts):
    write_10x_folder(tmp_path / "m", counts[1], packed=False)
    write_visium_places(tmp_path, counts[0], header=True)
    file = tmp_path / "m" / "matrix.mtx"
    places = tmp_path / "spatial" / "tissue_positions.csv"
    good = file.read_text()
    size = f"{len(FEATURES)} {NUM} "
    assert size in good
    cases = {
        good.replace(size, "999999999999 999999999 "): "999999999999 x 999999999 entr",
        good.replace(size, f"{size}9999999"): "lines of 3 numbers; announced: 9999999",
        good.replace("%%MatrixMarket", "%%Market"): "not a readable Matrix Market file",
        good[: len(good) // 2]: "lines of 3 numbers; announced:|not a readable",
        good.replace("\n1 1 ", "\n99 1 "): "entries outside 6 x 12",
        good.replace("\n1 1 ", "\nnan 1 "): "entries outside 6 x 12",
        good.replace("\n1 1 ", "\none 1 "): "not a readable Matrix Market file",
    }
    for content, message in cases.items():
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            load_cells(tmp_path / "m", coordinates=places)


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.gz", ".txt.gz", ".parquet"])
def test_tables_compressed_and_parquet(tmp_path, ending):
    pandas = pytest.importorskip("pandas")
    places, genes = cells_of(NUM)
    frame = pandas.DataFrame(genes, columns=list(GENES))
    frame.insert(0, "x", places[:, 0])
    frame.insert(1, "y", places[:, 1])
    frame.insert(0, "cell_id", BARCODES)
    file = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="," if "csv" in ending else "\t")
    assert recognise(file) == {"data.source": "cells"}
    table = load_cells(file)
    assert table.cells == tuple(BARCODES)
    assert table.genes == GENES
    np.testing.assert_array_equal(table.positions, places)
    np.testing.assert_array_equal(table.expression, genes)


def test_compressed_anndata(tmp_path):
    annotated(30).write_h5ad(tmp_path / "a.h5ad")
    packed = gzip.compress((tmp_path / "a.h5ad").read_bytes())
    (tmp_path / "b.h5ad.gz").write_bytes(packed)
    table = load_cells(tmp_path / "b.h5ad.gz")
    np.testing.assert_array_equal(table.expression, cells_of(30)[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad.gz"]


def test_folders_with_nothing_or_several_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no file of cells \(none\); allowed: data.path"
    ):
        load_cells(tmp_path)
    assert recognise(tmp_path) is None
    for name in ("a", "b"):
        annotated(30).write_h5ad(tmp_path / f"{name}.h5ad")
    with pytest.raises(DataError, match=r"2 files of cells \('a.h5ad', 'b.h5ad'\)"):
        load_cells(tmp_path)
    (tmp_path / "b.h5ad").unlink()
    assert "a.h5ad is read in the folder" in notes(load_cells(tmp_path))
    bins = tmp_path / "hd" / "binned_outputs"
    for size in ("002", "008"):
        (bins / f"square_{size}um").mkdir(parents=True)
    assert recognise(tmp_path / "hd") == {"data.source": "cells"}
    with pytest.raises(DataError, match="several sizes of bins .*square_008um"):
        load_cells(tmp_path / "hd")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("a.loom", "read_loom"),
        ("a.rds", "zellkonverter"),
        ("a.h5mu", "mudata"),
        ("a.xlsx", "export the sheet"),
        ("a.gem.gz", "count its transcripts"),
        ("a.tar.gz", "unpack it"),
        ("a.pkl", "pickled files run code"),
    ],
)
def test_what_cannot_be_read_has_a_way_out(tmp_path, name, way):
    (tmp_path / name).write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(DataError, match=f"ending '.*'; allowed: .*; .*{way}"):
        load_cells(tmp_path / name)


def test_other_files_are_not_taken_for_cells(tmp_path):
    rows = [[0.1, 0.2, 0.3, 1, 0, 0], [0.2, 0.1, 0.3, 0, 1, 0]]
    clouds = table_of(tmp_path / "cloud.csv", ["x", "y", "z", "nx", "ny", "nz"], rows)
    smiles = table_of(tmp_path / "m.csv", ["smiles", "logp", "qed"], [["C", 1, 2]])
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 3)))
    np.savez(tmp_path / "p.npz", expression=[0], genes=["a"], time=[0])
    for path in (clouds, smiles, tmp_path / "images.npz"):
        assert recognise(path) is None
    assert recognise(tmp_path / "p.npz") == {"data.source": "profiles"}


@pytest.mark.parametrize("name", ["a.loom", "a.rds", "a.h5mu"])
def test_files_of_other_programs_are_refused_with_a_way_to_convert_them(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    assert recognise(tmp_path / name) == {"data.source": "cells"}
    with pytest.raises(DataError, match="convert|writes one of its tables"):
        check_ending(tmp_path / name)


def test_pairs_of_tables_in_a_folder_are_cells(tmp_path):
    """As of seqFISH+, with a pair for each tissue."""
    for tissue in ("cortex", "ob"):
        (tmp_path / f"{tissue}_counts.csv").write_text("cell,a,b\n0,1,2\n1,3,4\n")
        places = tmp_path / f"{tissue}_cellcentroids.csv"
        places.write_text("Cell ID,X,Y\n0,1.5,2\n1,3,4.5\n")
    assert recognise(tmp_path) == {"data.source": "cells"}
    with pytest.raises(DataError, match=r"2 files of cells .*data\.path names one"):
        load_cells(tmp_path)
    cells = load_cells(tmp_path / "ob_counts.csv")
    np.testing.assert_array_equal(cells.positions, [[1.5, 2], [3, 4.5]])
