"""Draws range and resolution against signal level, and losses against steps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ncgn_jax.pictures.style import (
    CATEGORIES,
    DASHES,
    FAINT,
    INK,
    LABEL_SIZE,
    MARKERS,
    TICK_SIZE,
    dress_axes,
    level_colors,
    write_plain_log_ticks,
)

_MOST_MEDIANS = 400
_SMOOTHING = 0.02  # half width of the window of medians, as a share of all steps


def draw_schedule(
    signal_level: np.ndarray,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    bucket_edges: Sequence[float],
    bucket_shapes: Sequence[tuple[int, int]],
) -> Figure:
    """Draws resolution (supernodes) and range (neighbours) against signal level.

    Args:
      signal_level: In [0, 1], rising, [level].
      curves: Name to (supernodes, neighbours), each [level].
      bucket_edges: Signal levels at which one noise bucket ends and the next
        begins; 0 and 1 may be among them.
      bucket_shapes: (supernodes, neighbours) of each bucket, from noise to data;
        drawn as steps, one more than there are edges inside (0, 1).

    Returns:
      The figure.

    Raises:
      ValueError: If a curve's length is not that of `signal_level`, or the number
        of bucket shapes does not fit the edges.
    """
    signal_level = np.asarray(signal_level, float)
    edges = sorted(float(edge) for edge in bucket_edges if 0.0 < edge < 1.0)
    if len(bucket_shapes) != len(edges) + 1:
        raise ValueError(
            f"{len(edges)} edges inside (0, 1) make {len(edges) + 1} buckets, "
            f"got {len(bucket_shapes)} shapes"
        )
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    panels = figure.subplots(1, 2)
    names = ("supernodes", "neighbours of each")
    titles = ("Resolution", "Range")
    for which, (axes, name) in enumerate(zip(panels, names, strict=True)):
        dress_axes(axes, "signal level   (0 = noise, 1 = data)", name, titles[which])
        _shade_buckets(axes, edges)
        for index, (curve_name, pair) in enumerate(curves.items()):
            values = np.asarray(pair[which], float)
            if values.shape != signal_level.shape:
                raise ValueError(
                    f"curve '{curve_name}' has shape {values.shape}, "
                    f"signal_level {signal_level.shape}"
                )
            axes.plot(
                signal_level,
                values,
                label=curve_name,
                color=CATEGORIES[index % len(CATEGORIES)],
                linestyle=DASHES[index % len(DASHES)],
                linewidth=1.7,
            )
        axes.stairs(
            [shape[which] for shape in bucket_shapes],
            [0.0, *edges, 1.0],
            baseline=None,
            color=INK,
            linewidth=1.1,
            label="noise buckets",
            zorder=4,
        )
        axes.set_xlim(0.0, 1.0)
        axes.set_yscale("log")
        write_plain_log_ticks(axes.yaxis, *axes.get_ylim())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=min(len(labels), 6),
        frameon=False,
        fontsize=LABEL_SIZE,
        labelcolor=INK,
    )
    return figure


def _shade_buckets(axes: Axes, edges: Sequence[float]) -> None:
    """Shades every second bucket."""
    bounds = [0.0, *edges, 1.0]
    if not edges:
        return
    for index in range(0, len(bounds) - 1, 2):
        axes.axvspan(
            bounds[index], bounds[index + 1], color="#f0f2f4", linewidth=0, zorder=-1
        )


def smooth(
    steps: np.ndarray, values: np.ndarray, window: float
) -> tuple[np.ndarray, np.ndarray]:
    """Takes a running median, which a single spike neither moves nor distorts.

    Args:
      steps: Rising, [step].
      values: Finite values, [step].
      window: Half width of the window, in steps, >= 0.

    Returns:
      The steps at which medians were taken (at most 400), and the medians, [point].
    """
    if not len(steps):
        return steps, values
    at = np.unique(np.linspace(0, len(steps) - 1, _MOST_MEDIANS).round().astype(int))
    first = np.searchsorted(steps, steps[at] - window, side="left")
    last = np.searchsorted(steps, steps[at] + window, side="right")
    medians = [np.median(values[a:b]) for a, b in zip(first, last, strict=True)]
    return steps[at], np.asarray(medians)


def draw_loss(steps: ArrayLike, losses: Mapping[str, ArrayLike], ylabel: str) -> Figure:
    """Draws one loss curve per noise bucket, raw faintly, its running median boldly.

    The loss axis is logarithmic if the losses are positive and span more than a
    factor of five. Values that are not finite leave gaps.

    Args:
      steps: Rising, [step].
      losses: Name to loss, [step], ordered from noise to data.
      ylabel: Name of the loss, with its unit if it has one.

    Returns:
      The figure.

    Raises:
      ValueError: If a loss has another length than `steps`.
    """
    steps = np.asarray(steps, float)
    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    axes = figure.subplots()
    dress_axes(axes, "training step", ylabel, "Loss of each noise bucket")
    window = _SMOOTHING * (steps[-1] - steps[0]) if len(steps) > 20 else 0.0
    shown = []
    for index, (name, color) in enumerate(
        zip(losses, level_colors(len(losses)), strict=True)
    ):
        values = np.asarray(losses[name], float)
        if values.shape != steps.shape:
            raise ValueError(
                f"loss '{name}' has shape {values.shape}, steps {steps.shape}"
            )
        there = np.isfinite(values)
        at, smoothed = smooth(steps[there], values[there], window)
        axes.plot(steps[there], values[there], color=color, linewidth=0.5, alpha=0.28)
        axes.plot(
            at,
            smoothed,
            color=color,
            linewidth=1.7,
            linestyle=DASHES[index % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.0,
            markeredgecolor="white",
            markeredgewidth=0.5,
            markevery=(index * 0.012 + 0.04, 0.16),
            label=name,
        )
        shown.append(smoothed)
    _scale_loss(axes, steps, np.concatenate(shown) if shown else np.zeros(0))
    if losses:
        figure.legend(
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=LABEL_SIZE - 0.5,
            labelcolor=INK,
            handlelength=3.0,
        )
    return figure


def _scale_loss(axes: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    """Fits limits to the smoothed curves, so that a spike does not flatten the rest."""
    if not len(values):
        axes.text(
            0.5, 0.5, "no finite loss", transform=axes.transAxes, ha="center",
            color=FAINT, fontsize=TICK_SIZE,
        )  # fmt: skip
        return
    low, high = float(values.min()), float(values.max())
    if low > 0.0 and high > 5.0 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.2)
        write_plain_log_ticks(axes.yaxis, low, high)
    else:
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    if len(steps) > 1:
        axes.set_xlim(steps[0], steps[-1])
