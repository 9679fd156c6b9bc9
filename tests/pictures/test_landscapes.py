"""Landscapes show every path over one ground, and refuse other shapes."""

import numpy as np
import pytest

from ncgn_jax.pictures.landscapes import Landscape, draw_landscape

AXIS = np.linspace(-1.0, 2.0, 7)
GROUND = Landscape(
    AXIS, AXIS[:, None] ** 2 + AXIS[None], "height (m)", np.zeros((1, 2)), "well"
)


def test_every_path_has_its_panel_and_all_share_a_scale():
    path = np.linspace([[1.0, 0.5], [-0.5, 2.0]], 0.0, 5)  # [state, path, 2]
    figure = draw_landscape(GROUND, {"down": path, "up": path[::-1]})
    down, up, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in (down, up)] == ["down", "up"]
    assert bar.get_ylabel() == "height (m)"
    assert down.get_xlim() == (-1.0, 2.0)
    ends = down.lines[-1]
    np.testing.assert_array_equal(ends.get_xydata(), path[-1])
    np.testing.assert_array_equal(up.lines[-1].get_xydata(), path[0])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["well", "start", "end"]


def test_rows_of_the_height_are_the_second_coordinate():
    """A ground that depends on the second coordinate has level contours."""
    level = GROUND._replace(height=np.repeat(AXIS[:, None], len(AXIS), axis=1))
    figure = draw_landscape(level, {"still": np.zeros((1, 1, 2))})
    for path in figure.axes[0].collections[1].get_paths():
        if len(path.vertices):
            np.testing.assert_allclose(np.ptp(path.vertices[:, 1]), 0.0, atol=1e-12)


def test_bad_landscapes_are_refused():
    path = np.zeros((3, 1, 2))
    with pytest.raises(ValueError, match="no paths"):
        draw_landscape(GROUND, {})
    with pytest.raises(ValueError, match=r"height must be \(7, 7\)"):
        draw_landscape(GROUND._replace(height=np.zeros((7, 6))), {"a": path})
    with pytest.raises(ValueError, match="path 'a'"):
        draw_landscape(GROUND, {"a": path[0]})
