"""Reports exact range and resolution of Gaussian fields on grids.

Part of `range_and_resolution`: range (Lemma 3.1 and Theorem 3.2 of arXiv 2507.09391)
and resolution, their limits in the signal-to-noise ratio, and the lemma on samples.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.process import interpolate, make_schedule
from ncgn_jax.studies.range_and_resolution.mutual_information import (
    KERNELS,
    Moments,
    best_radius,
    block_means,
    block_spectrum,
    continuum_radius,
    continuum_radius_by_search,
    crossover_snr,
    field_information,
    grid_points,
    mean_information,
    moments,
    offsets_within,
    pair_correlation,
    weighted_information,
)
from ncgn_jax.studies.report import Report, Value, verdict_of

SNRS = (1000.0, 100.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
RADII = (
    *(0.0, 1.0, math.sqrt(2), 2.0, math.sqrt(5), math.sqrt(8), 3.0, math.sqrt(10)),
    *(4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0),
)
LENGTHS = (1.5, 3.0, 6.0)
SIDE = 24
BLOCKS = (1, 2, 3, 4, 6, 8, 12)
RETAINED = 0.6
# An unbiased mean exceeds this many standard errors once in 15,000 times.
MOST_ERRORS = 4.0
FIELDS = (("exponential", 6.0), ("squared_exponential", 3.0))

_SHOWN = (0.0, 1.0, 2.0, 4.0, 8.0)
_LEMMA_CASES = (
    (2, "exponential", 3.0, 1.0),
    (2, "exponential", 3.0, 2.0),
    (2, "squared_exponential", 3.0, 2.0),
    (1, "exponential", 6.0, 5.0),
)
_LEMMA_SNRS = (3.0, 0.3, 0.03)


def report_range(report: Report, num_draws: int) -> None:
    """Adds the claims on range: the lemma, the best radius and its limits.

    Args:
      report: The report.
      num_draws: Number of samples of the Monte Carlo check.
    """
    _report_lemma(report, num_draws)
    _report_information(report)
    _report_limits(report)
    _report_best_radius(report)
    _draw_range(report)


def _draw_range(report: Report) -> None:
    snrs = [snr for snr in SNRS if snr <= 100]
    shares = {}
    for snr in (100.0, 1.0, 0.1, 0.01):
        found = [mean_information(snr, _around(r)) for r in RADII]
        shares[f"SNR {snr:g}"] = (RADII, np.array(found) / max(found))
    fields = (("exponential", 3.0), ("exponential", 6.0), ("squared_exponential", 3.0))
    radii = {
        f"{kernel.replace('_', ' ')}, length {length:g}": (
            [1.0 / snr for snr in snrs],
            [best_radius(snr, RADII, 2, kernel, length) / length for snr in snrs],
        )
        for kernel, length in fields
    }
    panels = [
        Panel(
            "Range: 2-D, exponential, length 3",
            "radius (grid spacings)",
            "information / that of the best radius",
            shares,
        ),
        Panel(
            f"Best radius: exponential ends at {continuum_radius(KERNELS[0], 2):.2f}",
            "noise-to-signal ratio, 1 / SNR",
            "best radius / correlation length",
            radii,
            log_x=True,
        ),
    ]
    report.add_figure("range", draw_panels(panels))


def _around(radius: float) -> Moments:
    return moments(radius, 2, "exponential", 3.0)


def sampled_information(
    rng: jax.Array,
    snr: float,
    radius: float,
    dim: int,
    kernel: str,
    length: float,
    num_draws: int,
) -> tuple[float, float]:
    """Measures I(x_i; mean of noisy neighbours) on samples of the field.

    It is -1/2 log(1 - r^2) with r the correlation of the samples; its standard error
    is |r| / sqrt(draws).

    Args:
      rng: Random key.
      snr: Signal-to-noise ratio.
      radius: Radius of the neighbourhood.
      dim: Dimension of the grid.
      kernel: One of `KERNELS`.
      length: Correlation length.
      num_draws: Number of samples.

    Returns:
      Information in nats, and its standard error.
    """
    points = offsets_within(radius, dim)
    root = np.linalg.cholesky(pair_correlation(points, kernel, length))
    rng_data, rng_noise = jax.random.split(rng)
    shape = (num_draws, len(points))
    data = jax.random.normal(rng_data, shape) @ jnp.asarray(root.T)
    schedule = make_schedule("linear")
    level = math.sqrt(snr) / (1.0 + math.sqrt(snr))
    noise = jax.random.normal(rng_noise, shape)
    noisy = interpolate(schedule, schedule.time_of_signal_level(level), data, noise)
    centre = int(np.flatnonzero((points == 0).all(-1))[0])
    r = float(jnp.corrcoef(data[:, centre], noisy.mean(axis=1))[0, 1])
    return -0.5 * math.log1p(-(r**2)), abs(r) / math.sqrt(num_draws)


def _report_lemma(report: Report, num_draws: int) -> None:
    rows: list[list[Value]] = []
    worst = 0.0
    for case, (dim, kernel, length, radius) in enumerate(_LEMMA_CASES):
        for row, snr in enumerate(_LEMMA_SNRS):
            rng = jax.random.fold_in(jax.random.key(report.seed), 100 * case + row)
            sampled, error = sampled_information(
                rng, snr, radius, dim, kernel, length, num_draws
            )
            exact = mean_information(snr, moments(radius, dim, kernel, length))
            worst = max(worst, abs(sampled - exact) / error)
            rows.append([kernel, dim, length, radius, snr, exact, sampled, error])
    report.add_table(
        "lemma",
        f"Lemma 3.1 against {num_draws} samples of the field (nats)",
        ["kernel", "dim", "length", "radius", "SNR", "exact", "sampled", "std. error"],
        rows,
    )
    report.add_finding(
        "Lemma 3.1 of 2507.09391: information of the mean of noisy neighbours",
        "holds" if worst < MOST_ERRORS else "does not hold",
        f"at most {worst:.2f} standard errors between formula and samples, "
        f"{len(rows)} cases",
    )


def _report_information(report: Report) -> None:
    rows: list[list[Value]] = []
    wanted = []
    for snr in SNRS[1:]:
        radius = best_radius(snr, RADII, 2, "exponential", 3.0)
        best = _around(radius)
        wanted.append(_radius_for_share(snr, 0.95))
        shown = [mean_information(snr, _around(r)) for r in (radius, *_SHOWN)]
        rows.append([f"{snr:g}", radius, best.num_nodes, *shown, wanted[-1]])
    report.add_table(
        "information",
        "Range, 2-D, exponential, length 3: best radius r*, its nodes n, information "
        "I(r) of the mean (nats); radius at which the best weights keep 95 %",
        ["SNR", "r*", "n", "I*", *(f"I({r:g})" for r in _SHOWN), "r 95 %"],
        rows,
    )
    growing = _grows(wanted)
    report.add_finding(
        "With the best weights instead of the mean, more noise still asks for more "
        "range (2507.09391, section 3)",
        "holds" if growing else "does not hold",
        "more neighbours then never hurt; 95 % of what all of them tell lies within "
        f"{wanted[0]:g} at SNR {SNRS[1]:g} and {wanted[-1]:.3g} at SNR {SNRS[-1]:g}",
    )


def _radius_for_share(snr: float, share: float) -> float:
    """Returns the least radius whose best weights keep a share of the information."""
    kept = [weighted_information(snr, r, 2, "exponential", 3.0) for r in RADII]
    return RADII[int(np.argmax(np.array(kept) >= share * kept[-1]))]


def _grows(values: Sequence[float] | np.ndarray) -> bool:
    """Returns whether values never fall and rise somewhere."""
    return bool(np.all(np.diff(values) >= 0) and values[-1] > values[0])


def _report_limits(report: Report) -> None:
    rows: list[list[Value]] = []
    for near, far in zip(RADII[:-1], RADII[1:], strict=True):
        a, b = _around(near), _around(far)
        plateau = math.inf if near == 0 else -0.5 * math.log1p(-_kept(a))
        cross = crossover_snr(a, b)
        gap = None
        if cross is not None:
            gap = mean_information(cross, a) - mean_information(cross, b)
        rows.append(
            [
                near,
                a.num_nodes,
                a.to_centre,
                a.within,
                0.5 * a.num_nodes * a.to_centre**2,
                mean_information(1e-7, a) / 1e-7,
                _kept(a),
                plateau,
                mean_information(1e9, a),
                far,
                cross,
                gap,
            ]
        )
    report.add_table(
        "limits",
        "Limits, 2-D, exponential, length 3: n, C, S; slope n C^2 / 2 of I at SNR -> 0 "
        "and I / SNR at 1e-7; C^2 / S, the plateau it gives at SNR -> inf, and I at "
        "1e9; SNR* below which the next radius tells more, and the difference there",
        ["r", "n", "C", "S", "slope", "I/SNR", "C^2/S", "plateau", "I(1e9)"]
        + ["next r", "SNR*", "gap"],
        rows,
    )


def _kept(around: Moments) -> float:
    """Returns C^2 / S, the share of the variance that noiseless means explain."""
    return around.to_centre**2 / around.within


def _report_best_radius(report: Report) -> None:
    cases = [(dim, *field) for dim in (1, 2) for field in _all_fields()]
    rows: list[list[Value]] = []
    rising, served, ends = [], [], []
    for dim, kernel, length in cases:
        # In one dimension only whole radii differ.
        radii = [r for r in RADII if dim > 1 or r == int(r)]
        best = [best_radius(snr, radii, dim, kernel, length) for snr in SNRS]
        rising.append(_grows(best))
        around = [moments(r, dim, kernel, length) for r in radii]
        outdone = [
            any(crossover_snr(near, far) is not None for far in around[i + 1 :])
            for i, near in enumerate(around)
        ]
        served += outdone[:-1]  # the last has no larger one
        limit = continuum_radius(kernel, dim)
        first_not = radii[outdone.index(False)]
        ends.append(first_not / (limit * length))
        rows.append([kernel, dim, length, *best, first_not, limit * length])
    report.add_table(
        "best_radius",
        "Best radius of the mean by SNR; first radius that no larger one beats at any "
        "SNR; that of a fine grid at SNR -> 0, u* length",
        ["kernel", "dim", "length", *(f"{snr:g}" for snr in SNRS), "last", "u* length"],
        rows,
    )
    constants: list[list[Value]] = []
    for kernel in KERNELS:
        for dim in (1, 2):
            root = continuum_radius(kernel, dim)
            found = continuum_radius_by_search(kernel, dim)
            constants.append([kernel, dim, root, found, root - found])
    report.add_table(
        "continuum",
        "u* = r*/length of a fine grid as SNR -> 0: root of the equation, maximum on a "
        "fine grid",
        ["kernel", "dim", "u*", "by search", "difference"],
        constants,
    )
    report.add_finding(
        "Theorem 3.2 of 2507.09391: the best range grows as the SNR falls",
        verdict_of(rising),
        f"the best radius grows and never shrinks in {sum(rising)} of {len(cases)} "
        f"fields, SNR {SNRS[0]:g} to {SNRS[-1]:g}",
    )
    report.add_finding(
        "Theorem 3.2 read for every radius: at some lower SNR a larger one tells more",
        verdict_of(served),
        f"for {sum(served)} of {len(served)} radii; it needs n2 C2^2 > n1 C1^2, which "
        f"ends near u* correlation lengths (at {min(ends):.2f} to {max(ends):.2f} of "
        "them on grids): noise without end asks for a finite range",
    )


def _all_fields() -> list[tuple[str, float]]:
    return [(kernel, length) for kernel in KERNELS for length in LENGTHS]


def report_resolution(report: Report) -> None:
    """Adds the claims on resolution, from the information that block means retain."""
    snrs = [snr for snr in SNRS if snr in (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)]
    rows: list[list[Value]] = []
    coarsest_rows: list[list[Value]] = []
    panels, rising, growing, spans, slack = [], [], [], [], []
    for kernel, length in FIELDS:
        retained, limits = retained_by_blocks(snrs, kernel, length)
        for place, block in enumerate(BLOCKS[1:], start=1):
            rows.append([kernel, length, block, *retained[:, place], limits[place]])
            rising.append(_grows(retained[:, place]))
            slack.append(limits[place] - retained[-1, place])
        coarsest = coarsest_blocks(retained)
        growing.append(_grows(coarsest))
        spans.append(f"{kernel}: from {coarsest[0]} to {coarsest[-1]} nodes a side")
        coarsest_rows.append([kernel, length, *coarsest])
        curves = {
            f"{b} x {b}": (snrs, retained[:, BLOCKS.index(b)]) for b in (2, 3, 4, 6)
        }
        panels.append(
            Panel(
                f"Resolution: {kernel.replace('_', ' ')}, length {length:g}",
                "signal-to-noise ratio",
                "share of information retained",
                curves,
                log_x=True,
                level=RETAINED,
                level_name=f"{RETAINED:.0%}",
            )
        )
    header = ["kernel", "length"]
    columns = [f"{snr:g}" for snr in snrs]
    report.add_table(
        "resolution",
        f"Resolution: I(X; block means of Y) / I(X; Y) on {SIDE} x {SIDE} nodes by "
        "SNR, and S, its limit at SNR -> 0 (at SNR -> inf it tends to 1 / block^2)",
        [*header, "block", *columns, "S"],
        rows,
    )
    report.add_table(
        "coarsest",
        f"Coarsest block that retains {RETAINED:.0%}, by SNR",
        [*header, *columns],
        coarsest_rows,
    )
    report.add_finding(
        "Resolution (2507.09391, section 3): the noisier, the coarser one may look",
        verdict_of(rising + growing),
        f"the share retained grows as the SNR falls for {sum(rising)} of "
        f"{len(rising)} blocks; the coarsest that retains {RETAINED:.0%} grows, "
        f"{'; '.join(spans)}; but the share tends to S from below (by "
        f"{min(slack):.1e} at least at SNR {snrs[-1]:g}), so that "
        "a block as wide as the correlations loses at all noise",
    )
    report.add_figure("resolution", draw_panels(panels))


def retained_by_blocks(
    snrs: Sequence[float], kernel: str, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of I(X; Y) that block means retain, by SNR and block.

    Args:
      snrs: Signal-to-noise ratios, [level].
      kernel: One of `KERNELS`.
      length: Correlation length.

    Returns:
      Shares, [level, block], one column for each of `BLOCKS`; and their limits at
      SNR -> 0, the mean correlations within blocks, [block].
    """
    covariance = pair_correlation(grid_points(SIDE), kernel, length)
    spectra = [
        block_spectrum(covariance, block_means(SIDE, (block, block)))
        for block in BLOCKS
    ]
    told = np.array([[field_information(snr, s) for s in spectra] for snr in snrs])
    limits = []
    for block in BLOCKS:
        points = np.stack(np.divmod(np.arange(block**2), block), -1)
        limits.append(pair_correlation(points, kernel, length).mean())
    return told / told[:, :1], np.array(limits)


def coarsest_blocks(retained: np.ndarray) -> list[int]:
    """Returns the largest of `BLOCKS` that retains enough at each SNR, [level].

    Args:
      retained: Shares, [level, block], 1 for single nodes.
    """
    return [
        max(
            block for block, share in zip(BLOCKS, row, strict=True) if share >= RETAINED
        )
        for row in retained
    ]
