"""Studies schedule, sampler, target and noise on two Gaussians in the plane.

"Towards understanding diffusion models (on graphs)" (arXiv 2409.00374) asks for the
role of noise, the impact of the sampling method, and the function that the network
approximates. Here exact predictors stand beside the paper's tiny network, to separate
errors of a method from those of training. The paper leaves T, the learning rate, the
means and the formulas of its samplers open; they are defined here, T = 100 for
networks.

  python -m ncgn_jax.studies.toy_diffusion [--workdir=DIR] [--quick] [--seed=N]

| part           | question                                                        |
|----------------|-----------------------------------------------------------------|
| `sampling`     | exact predictors: sampling methods, width of the modes          |
| `sweep`        | the cosine's power and offset, more modes, more dimensions      |
| `learning`     | trained networks: targets, samplers, schedules                  |
| `pairing`      | noise by chance, frozen, or by an invertible map                |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.pictures.vector_fields import (
    FieldPanel,
    draw_sample_panels,
    draw_vector_fields,
)
from ncgn_jax.process import Schedule
from ncgn_jax.studies.mixtures import mixture_denoiser, mixture_log_density
from ncgn_jax.studies.report import Report, Value, verdict_of
from ncgn_jax.studies.toy_diffusion.exact import (
    bayes_losses,
    chain_coefficients,
    draw_mixture,
    draw_reference,
    two_modes,
    variance_of_mixture,
)
from ncgn_jax.studies.toy_diffusion.learning import (
    Lesson,
    study_chain_lengths,
    study_targets,
)
from ncgn_jax.studies.toy_diffusion.networks import Plan
from ncgn_jax.studies.toy_diffusion.pairing import study_pairings, study_transport_map
from ncgn_jax.studies.toy_diffusion.samples import SCHEDULE_NAMES, make_toy_schedule
from ncgn_jax.studies.toy_diffusion.sampling import study_methods, study_widths
from ncgn_jax.studies.toy_diffusion.sweep import study_cosines, study_worlds

_SIGNAL_LENGTHS = (100, 1000)
_NETWORK_STEPS = 100
# The n / T of the drawn vector fields.
_FIELD_PLACES = (0.1, 0.3, 0.5, 0.7)
_HALF_WIDTH = 3.0


class Sizes(NamedTuple):
    """Sizes of the study.

    Attributes:
      num_exact: Number of samples of exact predictors.
      chain_lengths: Chain lengths T for exact predictors.
      num_points: Number of training points.
      num_seeds: Number of networks of each kind.
      num_epochs: Number of passes over the points.
      num_learned: Number of samples of each network.
      network_lengths: Further chain lengths T for networks.
    """

    num_exact: int = 20_000
    chain_lengths: tuple[int, ...] = (20, 50, 100, 1000)
    num_points: int = 10_000
    num_seeds: int = 5
    num_epochs: int = 50
    num_learned: int = 5_000
    network_lengths: tuple[int, ...] = (50, 1000)


QUICK = Sizes(4_000, (100,), 10_000, 1, 20, 2_000, ())


def study(report: Report) -> None:
    """Runs all parts and fills the report."""
    run_parts(report, QUICK if report.quick else Sizes())


def run_parts(report: Report, sizes: Sizes) -> None:
    """Runs all parts at the given sizes."""
    rngs = jax.random.split(jax.random.key(report.seed), 5)
    study_signal(report)
    study_widths(report)
    pictures = study_methods(report, sizes.chain_lengths, sizes.num_exact, rngs[0])
    report.add_figure("exact_samples", draw_sample_panels(pictures, _HALF_WIDTH))
    study_cosines(report, sizes.num_exact // 4, rngs[1])
    study_worlds(report, sizes.num_exact // 4, rngs[2], report.quick)
    lesson = make_lesson(sizes, rngs[3])
    pictures = study_targets(report, lesson)
    report.add_figure("learned_samples", draw_sample_panels(pictures, _HALF_WIDTH))
    if sizes.network_lengths:
        study_chain_lengths(report, lesson, sizes.network_lengths)
    study_transport_map(report, lesson)
    study_pairings(report, lesson)
    report.add_figure("fields", draw_fields_of_mixture(_NETWORK_STEPS))


def make_lesson(sizes: Sizes, rng: jax.Array) -> Lesson:
    """Draws the training and test data of the networks."""
    mixture = two_modes()
    rng_data, rng_reference, rng_runs = jax.random.split(rng, 3)
    rngs_data = jax.random.split(rng_data, sizes.num_seeds)
    return Lesson(
        mixture,
        jax.vmap(lambda key: draw_mixture(mixture, key, sizes.num_points))(rngs_data),
        draw_reference(mixture, rng_reference, 2 * sizes.num_learned),
        jax.random.split(rng_runs, sizes.num_seeds),
        Plan(num_epochs=sizes.num_epochs),
        sizes.num_learned,
        _NETWORK_STEPS,
    )


def study_signal(report: Report) -> None:
    """Tabulates and draws the share of the data left at each step."""
    mixture = two_modes()
    rows: list[list[Value]] = []
    curves, lost = {}, {}
    for num_steps in _SIGNAL_LENGTHS:
        for name in SCHEDULE_NAMES:
            schedule = make_toy_schedule(name, num_steps)
            signal = chain_coefficients(schedule)[0][1:] ** 2
            losses = bayes_losses(mixture, schedule)
            known = 1 - losses["data"] / variance_of_mixture(mixture)
            lost[num_steps, name] = np.mean(signal < 0.01), np.mean(known < 0.05)
            rows.append(
                [
                    f"{num_steps}, {name}",
                    np.mean(signal < 0.01),
                    np.mean(signal < 0.1),
                    signal.mean(),
                    np.mean(known < 0.05),
                    known[num_steps // 2 - 1],
                    losses["data"].mean(),
                    losses["noise"].mean(),
                ]
            )
            curves[name] = (np.arange(1, num_steps + 1) / num_steps, signal, known)
    report.add_table(
        "signal",
        "Signal over the steps n = 1..T: shares of steps, alpha_bar = alpha^2, R^2 of "
        "E[data | x_n], and least losses a coordinate",
        ["T, schedule", "alpha_bar < .01", "< .1", "mean alpha_bar", "R^2 < .05"]
        + ["R^2 at T/2", "least data loss", "least noise loss"],
        rows,
    )
    pairs = [[lost[t, n] for n in SCHEDULE_NAMES] for t in _SIGNAL_LENGTHS]
    report.add_finding(
        "Under the linear schedule later steps hold little or no signal, under the "
        "cosine one they do (arXiv 2409.00374)",
        verdict_of([2 * c < x for a, b in pairs for x, c in zip(a, b, strict=True)]),
        "; ".join(
            f"T = {t}: alpha_bar < .01 at {a[0]:.3f} of the steps against {b[0]:.3f}, "
            f"R^2 < .05 at {a[1]:.2f} against {b[1]:.2f}"
            for t, (a, b) in zip(_SIGNAL_LENGTHS, pairs, strict=True)
        ),
    )
    xlabel = "n / T (0 is data, 1 is noise)"
    panels = [
        Panel(title, xlabel, ylabel, {n: (c[0], c[i]) for n, c in curves.items()})
        for i, title, ylabel in (
            (1, "signal in $x_n$", r"$\bar\alpha_n = \alpha^2$"),
            (2, "what $x_n$ tells of the data", r"$R^2$ of E[data | $x_n$]"),
        )
    ]
    report.add_figure("signal", draw_panels(panels))


def draw_fields_of_mixture(num_steps: int) -> Figure:
    """Draws data_hat - x and the score of the exact predictor, over the density."""
    rows = {}
    for name in SCHEDULE_NAMES:
        schedule = make_toy_schedule(name, num_steps)
        panels = [field_panels(schedule, place) for place in _FIELD_PLACES]
        for i, kind in enumerate(("data_hat - x", "score")):
            rows[f"{name}: {kind}"] = [pair[i] for pair in panels]
    return draw_vector_fields(rows)


def field_panels(schedule: Schedule, place: float) -> tuple[FieldPanel, FieldPanel]:
    """Returns the panels of data_hat - x and of the score at n / T = `place`."""
    mixture = two_modes()
    coarse, fine = (np.linspace(-_HALF_WIDTH, _HALF_WIDTH, n) for n in (13, 81))

    def on_grid(places: np.ndarray) -> tuple[jax.Array, jax.Array]:
        points = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
        return jnp.asarray(points), jnp.full(len(points), 1 - place)

    x, t = on_grid(coarse)
    data_hat, noise_hat = mixture_denoiser(*mixture, schedule)(x, t)
    score = -noise_hat / schedule.sigma(t)[:, None]
    x_fine, t_fine = on_grid(fine)
    density = mixture_log_density(x_fine, t_fine, *mixture, schedule)
    beneath = fine, np.asarray(density).reshape(len(fine), -1)
    title = f"n/T = {place:g}"
    shape = (len(coarse), len(coarse), 2)
    pull, push = (
        FieldPanel(title, coarse, np.asarray(field).reshape(shape), *beneath)
        for field in (data_hat - x, score)
    )
    return pull, push
