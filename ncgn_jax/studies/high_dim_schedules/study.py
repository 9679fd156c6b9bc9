"""Measures the cost in sampling steps of a high dimension (arXiv 2501.00988).

The paper samples two Gaussians far apart, and the Curie-Weiss model, with noise of
variance 1 (VP) and of variance d (VE). It claims that with equal steps VP recovers the
shape of the modes but not their asymmetry, and VE the opposite, unless there are about
sqrt(d) steps. With its dilated time grids VP and VE recover both, in a number of steps
that does not depend on d. Here the velocities are exact, so that the steps cause the
only error, which is computed without sampling noise: see `gaussian_mixture_reduction`
and `curie_weiss`.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.pictures.style import write_plain_log_ticks
from ncgn_jax.studies.high_dim_schedules.curie_weiss_tables import add_curie_weiss
from ncgn_jax.studies.high_dim_schedules.gaussian_mixture_reduction import (
    Mixture,
    StepsNeeded,
    reduce_steps,
    steps_needed,
    walk_along,
)
from ncgn_jax.studies.high_dim_schedules.limits import add_limits
from ncgn_jax.studies.high_dim_schedules.ways import (
    SHARE_TOLERANCE,
    VARIANCE_TOLERANCE,
    VERY_LARGE,
    Way,
    draw_samples,
    four_ways,
    recovered,
)
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.report import Report, Value, verdict_of

MOST_STEPS = 8192
# Least dimension of fits of exponents: below, kappa / sqrt(d) is not small.
FIT_FROM = 1024

STEP_WAYS = (
    *four_ways(5.0)[:2],
    Way("VP, dilated 3", False, "dilated_vp", 3.0),
    Way("VP, dilated 5", False, "dilated_vp", 5.0),
    Way("VE, dilated 5", True, "dilated_ve", 5.0),
    Way("VE, dilated 8", True, "dilated_ve", 8.0),
    Way("VE, dilated 12", True, "dilated_ve", 12.0),
)


def add_recovery(report: Report, dims: Sequence[int]) -> None:
    """Adds share and variance against dimension, at fixed numbers of steps.

    Args:
      report: The report.
      dims: Dimensions, rising.
    """
    ways = four_ways(5.0)
    header = ["d", "steps"]
    for way in ways:
        header += [f"{way.name}: share", "its variance"]
    found = {}
    rows: list[list[Value]] = []
    for num_steps in (50, 200):
        for dim in dims:
            pairs = [recovered(way, dim, num_steps) for way in ways]
            found[num_steps, dim] = pairs
            rows.append([dim, num_steps, *np.ravel(pairs).tolist()])
    report.add_table(
        "recovery",
        "Share of the majority mode (target 0.8) and variance within modes (target 1)"
        ", exact for Euler's steps; kappa = 5",
        header,
        rows,
    )
    _judge_recovery(report, found, dims)
    labels = {
        "Asymmetry, 50 steps": ("share of the majority mode", 0.8),
        "Shape of a mode, 50 steps": ("variance within modes", 1.0),
    }
    panels = []
    for part, (title, (label, target)) in enumerate(labels.items()):
        curves = {
            way.name: (dims, [found[50, dim][place][part] for dim in dims])
            for place, way in enumerate(ways)
        }
        axes = ("dimension d", label)
        panels.append(Panel(title, *axes, curves, True, False, target, "target"))
    report.add_figure("recovery", draw_panels(panels))


def _judge_recovery(report: Report, found: Mapping, dims: Sequence[int]) -> None:
    share, variance = np.array([found[50, dims[-1]][i] for i in range(2)]).T
    share_first, variance_first = np.array([found[50, dims[0]][i] for i in range(2)]).T
    keeps = abs(variance[0] - variance_first[0]) < 1e-6
    checks = [
        keeps and abs(variance[0] - 1) < 0.1,
        abs(share[0] - 0.8) > 0.1,
        abs(share[1] - 0.8) < SHARE_TOLERANCE,
        variance[1] < 0.5,
    ]
    report.add_finding(
        "With equal steps VP recovers the modes' shape and misses their asymmetry, VE "
        "the opposite (2501.00988, abstract)",
        verdict_of(checks),
        f"50 steps, from d = {dims[0]} to {dims[-1]}: VP's variance "
        f"{variance_first[0]:.4f} to {variance[0]:.4f}, its share {share_first[0]:.3f} "
        f"to {share[0]:.3f}; VE's share {share_first[1]:.4f} to {share[1]:.4f}, its "
        f"variance {variance_first[1]:.3f} to {variance[1]:.4f}",
    )
    dilated = np.array([[found[200, dim][i] for dim in dims] for i in (2, 3)])
    worst_share = np.abs(dilated[..., 0] - 0.8).max(axis=1)
    worst_variance = np.abs(dilated[..., 1] - 1.0).max(axis=1)
    checks = [*(worst_share < SHARE_TOLERANCE), *(worst_variance < VARIANCE_TOLERANCE)]
    report.add_finding(
        "With dilated steps VP and VE recover both (2501.00988, abstract); here with "
        f"200 steps, kappa = 5, share to {SHARE_TOLERANCE}, variance to "
        f"{VARIANCE_TOLERANCE}",
        verdict_of(checks),
        f"largest errors over d: VP share {worst_share[0]:.4f}, variance "
        f"{worst_variance[0]:.4f}; VE share {worst_share[1]:.4f}, variance "
        f"{worst_variance[1]:.4f}; how many steps do suffice is in the tables below",
    )


def add_sampled(report: Report, sizes: Mapping[int, int]) -> None:
    """Adds samples in all d dimensions beside the exact reduction.

    Args:
      report: The report.
      sizes: Number of samples by dimension.
    """
    rows: list[list[Value]] = []
    path_errors, deviations = [], []
    rng = jax.random.key(report.seed)
    for place, (dim, num_samples) in enumerate(sizes.items()):
        mixture, r = Mixture(dim), np.ones(dim)
        for way in four_ways(5.0):
            schedule, times = way.schedule(dim), way.times(50, dim)
            weights = np.array([mixture.share, 1.0 - mixture.share])
            denoise = mixture_denoiser(np.stack([r, -r]), weights, 1.0, schedule)
            key = jax.random.fold_in(rng, place)
            x = draw_samples(denoise, schedule, times, dim, num_samples, key)
            steps = reduce_steps(mixture, schedule, times)
            ends = np.asarray(walk_along(steps, mixture.bias, x.start))
            factor = np.prod(steps.gain) ** 2
            path_error = max(
                np.abs(ends - x.along).max() / math.sqrt(dim),
                np.abs(x.across / (factor * x.start_across) - 1.0).max(),
            )
            share, variance = recovered(way, dim, 50)
            sampled = float(np.mean(x.along > 0))
            error = math.sqrt(share * (1.0 - share) / len(x.along))
            path_errors.append(path_error)
            deviations.append(abs(sampled - share) / max(error, 1.0 / len(x.along)))
            rows.append(
                [
                    dim,
                    way.name,
                    len(x.along),
                    sampled,
                    error,
                    share,
                    x.across.mean(),
                    variance,
                    path_error,
                ]
            )
    report.add_table(
        "sampled",
        "Sampled in all d dimensions in 50 steps, beside the exact reduction",
        ["d", "way", "samples", "share", "its standard error", "exact share"]
        + ["variance", "exact variance", "largest relative error of a sample"],
        rows,
    )
    is_exact = [max(path_errors) < 1e-8, max(deviations) < 4.0]
    report.add_finding(
        "The one-dimensional reduction is what sampling in all dimensions does",
        verdict_of(is_exact),
        f"largest relative error of a single sample {max(path_errors):.1e}, largest "
        f"deviation of a share {max(deviations):.1f} standard errors",
    )


def add_steps(report: Report, dims: Sequence[int]) -> None:
    """Adds the number of steps needed against dimension, with fitted exponents.

    Args:
      report: The report.
      dims: Dimensions, rising, at least two of them from `FIT_FROM` on.
    """
    needed = {(way.name, dim): _steps_of(way, dim) for way in STEP_WAYS for dim in dims}
    dilated = STEP_WAYS[2:]
    limits = {way.name: _steps_of(way, VERY_LARGE) for way in dilated}
    tolerances = f"|share - 0.8| < {SHARE_TOLERANCE}, |variance - 1| < "
    tolerances += f"{VARIANCE_TOLERANCE}"
    captions = {
        "both": f"Least even number of Euler steps with {tolerances}",
        "share": "The same for the share alone",
        "variance": "The same for the variance alone",
    }
    for part, caption in captions.items():
        rows = []
        for dim in dims:
            counts = [getattr(needed[way.name, dim], part) for way in STEP_WAYS]
            rows.append([dim, *(n or f"> {MOST_STEPS}" for n in counts)])
        last = [getattr(limits[way.name], part) for way in dilated]
        rows.append([VERY_LARGE, None, None, *(n or f"> {MOST_STEPS}" for n in last)])
        header = ["d", *(way.name for way in STEP_WAYS)]
        report.add_table(f"steps_{part}", caption, header, rows)
    fits = {way.name: _fit_exponent(way.name, needed, dims) for way in STEP_WAYS}
    rows = []
    for name, (exponent, factor) in fits.items():
        limit = limits[name].both if name in limits else None
        rows.append([name, exponent, factor, limit])
    report.add_table(
        "exponents",
        f"Steps needed for both as a power of d, fitted over d >= {FIT_FROM}",
        ["way", "exponent", "steps / sqrt(d) at the largest d", "d = 1e12"],
        rows,
    )
    _judge_steps(report, fits, limits)
    _draw_steps(report, needed, fits, dims)


def _steps_of(way: Way, dim: float) -> StepsNeeded:
    make_times = functools.partial(way.times, dim=dim)
    tolerances = SHARE_TOLERANCE, VARIANCE_TOLERANCE
    schedule = way.schedule(dim)
    return steps_needed(Mixture(dim), schedule, make_times, *tolerances, MOST_STEPS)


def _fit_exponent(
    name: str, needed: Mapping, dims: Sequence[int]
) -> tuple[float, float]:
    """Returns the slope of log steps against log d, and steps / sqrt(d) at the end."""
    counts = [(dim, needed[name, dim].both) for dim in dims if dim >= FIT_FROM]
    known = np.array([pair for pair in counts if pair[1] is not None], float)
    slope = np.polyfit(np.log(known[:, 0]), np.log(known[:, 1]), 1)[0]
    return float(slope), float(known[-1, 1] / math.sqrt(known[-1, 0]))


def _judge_steps(report: Report, fits: Mapping, limits: Mapping) -> None:
    equal = [fits[way.name] for way in STEP_WAYS[:2]]
    report.add_finding(
        "With equal steps VP and VE need a number of steps that grows as sqrt(d) "
        "(2501.00988, abstract)",
        verdict_of([abs(exponent - 0.5) < 0.05 for exponent, _ in equal]),
        f"VP d^{equal[0][0]:.3f}, {equal[0][1]:.2f} sqrt(d), for the share; VE "
        f"d^{equal[1][0]:.3f}, {equal[1][1]:.1f} sqrt(d), for the variance",
    )
    counts = [limits[way.name].both for way in STEP_WAYS[2:]]
    exponents = [fits[way.name][0] for way in STEP_WAYS[2:]]
    evidence = "; ".join(
        f"{way.name} d^{exponent:.3f}, {count or f'> {MOST_STEPS}'} steps at d = 1e12"
        for way, exponent, count in zip(STEP_WAYS[2:], exponents, counts, strict=True)
    )
    report.add_finding(
        "With dilated steps the number does not grow with d (2501.00988, abstract)",
        verdict_of(
            [
                count is not None and exponent < 0.1
                for count, exponent in zip(counts, exponents, strict=True)
            ]
        ),
        evidence,
    )


def _draw_steps(
    report: Report, needed: Mapping, fits: Mapping, dims: Sequence[int]
) -> None:
    panels = []
    for kind in ("VP", "VE"):
        curves = {}
        for name, (exponent, _) in fits.items():
            if name.startswith(kind):
                counts = [needed[name, dim].both or math.nan for dim in dims]
                # Adding 0 turns -0.00 into 0.00.
                power = f"$d^{{{round(exponent, 2) + 0.0:.2f}}}$"
                curves[f"{name}: {power}"] = (dims, counts)
        title = f"{kind}: steps for share and variance"
        panels.append(
            Panel(title, "dimension d", "Euler steps", curves, log_x=True, log_y=True)
        )
    figure = draw_panels(panels)
    for axes in figure.axes:
        write_plain_log_ticks(axes.yaxis, *axes.get_ylim())
    report.add_figure("steps", figure)


def study(report: Report) -> None:
    """Fills the report with recovery, samples, steps needed, limits and Curie-Weiss."""
    dims = [16, 64, 256, 1024, 4096, 16384, 65536, 10**6]
    add_recovery(report, dims[1:])
    sizes = {256: 1000, 1024: 500}
    if not report.quick:
        sizes = {256: 4000, 1024: 4000, 4096: 2000, 16384: 1000}
    add_sampled(report, sizes)
    add_steps(report, dims[:-2] if report.quick else dims)
    add_limits(report)
    add_curie_weiss(report)
