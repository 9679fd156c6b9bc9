"""Cell tables of a user's own: every fault a line."""

import dataclasses
import pickle

import numpy as np
import pytest

from ncgn_jax.expression.cell_files import load_cells
from ncgn_jax.expression.cell_tables import read_table
from ncgn_jax.faults import DataError
from tests.expression.cell_tables import (
    CELLS,
    GENES,
    VALUES,
    cells_by_genes,
    genes_by_cells,
    one_table,
    place_table,
    write,
)


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
        rf"a\.csv: no positions by a usual name.*coordinate_columns out of "
        rf"'{axes[0]}', 'v', 'Gad2'"
    )
    with pytest.raises(DataError, match=message):
        load_cells(file)


def test_two_candidates_for_an_axis(tmp_path, example):
    example.genes[0] = "x"
    file = write(tmp_path / "a.csv", one_table(example), ",")
    with pytest.raises(DataError, match="both X and x for the positions"):
        load_cells(file)
    table = load_cells(file, coordinate_columns=["X", "Y"])
    assert table.genes == GENES[1:]
    table = load_cells(file, coordinate_columns=["X", "Y"], gene_columns=["x", "Ttr"])
    assert table.genes == ("x", "Ttr")


@pytest.mark.parametrize(
    "columns", [(), ("X", "nowhere"), ("X", "X"), ("X", "Y", "X", "Y")]
)
def test_bad_coordinate_columns(tmp_path, example, columns):
    file = write(tmp_path / "a.csv", one_table(example), ",")
    with pytest.raises(DataError, match=r"data.coordinate_columns=.*; allowed: one to"):
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


def test_names_that_must_match_and_appear_twice(tmp_path, example):
    places = write(tmp_path / "p.txt", place_table(example))
    twice = dataclasses.replace(example, cells=["left", "mid", "left", "far"])
    for layout in (genes_by_cells, cells_by_genes):
        with pytest.raises(DataError, match=r"m\.txt: cell 'left' appears 2 times"):
            load_cells(write(tmp_path / "m.txt", layout(twice)), coordinates=places)
    matrix = write(tmp_path / "m.txt", cells_by_genes(example))
    rows = [*place_table(example), ["mid", "1", "2"]]
    with pytest.raises(DataError, match=r"q\.txt: cell 'mid' appears 2 times"):
        load_cells(matrix, coordinates=write(tmp_path / "q.txt", rows))
    with pytest.raises(DataError, match=r"data\.genes: gene 'Ttr' appears 2 times"):
        load_cells(
            write(tmp_path / "c.csv", one_table(example), ","),
            gene_columns=["Ttr", "Ttr"],
        )


def test_cells_of_one_table_may_share_names(tmp_path, example):
    twice = dataclasses.replace(example, cells=["left", "mid", "left", "far"])
    table = load_cells(write(tmp_path / "a.csv", one_table(twice), ","))
    assert table.cells == ("left", "mid", "left", "far")
    np.testing.assert_array_equal(table.expression, VALUES)


@pytest.mark.parametrize("layout", ["one", genes_by_cells, cells_by_genes])
def test_genes_that_share_a_name(tmp_path, example, layout):
    twice = dataclasses.replace(example, genes=["Ttr", "Gad2", "Ttr"])
    places = write(tmp_path / "p.txt", place_table(example))
    rows = one_table(twice) if layout == "one" else layout(twice)
    file = write(tmp_path / "a.txt", rows)

    def load(**options):
        places_too = {} if layout == "one" else {"coordinates": places}
        return load_cells(file, **places_too, **options)

    table = load()
    assert table.genes == ("Ttr", "Gad2", "Ttr-1")
    np.testing.assert_array_equal(table.expression, VALUES)
    assert "1 genes have the name of an earlier one" in str(table.reading.report({}))
    assert load(gene_columns=["Gad2"]).expression.tolist() == VALUES[:, [1]].tolist()
    with pytest.raises(DataError, match="gene 'Ttr' appears 2 times; leave it out of"):
        load(gene_columns=["Ttr"])


def test_absent_columns_and_genes(tmp_path, example):
    file = write(tmp_path / "a.csv", one_table(example), ",")
    message = (
        r"a\.csv: no column 'age' for data.time_column; allowed: 'ID', 'X', 'Y', 'Gad2'"
    )
    with pytest.raises(DataError, match=message):
        load_cells(file, time_column="age")
    with pytest.raises(DataError, match="no column 'spot' for data.cell_column"):
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
    with pytest.raises(DataError, match="no column 'left' for .*'ID', 'X', 'Y'$"):
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
        (b"ID|X|Y|Gad2\na|1|2|3\n", "no tab, comma or semicolon"),
        (b"ID,X,Y,Gad2\na,1,2,3\nb,1,2\n", "line 3: 3 fields; allowed: 4 as in the"),
        (b"ID,X,Y,Gad2\na,1,2,3,4,5\n", "line 2: 6 fields; allowed: 4 .* or 5 in all"),
        (b"<!DOCTYPE html>\n<html>", "a web page in the place"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 3\n", "git lfs pull"),
        (b"\xff\xfeI\x00D", "not a readable table"),
        (b'ID,X,Y,Gad2\na,1,2,"3\n', "not a readable table"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        load_cells(tmp_path / "a.csv")


@pytest.mark.parametrize("file", ["a.xlsx", "a.pkl", "a", "a.npy"])
def test_unknown_endings(tmp_path, example, file):
    with (tmp_path / file).open("wb") as stream:
        pickle.dump(VALUES, stream)
    with pytest.raises(DataError, match=r"ending '.*'; allowed: \.csv, .*\.h5ad"):
        load_cells(tmp_path / file)
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    with pytest.raises(DataError, match=r"ending '.*'; allowed: \.csv, \.tsv, \.txt"):
        load_cells(matrix, coordinates=tmp_path / file)


def test_absent_files(tmp_path, example):
    for file in ("absent.csv", "absent.h5ad"):
        with pytest.raises(DataError, match=rf"{file}: no such file"):
            load_cells(tmp_path / file)
    matrix = write(tmp_path / "m.txt", genes_by_cells(example))
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        load_cells(matrix, coordinates=tmp_path / "absent.csv")


def test_spots_with_a_field_too_many_are_refused(tmp_path):
    """Without a header none of the rows is a name longer than it."""
    path = tmp_path / "tissue_positions_list.csv"
    path.write_text("a,1,0,0,5,5\nb,1,0,1,5,9,7\nc,1,1,0,9,5,7\n")
    with pytest.raises(DataError, match="line 2: 7 fields; allowed: 6"):
        read_table(path, None, first_column=True)
