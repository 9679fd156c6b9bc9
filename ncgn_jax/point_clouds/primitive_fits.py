"""Finds the primitive nearest to a cloud, to measure how far it is from the truth.

>>> from ncgn_jax.point_clouds.primitives import make_primitives
>>> points, labels, parameters = make_primitives(1, 200, seed=0)
>>> label, found, rms = best_fit(points[0])
>>> label == int(labels[0]), rms < 1e-4
(True, True)
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from ncgn_jax.point_clouds.primitives import BOX, SPHERE, TORUS, signed_distance

MIN_POINTS = 12
_NUM_POSES = 150  # tried for a box, because a cube has no principal axes
_NUM_REFINED = {TORUS: 2, BOX: 3}
_MAX_STEPS = 60
_SMALLEST = 1e-3


class _Surface(NamedTuple):
    """A candidate surface."""

    label: int
    centre: np.ndarray  # [3]
    rotation: np.ndarray  # [3, 3]
    sizes: np.ndarray  # [3]


def best_fit(cloud: np.ndarray) -> tuple[int, np.ndarray, float]:
    """Finds the sphere, ring torus or box nearest to a cloud.

    Minimises the mean squared distance by Levenberg-Marquardt, from the best few of
    several starts per family.

    Args:
      cloud: Points, [point, 3], at least 12.

    Returns:
      Label, parameters [10] as in `primitives`, and the root mean square distance
      from the points to that surface, in the units of the cloud.

    Raises:
      ValueError: If there are too few points, a point is not finite, or all points
        coincide.
    """
    cloud = np.asarray(cloud, np.float64)
    if cloud.ndim != 2 or cloud.shape[1:] != (3,) or len(cloud) < MIN_POINTS:
        raise ValueError(f"cloud {cloud.shape}; allowed: [{MIN_POINTS} or more, 3]")
    if not np.isfinite(cloud).all() or not np.ptp(cloud, axis=0).any():
        raise ValueError("cloud holds NaN or infinity, or all its points coincide")
    fits = [_refine(cloud, start) for start in _starts(cloud)]
    surface, rms = min(fits, key=lambda fit: fit[1])
    pose = Rotation.from_matrix(surface.rotation).as_quat(scalar_first=True)
    return surface.label, np.concatenate([surface.centre, pose, surface.sizes]), rms


def _refine(cloud: np.ndarray, start: _Surface) -> tuple[_Surface, float]:
    surface, damping = start, 1e-3
    residual, slopes = _linearise(cloud, surface)
    cost = residual @ residual
    for _ in range(_MAX_STEPS):
        normal = slopes.T @ slopes
        diagonal = np.diag(normal.diagonal() + 1e-9 * len(cloud))
        step = np.linalg.solve(normal + damping * diagonal, -slopes.T @ residual)
        moved = _move(surface, step)
        new_residual, new_slopes = _linearise(cloud, moved)
        new_cost = new_residual @ new_residual
        if new_cost > cost:
            damping *= 5
            if damping > 1e6:
                break
            continue
        done = cost - new_cost < 1e-7 * cost
        surface, residual, slopes, cost = moved, new_residual, new_slopes, new_cost
        damping = max(damping / 5, 1e-9)
        if done:
            break
    return surface, float(np.sqrt(cost / len(cloud)))


def _move(surface: _Surface, step: np.ndarray) -> _Surface:
    turn, grow = step[3:6], step[6:]
    if surface.label == SPHERE:
        turn, grow = np.zeros(3), step[3:]
    sizes = np.zeros(3)
    sizes[: len(grow)] = np.maximum(surface.sizes[: len(grow)] + grow, _SMALLEST)
    if surface.label == TORUS:  # a torus without a hole could pass for a sphere
        sizes[0] = max(sizes[0], sizes[1])
    rotation = surface.rotation @ Rotation.from_rotvec(turn).as_matrix()
    return _Surface(surface.label, surface.centre + step[:3], rotation, sizes)


def _linearise(cloud: np.ndarray, surface: _Surface) -> tuple[np.ndarray, np.ndarray]:
    """Returns signed distances [point] and their slopes [point, unknown].

    With local = R^T (x - c) and n the gradient of the distance d there,
    dd/dc = -R n, and the turn R exp([w]) changes d by (n x local) . w.
    """
    label, _, rotation, sizes = surface
    local = (cloud - surface.centre) @ rotation
    distance = signed_distance(local, label, sizes)
    if label == SPHERE:
        normal, grow = local / _length(local), np.full((len(local), 1), -1.0)
    elif label == TORUS:
        around = _length(local[:, :2])
        across = np.concatenate([around - sizes[0], local[:, 2:]], axis=1)
        across /= _length(across)
        normal = np.concatenate(
            [local[:, :2] / around * across[:, :1], across[:, 1:]], axis=1
        )
        grow = np.concatenate([-across[:, :1], np.full((len(local), 1), -1.0)], axis=1)
    else:
        excess = np.abs(local) - sizes
        nearest = np.eye(3)[excess.argmax(axis=1)]
        outward = np.maximum(excess, 0)
        outward = np.where(distance[:, None] > 0, outward / _length(outward), nearest)
        normal, grow = outward * np.sign(local), -outward
    slopes = [-normal @ rotation.T, np.cross(normal, local), grow]
    if label == SPHERE:
        del slopes[1]
    return distance, np.concatenate(slopes, axis=1)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _starts(cloud: np.ndarray) -> list[_Surface]:
    """Returns the surfaces worth refining, best first within each family."""
    mean = cloud.mean(axis=0)
    centred = cloud - mean
    radius = np.linalg.norm(centred, axis=1).mean()
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes[:, 0] *= np.sign(np.linalg.det(axes))
    tori = []
    # The principal axis about which a torus is symmetric depends on its sizes.
    for roll in range(3):
        rotation = axes[:, [(roll + 1) % 3, (roll + 2) % 3, roll]]
        local = centred @ rotation
        across = np.hypot(local[:, 0], local[:, 1])
        tube = np.hypot(across - across.mean(), local[:, 2]).mean()
        sizes = np.array([max(across.mean(), tube), tube, 0])
        tori.append(_Surface(TORUS, mean, rotation, sizes))
    poses = Rotation.random(_NUM_POSES, rng=np.random.default_rng(0)).as_matrix()
    poses = np.concatenate([axes[None], poses])  # [pose, 3, 3]
    few = centred[:: max(1, len(cloud) // 150)]  # enough to rank poses
    local = few @ poses  # [pose, point, 3]
    # Quantiles, because a single stray point would set the extremes.
    low, high = np.quantile(local, (0.02, 0.98), axis=1)
    middle = mean + np.einsum("pij,pj->pi", poses, (low + high) / 2)
    sizes = np.maximum((high - low) / 2, _SMALLEST)
    offsets = (low + high)[:, None] / 2
    costs = np.square(signed_distance(local - offsets, BOX, sizes[:, None]))
    order = costs.mean(axis=1).argsort()[: _NUM_REFINED[BOX]]
    tori.sort(key=lambda torus: np.square(_linearise(cloud, torus)[0]).mean())
    sphere = _Surface(SPHERE, mean, np.eye(3), np.array([radius, 0, 0]))
    boxes = [_Surface(BOX, middle[i], poses[i], sizes[i]) for i in order]
    return [sphere, *tori[: _NUM_REFINED[TORUS]], *boxes]
