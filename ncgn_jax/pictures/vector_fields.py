"""Draws vector fields and clouds of samples in the plane, as small multiples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncgn_jax.pictures.style import CATEGORIES, FAINT, INK, LABEL_SIZE, dress_axes

_PANEL_SIZE = 2.05  # inches
_LONGEST = 0.95  # of the distance between two arrows
_CONTOURS = (-6.0, -4.0, -2.5, -1.5, -0.5)  # below the peak of the log-density
_MOST_POINTS = 1500


class FieldPanel(NamedTuple):
    """Describes one vector field.

    Attributes:
      title: Title above the panel, to which the longest arrow's length is added.
      places: Coordinates of the arrows along both axes, rising, [place].
      arrows: The field, [place (second coordinate), place (first), 2].
      fine_places: Coordinates of the density along both axes, rising, [fine].
      log_density: Log-density drawn beneath, nats, [fine (second), fine (first)].
    """

    title: str
    places: np.ndarray
    arrows: np.ndarray
    fine_places: np.ndarray
    log_density: np.ndarray


def draw_vector_fields(rows: Mapping[str, Sequence[FieldPanel]]) -> Figure:
    """Draws fields over contours of a density.

    Arrows are scaled per panel, so that the longest fills its cell; its true length
    stands in the title.

    Args:
      rows: Equally many panels by the name of their row.

    Raises:
      ValueError: If there is no panel, or rows differ in length.
    """
    figure, grid = _make_grid({name: len(panels) for name, panels in rows.items()})
    for axes_row, panels in zip(grid, rows.values(), strict=True):
        for axes, panel in zip(axes_row, panels, strict=True):
            _draw_field(axes, panel)
    return figure


def draw_sample_panels(
    rows: Mapping[str, Mapping[str, np.ndarray]], half_width: float
) -> Figure:
    """Draws clouds of samples at equal scale, one panel each.

    Args:
      rows: Points [sample, 2] by the title of their panel, by the name of their row.
      half_width: Half the side of the square that is shown; the panel names the share
        of points beyond it.

    Raises:
      ValueError: If there is no panel, or rows differ in length.
    """
    figure, grid = _make_grid({name: len(panels) for name, panels in rows.items()})
    for axes_row, panels in zip(grid, rows.values(), strict=True):
        for axes, (title, points) in zip(axes_row, panels.items(), strict=True):
            points = np.asarray(points)
            shown = points[:_MOST_POINTS]
            axes.scatter(*shown.T, s=3.0, color=CATEGORIES[0], alpha=0.3, linewidths=0)
            axes.set_title(title, fontsize=LABEL_SIZE, color=INK, loc="left")
            axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width))
            outside = np.mean(np.abs(points).max(axis=1) > half_width)
            if outside > 0:
                axes.text(
                    0.97,
                    0.03,
                    f"{100 * outside:.2g} % outside",
                    transform=axes.transAxes,
                    ha="right",
                    fontsize=LABEL_SIZE - 1.5,
                    color=INK,
                )
    return figure


def _make_grid(lengths: Mapping[str, int]) -> tuple[Figure, np.ndarray]:
    """Makes a figure and its axes, [row, column], with rows named and ends labelled."""
    columns = max(lengths.values(), default=0)
    if not columns or set(lengths.values()) != {columns}:
        raise ValueError(f"every row needs equally many panels, got {dict(lengths)}")
    figure = Figure(
        figsize=(_PANEL_SIZE * columns + 0.6, _PANEL_SIZE * 1.12 * len(lengths) + 0.3),
        layout="constrained",
    )
    grid = figure.subplots(len(lengths), columns, squeeze=False)
    for row, name in enumerate(lengths):
        for column, axes in enumerate(grid[row]):
            ylabel = f"{name}\n$x_2$" if column == 0 else ""
            dress_axes(axes, "$x_1$" if row == len(lengths) - 1 else "", ylabel)
            axes.set_aspect("equal")
            axes.grid(False)
    return figure, grid


def _draw_field(axes: Axes, panel: FieldPanel) -> None:
    height = panel.log_density - panel.log_density.max()
    axes.contourf(
        panel.fine_places,
        panel.fine_places,
        height,
        levels=[*_CONTOURS, 0.0],
        cmap="Greys",
        vmin=_CONTOURS[0],
        vmax=3.0,
    )
    length = float(np.linalg.norm(panel.arrows, axis=-1).max())
    spacing = float(np.diff(panel.places).min())
    axes.quiver(
        panel.places,
        panel.places,
        *np.moveaxis(panel.arrows, -1, 0),
        color=CATEGORIES[0],
        angles="xy",
        scale_units="xy",
        scale=max(length, np.finfo(float).tiny) / (_LONGEST * spacing),
        width=0.007,
        edgecolor=FAINT,
    )
    title = f"{panel.title}, longest {length:.2g}"
    axes.set_title(title, fontsize=LABEL_SIZE, color=INK, loc="left")
