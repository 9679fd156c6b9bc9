"""Cells of a user's own, written in every layout by hand.

They come from one table of numbers, so that the loader is never compared with itself.
"""

import dataclasses
import warnings

import numpy as np

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
    assert table.positions.dtype == np.float64
    assert table.expression.dtype == np.float32
    assert table.positions.flags.c_contiguous
    assert table.expression.flags.c_contiguous
    if time is None:
        assert table.time is None
    else:
        np.testing.assert_array_equal(table.time, time)
        assert table.time.dtype == np.float32


def write_zarr(content, path, form):
    """Writes AnnData as zarr of version 2, as many files still are, or of version 3."""
    import anndata

    with warnings.catch_warnings():
        # Newer versions announce that they will write version 3 alone.
        warnings.simplefilter("ignore", DeprecationWarning)
        with anndata.settings.override(zarr_write_format=form):
            content.write_zarr(path)
