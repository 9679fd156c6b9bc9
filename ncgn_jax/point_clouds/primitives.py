"""Draws spheres, rings and boxes from a distribution that is known exactly.

A generated cloud can be compared with the truth: `primitive_fits.best_fit` finds the
surface nearest to it, the root mean square distance is its error, and `in_prior`
returns whether the distribution contains such a surface.

A surface is a label and ten numbers: centre (3), unit quaternion w, x, y, z (4) that
turns the surface's own axes into the world's, and sizes (3): sphere (radius, 0, 0);
torus (distance to the tube, tube radius, 0), its axis along z; box (half sides).

>>> points, labels, parameters = make_primitives(3, 50, seed=0)
>>> bool(np.all(distance_to_surface(points[0], labels[0], parameters[0]) < 1e-6))
True
"""

import numpy as np
from scipy.spatial.transform import Rotation

SPHERE, TORUS, BOX = range(3)
CLASS_NAMES = ("sphere", "torus", "box")
CENTRE_RANGE = (-0.1, 0.1)
# Uniform ranges of the sizes; with the centres they keep every point within [-1, 1].
SIZE_RANGES = {
    SPHERE: ((0.3, 0.9),),
    TORUS: ((0.45, 0.65), (0.12, 0.25)),
    BOX: ((0.2, 0.5), (0.2, 0.5), (0.2, 0.5)),
}
_CENTRE, _POSE, _SIZE = slice(0, 3), slice(3, 7), slice(7, 10)


def make_primitives(
    num: int, num_points: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws surfaces, and points uniformly by area on each.

    Label, centre, sizes (uniform in their ranges) and rotation (uniform) are
    independent; the points of a cloud are independent given its surface.

    Args:
      num: Clouds.
      num_points: Points on each.
      seed: Seed, >= 0.

    Returns:
      Points float32 [num, num_points, 3], labels int32 [num], parameters float64
      [num, 10].
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num).astype(np.int32)
    parameters = np.zeros((num, 10))
    parameters[:, _CENTRE] = rng.uniform(*CENTRE_RANGE, (num, 3))
    pose = rng.normal(size=(num, 4))  # uniform on the rotations once normalised
    parameters[:, _POSE] = pose / np.linalg.norm(pose, axis=1, keepdims=True)
    for label, ranges in SIZE_RANGES.items():
        chosen = labels == label
        for axis, (low, high) in enumerate(ranges):
            parameters[chosen, 7 + axis] = rng.uniform(low, high, chosen.sum())
    points = np.empty((num, num_points, 3), np.float32)
    for index in range(num):
        sizes = parameters[index, _SIZE]
        local = _SAMPLERS[labels[index]](sizes, num_points, rng)
        world = local @ rotation_matrix(parameters[index]).T
        points[index] = world + parameters[index, _CENTRE]
    return points, labels, parameters


def rotation_matrix(parameters: np.ndarray) -> np.ndarray:
    """Returns the rotation [3, 3] from a surface's own axes to the world's."""
    return Rotation.from_quat(parameters[_POSE], scalar_first=True).as_matrix()


def _sample_sphere(
    sizes: np.ndarray, num_points: int, rng: np.random.Generator
) -> np.ndarray:
    normal = rng.normal(size=(num_points, 3))
    return sizes[0] * normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _sample_torus(
    sizes: np.ndarray, num_points: int, rng: np.random.Generator
) -> np.ndarray:
    """Rejects angles within the tube by the area element R + r cos(angle)."""
    ring, tube, _ = sizes
    within = np.empty(0)
    while len(within) < num_points:
        angle = rng.uniform(0, 2 * np.pi, 2 * num_points + 8)
        accepted = rng.random(len(angle)) * (ring + tube) < ring + tube * np.cos(angle)
        within = np.concatenate([within, angle[accepted]])
    within = within[:num_points]
    around = rng.uniform(0, 2 * np.pi, num_points)
    across = ring + tube * np.cos(within)
    x, y = across * np.cos(around), across * np.sin(around)
    return np.stack([x, y, tube * np.sin(within)], axis=1)


def _sample_box(
    sizes: np.ndarray, num_points: int, rng: np.random.Generator
) -> np.ndarray:
    areas = sizes[[1, 2, 0]] * sizes[[2, 0, 1]]
    axis = rng.choice(3, num_points, p=areas / areas.sum())
    local = rng.uniform(-1, 1, (num_points, 3))
    local[np.arange(num_points), axis] = rng.choice([-1.0, 1.0], num_points)
    return local * sizes


_SAMPLERS = {SPHERE: _sample_sphere, TORUS: _sample_torus, BOX: _sample_box}


def distance_to_surface(
    points: np.ndarray, label: int, parameters: np.ndarray
) -> np.ndarray:
    """Measures the exact distance from points to a surface.

    Args:
      points: [point, 3].
      label: `SPHERE`, `TORUS` or `BOX`.
      parameters: [10].

    Returns:
      Distances >= 0, float64 [point].
    """
    centred = np.asarray(points, np.float64) - parameters[_CENTRE]
    local = centred @ rotation_matrix(parameters)
    return np.abs(signed_distance(local, int(label), parameters[_SIZE]))


def signed_distance(local: np.ndarray, label: int, sizes: np.ndarray) -> np.ndarray:
    """Measures the distance to a surface in its own axes, negative inside.

    Args:
      local: Points in the surface's axes, [..., 3].
      label: `SPHERE`, `TORUS` or `BOX`.
      sizes: [3], or [..., 1, 3] to match the leading axes of `local`.

    Returns:
      Signed distances, [...].
    """
    if label == SPHERE:
        return np.linalg.norm(local, axis=-1) - sizes[..., 0]
    if label == TORUS:
        across = np.hypot(local[..., 0], local[..., 1]) - sizes[..., 0]
        return np.hypot(across, local[..., 2]) - sizes[..., 1]
    excess = np.abs(local) - sizes
    outside = np.linalg.norm(np.maximum(excess, 0), axis=-1)
    return outside + np.minimum(excess.max(axis=-1), 0)


def in_prior(label: int, parameters: np.ndarray, tolerance: float = 0.0) -> bool:
    """Returns whether `make_primitives` could have drawn a surface.

    Args:
      label: `SPHERE`, `TORUS` or `BOX`.
      parameters: [10].
      tolerance: Slack at both ends of every range.

    Returns:
      True if centre and sizes lie in their ranges.
    """
    ranges = (CENTRE_RANGE,) * 3 + SIZE_RANGES[int(label)]
    values = np.concatenate([parameters[_CENTRE], parameters[_SIZE]])[: len(ranges)]
    low, high = np.array(ranges).T
    return bool(((values >= low - tolerance) & (values <= high + tolerance)).all())
