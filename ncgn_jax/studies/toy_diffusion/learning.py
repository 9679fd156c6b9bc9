"""What the tiny network learns: targets, samplers, schedules.

The trained part of the study `toy_diffusion` (arXiv 2409.00374): how near each
target comes to its least loss, and what that does to the samples of each method
under both schedules.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from ncgn_jax.process import Schedule, interpolate
from ncgn_jax.studies.mixtures import mixture_denoiser
from ncgn_jax.studies.report import Report, verdict_of
from ncgn_jax.studies.toy_diffusion.exact import (
    Mixture,
    bayes_losses,
    draw_mixture,
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


class Lesson(NamedTuple):
    """What all networks of the study are trained and tested on.

    Attributes:
      mixture: Distribution of the data.
      data: Training points of each seed, [seed, point, 2].
      reference: Fresh points, [point, 2].
      rngs: Keys, [seed].
      plan: How long to train.
      num_samples: Samples of each network.
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
        """Says the sizes, for captions."""
        num_seeds, num_points, _ = self.data.shape
        return (
            f"T = {self.num_steps}, {num_points} points, {self.plan.num_epochs} "
            f"epochs, {num_seeds} seed{'s' * (num_seeds > 1)}, "
            f"{self.num_samples} samples each"
        )


def sample_networks(
    lesson: Lesson, params, schedule: Schedule, target: str, method: str, limit=None
) -> tuple[list[Measures], np.ndarray]:
    """Samples the networks of all seeds; returns measures and samples of each."""
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
def _denoiser_maker(schedule: Schedule, target: str, limit: float | None):
    return lambda params: network_denoiser(params, schedule, target, data_limit=limit)


def excess_losses(
    lesson: Lesson, params, schedule: Schedule, target: str
) -> np.ndarray:
    """Measures E |network - E[target | x_n]|^2 a coordinate, [seed].

    Added to the least loss it is the network's loss on fresh data, without the
    chance of the noise: the two parts are uncorrelated.
    """
    rng_step, rng_noise = jax.random.split(lesson.rngs[0])
    data = lesson.reference
    n = jax.random.randint(rng_step, (len(data),), 1, schedule.num_steps + 1)
    t = schedule.time_of_step(n)
    noise = jax.random.normal(rng_noise, data.shape)
    x_t = interpolate(schedule, t, data, noise)
    denoise = mixture_denoiser(*lesson.mixture, schedule)
    if target == "step":
        t_next = schedule.time_of_step(n - 1)
        best = STEPS["single step"](denoise, schedule, x_t, t, t_next, rng_noise)
    else:
        data_hat, noise_hat = denoise(x_t, t)
        score = -noise_hat / schedule.sigma(t)[:, None]
        best = {"data": data_hat, "noise": noise_hat, "score": score}[target]
    found = jax.vmap(lambda p: make_predict(p)(x_t, t))(params)
    return np.mean(np.square(found - best[None]), axis=(1, 2))


def study_targets(report: Report, lesson: Lesson) -> dict[str, dict[str, np.ndarray]]:
    """Trains every target under both schedules, samples, and tabulates.

    Returns:
      Samples of the first seed by method, by schedule, for the picture.
    """
    excess, measures, pictures = {}, {}, {}
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


def _report_losses(report: Report, lesson: Lesson, excess) -> None:
    rows, understood = [], []
    for name in SCHEDULE_NAMES:
        schedule = make_toy_schedule(name, lesson.num_steps)
        least = {k: v.mean() for k, v in bayes_losses(lesson.mixture, schedule).items()}
        for target in TARGETS:
            extra = excess[name, target].mean()
            share = extra / least[target]
            rows.append([f"{target}, {name}", least[target], extra, 100 * share])
        # Noise has variance 1, so E[noise | x_n] has 1 - least.
        explained = 1 - excess[name, "noise"].mean() / (1 - least["noise"])
        understood.append((name, explained, 1 - least["noise"] - rows[-3][2]))
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


def _report_samples(report: Report, lesson: Lesson, measures) -> None:
    def mean(name, target, method, is_clipped=False):
        return mean_measures(measures[name, target, method, is_clipped])

    rows = []
    for target, method, limit in _RUNS:
        row = [f"{target}, {method}" + (", clipped" if limit else "")]
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

    def compare(*runs):
        pairs = [[mean(n, *run).distance for n in SCHEDULE_NAMES] for run in runs]
        text = "; ".join(
            f"{target} {method} {a:.3f} -> {b:.3f}"
            for (target, method, *_), (a, b) in zip(runs, pairs, strict=True)
        )
        return verdict_of([b < a for a, b in pairs]), f"SW2 linear -> cosine: {text}"

    claim = "The cosine schedule outperforms the linear one (arXiv 2409.00374), "
    report.add_finding(
        claim + "networks that predict the data",
        *compare(*(("data", method) for method in ("whole step", "DDPM", "DDIM"))),
    )
    report.add_finding(
        claim + "networks that predict noise or score",
        *compare(
            *((t, method) for t in ("noise", "score") for method in ("DDPM", "DDIM"))
        ),
    )
    limited = [("noise", "DDIM"), ("score", "DDIM")]
    before = [mean("cosine", *run).distance for run in limited]
    after = [mean("cosine", *run, True).distance for run in limited]
    alpha = float(make_toy_schedule("cosine", lesson.num_steps).alpha(0.0))
    report.add_finding(
        f"Limiting data_hat to +-{DATA_LIMIT:g} mends DDIM under the cosine schedule",
        verdict_of([b < 0.7 * a for a, b in zip(before, after, strict=True)]),
        f"SW2 noise {before[0]:.3f} -> {after[0]:.3f}, score {before[1]:.3f} -> "
        f"{after[1]:.3f}; without, data_hat = (x - sigma noise_hat) / alpha divides "
        f"the network's error by alpha(n = T) = {alpha:.1e}",
    )
    single = [mean(name, "step", "single step") for name in SCHEDULE_NAMES]
    report.add_finding(
        "Single-step sampling by networks collapses (arXiv 2409.00374)",
        verdict_of([m.width < 0.3 for m in single]),
        "; ".join(
            f"{name}: width {m.width:.2f} s, share error {m.share_error:.2f}, "
            f"SW2 {m.distance:.2f}"
            for name, m in zip(SCHEDULE_NAMES, single, strict=True)
        ),
    )
    best = {
        (name, target): min(
            mean(name, target, method, clip is not None).distance
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
    rows, is_better = [], []
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
            cells = []
            for name in SCHEDULE_NAMES:
                values = row[method, name]
                spread = np.std(values, ddof=1) if values[1:] else None
                cells += [np.mean(values), spread]
            is_better.append(cells[2] < cells[0])
            rows.append([f"{num_steps}, {method}", *cells])
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
        "SW2 linear -> cosine: "
        + "; ".join(f"T = {row[0]} {row[1]:.3f} -> {row[3]:.3f}" for row in rows),
    )
