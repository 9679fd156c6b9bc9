"""Draws variants side by side, metric by metric, against anchors."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ncgn_jax.pictures.style import (
    CATEGORIES,
    DASHES,
    INK,
    MARKERS,
    TICK_SIZE,
    dress_axes,
    write_plain_log_ticks,
)

QUIET = "#5b6672"


def draw_comparison(
    table: Mapping[str, Mapping[str, Sequence[float]]],
    anchors: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Draws a dot plot with one panel per metric and one column per variant.

    Small dots are single seeds; the large marker is their mean and the bar reaches
    one standard deviation (of the sample) either way. Anchors are horizontal lines
    over the whole panel, named at its right edge; far ones are only named there.

    Args:
      table: Variant to metric to values, one per seed. A variant may lack a metric;
        values that are not finite are left out.
      anchors: Name to metric to value, such as pure noise or the training set.

    Returns:
      The figure.

    Raises:
      ValueError: If the table holds no metric.
    """
    metrics = list(dict.fromkeys(name for row in table.values() for name in row))
    if not metrics:
        raise ValueError("the table holds no metric to draw")
    columns = min(len(metrics), 3)
    num_rows = -(-len(metrics) // columns)
    width = max(2.7, 0.42 * len(table) + 1.7)
    figure = Figure(
        figsize=(width * columns, 2.75 * num_rows + 0.35), layout="constrained"
    )
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axes, metric in zip(panels, metrics, strict=False):
        lines = {
            name: float(values[metric])
            for name, values in anchors.items()
            if metric in values and np.isfinite(values[metric])
        }
        _draw_metric(axes, metric, table, lines)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    return figure


def _draw_metric(
    axes: Axes,
    metric: str,
    table: Mapping[str, Mapping[str, Sequence[float]]],
    lines: Mapping[str, float],
) -> None:
    dress_axes(axes, title=metric)
    axes.grid(False, axis="x")
    values = [
        np.atleast_1d(np.asarray(r.get(metric, []), float)) for r in table.values()
    ]
    values = [v[np.isfinite(v)] for v in values]
    for place, seeds in enumerate(values):
        _draw_variant(axes, place, seeds)
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_xticks(
        range(len(table)), list(table), rotation=35, ha="right", rotation_mode="anchor"
    )
    _scale_values(axes, np.concatenate(values), np.asarray(list(lines.values())))
    _draw_anchors(axes, lines)


def _draw_variant(axes: Axes, place: int, seeds: np.ndarray) -> None:
    """Draws the seeds of one variant, their mean and their spread."""
    if not len(seeds):
        axes.text(
            place, 0.02, "none", transform=axes.get_xaxis_transform(), ha="center",
            fontsize=TICK_SIZE - 1, color=QUIET,
        )  # fmt: skip
        return
    color = CATEGORIES[place % len(CATEGORIES)]
    if len(seeds) > 1:
        beside = place + 0.2 + 0.05 * np.linspace(-1.0, 1.0, len(seeds))
        axes.scatter(beside, seeds, s=9, color=color, alpha=0.55, linewidths=0)
        axes.errorbar(
            place, seeds.mean(), yerr=seeds.std(ddof=1), color=color, linewidth=1.6,
            capsize=3,
        )  # fmt: skip
    axes.scatter(
        place,
        seeds.mean(),
        s=42,
        color=color,
        marker=MARKERS[place % len(MARKERS)],
        edgecolors="white",
        linewidths=0.7,
        zorder=4,
    )


def choose_limits(values: np.ndarray, anchors: np.ndarray) -> tuple[float, float]:
    """Chooses limits that hold all values and the anchors that leave them legible.

    An anchor counts if it lies within two spans of the values (a span being at least
    a tenth of their size). Pure noise may be ten times worse than every variant, and
    would press them into one line.

    Args:
      values: Compared values, [value].
      anchors: Lines to read them against, [anchor].

    Returns:
      Lower and upper limit, with some room.
    """
    if not len(values):
        values = anchors if len(anchors) else np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    reach = 2.0 * max(high - low, 0.1 * abs(high), 1e-12)
    near = anchors[(anchors >= low - reach) & (anchors <= high + reach)]
    low, high = min([low, *near]), max([high, *near])
    # At least a tenth of the size, so that noise between seeds looks like noise.
    span = max(high - low, 0.1 * max(abs(low), abs(high))) or 1.0
    room = 0.1 * span + (span - (high - low)) / 2.0
    return low - room, high + room


def _scale_values(axes: Axes, values: np.ndarray, anchors: np.ndarray) -> None:
    """Sets limits, logarithmic if the values span more than a factor of twenty."""
    if len(values) and values.min() > 0.0 and values.max() > 20.0 * values.min():
        limits = choose_limits(np.log(values), np.log(anchors[anchors > 0.0]))
        axes.set_yscale("log")
        axes.set_ylim(*np.exp(limits))
        write_plain_log_ticks(axes.yaxis, *np.exp(limits))
    else:
        axes.set_ylim(*choose_limits(values, anchors))


def spread_labels(heights: ArrayLike, gap: float) -> np.ndarray:
    """Moves label heights apart until neighbours are `gap` away, keeping their order.

    A first pass pushes labels up from the lowest; a second pushes those beyond 1 down
    again from the highest.

    Args:
      heights: In [0, 1], [label], any order.
      gap: Least distance, > 0.

    Returns:
      New heights, in the order given.
    """
    heights = np.asarray(heights, float)
    order = np.argsort(heights, kind="stable")
    placed = heights[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    result = np.empty_like(placed)
    result[order] = placed
    return result


def _draw_anchors(axes: Axes, lines: Mapping[str, float]) -> None:
    """Draws horizontal lines, named to the right of the panel without overlap.

    An anchor beyond the limits is named at the edge it lies past, with its value.
    """
    if not lines:
        return
    low, high = axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    values = np.asarray(list(lines.values()))
    heights = np.array(
        [to_axes.transform((0.0, value))[1] for value in np.clip(values, low, high)]
    )
    # Lines past the same edge keep the order of their values.
    order = np.argsort(values, kind="stable")
    apart = np.empty_like(heights)
    apart[order] = spread_labels(heights[order], 0.085)
    for index, (name, value) in enumerate(lines.items()):
        pointer = None
        if low <= value <= high:
            dashes = DASHES[1 + index % (len(DASHES) - 1)]
            axes.axhline(value, color=QUIET, linewidth=0.9, linestyle=dashes, zorder=1)
            pointer = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.5}
        else:
            arrow = "\N{UPWARDS ARROW}" if value > high else "\N{DOWNWARDS ARROW}"
            name = f"{name} {value:.3g} {arrow}"
        axes.annotate(
            name,
            (1.0, heights[index]),
            xytext=(1.06, apart[index]),
            xycoords="axes fraction",
            textcoords="axes fraction",
            arrowprops=pointer,
            fontsize=TICK_SIZE - 0.5,
            color=INK,
            va="center",
        )
