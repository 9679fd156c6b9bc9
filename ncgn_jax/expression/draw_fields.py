"""Draws gene expression over place and time, and its path from noise to data.

Values that are not finite are ignored by scales and grey in maps.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ncgn_jax.pictures.style import (
    FAINT,
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    dress_axes,
)

Axis = Sequence[float] | np.ndarray
# High is dark, so that order survives a grey printer; the least is not paper white.
EXPRESSION = LinearSegmentedColormap.from_list(
    "expression", ["#eddcb8", "#e2a75c", "#c25a3c", "#6f2c6b", "#1a1d4d"]
).with_extremes(bad="#c9d0d6")


def checked(name: str, values: ArrayLike, **axes: int | None) -> np.ndarray:
    """Converts values to an array and checks its axes.

    Args:
      name: Name of the values in the message.
      values: Numbers or flags.
      **axes: Length of each axis, in order; None for any.

    Returns:
      A float array; flags stay bool.

    Raises:
      ValueError: If the shape is wrong or an axis is empty.
    """
    values = np.asarray(values)
    lengths = list(axes.values())
    fits = values.ndim == len(axes) and all(
        have > 0 and want in (None, have)
        for have, want in zip(values.shape, lengths, strict=False)
    )
    if not fits:
        words = [k if n is None else f"{k} {n}" for k, n in axes.items()]
        raise ValueError(
            f"{name} must be [{', '.join(words)}] and not empty, got {values.shape}"
        )
    return values if values.dtype == bool else values.astype(float)


def checked_flags(name: str, flags: ArrayLike, **axes: int | None) -> np.ndarray:
    """Checks flags as `checked` does, and refuses 0 and 1, which may be indices."""
    flags = checked(name, flags, **axes)
    if flags.dtype != bool:
        raise ValueError(f"{name} must be bool, got {flags.dtype}")
    return flags


def cell_edges(centres: np.ndarray) -> np.ndarray:
    """Returns edges halfway between rising centres, and beyond the outer two."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[:-1] + centres[1:]) / 2.0
    first, last = 2.0 * centres[0] - middles[0], 2.0 * centres[-1] - middles[-1]
    return np.concatenate([[first], middles, [last]])


def outline(flags: np.ndarray, across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Returns the edges between flagged cells and all others, or the outside.

    Args:
      flags: Bool, [row, column].
      across: Edges of the columns, [column + 1].
      up: Edges of the rows, [row + 1].

    Returns:
      Ends (x, y) of each edge, [edge, 2, 2].
    """
    padded = np.pad(flags, 1)
    row, column = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = [[across[column], up[row]], [across[column], up[row + 1]]]
    row, column = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = [[across[column], up[row]], [across[column + 1], up[row]]]
    return np.concatenate([np.moveaxis(np.array(e), -1, 0) for e in (upright, level)])


def limits_of(values: np.ndarray, share: float = 0.0) -> tuple[float, float]:
    """Returns the quantiles `share` and 1 - `share` of all finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.quantile(finite, [share, 1.0 - share])
    if low == high:  # few cells express the gene, or all values are equal
        low, high = finite.min(), finite.max()
    return float(low), float(high if low < high else low + 1.0)


def field_scales(fields: np.ndarray) -> list[tuple[float, float]]:
    """Returns the limits of each gene, at least a tenth as wide as the widest.

    A gene that is knocked out stays pale, without visible rounding errors.

    Args:
      fields: Expression, [..., gene].

    Returns:
      Lower and upper limit of each gene, always different.
    """
    finite = [values[np.isfinite(values)] for values in np.moveaxis(fields, -1, 0)]
    bounds = [(v.min(), v.max()) if len(v) else (0.0, 0.0) for v in finite]
    least = 0.1 * max(high - low for low, high in bounds) or 1.0
    return [(float(low), float(max(high, low + least))) for low, high in bounds]


def draw_fields(
    columns: Mapping[str, np.ndarray],
    times: Axis,
    places: Axis,
    genes: Sequence[str],
    given: Mapping[str, np.ndarray] | None = None,
    unit: str = "",
) -> Figure:
    """Draws heat maps over place and time, genes in rows and titles in columns.

    The maps of one gene share a colour scale, from the least to the largest value of
    all columns, at least a tenth as wide as that of the widest gene.

    Args:
      columns: Title ("simulated", "generated", ...) to field, [time, place, gene].
      times: Rising, [time].
      places: Rising, [place].
      genes: Name of each gene.
      given: Title to bool [time, place, gene], the known cells, which are outlined and
        hatched.
      unit: Unit of the expression.

    Returns:
      The figure.

    Raises:
      ValueError: If there is no column, a shape is wrong, times or places do not rise,
        or `given` names an unknown column.
    """
    if not columns:
        raise ValueError("there are no fields to draw")
    sizes = {"time": len(times), "place": len(places), "gene": len(genes)}
    fields = {
        title: checked(f"field '{title}'", field, **sizes)
        for title, field in columns.items()
    }
    marks = {
        title: checked_flags(f"given '{title}'", flags, **sizes)
        for title, flags in (given or {}).items()
    }
    if unknown := set(marks) - set(fields):
        raise ValueError(
            f"given names {sorted(unknown)}; there are fields {sorted(fields)}"
        )
    together = np.stack(list(fields.values()))
    scales = field_scales(together)
    figure, panels = _draw_maps(
        together, times, places, [scales] * len(fields), [marks.get(t) for t in fields]
    )
    name_grid(panels, list(fields), genes)
    for gene, row in enumerate(panels):
        norm = Normalize(*scales[gene])
        add_color_bar(figure, row, together[..., gene], norm, unit)
    if marks:
        handles = [Patch(facecolor="none", edgecolor=INK, hatch="///", linewidth=0.9)]
        add_legend(figure, handles, ["given"])
    return figure


def draw_path(
    states: np.ndarray,
    levels: ArrayLike,
    times: Axis,
    places: Axis,
    genes: Sequence[str],
    unit: str = "",
) -> Figure:
    """Draws a field on its way from noise to data, a column for each step.

    Every map has its own colour scale, written above it, because noise is wider than
    data.

    Args:
      states: From noise to data, [step, time, place, gene].
      levels: Signal level of each step in [0, 1], [step].
      times: Rising, [time].
      places: Rising, [place].
      genes: Name of each gene.
      unit: Unit of the expression.

    Returns:
      The figure.

    Raises:
      ValueError: If a shape is wrong, or times or places do not rise.
    """
    sizes = {"time": len(times), "place": len(places), "gene": len(genes)}
    states = checked("states", states, step=None, **sizes)
    levels = checked("levels", levels, step=len(states))
    scales = [field_scales(state) for state in states]
    figure, panels = _draw_maps(states, times, places, scales, [None] * len(states))
    name_grid(panels, [""] * len(states), genes)
    for (gene, step), axes in np.ndenumerate(panels):
        low, high = scales[step][gene]
        headline = f"signal {levels[step]:.2f}\n" if gene == 0 else ""
        axes.set_title(
            headline + f"{low:.2g} to {high:.2g}".replace("-", "\N{MINUS SIGN}"),
            fontsize=TICK_SIZE,
            color=INK,
            pad=3,
        )
    relative = np.array([0.0, 1.0])
    bar = add_color_bar(figure, panels.ravel(), relative, Normalize(0.0, 1.0))
    bar.set_ticks([0.0, 1.0], labels=["least", "most"])
    bar.set_label(
        with_unit("expression in each map", unit), fontsize=TICK_SIZE, color=INK
    )
    return figure


def _draw_maps(
    fields: np.ndarray,
    times: Axis,
    places: Axis,
    scales: Sequence[Sequence[tuple[float, float]]],
    marks: Sequence[np.ndarray | None],
) -> tuple[Figure, np.ndarray]:
    """Draws heat maps of [column, time, place, gene]; scales are [column][gene]."""
    up = _rising_edges("times", times)
    across = _rising_edges("places", places)
    num_columns, *_, num_genes = fields.shape
    figure = Figure(
        figsize=(1.55 * num_columns + 1.5, 1.35 * num_genes + 0.8),
        layout="constrained",
    )
    panels = figure.subplots(
        num_genes, num_columns, sharex=True, sharey=True, squeeze=False
    )
    for (gene, column), axes in np.ndenumerate(panels):
        dress_axes(axes)
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.pcolormesh(
            across, up, fields[column, ..., gene], cmap=EXPRESSION,
            norm=Normalize(*scales[column][gene]), rasterized=True,
        )  # fmt: skip
        flags = marks[column]
        if flags is not None:
            _mark_cells(axes, flags[..., gene], across, up)
    figure.supxlabel("place", fontsize=LABEL_SIZE, color=INK)
    figure.supylabel("time", fontsize=LABEL_SIZE, color=INK)
    return figure, panels


def _rising_edges(name: str, centres: Axis) -> np.ndarray:
    centres = checked(name, centres, **{name.removesuffix("s"): None})
    if not np.all(np.diff(centres) > 0.0) or not np.isfinite(centres).all():
        raise ValueError(f"{name} must rise, got {centres}")
    return cell_edges(centres)


def _mark_cells(
    axes: Axes, flags: np.ndarray, across: np.ndarray, up: np.ndarray
) -> None:
    """Outlines and hatches flagged cells, dark on light to be visible on any shade.

    The hatching separates inside from outside where flags are scattered.
    """
    # Strokes continue from cell to cell; fine grids get every second, third, ...
    every = -(-max(flags.shape) // 14)
    rows, columns = np.indices(flags.shape)
    row, column = np.nonzero(flags & ((columns - rows) % every == 0))
    strokes = [[across[column], up[row]], [across[column + 1], up[row + 1]]]
    ends = outline(flags, across, up)
    for lines, color, width in (
        (np.moveaxis(np.array(strokes), -1, 0), FAINT, 0.6),
        (ends, "white", 2.0),
        (ends, INK, 0.9),
    ):
        axes.add_collection(
            LineCollection(
                list(lines), colors=color, linewidths=width, capstyle="projecting",
                clip_on=False, zorder=3,
            ),
            autolim=False,
        )  # fmt: skip


def with_unit(quantity: str, unit: str) -> str:
    """Writes a unit, if there is one, below a quantity."""
    return f"{quantity}\n({unit})" if unit else quantity


def add_color_bar(
    figure: Figure,
    panels: np.ndarray,
    values: np.ndarray,
    norm: Normalize,
    unit: str = "",
) -> Colorbar:
    """Adds a bar right of the panels, with points where values exceed its ends."""
    finite = values[np.isfinite(values)]
    below, above = np.any(finite < norm.vmin), np.any(finite > norm.vmax)
    bar = figure.colorbar(
        ScalarMappable(norm, EXPRESSION),
        ax=list(panels),
        extend=("neither", "max", "min", "both")[2 * below + above],
        ticks=MaxNLocator(4),
        fraction=0.08,
        pad=0.02,
        aspect=18,
    )
    bar.set_label(with_unit("expression", unit), fontsize=TICK_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK, length=2, width=0.6)
    bar.outline.set_visible(False)
    return bar


def name_grid(panels: np.ndarray, titles: Sequence[str], genes: Sequence[str]) -> None:
    """Writes titles above the columns and genes before the rows."""
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(textwrap.fill(title, 20), fontsize=LABEL_SIZE, color=INK, pad=5)
    for axes, gene in zip(panels[:, 0], genes, strict=True):
        axes.set_ylabel(gene, fontsize=TITLE_SIZE, color=INK, weight="bold")


def add_legend(figure: Figure, handles: Sequence[Artist], labels: list[str]) -> None:
    """Adds a legend above all panels, with at most four entries per row."""
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(len(labels), 4),
        frameon=False, fontsize=LABEL_SIZE - 0.5,
    )  # fmt: skip
