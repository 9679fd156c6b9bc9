"""Pictures of expression: scales, marks and numbers against what went in."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from ncgn_jax import pictures
from ncgn_jax.expression import draw_fields as fields
from ncgn_jax.expression import draw_imputation as imputation

GENES = ("Sox9", "Bmp", "Wnt")
TIMES = np.array([0.0, 10.0, 25.0, 50.0])
PLACES = np.array([0.0, 5.0, 10.0, 20.0, 30.0])
SHAPE = (len(TIMES), len(PLACES), len(GENES))


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def render(figure, tmp_path):
    """Saves and reads the image: drawing problems only show when rendering."""
    path = pictures.save_figure(figure, tmp_path / "picture.png", dpi=50)
    return imread(path).std() > 0.01


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))
    )


def meshes(axes):
    return [c for c in axes.collections if isinstance(c, QuadMesh)]


def length(ends):
    return np.linalg.norm(ends[:, 1] - ends[:, 0], axis=-1).sum()


def test_shapes_are_checked_by_name():
    values = fields.checked("field 'a'", np.zeros((2, 3), int), time=2, place=None)
    assert values.dtype == float
    assert fields.checked("flags", np.zeros(2, bool), time=2).dtype == bool
    for wrong in [(2,), (3, 3), (2, 0), (2, 3, 1)]:
        with pytest.raises(ValueError, match=r"field 'a' must be \[time 2, place\]"):
            fields.checked("field 'a'", np.zeros(wrong), time=2, place=None)
    with pytest.raises(ValueError, match="hidden must be bool, got"):
        fields.checked_flags("hidden", np.zeros(2), time=2)


def test_edges_lie_between_centres():
    np.testing.assert_allclose(fields.cell_edges(PLACES), [-2.5, 2.5, 7.5, 15, 25, 35])
    np.testing.assert_allclose(fields.cell_edges(np.array([3.0])), [2.5, 3.5])


def test_outline_has_the_length_of_the_border():
    across, up = np.arange(6.0), 2.0 * np.arange(5.0)
    block = np.zeros((4, 5), bool)
    block[1:3, 2:5] = True  # three wide, two high rows of height two
    ends = fields.outline(block, across, up)
    assert length(ends) == 2 * (3 + 4)
    assert ends[..., 0].min() == 2
    assert ends[..., 0].max() == 5
    assert (ends[..., 1].min(), ends[..., 1].max()) == (2, 6)
    block[1, 2] = False  # a corner less leaves the length as it is
    assert length(fields.outline(block, across, up)) == 14
    assert len(fields.outline(np.zeros((4, 5), bool), across, up)) == 0
    scattered = np.zeros((4, 5), bool)
    scattered[0, 0] = scattered[2, 2] = True
    assert length(fields.outline(scattered, across, up)) == 2 * 6


def test_limits_hold_what_is_finite():
    assert fields.limits_of(np.array([np.nan, 2.0, -1.0, np.inf])) == (-1.0, 2.0)
    assert fields.limits_of(np.full(3, np.nan)) == (0.0, 1.0)
    assert fields.limits_of(np.full(3, 4.0)) == (4.0, 5.0)
    values = np.concatenate([np.linspace(0.0, 1.0, 999), [1e6]])
    assert fields.limits_of(values, share=0.01)[1] < 1.0
    # Where all but a few cells are alike, the few decide.
    rare = np.concatenate([np.zeros(999), [7.0]])
    assert fields.limits_of(rare, share=0.01) == (0.0, 7.0)


def test_a_silent_gene_does_not_show_its_rounding_errors(numbers):
    field = numbers.uniform(size=SHAPE)
    field[0, 0, 0], field[0, 1, 0] = 0.0, 1.0
    field[..., 2] = 1e-6 * numbers.uniform(size=SHAPE[:2])
    scales = fields.field_scales(field)
    np.testing.assert_allclose(scales[0], (0.0, 1.0))
    np.testing.assert_allclose(scales[2], (0.0, 0.1), atol=1e-5)
    assert fields.field_scales(np.zeros(SHAPE)) == [(0.0, 1.0)] * 3
    assert fields.field_scales(np.full(SHAPE, np.nan)) == [(0.0, 1.0)] * 3


def test_fields_of_a_gene_share_their_scale(numbers, tmp_path):
    simulated, generated = numbers.normal(size=(2, *SHAPE))
    generated[..., 1] *= 3.0
    simulated[0, 0, 0] = np.nan
    figure = fields.draw_fields(
        {"simulated": simulated, "generated": generated}, TIMES, PLACES, GENES
    )
    panels, bars = figure.axes[:6], figure.axes[6:]
    assert len(bars) == len(GENES)
    for gene, (left, right, bar) in enumerate(
        zip(panels[::2], panels[1::2], bars, strict=True)
    ):
        both = np.stack([simulated, generated])[..., gene]
        expected = (np.nanmin(both), np.nanmax(both))
        for axes, field in ((left, simulated), (right, generated)):
            (mesh,) = meshes(axes)
            np.testing.assert_allclose(mesh.get_clim(), expected)
            np.testing.assert_array_equal(
                np.ma.filled(mesh.get_array(), np.nan), field[..., gene]
            )
        np.testing.assert_allclose(bar.get_ylim(), expected)
        assert left.get_ylabel() == GENES[gene]
        # Place runs to the right and time upwards, in their own units.
        np.testing.assert_allclose(left.get_xlim(), (-2.5, 35.0))
        np.testing.assert_allclose(left.get_ylim(), (-5.0, 62.5))
    assert [axes.get_title() for axes in panels[:2]] == ["simulated", "generated"]
    assert figure.get_supxlabel() == "place"
    assert figure.get_supylabel() == "time"
    assert "given" not in texts(figure)
    assert render(figure, tmp_path)


def test_given_cells_are_outlined_and_hatched(numbers, tmp_path):
    field = numbers.normal(size=SHAPE)
    given = np.zeros(SHAPE, bool)
    given[1:3, 2, 0] = True
    figure = fields.draw_fields(
        {"all": field, "imputed": field}, TIMES, PLACES, GENES, {"imputed": given}
    )
    lines = [
        [c for c in axes.collections if isinstance(c, LineCollection)]
        for axes in figure.axes[:6]
    ]
    assert [len(found) for found in lines] == [0, 3, 0, 3, 0, 3]
    strokes, _, dark = (np.asarray(c.get_segments()) for c in lines[1])
    # The cell from 7.5 to 15 across and the two from 5 to 37.5 up.
    assert length(dark) == 2 * (7.5 + 32.5)
    assert len(strokes) == 2
    for corners in (strokes, dark):
        np.testing.assert_array_equal(corners.min(axis=(0, 1)), [7.5, 5.0])
        np.testing.assert_array_equal(corners.max(axis=(0, 1)), [15.0, 37.5])
    assert not any(len(c.get_segments()) for c in lines[3])
    assert "given" in texts(figure)
    assert render(figure, tmp_path)


def test_color_bars_name_the_unit():
    field = {"one": np.ones((len(TIMES), len(PLACES), len(GENES)))}
    figure = fields.draw_fields(field, TIMES, PLACES, GENES, unit="log(1 + x)")
    bars = figure.axes[len(GENES) :]
    assert [bar.get_ylabel() for bar in bars] == ["expression\n(log(1 + x))"] * 3


def test_draw_fields_survives_one_time_and_place(tmp_path):
    figure = fields.draw_fields({"one": np.ones((1, 1, 1))}, [3.0], [5.0], ["Shh"])
    assert render(figure, tmp_path)


def test_draw_fields_names_what_does_not_fit(numbers):
    field = numbers.normal(size=SHAPE)
    with pytest.raises(ValueError, match="no fields"):
        fields.draw_fields({}, TIMES, PLACES, GENES)
    with pytest.raises(ValueError, match=r"'b' must be \[time 4, place 5, gene 3\]"):
        fields.draw_fields({"a": field, "b": field[1:]}, TIMES, PLACES, GENES)
    with pytest.raises(ValueError, match="times must rise"):
        fields.draw_fields({"a": field}, TIMES[::-1], PLACES, GENES)
    with pytest.raises(ValueError, match="places must rise"):
        fields.draw_fields({"a": field}, TIMES, 0.0 * PLACES, GENES)
    with pytest.raises(ValueError, match=r"given names \['b'\]; there are .*'a'"):
        fields.draw_fields({"a": field}, TIMES, PLACES, GENES, {"b": field > 0})
    with pytest.raises(ValueError, match="given 'a' must be bool"):
        fields.draw_fields({"a": field}, TIMES, PLACES, GENES, {"a": field})


def test_path_names_levels_and_the_range_of_each_map(numbers, tmp_path):
    data, noise = np.linspace(0.0, 1.0, 60).reshape(SHAPE), numbers.normal(size=SHAPE)
    levels = [0.0, 0.25, 1.0]
    states = np.stack([level * data + (1 - level) * noise for level in levels])
    figure = fields.draw_path(states, levels, TIMES, PLACES, GENES)
    assert len(figure.axes) == 3 * len(GENES) + 1
    titles = [axes.get_title() for axes in figure.axes[:9]]
    assert [t.split("\n")[0] for t in titles[:3]] == [
        "signal 0.00",
        "signal 0.25",
        "signal 1.00",
    ]
    for place, axes in enumerate(figure.axes[:9]):
        gene, step = divmod(place, 3)
        (mesh,) = meshes(axes)
        shown = states[step, ..., gene]
        np.testing.assert_allclose(mesh.get_clim(), (shown.min(), shown.max()))
        written = titles[place].split("\n")[-1].replace("\N{MINUS SIGN}", "-")
        low, high = map(float, written.split(" to "))
        np.testing.assert_allclose([low, high], mesh.get_clim(), rtol=0.06, atol=1e-9)
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["least", "most"]
    assert render(figure, tmp_path)
    with pytest.raises(ValueError, match=r"levels must be \[step 3\]"):
        fields.draw_path(states, levels[1:], TIMES, PLACES, GENES)
    with pytest.raises(ValueError, match=r"states must be \[step, time 4"):
        fields.draw_path(data, levels, TIMES, PLACES, GENES)


def make_profiles(numbers, num_samples=2, num_nodes=6):
    positions = numbers.permutation(num_nodes) * 2.0
    measured = numbers.uniform(size=(num_samples, num_nodes, len(GENES)))
    hidden = np.zeros(measured.shape, bool)
    hidden[0, (positions == 4.0) | (positions == 6.0), 1] = True
    return positions, measured, measured + 0.1, hidden


def test_profiles_show_points_line_and_hidden_stretch(numbers, tmp_path):
    positions, measured, imputed, hidden = make_profiles(numbers)
    order = np.argsort(positions)
    others = {"kriging": measured - 0.05, "mean": np.full(measured.shape, 0.5)}
    figure = imputation.draw_profiles(
        positions, measured, imputed, hidden, GENES, others
    )
    assert len(figure.axes) == 2 * len(GENES)
    assert [axes.get_title() for axes in figure.axes[:3]] == list(GENES)
    axes = figure.axes[1]
    kriging, mean, line, shown, held_back = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), positions[order])
    np.testing.assert_array_equal(line.get_ydata(), imputed[0, order, 1])
    np.testing.assert_array_equal(kriging.get_ydata(), others["kriging"][0, order, 1])
    assert kriging.get_linestyle() != "-"
    assert mean.get_color() != kriging.get_color() != line.get_color()
    np.testing.assert_array_equal(shown.get_xdata(), [0.0, 2.0, 8.0, 10.0])
    np.testing.assert_array_equal(held_back.get_xdata(), [4.0, 6.0])
    assert held_back.get_markerfacecolor() == "white"
    # Shaded halfway to the neighbours that were shown.
    (span,) = (p for p in axes.patches if isinstance(p, Rectangle))
    assert (span.get_x(), span.get_x() + span.get_width()) == (3.0, 7.0)
    assert not [p for other in figure.axes[2:] for p in other.patches]
    assert len({axes.get_ylim() for axes in figure.axes[1::3]}) == 1
    for words in ("measured, hidden", "hidden stretch", "imputed", "kriging", "mean"):
        assert words in texts(figure)
    assert render(figure, tmp_path)


def test_a_wild_baseline_does_not_flatten_the_profiles(numbers):
    positions, measured, imputed, hidden = make_profiles(numbers)
    wild = {"wild": np.full(measured.shape, 1e9)}
    figure = imputation.draw_profiles(positions, measured, imputed, hidden, GENES, wild)
    for gene, axes in enumerate(figure.axes[:3]):
        shown = np.stack([measured, imputed])[..., gene]
        assert axes.get_ylim()[0] < shown.min()
        assert shown.max() < axes.get_ylim()[1] < shown.max() + np.ptp(shown)


def test_profiles_survive_gaps_and_have_no_word_for_what_is_not_there(
    numbers, tmp_path
):
    positions, measured, imputed, hidden = make_profiles(numbers, num_samples=1)
    measured[0, 0] = imputed[..., 2] = np.nan
    figure = imputation.draw_profiles(
        positions, measured, imputed, hidden & False, GENES
    )
    assert "hidden" not in texts(figure)
    assert render(figure, tmp_path)


def test_draw_profiles_names_what_does_not_fit(numbers):
    positions, measured, imputed, hidden = make_profiles(numbers)
    draw = imputation.draw_profiles
    with pytest.raises(ValueError, match=r"positions must be \[node\]"):
        draw(positions[:, None], measured, imputed, hidden, GENES)
    with pytest.raises(ValueError, match=r"measured must be \[sample, node 5, gene 3"):
        draw(positions[1:], measured, imputed, hidden, GENES)
    with pytest.raises(ValueError, match=r"imputed must be \[sample 2"):
        draw(positions, measured, imputed[:1], hidden, GENES)
    with pytest.raises(ValueError, match="hidden must be bool"):
        draw(positions, measured, imputed, hidden.astype(int), GENES)
    with pytest.raises(ValueError, match="baseline 'mean' must be"):
        draw(positions, measured, imputed, hidden, GENES, {"mean": measured[..., 0]})


def test_tissue_maps_share_scales_and_keep_the_aspect(numbers, tmp_path):
    num_cells = 3000
    positions = numbers.uniform(size=(num_cells, 2)) * [4.0, 1.0]
    measured = numbers.gamma(1.0, size=(num_cells, 2)) * [1.0, 100.0]
    imputed = measured * 1.2
    measured[0, 0] = 1e6
    measured[1, 1] = np.nan
    figure = imputation.draw_tissue(
        positions, {"measured": measured, "imputed": imputed}, ["Gad2", "Sox10"]
    )
    panels, bars = figure.axes[:4], figure.axes[4:]
    assert [bar.get_ylabel() for bar in bars] == ["expression", "expression"]
    for row, gene in ((panels[:2], 0), (panels[2:], 1)):
        left, right = (axes.collections[0] for axes in row)
        assert left.get_clim() == right.get_clim()
        low, high = left.get_clim()
        both = np.stack([measured, imputed])[..., gene]
        inside = (both >= low) & (both <= high)
        assert 0.98 < inside.mean() < 1.0  # one outlier does not set the scale
        np.testing.assert_array_equal(
            np.ma.filled(left.get_array(), np.nan), measured[:, gene]
        )
        np.testing.assert_array_equal(left.get_offsets(), positions)
        assert left.get_sizes().max() < 3.0
    assert {axes.get_aspect() for axes in panels} == {1.0}
    assert [axes.get_title() for axes in panels[:2]] == ["measured", "imputed"]
    assert [panels[0].get_ylabel(), panels[2].get_ylabel()] == ["Gad2", "Sox10"]
    assert render(figure, tmp_path)


@pytest.mark.parametrize("num_cells", [1, 7])
def test_draw_tissue_survives_few_cells_without_expression(num_cells, tmp_path):
    positions = np.arange(2.0 * num_cells).reshape(num_cells, 2)
    silent = {"measured": np.zeros((num_cells, 1))}
    figure = imputation.draw_tissue(positions, silent, ["Shh"])
    assert render(figure, tmp_path)


def test_draw_tissue_names_what_does_not_fit():
    positions, values = np.zeros((5, 2)), np.zeros((5, 3))
    with pytest.raises(ValueError, match="no columns"):
        imputation.draw_tissue(positions, {}, GENES)
    with pytest.raises(ValueError, match=r"positions must be \[cell, dim 2\]"):
        imputation.draw_tissue(np.zeros((5, 3)), {"a": values}, GENES)
    with pytest.raises(ValueError, match=r"'a' must be \[cell 5, gene 2\]"):
        imputation.draw_tissue(positions, {"a": values}, GENES[:2])


def test_pearson_agrees_with_numpy_and_is_nan_for_constants(numbers):
    first, second = numbers.normal(size=(2, 50))
    np.testing.assert_allclose(
        imputation.pearson(first, second), np.corrcoef(first, second)[0, 1]
    )
    np.testing.assert_allclose(imputation.pearson(first, 3.0 - 2.0 * first), -1.0)
    assert np.isnan(imputation.pearson(first, np.ones(50)))
    assert np.isnan(imputation.pearson(first[:1], second[:1]))


def test_scatter_compares_hidden_entries_only(numbers, tmp_path):
    measured = numbers.normal(size=(4, 30, 2))
    imputed = measured + numbers.normal(size=measured.shape)
    hidden = numbers.uniform(size=measured.shape) < 0.5
    imputed[hidden & (measured < -1.0)] = np.nan
    figure = imputation.draw_scatter(measured, imputed, GENES[:2], hidden)
    for gene, axes in enumerate(figure.axes):
        kept = hidden[..., gene] & np.isfinite(imputed[..., gene])
        x, y = measured[kept, gene], imputed[kept, gene]
        dots = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_array_equal(dots, np.stack([x, y], axis=-1))
        r = np.corrcoef(x, y)[0, 1]
        assert axes.get_title() == f"{GENES[gene]}\nr = {r:.2f}, n = {kept.sum()}"
        assert axes.get_xlim() == axes.get_ylim()
        (diagonal,) = axes.lines
        assert diagonal.get_slope() == 1.0
        assert diagonal.get_xy1()[0] == diagonal.get_xy1()[1]
    assert figure.get_supxlabel() == "measured"
    assert figure.get_supylabel() == "imputed"
    assert render(figure, tmp_path)


def test_scatter_says_what_it_does_not_draw(numbers, tmp_path):
    num_genes = imputation.MAX_SCATTERS + 3
    genes = [f"gene{index}" for index in range(num_genes)]
    measured = numbers.normal(size=(imputation.MAX_POINTS + 50, num_genes))
    imputed = measured.copy()
    imputed[:, -1] *= -1.0  # r = -1
    imputed[:, -2] = 0.0  # undefined
    figure = imputation.draw_scatter(measured, imputed, genes)
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 12
    assert "n = 4,050" in figure.axes[0].get_title()
    dots = figure.axes[0].collections[0].get_offsets()
    assert len(np.unique(dots, axis=0)) == imputation.MAX_POINTS
    caption = figure.get_supxlabel().replace("\N{MINUS SIGN}", "-")
    assert "4,000 entries drawn at most" in caption
    assert "3 more genes are not drawn (gene12, gene13, gene14)" in caption
    assert "r from -1.00 to 1.00, median 0.00" in caption
    assert render(figure, tmp_path)


def test_draw_scatter_survives_genes_without_entries(tmp_path):
    nothing = np.full((3, 14), np.nan)
    figure = imputation.draw_scatter(nothing, nothing, [str(i) for i in range(14)])
    assert isinstance(figure, Figure)
    assert "r undefined, n = 0" in texts(figure)
    assert render(figure, tmp_path)


def test_draw_scatter_names_what_does_not_fit():
    values = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"one shape, got \(5, 3\), \(4, 3\)"):
        imputation.draw_scatter(values, values[1:], GENES)
    with pytest.raises(ValueError, match=r"one shape.*\(5, 2\)"):
        imputation.draw_scatter(values, values, GENES, values[:, 1:] > 0)
    with pytest.raises(ValueError, match="gene 2"):
        imputation.draw_scatter(values, values, GENES[:2])
    with pytest.raises(ValueError, match="hidden must be bool"):
        imputation.draw_scatter(values, values, GENES, values)
