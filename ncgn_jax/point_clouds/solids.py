"""Draws uniform points on the outside of shapes made of simple parts.

A batch of shapes shares one list of parts, each with its own numbers per shape.
Points are proposed on parts in proportion to area and rejected where a solid part
covers them, so that the rest is uniform by area on the outside of the union.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# One value for all shapes, or one per shape.
Number = float | np.ndarray
Flag = bool | np.ndarray
Vector = Sequence[Number] | np.ndarray

BOX, FRUSTUM, ELLIPSOID, TORUS = range(4)
_MARGIN = 1e-4  # a point this near a solid's boundary lies on it, not inside
_Proposal = tuple[np.ndarray, np.ndarray]


class _Part(NamedTuple):
    """A part of every shape of a batch, in its own frame."""

    kind: int
    centre: np.ndarray  # [shape, 3]
    frame: np.ndarray  # [shape, 3, 3], columns are the part's axes
    size: np.ndarray  # [shape, 3]
    area: np.ndarray  # [shape], of the proposal
    solid: np.ndarray  # [shape], bool: points inside it are hidden


class Solids:
    """Holds the parts of a batch of shapes."""

    def __init__(self, num_shapes: int) -> None:
        """Starts shapes without parts."""
        self.num_shapes = num_shapes
        self.parts: list[_Part] = []

    def _vector(self, values: Vector) -> np.ndarray:
        columns = [np.broadcast_to(v, (self.num_shapes,)) for v in values]
        return np.stack(columns, axis=1).astype(np.float64)

    def _add(
        self,
        kind: int,
        centre: np.ndarray,
        frame: np.ndarray,
        size: np.ndarray,
        area: np.ndarray,
        present: Flag,
        solid: bool,
    ) -> None:
        present = np.broadcast_to(present, (self.num_shapes,))
        self.parts.append(
            _Part(kind, centre, frame, size, area * present, present & solid)
        )

    def box(
        self, centre: Vector, size: Vector, present: Flag = True, turn: Number = 0.0
    ) -> None:
        """Adds a solid box with full sides `size`, turned about z by radians."""
        half = self._vector(size) / 2
        pairs = half[:, [0, 1, 2]] * half[:, [1, 2, 0]]
        frame = _turn(np.broadcast_to(turn, (self.num_shapes,)))
        centre = self._vector(centre)
        self._add(BOX, centre, frame, half, 8 * pairs.sum(axis=1), present, True)

    def frustum(
        self,
        centre: Vector,
        axis: Vector,
        radii: tuple[Number, Number],
        present: Flag = True,
        solid: bool = False,
    ) -> None:
        """Adds the side of a truncated cone, from `radii[0]` at `centre` to `radii[1]`.

        `axis` goes from the centre of the first circle to that of the second. Equal
        radii make a cylinder, and a zero axis a disc or ring facing z, without caps.
        """
        axis, centre = self._vector(axis), self._vector(centre)
        height = np.linalg.norm(axis, axis=1)
        low, high = (np.broadcast_to(r, (self.num_shapes,)) for r in radii)
        area = np.pi * (low + high) * np.hypot(high - low, height)
        size = self._vector((low, high, height))
        frame = _frame_along(axis)
        self._add(FRUSTUM, centre, frame, size, area, present, solid)

    def hide_cone(
        self, centre: Vector, axis: Vector, radii: tuple[Number, Number]
    ) -> None:
        """Hides the points inside a truncated cone, without adding any."""
        self.frustum(centre, axis, radii, solid=True)
        last = self.parts[-1]
        self.parts[-1] = last._replace(area=np.zeros_like(last.area))

    def rod(
        self,
        start: Vector,
        end: Vector,
        radius: Number,
        end_radius: Number | None = None,
        present: Flag = True,
    ) -> None:
        """Adds a solid round bar between two points, with flat ends."""
        start, end = self._vector(start), self._vector(end)
        radii = (radius, radius if end_radius is None else end_radius)
        self.frustum(start.T, (end - start).T, radii, present, solid=True)
        tiny = 1e-9 * (end - start)  # a height of (almost) zero facing along the rod
        self.frustum(start.T, tiny.T, (0.0, radii[0]), present)
        self.frustum(end.T, tiny.T, (0.0, radii[1]), present)

    def revolve(self, profile: Sequence[tuple[Number, Number]]) -> None:
        """Adds the surface swept by a list of (radius, z) corners about the z axis."""
        for (low, bottom), (high, top) in zip(profile, profile[1:], strict=False):
            rise = np.broadcast_to(np.subtract(top, bottom), (self.num_shapes,))
            self.frustum((0.0, 0.0, bottom), (0.0, 0.0, rise), (low, high))

    def ellipsoid(self, centre: Vector, half: Vector, present: Flag = True) -> None:
        """Adds a solid ellipsoid with half-axes `half`."""
        half, centre = self._vector(half), self._vector(centre)
        frame = np.broadcast_to(np.eye(3), (self.num_shapes, 3, 3))
        area = 4 * np.pi * _max_stretch(half)
        self._add(ELLIPSOID, centre, frame, half, area, present, True)

    def torus(
        self,
        centre: Vector,
        axis: Vector,
        radii: tuple[Number, Number],
        present: Flag = True,
    ) -> None:
        """Adds a solid ring: ring radius `radii[0]`, tube radius `radii[1]`."""
        size = self._vector((*radii, 0.0))
        area = 4 * np.pi**2 * size[:, 1] * (size[:, 0] + size[:, 1])
        frame = _frame_along(self._vector(axis))
        self._add(TORUS, self._vector(centre), frame, size, area, present, True)

    def sample(self, num_points: int, rng: np.random.Generator) -> np.ndarray:
        """Draws points uniformly by area on the outside of each shape.

        Args:
          num_points: Points per shape.
          rng: Source of randomness.

        Returns:
          float32 [shape, num_points, 3], in random order, not normalised.
        """
        clouds = np.zeros((self.num_shapes, num_points, 3), np.float32)
        filled = np.zeros(self.num_shapes, np.int64)
        while (short := np.flatnonzero(filled < num_points)).size:
            num_tries = int(1.5 * (num_points - filled[short].min())) + 16
            points, kept = self._propose(short, num_tries, rng)
            place = filled[short][:, None] + np.cumsum(kept, axis=1) - 1
            kept &= place < num_points
            row, column = np.nonzero(kept)
            clouds[short[row], place[row, column]] = points[row, column]
            filled[short] += kept.sum(axis=1)
        return clouds

    def _propose(
        self, shapes: np.ndarray, num_tries: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns points [shape, try, 3], and which are not hidden."""
        areas = np.stack([part.area[shapes] for part in self.parts], axis=1)
        bounds = np.cumsum(areas, axis=1)
        pick = rng.random((len(shapes), num_tries)) * bounds[:, -1:]
        which = np.zeros(pick.shape, np.int64)
        for index in range(len(self.parts) - 1):
            which += pick >= bounds[:, index, None]
        points = np.zeros((*pick.shape, 3), np.float32)
        kept = np.zeros(pick.shape, bool)
        for index, part in enumerate(self.parts):
            row, column = np.nonzero(which == index)
            shape = shapes[row]
            local, accepted = _SURFACES[part.kind](part.size[shape], rng)
            world = np.einsum("nij,nj->ni", part.frame[shape], local)
            points[row, column] = world + part.centre[shape]
            kept[row, column] = accepted
        for part in self.parts:
            self._hide(part, shapes, points, kept)
        return points, kept

    @staticmethod
    def _hide(
        part: _Part, shapes: np.ndarray, points: np.ndarray, kept: np.ndarray
    ) -> None:
        """Clears `kept` where a solid part covers the points."""
        hiding = np.flatnonzero(part.solid[shapes])
        if hiding.size == 0:
            return
        chosen = shapes[hiding]
        local = points[hiding] - part.centre[chosen][:, None].astype(np.float32)
        local = local @ part.frame[chosen].astype(np.float32)
        size = part.size[chosen][:, None].astype(np.float32)
        kept[hiding] &= ~_INSIDES[part.kind](local, size)


def _turn(angle: np.ndarray) -> np.ndarray:
    """Returns rotations about z, [shape, 3, 3], by an angle per shape."""
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    rows = [[c, -s, zero], [s, c, zero], [zero, zero, one]]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def _frame_along(axis: np.ndarray) -> np.ndarray:
    """Returns right-handed frames whose third column is `axis`, or z if that is 0."""
    length = np.linalg.norm(axis, axis=1, keepdims=True)
    third = np.where(length > 0, axis / np.where(length > 0, length, 1), [0, 0, 1.0])
    upright = np.abs(third[:, 2:]) > 0.9
    first = np.cross(np.where(upright, [0, 1.0, 0], [0, 0, 1.0]), third)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(third, first), third], axis=2)


def _max_stretch(half: np.ndarray) -> np.ndarray:
    return (half[:, [0, 1, 2]] * half[:, [1, 2, 0]]).max(axis=1)


# Each of the next four proposes one point on a part per row of sizes, in the part's
# own frame, and returns the points and which of them to accept.
def _on_box(half: np.ndarray, rng: np.random.Generator) -> _Proposal:
    count = len(half)
    weights = np.cumsum(half[:, [1, 2, 0]] * half[:, [2, 0, 1]], axis=1)
    pick = rng.random((count, 1)) * weights[:, -1:]
    axis = (pick >= weights[:, :2]).sum(axis=1)
    local = rng.uniform(-1, 1, (count, 3))
    local[np.arange(count), axis] = rng.choice([-1.0, 1.0], count)
    return local * half, np.ones(count, bool)


def _on_frustum(size: np.ndarray, rng: np.random.Generator) -> _Proposal:
    low, high, height = size.T
    pick = rng.random(len(size))
    radius = np.sqrt(low**2 + pick * (high**2 - low**2))
    same = np.abs(high - low) < 1e-9  # a cylinder: the height is uniform
    rise = np.where(same, pick, (radius - low) / np.where(same, 1, high - low))
    angle = rng.uniform(0, 2 * np.pi, len(size))
    xyz = (radius * np.cos(angle), radius * np.sin(angle), rise * height)
    return np.stack(xyz, axis=1), np.ones(len(size), bool)


def _on_ellipsoid(half: np.ndarray, rng: np.random.Generator) -> _Proposal:
    normal = rng.normal(size=half.shape)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    # The map sphere -> ellipsoid stretches area by |(bc nx, ca ny, ab nz)|.
    stretch = half[:, [1, 2, 0]] * half[:, [2, 0, 1]] * normal
    ratio = np.linalg.norm(stretch, axis=1) / _max_stretch(half)
    return normal * half, rng.random(len(half)) < ratio


def _on_torus(size: np.ndarray, rng: np.random.Generator) -> _Proposal:
    ring, tube, _ = size.T
    around, within = rng.uniform(0, 2 * np.pi, (2, len(size)))
    radius = ring + tube * np.cos(within)  # area element: radius x tube
    xyz = (radius * np.cos(around), radius * np.sin(around), tube * np.sin(within))
    return np.stack(xyz, axis=1), rng.random(len(size)) < radius / (ring + tube)


def _in_box(local: np.ndarray, half: np.ndarray) -> np.ndarray:
    return (np.abs(local) < half - _MARGIN).all(axis=-1)


def _in_frustum(local: np.ndarray, size: np.ndarray) -> np.ndarray:
    low, high, height = size[..., 0], size[..., 1], size[..., 2]
    rise = local[..., 2]
    radius = low + (high - low) * rise / np.maximum(height, 1e-9)
    across = np.hypot(local[..., 0], local[..., 1])
    within = (rise > _MARGIN) & (rise < height - _MARGIN)
    return within & (across < radius - _MARGIN)


def _in_ellipsoid(local: np.ndarray, half: np.ndarray) -> np.ndarray:
    return np.square(local / half).sum(axis=-1) < 1 - 10 * _MARGIN


def _in_torus(local: np.ndarray, size: np.ndarray) -> np.ndarray:
    across = np.hypot(local[..., 0], local[..., 1]) - size[..., 0]
    return np.hypot(across, local[..., 2]) < size[..., 1] - _MARGIN


_SURFACES = {
    BOX: _on_box,
    FRUSTUM: _on_frustum,
    ELLIPSOID: _on_ellipsoid,
    TORUS: _on_torus,
}
_INSIDES = {
    BOX: _in_box,
    FRUSTUM: _in_frustum,
    ELLIPSOID: _in_ellipsoid,
    TORUS: _in_torus,
}
