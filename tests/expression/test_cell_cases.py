"""Files of cells that people have: found by names, said, or refused with a way out."""

import numpy as np
import pytest

from ncgn_jax.config import apply_overrides
from ncgn_jax.domains import validate
from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.expression.cell_names import control_of, find_axes, make_unique
from ncgn_jax.expression.config import FIELDS, default_config
from ncgn_jax.expression.load import load_dataset
from ncgn_jax.expression.recognise import recognise
from ncgn_jax.expression.sections import hold_out
from ncgn_jax.expression.tissue import load_tissue
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.fields import item_types

GENES = ("Gad2", "HLA-A", "ENSG00000000001.12", "1700001C02Rik")


@pytest.fixture(autouse=True)
def _undamaged(monkeypatch):
    """The files are sound; that damaged ones are found is tested elsewhere."""
    monkeypatch.setattr(
        "ncgn_jax.expression.cell_matrices.check_hdf5", lambda path: None
    )


def cells_of(num, seed=0, *, genes=GENES):
    """Counts and positions of some cells."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 1000, (num, 2)).astype(np.float32)
    return places.astype(np.float64), rng.poisson(3, (num, len(genes))).astype(
        np.float32
    )


def annotated(num=80, seed=0, genes=GENES, **parts):
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    places, counts = cells_of(num, seed, genes=genes)
    names = [f"c{i}" for i in range(num)]
    content = anndata.AnnData(
        X=counts,
        obs=pandas.DataFrame(parts.pop("obs", {}), index=names),
        var=pandas.DataFrame(index=list(genes)),
    )
    content.obsm[parts.pop("key", "spatial")] = places
    assert not parts
    return content


def table_of(path, header, rows, delimiter=","):
    lines = [header, *rows]
    text = "\n".join(delimiter.join(map(str, line)) for line in lines)
    path.write_text(f"{text}\n")
    return path


def notes(table):
    return "\n".join(table.reading.report({}).notes)


def left_out(table):
    return [str(tally) for tally in table.reading.left_out]


# Sections.


def two_sections(column="library_id", shift=0.0):
    """Two sections in one frame; the first gene tells them apart."""
    content = annotated(120, obs={column: np.repeat(["one", "two"], 60)})
    content.X[:, 0] = np.repeat([0, 100], 60)
    content.obsm["spatial"][60:] += shift
    return content


@pytest.mark.parametrize(
    "column", ["library_id", "batch", "sample", "slide", "fov", "orig.ident"]
)
def test_patches_never_mix_sections(tmp_path, column):
    two_sections(column).write_h5ad(tmp_path / "a.h5ad")
    data = load_tissue(tmp_path / "a.h5ad", num_nodes=8, num_train=40, num_test=10)
    for part in (data.train, data.test):
        marks = part.values[..., 0]
        assert (np.ptp(marks, axis=1) == 0).all()
        assert len(np.unique(marks)) == 2
    assert f"2 sections by column '{column}', found by its name" in str(data.report)
    assert "one 60, two 60" in str(data.report)
    mixed = load_tissue(
        tmp_path / "a.h5ad", num_nodes=8, num_train=40, section_column="none"
    )
    assert (np.ptp(mixed.train.values[..., 0], axis=1) > 0).any()


def test_a_section_can_be_named_and_chosen(tmp_path):
    two_sections("slab").write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    assert table.sections is None
    table = load_cells(tmp_path / "a.h5ad", section_column="slab", sections=["two"])
    assert set(table.sections) == {"two"}
    assert left_out(table) == ["60 cells of other sections (first c0)"]
    assert (table.expression[:, 0] == 100).all()
    with pytest.raises(DataError, match="no section 'three' .* allowed: 'one', 'two'"):
        load_cells(tmp_path / "a.h5ad", section_column="slab", sections=["three"])
    with pytest.raises(DataError, match=r"data\.section=two without a column of sect"):
        load_cells(tmp_path / "a.h5ad", sections=["two"])
    with pytest.raises(DataError, match="no column 'slib' for data.section_column"):
        load_cells(tmp_path / "a.h5ad", section_column="slib")


def test_tiles_of_one_frame_are_one_section(tmp_path):
    """Fields of view side by side, as those of MERSCOPE, are cut from one tissue."""
    two_sections("fov", shift=1000.0).write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    assert table.sections is None
    assert "2 tiles of one frame are taken together" in notes(table)
    assert len(set(load_cells(tmp_path / "a.h5ad", section_column="fov").sections)) == 2


def test_of_several_columns_of_sections_the_finest_is_taken_or_none(tmp_path):
    pandas = pytest.importorskip("pandas")
    content = two_sections("batch")
    content.obs["sample"] = np.tile(np.repeat(["a", "b"], 30), 2)
    content.obs["section"] = np.repeat([0.0, 1.0, 2.0, 3.0], 30)
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    assert sorted(set(table.sections)) == ["0", "1", "2", "3"]
    # Names before numbers where both tell the same sections apart.
    content.obs["puck"] = pandas.Categorical(content.obs["section"].map("p{:g}".format))
    content.write_h5ad(tmp_path / "a.h5ad")
    assert load_cells(tmp_path / "a.h5ad").sections[0] == "p0"
    del content.obs["section"], content.obs["puck"]
    content.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(
        DataError, match="'sample', 'batch' may all tell .* data.section_column names"
    ):
        load_cells(tmp_path / "a.h5ad")


def test_a_column_that_names_cells_tells_no_sections_apart(tmp_path):
    content = annotated(40, obs={"sample": [f"s{i}" for i in range(40)]})
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    assert table.sections is None
    assert "'sample' with 40 values for 40 cells is not taken" in notes(table)


def test_sections_without_a_column_are_suspected_from_names(tmp_path):
    content = two_sections("nothing")
    del content.obs["nothing"]
    content.obs_names = [
        f"AAC-{i // 60}" if i % 2 else f"AAG-{i // 60}" for i in range(120)
    ]
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    assert "names of cells end in '0', '1', and these overlap: perhaps" in notes(table)


@pytest.mark.parametrize("form", ["{1}_AAC{0}", "AAC{0}-{1}", "AAC{0}#{1}"])
def test_marks_before_and_behind_names_are_suspected(tmp_path, form):
    content = two_sections("nothing")
    del content.obs["nothing"]
    content.obs_names = [form.format(i % 60, "uv"[i // 60]) for i in range(120)]
    content.write_h5ad(tmp_path / "a.h5ad")
    assert "'u', 'v', and these overlap: perhaps" in notes(
        load_cells(tmp_path / "a.h5ad")
    )


def test_every_section_gives_a_region_to_the_test():
    rng = np.random.default_rng(0)
    places = rng.uniform(size=(300, 2)) * [1, 10]
    places[100:] = places[100:, ::-1] + 50
    sections = np.repeat([0, 1], [100, 200])
    is_test, rule = hold_out(places, sections, 0.2)
    assert is_test[:100].sum() == 20
    assert is_test[100:].sum() == 40
    assert places[:100][is_test[:100], 1].min() > places[:100][~is_test[:100], 1].max()
    assert places[100:][is_test[100:], 0].min() > places[100:][~is_test[100:], 0].max()
    assert "each section's longest axis" in rule


def test_cells_of_two_sections_may_share_a_place(tmp_path):
    content = two_sections()
    content.obsm["spatial"][60:] = content.obsm["spatial"][:60]
    content.write_h5ad(tmp_path / "a.h5ad")
    assert len(load_cells(tmp_path / "a.h5ad").cells) == 120
    with pytest.raises(DataError, match="60 such cells.*data.section_column tells"):
        load_cells(tmp_path / "a.h5ad", section_column="none")


# Positions.


@pytest.mark.parametrize("key", ["X_spatial", "spatial_coords", "coords"])
def test_usual_keys_of_positions_are_found(tmp_path, key):
    annotated(key=key).write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(table.positions, cells_of(80)[0])
    assert f"positions are obsm['{key}'], found by its name" in notes(table)


def test_of_several_keys_spatial_is_taken_and_said_else_refused(tmp_path):
    content = annotated()
    content.obsm["spatial3d"] = np.ones((80, 3))
    content.write_h5ad(tmp_path / "a.h5ad")
    assert "data.spatial_key names another, out of 'spatial3d'" in notes(
        load_cells(tmp_path / "a.h5ad")
    )
    content.obsm["X_spatial"] = content.obsm["spatial"]
    content.obsm["coords"] = content.obsm.pop("spatial")
    content.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="'X_spatial', 'coords'; data.spatial_key name"):
        load_cells(tmp_path / "a.h5ad")
    assert len(load_cells(tmp_path / "a.h5ad", spatial_key="coords").cells) == 80


def test_positions_as_a_frame_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    content = annotated()
    frame = pandas.DataFrame(content.obsm["spatial"], content.obs_names, ["x", "y"])
    content.obsm["spatial"] = frame
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(table.positions, cells_of(80)[0])


@pytest.mark.parametrize(
    "axes",
    [
        ("center_x", "center_y"),
        ("x_centroid", "y_centroid"),
        ("CenterX_global_px", "CenterY_global_px"),
        ("imagecol", "imagerow"),
        ("pxl_col_in_fullres", "pxl_row_in_fullres"),
        ("sdimx", "sdimy"),
        ("xcoord", "ycoord"),
    ],
)
def test_usual_columns_of_positions_are_found(tmp_path, axes):
    places, counts = cells_of(6)
    rows = [[f"c{i}", *places[i], *counts[i]] for i in range(6)]
    table = load_cells(table_of(tmp_path / "a.csv", ["", *axes, *GENES], rows))
    np.testing.assert_array_equal(table.positions, places)
    assert table.genes == GENES
    assert f"positions are columns {', '.join(axes)}, found by their names" in notes(
        table
    )
    # Neither as the wrong axis, nor where half of a pair is there.
    assert find_axes([axes[1], "y_nothing"]) == []


def test_positions_of_columns_of_obs_are_found(tmp_path):
    content = annotated()
    content.obs["x_centroid"], content.obs["y_centroid"] = content.obsm["spatial"].T
    del content.obsm["spatial"]
    content.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(
        load_cells(tmp_path / "a.h5ad").positions, cells_of(80)[0]
    )
    content.obs = content.obs[[]]
    content.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="no positions by a usual name; allowed: a tab"):
        load_cells(tmp_path / "a.h5ad")


def test_positions_far_from_the_origin_stay_apart(tmp_path):
    """Steps of float32 are 8 at 1e8, where cells lie 10 apart."""
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(8)), -1).reshape(-1, 2) * 10.0
    content = annotated()
    content.obsm["spatial"] = grid + 1e8
    content.write_h5ad(tmp_path / "a.h5ad")
    far = load_tissue(tmp_path / "a.h5ad", num_nodes=8, num_train=10, num_test=4)
    content.obsm["spatial"] = grid
    content.write_h5ad(tmp_path / "a.h5ad")
    near = load_tissue(tmp_path / "a.h5ad", num_nodes=8, num_train=10, num_test=4)
    assert far.units.half_width == pytest.approx(near.units.half_width)
    for one, other in zip(far.train.layouts, near.train.layouts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    content.obsm["spatial"] = (grid + 1e8).astype(np.float32)
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad", repeated_cells="keep")
    assert "positions are float32 in the file: steps of 8 at 1e+08" in notes(table)


def test_spots_outside_the_tissue_are_left_out(tmp_path):
    places, counts = cells_of(6)
    rows = [[f"c{i}", *counts[i]] for i in range(6)]
    expression = table_of(tmp_path / "m.csv", ["", *GENES], rows)
    spots = [[f"c{i}", int(i != 2), i, i, *places[i, ::-1]] for i in range(6)]
    header = [
        "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres",
        "pxl_col_in_fullres",
    ]  # fmt: skip
    with_header = table_of(tmp_path / "tissue_positions.csv", header, spots)
    without = table_of(tmp_path / "tissue_positions_list.csv", spots[0], spots[1:])
    for file in (with_header, without):
        table = load_cells(expression, coordinates=file)
        assert table.cells == ("c0", "c1", "c3", "c4", "c5")
        np.testing.assert_array_equal(table.positions, places[[0, 1, 3, 4, 5]])
        assert left_out(table) == [
            "1 spots outside the tissue (in_tissue = 0) (first c2)"
        ]
    assert "no header, read as Space Ranger's" in notes(table)


# Tables of text.


@pytest.mark.parametrize(
    "header",
    [
        ["# exported, by hand", "", "# units: um; 2024", "ID;X;Y;Gad2;Sox10"],
        ["# by hand", "#ID;X;Y;Gad2;Sox10"],
        ["#ID;X;Y;Gad2;Sox10"],
    ],
)
def test_comments_above_a_table_are_said(tmp_path, header):
    rows = [f"c{i};{i};{i * i};{i % 3};2" for i in range(6)]
    file = tmp_path / "a.csv"
    file.write_text("\n".join([*header, *rows]))
    assert recognise(file) == {"data.source": "cells"}
    table = load_cells(file)
    assert (table.genes, table.cells[0]) == (("Gad2", "Sox10"), "c0")
    assert table.positions[5].tolist() == [5, 25]
    count = sum(line.startswith("# ") for line in header)
    assert ("of comments above the header" in notes(table)) == (count > 0)
    assert (f"{count} line" in notes(table)) == (count > 0)
    file.write_text("\n".join([*header, *rows, "c6;1"]))
    with pytest.raises(DataError, match=f"line {len(header) + 7}: 2 fields"):
        load_cells(file)


@pytest.mark.parametrize(
    ("encoding", "is_said"),
    [("utf-8", False), ("utf-8-sig", False), ("utf-16", False), ("latin-1", True)],
)
@pytest.mark.parametrize("above", [[], ["sep=;"], ["# Größe"], ["sep=;", "", "# ä"]])
def test_texts_of_spreadsheets(tmp_path, encoding, is_said, above):
    rows = [f"c{i};{i};{i * i};{i % 3};ä;7" for i in range(6)]
    file = tmp_path / "a.csv"
    lines = [*above, "cell;x;y;Gad2;class;Größe", *rows]
    file.write_bytes("\r\n".join(lines).encode(encoding))
    assert recognise(file) == {"data.source": "cells"}
    table = load_cells(file)
    assert (table.genes, table.cells[0]) == (("Gad2", "Größe"), "c0")
    assert table.positions[5].tolist() == [5, 25]
    assert ("not UTF-8 but Latin-1" in notes(table)) == is_said


def test_a_mark_of_bytes_before_latin_1_belongs_to_no_name(tmp_path):
    text = b"\xef\xbb\xbfcell,x,y,Gad2,Gr\xf6\xdfe\nc0,0,0,1,1\nc1,1,2,2,1\n"
    (tmp_path / "a.csv").write_bytes(text)
    assert load_cells(tmp_path / "a.csv").cells == ("c0", "c1")


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        (lambda *row: ";".join(row), 3),
        (lambda *row: "\t".join(row), 3),
        (lambda *row: ",".join(f'"{field}"' for field in row), 3),
    ],
)
def test_decimal_commas_are_points_and_said(tmp_path, form, columns):
    rows = [(f"c{i}", f"{i},5", f"-{i * i},25", "7", f"{i},125") for i in range(6)]
    file = tmp_path / "a.txt"
    lines = [form("ID", "X", "Y", "Gad2", "Sox10"), *(form(*row) for row in rows)]
    file.write_text("\n".join(lines))
    table = load_cells(file)
    assert table.positions[3].tolist() == [3.5, -9.25]
    np.testing.assert_array_equal(table.expression[3], [7, 3.125])
    assert f"commas in {columns} columns (first 'X') are decimal points" in notes(table)


def test_one_decimal_comma_in_each_row_is_no_separator(tmp_path):
    rows = [f"c{i};{i};{i * i};{i % 3},5" for i in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(["ID;X;Y;Gad2", *rows]))
    table = load_cells(tmp_path / "a.csv")
    assert (table.genes, table.cells[1]) == (("Gad2",), "c1")
    assert table.expression[:2, 0].tolist() == [0.5, 1.5]


@pytest.mark.parametrize("other", ["3", "0.5"])
def test_commas_that_may_be_thousands_are_refused(tmp_path, other):
    rows = [f"c{i};{i};{i * i};{other};1,{i}00" for i in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(["ID;X;Y;Gad2;Sox10", *rows]))
    with pytest.raises(DataError, match="'Sox10' has '1,000', which may be a fraction"):
        load_cells(tmp_path / "a.csv")


def test_commas_beside_points_are_no_decimal_points(tmp_path):
    """Such as a column that lists neighbours."""
    rows = [f"c{i};{i}.5;{i * i};{i % 3};{i},{i + 10}" for i in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(["ID;X;Y;Gad2;pairs", *rows]))
    table = load_cells(tmp_path / "a.csv")
    assert table.genes == ("Gad2",)
    assert left_out(table) == ["1 columns without a number (first pairs)"]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (
            "transcript_id,cell_id,feature_name,x_location,y_location,qv",
            "{},a-1,{},{},3,9",
        ),
        (",barcode_id,global_x,global_y,x,y,gene,cell_id", "{0},1,{0},2,3,4,{1},{2}"),
        ("geneID\tx\ty\tMIDCount\tExonCount", "{1}\t{0}\t{2}\t1\t1"),
        ("fov,cell_ID,x_global_px,y_global_px,z,target", "1,{0},{0},{2},1,{1}"),
    ],
)
def test_tables_of_transcripts_are_no_cells(tmp_path, header, row):
    rows = [row.format(i, ("Gad2", "Mbp")[i % 2], 2 * i) for i in range(8)]
    (tmp_path / "a.txt").write_text("\n".join([header, *rows]))
    with pytest.raises(DataError, match="names a gene in each row, .*: a row per cell"):
        load_cells(tmp_path / "a.txt")


def test_a_gene_may_be_called_target_and_a_matrix_may_name_its_genes(tmp_path):
    rows = [[f"c{i}", i, i * i, i % 3] for i in range(4)]
    table = load_cells(table_of(tmp_path / "a.csv", ["ID", "x", "y", "target"], rows))
    assert table.genes == ("target",)
    places = table_of(tmp_path / "p.csv", ["ID", "x", "y"], [row[:3] for row in rows])
    genes = [["Gad2", 1, 2, 3, 4], ["Mbp", 4, 3, 2, 1]]
    header = ["gene", *(f"c{i}" for i in range(4))]
    table = load_cells(table_of(tmp_path / "m.csv", header, genes), coordinates=places)
    assert table.genes == ("Gad2", "Mbp")


# Matrices and genes.


def test_layers_are_named_or_the_only_one_is_read(tmp_path):
    content = annotated()
    content.layers["counts"] = content.X * 2
    content.X = None
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(table.expression, 2 * cells_of(80)[1])
    assert table.layer == "counts"
    assert "X is empty; layer 'counts', the only one, is read" in notes(table)
    content.layers["spliced"] = content.layers["counts"] * 3
    content.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="data.layer names another, out of 'counts'"):
        load_cells(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad", layer="spliced")
    np.testing.assert_array_equal(table.expression, 6 * cells_of(80)[1])
    with pytest.raises(DataError, match="data.layer='raw'; allowed: 'X', 'counts'"):
        load_cells(tmp_path / "a.h5ad", layer="raw")


def test_raw_has_genes_of_its_own(tmp_path):
    content = annotated()
    content.raw = content.copy()
    content = content[:, :2].copy()
    content.X = np.log1p(content.X)
    content.write_h5ad(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad")
    assert table.genes == GENES[:2]
    assert "X is read; data.layer names another, out of 'raw'" in notes(table)
    table = load_cells(tmp_path / "a.h5ad", layer="raw")
    assert table.genes == GENES
    np.testing.assert_array_equal(table.expression, cells_of(80)[1])


def test_genes_that_look_like_numbers_and_sums_are_names(tmp_path):
    path = tmp_path / "a.h5ad"
    annotated(60, genes=(*GENES, "1", "IC50 (nM)")).write_h5ad(path)
    config = apply_overrides(
        default_config(),
        [
            f"data.path={path}",
            "data.source=cells",
            "data.num_nodes=8",
            "data.genes=HLA-A,1700001C02Rik,ENSG00000000001.12,1,IC50 (nM)",
            "sample.hidden_genes=HLA-A,1",
            "sample.tasks=('gene_imputation',)",
        ],
        item_types(FIELDS),
    )
    validate(config)
    genes = ("HLA-A", "1700001C02Rik", "ENSG00000000001.12", "1", "IC50 (nM)")
    assert config.data.genes == load_dataset(config).genes == genes
    assert config.sample.hidden_genes == ("HLA-A", "1")


def test_genes_that_never_vary_are_said_and_refused_if_all_are_so(tmp_path):
    content = annotated(60)
    content.X[:, 2] = 1
    content.write_h5ad(tmp_path / "a.h5ad")
    data = load_tissue(tmp_path / "a.h5ad", num_nodes=8)
    message = "1 of 4 genes are equal in all training cells (first ENSG00000000001.12)"
    assert message in str(data.report)
    content.X[:] = 1
    content.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="no gene varies over the training cells"):
        load_tissue(tmp_path / "a.h5ad", num_nodes=8)


def test_genes_that_share_a_name_hinder_no_others(tmp_path):
    names = ["a", "b", "b", "c"]
    content = annotated(30, genes=[f"g{i}" for i in range(4)])
    content.var_names = names
    content.write_h5ad(tmp_path / "a.h5ad")
    counts = cells_of(30, genes=names)[1]
    table = load_cells(tmp_path / "a.h5ad", gene_columns=["c", "a"])
    np.testing.assert_array_equal(table.expression, counts[:, [3, 0]])
    with pytest.raises(DataError, match=r"gene 'b' appears 2 times; leave it out"):
        load_cells(tmp_path / "a.h5ad", gene_columns=["b", "a"])
    table = load_cells(tmp_path / "a.h5ad")
    assert table.genes == ("a", "b", "b-1", "c")
    np.testing.assert_array_equal(table.expression, counts)
    assert "1 genes have the name of an earlier one and are called 'b-1'" in notes(
        table
    )
    assert make_unique(["b", "b-1", "b", "b"]) == ["b", "b-1", "b-2", "b-3"]


def test_columns_that_are_no_genes_are_left_out(tmp_path):
    places, counts = cells_of(5)
    rows = [[f"c{i}", *places[i], "T", 3.5, "reddish", *counts[i], 1] for i in range(5)]
    header = ["", "x", "y", "cell_type", "volume", "colour", *GENES, "Blank-7"]
    file = table_of(tmp_path / "a.csv", header, rows)
    table = load_cells(file)
    assert table.genes == GENES
    assert left_out(table) == [
        "2 columns that by their names are no genes (first cell_type)",
        "1 columns without a number (first colour)",
        "1 controls Blank (first Blank-7)",
    ]
    # By name they can be had.
    table = load_cells(file, gene_columns=["volume", "Blank-7", "Gad2"])
    assert table.expression[:, 0].tolist() == [3.5] * 5
    names = ["NegControlProbe_1", "NegPrb01", "antisense_X", "BLANK_0001", "Blank"]
    assert all(control_of(name) for name in names)
    assert not any(control_of(n) for n in ("Negr1", "Blankish", "Intergenics", "Neg"))


def test_missing_values_are_refused_or_their_cells_left_out(tmp_path):
    content = annotated(20)
    content.obsm["spatial"][3, 1] = np.nan
    content.X[5, 2] = np.nan
    content.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="cell 'c3', axis 'y' is 'nan'.*drop_missing"):
        load_cells(tmp_path / "a.h5ad")
    table = load_cells(tmp_path / "a.h5ad", drop_missing=True)
    kept = [i for i in range(20) if i not in (3, 5)]
    np.testing.assert_array_equal(table.expression, cells_of(20)[1][kept])
    np.testing.assert_array_equal(table.positions, cells_of(20)[0][kept])
    assert left_out(table) == [
        "1 cells without a place (first c3)",
        "1 cells with a missing value (first c5)",
    ]


def test_only_missing_values_are_dropped(tmp_path):
    places, counts = cells_of(4)
    rows = [[f"c{i}", *places[i], *counts[i]] for i in range(4)]
    rows[1][4], rows[2][3] = "NA", "3,5"
    file = table_of(tmp_path / "a.tsv", ["", "x", "y", *GENES], rows, "\t")
    with pytest.raises(DataError, match=r"cell 'c2', gene 'Gad2' is '3,5'"):
        load_cells(file, drop_missing=True)


def test_the_most_variable_genes_are_those_of_scaled_counts(tmp_path):
    """A gene that only follows the cells' sums varies less than one that does not."""
    rng = np.random.default_rng(0)
    total = rng.integers(200, 2000, 300)
    share = np.array([0.5, 0.3, 0.1, 0.05, 0.05])
    counts = rng.poisson(total[:, None] * share).astype(np.float32)
    counts[:, 3] = np.where(np.arange(300) % 2, 0, counts[:, 3])
    content = annotated(300, genes=list("abcde"))
    scipy_sparse = pytest.importorskip("scipy.sparse")
    for matrix in (counts, scipy_sparse.csr_matrix(counts)):
        content.X = matrix
        content.write_h5ad(tmp_path / "a.h5ad")
        table = load_cells(tmp_path / "a.h5ad", top_genes=2)
        scaled = counts * np.median(counts.sum(1)) / counts.sum(1, keepdims=True)
        expected = np.sort(np.argsort(-np.log1p(scaled).var(axis=0))[:2])
        assert table.genes == tuple("abcde"[i] for i in expected)
        assert "d" in table.genes
        np.testing.assert_array_equal(table.expression, counts[:, expected])
        assert "the 2 genes of largest variance of log(1 + counts per" in notes(table)


@pytest.mark.parametrize("genes", ["top:0", "top:x", "top:5,Gad2"])
def test_bad_numbers_of_genes_are_refused(genes):
    overrides = ["data.source=cells", f"data.genes={genes}", "data.path=a.csv"]
    config = apply_overrides(default_config(), overrides, item_types(FIELDS))
    with pytest.raises(ConfigError, match="data.genes: found .*genes, or top:N"):
        validate(config, to_train=False)


def test_fields_that_a_source_does_not_read_are_refused():
    for override in ("data.layer=counts", "data.path=a.h5ad", "data.genes=Sox9"):
        config = apply_overrides(default_config(), [override], item_types(FIELDS))
        with pytest.raises(
            ConfigError,
            match=r"because data.source=turing does not read it; .*cell",
        ):
            validate(config, to_train=False)


# Memory.


def test_more_than_fits_is_refused_with_a_proposal(tmp_path, monkeypatch):
    path = tmp_path / "a.h5ad"
    annotated(200).write_h5ad(path)
    monkeypatch.setattr("ncgn_jax.data.host_memory.available_bytes", lambda: 250_000)
    sizes = {"num_nodes": 64, "num_train": 100, "num_test": 100}
    with pytest.raises(
        DataError,
        match=r"200 patches of 64 cells x 4 genes take .* free; .*data\.genes=top:500",
    ):
        load_tissue(path, **sizes)
    assert (
        len(load_tissue(path, **{**sizes, "num_train": 10, "num_test": 5}).train) == 10
    )


def test_a_split_that_leaves_too_few_cells_is_refused_before_they_are_measured(
    tmp_path,
):
    """Nine of ten cells lie at the end that is held out."""
    rows = [f"c{i},{0 if i < 9 else -1},0,{i}" for i in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(["ID,x,y,Gad2", *rows]))
    with pytest.raises(DataError, match=r"a\.csv: 1 training cells; allowed: at least"):
        load_tissue(tmp_path / "a.csv", num_nodes=4, repeated_cells="keep")


def test_cells_at_one_place_are_refused_in_one_line(tmp_path):
    rows = [f"c{i},3,4,{i}" for i in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(["ID,x,y,Gad2", *rows]))
    with pytest.raises(DataError, match="all 10 cells lie at one place; allowed: pos"):
        load_tissue(tmp_path / "a.csv", num_nodes=4, repeated_cells="keep")
