"""Range/resolution schedules chosen from measurements, in the form of a table.

Section 4.1 of arXiv 2507.09391 fixes the ends and the direction of the number of
supernodes as a function of the noise, and leaves the way between them open.

Example: the coarse graph is better at the first two levels, the fine one at the last.

>>> losses = [[0.3, 0.4], [0.2, 0.3], [0.2, 0.1]]
>>> least_loss_schedule((0.2, 0.5, 0.8), (50, 400), losses, 400, 7)
((0.0, 0.0), (0.5, 0.0), (0.8, 1.0), (1.0, 1.0))
"""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from ncgn_jax.graphs.range_resolution import weight_of_supernodes

Table = tuple[tuple[float, float], ...]

_DIGITS = 4


def table_of_weights(levels: Sequence[float], weights: Sequence[float]) -> Table:
    """Returns the table of a schedule that is u at some levels.

    Args:
      levels: Signal levels, rising within (0, 1), [level].
      weights: u at each, non-decreasing within [0, 1], [level].

    Returns:
      Pairs (signal level, u) for `RangeResolution(name="table")`, constant beyond the
      outermost levels, without those that a flat stretch does not need.
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
    """Returns the two overrides that give a run a table, without their dashes.

    See `table_arguments` for the command line.
    """
    return "dmp.schedule=table", f"dmp.table={table}"


def table_arguments(table: Table) -> str:
    """Returns the arguments of `python -m ncgn_jax.main` that give a run a table."""
    schedule, pairs = table_overrides(table)
    return f"--config.{schedule} '--config.{pairs}'"


def check_rising(levels: Sequence[float], name: str, choices: Sequence[float]) -> None:
    """Refuses what no schedule can be chosen from.

    Args:
      levels: Signal levels.
      name: What is chosen from, for the message.
      choices: Numbers of supernodes, or weights.

    Raises:
      ValueError: If levels do not rise within (0, 1), or choices do not rise.
    """
    rising = np.all(np.diff(levels) > 0) and np.all(np.diff(choices) > 0)
    if not rising or levels[0] <= 0 or levels[-1] >= 1:
        raise ValueError(
            f"levels must rise within (0, 1) and {name} rise, found {levels} and "
            f"{choices}"
        )


def least_loss_schedule(
    levels: Sequence[float],
    sizes: Sequence[int],
    losses: ArrayLike,
    num_nodes: int,
    num_neighbors: int,
) -> Table:
    """Chooses the graph of each noise level from the losses a network has in each.

    Of all choices in which the number of supernodes never falls as the signal rises,
    the one whose losses have the least sum, found by dynamic programming. Ties go to
    the coarser graph.

    Args:
      levels: Signal levels, rising within (0, 1), [level].
      sizes: Supernodes of each graph, rising, [size].
      losses: What a network trained with every graph at every level gets wrong,
        [level, size]; weigh rows that stand for more of the time.
      num_nodes: Points of a graph, N.
      num_neighbors: Neighbours of the full graph, k.

    Returns:
      Pairs (signal level, u) for `RangeResolution(name="table")`.

    Raises:
      ValueError: If the shapes do not fit, levels or sizes do not rise, or a loss is
        not finite.
    """
    losses = np.asarray(losses, float)
    if losses.shape != (len(levels), len(sizes)) or not np.isfinite(losses).all():
        raise ValueError(
            f"losses must be finite, [{len(levels)}, {len(sizes)}], found {losses}"
        )
    check_rising(levels, "sizes", sizes)
    least = np.zeros_like(losses)  # of all choices up to a level that end in a size
    least[0] = losses[0]
    for i in range(1, len(levels)):
        least[i] = losses[i] + np.minimum.accumulate(least[i - 1])
    chosen = [int(np.argmin(least[-1]))]
    for row in least[-2::-1]:
        chosen.append(int(np.argmin(row[: chosen[-1] + 1])))
    weights = [weight_of_supernodes(s, num_nodes, num_neighbors) for s in sizes]
    return table_of_weights(levels, [weights[j] for j in reversed(chosen)])
