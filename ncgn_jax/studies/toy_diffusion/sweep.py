"""Tests the findings on two Gaussians with other cosine schedules and other data.

Part of the study `toy_diffusion` (arXiv 2409.00374), with exact predictors: the
offset and the power of the cosine schedule, more modes, more dimensions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.process import Schedule, make_schedule
from ncgn_jax.studies.report import Report, Value, verdict_of
from ncgn_jax.studies.toy_diffusion.exact import (
    METHODS,
    Mixture,
    bayes_losses,
    draw_reference,
    final_std,
    grid_of_modes,
    ring_of_modes,
    two_modes,
    variance_of_mixture,
)
from ncgn_jax.studies.toy_diffusion.samples import (
    SCHEDULE_NAMES,
    Measures,
    make_toy_schedule,
)
from ncgn_jax.studies.toy_diffusion.sampling import TITLES, sample_exactly

_POWERS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
_OFFSETS = (0.0, 0.008, 0.03, 0.1, 0.3)
_USUAL_POWER, _USUAL_OFFSET = 2.0, 0.008
_NUM_STEPS = 50
_SHOWN = METHODS[1:]


def study_cosines(report: Report, num_samples: int, rng: jax.Array) -> None:
    """Sweeps the cosine schedule's power and offset at T = 50."""
    mixture = two_modes()
    rng_data, rng_walk = jax.random.split(rng)
    reference = draw_reference(mixture, rng_data, num_samples)
    schedules = {"linear": make_toy_schedule("linear", _NUM_STEPS)}
    for power in _POWERS:
        schedules[f"power {power:g}"] = _cosine(_USUAL_OFFSET, power)
    for offset in _OFFSETS:
        schedules[f"offset {offset:g}"] = _cosine(offset, _USUAL_POWER)
    rows = {}
    for name, schedule in schedules.items():
        measures, _ = sample_exactly(
            mixture, schedule, "DDIM", reference, rng_walk, num_samples
        )
        least = bayes_losses(mixture, schedule)["data"]
        rows[name] = [
            *(final_std(m, schedule, mixture.std) / mixture.std for m in _SHOWN),
            float(np.mean(1 - least / variance_of_mixture(mixture) < 0.05)),
            float(least.mean()),
            float(schedule.alpha(jnp.zeros(()))),
            measures.distance,
            measures.first_share,
        ]
    report.add_table(
        "cosines",
        f"alpha_bar ~ cos^power, T = {_NUM_STEPS} (power where the offset is "
        f"{_USUAL_OFFSET:g}, offset where the power is {_USUAL_POWER:g}; widths in "
        "units of s; blind: steps where x_n tells less than 5 % of the data's "
        f"variance; {num_samples} DDIM samples, SW2 and share of the mode of weight "
        f"{mixture.weights[0]:g})",
        ["schedule", *(f"width {TITLES[m]}" for m in _SHOWN), "blind steps"]
        + ["least data loss", "alpha at n = T", "DDIM SW2", "DDIM share"],
        [[name, *row] for name, row in rows.items()],
    )
    ddim = _SHOWN.index("ddim")
    widths = {power: rows[f"power {power:g}"][ddim] for power in _POWERS}
    best = min(widths, key=lambda power: abs(widths[power] - 1))
    beaten = [
        abs(row[ddim] - 1) < abs(rows["linear"][ddim] - 1)
        for name, row in rows.items()
        if name != "linear"
    ]
    report.add_finding(
        "What the cosine gains over linear betas does not hang on its power and offset",
        verdict_of(beaten),
        f"{sum(beaten)} of {len(beaten)} cosines beat linear betas in DDIM's width "
        f"(linear {rows['linear'][ddim]:.3f} s); the usual one has "
        f"{widths[_USUAL_POWER]:.3f} s, the best power, {best:g}, {widths[best]:.3f} "
        "s; a large offset takes small steps near data away",
    )
    report.add_figure("cosines", draw_panels(_cosine_panels(mixture.std)))


def _cosine(offset: float, power: float) -> Schedule:
    return make_schedule(
        "ddpm_cosine", num_steps=_NUM_STEPS, offset=offset, power=power
    )


def _cosine_panels(std: float) -> list[Panel]:
    """Returns panels of the width of the modes against the power of the cosine."""
    powers = np.geomspace(0.25, 8.0, 16)

    def widths(method: str, offset: float) -> tuple[np.ndarray, np.ndarray]:
        found = [final_std(method, _cosine(offset, p), std) / std for p in powers]
        return powers, np.array(found)

    linear = final_std("ddim", make_toy_schedule("linear", _NUM_STEPS), std) / std
    by_method = {TITLES[m]: widths(m, _USUAL_OFFSET) for m in _SHOWN}
    by_offset = {f"offset {o:g}": widths("ddim", o) for o in _OFFSETS}
    labels = ("power of the cosine", "std of each mode / s")
    by_offset["linear betas"] = (powers[[0, -1]], np.full(2, linear))
    shown = {
        f"cosine, T = {_NUM_STEPS}": by_method,
        f"DDIM, T = {_NUM_STEPS}": by_offset,
    }
    return [
        Panel(title, *labels, curves, log_x=True, level=1.0, level_name="right")
        for title, curves in shown.items()
    ]


def study_worlds(report: Report, num_samples: int, rng: jax.Array, few: bool) -> None:
    """Repeats the comparison on more modes and in more dimensions, T = 50.

    Args:
      report: The report.
      num_samples: Number of samples of each method.
      rng: Random key.
      few: Whether to leave out the largest worlds.
    """
    worlds = {
        "2 modes, 2-D": two_modes(),
        "2 modes, 8-D": two_modes(8),
        "2 modes, 32-D": two_modes(32),
        "ring of 8": ring_of_modes(),
        "grid of 25": grid_of_modes(),
    }
    if few:
        worlds = {name: worlds[name] for name in ("2 modes, 8-D", "ring of 8")}
    rows: list[list[Value]] = []
    checks: dict[str, list[bool]] = {
        "single": [],
        "whole": [],
        "widths": [],
        "distances": [],
    }
    for place, (world, mixture) in enumerate(worlds.items()):
        found = _compare_in(mixture, jax.random.fold_in(rng, place), num_samples)
        for method in METHODS:
            pair = [found[TITLES[method], name] for name in SCHEDULE_NAMES]
            expected = [
                final_std(method, make_toy_schedule(name, _NUM_STEPS), mixture.std)
                / mixture.std
                for name in SCHEDULE_NAMES
            ]
            rows.append(
                [
                    f"{world}, {TITLES[method]}",
                    *(m.width for m in pair),
                    *expected,
                    *(m.share_error for m in pair),
                    *(m.distance for m in pair),
                ]
            )
        checks["single"] += [
            found["single step", name].width < 0.05 for name in SCHEDULE_NAMES
        ]
        checks["whole"] += [
            found["whole step", name].width < 0.9 * found["DDPM", name].width
            for name in SCHEDULE_NAMES
        ]
        for method in ("DDPM", "DDIM"):
            linear, cosine = (found[method, name] for name in SCHEDULE_NAMES)
            checks["widths"].append(abs(cosine.width - 1) < abs(linear.width - 1))
            checks["distances"].append(cosine.distance < linear.distance)
    columns = ("width", "closed form", "shares off", "SW2")
    report.add_table(
        "worlds",
        f"Other data, exact predictors, T = {_NUM_STEPS}, {num_samples} samples each "
        "(widths in units of s; closed form: of one Gaussian)",
        ["data, method", *(f"{c} {n[:3]}" for c in columns for n in SCHEDULE_NAMES)],
        rows,
    )
    for key, claim in (
        ("single", "Single-step sampling collapses (width below .05 s)"),
        ("whole", "Whole-step sampling narrows modes (by a tenth against DDPM)"),
        ("widths", "Cosine beats linear betas in the width of the modes"),
        ("distances", "Cosine beats linear betas in SW2"),
    ):
        report.add_finding(
            f"{claim}, with more modes and dimensions too",
            verdict_of(checks[key]),
            f"{sum(checks[key])} of {len(checks[key])} cases: {', '.join(worlds)}",
        )


def _compare_in(
    mixture: Mixture, rng: jax.Array, num_samples: int
) -> dict[tuple[str, str], Measures]:
    """Returns measures by method and schedule."""
    rng_data, rng_walk = jax.random.split(rng)
    reference = draw_reference(mixture, rng_data, num_samples)
    return {
        (TITLES[method], name): sample_exactly(
            mixture,
            make_toy_schedule(name, _NUM_STEPS),
            TITLES[method],
            reference,
            rng_walk,
            num_samples,
        )[0]
        for method in METHODS
        for name in SCHEDULE_NAMES
    }
