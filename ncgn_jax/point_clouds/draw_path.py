"""Draws the path from noise to data, with the coarse graph of each noise bucket."""

from collections.abc import Sequence
from typing import Required, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ncgn_jax.pictures.style import (
    INK,
    LABEL_SIZE,
    NEAR_FAR,
    TITLE_SIZE,
    cell_colors,
)
from ncgn_jax.point_clouds.projection import (
    Projected,
    draw_points,
    frame_panel,
    half_extent,
    middle_of,
    project_points,
)

MAX_EDGES = 4000


class DenoisingState(TypedDict, total=False):
    """A moment of a sampler's path; `assignment` and `label` may be absent.

    Attributes:
      t: Time, 0 = noise, 1 = data.
      signal_level: In [0, 1], rising with cleanliness.
      points: Positions, [node, 2 or 3].
      supernode_positions: Positions of the occupied supernodes, [supernode, dim].
      senders: Supernode at the start of each edge, int [edge].
      receivers: Supernode at the end of each edge, int [edge].
      assignment: Supernode of each node, int [node]; the nearest if absent.
      label: Extra words above the column.
    """

    t: Required[float]
    signal_level: Required[float]
    points: Required[np.ndarray]
    supernode_positions: Required[np.ndarray]
    senders: Required[np.ndarray]
    receivers: Required[np.ndarray]
    assignment: np.ndarray
    label: str


def nearest_supernode(points: np.ndarray, supernodes: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest supernode of each point, [node]."""
    gap = points[:, None, :] - supernodes[None, :, :]
    return np.argmin(np.sum(gap * gap, axis=-1), axis=-1)


def thin_edges(num_edges: int) -> np.ndarray:
    """Returns the indices of all edges, or of `MAX_EDGES` drawn with a fixed seed."""
    if num_edges <= MAX_EDGES:
        return np.arange(num_edges)
    chosen = np.random.default_rng(0).choice(num_edges, MAX_EDGES, replace=False)
    return np.sort(chosen)


def draw_denoising_path(
    states: Sequence[DenoisingState], columns: int | None = None
) -> Figure:
    """Draws one column for each state, its points above and its coarse graph below.

    Above, points have the colour of their supernode and a thin line to it; where
    every point is its own supernode they are shaded by depth. Below, the area of a
    supernode grows with the number of its members, and at most 4,000 edges are drawn.
    Each column has its own scale, because noise is wider than data.

    Args:
      states: From noise to data, usually one for each noise bucket.
      columns: Most states side by side, >= 1, the others below; None for all.

    Returns:
      The figure.

    Raises:
      ValueError: If there is no state, or an edge names an unknown supernode.
    """
    if not states:
        raise ValueError("there are no states to draw")
    columns = min(columns or len(states), len(states))
    bands = -(-len(states) // columns)
    panel, head, margin = 2.05, 0.75, 0.3
    width, band = columns * panel + margin, 2 * panel + head
    figure = Figure(figsize=(width, bands * band))
    for index, state in enumerate(states):
        row, column = divmod(index, columns)
        left, top = margin + column * panel, (bands - row) * band - head
        upper, lower = (
            figure.add_axes(
                (
                    left / width,
                    (top - place * panel) / (bands * band),
                    panel / width,
                    panel / (bands * band),
                )
            )
            for place in (1, 2)
        )
        _draw_state(upper, lower, state)
        upper.set_title(_headline(state), fontsize=TITLE_SIZE - 1.5, color=INK, pad=3)
        if column == 0:
            for axes, name in ((upper, "points"), (lower, "coarse graph")):
                axes.set_ylabel(name, fontsize=LABEL_SIZE, color=INK)
    return figure


def _headline(state: DenoisingState) -> str:
    """Returns label, time, signal level and size of the graph."""
    num_supernodes = len(state["supernode_positions"])
    num_edges = len(state["senders"])
    mean_degree = num_edges / max(num_supernodes, 1)
    lines = [state["label"]] if state.get("label") else []
    lines.append(f"t = {state['t']:.3g}   signal {state['signal_level']:.2f}")
    lines.append(f"{num_supernodes} supernodes, {mean_degree:.3g} neighbours")
    if num_edges > MAX_EDGES:
        lines[-1] += f"\n({MAX_EDGES:,} of {num_edges:,} edges drawn)"
    return "\n".join(lines)


def _draw_state(upper: Axes, lower: Axes, state: DenoisingState) -> None:
    points = np.asarray(state["points"], float)
    supernodes = np.asarray(state["supernode_positions"], float)
    senders, receivers = np.asarray(state["senders"]), np.asarray(state["receivers"])
    num_supernodes = len(supernodes)
    if len(senders) and max(senders.max(), receivers.max()) >= num_supernodes:
        raise ValueError(
            f"an edge names supernode {max(senders.max(), receivers.max())} "
            f"but there are {num_supernodes}"
        )
    assignment = state.get("assignment")
    if assignment is None:
        assignment = nearest_supernode(points, supernodes)
    middle = middle_of(points)
    size = half_extent(points - middle)
    colors = cell_colors(num_supernodes)
    own = num_supernodes >= len(points)
    placed = project_points(supernodes - middle, size=size)
    spread = project_points(points - middle, size=size)
    # Stray points are shown unless that would make the others small.
    reach = np.abs(spread.plane[np.isfinite(spread.plane).all(axis=-1)]).max(initial=0)
    for axes in (upper, lower):
        frame_panel(axes, 1.05 * float(np.clip(reach, size, 1.3 * size)))
    if not own:
        _draw_membership(upper, spread, placed, assignment, colors)
    draw_points(
        upper,
        spread,
        size,
        colors=None if own else colors[assignment],
        dot=10.0,
    )
    kept = thin_edges(len(senders))
    _draw_edges(lower, placed, senders[kept], receivers[kept], size)
    members = np.bincount(assignment, minlength=num_supernodes)
    _draw_supernodes(lower, placed, members, None if own else colors, size)


def _draw_membership(
    axes: Axes,
    spread: Projected,
    placed: Projected,
    assignment: np.ndarray,
    colors: np.ndarray,
) -> None:
    """Draws a thin line from every point to its supernode, in the latter's colour."""
    ends = np.stack([spread.plane, placed.plane[assignment]], axis=1)
    axes.add_collection(
        LineCollection(list(ends), colors=colors[assignment], linewidths=0.5, alpha=0.5)
    )


def _draw_edges(
    axes: Axes,
    placed: Projected,
    senders: np.ndarray,
    receivers: np.ndarray,
    size: float,
) -> None:
    """Draws edges, far ones first and paler; all are fainter where they are many."""
    depth = (placed.depth[senders] + placed.depth[receivers]) / 2.0
    order = np.argsort(-depth)
    ends = np.stack([placed.plane[senders], placed.plane[receivers]], axis=1)[order]
    away = np.clip(0.5 + 0.5 * depth[order] / size, 0.0, 1.0)
    strength = float(np.clip(9.0 / np.sqrt(max(len(order), 1)), 0.15, 0.9))
    ink = np.zeros((len(order), 4))
    ink[:, :3] = (0.25, 0.31, 0.38)
    ink[:, 3] = strength * (1.0 - 0.7 * away)
    axes.add_collection(LineCollection(list(ends), colors=ink, linewidths=0.45))


def _draw_supernodes(
    axes: Axes,
    placed: Projected,
    members: np.ndarray,
    colors: np.ndarray | None,
    size: float,
) -> None:
    """Draws supernodes far to near, with areas that grow with their members."""
    order = np.argsort(-placed.depth, kind="stable")
    area = np.clip(3.0 + 4.0 * members[order], 4.0, 70.0)
    away = np.clip(0.5 + 0.5 * placed.depth[order] / size, 0.0, 1.0)
    base = NEAR_FAR(0.15)[:3] if colors is None else colors[order]
    fade = 0.45 * away[:, None]
    right, up = placed.plane[order].T
    axes.scatter(
        right,
        up,
        s=area,
        c=(1.0 - fade) * base + fade,
        linewidths=0.5,
        edgecolors="white",
        zorder=3,
    )
