"""Draws panels of curves, one quantity against another."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ncgn_jax.pictures.style import (
    CATEGORIES,
    DASHES,
    FAINT,
    INK,
    MARKERS,
    TICK_SIZE,
    dress_axes,
    write_plain_log_ticks,
)

_PANEL_WIDTH, _PANEL_HEIGHT = 3.5, 2.7  # inches
_MOST_MARKERS = 12
_MOST_NAMES = 4  # in a legend among the curves
_LEGEND = {"fontsize": TICK_SIZE - 0.5, "frameon": False, "labelcolor": INK}


class Panel(NamedTuple):
    """Describes one panel.

    Attributes:
      title: Title above the panel.
      xlabel: Label of the x axis, with unit.
      ylabel: Label of the y axis, with unit.
      curves: x and y of each curve by its name in the legend; NaN breaks a curve.
      log_x: Whether the x axis is logarithmic.
      log_y: Whether the y axis is logarithmic.
      level: Value to mark by a thin horizontal line, such as the truth.
      level_name: Its name in the legend.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]]
    log_x: bool = False
    log_y: bool = False
    level: float | None = None
    level_name: str = ""


def draw_panels(panels: Sequence[Panel], columns: int = 2) -> Figure:
    """Draws panels of curves, distinguished by lightness, dashes and markers.

    A curve of the same name looks the same in every panel. Panels that share more
    than four curves have one legend beneath them.

    Args:
      panels: At least one.
      columns: Panels side by side, >= 1.

    Raises:
      ValueError: If there is no panel, or a curve's x and y differ in length.
    """
    if not panels:
        raise ValueError("there is nothing to draw: no panels")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(
        figsize=(_PANEL_WIDTH * columns, _PANEL_HEIGHT * rows), layout="constrained"
    )
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    shares_legend = len(names) > _MOST_NAMES and all(
        list(panel.curves) == names for panel in panels
    )
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, names)
        if panel.curves and not shares_legend:
            axes.legend(**_LEGEND)
    if shares_legend:
        handles = grid[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, **_LEGEND)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    dress_axes(axes, panel.xlabel, panel.ylabel, panel.title)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    if panel.level is not None:
        axes.axhline(panel.level, color=FAINT, linewidth=0.9, label=panel.level_name)
    for name, (x, y) in panel.curves.items():
        x, y = np.asarray(x, float), np.asarray(y, float)
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(f"curve {name!r}: x {x.shape} and y {y.shape} must agree")
        place = names.index(name)
        axes.plot(
            x,
            y,
            label=name,
            color=CATEGORIES[place % len(CATEGORIES)],
            linestyle=DASHES[place % len(DASHES)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.2,
            markevery=max(1, math.ceil(len(x) / _MOST_MARKERS)),
            linewidth=1.3,
        )
    for is_log, axis, (low, high) in (
        (panel.log_x, axes.xaxis, axes.get_xlim()),
        (panel.log_y, axes.yaxis, axes.get_ylim()),
    ):
        # Powers of ten name a wide axis, and leave a narrow one with one or none.
        if is_log and high < 100.0 * low:
            write_plain_log_ticks(axis, low, high)
