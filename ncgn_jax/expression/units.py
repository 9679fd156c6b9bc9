"""Converts expression and places between a file of cells and the fields of training."""

import dataclasses

import numpy as np

from ncgn_jax.data.digest import ADDED_LATER


@dataclasses.dataclass(frozen=True)
class CellUnits:
    """How cells of a file became fields: scaled, log(1 + x), standardised, in patches.

    Attributes:
      logarithm: Whether log(1 + expression) was taken.
      mean: Mean of each gene over the training cells, after the logarithm.
      scale: Standard deviation of each gene over them; 1 where it is 0.
      half_width: Typical half-width of a patch, in the unit of the file.
      first_time: Earliest time; None without times.
      time_span: Latest time less the earliest; None without times.
      library_size: Sum that the counts of a cell were scaled to, before the logarithm;
        None if they were not.
      usual_total: Median of the training cells' sums before; None without a sum.
      shares: Share of each gene in all counts of the training cells; () without a sum.
      layer: Layer of AnnData that was read, empty for the usual matrix.
    """

    logarithm: bool
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    half_width: float
    first_time: float | None = None
    time_span: float | None = None
    library_size: float | None = dataclasses.field(default=None, metadata=ADDED_LATER)
    usual_total: float | None = dataclasses.field(default=None, metadata=ADDED_LATER)
    shares: tuple[float, ...] = dataclasses.field(default=(), metadata=ADDED_LATER)
    layer: str = dataclasses.field(default="", metadata=ADDED_LATER)

    def select(self, genes: slice) -> "CellUnits":
        """Returns the units of some of the genes."""
        return dataclasses.replace(
            self,
            mean=self.mean[genes],
            scale=self.scale[genes],
            shares=self.shares[genes],
        )

    def transform(
        self, expression: np.ndarray, totals: np.ndarray | None = None
    ) -> np.ndarray:
        """Scales counts and takes logarithms, without standardising, float64.

        Args:
          expression: Of a file, [cell, gene].
          totals: Sum of all counts of each cell, [cell]; needed with a library size.
            Cells without counts stay at 0.
        """
        values = np.asarray(expression, np.float64)
        if self.library_size is not None:
            values = values * self._factors(totals)
        return np.log1p(values) if self.logarithm else values

    def to_fields(
        self, expression: np.ndarray, totals: np.ndarray | None = None
    ) -> np.ndarray:
        """Converts expression of a file, [cell, gene], to that of fields, float64.

        Args:
          expression: Of a file.
          totals: See `transform`.
        """
        values = self.transform(expression, totals)
        return (values - np.asarray(self.mean)) / np.asarray(self.scale)

    def to_file(
        self, values: np.ndarray, totals: np.ndarray | None = None
    ) -> np.ndarray:
        """Converts expression of fields to that of the file, [..., gene], float64.

        Counts, of which the logarithm was taken or whose sum was scaled, are at least
        0.

        Args:
          values: Of fields.
          totals: Sum of all counts of each cell, [...]; None for the median of the
            training cells, where a library size was taken.
        """
        values = np.asarray(values, np.float64) * self.scale + self.mean
        if self.logarithm:
            values = np.expm1(values)
        if self.logarithm or self.library_size is not None:
            values = np.maximum(values, 0.0)
        if self.library_size is None:
            return values
        if totals is None:
            return values * (float(self.usual_total or 0.0) / self.library_size)
        return values * (np.asarray(totals)[..., None] / self.library_size)

    def _factors(self, totals: np.ndarray | None) -> np.ndarray:
        """Returns what the counts of each cell are multiplied by, [cell, 1]."""
        if totals is None:
            raise ValueError("a library size needs the sums of the cells")
        found = np.asarray(totals, np.float64)[:, None]
        return np.divide(
            float(self.library_size or 0.0),
            found,
            out=np.zeros_like(found),
            where=found > 0,
        )

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
