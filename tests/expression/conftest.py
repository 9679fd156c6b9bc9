"""Cells as text, for the tests to write and to spoil."""

import pytest

from tests.expression.cell_tables import CELLS, GENES, PLACES, TIMES, VALUES, Example


@pytest.fixture
def example():
    def to_text(array):
        return [[repr(float(value)) for value in row] for row in array]

    places, values, times = to_text(PLACES), to_text(VALUES), to_text(TIMES[:, None])
    return Example(list(CELLS), list(GENES), places, values, [t[0] for t in times])
