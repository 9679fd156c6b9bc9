"""Draws images: sheets, paths from noise, nearest neighbours, and cost over time."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ncgn_jax.pictures.output import save_figure
from ncgn_jax.pictures.style import (
    CATEGORIES,
    FAINT,
    INK,
    LABEL_SIZE,
    dress_axes,
    title_sheet,
)

# Inches of an image in a sheet, of a caption, and of a letter in it.
_CELL, _CAPTION, _LETTER = 0.62, 0.2, 0.06


def draw_image_rows(
    rows: Iterable[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
    headings: Sequence[str] = (),
    grids: Sequence[int | None] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
) -> Path:
    """Draws images in titled rows: classes, paths, or samples over their neighbours.

    Args:
      rows: Images of each row, uint8 [image, height, width, 1 or 3].
      titles: One for each row.
      path: File to write.
      headings: One for each column, none if empty.
      grids: Side of the patches drawn over each column, None for none.
      captions: Text above each image of each row, none if empty.
      title: Line above all of them.

    Returns:
      The path.

    Raises:
      ValueError: If there is no row, or not one title for each.
    """
    rows = list(rows)
    if not rows or len(rows) != len(titles):
        raise ValueError(f"{len(rows)} rows with {len(titles)} titles")
    columns = max(len(row) for row in rows)
    height, width = rows[0].shape[1:3]
    cell = _CELL * max(1.0, min(3.0, max(height, width) / 32))
    tall = cell * height / width
    # Captions need room above the images, and columns as wide as the longest.
    room = _CAPTION if captions else 0.06 * tall
    longest = max((len(text) for row in captions for text in row), default=0)
    across = max(0.06 * cell, _LETTER * longest - cell)
    # The images fill the figure; all words stand beyond its edges.
    figure = Figure(
        (
            cell * columns + across * (columns - 1),
            tall * len(rows) + room * (len(rows) - 1),
        )
    )
    spaces = {"wspace": across / cell, "hspace": room / tall}
    edges = {"left": 0.0, "right": 1.0, "bottom": 0.0, "top": 1.0}
    panels = figure.subplots(
        len(rows), columns, squeeze=False, gridspec_kw={**spaces, **edges}
    )
    for i, (row, name) in enumerate(zip(rows, titles, strict=True)):
        for k, axes in enumerate(panels[i]):
            axes.set_axis_off()
            if k >= len(row):
                continue
            _show(axes, row[k])
            patch = grids[k] if k < len(grids) else None
            if patch:
                _draw_patches(axes, height, width, patch)
            if captions:
                axes.set_title(
                    captions[i][k], fontsize=LABEL_SIZE - 2, color=INK, pad=2
                )
            elif i == 0 and k < len(headings):
                axes.set_title(headings[k], fontsize=LABEL_SIZE - 1, color=INK, pad=3)
        panels[i, 0].text(
            -0.12,
            0.5,
            name,
            transform=panels[i, 0].transAxes,
            ha="right",
            va="center",
            fontsize=LABEL_SIZE,
            color=INK,
        )
    title_sheet(figure, title, 0.3 if headings or captions else 0.1)
    return save_figure(figure, path)


def draw_costs(
    times: ArrayLike,
    costs: ArrayLike,
    tokens: ArrayLike,
    mean_cost: float,
    path: str | Path,
) -> Path:
    """Draws multiply-adds and tokens of each noise bucket against time.

    Args:
      times: Ends of the buckets, [bucket + 1], from 0 to 1.
      costs: Million multiply-adds per image, [bucket].
      tokens: Patches, [bucket].
      mean_cost: Mean cost over t.
      path: File to write.

    Returns:
      The path.
    """
    figure = Figure((6.4, 2.6))
    left, right = figure.subplots(1, 2)
    for axes, values, label, heading, color in (
        (left, costs, "million multiply-adds", "Cost of one image", CATEGORIES[0]),
        (right, tokens, "tokens", "Resolution", CATEGORIES[1]),
    ):
        axes.stairs(
            np.asarray(values, float),
            np.asarray(times),
            baseline=None,
            color=color,
            lw=1.8,
        )
        dress_axes(axes, "time t   (0 = noise, 1 = data)", label, heading)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 1)
    left.axhline(mean_cost, color=FAINT, lw=1.0, ls=(0, (4, 2)))
    left.text(0.02, mean_cost, "mean", fontsize=LABEL_SIZE - 1, color=INK, va="bottom")
    figure.tight_layout()
    return save_figure(figure, path)


def _show(axes: Axes, image: np.ndarray) -> None:
    gray = image.shape[-1] == 1
    axes.imshow(
        image[..., 0] if gray else image,
        cmap="gray" if gray else None,
        vmin=0,
        vmax=255,
        interpolation="nearest",
    )


def _draw_patches(axes: Axes, height: int, width: int, patch: int) -> None:
    lines = [
        *(([x, x], [-0.5, height - 0.5]) for x in np.arange(0, width + 1, patch) - 0.5),
        *(([-0.5, width - 0.5], [y, y]) for y in np.arange(0, height + 1, patch) - 0.5),
    ]
    for xs, ys in lines:
        axes.plot(xs, ys, color=CATEGORIES[3], lw=0.5, alpha=0.8)
