"""Projects points in space onto paper, shaded by depth, far ones first."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from ncgn_jax.pictures.style import FAINT, LABEL_SIZE, NEAR_FAR

AZIMUTH = 35.0
ELEVATION = 22.0
CAMERA_DISTANCE = 5.0


class Projected(NamedTuple):
    """Points on paper.

    Attributes:
      plane: Horizontal and upward position, [point, 2].
      depth: Distance behind the middle plane (positive = away), [point].
    """

    plane: np.ndarray
    depth: np.ndarray


def project_points(
    points: np.ndarray,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
    size: float | None = None,
) -> Projected:
    """Projects points with the third axis upright, in mild perspective.

    Points are turned by the azimuth about z, tilted by the elevation about the
    horizontal, and scaled by d / (d + depth / size), as by a pinhole camera d sizes
    away.

    Args:
      points: Centred points, [point, 2 or 3]; two columns are not changed.
      azimuth: Turn about the upright axis, in degrees.
      elevation: Height of the eye above the horizon, in degrees.
      size: Half extent of the scene, > 0, in the points' units; orthographic
        if None.

    Returns:
      Plane positions and depths in the points' units.

    Raises:
      ValueError: If the points have neither two nor three coordinates.
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"points must be [point, 2 or 3], got {points.shape}")
    if points.shape[1] == 2:
        return Projected(points, np.zeros(len(points)))
    turn, tilt = np.deg2rad(azimuth), np.deg2rad(elevation)
    right = points[:, 0] * np.cos(turn) + points[:, 1] * np.sin(turn)
    away = -points[:, 0] * np.sin(turn) + points[:, 1] * np.cos(turn)
    up = points[:, 2] * np.cos(tilt) + away * np.sin(tilt)
    depth = away * np.cos(tilt) - points[:, 2] * np.sin(tilt)
    plane = np.stack([right, up], axis=-1)
    if size is not None:
        # The near clip keeps stray points from flying past the eye.
        shrink = CAMERA_DISTANCE / np.maximum(
            CAMERA_DISTANCE + depth / size, 0.3 * CAMERA_DISTANCE
        )
        plane = plane * shrink[:, None]
    return Projected(plane, depth)


def middle_of(points: np.ndarray) -> np.ndarray:
    """Returns the middle [dim] of the 2-98 % box, which stray points do not move."""
    low, high = np.percentile(points, [2.0, 98.0], axis=0)
    return (low + high) / 2.0


def half_extent(points: np.ndarray) -> float:
    """Returns the 98 % quantile of distances to the origin, or 1 if that is 0."""
    size = float(np.percentile(np.linalg.norm(points, axis=-1), 98.0))
    return size if size > 0.0 else 1.0


def draw_points(
    axes: Axes,
    projected: Projected,
    size: float,
    colors: np.ndarray | None = None,
    colormap: Colormap = NEAR_FAR,
    dot: float = 7.0,
) -> None:
    """Draws points far to near; near ones are larger, and darker without colours.

    Points beyond the panel are left out and counted in its corner, because dots that
    its edge cuts look like a fault of the picture.

    Args:
      axes: The panel, with its limits set.
      projected: Points on paper.
      size: Half extent of the scene, in the points' units.
      colors: RGB of each point, [point, 3], fading to white with depth; None shades
        points by depth with `colormap`.
      colormap: 0 = near, 1 = far.
      dot: Area of a dot at middle depth, in square points.
    """
    order = np.argsort(-projected.depth, kind="stable")
    # Flat clouds have no depth; they take a dark shade.
    flat = not np.any(projected.depth)
    away = np.clip(0.5 + 0.5 * projected.depth[order] / size, 0.0, 1.0) - 0.25 * flat
    if colors is None:
        shade = colormap(away)
    else:
        fade = 0.45 * away[:, None]
        shade = (1.0 - fade) * np.asarray(colors)[order] + fade
    plane = projected.plane[order]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inside = np.all((plane >= (left, bottom)) & (plane <= (right, top)), axis=-1)
    across, up = plane[inside].T
    axes.scatter(
        across,
        up,
        s=dot * (1.35 - 0.7 * away[inside]),
        c=shade[inside],
        linewidths=0.15,
        edgecolors="white",
        clip_on=False,
    )
    if beyond := int(np.sum(~inside & np.isfinite(plane).all(axis=-1))):
        axes.text(
            0.99,
            0.01,
            f"{beyond} outside",
            transform=axes.transAxes,
            fontsize=LABEL_SIZE - 2,
            color=FAINT,
            ha="right",
            va="bottom",
        )


def frame_panel(axes: Axes, half_width: float, border: bool = False) -> None:
    """Makes a panel square, equally scaled and free of ticks."""
    axes.set_xlim(-half_width, half_width)
    axes.set_ylim(-half_width, half_width)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(border)
        spine.set_color("#c9d0d6")
        spine.set_linewidth(0.6)
