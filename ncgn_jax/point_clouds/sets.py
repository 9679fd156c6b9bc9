"""Defines sets of point clouds, checks them and scales them.

Clouds are float32, `[shape, point, 3]`, z up. Each is normalised by itself: its mean
is at the origin and its largest coordinate is 1, as in the point-cloud experiment of
arXiv 2507.09391. Generative training needs unit variance instead, so a set carries
`scale`; divide by it for training and multiply by it before measuring.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> clouds = normalise_clouds(rng.uniform(2, 6, size=(5, 50, 3)))
>>> clouds.shape, float(np.abs(clouds).max()) <= 1.0
((5, 50, 3), True)
"""

import dataclasses

import numpy as np

from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import DataError

# Bytes of clouds whose deviation is found at once.
_STD_AT_ONCE = 2**28
NORMALISATIONS = ("cloud", "set", "none")


@dataclasses.dataclass(frozen=True)
class Frame:
    """Says how clouds were moved and scaled, so that it can be undone.

    Attributes:
      normalise: `cloud` if each was centred and scaled by itself, which cannot be
        undone; `set` if all were by the same numbers; `none`.
      center: What was subtracted from all, in the units of the file.
      unit: What all were divided by, in the units of the file.
    """

    normalise: str = "cloud"
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unit: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether clouds are in the units in which they are handed out."""
        return self.unit == 1.0 and not any(self.center)

    def to_file(self, points: np.ndarray) -> np.ndarray:
        """Returns clouds in the units of the file, float64 unless nothing changes.

        Args:
          points: Clouds as a model sees them, [..., 3].
        """
        if self.is_plain:
            return points
        return np.asarray(points, np.float64) * self.unit + np.asarray(self.center)

    def from_file(self, points: np.ndarray) -> np.ndarray:
        """Returns clouds as a model sees them, float32 unless nothing changes.

        Args:
          points: Clouds in the units of the file, [..., 3].
        """
        if self.is_plain:
            return points
        moved = np.asarray(points, np.float64) - np.asarray(self.center)
        return (moved / self.unit).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PointDataset:
    """A training and a test set of point clouds with static shapes.

    Attributes:
      name: Name in every table, e.g. "ModelNet10 (npz, 1024 surface points)".
      train: Training clouds, float32 [shape, stored_point, 3]; `stored_point` may
        exceed the number of points of a model, which then draws afresh at every step.
      test: Test clouds, float32 [shape, point, 3], one fixed draw.
      train_labels: Class of each training cloud, int32 [shape].
      test_labels: Class of each test cloud, int32 [shape].
      class_names: Name of each class.
      report: How the clouds were read or made.
      scale: Overall standard deviation of `train`; `train / scale` has variance 1.
      frame: How `train` and `test` were moved and scaled.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    report: DataReport
    scale: float
    frame: Frame = Frame()


def make_dataset(
    name: str,
    train: np.ndarray,
    test: np.ndarray,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: tuple[str, ...],
    report: DataReport,
    frame: Frame | None = None,
) -> PointDataset:
    """Checks arrays and joins them into a `PointDataset` with its scale.

    Args:
      name: Name for tables.
      train: Training clouds, [shape, stored_point, 3].
      test: Test clouds, [shape, point, 3].
      train_labels: Class indices of `train`.
      test_labels: Class indices of `test`.
      class_names: Name of each class.
      report: How they were read or made.
      frame: How they were moved and scaled; None for each by itself.

    Returns:
      The dataset, clouds float32 and labels int32.

    Raises:
      DataError: If a split is empty, a cloud is unusable or a label has no class.
    """
    for split, points, labels in (
        ("train", train, train_labels),
        ("test", test, test_labels),
    ):
        where = f"{name}, {split}"
        check_clouds(points, where)
        if labels.shape != points.shape[:1]:
            raise DataError(
                f"{where}: {len(points)} clouds but labels of shape {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise DataError(
                f"{where}: labels {labels.min()}..{labels.max()} for "
                f"{len(class_names)} class names"
            )
    return PointDataset(
        name=name,
        train=np.ascontiguousarray(train, dtype=np.float32),
        test=np.ascontiguousarray(test, dtype=np.float32),
        train_labels=np.asarray(train_labels, dtype=np.int32),
        test_labels=np.asarray(test_labels, dtype=np.int32),
        class_names=tuple(str(c) for c in class_names),
        report=report,
        scale=standardise(train),
        frame=frame or Frame(),
    )


def check_clouds(points: np.ndarray, where: str, num_points: int | None = None) -> None:
    """Refuses clouds that no model could use.

    Flat and straight clouds are allowed; clouds without any extent are not.

    Args:
      points: Clouds, [shape, point, 3], or one cloud, [point, 3].
      where: File or field, for the message.
      num_points: Points that will be drawn from each cloud.

    Raises:
      DataError: If the shape is wrong, there are no clouds or too few points, a
        coordinate is not finite, or all points of a cloud coincide (up to rounding).
    """
    if points.dtype.kind not in "fiu":
        raise DataError(f"{where}: numbers expected, found dtype {points.dtype}")
    if points.ndim not in (2, 3) or points.shape[-1] != 3:
        raise DataError(
            f"{where}: shape {points.shape}; allowed: [point, 3] or [shape, point, 3]"
        )
    clouds = points[None] if points.ndim == 2 else points
    if clouds.shape[0] == 0:
        raise DataError(f"{where}: no point clouds")
    available = clouds.shape[1]
    if available < max(num_points or 1, 1):
        raise DataError(
            f"{where}: {available} points, num_points={num_points or 1} asked; "
            f"allowed: data.num_points <= {available}, or of meshes "
            "data.sampling=surface",
            {"data.num_points": available} if available > 1 else None,
        )
    # Signalling NaN and long doubles warn when they are cast.
    with np.errstate(invalid="ignore", over="ignore"):
        low = clouds.min(axis=1).astype(np.float64)
        high = clouds.max(axis=1).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN spreads to both
        with np.errstate(invalid="ignore", over="ignore"):
            bad = ~np.isfinite(clouds.astype(np.float64))
        shape, point, axis = np.argwhere(bad)[0]
        value = clouds[shape, point, axis]
        raise DataError(f"{where}: cloud {shape}, point {point}, {'xyz'[axis]}={value}")
    magnitude = np.maximum(np.abs(low), np.abs(high)).max(axis=1, keepdims=True)
    safe = np.where(magnitude > 0, magnitude, 1.0)
    extent = (high / safe - low / safe).max(axis=1)
    rounding = 4 * np.finfo(np.result_type(clouds.dtype, np.float16)).eps
    flat = np.flatnonzero(extent <= rounding)
    if flat.size:
        raise DataError(
            f"{where}: all {available} points of cloud {flat[0]} coincide (zero extent)"
        )


def normalise_clouds(points: np.ndarray, where: str = "points") -> np.ndarray:
    """Centres each cloud's mean and scales its largest coordinate to 1.

    This is the published preprocessing. One factor serves all three axes, so that
    proportions stay and a flat direction is not divided by zero.

    Args:
      points: Clouds, [shape, point, 3] or [point, 3].
      where: File or field, for the message.

    Returns:
      float32, same shape, coordinates in [-1, 1].

    Raises:
      DataError: As `check_clouds`.
    """
    check_clouds(points, where)
    return normalise_each(points)[0]


def normalise_each(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalises clouds that were checked, and returns how.

    Args:
      points: Clouds, [..., point, 3].

    Returns:
      Clouds float32 of the same shape, their means float64 [..., 3], and their largest
      distances of a coordinate from the mean, float64 [...].
    """
    unit = points.astype(np.float64)
    most = np.abs(unit).max(axis=(-2, -1), keepdims=True)
    unit /= most  # the sums cannot overflow
    center = unit.mean(axis=-2, keepdims=True)
    unit -= center
    size = np.abs(unit).max(axis=(-2, -1), keepdims=True)
    unit /= size
    with np.errstate(over="ignore"):
        return (
            unit.astype(np.float32),
            (center * most)[..., 0, :],
            (size * most)[..., 0, 0],
        )


def draw_points(
    points: np.ndarray, num_points: int, rng: np.random.Generator, where: str = "points"
) -> np.ndarray:
    """Draws `num_points` of each cloud without replacement, in random order.

    Args:
      points: Clouds, [shape, point, 3] or [point, 3].
      num_points: Points to keep.
      rng: Source of randomness.
      where: File or field, for the message.

    Returns:
      [shape, num_points, 3] or [num_points, 3].

    Raises:
      DataError: As `check_clouds`.
    """
    check_clouds(points, where, num_points)
    if points.ndim == 2:
        return points[rng.permutation(points.shape[0])[:num_points]]
    order = rng.random(points.shape[:2]).argsort(axis=1)[:, :num_points]
    return np.take_along_axis(points, order[:, :, None], axis=1)


def standardise(train: np.ndarray) -> float:
    """Returns the overall standard deviation, by which training data is divided.

    scale^2 = mean over shapes, points and axes of (x - mean_axis)^2. One number
    serves the set, so that `train / scale` has variance 1 and keeps all proportions.

    Args:
      train: Training clouds, [shape, point, 3].

    Returns:
      The scale, > 0.
    """
    if train.nbytes <= _STD_AT_ONCE:
        deviations = train.std(axis=(0, 1), dtype=np.float64)
        return float(np.sqrt(np.square(deviations).mean()))
    # In parts, because numpy holds twice the set in double precision.
    mean = train.mean(axis=(0, 1), dtype=np.float64)
    parts = np.array_split(train, max(1, train.nbytes // _STD_AT_ONCE * 4))
    squares = [np.square(part - mean).sum(axis=(0, 1)) for part in parts]
    return float(np.sqrt((np.sum(squares, axis=0) / train[..., 0].size).mean()))
