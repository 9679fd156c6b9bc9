"""Draws the latent space of atoms: points by class, differences of pairs by bond."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncgn_jax.pictures.output import save_figure
from ncgn_jax.pictures.style import (
    CATEGORIES,
    GRID,
    INK,
    MARKERS,
    TICK_SIZE,
    dress_axes,
)

_BOND_NAMES = ("no bond", "single", "double", "triple")
_MAX_DOTS = 20_000


def draw_latents(
    latents: np.ndarray,
    classes: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    pairs: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
) -> Path:
    """Draws the latent points of atoms, and the offsets between bonded ones.

    The left panel shows the first two dimensions by class of the atom, rare classes on
    top. The right panel, if pairs are given, shows the difference of the latents of
    each pair by order of the bond. A one-dimensional latent is drawn at the height of
    its class or order.

    Args:
      latents: Latent points of real atoms, [node, dim]; at most 20,000 are drawn.
      classes: Class of every atom, [node].
      names: Name of every class, [class].
      path: File to write, for example `latents.png`.
      pairs: Two nodes of the same molecule, [pair, 2].
      bonds: Order of the bond of each pair, 0 to 3, 0 = not bonded, [pair].

    Returns:
      The path.

    Raises:
      ValueError: If shapes do not fit, or only one of pairs and bonds is given.
    """
    latents, classes = np.asarray(latents, float), np.asarray(classes)
    if latents.ndim != 2 or not latents.size or classes.shape != latents.shape[:1]:
        raise ValueError(
            "latents must be [node, dim] and not empty, classes [node]; got "
            f"{latents.shape} and {classes.shape}"
        )
    if (pairs is None) != (bonds is None):
        raise ValueError("pairs without bonds, or bonds without pairs; allowed: both")
    num_panels = 1 if pairs is None else 2
    figure = Figure(figsize=(4.6 * num_panels, 4.1), layout="constrained")
    panels = figure.subplots(1, num_panels, squeeze=False)[0]
    _scatter(panels[0], latents, classes, names, "Latents of atoms")
    if pairs is not None:
        pairs, bonds = np.asarray(pairs, int).reshape(-1, 2), np.asarray(bonds)
        if bonds.shape != pairs.shape[:1]:
            raise ValueError(f"{len(pairs)} pairs, but bonds {bonds.shape}")
        steps = latents[pairs[:, 1]] - latents[pairs[:, 0]]
        _scatter(panels[1], steps, bonds, _BOND_NAMES, "Differences of pairs")
    return save_figure(figure, path)


def _scatter(
    axes: Axes, points: np.ndarray, kinds: np.ndarray, names: Sequence[str], title: str
) -> None:
    """Scatters the first two dimensions, most frequent kind first."""
    points, kinds = points[:_MAX_DOTS], kinds[:_MAX_DOTS]
    flat = points.shape[1] == 1
    found, counts = np.unique(kinds, return_counts=True)
    for kind in found[np.argsort(-counts, kind="stable")]:
        chosen = points[kinds == kind]
        axes.scatter(
            chosen[:, 0],
            np.full(len(chosen), kind) if flat else chosen[:, 1],
            # Dots shrink with their number, so that a rare kind stays visible.
            s=float(np.clip(1e4 / len(chosen), 5.0, 30.0)),
            color=CATEGORIES[kind % len(CATEGORIES)],
            marker=MARKERS[kind % len(MARKERS)],
            linewidths=0,
            alpha=0.7,
            label=f"{names[kind]} ({len(chosen)})",
            gid=str(names[kind]),
        )
    dress_axes(axes, "dimension 1", "" if flat else "dimension 2", title)
    if flat:
        axes.set_yticks(found, [names[kind] for kind in found])
    else:
        axes.set_aspect("equal", "datalim")
    legend = axes.legend(fontsize=TICK_SIZE, labelcolor=INK, framealpha=0.85)
    legend.get_frame().set_edgecolor(GRID)
    for handle in filter(None, legend.legend_handles):
        handle.set(alpha=1.0, sizes=[26.0])
