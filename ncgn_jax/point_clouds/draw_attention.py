"""Draws attention against distance, one panel for each noise level."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import ColorType, LineStyleType

from ncgn_jax.pictures.style import (
    INK,
    LABEL_SIZE,
    dress_axes,
    level_colors,
    write_plain_log_ticks,
)

_NUM_BINS = 16


class _Line(TypedDict, total=False):
    """Looks of a line."""

    color: ColorType
    linewidth: float
    linestyle: LineStyleType


ALIKE: _Line = {"color": INK, "linewidth": 0.8, "linestyle": (0, (1, 1.6))}
OTHERS: _Line = {"color": "#c3cad1", "linewidth": 0.8}


class Bins(NamedTuple):
    """Weights binned by distance; every field is [bin].

    Attributes:
      distance: Geometric mean of the distances in the bin.
      mean: Mean weight.
      low: 10 % quantile of the weights.
      high: 90 % quantile of the weights.
    """

    distance: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bin_by_distance(distance: np.ndarray, weight: np.ndarray) -> Bins:
    """Bins weights by distance, with equally many edges in each bin.

    There are at most 16 bins, and fewer if bins would have fewer than eight edges.

    Args:
      distance: Edge lengths, [edge]. Zeros (self loops) and values that are not
        finite are left out.
      weight: Weights, [edge].

    Returns:
      The bins, by rising distance; none if no edge is left.
    """
    distance, weight = np.ravel(distance), np.ravel(weight)
    real = (distance > 0) & np.isfinite(distance) & np.isfinite(weight)
    order = np.argsort(distance[real], kind="stable")
    distance, weight = distance[real][order], weight[real][order]
    if not len(order):
        return Bins(*(np.zeros(0) for _ in range(4)))
    parts = max(1, min(_NUM_BINS, len(order) // 8))
    rows = [
        (np.exp(np.mean(np.log(d))), np.mean(w), *np.quantile(w, [0.1, 0.9]))
        for d, w in zip(
            np.array_split(distance, parts), np.array_split(weight, parts), strict=True
        )
    ]
    return Bins(*np.asarray(rows).T)


def draw_attention(
    distances: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    signal_levels: Sequence[float],
    labels: Sequence[str] | None = None,
    num_neighbors: Sequence[int] | None = None,
    unit: str = "",
) -> Figure:
    """Draws attention weight against edge distance, one panel for each noise level.

    Each panel holds the mean of 16 equally filled bins, the band from the 10 % to the
    90 % quantile, the other levels' means as faint lines, and the weight of equal
    attention to all edges. The distance axis is logarithmic, and the weight axis is
    if weights span more than a factor of ten.

    Args:
      distances: Edge lengths of each level, each [edge]; zeros are left out.
      weights: Attention of each level in [0, 1], each [edge]; they sum to one over
        the edges that enter a node.
      signal_levels: One for each level, in [0, 1].
      labels: Extra words for each level.
      num_neighbors: In-degree at each level, self loop included. If given, weights
        are shown relative to 1 / in-degree, which makes levels comparable.
      unit: Unit of the edge lengths.

    Returns:
      The figure.

    Raises:
      ValueError: If the lists differ in length or are empty.
    """
    lengths = {len(distances), len(weights), len(signal_levels)}
    lengths |= {len(given) for given in (labels, num_neighbors) if given is not None}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "distances, weights, signal_levels, labels and num_neighbors must have "
            f"one entry for each level, got lengths {sorted(lengths)}"
        )
    order = np.argsort(signal_levels, kind="stable")
    scales = np.ones(len(order)) if num_neighbors is None else np.array(num_neighbors)
    levels = [
        bin_by_distance(
            np.asarray(distances[i], float), scales[i] * np.asarray(weights[i], float)
        )
        for i in order
    ]
    columns = min(len(levels), 5)
    num_rows = -(-len(levels) // columns)
    figure = Figure(
        figsize=(1.75 * columns + 0.9, 2.1 * num_rows + 0.6), layout="constrained"
    )
    panels = figure.subplots(
        num_rows, columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    colors = level_colors(len(levels))
    for place, axes in enumerate(panels):
        if place >= len(levels):
            axes.set_visible(False)
            continue
        title = f"signal {signal_levels[order[place]]:.2f}"
        if labels is not None:
            title += f"\n{labels[order[place]]}"
        _draw_level(axes, levels, place, colors[place], title)
        if num_neighbors is not None:
            axes.axhline(1.0, **ALIKE)
    _scale_axes(panels[0], levels)
    _add_legend(figure, alike=num_neighbors is not None)
    unit = f"   ({unit})" if unit else ""
    figure.supxlabel(f"edge length{unit}", fontsize=LABEL_SIZE, color=INK)
    share = "" if num_neighbors is None else " \N{MULTIPLICATION SIGN} in-degree"
    figure.supylabel(f"attention weight{share}", fontsize=LABEL_SIZE, color=INK)
    return figure


def _draw_level(
    axes: Axes, levels: list[Bins], place: int, color: ColorType, title: str
) -> None:
    dress_axes(axes, title=title)
    # Left-aligned titles are no `axes.title`.
    axes.set_title(title, fontsize=LABEL_SIZE - 0.5, color=INK, loc="left")
    for other, bins in enumerate(levels):
        if other != place:
            axes.plot(bins.distance, bins.mean, **OTHERS)
    bins = levels[place]
    axes.fill_between(
        bins.distance, bins.low, bins.high, color=color, alpha=0.25, linewidth=0
    )
    axes.plot(
        bins.distance, bins.mean, color=color, linewidth=1.6, marker="o", markersize=2.8
    )


def _add_legend(figure: Figure, alike: bool) -> None:
    """Explains line, band and faint lines above the panels."""
    color = level_colors(3)[1]
    handles: dict[str, Line2D | Patch] = {
        "mean": Line2D([], [], color=color, linewidth=1.6, marker="o", markersize=2.8),
        "10-90 % of edges": Patch(facecolor=color, alpha=0.25),
        "other levels": Line2D([], [], **OTHERS),
    }
    if alike:
        handles["all edges alike"] = Line2D([], [], **ALIKE)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=2 if figure.get_figwidth() < 5.0 else len(handles),
        frameon=False,
        fontsize=LABEL_SIZE - 0.5,
        labelcolor=INK,
    )


def _scale_axes(axes: Axes, levels: list[Bins]) -> None:
    """Sets the scales of the shared axes."""
    means = np.concatenate([bins.mean for bins in levels])
    lows = np.concatenate([bins.low for bins in levels])
    highs = np.concatenate([bins.high for bins in levels])
    if not len(means):
        return
    distances = np.concatenate([bins.distance for bins in levels])
    axes.set_xscale("log")
    write_plain_log_ticks(axes.xaxis, distances.min(), distances.max())
    positive = lows[lows > 0]
    if means.min() > 0 and len(positive) and highs.max() > 10.0 * means.min():
        axes.set_yscale("log")
        # A band may reach zero, so it is cut a little below the smallest mean.
        least = max(positive.min(), means.min() / 5.0)
        axes.set_ylim(least / 1.2, highs.max() * 1.3)
        write_plain_log_ticks(axes.yaxis, least, highs.max())
    else:
        axes.set_ylim(0.0, highs.max() * 1.08 or 1.0)
