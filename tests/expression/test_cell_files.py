"""Cell tables of a user's own: every layout gives the same cells."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.faults import DataError
from tests.expression.cell_tables import (
    CELLS,
    GENES,
    PLACES,
    TIMES,
    VALUES,
    cells_by_genes,
    check,
    genes_by_cells,
    one_table,
    place_table,
    write,
)


def left_out(table):
    return [str(tally) for tally in table.reading.left_out]


# Layouts.


@pytest.mark.parametrize("delimiter", ["\t", ","])
@pytest.mark.parametrize("extension", ["csv", "tsv", "txt", "CSV"])
def test_one_table(tmp_path, example, delimiter, extension):
    file = write(tmp_path / f"a.{extension}", one_table(example), delimiter)
    table = load_cells(file)
    check(table)
    assert "3 genes (Gad2, Sox10, Ttr)" in table.contents
    assert "positions: columns X, Y, 2-D" in "; ".join(table.contents)


@pytest.mark.parametrize("cell", ["ID", "", "cell_id", "Barcode"])
def test_usual_names_of_the_name_column(tmp_path, example, cell):
    check(load_cells(write(tmp_path / "a.csv", one_table(example, cell=cell), ",")))


def test_name_column_of_ones_own(tmp_path, example):
    file = write(tmp_path / "a.csv", one_table(example, cell="spot"), ",")
    check(load_cells(file, cell_column="spot"))
    file = write(tmp_path / "b.csv", one_table(example, cell="thing"), ",")
    table = load_cells(file)  # texts, all different, in the first column
    check(table)
    assert "names of the first column, 'thing'" in str(table.reading.report({}))


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
    check(load_cells(matrix, coordinates=places))


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
    assert "1 places without expression (first nobody)" in left_out(table)


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
        load_cells(file, gene_columns=["region"])


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


@pytest.mark.parametrize(("delimiter", "odd"), [("\t", ",,,"), (",", "\t\t\t")])
def test_names_may_hold_more_of_the_other_delimiter(tmp_path, delimiter, odd):
    genes, cells = (f"a{odd}b", f"c{odd}d"), ("n", f"e{odd}f{odd}g")
    rows = [["", *genes], [cells[0], "1", "2"], [cells[1], "3", "4"]]
    file = write(tmp_path / "m.txt", rows, delimiter)
    rows = [["ID", "x", "y"], [cells[0], "0", "1"], [cells[1], "2", "3"]]
    places = write(tmp_path / "p.txt", rows, delimiter)
    table = load_cells(file, coordinates=places)
    assert table.genes == genes
    assert table.cells == cells
    np.testing.assert_array_equal(table.expression, [[1, 2], [3, 4]])


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
    np.testing.assert_array_equal(table.positions.astype(np.float32), places)


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
    assert "1 repeated cells (first far)" in left_out(table)
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
