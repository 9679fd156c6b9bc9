"""Cells as text and a few images, for the tests to write and to spoil."""

import numpy as np
import pytest

from tests.data.cell_tables import CELLS, GENES, PLACES, TIMES, VALUES, Example


@pytest.fixture
def example():
    def to_text(array):
        return [[repr(float(value)) for value in row] for row in array]

    places, values, times = to_text(PLACES), to_text(VALUES), to_text(TIMES[:, None])
    return Example(list(CELLS), list(GENES), places, values, [t[0] for t in times])


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    images[0, 0, 0] = 0, 128, 255
    return images
