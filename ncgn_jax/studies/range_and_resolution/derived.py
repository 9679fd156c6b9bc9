"""Derives schedules, compares them with the paper's and prints their arguments.

Part of `range_and_resolution`. From the gains of graphs of equal cost on fields and on
shapes it derives schedules for `dmp.schedule=table`, compares them with those of arXiv
2507.09391, section 4.1, and writes them as command-line arguments of a run.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ncgn_jax.config import apply_overrides
from ncgn_jax.domains import default_config, validate
from ncgn_jax.graphs import RangeResolution, make_noise_buckets, range_and_resolution
from ncgn_jax.graphs.fitted_schedules import table_arguments, table_overrides
from ncgn_jax.graphs.range_resolution import num_supernodes_exact
from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.studies.range_and_resolution.fields import (
    RADII,
    RETAINED,
    coarsest_blocks,
    retained_by_blocks,
)
from ncgn_jax.studies.range_and_resolution.mutual_information import (
    best_radius,
    moments,
)
from ncgn_jax.studies.range_and_resolution.schedule import (
    derive_schedule,
    distance_in_octaves,
    relative_gains,
    share_kept,
)
from ncgn_jax.studies.range_and_resolution.shapes import (
    DIM,
    NUM_NEIGHBORS,
    NUM_NODES,
    SIZES,
)
from ncgn_jax.studies.report import Report, Value, verdict_of

NAMED = ("exp", "linear", "log", "relu")
SOURCES = ("fields", "shapes", "both")
FIELD_LENGTH = 6.0
_CLOSE = 0.95


class Gains(NamedTuple):
    """Shares explained beyond the point by each of `SIZES`, by signal level.

    Attributes:
      levels: Signal levels, [level].
      weights: Weights u of the sizes, [size].
      fields: Shares on Gaussian fields, [level, size].
      chosen: Shares on half of the held-out clouds, which choose sizes.
      judged: Shares on the other half, which judge the choice.
    """

    levels: tuple[float, ...]
    weights: tuple[float, ...]
    fields: np.ndarray
    chosen: np.ndarray
    judged: np.ndarray


def derive_schedules(gains: Gains) -> dict[str, RangeResolution]:
    """Derives a schedule from fields, one from shapes, and one from both.

    The last takes the size with the best mean relative gain at each level.
    """
    mixed = 0.5 * (relative_gains(gains.fields) + relative_gains(gains.chosen))
    found = (gains.fields, gains.chosen, mixed)
    tables = [derive_schedule(gains.levels, gains.weights, each) for each in found]
    return {
        f"derived, {source}": RangeResolution("table", table=table)
        for source, table in zip(SOURCES, tables, strict=True)
    }


def report_schedules(
    report: Report, gains: Gains, derived: Mapping[str, RangeResolution]
) -> None:
    """Adds the derived schedules beside the named ones, and the gains of both.

    Args:
      report: The report.
      gains: Gains of the sizes.
      derived: The schedules of `derive_schedules`.
    """
    named = {name: RangeResolution(name) for name in NAMED}
    schedules = {**derived, **named}
    levels = (0.0, *gains.levels, 1.0)
    sizes = {
        name: [
            num_supernodes_exact(level, NUM_NODES, NUM_NEIGHBORS, schedule)
            for level in levels
        ]
        for name, schedule in schedules.items()
    }
    # There are no bounds without noise, nor for noise alone.
    bounds = [(None, None), *_bounds(gains.levels), (None, None)]
    report.add_table(
        "schedule",
        f"Supernodes of {NUM_NODES} points: most that still reach the best radius, "
        f"fewest that still retain {RETAINED:.0%} (field, exponential, length "
        f"{FIELD_LENGTH:g}); derived schedules; those of section 4.1",
        ["level", "range", "resolution", *schedules],
        [
            [level, *bound, *(sizes[name][place] for name in schedules)]
            for place, (level, bound) in enumerate(zip(levels, bounds, strict=True))
        ],
    )
    panels = [
        Panel(
            title,
            "signal level",
            f"supernodes of {NUM_NODES} points",
            {name: (levels, sizes[name]) for name in shown},
        )
        for title, shown in (
            ("Derived schedules, and the paper's best", (*derived, "exp")),
            ("Derived from shapes, and section 4.1", ("derived, shapes", *NAMED)),
        )
    ]
    report.add_figure("schedule", draw_panels(panels))
    _judge(report, gains, schedules)
    _report_direction(report, gains)


def _bounds(levels: Sequence[float]) -> list[tuple[float, float]]:
    """Returns the bounds on s of range and of resolution at each level."""
    snrs = [(level / (1.0 - level)) ** 2 for level in levels]
    retained, _ = retained_by_blocks(snrs, "exponential", FIELD_LENGTH)
    coarsest = math.sqrt(NUM_NEIGHBORS * NUM_NODES)
    bounds = []
    for snr, block in zip(snrs, coarsest_blocks(retained), strict=True):
        radius = best_radius(snr, RADII, 2, "exponential", FIELD_LENGTH)
        wanted = moments(radius, 2, "exponential", FIELD_LENGTH).num_nodes
        # k N / s neighbours of N / s points each reach `wanted` points.
        reaching = NUM_NODES * math.sqrt(NUM_NEIGHBORS / wanted)
        resolving = max(NUM_NODES / block**2, coarsest)
        bounds.append((min(max(reaching, coarsest), NUM_NODES), resolving))
    return bounds


def _judge(
    report: Report, gains: Gains, schedules: Mapping[str, RangeResolution]
) -> None:
    fixed = {
        "all points": RangeResolution("constant"),
        "coarsest": RangeResolution("table", table=((0.0, 0.0), (1.0, 0.0))),
    }
    shape = (NUM_NODES, NUM_NEIGHBORS)
    rows: list[list[Value]] = []
    kept, apart = {}, {}
    for name, schedule in {**schedules, **fixed}.items():
        shares = [
            share_kept(schedule, gains.levels, gains.weights, found, *shape)
            for found in (gains.fields, gains.judged)
        ]
        distances = [
            distance_in_octaves(
                schedule, schedules[f"derived, {source}"], gains.levels, *shape
            )
            for source in SOURCES
        ]
        kept[name], apart[name] = shares[1], distances[SOURCES.index("shapes")]
        rows.append([name, *shares, *distances])
    report.add_table(
        "judged",
        "Schedules: share of what the best size of each level explains, on fields and "
        "on the half of the shapes that picked nothing; mean distance in halvings of "
        "the graph from the derived ones",
        ["schedule", "kept, fields", "kept, shapes"]
        + [f"from {source}" for source in SOURCES],
        rows,
    )
    nearest = min(NAMED, key=lambda name: apart[name])
    best = max(NAMED, key=lambda name: kept[name])
    beats_fixed = kept["exp"] > max(kept[name] for name in fixed)
    is_close = kept["exp"] >= _CLOSE * kept["derived, shapes"]
    report.add_finding(
        "The schedule of the ablation, exp (2507.09391, sections 4.1 and 5.1), is near "
        "the best at equal cost: better than any fixed graph, nearest of the four to "
        f"the derived one, within {1 - _CLOSE:.0%} of what that explains",
        verdict_of([beats_fixed, nearest == "exp", is_close]),
        f"on shapes exp keeps {kept['exp']:.1%} of what the best sizes explain, the "
        f"derived schedule {kept['derived, shapes']:.1%}, {best} most of the four, "
        f"{kept[best]:.1%}; all points with {NUM_NEIGHBORS} neighbours "
        f"{kept['all points']:.1%}, the coarsest graph {kept['coarsest']:.1%}; exp is "
        f"{apart['exp']:.2f} halvings from the derived one, {nearest} nearest with "
        f"{apart[nearest]:.2f}. Measured for one linear round of messages: a network "
        "of several rounds that sees inside its clusters can do with coarser graphs",
    )


def _report_direction(report: Report, gains: Gains) -> None:
    """Adds whether the best size grows with the signal level before any smoothing."""
    best = np.argmax(relative_gains(gains.chosen), axis=1)
    growing = (np.diff(best) >= 0) & (best[-1] > best[0])
    report.add_finding(
        "At equal cost the best graph turns from few far supernodes to many near ones "
        "as the noise falls (2507.09391, section 4.1)",
        verdict_of(growing),
        f"on shapes from {SIZES[best[0]]} supernodes at signal level "
        f"{gains.levels[0]:g} to {SIZES[best[-1]]} at {gains.levels[-1]:g}, in "
        f"{sum(growing)} of {len(growing)} steps without turning back, before "
        "smoothing",
    )


def report_overrides(report: Report, derived: Mapping[str, RangeResolution]) -> None:
    """Adds the arguments that give a run a derived schedule, and its noise buckets.

    It validates the arguments on the point-cloud task as a run does.

    Args:
      report: The report.
      derived: The schedules of `derive_schedules`.
    """
    rows = []
    for name, schedule in derived.items():
        overrides = table_overrides(schedule.table)
        validate(apply_overrides(default_config("point_clouds"), overrides))
        rows.append([name, table_arguments(schedule.table)])
    report.add_table(
        "overrides",
        "Arguments for python -m ncgn_jax.main --config=configs/modelnet.py",
        ["schedule", "arguments"],
        rows,
    )
    shapes = []
    for name, schedule in {**derived, "exp": RangeResolution("exp")}.items():
        buckets = make_noise_buckets(NUM_NODES, NUM_NEIGHBORS, DIM, schedule=schedule)
        parts = (f"{b.num_supernodes} x {b.num_neighbors}" for b in buckets)
        bounds = (f"{bucket.low:.3f}" for bucket in buckets)
        shapes.append([name, ", ".join(parts), ", ".join(bounds)])
    report.add_table(
        "buckets",
        f"Noise buckets of {NUM_NODES} points, k = {NUM_NEIGHBORS}",
        ["schedule", "supernodes x neighbours", "from signal level"],
        shapes,
    )


def report_published(report: Report) -> None:
    """Adds the schedules of section 4.1 in the paper's own numbers."""
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = []
    for name in NAMED:
        pairs = [
            range_and_resolution(level, 1000, 20, RangeResolution(name))
            for level in levels
        ]
        rows.append([name, *(f"{s} x {n}" for s, n in pairs)])
    report.add_table(
        "published",
        "Schedules of section 4.1: supernodes x neighbours, N = 1000, k = 20",
        ["schedule", *(f"t = {level:g}" for level in levels)],
        rows,
    )
