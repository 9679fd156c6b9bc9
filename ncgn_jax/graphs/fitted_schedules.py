"""Chooses range/resolution schedules from measurements, in the form of a table.

Section 4.1 of arXiv 2507.09391 fixes the ends and the direction of the number of
supernodes as a function of the noise, and leaves the curve between them open.

Example: the coarse graph is better at the first two levels, the fine one at the last.

>>> losses = [[0.3, 0.4], [0.2, 0.3], [0.2, 0.1]]
>>> least_loss_schedule((0.2, 0.5, 0.8), (0.0, 1.0), losses)
((0.0, 0.0), (0.5, 0.0), (0.8, 1.0), (1.0, 1.0))
"""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

Table = tuple[tuple[float, float], ...]

_DIGITS = 4


def table_of_weights(levels: Sequence[float], weights: Sequence[float]) -> Table:
    """Returns the table of a schedule with given u at some levels.

    Args:
      levels: Signal levels, rising within (0, 1), [level].
      weights: u at each, non-decreasing within [0, 1], [level].

    Returns:
      Pairs (signal level, u) for `RangeResolution(name="table")`, constant beyond the
      outermost levels, without redundant pairs in flat stretches.
    """
    at = (0.0, *levels, 1.0)
    u = (weights[0], *weights, weights[-1])
    pairs = [
        (round(float(a), _DIGITS), round(float(b), _DIGITS))
        for a, b in zip(at, u, strict=True)
    ]
    return tuple(
        pair
        for i, pair in enumerate(pairs)
        if i in (0, len(pairs) - 1) or not pairs[i - 1][1] == pair[1] == pairs[i + 1][1]
    )


def table_overrides(table: Table) -> tuple[str, str]:
    """Returns the two config overrides that set a table, without their dashes.

    `table_arguments` returns the command line.
    """
    return "dmp.schedule=table", f"dmp.table={table}"


def table_arguments(table: Table) -> str:
    """Returns the arguments of `python -m ncgn_jax.main` that set a table."""
    schedule, pairs = table_overrides(table)
    return f"--config.{schedule} '--config.{pairs}'"


def check_rising(levels: Sequence[float], weights: Sequence[float]) -> None:
    """Checks that a schedule can be chosen at these levels from these weights.

    Args:
      levels: Signal levels.
      weights: u of each candidate graph.

    Raises:
      ValueError: If levels do not rise within (0, 1), or weights do not rise.
    """
    rising = np.all(np.diff(levels) > 0) and np.all(np.diff(weights) > 0)
    if not rising or levels[0] <= 0 or levels[-1] >= 1:
        raise ValueError(
            f"levels must rise within (0, 1) and weights rise, found {levels} and "
            f"{weights}"
        )


def least_loss_schedule(
    levels: Sequence[float], weights: Sequence[float], losses: ArrayLike
) -> Table:
    """Chooses the graph of each noise level from the losses of a network.

    Among all choices in which the number of supernodes never falls as the signal rises,
    dynamic programming finds the one with the least sum of losses. Ties go to the
    coarser graph.

    Args:
      levels: Signal levels, rising within (0, 1), [level].
      weights: u at which the schedule has each graph, rising, [graph].
      losses: Losses of a network trained with every graph at every level,
        [level, graph]; scale rows by the share of time that they represent.

    Returns:
      Pairs (signal level, u) for `RangeResolution(name="table")`.

    Raises:
      ValueError: If the shapes do not fit, levels or weights do not rise, or a loss
        is not finite.
    """
    losses = np.asarray(losses, float)
    if losses.shape != (len(levels), len(weights)) or not np.isfinite(losses).all():
        raise ValueError(
            f"losses must be finite, [{len(levels)}, {len(weights)}], found {losses}"
        )
    check_rising(levels, weights)
    least = np.zeros_like(losses)  # sum of the best choice up to a level and graph
    least[0] = losses[0]
    for i in range(1, len(levels)):
        least[i] = losses[i] + np.minimum.accumulate(least[i - 1])
    chosen = [int(np.argmin(least[-1]))]
    for row in least[-2::-1]:
        chosen.append(int(np.argmin(row[: chosen[-1] + 1])))
    return table_of_weights(levels, [weights[j] for j in reversed(chosen)])
