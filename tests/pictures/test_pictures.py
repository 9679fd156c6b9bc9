"""Pictures: curves, comparisons and colours; files whole or absent."""

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from ncgn_jax import pictures
from ncgn_jax.pictures import comparison, curves, style


def render(figure, tmp_path):
    """Saves and gives the bytes: drawing problems only show when rendering."""
    return pictures.save_figure(figure, tmp_path / "picture.png", dpi=50).read_bytes()


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))
    )


def test_module_example_draws_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = pictures.__doc__.split("Example:\n")[1]
    lines = [line[4:] for line in code.splitlines() if line.startswith("    ")]
    loaded = "matplotlib.pyplot" in sys.modules
    exec("\n".join(lines), {})
    assert (tmp_path / "runs/example/growth.png").read_bytes()[:4] == b"\x89PNG"
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_draw_schedule_steps_through_the_buckets(tmp_path):
    level = np.linspace(0.0, 1.0, 20)
    pairs = {"exp": (50 + 350 * level**3, 50 - 43 * level)}
    shapes = [(64, 43), (128, 29), (400, 7)]
    figure = pictures.draw_schedule(level, pairs, [0.0, 0.6, 0.9, 1.0], shapes)
    for which, axes in enumerate(figure.axes):
        (steps,) = (p for p in axes.patches if type(p).__name__ == "StepPatch")
        np.testing.assert_array_equal(
            steps.get_data().values, [shape[which] for shape in shapes]
        )
        np.testing.assert_array_equal(steps.get_data().edges, [0.0, 0.6, 0.9, 1.0])
    assert render(figure, tmp_path)
    with pytest.raises(ValueError, match="3 buckets, got 2"):
        pictures.draw_schedule(level, pairs, [0.6, 0.9], shapes[:2])
    with pytest.raises(ValueError, match="'exp'"):
        pictures.draw_schedule(level[:5], pairs, [], shapes[:1])


def test_smoothing_is_a_running_median():
    steps = np.arange(0.0, 100.0, 5.0)
    values = 3.0 + steps
    values[10] = 1e6
    at, smoothed = curves.smooth(steps, values, window=10.0)
    np.testing.assert_array_equal(at, steps)
    brute = [np.median(values[np.abs(steps - s) <= 10.0]) for s in steps]
    np.testing.assert_allclose(smoothed, brute)
    assert len(curves.smooth(np.arange(5000.0), np.ones(5000), 3.0)[0]) == 400


@pytest.mark.parametrize("num_steps", [1, 5, 60])
def test_draw_loss_survives_gaps_spikes_and_one_step(tmp_path, num_steps):
    steps = np.arange(1, num_steps + 1)
    falling = 10.0 / steps
    holed = np.where(steps % 2, falling, np.nan)
    spiked = np.where(steps == 30, 1e9, falling)
    losses = {"a": falling, "b": holed, "c": spiked, "d": np.full(num_steps, np.nan)}
    figure = pictures.draw_loss(steps, losses, "loss")
    assert figure.axes[0].get_ylim()[1] < 20.0
    assert render(figure, tmp_path)
    assert render(pictures.draw_loss(steps, {"d": losses["d"]}, "loss"), tmp_path)
    with pytest.raises(ValueError, match="loss 'a'"):
        pictures.draw_loss(steps[1:], {"a": falling}, "loss")


def test_limits_hold_values_and_near_anchors_only():
    values, anchors = np.array([1.0, 1.2]), np.array([0.9, 1.5, 8.6])
    low, high = comparison.choose_limits(values, anchors)
    assert 0.8 < low < 0.9
    assert 1.5 < high < 1.7
    # One value alone still gets a tenth of its size.
    low, high = comparison.choose_limits(np.array([2.0]), np.zeros(0))
    assert low <= 1.9
    assert high >= 2.1


def test_labels_are_moved_apart_in_order():
    pushed = comparison.spread_labels([0.51, 0.5, 0.9], 0.1)
    np.testing.assert_allclose(pushed, [0.6, 0.5, 0.9])
    heights = [0.50, 0.51, 0.99, 1.0, 0.0]
    placed = comparison.spread_labels(heights, 0.1)
    np.testing.assert_array_equal(np.argsort(placed), np.argsort(heights))
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-9
    assert placed.max() <= 1.0


def test_draw_comparison_shows_mean_spread_and_anchors(tmp_path):
    table = {
        "DMP": {"W": [1.0, 2.0, 3.0], "coverage": [0.5]},
        "kNN": {"W": [2.0, np.nan]},
    }
    anchors = {"training set": {"W": 1.5}, "pure noise": {"W": 80.0}}
    figure = pictures.draw_comparison(table, anchors)
    axes = figure.axes[0]
    bar = axes.collections[1].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [1.0, 3.0])  # mean 2, deviation 1
    shown = texts(figure)
    for words in ("training set", "pure noise 80", "none", "DMP"):
        assert words in shown
    assert [line.get_ydata()[0] for line in axes.lines].count(1.5) == 1
    assert render(figure, tmp_path)
    with pytest.raises(ValueError, match="no metric"):
        pictures.draw_comparison({"DMP": {}}, {})


def test_draw_comparison_takes_wide_and_negative_values(tmp_path):
    table = {"a": {"x": [1e-3], "y": [-2.0]}, "b": {"x": [10.0], "y": [0.0]}}
    figure = pictures.draw_comparison(table, {"zero": {"x": 0.0, "y": 0.0}})
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[1].get_yscale() == "linear"
    assert render(figure, tmp_path)


def test_cell_colors_differ_between_neighbours():
    colors = style.cell_colors(64)
    assert np.all((colors >= 0.0) & (colors <= 1.0))
    assert np.linalg.norm(np.diff(colors, axis=0), axis=-1).min() > 0.1


def test_a_failed_save_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    figure = Figure()
    pictures.save_figure(figure, path)
    before = path.read_bytes()

    def fill_disk(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fill_disk)
    with pytest.raises(OSError, match="No space"):
        pictures.save_figure(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_figure_names_the_formats_it_knows(tmp_path):
    with pytest.raises(ValueError, match=r"pdf.*png"):
        pictures.save_figure(Figure(), tmp_path / "picture.xyz")


def test_narrow_logarithmic_axes_have_plain_numbers():
    x = np.asarray([0.25, 0.5, 1.0, 4.0])
    logarithmic = {"log_x": True, "log_y": True}
    narrow = pictures.Panel("narrow", "x", "y", {"a": (x, 100 * x)}, **logarithmic)
    wide = pictures.Panel("wide", "x", "y", {"a": (x**10, x)}, log_x=True)
    figure = pictures.draw_panels([narrow, wide])
    figure.canvas.draw()
    x_axis, y_axis = figure.axes[0].xaxis, figure.axes[0].yaxis
    low, high = x_axis.get_view_interval()
    # matplotlib 3.9 also makes ticks beyond the ends.
    shown = {
        text.get_text()
        for text in x_axis.get_ticklabels(which="both")
        if low <= text.get_position()[0] <= high
    }
    # Numbers between, such as 3 and 4, would run into each other.
    assert {"0.5", "1", "2"} <= shown <= {"0.1", "0.2", "0.5", "1", "2", "5", "10", ""}
    assert {"50", "100", "200"} <= {text.get_text() for text in y_axis.get_ticklabels()}
    powers = figure.axes[1].xaxis.get_ticklabels()
    assert any("10^{" in text.get_text() for text in powers)
