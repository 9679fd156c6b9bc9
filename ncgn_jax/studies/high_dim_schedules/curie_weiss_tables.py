"""Repeats the study's comparison of four ways on the Curie-Weiss model."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.studies.high_dim_schedules.curie_weiss import (
    CurieWeiss,
    exact_denoiser,
    exact_share,
    two_point_denoiser,
)
from ncgn_jax.studies.high_dim_schedules.ways import (
    SHARE_TOLERANCE,
    VARIANCE_TOLERANCE,
    Way,
    draw_samples,
    four_ways,
)
from ncgn_jax.studies.report import Report, Value, verdict_of

# The tolerance of the mean of x_i^2 is that of a variance; that of agreement is:
AGREEMENT_TOLERANCE = 0.01
# Numbers of steps to try, each about sqrt(2) times the one before.
LADDER = (10, 14, 20, 28, 40, 56, 80, 112, 160, 226, 320, 452, 640)


class Spins(NamedTuple):
    """Statistics of samples.

    Attributes:
      share: Share of samples in the majority mode.
      square: Mean of x_i^2; 1 for spins.
      agreement: Mean of sign(x_i) sign(sum(x)); m for spins.
    """

    share: float
    square: float
    agreement: float


def sample_spins(
    way: Way,
    dim: int,
    num_steps: int,
    num_samples: int,
    rng: jax.Array,
    is_exact: bool = False,
) -> Spins:
    """Samples the model from stratified starts.

    Args:
      way: The way of sampling.
      dim: Number of spins.
      num_steps: Number of Euler's steps.
      num_samples: Least number of samples.
      rng: Random key.
      is_exact: Whether the denoiser is that of d spins instead of that of large d.
    """
    schedule, model = way.schedule(dim), CurieWeiss(dim)
    denoise = (exact_denoiser if is_exact else two_point_denoiser)(model, schedule)
    times = way.times(num_steps, dim)
    x = draw_samples(
        denoise, schedule, times, dim, num_samples, rng, is_stratified=True
    )
    parts = (x.along > 0, x.square, x.agreement)
    return Spins(*(float(np.mean(part)) for part in parts))


def add_curie_weiss(report: Report) -> None:
    """Adds recovery against dimension, the exact denoiser, and the steps needed."""
    kappa = 3.0
    if report.quick:
        sizes = [(64, 20), (256, 20), (1024, 20), (1024, 100)]
        add_spins(report, sizes, kappa, num_samples=200, exact_dim=64)
        add_spin_steps(report, (64, 256, 1024), kappa, LADDER[2:9], num_samples=200)
        return
    sizes = [(256, 20), (1024, 20), (4096, 20), (16384, 20), (4096, 100)]
    add_spins(report, sizes, kappa, num_samples=500, exact_dim=256)
    add_spin_steps(report, (64, 256, 1024, 4096), kappa, LADDER, num_samples=200)


def add_spins(
    report: Report,
    sizes: Sequence[tuple[int, int]],
    kappa: float,
    num_samples: int,
    exact_dim: int,
) -> None:
    """Adds share, mean square and agreement of the four ways.

    Args:
      report: The report.
      sizes: Dimension and number of steps of each row; the first number of steps is
        that of the figure.
      kappa: Width of the window.
      num_samples: Least number of samples.
      exact_dim: Dimension of the comparison with the exact denoiser.
    """
    rng, ways = jax.random.key(report.seed), four_ways(kappa)
    found = {}
    rows: list[list[Value]] = []
    for dim, num_steps in sizes:
        for way in ways:
            spins = sample_spins(way, dim, num_steps, num_samples, rng)
            found[dim, num_steps, way.name] = spins
            rows.append(
                [dim, num_steps, way.name, *spins, exact_share(CurieWeiss(dim))]
            )
    model = CurieWeiss(sizes[0][0])
    report.add_table(
        "curie_weiss",
        f"Curie-Weiss, beta = {model.coupling:g}, stratified starts; targets: share "
        f"{model.share:.6f} (large d), mean square 1, agreement "
        f"{model.magnetisation:.6f}",
        ["d", "steps", "way", "share", "mean square", "agreement", "share of d spins"],
        rows,
    )
    rows = []
    for way in ways:
        for name, is_exact in (("two-point", False), ("exact", True)):
            num_steps = sizes[0][1]
            spins = sample_spins(way, exact_dim, num_steps, num_samples, rng, is_exact)
            rows.append([way.name, name, *spins])
    report.add_table(
        "curie_weiss_exact",
        f"Curie-Weiss, d = {exact_dim}, {sizes[0][1]} steps: the denoiser for large d "
        "beside that of d spins",
        ["way", "denoiser", "share", "mean square", "agreement"],
        rows,
    )
    num_steps = sizes[0][1]
    dims = [dim for dim, steps in sizes if steps == num_steps]
    _judge_spins(report, found, [way.name for way in ways], dims[-1], num_steps)
    labels = {
        "share": ("Asymmetry", "share of the majority mode", model.share),
        "agreement": ("Shape", "agreement of signs", model.magnetisation),
        "square": ("Shape", "mean square of a spin", 1.0),
    }
    panels = []
    for part, (title, label, target) in labels.items():
        curves = {
            way.name: (
                dims,
                [getattr(found[dim, num_steps, way.name], part) for dim in dims],
            )
            for way in ways
        }
        title = f"{title}, {num_steps} steps"
        panels.append(
            Panel(
                title, "number of spins d", label, curves, True, False, target, "target"
            )
        )
    report.add_figure("curie_weiss", draw_panels(panels, columns=3))


def _judge_spins(
    report: Report, found: Mapping, names: Sequence[str], dim: int, num_steps: int
) -> None:
    model = CurieWeiss(dim)
    last = [found[dim, num_steps, name] for name in names]
    mean = model.magnetisation
    checks = [
        abs(last[0].square - 1.0) < VARIANCE_TOLERANCE,
        abs(last[0].share - model.share) > 0.1,
        abs(last[1].share - model.share) < SHARE_TOLERANCE,
        abs(last[1].square - 1.0) > VARIANCE_TOLERANCE,
        *(abs(spins.share - model.share) < SHARE_TOLERANCE for spins in last[2:]),
        *(abs(spins.square - 1.0) < VARIANCE_TOLERANCE for spins in last[2:]),
    ]
    evidence = "; ".join(
        f"{name} share {spins.share:.3f}, mean square {spins.square:.4f}, agreement "
        f"{spins.agreement:.4f}"
        for name, spins in zip(names, last, strict=True)
    )
    report.add_finding(
        "The same holds for the Curie-Weiss model: equal steps recover one feature, "
        "dilated ones both (2501.00988, abstract)",
        verdict_of(checks),
        f"{num_steps} steps, d = {dim}: {evidence}; targets {model.share:.3f}, 1, "
        f"{mean:.4f}. VE with equal steps turns every spin into +-m, mean square "
        f"{mean**2:.4f}",
    )


def add_spin_steps(
    report: Report,
    dims: Sequence[int],
    kappa: float,
    ladder: Sequence[int],
    num_samples: int,
) -> None:
    """Adds the least number of steps of a ladder that recovers both features.

    Args:
      report: The report.
      dims: Dimensions, rising.
      kappa: Width of the window.
      ladder: Numbers of steps to try, rising.
      num_samples: Least number of samples.
    """
    rng, ways = jax.random.key(report.seed), four_ways(kappa)
    needed = {
        way.name: [_spin_steps(way, dim, ladder, num_samples, rng) for dim in dims]
        for way in ways
    }
    rows: list[list[Value]] = [
        [dim, *(needed[way.name][place] or f"> {ladder[-1]}" for way in ways)]
        for place, dim in enumerate(dims)
    ]
    report.add_table(
        "curie_weiss_steps",
        f"Curie-Weiss: least of {', '.join(map(str, ladder))} steps with |share - "
        f"target| < {SHARE_TOLERANCE}, |mean square - 1| < {VARIANCE_TOLERANCE}, "
        f"|agreement - m| < {AGREEMENT_TOLERANCE}",
        ["d", *needed],
        rows,
    )
    exponents = [growth_exponent(dims, needed[way.name]) for way in ways]
    checks = [
        abs(exponent - 0.5) < 0.15 if way.grid == "constant" else abs(exponent) < 0.15
        for way, exponent in zip(ways, exponents, strict=True)
    ]
    evidence = "; ".join(
        f"{name} {counts[0]} to {counts[-1]}, d^{exponent:.2f}"
        for (name, counts), exponent in zip(needed.items(), exponents, strict=True)
    )
    report.add_finding(
        "For the Curie-Weiss model, too, equal steps need about sqrt(d) and dilated "
        "ones a number that does not grow (2501.00988, abstract)",
        verdict_of(checks),
        f"steps from d = {dims[0]} to {dims[-1]}: {evidence}",
    )


def growth_exponent(dims: Sequence[int], counts: Sequence[int | None]) -> float:
    """Returns a of counts ~ dims^a from the first and last; NaN if one of them is None.

    Args:
      dims: Dimensions, rising.
      counts: Numbers of steps; None where no number tried was enough.
    """
    if counts[0] is None or counts[-1] is None:
        return math.nan
    return math.log(counts[-1] / counts[0]) / math.log(dims[-1] / dims[0])


def _spin_steps(
    way: Way, dim: int, ladder: Sequence[int], num_samples: int, rng: jax.Array
) -> int | None:
    model = CurieWeiss(dim)
    for num_steps in ladder:
        spins = sample_spins(way, dim, num_steps, num_samples, rng)
        if (
            abs(spins.share - model.share) < SHARE_TOLERANCE
            and abs(spins.square - 1.0) < VARIANCE_TOLERANCE
            and abs(spins.agreement - model.magnetisation) < AGREEMENT_TOLERANCE
        ):
            return num_steps
    return None
