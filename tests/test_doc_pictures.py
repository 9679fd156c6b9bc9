"""The pictures of README and site: stored small, and drawn from what models make."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from docs import make_pictures

NAMES = {
    "coarse-graphs",
    "denoising-path",
    "model-file",
    "noise-and-time",
    "noise-buckets",
    "strip",
}


def test_stored_pictures_are_those_of_the_command_and_small():
    stored = {path.stem: path for path in make_pictures.FOLDER.glob("*.png")}
    assert set(stored) >= NAMES
    assert all(stored[name].stat().st_size < 400_000 for name in NAMES)
    assert imread(stored["strip"]).shape[:2] == (420, 1600)


def test_strip_shows_every_domain_on_a_card_for_dark_and_light_pages(tmp_path: Path):
    pytest.importorskip("rdkit")
    numbers = np.random.default_rng(0)
    made = make_pictures.Material(
        numbers.normal(size=(6, 50, 3)),
        numbers.integers(0, 256, (20, 8, 8), np.uint8),
        ("CCO", "C1CC1", "N#CC1CO1", "c1ccccc1"),
        numbers.random((8, 4, 5, 3)),
        ("a", "b", "c"),
        [],
    )
    path = make_pictures.write_small(
        make_pictures.draw_strip(made), tmp_path / "strip.png", clear=True
    )
    image = imread(path)
    assert image.shape == (420, 1600, 4)
    # Clear corners, and white below the words and between the panels.
    assert image[0, 0, 3] == 0.0
    np.testing.assert_allclose(image[210, 20], 1.0, atol=0.02)
    ink = image[60:, :, :3].min(axis=-1) < 0.9
    parts = np.split(ink, [660, 990, 1330], axis=1)
    assert all(part[20:-20, 20:-20].mean() > 0.005 for part in parts)
