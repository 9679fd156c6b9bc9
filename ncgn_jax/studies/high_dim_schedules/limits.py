"""Tests laws of large dimension and the limits of arXiv 2501.00988's grids."""

import math
from collections.abc import Sequence

import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.studies.high_dim_schedules.gaussian_mixture_reduction import (
    limit_share_of_dilated_vp,
    limit_variance_of_dilated_ve,
)
from ncgn_jax.studies.high_dim_schedules.ways import (
    SHARE_TOLERANCE,
    VARIANCE_TOLERANCE,
    VERY_LARGE,
    Way,
    four_ways,
    recovered,
)
from ncgn_jax.studies.report import Report, verdict_of

VP, VE = four_ways(5.0)[:2]
PUBLISHED_KAPPA = 3.0


def add_limits(report: Report) -> None:
    """Adds the laws, the width of the window, the asymmetry and curved noise."""
    add_laws(report)
    add_windows(report, kappas=(1.0, 2.0, 3.0, 5.0, 8.0, 12.0))
    panels = [
        add_asymmetry(report, dims=(64, 1024, 16384, 10**6, 10**8)),
        add_curved_noise(
            report, dims=(64, 256, 1024, 4096, 16384, 65536, 10**6), num_steps=100
        ),
    ]
    report.add_figure("limits", draw_panels(panels))


def add_laws(report: Report) -> None:
    """Adds results of equal steps in large dimension beside their laws."""
    rows = []
    for num_steps in (20, 50, 100, 200):
        vp_small, vp_large = (recovered(VP, dim, num_steps) for dim in (64, 10**6))
        ve_small, ve_large = (recovered(VE, dim, num_steps) for dim in (4096, 10**8))
        half = recovered(VP, 4096, num_steps)[0]
        same_ratio = recovered(VP, 65536, 4 * num_steps)[0]
        collapse = ve_large[1] * 10**8 / (num_steps - 1) ** 2
        rows.append(
            [num_steps, vp_large[1], vp_small[1], collapse, 1.0]
            + [ve_large[0], ve_small[0], same_ratio, half]
        )
    report.add_table(
        "laws",
        "Laws of K equal steps, measured and expected: VP's variance and VE's share "
        "do not depend on d, VE's variance is (K - 1)^2 / d in the end, VP's share "
        "depends on sqrt(d) / K when K is large",
        ["K", "VP variance, d = 1e6", "d = 64", "VE variance d / (K - 1)^2, d = 1e8"]
        + ["law", "VE share, d = 1e8", "d = 4096"]
        + ["VP share, d = 65536, 4 K steps", "d = 4096, K steps"],
        rows,
    )


def add_windows(report: Report, kappas: Sequence[float]) -> None:
    """Adds the losses of windows of different widths as d grows.

    Args:
      report: The report.
      kappas: Widths in units of 1 / sqrt(d), including `PUBLISHED_KAPPA`.
    """
    share_steps, variance_steps = 8000, 400
    rows = []
    for kappa in kappas:
        vp, ve = four_ways(kappa)[2:]
        rows.append(
            [
                kappa,
                recovered(vp, VERY_LARGE, share_steps)[0],
                limit_share_of_dilated_vp(kappa, 0.8),
                recovered(ve, VERY_LARGE, variance_steps)[1],
                limit_variance_of_dilated_ve(kappa, variance_steps),
                limit_variance_of_dilated_ve(kappa, None),
            ]
        )
    report.add_table(
        "windows",
        "The width kappa of the window: dilated grids at d = 1e12, and the laws for "
        "large d",
        ["kappa", f"VP share, {share_steps} steps", "its law for many steps"]
        + [f"VE variance, {variance_steps} steps", "its law", "for many steps"],
        rows,
    )
    share, variance = next(
        (row[2], row[5]) for row in rows if row[0] == PUBLISHED_KAPPA
    )
    checks = [
        abs(share - 0.8) < SHARE_TOLERANCE,
        abs(variance - 1.0) < VARIANCE_TOLERANCE,
    ]
    enough = math.sqrt((1.0 - VARIANCE_TOLERANCE) / VARIANCE_TOLERANCE)
    report.add_finding(
        f"A window of kappa = {PUBLISHED_KAPPA:g}, as in the published experiments, is "
        "wide enough for VP's share and for VE's variance",
        verdict_of(checks),
        f"with any number of steps, as d grows: VP's share {share:.4f}, VE's variance "
        f"kappa^2 / (kappa^2 + 1) = {variance:.4f}; for VE to come within "
        f"{VARIANCE_TOLERANCE} it takes kappa > {enough:.2f}",
    )


def add_asymmetry(report: Report, dims: Sequence[int]) -> Panel:
    """Adds VP's share with the velocity at the start or in the middle of each step.

    At t = 0 the velocity depends on the asymmetry alone and pushes by
    (2 p - 1) sqrt(d). At any later time, slope y is of order t sqrt(d) and h is
    negligible beside it.

    Args:
      report: The report.
      dims: Dimensions, rising.

    Returns:
      A panel of the two shares against d.
    """
    num_steps = 50
    rules = ("euler", "euler_midpoint")
    shares = [[recovered(VP, d, num_steps, rule)[0] for d in dims] for rule in rules]
    rows = [list(row) for row in zip(dims, *shares, strict=True)]
    names = ["velocity at the start", "velocity in the middle"]
    report.add_table(
        "asymmetry",
        f"VP, {num_steps} equal steps: share of the majority mode (target 0.8), with "
        "the velocity at the start or in the middle of each step",
        ["d", *names],
        rows,
    )
    start, middle = shares[0][-1], shares[1][-1]
    report.add_finding(
        "As d grows VP with equal steps loses the asymmetry, the share goes to 1/2 "
        "(2501.00988)",
        verdict_of([abs(start - 0.5) < 0.05, abs(middle - 0.5) < 0.05]),
        f"{num_steps} steps, d = {dims[-1]}: {middle:.4f} if the velocity is never "
        f"taken at t = 0, {start:.4f} if Euler's first step takes it there, where it "
        "pushes every sample by (2 p - 1) sqrt(d) / K",
    )
    curves = {name: (dims, share) for name, share in zip(names, shares, strict=True)}
    title = f"VP, {num_steps} equal steps"
    axes = ("dimension d", "share of the majority mode")
    return Panel(title, *axes, curves, log_x=True, level=0.8, level_name="target")


def add_curved_noise(report: Report, dims: Sequence[int], num_steps: int) -> Panel:
    """Adds the dilated VE grid for sigma = sqrt(d) sqrt(1 - t^2).

    The long steps before the window act on noise alone. Euler's steps are exact there
    if sigma is linear in t, DDIM's for any sigma.

    Args:
      report: The report.
      dims: Dimensions, rising.
      num_steps: Number of steps.

    Returns:
      A panel of the variances against d.
    """
    kappa = PUBLISHED_KAPPA
    straight = Way("", True, "dilated_ve", kappa)
    curved = Way("", True, "dilated_ve_trigonometric", kappa, is_trigonometric=True)
    vp = Way("", False, "dilated_vp", kappa, is_trigonometric=True)
    cases = {
        "VE, linear sigma, Euler": (straight, "euler"),
        "VE, curved sigma, Euler": (curved, "euler"),
        "VE, curved sigma, DDIM": (curved, "ddim"),
        "VP, curved sigma, Euler": (vp, "euler"),
    }
    variances = [
        [recovered(way, dim, num_steps, rule)[1] for dim in dims]
        for way, rule in cases.values()
    ]
    report.add_table(
        "curved_noise",
        f"Variance within modes (target 1), dilated grids of {num_steps} steps, "
        f"kappa = {kappa:g}; curved: sigma = c sqrt(1 - t^2)",
        ["d", *cases],
        [list(row) for row in zip(dims, *variances, strict=True)],
    )
    linear, euler, ddim, vp_curved = variances
    growth = np.log(euler[-1] / euler[-2]) / np.log(dims[-1] / dims[-2])
    report.add_finding(
        "Dilation serves sigma = c sqrt(1 - t^2) (of the published code) as it does "
        "sigma = c (1 - t), with Euler's steps: VP, and VE",
        verdict_of(
            [abs(vp_curved[-1] - 1.0) < 0.1, abs(euler[-1] / linear[-1] - 1.0) < 0.1]
        ),
        f"{num_steps} steps: VP's variance is {vp_curved[-1]:.4f} at d = {dims[-1]}, "
        f"but VE's is {euler[dims.index(1024)]:.3g} at d = 1024, {euler[-1]:.4g} at d "
        f"= {dims[-1]}, growing as d^{growth:.2f} where a linear sigma gives "
        f"{linear[-1]:.3f}. With DDIM's step, exact on noise alone, it is "
        f"{ddim[-1]:.3f}",
    )
    curves = {
        name: (dims, values) for name, values in zip(cases, variances, strict=True)
    }
    title = f"Dilated, {num_steps} steps, kappa = {kappa:g}"
    axes = ("dimension d", "variance within modes")
    return Panel(
        title, *axes, curves, log_x=True, log_y=True, level=1.0, level_name="target"
    )
