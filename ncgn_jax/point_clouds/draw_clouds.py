"""Draws a grid of point clouds, samples beside data."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.pictures.style import INK, NEAR_FAR, NEAR_FAR_WARM, TITLE_SIZE
from ncgn_jax.point_clouds.projection import (
    draw_points,
    frame_panel,
    half_extent,
    middle_of,
    project_points,
)


def check_clouds(clouds_by_row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts every entry to a float array [cloud, point, 2 or 3].

    Args:
      clouds_by_row: Name to clouds.

    Returns:
      The same entries as float arrays, in the same order.

    Raises:
      ValueError: If there is no entry, or one is not [cloud, point, 2 or 3].
    """
    if not clouds_by_row:
        raise ValueError("there are no clouds to draw")
    checked = {name: np.asarray(c, float) for name, c in clouds_by_row.items()}
    for name, clouds in checked.items():
        if clouds.ndim != 3 or clouds.shape[-1] not in (2, 3) or 0 in clouds.shape:
            raise ValueError(
                f"clouds '{name}' must be [cloud, point, 2 or 3] and not empty, "
                f"got {clouds.shape}"
            )
    return checked


def centred(cloud: np.ndarray) -> np.ndarray:
    """Returns the finite points of a cloud, centred at the middle of their box."""
    cloud = cloud[np.isfinite(cloud).all(axis=-1)]
    return cloud - middle_of(cloud) if len(cloud) else cloud


def common_size(clouds: list[np.ndarray]) -> float:
    """Returns the half extent that holds 9 of 10 centred clouds."""
    sizes = [half_extent(cloud) for cloud in clouds if len(cloud)]
    return float(np.percentile(sizes, 90.0)) if sizes else 1.0


def draw_clouds(
    clouds_by_row: Mapping[str, np.ndarray],
    columns: int = 8,
    rows: int = 1,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Draws a grid of clouds, one band of panels for each named set.

    Three-dimensional clouds have z upright in mild perspective, near points dark and
    far ones pale. All panels share one scale, so that sizes can be compared. Sets
    alternate between a cool and a warm ink.

    Args:
      clouds_by_row: Name to clouds, [cloud, point, 2 or 3], any unit. The first
        `columns * rows` of each are drawn, without points that are not finite.
      columns: Panels per row, >= 1.
      rows: Most rows per set, >= 1.
      captions: Text below each cloud of a set; None for no text.

    Returns:
      The figure.

    Raises:
      ValueError: If a set is empty or not [cloud, point, 2 or 3].
    """
    drawn = {
        name: [centred(cloud) for cloud in clouds[: columns * rows]]
        for name, clouds in check_clouds(clouds_by_row).items()
    }
    columns = min(columns, max(len(clouds) for clouds in drawn.values()))
    bands = {name: -(-len(clouds) // columns) for name, clouds in drawn.items()}
    num_rows = sum(bands.values())
    panel, head = 1.35, 0.27
    foot = 0.0 if captions is None else 0.16
    width = columns * panel
    height = num_rows * (panel + foot) + len(bands) * head
    figure = Figure(figsize=(width, height))
    size = common_size([c for clouds in drawn.values() for c in clouds])
    top = height
    for index, (name, clouds) in enumerate(drawn.items()):
        figure.text(
            0.06 / width,
            (top - 0.6 * head) / height,
            name,
            fontsize=TITLE_SIZE,
            color=INK,
            weight="bold",
            va="center",
        )
        top -= head
        for place, cloud in enumerate(clouds):
            row, column = divmod(place, columns)
            box = (
                column * panel / width,
                (top - (row + 1) * (panel + foot) + foot) / height,
                panel / width,
                panel / height,
            )
            _draw_cloud(figure, box, cloud, size, warm=index % 2 == 1)
            if captions is not None:
                figure.text(
                    box[0] + box[2] / 2,
                    box[1] - foot / height,
                    captions[name][place],
                    fontsize=7,
                    color=INK,
                    ha="center",
                    va="bottom",
                )
        top -= bands[name] * (panel + foot)
    return figure


def _draw_cloud(
    figure: Figure,
    box: tuple[float, float, float, float],
    cloud: np.ndarray,
    size: float,
    warm: bool,
) -> None:
    """Draws one centred cloud into a box of the figure."""
    axes = figure.add_axes(box)
    flat = cloud.shape[1] == 2
    frame_panel(axes, 1.12 * size, border=flat)
    if not len(cloud):
        axes.text(0, 0, "not finite", ha="center", va="center", color=INK, fontsize=7)
        return
    # Dots shrink with their number, so that dense clouds do not become blots.
    dot = float(np.clip(7.0 * np.sqrt(400.0 / len(cloud)), 1.0, 11.0))
    inks = NEAR_FAR_WARM if warm else NEAR_FAR
    draw_points(axes, project_points(cloud, size=size), size, colormap=inks, dot=dot)
