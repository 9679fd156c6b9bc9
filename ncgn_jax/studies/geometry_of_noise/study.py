"""Asks whether generative models need the noise level as an input.

The command `python -m ncgn_jax.studies.geometry_of_noise` compares the claims of "The
geometry of noise" (Sahraee-Ardakan, Delbracio & Milanfar 2026, arXiv 2602.18428) with
the exact fields of a finite data set: the marginal energy and its singularity, the
decomposition of blind fields, the gain of samplers, and sampling of two circles in 2
to 128 dimensions by models with and without the noise level as input.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.pictures.landscapes import Landscape, draw_landscape
from ncgn_jax.process import Schedule, make_schedule
from ncgn_jax.studies.geometry_of_noise.blind_fields import (
    FIELD_KINDS,
    NoisePrior,
    blind_prediction,
    decompose_field,
    energy_gradient,
    marginal_energy,
    sampler_gains,
    uniform_noise_prior,
)
from ncgn_jax.studies.geometry_of_noise.error_tables import (
    COMPARED,
    DIMS,
    NUM_POINTS,
    TABLE_NOISE_TIMES,
    report_errors,
)
from ncgn_jax.studies.geometry_of_noise.errors import noised_samples
from ncgn_jax.studies.geometry_of_noise.near_data import report_near_data
from ncgn_jax.studies.geometry_of_noise.sampling import (
    WAYS,
    circle_distances,
    make_circles,
    summarise,
    walk,
)
from ncgn_jax.studies.report import Report, Value, verdict_of

VP_TIME_FLOOR = 1e-9  # follows the process down to sigma = 1e-5
NUM_STEPS = 100
_CLEAN_SHARE = 0.95  # of samples within 0.05 of a circle; told models reach 1
_DRAWN_WAYS = tuple(
    name for name in WAYS if name not in ("told velocity FM", "blind noise VP, Euler")
)
_PATH_WAYS = ("blind velocity FM", "blind noise VP", "blind equilibrium")
_ONSET_RATIOS = (1.0, 0.3, 0.1)
_ONSET_DIM = 32
_ONSET_WAYS = ("blind velocity FM", "blind noise VP", "blind noise FM")
_walk = jax.jit(walk, static_argnames=("way", "schedule", "num_steps", "keep_every"))


def study(report: Report) -> None:
    """Fills the report."""
    schedules = {
        "FM": make_schedule("linear"),
        "VP": make_schedule("vp", time_floor=VP_TIME_FLOOR),
    }
    report_identities(report, schedules)
    report_near_data(report, schedules["FM"])
    report_gains(report, schedules)
    report_errors(report, schedules)
    report_sampling(report, schedules)
    report_onset(report, schedules)
    draw_energy(report, schedules)


def report_identities(report: Report, schedules: Mapping[str, Schedule]) -> None:
    """Adds the errors of eq. 11 and eq. 14/56 for the fields used here.

    Args:
      report: The report.
      schedules: "FM" and "VP".
    """
    rng = jax.random.fold_in(jax.random.key(report.seed), 2)
    points = make_circles(16, 3, rng).points
    prior = uniform_noise_prior(128, least=1e-3, most=0.999)
    errors: dict[str, list[float]] = {kind: [] for kind in ("grad E", *FIELD_KINDS)}
    for schedule in schedules.values():
        draws = [
            noised_samples(points, schedule, s, 8, rng)[0] for s in (0.5, 0.1, 0.03)
        ]
        x = jnp.concatenate(draws)
        found = jax.jit(identity_errors, static_argnums=2)(x, points, schedule, prior)
        for kind, error in found.items():
            errors[kind].append(float(error))
    report.add_table(
        "identities",
        "Largest error of grad E (eq. 11) against automatic differentiation, and of "
        "natural gradient + correction + drift (eq. 14) against each blind field",
        ["field", *schedules],
        [[kind, *found] for kind, found in errors.items()],
    )
    worst = max(max(found) for found in errors.values())
    report.add_finding(
        "A blind field is natural gradient + transport correction + drift (eq. 14)",
        verdict_of([worst < 1e-10]),
        f"largest error {worst:.1e} over {len(FIELD_KINDS)} targets and "
        f"{len(schedules)} schedules",
    )


def identity_errors(
    x: jax.Array, points: jax.Array, schedule: Schedule, prior: NoisePrior
) -> dict[str, jax.Array]:
    """Returns the largest errors of eq. 11 and eq. 14/56 at x.

    Args:
      x: Samples of unknown noise level, [batch, dim].
      points: The data set, [point, dim].
      schedule: The noise schedule.
      prior: Prior of the noise levels; alpha must be positive at its nodes.

    Returns:
      Largest absolute errors: "grad E" against automatic differentiation, and the sum
      of parts of each of `FIELD_KINDS`.
    """

    def total_energy(x: jax.Array) -> jax.Array:
        return jnp.sum(marginal_energy(x, points, schedule, prior))

    gradient = energy_gradient(x, points, schedule, prior)
    errors = {"grad E": jnp.max(jnp.abs(jax.grad(total_energy)(x) - gradient))}
    for kind in FIELD_KINDS:
        field = blind_prediction(kind, x, points, schedule, prior)
        parts = decompose_field(kind, x, points, schedule, prior)
        errors[kind] = jnp.max(jnp.abs(sum(parts) - field))
    return errors


def report_gains(report: Report, schedules: Mapping[str, Schedule]) -> None:
    """Adds the table of the samplers' gains |nu|.

    Args:
      report: The report.
      schedules: "FM" and "VP".
    """
    t = 1.0 - jnp.asarray(TABLE_NOISE_TIMES)
    rows = [
        [f"{kind} {process}", *jnp.abs(sampler_gains(kind, schedules[process], t)[1])]
        for process, kinds in COMPARED.items()
        for kind in (*kinds, *({"data"} - set(kinds)))
    ]
    report.add_table(
        "gains",
        "Gain |nu| of the sampler at noise time 1 - t (eq. 63)",
        ["prediction", *(f"1-t={s:g}" for s in TABLE_NOISE_TIMES)],
        rows,
    )


def report_sampling(report: Report, schedules: Mapping[str, Schedule]) -> None:
    """Adds the distances of samples from the data in each way and dimension.

    Args:
      report: The report.
      schedules: "FM" and "VP".
    """
    num, num_draws = (128, 1) if report.quick else (256, 3)
    prior = uniform_noise_prior(128)
    found = {}
    for dim in DIMS:
        rng_plane, rng_start = jax.random.split(jax.random.key(report.seed))
        circles = make_circles(NUM_POINTS, dim, rng_plane)
        start = jax.random.normal(rng_start, (num_draws * num, dim))
        for name, way in WAYS.items():
            x = _walk(
                way, start, circles.points, schedules[way.process], prior, NUM_STEPS
            )
            distances = circle_distances(x, circles.frame)
            found[dim, name] = summarise(distances, num_draws)
    report.add_table(
        "sampling",
        f"Distance of samples from the two circles: {num_draws} x {num} samples from "
        f"N(0, I), {NUM_STEPS} steps, exact fields of {NUM_POINTS} points, prior of "
        "blind ones U[1e-3, 1]; DDIM steps for VP, Euler for FM, unless named",
        ["dim, model", "RMS", "sd of draws", "median", "p95", "within .05"]
        + ["on outer circle", "in-plane median", "in-plane within .05"],
        [[f"{dim}, {name}", *row.values()] for (dim, name), row in found.items()],
    )
    _find_failures(report, found)
    _find_successes(report, found)
    panels = [
        Panel(
            title,
            "dimensions",
            f"{title.lower()} (circle radii 1 and 0.5)",
            {
                name: (DIMS, [found[dim, name][key] for dim in DIMS])
                for name in _DRAWN_WAYS
            },
            log_x=True,
            log_y=True,
        )
        for title, key in (("RMS distance", "rms"), ("Median in-plane", "in_plane"))
    ]
    report.add_figure("sampling_errors", draw_panels(panels))


def _find_failures(
    report: Report, found: Mapping[tuple[int, str], Mapping[str, float]]
) -> None:
    velocity, noise = "blind velocity FM", "blind noise VP"

    def listed(name, key, dims=DIMS, form=".3g"):
        return ", ".join(f"{found[dim, name][key]:{form}}" for dim in dims)

    def is_clean(dim, name):
        return found[dim, name]["share"] >= _CLEAN_SHARE

    report.add_finding(
        "In 2 dimensions both blind models fail",
        verdict_of([not is_clean(2, velocity), not is_clean(2, noise)]),
        f"within .05 of a circle: velocity {found[2, velocity]['share']:.0%}, noise "
        f"{found[2, noise]['share']:.0%} (told noise "
        f"{found[2, 'told noise VP']['share']:.0%}); medians "
        f"{found[2, velocity]['median']:.2g} and {found[2, noise]['median']:.2g}",
    )
    middle = (8, 32)
    ratios = [found[d, noise]["rms"] / found[d, velocity]["rms"] for d in DIMS]
    report.add_finding(
        "In 8 and 32 dimensions blind velocity works, blind noise on VP does not",
        verdict_of(
            [
                all(is_clean(dim, velocity) for dim in middle),
                not any(is_clean(dim, noise) for dim in middle),
            ]
        ),
        f"RMS distance {listed(velocity, 'rms', middle)} (velocity) against "
        f"{listed(noise, 'rms', middle)} (noise); within .05 "
        f"{listed(velocity, 'share', middle, '.0%')} against "
        f"{listed(noise, 'share', middle, '.0%')}. Velocity is the better in every "
        f"dimension: RMS of noise over velocity "
        f"{', '.join(f'{r:.2f}' for r in ratios)} for {', '.join(map(str, DIMS))}; "
        "but neither is clean",
    )
    last = found[DIMS[-1], noise]
    report.add_finding(
        f"In {DIMS[-1]} dimensions blind noise on VP (DDPM) is clean too",
        verdict_of([last["share"] >= _CLEAN_SHARE, last["in_plane"] < 0.1]),
        f"in full space its RMS distance is {last['rms']:.3g}, the median "
        f"{last['median']:.3g}, and {last['share']:.0%} are within .05. Projected onto "
        f"the plane of the data, as in a picture, the median is {last['in_plane']:.2g} "
        f"(velocity: {found[DIMS[-1], velocity]['in_plane']:.2g})",
    )


def _find_successes(
    report: Report, found: Mapping[tuple[int, str], Mapping[str, float]]
) -> None:
    high = [dim for dim in DIMS if dim >= 8]
    names = ("blind equilibrium", "blind data VP")
    works = [found[d, name]["share"] >= _CLEAN_SHARE for name in names for d in high]
    fails = [found[2, name]["share"] < 0.05 for name in names]
    report.add_finding(
        "Blind equilibrium matching and data prediction work from 8 dimensions on",
        verdict_of([all(works), all(fails)]),
        "; ".join(
            f"{name}: RMS "
            + ", ".join(f"{found[dim, name]['rms']:.2g}" for dim in DIMS)
            + ", on the outer circle "
            + ", ".join(f"{found[dim, name]['outer']:.0%}" for dim in DIMS)
            for name in names
        )
        + f" in {', '.join(map(str, DIMS))} dimensions. In 2 they collapse onto a "
        "spurious fixed point between the circles",
    )
    residual = [found[dim, "blind velocity FM"]["rms"] for dim in DIMS]
    relative = [rms / dim**0.5 for rms, dim in zip(residual, DIMS, strict=True)]
    report.add_finding(
        "Blind velocity sampling becomes exact in high dimension",
        verdict_of(
            [residual[-1] < 0.5 * residual[1], relative[-1] < 0.5 * relative[1]]
        ),
        f"RMS distance {', '.join(f'{r:.3f}' for r in residual)} in "
        f"{', '.join(map(str, DIMS))} dimensions. Blind velocity is of constant "
        "length, and time runs out before half of the samples arrive: what is left is "
        "max(0, N(0, 1/2)), RMS 0.5 in any high dimension. Only beside the start, "
        f"sqrt(dim), does it vanish: {', '.join(f'{r:.3f}' for r in relative)}",
    )


def report_onset(report: Report, schedules: Mapping[str, Schedule]) -> None:
    """Adds the cost of blindness that sets in only below a noise level.

    Models see t until sigma / alpha falls below a level, and not from then on. If the
    gain near the data were the cause of failure, noise on VP would fail here too.

    Args:
      report: The report.
      schedules: "FM" and "VP".
    """
    num, num_steps = (128, 100) if report.quick else (512, 200)
    prior = uniform_noise_prior(128)
    rng_plane, rng_start = jax.random.split(jax.random.key(report.seed))
    circles = make_circles(NUM_POINTS, _ONSET_DIM, rng_plane)
    start = jax.random.normal(rng_start, (num, _ONSET_DIM))
    rows: list[list[Value]] = []
    costs = {}
    for name in _ONSET_WAYS:
        way = WAYS[name]
        schedule = schedules[way.process]
        for ratio in _ONSET_RATIOS:
            onset = schedule.time_of_signal_level(1.0 / (1.0 + ratio))
            # The first step that is blind starts at the next time of the grid.
            onset = jnp.ceil(onset * num_steps) / num_steps
            sigma = float(schedule.sigma(onset))
            x = _walk(way, start, circles.points, schedule, prior, num_steps, onset)
            found = summarise(circle_distances(x, circles.frame), 1)
            costs[name, ratio] = found["rms"] / sigma
            rows.append(
                [
                    f"{name}, {ratio:g}",
                    sigma,
                    found["rms"],
                    found["median"],
                    costs[name, ratio],
                ]
            )
    report.add_table(
        "onset",
        f"Told until sigma/alpha falls below a level, blind from there: distance from "
        f"the circles in {_ONSET_DIM} dimensions ({num} samples, {num_steps} steps)",
        ["model, sigma/alpha", "sigma", "RMS", "median", "RMS / sigma"],
        rows,
    )
    last = _ONSET_RATIOS[-1]
    noise, velocity = (
        costs[name, last] for name in ("blind noise VP", "blind velocity FM")
    )
    report.add_finding(
        "It is the gain near the data that makes blind noise on VP fail",
        verdict_of([noise > 2.0 * velocity]),
        f"blind only below sigma/alpha = {last:g}, its RMS distance is {noise:.2f} "
        f"sigma, that of velocity {velocity:.2f} sigma: what is left of the path is as "
        "short as the gain is large. What it loses more than velocity is lost at high "
        "noise, where an error is magnified by 1 / alpha: it costs "
        + ", ".join(f"{costs['blind noise VP', r]:.2f}" for r in _ONSET_RATIOS)
        + " sigma from sigma/alpha = "
        + ", ".join(f"{r:g}" for r in _ONSET_RATIOS),
    )


def draw_energy(report: Report, schedules: Mapping[str, Schedule]) -> None:
    """Draws the marginal energy in two dimensions, and paths of blind samples.

    Args:
      report: The report.
      schedules: "FM" and "VP".
    """
    side = 81 if report.quick else 161
    rng_plane, rng_start = jax.random.split(jax.random.key(report.seed))
    points = make_circles(NUM_POINTS, 2, rng_plane).points
    prior = uniform_noise_prior(128)
    axis = np.linspace(-1.6, 1.6, side)
    grid = jnp.stack(jnp.meshgrid(jnp.asarray(axis), jnp.asarray(axis)), axis=-1)

    def energy_of_row(row):
        return marginal_energy(row, points, schedules["FM"], prior)

    height = jax.jit(lambda rows: jax.lax.map(energy_of_row, rows))(grid)
    angles = jnp.linspace(0.0, 2.0 * jnp.pi, 9)[:-1] + 0.3
    radii = jnp.where(jnp.arange(8) % 2 == 0, 1.5, 0.25)
    start = radii[:, None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    paths = {}
    for name in _PATH_WAYS:
        way = WAYS[name]
        schedule = schedules[way.process]
        _, path = _walk(way, start, points, schedule, prior, NUM_STEPS, keep_every=1)
        paths[name] = np.asarray(path)
    ground = Landscape(
        axis, np.asarray(height), "marginal energy (nats)", np.asarray(points), "data"
    )
    report.add_figure("marginal_energy", draw_landscape(ground, paths))
