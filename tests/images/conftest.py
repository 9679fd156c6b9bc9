"""A few images, for the tests to write and to spoil."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    images[0, 0, 0] = 0, 128, 255
    return images


@pytest.fixture
def fixtures_of_cases():
    return Path(__file__).resolve().parents[1] / "fixtures" / "cases" / "images"
