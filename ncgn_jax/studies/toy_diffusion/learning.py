"""Trains the tiny network on every target and measures its losses and samples.

The trained part of the study `toy_diffusion` (arXiv 2409.00374). It compares the loss
of each target with its least loss, and the samples of each method under both
schedules.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.process import Denoiser, Schedule, interpolate
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.report import Report, Value, verdict_of
from ncgn_jax.studies.toy_diffusion.exact import (
    Mixture,
    bayes_losses,
    draw_mixture,
    num_chain_steps,
)
from ncgn_jax.studies.toy_diffusion.networks import (
    TARGETS,
    Plan,
    make_predict,
    network_denoiser,
    train_networks,
)
from ncgn_jax.studies.toy_diffusion.samples import (
    SCHEDULE_NAMES,
    SINGLE_STEP,
    STEPS,
    Measures,
    make_toy_schedule,
    mean_measures,
    measure_samples,
    run_chain,
)

# Four standard deviations beyond the outermost mean.
DATA_LIMIT = 2.7
# Target, method, limit of data_hat.
_RUNS = (
    ("step", "single step", None),
    ("step", "DDPM", None),
    ("data", "one shot", None),
    ("data", "whole step", None),
    ("data", "DDPM", None),
    ("data", "DDIM", None),
    ("noise", "DDPM", None),
    ("noise", "DDIM", None),
    ("noise", "DDPM", DATA_LIMIT),
    ("noise", "DDIM", DATA_LIMIT),
    ("score", "DDPM", None),
    ("score", "DDIM", None),
    ("score", "DDIM", DATA_LIMIT),
)
_PICTURED = (
    ("step", "single step"),
    ("data", "whole step"),
    ("data", "DDIM"),
    ("noise", "DDPM"),
    ("noise", "DDIM"),
)


# Measures of each seed by schedule, target, method, and whether data_hat is limited.
_Runs = Mapping[tuple[str, str, str, bool], list[Measures]]


class Lesson(NamedTuple):
    """Training and test data of all networks of the study.

    Attributes:
      mixture: Distribution of the data.
      data: Training points of each seed, [seed, point, 2].
      reference: Fresh points, [point, 2].
      rngs: Keys, [seed].
      plan: Settings of the training.
      num_samples: Number of samples of each network.
      num_steps: T, unless a table says otherwise.
    """

    mixture: Mixture
    data: jax.Array
    reference: jax.Array
    rngs: jax.Array
    plan: Plan
    num_samples: int
    num_steps: int

    def describe(self) -> str:
        """Returns the sizes for captions."""
        num_seeds, num_points, _ = self.data.shape
        return (
            f"T = {self.num_steps}, {num_points} points, {self.plan.num_epochs} "
            f"epochs, {num_seeds} seed{'s' * (num_seeds > 1)}, "
            f"{self.num_samples} samples each"
        )


def sample_networks(
    lesson: Lesson,
    params: Any,
    schedule: Schedule,
    target: str,
    method: str,
    limit: float | None = None,
) -> tuple[list[Measures], np.ndarray]:
    """Samples the networks of all seeds and returns measures and samples of each."""
    start, samples = run_chain(
        _denoiser_maker(schedule, target, limit),
        params,
        STEPS[method],
        schedule,
        lesson.rngs,
        (lesson.num_samples, 2),
    )
    measures = [
        measure_samples(lesson.mixture, x, lesson.reference, z)
        for x, z in zip(samples, start, strict=True)
    ]
    return measures, np.asarray(samples)


@functools.cache
def _denoiser_maker(
    schedule: Schedule, target: str, limit: float | None
) -> Callable[[Any], Denoiser]:
    return lambda params: network_denoiser(params, schedule, target, data_limit=limit)


def excess_losses(
    lesson: Lesson, params: Any, schedule: Schedule, target: str
) -> np.ndarray:
    """Measures E |network - E[target | x_n]|^2 per coordinate, [seed].

    Added to the least loss it is the network's loss on fresh data, because the two
    parts are uncorrelated. This leaves out the randomness of the noise.
    """
    rng_step, rng_noise = jax.random.split(lesson.rngs[0])
    data = lesson.reference
    n = jax.random.randint(rng_step, (len(data),), 1, num_chain_steps(schedule) + 1)
    t = schedule.time_of_step(n)
    noise = jax.random.normal(rng_noise, data.shape)
    x_t = interpolate(schedule, t, data, noise)
    denoise = mixture_denoiser(*lesson.mixture, schedule)
    if target == "step":
        t_next = schedule.time_of_step(n - 1)
        best = SINGLE_STEP(denoise, schedule, x_t, t, t_next, rng_noise)
    else:
        data_hat, noise_hat = denoise(x_t, t)
        score = -noise_hat / schedule.sigma(t)[:, None]
        best = {"data": data_hat, "noise": noise_hat, "score": score}[target]
    found = jax.vmap(lambda p: make_predict(p)(x_t, t))(params)
    return np.mean(np.square(found - best[None]), axis=(1, 2))


def study_targets(report: Report, lesson: Lesson) -> dict[str, dict[str, np.ndarray]]:
    """Trains every target under both schedules, samples and tabulates.

    Returns:
      Samples of the first seed by method, by schedule, for the picture.
    """
    excess, measures = {}, {}
    pictures: dict[str, dict[str, np.ndarray]] = {}
    for name in SCHEDULE_NAMES:
        schedule = make_toy_schedule(name, lesson.num_steps)
        params = {
            target: train_networks(
                lesson.rngs, schedule, target, lesson.data, plan=lesson.plan
            )[0]
            for target in TARGETS
        }
        for target in TARGETS:
            excess[name, target] = excess_losses(
                lesson, params[target], schedule, target
            )
        pictures[f"{name}, networks"] = {}
        for target, method, limit in _RUNS:
            found, samples = sample_networks(
                lesson, params[target], schedule, target, method, limit
            )
            measures[name, target, method, limit is not None] = found
            if (target, method) in _PICTURED and limit is None:
                title = f"{method} ({target})"
                pictures[f"{name}, networks"][title] = samples[0]
    _report_losses(report, lesson, excess)
    _report_samples(report, lesson, measures)
    return pictures


def _report_losses(
    report: Report, lesson: Lesson, excess: Mapping[tuple[str, str], np.ndarray]
) -> None:
    rows: list[list[Value]] = []
    understood = []
    for name in SCHEDULE_NAMES:
        schedule = make_toy_schedule(name, lesson.num_steps)
        least = {k: v.mean() for k, v in bayes_losses(lesson.mixture, schedule).items()}
        for target in TARGETS:
            extra = excess[name, target].mean()
            share = extra / least[target]
            rows.append([f"{target}, {name}", least[target], extra, 100 * share])
        # Noise has variance 1, so E[noise | x_n] has 1 - least.
        extra = excess[name, "noise"].mean()
        explained = 1 - extra / (1 - least["noise"])
        understood.append((name, explained, 1 - least["noise"] - extra))
    report.add_table(
        "losses",
        "Mean squared error a coordinate, mean over n = 1..T, beyond the least one "
        f"({lesson.describe()})",
        ["target, schedule", "least", "network beyond", "beyond, %"],
        rows,
    )
    report.add_finding(
        "Networks learn the gradient of the log-density, not the noise "
        "(arXiv 2409.00374, discussion of what is learned)",
        verdict_of([score > max(0.9, noise) for _, score, noise in understood]),
        "share of variance that the noise network explains: "
        + "; ".join(
            f"{name} {score:.3f} of E[noise | x_n] = -sigma score, {noise:.3f} of the "
            "noise itself"
            for name, score, noise in understood
        )
        + "; the same is true of every target, each being affine in the score",
    )


def _report_samples(report: Report, lesson: Lesson, measures: _Runs) -> None:
    _add_networks_table(report, lesson, measures)
    _find_cosine_gains(report, measures)
    _find_limit(report, lesson, measures)
    _find_collapse(report, measures)
    _find_best_target(report, measures)


def _mean(
    measures: _Runs, name: str, target: str, method: str, is_clipped: bool = False
) -> Measures:
    return mean_measures(measures[name, target, method, is_clipped])


def _add_networks_table(report: Report, lesson: Lesson, measures: _Runs) -> None:
    rows = []
    for target, method, limit in _RUNS:
        row: list[Value] = [f"{target}, {method}" + (", clipped" if limit else "")]
        for name in SCHEDULE_NAMES:
            found = measures[name, target, method, limit is not None]
            spread = np.std([m.distance for m in found], ddof=1) if found[1:] else None
            at = mean_measures(found)
            row += [at.distance, spread, at.width, at.first_share, at.memory]
        rows.append(row)
    columns = ("SW2", "+-", "width", "share", "memory")
    fresh = draw_mixture(lesson.mixture, lesson.rngs[0], lesson.num_samples)
    floor = measure_samples(lesson.mixture, fresh, lesson.reference).distance
    report.add_table(
        "networks",
        f"Samples of trained networks ({lesson.describe()}; +- over seeds; width in "
        f"units of s, share of the mode of weight {lesson.mixture.weights[0]:g}, "
        f"memory of the start; right is width 1, fresh data has SW2 {floor:.3f})",
        ["target, method", *(f"{c} {n[:3]}" for n in SCHEDULE_NAMES for c in columns)],
        rows,
    )


def _find_cosine_gains(report: Report, measures: _Runs) -> None:
    """Adds whether samples are better under the cosine schedule, by target."""
    by_target = {
        "the data": [("data", method) for method in ("whole step", "DDPM", "DDIM")],
        "noise or score": [
            (t, method) for t in ("noise", "score") for method in ("DDPM", "DDIM")
        ],
    }
    for predicted, runs in by_target.items():
        pairs = [
            [_mean(measures, n, *run).distance for n in SCHEDULE_NAMES] for run in runs
        ]
        report.add_finding(
            "The cosine schedule outperforms the linear one (arXiv 2409.00374), "
            f"networks that predict {predicted}",
            verdict_of([b < a for a, b in pairs]),
            "SW2 linear -> cosine: "
            + "; ".join(
                f"{target} {method} {a:.3f} -> {b:.3f}"
                for (target, method), (a, b) in zip(runs, pairs, strict=True)
            ),
        )


def _find_limit(report: Report, lesson: Lesson, measures: _Runs) -> None:
    """Adds whether a limit of data_hat mends DDIM under the cosine schedule."""
    limited = [("noise", "DDIM"), ("score", "DDIM")]
    before = [_mean(measures, "cosine", *run).distance for run in limited]
    after = [_mean(measures, "cosine", *run, True).distance for run in limited]
    schedule = make_toy_schedule("cosine", lesson.num_steps)
    alpha = float(schedule.alpha(jnp.zeros(())))
    report.add_finding(
        f"Limiting data_hat to +-{DATA_LIMIT:g} mends DDIM under the cosine schedule",
        verdict_of([b < 0.7 * a for a, b in zip(before, after, strict=True)]),
        f"SW2 noise {before[0]:.3f} -> {after[0]:.3f}, score {before[1]:.3f} -> "
        f"{after[1]:.3f}; without, data_hat = (x - sigma noise_hat) / alpha divides "
        f"the network's error by alpha(n = T) = {alpha:.1e}",
    )


def _find_collapse(report: Report, measures: _Runs) -> None:
    """Adds whether single-step sampling by networks collapses."""
    single = [_mean(measures, name, "step", "single step") for name in SCHEDULE_NAMES]
    report.add_finding(
        "Single-step sampling by networks collapses (arXiv 2409.00374)",
        verdict_of([m.width < 0.3 for m in single]),
        "; ".join(
            f"{name}: width {m.width:.2f} s, share error {m.share_error:.2f}, "
            f"SW2 {m.distance:.2f}"
            for name, m in zip(SCHEDULE_NAMES, single, strict=True)
        ),
    )


def _find_best_target(report: Report, measures: _Runs) -> None:
    """Adds whether the score is a better target than the data."""
    best = {
        (name, target): min(
            _mean(measures, name, target, method, clip is not None).distance
            for t, method, clip in _RUNS
            if t == target
        )
        for name in SCHEDULE_NAMES
        for target in TARGETS
    }
    report.add_finding(
        "Predicting the score rather than the data is crucial (arXiv 2409.00374)",
        verdict_of(
            [best[name, "score"] < best[name, "data"] for name in SCHEDULE_NAMES]
        ),
        "SW2 of each target's best sampler: "
        + "; ".join(
            f"{name} "
            + ", ".join(f"{target} {best[name, target]:.3f}" for target in TARGETS)
            for name in SCHEDULE_NAMES
        ),
    )


def study_chain_lengths(
    report: Report, lesson: Lesson, lengths: tuple[int, ...]
) -> None:
    """Tabulates networks that predict noise for several T."""
    rows: list[list[Value]] = []
    is_better, evidence = [], []
    for num_steps in lengths:
        row = {}
        for name in SCHEDULE_NAMES:
            schedule = make_toy_schedule(name, num_steps)
            params, _ = train_networks(
                lesson.rngs, schedule, "noise", lesson.data, plan=lesson.plan
            )
            for method in ("DDPM", "DDIM"):
                found, _ = sample_networks(lesson, params, schedule, "noise", method)
                row[method, name] = [m.distance for m in found]
        for method in ("DDPM", "DDIM"):
            linear, cosine = (row[method, name] for name in SCHEDULE_NAMES)
            before, after = np.mean(linear), np.mean(cosine)
            spreads = [np.std(v, ddof=1) if v[1:] else None for v in (linear, cosine)]
            title = f"{num_steps}, {method}"
            rows.append([title, before, spreads[0], after, spreads[1]])
            is_better.append(after < before)
            evidence.append(f"T = {title} {before:.3f} -> {after:.3f}")
    report.add_table(
        "chain_lengths",
        f"SW2 of networks that predict noise, other T ({lesson.describe()})",
        ["T, method", "linear", "+-", "cosine", "+-"],
        rows,
    )
    report.add_finding(
        "The cosine schedule outperforms the linear one (arXiv 2409.00374), networks "
        "that predict noise, other T",
        verdict_of(is_better),
        "SW2 linear -> cosine: " + "; ".join(evidence),
    )
