"""Drawings of clouds, paths and attention: projection, binning, what panels show."""

import base64
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from ncgn_jax.pictures import save_figure
from ncgn_jax.point_clouds import draw_attention as attention
from ncgn_jax.point_clouds import draw_path as denoising
from ncgn_jax.point_clouds import projection
from ncgn_jax.point_clouds.draw_clouds import centred, draw_clouds
from ncgn_jax.point_clouds.draw_page import write_interactive_clouds


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def make_state(numbers, num_points=40, num_supernodes=6, dim=3):
    senders = np.repeat(np.arange(num_supernodes), 3)
    return {
        "t": 0.5,
        "signal_level": 0.5,
        "points": numbers.normal(size=(num_points, dim)),
        "supernode_positions": numbers.normal(size=(num_supernodes, dim)),
        "senders": senders,
        "receivers": (senders + 1) % num_supernodes,
        "label": "bucket 1",
    }


def render(figure, tmp_path):
    """Saves and gives the bytes: drawing problems only show when rendering."""
    return save_figure(figure, tmp_path / "picture.png", dpi=50).read_bytes()


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))
    )


def test_projection_keeps_z_upright_and_lengths():
    axis = np.eye(3)
    placed = projection.project_points(axis, azimuth=30.0, elevation=20.0)
    tilt = np.deg2rad(20.0)
    np.testing.assert_allclose(placed.plane[2], [0.0, np.cos(tilt)], atol=1e-12)
    # Looking from above, the top end is nearer to the eye than the middle.
    np.testing.assert_allclose(placed.depth[2], -np.sin(tilt))
    # The view is a rotation: squared plane and depth add up to the length.
    squared = np.sum(placed.plane**2, axis=-1) + placed.depth**2
    np.testing.assert_allclose(squared, 1.0)
    rotation = np.column_stack([placed.plane, placed.depth])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    # A front elevation shows x to the right and y away from the eye.
    front = projection.project_points(axis, azimuth=0.0, elevation=0.0)
    np.testing.assert_allclose(front.plane, [[1, 0], [0, 0], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(front.depth, [0, 1, 0], atol=1e-12)


def test_perspective_shrinks_what_is_far():
    points = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    near, far = projection.project_points(points, 0.0, 0.0, size=1.0).plane[:, 0]
    distance = projection.CAMERA_DISTANCE
    np.testing.assert_allclose(
        [near, far], [distance / (distance - 1), distance / (distance + 1)]
    )


def test_far_points_are_drawn_first(numbers):
    axes = Figure().subplots()
    projection.frame_panel(axes, 10.0)
    points = numbers.normal(size=(30, 3))
    placed = projection.project_points(points)
    projection.draw_points(axes, placed, 2.0)
    drawn = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_array_equal(drawn, placed.plane[np.argsort(-placed.depth)])
    assert not axes.texts


def test_points_beyond_the_panel_are_counted_and_not_cut():
    axes = Figure().subplots()
    projection.frame_panel(axes, 1.0)
    points = np.array([[0.5, 0.5], [1.5, 0.0], [0.0, -1.01], [np.nan, 0.0]])
    projection.draw_points(axes, projection.project_points(points), 1.0)
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), points[:1])
    assert [text.get_text() for text in axes.texts] == ["2 outside"]


@pytest.mark.parametrize("dim", [2, 3])
def test_draw_clouds_lays_out_a_panel_for_each_cloud(numbers, tmp_path, dim):
    clouds = numbers.normal(size=(5, 30, dim))
    clouds[0, 0] = np.nan  # a stray point is left out
    clouds[1] = np.nan  # a whole cloud says so
    clouds[2] = 0.3  # all points equal
    figure = draw_clouds({"samples": clouds, "data": clouds[:2]}, 3, rows=2)
    assert len(figure.axes) == 5 + 2
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert len(figure.axes[0].collections[0].get_offsets()) == 29
    assert "not finite" in texts(figure)
    assert render(figure, tmp_path)
    assert len(draw_clouds({"samples": clouds}, 3).axes) == 3


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (5, 3), (2, 5, 4)])
def test_draw_clouds_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="samples"):
        draw_clouds({"samples": np.zeros(shape)})


def test_draw_clouds_refuses_nothing():
    with pytest.raises(ValueError, match="no clouds"):
        draw_clouds({})


@pytest.mark.parametrize("dim", [2, 3])
def test_denoising_path_names_time_and_graph(numbers, tmp_path, dim):
    coarse = make_state(numbers, dim=dim)
    fine = make_state(numbers, num_points=6, num_supernodes=6, dim=dim)
    figure = denoising.draw_denoising_path([coarse, fine])
    assert len(figure.axes) == 4
    assert "6 supernodes, 3 neighbours" in texts(figure)
    assert "bucket 1" in texts(figure)
    assert render(figure, tmp_path)


def test_denoising_path_survives_one_supernode_without_edges(numbers, tmp_path):
    state = make_state(numbers) | {
        "supernode_positions": np.zeros((1, 3)),
        "senders": np.zeros(0, int),
        "receivers": np.zeros(0, int),
        "points": np.zeros((5, 3)),
    }
    assert render(denoising.draw_denoising_path([state]), tmp_path)


def test_denoising_path_refuses_unknown_supernodes(numbers):
    state = make_state(numbers) | {"senders": np.full(18, 6)}
    with pytest.raises(ValueError, match="supernode 6 but there are 6"):
        denoising.draw_denoising_path([state])


def test_edges_are_thinned_to_the_budget():
    np.testing.assert_array_equal(denoising.thin_edges(7), np.arange(7))
    kept = denoising.thin_edges(5000)
    assert len(np.unique(kept)) == denoising.MAX_EDGES
    assert kept.max() > 4000


def test_points_take_the_nearest_supernode():
    supernodes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    points = np.array([[0.4, 0.0], [0.6, 0.0], [0.1, 1.2]])
    nearest = denoising.nearest_supernode(points, supernodes)
    np.testing.assert_array_equal(nearest, [0, 1, 2])


def test_bins_recover_a_power_law(numbers):
    distance = np.exp(numbers.uniform(-2.0, 2.0, size=4000))
    weight = 0.3 * distance**-1.5
    bins = attention.bin_by_distance(distance, weight)
    slope, offset = np.polyfit(np.log(bins.distance), np.log(bins.mean), 1)
    # The mean of a power over a bin differs from the power of the mean by 1 %.
    np.testing.assert_allclose([slope, np.exp(offset)], [-1.5, 0.3], rtol=0.02)
    assert np.all(np.diff(bins.distance) > 0)
    assert np.all((bins.low < bins.mean) & (bins.mean < bins.high))


def test_bins_leave_out_self_loops_and_nan():
    distance = np.array([0.0, 1.0, np.nan, 2.0])
    bins = attention.bin_by_distance(distance, np.array([9.0, 0.25, 0.5, 0.75]))
    np.testing.assert_allclose(bins.distance, [np.sqrt(2.0)])
    np.testing.assert_allclose(bins.mean, [0.5])
    assert len(attention.bin_by_distance(np.zeros(3), np.ones(3)).mean) == 0


def test_draw_attention_orders_levels_and_scales_weights(numbers, tmp_path):
    distances = [numbers.uniform(0.1, 1.0, 200) for _ in range(3)]
    weights = [np.full(200, 1.0 / k) for k in (4, 8, 16)]
    figure = attention.draw_attention(
        distances, weights, [1.0, 0.5, 0.0], ["fine", "middle", "coarse"], [4, 8, 16]
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split("\n")[1] for title in titles] == ["coarse", "middle", "fine"]
    for axes in figure.axes:
        for line in axes.lines:
            np.testing.assert_allclose(line.get_ydata(), 1.0)
    assert render(figure, tmp_path)


@pytest.mark.parametrize("weight", [0.0, np.nan])
def test_draw_attention_survives_empty_levels(tmp_path, weight):
    weights = [np.full(20, weight), np.full(20, 0.5)]
    figure = attention.draw_attention([np.ones(20), np.zeros(20)], weights, [0.0, 1.0])
    assert render(figure, tmp_path)


def test_draw_attention_refuses_uneven_lists():
    with pytest.raises(ValueError, match="one entry for each level"):
        attention.draw_attention([np.ones(2)], [np.ones(2)], [0.1, 0.2])


def page_content(path):
    """Reads back what the page's script is given."""
    return json.loads(re.search("const page = (.*);\n", path.read_text())[1])


def test_interactive_page_stands_alone(numbers, tmp_path):
    clouds = numbers.normal(size=(3, 20, 3))
    sets = {"samples": clouds, "</script>": clouds[:2, :, :2]}
    words = {"samples": ["a", "b", "c"]}
    path = write_interactive_clouds(sets, tmp_path / "clouds.html", captions=words)
    page = path.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)|https?:""", page)
    assert page.count("</script>") == 1
    first, second = page_content(path)["sets"]
    assert [cloud["label"] for cloud in first["clouds"]] == ["a", "b", "c"]
    assert second["name"] == "</script>"
    packed = second["clouds"][1]
    found = np.frombuffer(base64.b64decode(packed["points"]), "<i2").reshape(-1, 3)
    wanted = np.pad(centred(clouds[1, :, :2]), ((0, 0), (0, 1)))
    np.testing.assert_allclose(found * packed["scale"] / 32767, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="at most 4"):
        write_interactive_clouds(dict.fromkeys("abcde", clouds), "x.html")


def test_interactive_page_stays_below_3_mb_and_says_what_is_left_out(tmp_path):
    clouds = np.random.default_rng(0).normal(size=(24, 40_000, 3))
    path = write_interactive_clouds({"a": clouds, "b": clouds}, tmp_path / "a.html")
    assert 2e6 < path.stat().st_size < 3e6
    assert page_content(path)["note"] == "6,250 of 40,000 points of each are shown"
