"""Draws functions over the plane and paths that run down them."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ncgn_jax.pictures.style import (
    CATEGORIES,
    FAINT,
    INK,
    LABEL_SIZE,
    NEAR_FAR,
    TICK_SIZE,
    dress_axes,
)

_PANEL_SIZE = 2.9  # inches
_NUM_LEVELS = 16
_MOST_COLUMNS = 3


class Landscape(NamedTuple):
    """A function over a square of the plane.

    Attributes:
      axis: Coordinates along both sides, rising, [place].
      height: Its values, [place (second coordinate), place (first)].
      name: Name of the height, with unit.
      points: Points to mark, at the bottom, [point, 2].
      points_name: Their name in the legend.
    """

    axis: np.ndarray
    height: np.ndarray
    name: str
    points: np.ndarray
    points_name: str


def draw_landscape(landscape: Landscape, paths: Mapping[str, np.ndarray]) -> Figure:
    """Draws paths over the contours of a landscape, one panel per entry of `paths`.

    Low ground is dark. Paths are light lines with a dark rim from an open circle to a
    filled square, so that they show on any ground and in grey.

    Args:
      landscape: The function.
      paths: Paths by the title of their panel, each [state, path, 2]; at least one.

    Raises:
      ValueError: If there is no panel, or an array has another shape.
    """
    if not paths:
        raise ValueError("there is nothing to draw: no paths")
    side = len(landscape.axis)
    if np.shape(landscape.height) != (side, side):
        raise ValueError(
            f"height must be {(side, side)}, got {np.shape(landscape.height)}"
        )
    columns = min(_MOST_COLUMNS, len(paths))
    rows = math.ceil(len(paths) / columns)
    figure = Figure(
        figsize=(_PANEL_SIZE * columns + 0.7, _PANEL_SIZE * rows + 0.5),
        layout="constrained",
    )
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes, (title, path) in zip(grid, paths.items(), strict=False):
        contours = _draw_ground(axes, landscape, title)
        _draw_paths(axes, title, np.asarray(path, float))
    for axes in grid[len(paths) :]:
        axes.set_axis_off()
    bar = figure.colorbar(contours, ax=list(grid), shrink=0.8, pad=0.02)
    bar.set_label(landscape.name, fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    marks = {
        landscape.points_name: ("x", CATEGORIES[1], CATEGORIES[1]),
        "start": ("o", INK, "white"),
        "end": ("s", INK, CATEGORIES[3]),
    }
    figure.legend(
        handles=[
            Line2D(
                [],
                [],
                linestyle="none",
                marker=marker,
                markersize=4.5,
                color=color,
                markerfacecolor=face,
                label=name,
            )
            for name, (marker, color, face) in marks.items()
        ],
        loc="outside lower center",
        ncols=len(marks),
        fontsize=TICK_SIZE,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _draw_ground(axes: Axes, landscape: Landscape, title: str) -> QuadContourSet:
    dress_axes(axes, "first coordinate", "second coordinate", title)
    axis, height = landscape.axis, landscape.height
    contours = axes.contourf(axis, axis, height, _NUM_LEVELS, cmap=NEAR_FAR)
    axes.contour(axis, axis, height, contours.levels, colors=FAINT, linewidths=0.3)
    axes.plot(*landscape.points.T, "x", color=CATEGORIES[1], markersize=2.6, mew=0.7)
    axes.set_aspect("equal")
    axes.set_xlim(axis[0], axis[-1])
    axes.set_ylim(axis[0], axis[-1])
    return contours


def _draw_paths(axes: Axes, title: str, path: np.ndarray) -> None:
    if path.ndim != 3 or path.shape[-1] != 2:
        raise ValueError(f"path {title!r} must be [state, path, 2], got {path.shape}")
    for line in np.moveaxis(path, 1, 0):
        axes.plot(*line.T, color=INK, linewidth=1.9)
        axes.plot(*line.T, color="white", linewidth=0.9)
    axes.plot(*path[0].T, "o", color=INK, markerfacecolor="white", markersize=4)
    axes.plot(*path[-1].T, "s", color=INK, markerfacecolor=CATEGORIES[3], markersize=4)
