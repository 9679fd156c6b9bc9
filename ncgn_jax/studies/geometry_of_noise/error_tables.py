"""Reports the errors of blind fields in tables, figures and findings.

The measurements are in `errors`; this module compares them with the claims of arXiv
2602.18428.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.process import Schedule
from ncgn_jax.studies.geometry_of_noise.blind_fields import (
    sampler_gains,
    uniform_noise_prior,
)
from ncgn_jax.studies.geometry_of_noise.errors import (
    correction_shares,
    drift_errors,
    expected_field_error,
    jensen_gaps,
)
from ncgn_jax.studies.geometry_of_noise.sampling import make_circles
from ncgn_jax.studies.report import Report, verdict_of

DIMS = (2, 8, 32, 128)
NUM_POINTS = 64
TABLE_NOISE_TIMES = (0.5, 0.1, 1e-2, 1e-3, 1e-4)
# Kinds of prediction whose errors are compared, by process.
COMPARED = {"VP": ("noise", "data"), "FM": ("velocity", "noise")}
_FIGURE_NOISE_TIMES = (0.9, 0.7, 0.3, 0.2, 0.05, 0.03, 3e-3, 3e-4)
_JENSEN_NOISE_TIME = 0.1
_CORRECTION_NOISE_TIMES = (0.5, 0.1, 1e-2)
_LEAST_DRAWN = 1e-3  # the error of the data target falls to 1e-12


def report_errors(report: Report, schedules: Mapping[str, Schedule]) -> None:
    """Adds the tables, figures and findings on errors of field and drift.

    Args:
      report: The report.
      schedules: "FM", the linear one, and "VP".
    """
    rng = jax.random.fold_in(jax.random.key(report.seed), 1)
    _report_drift(report, schedules, rng)
    _report_jensen(report, schedules, rng)
    _report_correction(report, schedules["FM"], rng)


def _listed(values: Sequence[float], digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}g}" for value in values)


def _end_gain(name: str, schedules: Mapping[str, Schedule]) -> float:
    """Returns |nu| of a name such as "noise VP" at the table's last noise time."""
    kind, process = name.split()
    t = 1.0 - TABLE_NOISE_TIMES[-1]
    return abs(float(sampler_gains(kind, schedules[process], t)[1]))


def _report_drift(report, schedules, rng):
    num = 256 if report.quick else 2048
    prior = uniform_noise_prior(256, least=1e-6)
    noise_times: tuple[float, ...] = TABLE_NOISE_TIMES
    if not report.quick:
        noise_times = tuple(sorted(noise_times + _FIGURE_NOISE_TIMES, reverse=True))
    means, spread = {}, 0.0
    for dim in DIMS:
        points = make_circles(NUM_POINTS, dim, rng).points
        for process, kinds in COMPARED.items():
            schedule = schedules[process]
            found = [
                drift_errors(kinds, schedule, points, prior, s, num, rng)
                for s in noise_times
            ]
            for kind in kinds:
                errors = np.array([f[kind] for f in found])
                mean = errors.mean(axis=1)
                means[dim, f"{kind} {process}"] = dict(
                    zip(noise_times, mean, strict=True)
                )
                # Errors of the data are rare and large: known to an order only.
                if kind != "data":
                    spread = max(spread, (errors.std(axis=1) / mean).max() / num**0.5)
    _add_drift_table(report, schedules, means, num, spread)
    _find_gain(report, schedules, means)
    panels = [
        Panel(
            f"{dim} dimensions",
            "noise time 1 - t",
            "drift error |nu| |f - f_t|",
            {
                name: (
                    list(row),
                    [e if e > _LEAST_DRAWN else np.nan for e in row.values()],
                )
                for (d, name), row in means.items()
                if d == dim
            },
            log_x=True,
            log_y=True,
        )
        for dim in DIMS
    ]
    report.add_figure("drift_errors", draw_panels(panels))


def _add_drift_table(report, schedules, means, num, spread):
    rows = []
    for (dim, name), row in means.items():
        # Near data sigma is proportional to 1 - t, on VP to its root.
        has_law = name != "data VP" and dim > 2
        law = expected_field_error(dim, dim - (name == "noise VP")) if has_law else None
        end = row[TABLE_NOISE_TIMES[-1]] / _end_gain(name, schedules)
        rows.append(
            [f"{dim}, {name}", *(row[s] for s in TABLE_NOISE_TIMES), float(end), law]
        )
    report.add_table(
        "drift_errors",
        f"Drift error |nu| |f - f_t|, mean of {num} samples at noise time 1 - t "
        f"(standard error at most {spread:.1%}, but for the data), {NUM_POINTS} points "
        "on two circles, prior U[1e-6, 1]; |f - f_t| at the last, and its law",
        ["dim, prediction", *(f"1-t={s:g}" for s in TABLE_NOISE_TIMES)]
        + ["field error at end", "law"],
        rows,
    )


def _find_gain(report, schedules, means):
    first, last = TABLE_NOISE_TIMES[1], TABLE_NOISE_TIMES[-1]
    names = ("noise VP", "velocity FM", "noise FM")
    grown = {
        name: [means[dim, name][last] / means[dim, name][first] for dim in DIMS]
        for name in names
    }
    gains = {name: _end_gain(name, schedules) for name in names}
    field = [
        f"{max(means[dim, name][last] for dim in DIMS) / gains[name]:.3g} {name}"
        for name in names
    ]
    report.add_finding(
        "Velocity has bounded gain, noise prediction on VP an unbounded one (eq. 22)",
        verdict_of([min(grown["noise VP"]) > 2.0, max(grown["velocity FM"]) < 2.0]),
        f"from 1-t = {first:g} to {last:g} the drift error of blind noise on VP grows "
        f"{_listed(grown['noise VP'])}-fold in {_listed(DIMS)} dimensions, that of "
        f"velocity {_listed(grown['velocity FM'])}-fold; |nu| at {last:g} is "
        f"{gains['noise VP']:.3g} and {gains['velocity FM']:.3g}",
    )
    report.add_finding(
        "Near the data it is the noise target that is unstable",
        verdict_of([min(grown["noise VP"]) > 2.0, min(grown["noise FM"]) > 2.0]),
        "on VP, yes; on the linear schedule noise has |nu| = "
        f"{gains['noise FM']:.4g} at {last:g} and a drift error that grows "
        f"{_listed(grown['noise FM'])}-fold. The fields' own errors are of one size "
        f"(at most {', '.join(field)}). Near the data the gain is d_sigma, and it is "
        "the schedule's sigma, rising like a root, that makes it singular",
    )
    ends = {dim: means[dim, "data VP"][last] for dim in DIMS}
    report.add_finding(
        "Data prediction is stable: its error falls faster than its gain grows",
        verdict_of([*(end < means[dim, "data VP"][0.5] for dim, end in ends.items())]),
        f"drift error on VP at 1-t = {last:g}: "
        + ", ".join(f"{end:.2g} ({dim} dimensions)" for dim, end in ends.items())
        + "; in 2 dimensions the noise level is not known well enough",
    )


def _report_jensen(report, schedules, rng):
    num = 512 if report.quick else 4096
    prior = uniform_noise_prior(256, least=1e-3)
    measured, rows = {}, []
    for dim in DIMS:
        points = make_circles(NUM_POINTS, dim, rng).points
        for process, schedule in schedules.items():
            draws = (points, prior, _JENSEN_NOISE_TIME, num, rng)
            found = jensen_gaps(schedule, *draws)
            exact = drift_errors(("noise",), schedule, *draws)["noise"]
            row = {
                "gap": float(found["gap"].mean()),
                "error": float(found["gap"].std()) / num**0.5,
                "log_sd": float(found["log_sd"].mean()),
                "ratio": float(found["drift"].mean() / exact.mean()),
            }
            measured[dim, process] = row
            rows.append([f"{dim}, {process}", *row.values(), (2 * dim) ** -0.5])
    report.add_table(
        "jensen_gap",
        f"What a sample at noise time {_JENSEN_NOISE_TIME:g} tells of its noise level: "
        f"|sigma E[1/sigma] - 1| and others ({num} samples, prior U[1e-3, 1])",
        ["dim, process", "Jensen gap", "standard error", "sd log sigma"]
        + ["eq. 66 / exact drift error", "1/sqrt(2 dim)"],
        rows,
    )
    t = 1.0 - _JENSEN_NOISE_TIME
    shares = {
        process: float(
            abs(schedule.coefficients(t)[3] / sampler_gains("noise", schedule, t)[1])
        )
        for process, schedule in schedules.items()
    }
    _find_jensen(report, measured, shares)
    law = [(2 * dim) ** -0.5 for dim in DIMS]
    panels = [
        Panel(
            f"{title}, at 1 - t = {_JENSEN_NOISE_TIME:g}",
            "dimensions",
            unit,
            {p: (DIMS, [measured[dim, p][key] for dim in DIMS]) for p in schedules}
            | {"1/sqrt(2 dim)": (DIMS, law)},
            log_x=True,
            log_y=True,
        )
        for title, unit, key in (
            ("Jensen gap", "|sigma E[1/sigma] - 1|", "gap"),
            ("Doubt about the noise", "sd of log sigma (nats)", "log_sd"),
        )
    ]
    report.add_figure("jensen_gap", draw_panels(panels))


def fitted_power(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns the slope of log y over log x by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _find_jensen(report, measured, shares):
    large = [dim for dim in DIMS if dim >= 8]
    rows = {process: [measured[dim, process] for dim in large] for process in shares}
    powers = {
        process: fitted_power(large, [row["gap"] for row in found])
        for process, found in rows.items()
    }
    report.add_finding(
        "High dimension tells the noise level: the Jensen gap closes",
        verdict_of([*(power < -0.4 for power in powers.values())]),
        f"gap ~ dim^p over {_listed(large)} dimensions with "
        + ", ".join(f"p = {power:.2f} ({name})" for name, power in powers.items())
        + f"; sd of log sigma at {large[-1]} is "
        + ", ".join(
            f"{found[-1]['log_sd'] * (2 * large[-1]) ** 0.5:.3f} ({name})"
            for name, found in rows.items()
        )
        + " times 1/sqrt(2 dim). But the noise grows like sqrt(dim): the error of the "
        "noise field, their product, does not close",
    )
    ratios = {name: [row["ratio"] for row in found] for name, found in rows.items()}
    report.add_finding(
        "Eq. 66 gives the drift error of blind noise prediction",
        verdict_of([*(abs(r - 1) < 0.15 for found in ratios.values() for r in found)]),
        f"in {_listed(large)} dimensions it is "
        + " and ".join(
            f"{_listed(found)} of the exact error on {name}, where |d_sigma / nu| is "
            f"{shares[name]:.3f}"
            for name, found in ratios.items()
        )
        + ": it leaves out that alpha falls, which does not matter at the data",
    )


def _report_correction(report, schedule, rng):
    num = 32 if report.quick else 128
    prior = uniform_noise_prior(256, least=1e-4, most=0.999)
    shares = {}
    for dim in DIMS:
        points = make_circles(NUM_POINTS, dim, rng).points
        shares[dim] = [
            float(correction_shares(schedule, points, prior, s, num, rng).mean())
            for s in _CORRECTION_NOISE_TIMES
        ]
    report.add_table(
        "transport_correction",
        "Transport correction of eq. 14 as a share of the blind noise field, linear "
        f"schedule, mean of {num} samples at noise time 1 - t",
        ["dim", *(f"1-t={s:g}" for s in _CORRECTION_NOISE_TIMES), "1/(dim-2)"],
        [
            [str(dim), *row, 1.0 / (dim - 2) if dim > 2 else None]
            for dim, row in shares.items()
        ],
    )
    large = [dim for dim in DIMS if dim >= 8]
    powers = [
        fitted_power(large, [shares[dim][place] for dim in large])
        for place in range(len(_CORRECTION_NOISE_TIMES))
    ]
    report.add_finding(
        "The transport correction vanishes for dim >> dimension of the data (Lemma 5)",
        verdict_of([*(power < -0.7 for power in powers)]),
        f"its share falls like dim^p, p = {_listed(powers)} at 1-t = "
        f"{_listed(_CORRECTION_NOISE_TIMES)}, to {max(shares[DIMS[-1]]):.4f} in "
        f"{DIMS[-1]} dimensions",
    )
