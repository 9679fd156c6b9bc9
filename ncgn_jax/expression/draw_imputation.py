"""Draws imputed against measured expression: profiles, tissues, scatter plots.

Values that are not finite are missing in scales, curves and dots, and grey in maps.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType, LineStyleType, MarkerType

from ncgn_jax.expression.draw_fields import (
    EXPRESSION,
    add_color_bar,
    add_legend,
    cell_edges,
    checked,
    checked_flags,
    limits_of,
    name_grid,
    with_unit,
)
from ncgn_jax.pictures.style import (
    CATEGORIES,
    DASHES,
    FAINT,
    INK,
    LABEL_SIZE,
    TITLE_SIZE,
    dress_axes,
)

MAX_SCATTERS = 12
MAX_POINTS = 4000
SHADE = "#e6eaee"


class _Line(TypedDict, total=False):
    """Looks of a line."""

    color: ColorType
    linewidth: float
    linestyle: LineStyleType
    marker: MarkerType
    markersize: float


MEASURED: _Line = {"color": INK, "linestyle": "none", "marker": "o", "markersize": 3.0}
IMPUTED: _Line = {"color": CATEGORIES[1], "linewidth": 1.6}


def draw_profiles(
    positions: np.ndarray,
    measured: np.ndarray,
    imputed: np.ndarray,
    hidden: np.ndarray,
    genes: Sequence[str],
    baselines: Mapping[str, np.ndarray] | None = None,
    unit: str = "",
) -> Figure:
    """Draws profiles along a line, a row for each sample and a column for each gene.

    Dots are measured values, hollow where they were hidden; hidden stretches are
    shaded. All samples of a gene share a vertical scale that holds measured and imputed
    values; baselines are cut if they leave it by more than half its height.

    Args:
      positions: Places of the nodes in any order, [node].
      measured: Measured values, [sample, node, gene].
      imputed: Values from the model, [sample, node, gene].
      hidden: True where the model had no value, bool [sample, node, gene].
      genes: Name of each gene.
      baselines: Name to other imputations, [sample, node, gene].
      unit: Unit of the expression.

    Returns:
      The figure.

    Raises:
      ValueError: If a shape is wrong or `hidden` is not bool.
    """
    positions = checked("positions", positions, node=None)
    order = np.argsort(positions, kind="stable")
    sizes = {"node": len(positions), "gene": len(genes)}
    measured = checked("measured", measured, sample=None, **sizes)
    sizes = {"sample": len(measured), **sizes}
    imputed = checked("imputed", imputed, **sizes)
    hidden = checked_flags("hidden", hidden, **sizes)
    others = {
        name: checked(f"baseline '{name}'", values, **sizes)
        for name, values in (baselines or {}).items()
    }
    num_samples, _, num_genes = measured.shape
    figure = Figure(
        figsize=(2.5 * num_genes + 0.6, 1.45 * num_samples + 0.9), layout="constrained"
    )
    panels = figure.subplots(
        num_samples, num_genes, sharex=True, sharey="col", squeeze=False
    )
    for (sample, gene), axes in np.ndenumerate(panels):
        at = (sample, order, gene)
        lines = {name: values[at] for name, values in others.items()}
        _draw_profile(
            axes, positions[order], measured[at], imputed[at], hidden[at], lines
        )
        axes.set_title(genes[gene] if sample == 0 else "", fontsize=TITLE_SIZE)
        if gene == 0:
            axes.set_ylabel(f"sample {sample + 1}", fontsize=LABEL_SIZE, color=INK)
    for gene, axes in enumerate(panels[0]):
        axes.title.set(weight="bold", color=INK)
        shown = np.stack([measured[..., gene], imputed[..., gene]])
        reaches = [values[..., gene] for values in others.values()]
        axes.set_ylim(*_profile_limits(shown, reaches))
    figure.supxlabel("position", fontsize=LABEL_SIZE, color=INK)
    figure.supylabel(with_unit("expression", unit), fontsize=LABEL_SIZE, color=INK)
    _add_profile_legend(figure, list(others), bool(hidden.any()))
    return figure


def _draw_profile(
    axes: Axes,
    positions: np.ndarray,
    measured: np.ndarray,
    imputed: np.ndarray,
    hidden: np.ndarray,
    baselines: Mapping[str, np.ndarray],
) -> None:
    """Draws one sample and gene; positions must rise."""
    dress_axes(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    edges = cell_edges(positions)
    turns = np.flatnonzero(np.diff(np.pad(hidden.astype(int), 1)))
    for first, last in turns.reshape(-1, 2):
        axes.axvspan(edges[first], edges[last], color=SHADE, linewidth=0, zorder=-1)
    for index, values in enumerate(baselines.values()):
        axes.plot(positions, values, **_baseline_style(index))
    axes.plot(positions, imputed, zorder=3, **IMPUTED)
    for those, face in ((~hidden, INK), (hidden, "white")):
        axes.plot(
            positions[those], measured[those], markerfacecolor=face,
            markeredgewidth=0.7, zorder=4, **MEASURED,
        )  # fmt: skip
    # Room for the dots at the ends.
    room = 0.015 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - room, edges[-1] + room)


def _baseline_style(index: int) -> _Line:
    colors = [color for color in CATEGORIES if color != IMPUTED["color"]]
    return {
        "color": colors[index % len(colors)],
        "linestyle": DASHES[1 + index % (len(DASHES) - 1)],
        "linewidth": 0.9,
    }


def _profile_limits(
    shown: np.ndarray, baselines: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Returns limits for the shown values, and baselines up to half a span beyond."""
    low, high = limits_of(shown)
    room = (high - low) / 2.0
    reach = [np.clip(b, low - room, high + room).ravel() for b in baselines]
    low, high = limits_of(np.concatenate([[low, high], *reach]))
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _add_profile_legend(figure: Figure, names: list[str], any_hidden: bool) -> None:
    handles: dict[str, Line2D | Patch] = {"measured": Line2D([], [], **MEASURED)}
    if any_hidden:
        handles["measured, hidden"] = Line2D(
            [], [], markerfacecolor="white", markeredgewidth=0.7, **MEASURED
        )
        handles["hidden stretch"] = Patch(facecolor=SHADE)
    handles["imputed"] = Line2D([], [], **IMPUTED)
    for index, name in enumerate(names):
        handles[name] = Line2D([], [], **_baseline_style(index))
    add_legend(figure, list(handles.values()), list(handles))


def draw_tissue(
    positions: np.ndarray,
    columns: Mapping[str, np.ndarray],
    genes: Sequence[str],
    unit: str = "",
) -> Figure:
    """Draws maps of a tissue, a dot for each cell and a row for each gene.

    The columns of a gene share a colour scale, from the 0.5 % to the 99.5 % quantile of
    all of them, because a few cells may express far more than the rest.

    Args:
      positions: Place of each cell, [cell, 2].
      columns: Title ("measured", "imputed", ...) to expression, [cell, gene].
      genes: Name of each gene.
      unit: Unit of the expression.

    Returns:
      The figure.

    Raises:
      ValueError: If there is no column or a shape is wrong.
    """
    if not columns:
        raise ValueError("there are no columns to draw")
    positions = checked("positions", positions, cell=None, dim=2)
    sizes = {"cell": len(positions), "gene": len(genes)}
    maps = {
        title: checked(f"column '{title}'", v, **sizes) for title, v in columns.items()
    }
    low, high = np.nanmin(positions, axis=0), np.nanmax(positions, axis=0)
    width, height = np.maximum(high - low, 1e-3 * np.max(high - low, initial=1e-9))
    # Elongated tissues get elongated panels of about the same area.
    slender = float(np.clip(np.sqrt(height / width), 0.6, 1.5))
    size = (1.9 / slender, 1.9 * slender)
    figure = Figure(
        figsize=(
            size[0] * len(maps) + 0.9,
            (size[1] + 0.1) * len(genes) + 0.35,
        ),
        layout="constrained",
    )
    panels = figure.subplots(len(genes), len(maps), squeeze=False)
    name_grid(panels, list(maps), genes)
    dot = float(np.clip(0.45 * 72.0**2 * size[0] * size[1] / len(positions), 0.6, 14.0))
    for gene, row in enumerate(panels):
        shown = np.stack([values[:, gene] for values in maps.values()])
        norm = Normalize(*limits_of(shown, share=0.005))
        _draw_cells(figure, row, positions, shown, norm, dot, unit)
    return figure


def _draw_cells(
    figure: Figure,
    panels: np.ndarray,
    positions: np.ndarray,
    columns: np.ndarray,
    norm: Normalize,
    dot: float,
    unit: str,
) -> None:
    """Draws the panels of one gene, which share a scale; columns are [column, cell]."""
    for axes, values in zip(panels, columns, strict=True):
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.scatter(
            positions[:, 0], positions[:, 1], c=values, s=dot, cmap=EXPRESSION,
            norm=norm, linewidths=0, plotnonfinite=True, rasterized=True,
        )  # fmt: skip
    add_color_bar(figure, panels, columns, norm, unit)


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the correlation of two lists of finite values, nan if undefined."""
    if len(first) < 2:
        return float("nan")
    first, second = first - np.mean(first), second - np.mean(second)
    scale = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / scale) if scale > 0.0 else float("nan")


def draw_scatter(
    measured: np.ndarray,
    imputed: np.ndarray,
    genes: Sequence[str],
    hidden: np.ndarray | None = None,
    unit: str = "",
) -> Figure:
    """Draws imputed against measured values, a panel for each of at most 12 genes.

    Both axes of a panel have the same scale; the diagonal is a perfect imputation.
    Pearson's r is computed from all entries, of which at most 4,000 are drawn. A line
    below summarises the genes without a panel.

    Args:
      measured: Measured values, [..., gene].
      imputed: Imputed values, same shape.
      genes: Name of each gene.
      hidden: True for entries to compare, bool, same shape; None for all. Entries
        where either value is not finite are left out.
      unit: Unit of the expression.

    Returns:
      The figure.

    Raises:
      ValueError: If a shape is wrong or `hidden` is not bool.
    """
    measured, imputed = np.asarray(measured, float), np.asarray(imputed, float)
    hidden = np.ones(measured.shape, bool) if hidden is None else np.asarray(hidden)
    if imputed.shape != measured.shape or hidden.shape != measured.shape:
        raise ValueError(
            "measured, imputed and hidden must have one shape, got "
            f"{measured.shape}, {imputed.shape}, {hidden.shape}"
        )
    if measured.shape[-1:] != (len(genes),) or not len(genes):
        raise ValueError(
            f"measured must be [..., gene {len(genes)}] with at least one gene, "
            f"got {measured.shape}"
        )
    hidden = checked_flags(
        "hidden", hidden.reshape(-1, len(genes)), entry=None, gene=None
    )
    kept = hidden & (np.isfinite(measured) & np.isfinite(imputed)).reshape(hidden.shape)
    pairs = [
        (
            measured.reshape(hidden.shape)[kept[:, gene], gene],
            imputed.reshape(hidden.shape)[kept[:, gene], gene],
        )
        for gene in range(len(genes))
    ]
    num_panels = min(len(genes), MAX_SCATTERS)
    num_rows = -(-num_panels // 4)
    num_columns = -(-num_panels // num_rows)
    figure = Figure(
        figsize=(1.95 * num_columns + 0.4, 2.25 * num_rows + 0.3),
        layout=ConstrainedLayoutEngine(h_pad=0.08),
    )
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for gene, axes in enumerate(panels[:num_panels]):
        _draw_pairs(axes, *pairs[gene], genes[gene])
    for axes in panels[num_panels:]:
        axes.set_visible(False)
    lines = [f"measured, {unit}" if unit else "measured"]
    if max(len(pair[0]) for pair in pairs[:num_panels]) > MAX_POINTS:
        lines[0] += f"   ({MAX_POINTS:,} entries drawn at most)"
    if num_panels < len(genes):
        lines.append(_caption_of_rest(genes[num_panels:], pairs[num_panels:]))
    figure.supxlabel("\n".join(lines), fontsize=LABEL_SIZE, color=INK)
    figure.supylabel("imputed", fontsize=LABEL_SIZE, color=INK)
    return figure


def _draw_pairs(
    axes: Axes, measured: np.ndarray, imputed: np.ndarray, gene: str
) -> None:
    dress_axes(axes)
    axes.set_box_aspect(1.0)
    r = pearson(measured, imputed)
    said = (
        f"r = {r:.2f}".replace("-", "\N{MINUS SIGN}")
        if np.isfinite(r)
        else "r undefined"
    )
    axes.set_title(
        f"{gene}\n{said}, n = {len(measured):,}", fontsize=LABEL_SIZE, color=INK
    )
    low, high = limits_of(np.concatenate([measured, imputed]))
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    axes.set(xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.axline((low, low), slope=1.0, color=FAINT, linewidth=0.9, linestyle=DASHES[1])
    drawn = np.arange(len(measured))
    if len(drawn) > MAX_POINTS:
        drawn = np.random.default_rng(0).choice(drawn, MAX_POINTS, replace=False)
    axes.scatter(
        measured[drawn], imputed[drawn], color=CATEGORIES[0], linewidths=0,
        s=float(np.clip(2500.0 / max(len(drawn), 1), 3.0, 14.0)),
        alpha=float(np.clip(150.0 / max(len(drawn), 1), 0.2, 0.7)),
        rasterized=True,
    )  # fmt: skip


def _caption_of_rest(
    genes: Sequence[str], pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> str:
    """Names the genes without a panel, and the range of their correlations."""
    names = ", ".join(genes[:6]) + (", ..." if len(genes) > 6 else "")
    noun = "gene is" if len(genes) == 1 else "genes are"
    caption = textwrap.fill(f"{len(genes)} more {noun} not drawn ({names})", 90)
    values = np.array([pearson(*pair) for pair in pairs])
    values = values[np.isfinite(values)]
    if not len(values):
        return f"{caption}: r undefined"
    ends = f"r from {values.min():.2f} to {values.max():.2f}, "
    said = f"{ends}median {np.median(values):.2f}".replace("-", "\N{MINUS SIGN}")
    return f"{caption}:\n{said}"
