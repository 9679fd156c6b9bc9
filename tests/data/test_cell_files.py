"""Cell tables of a user's own: every layout gives the same cells, every fault a line.

The layouts are written here by hand from one table of numbers, so that the loader is
never compared with itself.
"""

import csv
import dataclasses
import doctest
import io
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.data import cell_files
from ncgn_jax.data.cell_files import load_cells
from ncgn_jax.data.point_sets import DataError

CELLS = ("left", "mid", "right", "far")
GENES = ("Gad2", "Sox10", "Ttr")
PLACES = np.array([[0.5, 1], [1.5, -2], [0.5, 3e4], [7, 8]], np.float32)
VALUES = np.array([[0, 1, 2], [3, 4.25, 5], [6, 7, 8], [9, 10, -11]], np.float32)
TIMES = np.array([0, 1, 0.5, 2], np.float32)


@dataclasses.dataclass
class Example:
    """Cells to be written in any layout."""

    cells: list
    genes: list
    places: list  # rows of text
    values: list
    times: list


@pytest.fixture
def example():
    def to_text(array):
        return [[repr(float(value)) for value in row] for row in array]

    places, values, times = to_text(PLACES), to_text(VALUES), to_text(TIMES[:, None])
    return Example(list(CELLS), list(GENES), places, values, [t[0] for t in times])


def write(path, rows, delimiter="\t"):
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows))
    return path


def one_table(example, axes=("X", "Y"), cell="ID", time=None):
    rows = [[*([cell] if cell is not None else []), *axes, *example.genes]]
    for index, name in enumerate(example.cells):
        names = [name] if cell is not None else []
        rows.append([*names, *example.places[index], *example.values[index]])
    if time is not None:
        for row, value in zip(rows, [time, *example.times], strict=True):
            row.insert(1, value)
    return rows


def genes_by_cells(example, corner=()):
    columns = zip(*example.values, strict=True)
    rows = [[g, *v] for g, v in zip(example.genes, columns, strict=True)]
    return [[*corner, *example.cells], *rows]


def cells_by_genes(example, corner=()):
    rows = [[c, *v] for c, v in zip(example.cells, example.values, strict=True)]
    return [[*corner, *example.genes], *rows]


def place_table(example, header=("ID", "X", "Y"), order=(2, 0, 3, 1)):
    return [[*header], *([example.cells[i], *example.places[i]] for i in order)]


def check(table, time=None):
    assert table.cells == CELLS
    assert table.genes == GENES
    np.testing.assert_array_equal(table.positions, PLACES)
    np.testing.assert_array_equal(table.expression, VALUES)
    assert table.positions.dtype == table.expression.dtype == np.float32
    assert table.positions.flags.c_contiguous
    assert table.expression.flags.c_contiguous
    if time is None:
        assert table.time is None
    else:
        np.testing.assert_array_equal(table.time, time)
        assert table.time.dtype == np.float32


# Layouts.


@pytest.mark.parametrize("delimiter", ["\t", ","])
@pytest.mark.parametrize("extension", ["csv", "tsv", "txt", "CSV"])
def test_one_table(tmp_path, example, delimiter, extension):
    file = write(tmp_path / f"a.{extension}", one_table(example), delimiter)
    table = load_cells(file)
    check(table)
    assert f"a.{extension}: 4 cells, 3 genes, 2-D" in table.source
    assert "\n" not in table.source


@pytest.mark.parametrize("cell", ["ID", "", "cell_id", "Barcode"])
def test_usual_names_of_the_name_column(tmp_path, example, cell):
    check(load_cells(write(tmp_path / "a.csv", one_table(example, cell=cell), ",")))


def test_name_column_of_ones_own(tmp_path, example):
    file = write(tmp_path / "a.csv", one_table(example, cell="spot"), ",")
    check(load_cells(file, cell_column="spot"))
    with pytest.raises(DataError, match="cell 'far', gene 'spot' is 'far'|'left'"):
        load_cells(file)  # taken for a gene


def test_cells_without_names_are_numbered(tmp_path, example):
    table = load_cells(write(tmp_path / "a.csv", one_table(example, cell=None), ","))
    assert table.cells == ("1", "2", "3", "4")
    np.testing.assert_array_equal(table.expression, VALUES)


def test_row_names_as_r_writes_them(tmp_path, example):
    rows = one_table(example)
    rows[0] = rows[0][1:]
    check(load_cells(write(tmp_path / "a.txt", rows)))
    quoted = [[f'"{field}"' for field in row] for row in rows]
    check(load_cells(write(tmp_path / "b.txt", quoted)))


def test_a_name_column_beside_row_names_is_no_gene(tmp_path, example):
    rows = one_table(example)
    for index, row in enumerate(rows[1:]):
        row.insert(0, str(index))
    check(load_cells(write(tmp_path / "a.csv", rows, ","), cell_column="ID"))
    assert load_cells(tmp_path / "a.csv").cells == ("0", "1", "2", "3")
    assert load_cells(tmp_path / "a.csv").genes == GENES


def test_commas_inside_quotes_and_marks_of_byte_order(tmp_path, example):
    text = io.StringIO()
    rows = one_table(example)
    rows[0][3], rows[1][0] = "Gad2, long", "le,ft"
    csv.writer(text).writerows(rows)
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    table = load_cells(tmp_path / "a.csv")
    assert table.genes[0] == "Gad2, long"
    assert table.cells[0] == "le,ft"


def test_blank_lines_are_skipped(tmp_path, example):
    file = write(tmp_path / "a.csv", one_table(example), ",")
    file.write_text(file.read_text().replace("\n", "\r\n\r\n"))
    check(load_cells(file))


@pytest.mark.parametrize("corner", [(), ("",), ("gene",), ("ID",)])
@pytest.mark.parametrize("layout", [genes_by_cells, cells_by_genes])
def test_matrix_with_coordinates(tmp_path, example, layout, corner):
    matrix = write(tmp_path / "m.txt", layout(example, corner))
    places = write(tmp_path / "p.csv", place_table(example), ",")
    table = load_cells(matrix, coordinates=places)
    check(table)
    assert "m.txt" in table.source
    assert "p.csv" in table.source


def test_square_matrix_is_turned_by_its_names(tmp_path, example):
    example.genes.append("Vip")
    for row in example.values:
        row.append("5")
    places = write(tmp_path / "p.txt", place_table(example))
    one = load_cells(
        write(tmp_path / "a.txt", genes_by_cells(example)), coordinates=places
    )
    two = load_cells(
        write(tmp_path / "b.txt", cells_by_genes(example)), coordinates=places
    )
    np.testing.assert_array_equal(one.expression, two.expression)
    np.testing.assert_array_equal(one.expression[:, :3], VALUES)


def test_cell_called_like_a_name_column_stays(tmp_path, example):
    example.cells[1] = "cell"
    places = write(tmp_path / "p.txt", place_table(example))
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    assert load_cells(matrix, coordinates=places).cells[1] == "cell"


def test_places_without_expression_are_left_out(tmp_path, example):
    rows = [*place_table(example), ["nobody", "nan", ""]]  # not even looked at
    places = write(tmp_path / "p.txt", rows)
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    table = load_cells(matrix, coordinates=places)
    check(table)
    assert "1 places without expression" in table.source


def test_three_axes_and_axes_of_ones_own(tmp_path, example):
    for place in example.places:
        place.append("4")
    file = write(tmp_path / "a.csv", one_table(example, ("x", "y", "z")), ",")
    np.testing.assert_array_equal(load_cells(file).positions[:, :2], PLACES)
    assert load_cells(file).positions[:, 2].tolist() == [4] * 4
    other = write(tmp_path / "b.csv", one_table(example, ("u", "v", "w")), ",")
    table = load_cells(other, coordinate_columns=("v", "u"), gene_columns=GENES)
    np.testing.assert_array_equal(table.positions, PLACES[:, ::-1])
    places = write(tmp_path / "p.txt", place_table(example, ("n", "u", "v", "w")))
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    table = load_cells(matrix, coordinates=places, coordinate_columns=["v"])
    np.testing.assert_array_equal(table.positions, PLACES[:, 1:])


@pytest.mark.parametrize("layout", [genes_by_cells, cells_by_genes])
def test_chosen_genes_in_their_order(tmp_path, example, layout):
    matrix = write(tmp_path / "m.txt", layout(example))
    places = write(tmp_path / "p.txt", place_table(example))
    table = load_cells(matrix, coordinates=places, gene_columns=["Ttr", "Gad2"])
    assert table.genes == ("Ttr", "Gad2")
    np.testing.assert_array_equal(table.expression, VALUES[:, [2, 0]])


def test_text_columns_are_allowed_where_genes_are_named(tmp_path, example):
    rows = one_table(example)
    for row, region in zip(rows, ["region", "L1", "L2", "L2", "L6"], strict=True):
        row.append(region)
    file = write(tmp_path / "a.csv", rows, ",")
    check(load_cells(file, gene_columns=GENES))
    with pytest.raises(DataError, match="'left', gene 'region' is 'L1'"):
        load_cells(file)


def test_time_is_in_either_file(tmp_path, example):
    file = write(tmp_path / "a.csv", one_table(example, time="age"), ",")
    check(load_cells(file, time_column="age"), TIMES)
    rows = place_table(example)
    for row, index in zip(rows, ["age", 2, 0, 3, 1], strict=True):
        row.append(index if index == "age" else example.times[index])
    places = write(tmp_path / "p.txt", rows)
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    table = load_cells(matrix, coordinates=places, time_column="age")
    check(table, TIMES)


name = st.text("abcXYZ_ ,\"'-", min_size=1, max_size=6).map(lambda s: "n" + s.strip())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda size: st.tuples(
            st.lists(name, min_size=size, max_size=size, unique=True),
            st.permutations(range(size)),
        )
    ),
    st.lists(name.map(lambda s: "gene " + s), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["excel", "excel-tab"]),
    st.booleans(),
)
def test_any_names_and_values_come_back(
    tmp_path_factory, cells_and_order, genes, seed, dialect, turned
):
    cells, order = cells_and_order
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(cells), len(genes))).astype(np.float32)
    places = rng.normal(size=(len(cells), 2)).astype(np.float32)
    folder = tmp_path_factory.mktemp("cells")
    names, columns, body = (cells, genes, values)
    if turned:
        names, columns, body = genes, cells, values.T
    with (folder / "m.txt").open("w", newline="") as file:
        rows = [[n, *map(str, row)] for n, row in zip(names, body, strict=True)]
        csv.writer(file, dialect).writerows([["", *columns], *rows])
    with (folder / "p.txt").open("w", newline="") as file:
        rows = [[cells[i], *map(str, places[i])] for i in order]
        csv.writer(file, dialect).writerows([["ID", "x", "y"], *rows])
    table = load_cells(folder / "m.txt", coordinates=folder / "p.txt")
    assert table.cells == tuple(cells)
    assert table.genes == tuple(genes)
    np.testing.assert_array_equal(table.expression, values)
    np.testing.assert_array_equal(table.positions, places)


# Repeated cells.


def test_cells_at_one_place_are_refused_with_both_names(tmp_path, example):
    example.places[3] = example.places[1]
    file = write(tmp_path / "a.csv", one_table(example), ",")
    message = r"a\.csv: cells 'mid' and 'far' are both at \[1\.5, -2\.0\] \(1 such"
    for policy in ("refuse", "drop"):  # their expression differs
        with pytest.raises(DataError, match=message + ".*, 1 of them with another"):
            load_cells(file, repeated_cells=policy)
    table = load_cells(file, repeated_cells="keep")
    np.testing.assert_array_equal(table.positions[3], table.positions[1])
    with pytest.raises(DataError, match="'merge'; allowed: refuse, drop, keep"):
        load_cells(file, repeated_cells="merge")


def test_twins_can_be_dropped(tmp_path, example):
    example.places[3], example.values[3] = example.places[1], example.values[1]
    file = write(tmp_path / "a.csv", one_table(example), ",")
    with pytest.raises(DataError, match="0 of them with another"):
        load_cells(file)
    table = load_cells(file, repeated_cells="drop")
    assert table.cells == CELLS[:3]
    np.testing.assert_array_equal(table.expression, VALUES[:3])
    np.testing.assert_array_equal(table.positions, PLACES[:3])
    assert "1 repeated cells" in table.source
    assert load_cells(file, repeated_cells="keep").cells == CELLS


def test_zero_has_no_sign(tmp_path, example):
    example.places[0], example.places[1] = ["0.0", "1"], ["-0.0", "1"]
    with pytest.raises(DataError, match="'left' and 'mid'"):
        load_cells(write(tmp_path / "a.csv", one_table(example), ","))


def test_one_place_at_two_times_is_no_repetition(tmp_path, example):
    example.places[3] = example.places[1]
    file = write(tmp_path / "a.csv", one_table(example, time="age"), ",")
    assert load_cells(file, time_column="age").cells == CELLS
    example.times[3] = example.times[1]
    file = write(tmp_path / "b.csv", one_table(example, time="age"), ",")
    with pytest.raises(DataError, match="'mid' and 'far'"):
        load_cells(file, time_column="age")


def test_dropped_cells_lose_their_time_too(tmp_path, example):
    for field in (example.places, example.values, example.times):
        field[1] = field[0]
    file = write(tmp_path / "a.csv", one_table(example, time="age"), ",")
    table = load_cells(file, time_column="age", repeated_cells="drop")
    assert table.cells == ("left", "right", "far")
    np.testing.assert_array_equal(table.time, TIMES[[0, 2, 3]])


# Faults.


@pytest.mark.parametrize(
    "value", ["nan", "NA", "", "high", "inf", "-inf", "1e39", "1,5"]
)
@pytest.mark.parametrize("what", ["gene", "column"])
def test_values_that_are_no_number(tmp_path, example, value, what):
    if what == "gene":
        example.values[2][1], place = value, "'right', gene 'Sox10'"
    else:
        example.places[2][1], place = value, "'right', column 'Y'"
    file = write(tmp_path / "a.tsv", one_table(example))
    message = rf"a\.tsv: cell {place} is '{value}' \(1 such entries\); allowed: finite"
    with pytest.raises(DataError, match=message):
        load_cells(file)


@pytest.mark.parametrize("layout", [genes_by_cells, cells_by_genes])
def test_bad_gene_of_a_matrix_is_named_whichever_way_round(tmp_path, example, layout):
    example.values[2][1] = "NA"
    matrix = write(tmp_path / "m.txt", layout(example))
    places = write(tmp_path / "p.txt", place_table(example))
    with pytest.raises(DataError, match=r"m\.txt: cell 'right', gene 'Sox10' is 'NA'"):
        load_cells(matrix, coordinates=places)


def test_bad_time(tmp_path, example):
    example.times[0] = "E8.5"
    file = write(tmp_path / "a.csv", one_table(example, time="age"), ",")
    with pytest.raises(
        DataError, match=r"a\.csv: cell 'left', column 'age' is 'E8\.5'"
    ):
        load_cells(file, time_column="age")


@pytest.mark.parametrize("axes", [("u", "v"), ("x", "v")])
def test_no_coordinates_in_the_table(tmp_path, example, axes):
    file = write(tmp_path / "a.csv", one_table(example, axes), ",")
    message = (
        rf"a\.csv: no columns x and y .*coordinate_columns.*found: 'ID', '{axes[0]}'"
    )
    with pytest.raises(DataError, match=message):
        load_cells(file)


def test_two_candidates_for_an_axis(tmp_path, example):
    example.genes[0] = "x"
    file = write(tmp_path / "a.csv", one_table(example), ",")
    with pytest.raises(DataError, match="both X and x for the positions"):
        load_cells(file)
    table = load_cells(file, coordinate_columns=["X", "Y"])
    assert table.genes == ("x", *GENES[1:])


@pytest.mark.parametrize(
    "columns", [(), ("X", "nowhere"), ("X", "X"), ("X", "Y", "X", "Y")]
)
def test_bad_coordinate_columns(tmp_path, example, columns):
    file = write(tmp_path / "a.csv", one_table(example), ",")
    with pytest.raises(
        DataError, match=r"coordinate_columns=.*; allowed: one to three"
    ):
        load_cells(file, coordinate_columns=columns)


def test_cell_without_coordinates(tmp_path, example):
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    places = write(tmp_path / "p.txt", place_table(example, order=(0, 3, 1)))
    message = r"p\.txt: no coordinates of 1 of 4 cells of .*m\.txt: 'right'"
    with pytest.raises(DataError, match=message):
        load_cells(matrix, coordinates=places)
    rows = place_table(example)
    rows[1][2] = ""
    places = write(tmp_path / "q.txt", rows)
    with pytest.raises(DataError, match=r"q\.txt: cell 'right', column 'Y' is ''"):
        load_cells(matrix, coordinates=places)


def test_coordinates_of_other_cells(tmp_path, example):
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    example.cells = [f"other {cell}" for cell in CELLS]
    places = write(tmp_path / "p.txt", place_table(example))
    message = (
        r"m\.txt: 0 rows and 0 columns named like cells of .*p\.txt .*'other right'"
    )
    with pytest.raises(DataError, match=message):
        load_cells(matrix, coordinates=places)


def test_genes_called_like_cells(tmp_path, example):
    example.genes = list(CELLS[:3])
    example.cells, example.values = example.cells[:3], example.values[:3]
    places = write(tmp_path / "p.txt", place_table(example, order=(0, 1, 2)))
    matrix = write(tmp_path / "m.txt", cells_by_genes(example, ("spot",)))
    with pytest.raises(DataError, match="3 rows and 3 columns named like"):
        load_cells(matrix, coordinates=places)
    table = load_cells(matrix, coordinates=places, cell_column="spot")
    np.testing.assert_array_equal(table.expression, VALUES[:3])


def test_names_that_appear_twice(tmp_path, example):
    places = write(tmp_path / "p.txt", place_table(example))
    twice = dataclasses.replace(example, cells=["left", "mid", "left", "far"])
    file = write(tmp_path / "a.csv", one_table(twice), ",")
    with pytest.raises(DataError, match=r"a\.csv: cell 'left' is there 2 times"):
        load_cells(file)
    with pytest.raises(DataError, match=r"m\.txt: column 'left' is there 2 times"):
        load_cells(write(tmp_path / "m.txt", genes_by_cells(twice)), coordinates=places)
    with pytest.raises(DataError, match=r"m\.txt: cell 'left' is there 2 times"):
        load_cells(write(tmp_path / "m.txt", cells_by_genes(twice)), coordinates=places)
    matrix = write(tmp_path / "m.txt", cells_by_genes(example))
    rows = [*place_table(example), ["mid", "1", "2"]]
    with pytest.raises(DataError, match=r"q\.txt: cell 'mid' is there 2 times"):
        load_cells(matrix, coordinates=write(tmp_path / "q.txt", rows))
    twice = dataclasses.replace(example, genes=["Gad2", "Ttr", "Ttr"])
    with pytest.raises(DataError, match=r"b\.csv: column 'Ttr' is there 2 times"):
        load_cells(write(tmp_path / "b.csv", one_table(twice), ","))
    with pytest.raises(DataError, match=r"m\.txt: gene 'Ttr' is there 2 times"):
        load_cells(write(tmp_path / "m.txt", genes_by_cells(twice)), coordinates=places)
    with pytest.raises(DataError, match=r"gene_columns: gene 'Ttr' is there 2 times"):
        load_cells(
            write(tmp_path / "c.csv", one_table(example), ","),
            gene_columns=["Ttr", "Ttr"],
        )


def test_absent_columns_and_genes(tmp_path, example):
    file = write(tmp_path / "a.csv", one_table(example), ",")
    message = (
        r"a\.csv: no column 'age' for time_column; allowed: 'ID', 'X', 'Y', 'Gad2'"
    )
    with pytest.raises(DataError, match=message):
        load_cells(file, time_column="age")
    with pytest.raises(DataError, match="no column 'spot' for cell_column"):
        load_cells(file, cell_column="spot")
    message = r"a\.csv: no gene 'Vip'; allowed: one or more of 'Gad2', 'Sox10', 'Ttr'"
    with pytest.raises(DataError, match=message):
        load_cells(file, gene_columns=["Ttr", "Vip"])
    with pytest.raises(
        DataError, match=r"a\.csv: no genes; allowed: one or more of 'Gad2'"
    ):
        load_cells(file, gene_columns=[])
    places = write(tmp_path / "p.txt", place_table(example))
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    with pytest.raises(DataError, match="no column 'left' for time.*: 'ID', 'X', 'Y'$"):
        load_cells(matrix, coordinates=places, time_column="left")


def test_long_lists_are_cut(tmp_path, example):
    example.genes = [f"g{i}" for i in range(20)]
    example.values = [[str(i)] * 20 for i in range(4)]
    file = write(tmp_path / "a.csv", one_table(example), ",")
    with pytest.raises(DataError, match=r"'g7', \.\.\. \(20 in all\)$"):
        load_cells(file, gene_columns=["absent"])


def test_no_genes_left(tmp_path, example):
    example.genes, example.values = [], [[]] * 4
    with pytest.raises(DataError, match="no genes; allowed: one or more of none"):
        load_cells(write(tmp_path / "a.csv", one_table(example), ","))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\n\n", "empty file"),
        (b"ID,X,Y,Gad2\n", "a header alone"),
        (b"ID;X;Y;Gad2\na;1;2;3\n", "no tab and no comma"),
        (b"ID,X,Y,Gad2\na,1,2,3\nb,1,2\n", "line 3: 3 fields; allowed: 4 as in the"),
        (b"ID,X,Y,Gad2\na,1,2,3,4,5\n", "line 2: 6 fields; allowed: 4 .* or 5 in all"),
        (b"ID,X,Y,Gad2\na,1,2,\xff\n", "not a table in UTF-8"),
        (b'ID,X,Y,Gad2\na,1,2,"3\n', "not a table in UTF-8"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        load_cells(tmp_path / "a.csv")


@pytest.mark.parametrize("file", ["a.xlsx", "a.pkl", "a", "a.csv.gz", "a.npy"])
def test_unknown_endings(tmp_path, example, file):
    with (tmp_path / file).open("wb") as stream:
        pickle.dump(VALUES, stream)
    with pytest.raises(DataError, match=r"ending '.*'; allowed: \.csv, .*\.h5ad"):
        load_cells(tmp_path / file)
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    with pytest.raises(DataError, match=r"ending '.*'; allowed: \.csv, \.tsv, \.txt$"):
        load_cells(matrix, coordinates=tmp_path / file)


def test_absent_files(tmp_path, example):
    for file in ("absent.csv", "absent.h5ad"):
        with pytest.raises(DataError, match=rf"{file}: no such file"):
            load_cells(tmp_path / file)
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        load_cells(matrix, coordinates=tmp_path / "absent.csv")


# AnnData.


def test_without_anndata_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.h5ad").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(
        DataError, match=r"a\.h5ad: .* needs anndata.*pip install.*\.csv"
    ):
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
    with pytest.raises(DataError, match=r"obsm\['spatial'\]: no such .* out of 'here'"):
        load_cells(tmp_path / "a.h5ad")


@pytest.mark.filterwarnings("ignore:.* names are not unique")
def test_anndata_faults(tmp_path, annotated):
    file = tmp_path / "a.h5ad"
    file.write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"a\.h5ad: not readable as \.h5ad"):
        load_cells(file)
    values = VALUES.copy()
    values[1, 2] = np.nan
    annotated(values).write_h5ad(file)
    with pytest.raises(DataError, match="cell 'mid', gene 'Ttr' is 'nan'"):
        load_cells(file)
    annotated().write_h5ad(file)
    with pytest.raises(DataError, match="obs: cell 'left', column 'region' is 'L1'"):
        load_cells(file, time_column="region")
    with pytest.raises(DataError, match="no column 'day' for time_column; .*'age'"):
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
    content.var_names = ["Gad2", "Gad2", "Ttr"]
    content.write_h5ad(file)
    with pytest.raises(DataError, match="gene 'Gad2' is there 2 times"):
        load_cells(file)
    content = annotated()
    content.obs_names = ["left", "mid", "mid", "far"]
    content.write_h5ad(file)
    with pytest.raises(DataError, match="cell 'mid' is there 2 times"):
        load_cells(file)
    content = annotated()
    content.X = None
    content.write_h5ad(file)
    with pytest.raises(DataError, match="no expression matrix X"):
        load_cells(file)
    annotated()[:0].write_h5ad(file)
    with pytest.raises(DataError, match="no cells; allowed: at least one"):
        load_cells(file)


# Real data.


def test_mouse_cortex(shared_data):
    folder = shared_data / "osmfish"
    if not folder.is_dir():
        pytest.skip("the folder osmfish is absent")
    expression = folder / "osmFISH_prep_expression.txt"
    places = folder / "osmFISH_prep_cell_coordinates.txt"
    table = load_cells(expression, coordinates=places, repeated_cells="keep")
    assert table.expression.shape == (5328, 33)
    assert table.positions.shape == (5328, 2)
    assert (table.genes[0], table.genes[-1]) == ("Gad2", "Acta2")
    # The corners of the two files, read by eye.
    assert table.cells[0] == "cell_778"
    np.testing.assert_allclose(table.positions[0], [18171.230942, 24590.795275], 1e-7)
    assert table.expression[0, :2].tolist() == [35, 41]
    assert table.expression[-5:, -1].tolist() == [5, 9, 0, 3, 2]
    # 522 cells stand in these files twice, under two names.
    with pytest.raises(DataError, match=r"522 such cells, 0 of them with another"):
        load_cells(expression, coordinates=places)
    table = load_cells(expression, coordinates=places, repeated_cells="drop")
    assert len({tuple(place) for place in table.positions.tolist()}) == 4806
    assert table.expression.shape == (4806, 33)


def test_example_in_the_docstring():
    result = doctest.testmod(cell_files)
    assert result.attempted > 0
    assert result.failed == 0
