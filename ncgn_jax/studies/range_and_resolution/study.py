"""Studies range and resolution at each noise level (arXiv 2507.09391, section 3).

    python -m ncgn_jax.studies.range_and_resolution [--workdir=DIR] [--quick]

Tests whether range grows and resolution falls with the noise, exactly for Gaussian
fields on grids, and by measurement on shapes whose own points are noisy. From both it
derives a range/resolution schedule, compares it with those of section 4.1, and prints
the overrides that give it to a run. The shapes are those of the point-cloud task
without `data.path`: the embedded set, or the one that the variable NCGN_DATA names.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np

from ncgn_jax.graphs import RangeResolution, range_and_resolution
from ncgn_jax.graphs.range_resolution import weight_of_supernodes
from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.process import make_schedule
from ncgn_jax.studies.range_and_resolution.derived import (
    Gains,
    derive_schedules,
    report_overrides,
    report_published,
    report_schedules,
)
from ncgn_jax.studies.range_and_resolution.fields import (
    MOST_ERRORS,
    SIDE,
    report_range,
    report_resolution,
)
from ncgn_jax.studies.range_and_resolution.mutual_information import (
    grid_points,
    pair_correlation,
)
from ncgn_jax.studies.range_and_resolution.schedule import (
    field_gains,
    resample_gains,
)
from ncgn_jax.studies.range_and_resolution.shapes import (
    DIM,
    NUM_NEIGHBORS,
    NUM_NODES,
    SIZES,
    Measured,
    expected_squared_gap,
    explained_beyond,
    explained_errors,
    load_clouds,
    measure_clouds,
    rank_that_finds,
    sampled_squared_gap,
)
from ncgn_jax.studies.report import Report, verdict_of

# On 24 x 24 nodes with k = 7, sqrt(k N) is 63.5 and 3 x 3 makes 64 supernodes.
FIELD_BLOCKS = ((3, 3), (2, 3), (2, 2), (1, 2), (1, 1))
FIELD_LENGTHS = (3.0, 6.0)
REACHES = (7, 14, 28, 56)
FOUND = 0.6


def study(report: Report) -> None:
    """Fills the report with fields, positions, shapes and schedules."""
    report_range(report, 100_000 if report.quick else 400_000)
    report_resolution(report)
    report_positions(report, 20_000 if report.quick else 200_000)
    num_clouds = 64 if report.quick else 256
    steps = np.arange(0.1, 0.95, 0.1 if report.quick else 0.05)
    levels = (0.05, *(round(float(level), 2) for level in steps), 0.95)
    clouds = load_clouds(num_clouds, num_clouds, NUM_NODES, report.seed)
    measured = measure_clouds(clouds, levels, SIZES, NUM_NEIGHBORS, report.seed)
    report_shapes(report, clouds.name, measured, levels)
    report_published(report)


def report_shapes(
    report: Report, name: str, measured: Measured, levels: tuple[float, ...]
) -> None:
    """Adds the measurements on clouds and the schedules derived from them and fields.

    Args:
      report: The report.
      name: Name of the data set.
      measured: Measurements on its clouds.
      levels: Signal levels of the measurements.
    """
    gains = _report_gains(report, name, measured, levels)
    derived = derive_schedules(gains)
    report_schedules(report, gains, derived)
    _report_neighbors(report, name, measured, levels, derived["derived, shapes"])
    report_overrides(report, derived)


def report_positions(report: Report, num_draws: int) -> None:
    """Adds Proposition 3.3 and a check of its formula on samples.

    Args:
      report: The report.
      num_draws: Number of samples of the check.
    """
    rows, worst, distance = [], 0.0, 0.1
    for row, t in enumerate((0.0, 0.25, 0.5, 0.75, 0.9, 1.0)):
        rng = jax.random.fold_in(jax.random.key(report.seed + 1), row)
        exact = float(expected_squared_gap(t, distance**2, DIM))
        sampled, error = sampled_squared_gap(rng, t, distance, DIM, num_draws)
        if t < 1.0:  # at t = 1 nothing is random
            worst = max(worst, abs(sampled - exact) / error)
        relative = exact / (t * distance) ** 2 if t else math.inf
        rows.append([t, exact, sampled, error, relative])
    report.add_table(
        "positions",
        f"Proposition 3.3: expected squared distance of points {distance:g} apart in "
        f"{DIM}-D, and that over what scaling alone gives, t^2 d^2",
        ["t", "exact", "sampled", "std. error", "over t^2 d^2"],
        rows,
    )
    falling = bool(np.all(np.diff([row[-1] for row in rows[1:]]) < 0))
    far = math.sqrt(2 * DIM)
    turns = [2 * DIM / (d**2 + 2 * DIM) for d in (distance, far)]
    report.add_finding(
        "Proposition 3.3 of 2507.09391: noise drives neighbours apart, relative to the "
        "scale of the cloud",
        verdict_of([falling, worst < MOST_ERRORS]),
        f"formula within {worst:.2f} standard errors; over t^2 d^2 it is "
        f"{rows[1][-1]:.0f} at t = {rows[1][0]:g} and 1 at t = 1. Unscaled, noise "
        "first draws points together and drives them apart below t = 2m / (d^2 + 2m): "
        f"{turns[0]:.4f} for these, {turns[1]:g} for points {far:.3g} apart",
    )


def _report_neighbors(
    report: Report,
    name: str,
    measured: Measured,
    levels: Sequence[float],
    derived: RangeResolution,
) -> None:
    schedules = {"exp": RangeResolution("exp"), "derived, shapes": derived}
    rows = []
    for level, ranks in zip(levels, measured.ranks, strict=True):
        shares = [float((ranks <= reach).mean()) for reach in REACHES]
        seen = [_points_in_reach(schedule, level) for schedule in schedules.values()]
        rows.append([level, *shares, rank_that_finds(ranks, FOUND), *seen])
    header = [*(f"k' = {reach}" for reach in REACHES), f"rank of {FOUND:.0%}"]
    header += [f"seen, {schedule}" for schedule in schedules]
    report.add_table(
        "neighbors",
        f"True {NUM_NEIGHBORS} neighbours, {name}, {len(measured.ranks[0])} held-out "
        f"clouds of {NUM_NODES}: share among the k' nearest noisy points; rank at "
        f"which {FOUND:.0%} are found; points that a supernode sees in one round",
        ["level", *header],
        rows,
    )
    columns = dict(zip(header, np.array(rows, float).T[1:], strict=True))
    ranks = columns[header[len(REACHES)]]
    falling = np.diff(ranks) <= 0
    middle = len(levels) // 2
    report.add_finding(
        "Proposition 3.3 on shapes: the noisier the points, the further down the list "
        "of noisy neighbours are the true ones",
        verdict_of(falling),
        f"to find {FOUND:.0%} of {NUM_NEIGHBORS} takes {ranks[-1]:.0f} noisy "
        f"neighbours at signal level {levels[-1]:g}, {ranks[middle]:.0f} at "
        f"{levels[middle]:g} and {ranks[0]:.0f} of {NUM_NODES - 1} at {levels[0]:g}",
    )
    curves = {key: (levels, column) for key, column in columns.items()}
    panels = [
        Panel(
            f"True neighbours among noisy ones (N = {NUM_NODES})",
            "signal level",
            f"share of {NUM_NEIGHBORS} found",
            {key: curves[key] for key in header[: len(REACHES)]},
        ),
        Panel(
            "How far one must look",
            "signal level",
            "points",
            {key: curves[key] for key in header[len(REACHES) :]},
            log_y=True,
        ),
    ]
    report.add_figure("neighbors", draw_panels(panels))


def _points_in_reach(schedule: RangeResolution, level: float) -> int:
    """Returns the number of points in a cluster and those joined to it."""
    s, n = range_and_resolution(level, NUM_NODES, NUM_NEIGHBORS, schedule)
    return min(NUM_NODES, math.ceil((n + 1) * NUM_NODES / s))


def _report_gains(
    report: Report, name: str, measured: Measured, levels: tuple[float, ...]
) -> Gains:
    weights = tuple(weight_of_supernodes(s, NUM_NODES, NUM_NEIGHBORS) for s in SIZES)
    fields = _report_field_gains(report, levels, weights)
    pointwise = measured.pointwise[:, None]
    gains = explained_beyond(measured.moments, pointwise)
    by_means = explained_beyond(measured.means, pointwise)
    errors = explained_errors(measured.moments, pointwise).max(axis=1)
    rows = [
        [level, *row, error, SIZES[int(np.argmax(row))], SIZES[int(np.argmax(mean))]]
        for level, row, error, mean in zip(levels, gains, errors, by_means, strict=True)
    ]
    report.add_table(
        "shape_gains",
        "Share of the variance explained beyond the point by graphs of "
        f"{NUM_NEIGHBORS} N edges: {name}, {pointwise.shape[-1]} held-out clouds of "
        f"{NUM_NODES}, linear in means and second moments; largest standard error; "
        "best s, and that of means alone",
        ["level", *(f"s = {s}" for s in SIZES), "std. error", "best s", "by means"],
        rows,
    )
    shown = [SIZES.index(size) for size in (53, 100, 200, 400)]
    panels = [
        Panel(
            f"Graphs of equal cost, {title}",
            "signal level",
            "share explained beyond the point",
            {
                f"{SIZES[place]} supernodes": (levels, found[:, place])
                for place in shown
            },
        )
        for title, found in (("fields", fields), ("shapes", gains))
    ]
    report.add_figure("gains", draw_panels(panels))
    # Every other cloud chooses the sizes, those between judge the choice.
    chosen, judged = (
        explained_beyond(measured.moments[..., half::2], pointwise[..., half::2])
        for half in (0, 1)
    )
    return Gains(levels, weights, fields, chosen, judged)


def _report_field_gains(
    report: Report, levels: Sequence[float], weights: Sequence[float]
) -> np.ndarray:
    """Adds the gains on fields and returns them at `weights`, [level, size]."""
    snrs = np.exp(np.asarray(make_schedule("linear").log_snr(np.asarray(levels))))
    sizes = [SIDE**2 // (a * b) for a, b in FIELD_BLOCKS]
    known = [weight_of_supernodes(size, SIDE**2, NUM_NEIGHBORS) for size in sizes]
    total = np.zeros((len(levels), len(weights)))
    for length in FIELD_LENGTHS:
        covariance = pair_correlation(grid_points(SIDE), "exponential", length)
        gains = field_gains(snrs, covariance, SIDE, FIELD_BLOCKS, NUM_NEIGHBORS)
        total += resample_gains(known, gains, weights, NUM_NODES, NUM_NEIGHBORS)
        report.add_table(
            f"field_gains_{length:g}",
            "Share of the variance explained beyond the node by graphs of "
            f"{NUM_NEIGHBORS} N edges: field on {SIDE} x {SIDE} nodes, exponential, "
            f"length {length:g}",
            ["level", *(f"s = {size}" for size in sizes), "best s"],
            [
                [level, *row, sizes[int(np.argmax(row))]]
                for level, row in zip(levels, gains, strict=True)
            ],
        )
    return total / len(FIELD_LENGTHS)
