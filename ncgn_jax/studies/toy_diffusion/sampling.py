"""Samples with exact predictors, to isolate the effects of method and schedule.

Part of the study `toy_diffusion` (arXiv 2409.00374). Nothing is trained here, so that
all errors of the samples come from the method, the schedule or the number of steps.
"""

from collections.abc import Mapping

import jax
import numpy as np

from ncgn_jax.process import Schedule
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.report import Report, verdict_of
from ncgn_jax.studies.toy_diffusion.exact import (
    METHODS,
    Mixture,
    chain_coefficients,
    draw_mixture,
    draw_reference,
    final_std,
    two_modes,
)
from ncgn_jax.studies.toy_diffusion.samples import (
    SCHEDULE_NAMES,
    STEPS,
    Measures,
    make_toy_schedule,
    measure_samples,
    run_chain,
)

CHAIN_LENGTHS = (20, 50, 100, 1000)
# The sampler behind each recursion of `final_std`.
TITLES = dict(zip(METHODS, ("single step", "DDPM", "whole step", "DDIM"), strict=True))


def sample_exactly(
    mixture: Mixture,
    schedule: Schedule,
    method: str,
    reference: jax.Array,
    rng: jax.Array,
    num_samples: int,
) -> tuple[Measures, np.ndarray]:
    """Draws samples with the exact predictor and measures them."""
    start, samples = run_chain(
        lambda _: mixture_denoiser(*mixture, schedule),
        None,
        STEPS[method],
        schedule,
        rng[None],
        (num_samples, mixture.means.shape[1]),
    )
    return measure_samples(mixture, samples[0], reference, start[0]), samples[0]


def study_widths(report: Report) -> None:
    """Tabulates the closed-form width of the modes and its laws."""
    std = two_modes().std
    widths = {
        (method, num_steps, name): final_std(
            method, make_toy_schedule(name, num_steps), std
        )
        for method in METHODS
        for num_steps in CHAIN_LENGTHS
        for name in SCHEDULE_NAMES
    }
    report.add_table(
        "widths",
        f"Standard deviation of samples of N(mu, s^2), exact predictor, s = {std:g}",
        ["T", *(f"{TITLES[m]} {n}" for m in METHODS for n in SCHEDULE_NAMES)],
        [
            [str(t), *(widths[m, t, n] for m in METHODS for n in SCHEDULE_NAMES)]
            for t in CHAIN_LENGTHS
        ],
    )
    multi = METHODS[1:]
    gains = {
        (m, t): [abs(widths[m, t, n] - std) for n in SCHEDULE_NAMES]
        for m in multi
        for t in CHAIN_LENGTHS
    }
    shortest, longest = CHAIN_LENGTHS[0], CHAIN_LENGTHS[-1]
    report.add_finding(
        "The cosine schedule outperforms the linear one (arXiv 2409.00374), exact "
        "predictor, width of the modes",
        verdict_of([cosine < linear for linear, cosine in gains.values()]),
        "|std - s| / s, linear -> cosine: "
        + "; ".join(
            f"{TITLES[m]} T = {t}: {gains[m, t][0] / std:.3f} -> "
            f"{gains[m, t][1] / std:.3f}"
            for m in multi
            for t in (shortest, longest)
        ),
    )
    single = [w for (method, *_), w in widths.items() if method == "single_step"]
    unit = [
        abs(final_std("single_step", s, 1.0) / chain_coefficients(s)[0][-1] - 1)
        for s in (make_toy_schedule(n, longest) for n in SCHEDULE_NAMES)
    ]
    report.add_finding(
        "Single-step sampling collapses: the mean of x_(n-1) alone, without noise",
        verdict_of([w < 0.02 * std for w in single] + [u < 1e-6 for u in unit]),
        f"std at most {max(single):.1e} for s = {std:g}; for s = 1 it is "
        f"sqrt(alpha_bar_T) within {max(unit):.0e}. With the posterior's noise it is "
        "DDPM, and right",
    )
    ratios = {
        t: [widths["renoise", t, n] * np.sqrt(2) / std for n in SCHEDULE_NAMES]
        for t in CHAIN_LENGTHS
    }
    gaps = np.abs(np.array(list(ratios.values())) - 1)
    report.add_finding(
        "Whole-step sampling with fresh noise narrows each mode to s / sqrt 2, with "
        "however many steps",
        verdict_of([np.all(np.diff(gaps, axis=0) < 0), np.all(gaps[-1] < 0.02)]),
        "std sqrt 2 / s, linear / cosine: "
        + "; ".join(f"T = {t}: {a:.4f} / {b:.4f}" for t, (a, b) in ratios.items())
        + "; with the implied noise in place of fresh noise it is DDIM, and right",
    )


def study_methods(
    report: Report, lengths: tuple[int, ...], num_samples: int, rng: jax.Array
) -> dict[str, dict[str, np.ndarray]]:
    """Samples two modes by every method.

    Args:
      report: The report.
      lengths: Chain lengths T, the last for findings and the picture.
      num_samples: Number of samples of each method.
      rng: Random key.

    Returns:
      Samples by method, by schedule, for the picture.
    """
    mixture = two_modes()
    rng_data, rng_again, rng_walk = jax.random.split(rng, 3)
    reference = draw_reference(mixture, rng_data, num_samples)
    fresh = draw_mixture(mixture, rng_again, num_samples)
    floor = measure_samples(mixture, fresh, reference)
    found: dict[tuple[int, str, str], Measures] = {}
    pictures: dict[str, dict[str, np.ndarray]] = {}
    for num_steps in lengths:
        for name in SCHEDULE_NAMES:
            schedule = make_toy_schedule(name, num_steps)
            for method in STEPS:
                measures, samples = sample_exactly(
                    mixture, schedule, method, reference, rng_walk, num_samples
                )
                found[num_steps, name, method] = measures
                if num_steps == lengths[-1]:
                    row = pictures.setdefault(
                        f"{name}, exact", {"data": np.asarray(fresh)}
                    )
                    row[method] = samples
    named = {"fresh data": floor}
    named |= {", ".join(map(str, case)): m for case, m in found.items()}
    report.add_table(
        "methods",
        f"Samples with exact predictors, weights .7 / .3, {num_samples} each (SW2: "
        "sliced W2 to fresh data; share of the first mode; shares' total variation; "
        "width in units of s; share far from all modes; coverage; memory of the start)",
        ["T, schedule, method", "SW2", "share", "shares off", "width", "stray"]
        + ["covered", "memory"],
        [[name, *measures] for name, measures in named.items()],
    )
    longest = {m: [found[lengths[-1], n, m] for n in SCHEDULE_NAMES] for m in STEPS}
    _judge_quality(report, lengths, found, longest, floor)
    _judge_failures(report, longest, floor, mixture.weights[0])
    return pictures


def _judge_quality(
    report: Report,
    lengths: tuple[int, ...],
    found: Mapping[tuple[int, str, str], Measures],
    longest: Mapping[str, list[Measures]],
    floor: Measures,
) -> None:
    """Adds whether methods differ in quality for every T and schedule."""
    order = ("DDPM", "DDIM", "whole step", "single step")
    ranked = [
        [found[t, n, m].distance for m in order]
        for t in lengths
        for n in SCHEDULE_NAMES
    ]
    report.add_finding(
        "The method of sampling decides over the quality (arXiv 2409.00374)",
        verdict_of([max(d[:2]) < 0.5 * d[2] and d[2] < 0.7 * d[3] for d in ranked]),
        f"T = {lengths[-1]}, linear / cosine: "
        + "; ".join(
            f"{method} SW2 " + " / ".join(f"{m.distance:.3f}" for m in pair)
            for method, pair in longest.items()
        )
        + f"; fresh data {floor.distance:.3f}",
    )


def _judge_failures(
    report: Report,
    longest: Mapping[str, list[Measures]],
    floor: Measures,
    first_weight: float,
) -> None:
    """Adds whether the failures of the paper appear in the longest chains."""
    single = longest["single step"]
    one_mode = [max(m.first_share, 1 - m.first_share) for m in single]
    covered = max(m.coverage for m in single)
    whole = [m.first_share for m in longest["whole step"]]
    memory = {m: [x.memory for x in pair] for m, pair in longest.items()}
    report.add_finding(
        "Failures named by arXiv 2409.00374 appear with exact predictors: collapse "
        "to one mean, positions kept from the start, poor coverage",
        verdict_of(
            [
                min(one_mode) > 0.99,
                min(memory["DDIM"]) > 0.5,
                covered < 0.1 * floor.coverage,
            ]
        ),
        f"single step: share of one mode {min(one_mode):.3f}, coverage {covered:.3f} "
        f"against {floor.coverage:.3f} of fresh data; one shot: width "
        f"{max(m.width for m in longest['one shot']):.3f} s, at the global mean; "
        f"whole step: share {min(whole):.3f} in place of {first_weight:g}; "
        "correlation with the start: "
        + ", ".join(f"{m} {min(v):.2f}" for m, v in memory.items())
        + ". DDIM's memory is no failure: it is a map from noise to data",
    )
