"""Defines the look that all pictures share: inks, markers, titles and axes.

Pictures lie on opaque white, which prints and which a dark page shows as a card. The
colours of categories stay apart, and the maps keep their order, for readers who
confuse red with green or blue with yellow, and on a grey printer (a test says so).
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.typing import LineStyleType

INK = "#1b2430"
FAINT = "#8a94a0"
GRID = "#e3e7eb"

# Rising lightness within each map, so that order survives a grey printer.
NEAR_FAR = LinearSegmentedColormap.from_list(
    "near_far", ["#0c2340", "#2a6a9e", "#8dbbd8", "#cfdfea"]
)
NEAR_FAR_WARM = LinearSegmentedColormap.from_list(
    "near_far_warm", ["#3a1508", "#a8481c", "#dc9a68", "#f1d9c6"]
)
LEVELS = LinearSegmentedColormap.from_list(
    "levels", ["#c8781a", "#b0413e", "#6b2d73", "#1f2a63"]
)

# Hues that differ in lightness too, from dark to light.
CATEGORIES = ("#1f3a68", "#b5452c", "#2f8f7b", "#d99a2b", "#7a5aa6", "#9ea8b1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[LineStyleType, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.5, 1.3)),
    (0, (6, 1.5, 1.3, 1.5)),
)

TITLE_SIZE = 9.5
LABEL_SIZE = 8.5
TICK_SIZE = 7.5


def dress_axes(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Sets the labels, light grid and open frame of one panel."""
    axes.set_xlabel(xlabel, fontsize=LABEL_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=LABEL_SIZE, color=INK)
    if title:
        axes.set_title(title, fontsize=TITLE_SIZE, color=INK, weight="bold", loc="left")
    axes.tick_params(labelsize=TICK_SIZE, colors=INK, which="both", length=3, width=0.6)
    axes.tick_params(which="minor", length=1.8)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
        axes.spines[side].set_linewidth(0.8)


def title_sheet(figure: Figure, title: str, gap: float = 0.1) -> None:
    """Writes a title above a figure that its panels fill, for `save_figure` to keep.

    Args:
      figure: The figure.
      title: The words; nothing is written without.
      gap: Room between panels and title, in inches.
    """
    if title:
        figure.text(
            0.0,
            1.0 + gap / figure.get_figheight(),
            title,
            fontsize=TITLE_SIZE,
            color=INK,
            weight="bold",
            va="bottom",
        )


def write_plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks a logarithmic axis with plain numbers such as 20, 50 and 100.

    Args:
      axis: An axis that is logarithmic already.
      low: Least value shown, > 0.
      high: Largest value shown; beyond a factor of 100 only powers of ten are named.
    """
    subs = (1.0, 2.0, 5.0) if high < 100.0 * low else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def level_colors(num_levels: int) -> list[tuple[float, float, float, float]]:
    """Returns RGBA colours of an ordered family, from light to dark."""
    return [LEVELS(u) for u in np.linspace(0.0, 1.0, max(num_levels, 2))[:num_levels]]


def cell_colors(num_cells: int) -> np.ndarray:
    """Returns colours that differ in hue and lightness between neighbouring indices.

    Steps of the golden ratio stay away from earlier values for long, so that a run of
    cells along a space-filling order gets well separated colours.

    Args:
      num_cells: Number of colours, >= 0.

    Returns:
      RGB in [0, 1], [cell, 3].
    """
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    index = np.arange(num_cells)
    hue = 2.0 * np.pi * np.mod(index * golden, 1.0)
    lightness = 0.26 + 0.40 * np.mod(index * golden * 1.7 + 0.31, 1.0)
    # A cosine palette, whose three channels are one wave, a third of a turn apart.
    phase = np.stack([hue, hue - 2.0 * np.pi / 3.0, hue + 2.0 * np.pi / 3.0], axis=-1)
    chroma = 0.36 * (1.0 - np.abs(lightness - 0.5))[:, None]
    return np.clip(lightness[:, None] + chroma * np.cos(phase), 0.0, 1.0)
