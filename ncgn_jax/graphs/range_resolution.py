"""Defines range/resolution schedules, the coarseness and reach at each noise level.

A graph of N points with k neighbours each has k*N edges. At full noise Dynamic
Message Passing keeps s0 = sqrt(k*N) supernodes joined to (nearly) all others; without
noise it keeps all N with k neighbours. In between the number of supernodes is
n(u) = s0 + (N - s0) u, where u in [0, 1] grows with the signal level, and each has
k*N / n neighbours, so that every noise level costs the same k*N edges (Pao-Huang et
al. 2025, section 4.1).

>>> range_and_resolution(0.0, num_nodes=400, num_neighbors=7)
(53, 53)
>>> range_and_resolution(1.0, num_nodes=400, num_neighbors=7)
(400, 7)
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

RANGE_SCHEDULES = ("exp", "linear", "relu", "log", "power", "table", "constant")
"""Names of range and resolution schedules, the values of `dmp.schedule`."""

# For these the published code divides by the rounded number of supernodes.
_DIVIDE_BY_ROUNDED = ("linear", "relu")

Number = TypeVar("Number", float, np.ndarray)


@dataclasses.dataclass(frozen=True)
class RangeResolution:
    """Holds the name and the free parameters of a schedule.

    Attributes:
      name: One of `RANGE_SCHEDULES`; `constant` keeps the full graph at every level.
      curvature: c of `exp`, u = (e^{c a} - 1)/(e^c - 1), and of `log`,
        u = ln(c a + 1)/ln(c + 1). Positive.
      split: Signal level below which `relu` stays coarsest, in [0, 1).
      exponent: u = a^exponent for `power`. Positive.
      table: For `table`, pairs (signal level, u) between which u is linear; both
        columns non-decreasing, from level 0 to level 1.
    """

    name: str = "exp"
    curvature: float = 10.0
    split: float = 0.6
    exponent: float = 2.0
    table: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Checks that the parameters keep the schedule monotone."""
        if self.name not in RANGE_SCHEDULES:
            raise ValueError(
                f"range/resolution schedule: found {self.name!r}; "
                f"allowed: {', '.join(RANGE_SCHEDULES)}"
            )
        if self.curvature <= 0 or self.exponent <= 0:
            raise ValueError(
                "range/resolution schedule: curvature and exponent must be positive, "
                f"found {self.curvature} and {self.exponent}"
            )
        if not 0 <= self.split < 1:
            raise ValueError(
                "range/resolution schedule: split must be in [0, 1), "
                f"found {self.split}"
            )
        if self.name == "table":
            _check_table(self.table)

    def weight(self, signal_level: float) -> float:
        """Returns u in [0, 1], the fraction of the way from coarsest to finest.

        Args:
          signal_level: alpha / (alpha + sigma), in [0, 1].
        """
        return _WEIGHTS[self.name](self, float(signal_level))


def _check_table(table: tuple[tuple[float, float], ...]) -> None:
    columns = np.asarray(table, dtype=float)
    valid = (
        columns.ndim == 2
        and columns.shape[0] >= 2
        and columns.shape[1] == 2
        and columns[0, 0] == 0.0
        and columns[-1, 0] == 1.0
        and bool(np.all(np.diff(columns[:, 0]) > 0))
        and bool(np.all(np.diff(columns[:, 1]) >= 0))
        and bool(np.all((columns[:, 1] >= 0) & (columns[:, 1] <= 1)))
    )
    if not valid:
        raise ValueError(
            "range/resolution schedule: table must hold (signal level, u) pairs with "
            "levels rising from 0 to 1 and u non-decreasing within [0, 1], "
            f"found {table}"
        )


def _table_weight(schedule: RangeResolution, level: float) -> float:
    levels, weights = np.asarray(schedule.table, dtype=float).T
    return float(np.interp(level, levels, weights))


_WEIGHTS: dict[str, Callable[[RangeResolution, float], float]] = {
    "linear": lambda s, a: a,
    # (e^{c a} - 1)/(e^c - 1), multiplied through by e^{-c}: no overflow for large c.
    "exp": lambda s, a: (
        math.exp(s.curvature * (a - 1))
        * (math.expm1(-s.curvature * a) / math.expm1(-s.curvature))
    ),
    "log": lambda s, a: math.log1p(s.curvature * a) / math.log1p(s.curvature),
    "relu": lambda s, a: max(0.0, (a - s.split) / (1 - s.split)),
    "power": lambda s, a: a**s.exponent,
    "table": _table_weight,
    "constant": lambda s, a: 1.0,
}


def num_supernodes_exact(
    signal_level: float,
    num_nodes: int,
    num_neighbors: int,
    schedule: RangeResolution,
) -> float:
    """Returns n(u) of a schedule at a signal level, before rounding.

    Args:
      signal_level: In [0, 1].
      num_nodes: Points of the graph, N.
      num_neighbors: Neighbours of the full graph, k.
      schedule: The range/resolution schedule.
    """
    weight = schedule.weight(signal_level)
    return supernodes_of_weight(weight, num_nodes, num_neighbors)


def supernodes_of_weight(weight: Number, num_nodes: int, num_neighbors: int) -> Number:
    """Returns n(u) = s0 + (N - s0) u before rounding, s0 = min(sqrt(k N), N).

    Args:
      weight: u, in [0, 1], any shape.
      num_nodes: Points of the graph, N.
      num_neighbors: Neighbours of the full graph, k.
    """
    coarsest = _coarsest(num_nodes, num_neighbors)
    return coarsest + (num_nodes - coarsest) * weight


def weight_of_supernodes(
    num_supernodes: float, num_nodes: int, num_neighbors: int
) -> float:
    """Returns the u at which n(u) is a given number, clipped to [0, 1].

    Args:
      num_supernodes: The number n.
      num_nodes: Points of the graph, N, more than k.
      num_neighbors: Neighbours of the full graph, k.
    """
    coarsest = _coarsest(num_nodes, num_neighbors)
    weight = (num_supernodes - coarsest) / (num_nodes - coarsest)
    return min(max(weight, 0.0), 1.0)


def _coarsest(num_nodes: int, num_neighbors: int) -> float:
    return min(math.sqrt(num_neighbors * num_nodes), num_nodes)


def range_and_resolution(
    signal_level: float,
    num_nodes: int,
    num_neighbors: int,
    schedule: RangeResolution | None = None,
) -> tuple[int, int]:
    """Returns (supernodes, neighbours) at a signal level, as the paper rounds them.

    supernodes = ceil(n), neighbours = ceil(k N / n); `linear` and `relu` divide by
    the rounded supernodes, as published. Neighbours are not yet limited to s - 1.

    Args:
      signal_level: In [0, 1], 0 = pure noise, 1 = clean.
      num_nodes: Points of the graph, N.
      num_neighbors: Neighbours of the full graph, k.
      schedule: Curve between the two ends; the paper's best (`exp`) if None.

    Returns:
      Number of supernodes in [ceil(sqrt(kN)), N], number of neighbours >= k.

    Raises:
      ValueError: If the level is outside [0, 1] or a count is not positive.
    """
    if not 0 <= signal_level <= 1:
        raise ValueError(f"signal_level must be in [0, 1], found {signal_level}")
    if num_nodes < 1 or num_neighbors < 1:
        raise ValueError(
            "num_nodes and num_neighbors must be positive, "
            f"found {num_nodes} and {num_neighbors}"
        )
    schedule = schedule or RangeResolution()
    exact = num_supernodes_exact(signal_level, num_nodes, num_neighbors, schedule)
    supernodes = math.ceil(exact)
    divisor = supernodes if schedule.name in _DIVIDE_BY_ROUNDED else exact
    return supernodes, math.ceil(num_neighbors * num_nodes / divisor)
