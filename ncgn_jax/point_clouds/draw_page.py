"""Writes clouds to turn with the mouse into one HTML file that opens offline."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.point_clouds.draw_clouds import centred, check_clouds, common_size

# Low is dark and high is light, so that height is legible in grey.
HEIGHT_SCALE = [[0.0, "#0c2340"], [0.5, "#2a7fa8"], [1.0, "#d9b36a"]]
MAX_SETS = 4


def write_interactive_clouds(
    clouds_by_row: Mapping[str, np.ndarray],
    path: str | Path,
    title: str = "Point clouds",
    max_clouds: int = 24,
) -> Path:
    """Writes a page with the sets side by side and a slider over the clouds.

    The page contains plotly.js (about 5 MB), so that it opens offline. Clouds are
    centred and share one scale; colour is height.

    Args:
      clouds_by_row: Name to clouds, [cloud, point, 2 or 3]; at most four sets. Flat
        clouds lie in the plane z = 0.
      path: File to write, for example `samples.html`.
      title: Heading of the page.
      max_clouds: Most clouds of each set, >= 1.

    Returns:
      The path.

    Raises:
      ValueError: If there are more than four sets, or one is not
        [cloud, point, 2 or 3].
    """
    if len(clouds_by_row) > MAX_SETS:
        raise ValueError(f"at most {MAX_SETS} sets fit, got {list(clouds_by_row)}")
    sets = {
        name: [_in_space(centred(cloud)) for cloud in clouds[:max_clouds]]
        for name, clouds in check_clouds(clouds_by_row).items()
    }
    page = _make_page(sets, title).to_html(
        include_plotlyjs=True,
        full_html=True,
        config={"displaylogo": False, "responsive": True},
    )
    return write_whole(path, page)


def _in_space(cloud: np.ndarray) -> np.ndarray:
    """Returns the cloud with three coordinates, in float32 to halve the page."""
    missing = 3 - cloud.shape[1]
    return np.pad(cloud, ((0, 0), (0, missing))).astype(np.float32)


def _make_page(sets: Mapping[str, list[np.ndarray]], title: str) -> go.Figure:
    size = common_size([cloud for clouds in sets.values() for cloud in clouds])
    num_clouds = max(len(clouds) for clouds in sets.values())
    figure = go.Figure()
    owners = []
    for place, clouds in enumerate(sets.values()):
        for index, cloud in enumerate(clouds):
            figure.add_trace(_make_trace(cloud, place, size, visible=index == 0))
            owners.append((index, len(clouds)))
    steps = [
        {
            "method": "restyle",
            "label": str(shown + 1),
            # A set with fewer clouds than slider steps begins again.
            "args": ["visible", [index == shown % length for index, length in owners]],
        }
        for shown in range(num_clouds)
    ]
    figure.update_layout(
        title={"text": title, "x": 0.5},
        paper_bgcolor="white",
        font={"family": "Helvetica, Arial, sans-serif", "color": "#1b2430"},
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        height=640,
        showlegend=False,
        sliders=[{"currentvalue": {"prefix": "cloud "}, "steps": steps}],
        annotations=[
            {
                "text": f"<b>{name}</b>",
                "x": (place + 0.5) / len(sets),
                "y": 1.0,
                "xref": "paper",
                "yref": "paper",
                "showarrow": False,
            }
            for place, name in enumerate(sets)
        ],
        **{
            _scene_name(place): _make_scene(place, len(sets), size)
            for place in range(len(sets))
        },
    )
    return figure


def _scene_name(place: int) -> str:
    return "scene" if place == 0 else f"scene{place + 1}"


def _make_scene(place: int, num_scenes: int, size: float) -> dict:
    """Returns a panel with bare axes, equal scale and z upright."""
    axis = {"visible": False, "range": [-size, size]}
    return {
        "xaxis": axis,
        "yaxis": axis,
        "zaxis": axis,
        "aspectmode": "cube",
        "camera": {"eye": {"x": 0.9, "y": -1.25, "z": 0.6}},
        "domain": {
            "x": [place / num_scenes, (place + 1) / num_scenes],
            "y": [0.0, 1.0],
        },
    }


def _make_trace(
    cloud: np.ndarray, place: int, size: float, visible: bool
) -> go.Scatter3d:
    return go.Scatter3d(
        x=cloud[:, 0],
        y=cloud[:, 1],
        z=cloud[:, 2],
        mode="markers",
        scene=_scene_name(place),
        visible=visible,
        hoverinfo="skip",
        marker={
            "size": 3,
            "color": cloud[:, 2],
            "colorscale": HEIGHT_SCALE,
            "cmin": -size,
            "cmax": size,
            "line": {"width": 0},
        },
    )
