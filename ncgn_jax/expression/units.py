"""Converts expression and places between a file of cells and the fields of training."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class CellUnits:
    """How cells of a file became fields: log(1 + count), standardised, in patches.

    Attributes:
      logarithm: Whether log(1 + expression) was taken.
      mean: Mean of each gene over the training cells, after the logarithm.
      scale: Standard deviation of each gene over them; 1 where it is 0.
      half_width: Typical half-width of a patch, in the unit of the file.
      first_time: Earliest time; None without times.
      time_span: Latest time less the earliest; None without times.
    """

    logarithm: bool
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    half_width: float
    first_time: float | None = None
    time_span: float | None = None

    def to_fields(self, expression: np.ndarray) -> np.ndarray:
        """Converts expression of a file, [..., gene], to that of fields, float64."""
        values = np.asarray(expression, np.float64)
        if self.logarithm:
            values = np.log1p(values)
        return (values - np.asarray(self.mean)) / np.asarray(self.scale)

    def to_file(self, values: np.ndarray) -> np.ndarray:
        """Converts expression of fields to that of the file, [..., gene], float64.

        Counts, of which the logarithm was taken, are at least 0.
        """
        values = np.asarray(values, np.float64) * self.scale + self.mean
        return np.maximum(np.expm1(values), 0.0) if self.logarithm else values

    def place(self, points: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
        """Returns where the cells of a patch lie in a field, float32 [cell, dim].

        Args:
          points: Places in the file, [cell, axis].
          times: Time of each cell, if there are times.
        """
        points = np.asarray(points, np.float64)
        points = (points - points.mean(axis=0)) / self.half_width
        if times is not None and self.time_span is not None:
            clock = (np.asarray(times) - self.first_time) / max(self.time_span, 1e-12)
            points = np.concatenate([points, clock[:, None]], axis=1)
        return points.astype(np.float32)
