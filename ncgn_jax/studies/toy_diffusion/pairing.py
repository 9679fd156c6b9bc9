"""Compares fresh noise with fixed noise per point, random or by transport.

Part of the study `toy_diffusion`. arXiv 2409.00374 concludes that noise serves to
cover the space, and that a deterministic process with an inverse would recover the
training data and still draw new points. `knothe` is such a process.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2, kstest

from ncgn_jax.process import Schedule, interpolate
from ncgn_jax.studies.report import Report, Value, verdict_of
from ncgn_jax.studies.toy_diffusion.exact import draw_mixture
from ncgn_jax.studies.toy_diffusion.knothe import (
    noised_jacobian,
    recover_data,
    to_data,
    to_noise,
)
from ncgn_jax.studies.toy_diffusion.learning import DATA_LIMIT, Lesson, sample_networks
from ncgn_jax.studies.toy_diffusion.networks import make_predict, train_networks
from ncgn_jax.studies.toy_diffusion.samples import (
    SCHEDULE_NAMES,
    make_toy_schedule,
    mean_measures,
    measure_samples,
)

FRESH, FROZEN, TRANSPORT = "fresh", "frozen random", "Knothe-Rosenblatt"
# A test of a true hypothesis fails once in a thousand times.
_LEAST_P = 1e-3


def study_transport_map(report: Report, lesson: Lesson) -> None:
    """Tests that the map reaches N(0, I) and that x_t can be inverted at every n."""
    mixture = lesson.mixture
    rng = jax.random.fold_in(lesson.rngs[0], 2)
    data = draw_mixture(mixture, rng, len(lesson.reference))
    noise = to_noise(mixture, data)
    columns = np.asarray(noise)
    p_values = {
        "T_1 as N(0, 1)": kstest(columns[:, 0], "norm").pvalue,
        "T_2 as N(0, 1)": kstest(columns[:, 1], "norm").pvalue,
        "(T_1 + T_2) / sqrt 2 as N(0, 1)": kstest(
            columns.sum(axis=1) / np.sqrt(2), "norm"
        ).pvalue,
        "|T|^2 as chi^2(2)": kstest((columns**2).sum(axis=1), chi2(2).cdf).pvalue,
    }
    report.add_finding(
        "Deterministic diffusion can cover the space (arXiv 2409.00374)",
        verdict_of([p > _LEAST_P for p in p_values.values()]),
        f"Kolmogorov-Smirnov p on {len(data)} fresh points: "
        + ", ".join(f"{name} {p:.2f}" for name, p in p_values.items()),
    )
    rows: list[list[Value]] = []
    checks, steepest, uppers, errors = [], [], [], []
    for name in SCHEDULE_NAMES:
        schedule = make_toy_schedule(name, lesson.num_steps)
        for n in np.linspace(0, lesson.num_steps, 5).astype(int):
            least, place, upper = slopes_on_grid(lesson, schedule, n)
            steepest.append((least, *place, n))
            t = jnp.full(len(data), schedule.time_of_step(n))
            x_t = interpolate(schedule, t, data, noise)
            back = recover_data(mixture, x_t, schedule.alpha(t), schedule.sigma(t))
            error = float(jnp.abs(back - data).max())
            rows.append([f"{n}, {name}", least, upper, error])
            uppers.append(upper)
            errors.append(error)
            checks.append(least > 0 and upper == 0 and error < 1e-9)
    report.add_table(
        "invertible",
        "x -> x_n = alpha x + sigma T(x): least own slope dx_n,j / dx_j and largest "
        f"|dx_n,1 / dx_2| on a grid of +-{DATA_LIMIT:g}, and largest error of x "
        f"recovered from x_n at {len(data)} points",
        ["n, schedule", "least slope", "above diagonal", "recovery error"],
        rows,
    )
    least, x_1, x_2, n = min(steepest)
    report.add_finding(
        "The Knothe-Rosenblatt process can be inverted at every n",
        verdict_of(checks),
        f"|dx_n,1 / dx_2| at most {max(uppers):g}, recovered within "
        f"{max(errors):.1e}, least slope {least:.1e}, at "
        f"({x_1:.1f}, {x_2:.1f}) for n = {n}: there the inverse that a "
        "network has to learn is as steep as one over that",
    )


def slopes_on_grid(
    lesson: Lesson, schedule: Schedule, n: int
) -> tuple[float, tuple[float, float], float]:
    """Measures the Jacobian of x -> x_n on a square grid of +-`DATA_LIMIT`.

    Returns:
      The least entry on the diagonal, its place, and the largest absolute entry above
      the diagonal.
    """
    side = np.linspace(-DATA_LIMIT, DATA_LIMIT, 55)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    t = jnp.full(len(grid), schedule.time_of_step(n))
    slopes = noised_jacobian(lesson.mixture, grid, schedule.alpha(t), schedule.sigma(t))
    own = np.minimum(slopes[:, 0, 0], slopes[:, 1, 1])
    x_1, x_2 = map(float, grid[own.argmin()])
    return float(own.min()), (x_1, x_2), float(jnp.abs(slopes[:, 0, 1]).max())


def study_pairings(report: Report, lesson: Lesson) -> None:
    """Trains data prediction with fresh noise, noise frozen at random, and T(x)."""
    mixture = lesson.mixture
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(lesson.rngs)
    frozen = jax.vmap(lambda key: jax.random.normal(key, lesson.data.shape[1:]))(keys)
    transported = jax.vmap(lambda x: to_noise(mixture, x))(lesson.data)
    noises = {FRESH: None, FROZEN: frozen, TRANSPORT: transported}
    rows = {}
    for name in SCHEDULE_NAMES:
        schedule = make_toy_schedule(name, lesson.num_steps)
        for pairing, noise in noises.items():
            params, history = train_networks(
                lesson.rngs, schedule, "data", lesson.data, noise, lesson.plan
            )
            last = 2 * history.shape[1] // lesson.plan.num_epochs
            shot, walked = (
                mean_measures(
                    sample_networks(lesson, params, schedule, "data", method)[0]
                )
                for method in ("one shot", "DDIM")
            )
            rows[pairing, name] = [
                float(history[:, -last:].mean()),
                shot.distance,
                shot.width,
                shot.stray,
                walked.distance,
                _recovery_error(
                    lesson, params, schedule, frozen if noise is None else noise
                ),
            ]
    exact = _exact_row(lesson, transported, keys[0])
    named = {", ".join(key): row for key, row in rows.items()}
    named["exact inverse"] = exact
    report.add_table(
        "pairings",
        f"Networks that predict the data, by the noise of each point "
        f"({lesson.describe()}; loss of the last two epochs; stray: share of samples "
        "far from all modes; recovered: root mean square distance of training points "
        "from their prediction at n = T)",
        ["noise, schedule", "loss", "SW2 one shot", "width", "stray", "SW2 DDIM"]
        + ["recovered"],
        [[name, *row] for name, row in named.items()],
    )
    _judge_pairings(report, rows, exact)


def _judge_pairings(
    report: Report, rows: Mapping[tuple[str, str], list[float]], exact: list[float]
) -> None:
    fresh, random, transport = (
        [rows[pairing, name] for name in SCHEDULE_NAMES]
        for pairing in (FRESH, FROZEN, TRANSPORT)
    )
    report.add_finding(
        "A deterministic process that can be inverted lets the exact predictor "
        "recover training points and draw new ones (arXiv 2409.00374, its wish)",
        verdict_of([exact[-1] < 1e-9, abs(exact[2] - 1) < 0.05]),
        f"recovered within {exact[-1]:.1e}; new points in one shot: SW2 "
        f"{exact[1]:.3f}, width {exact[2]:.3f} s",
    )
    pairs = list(zip(SCHEDULE_NAMES, fresh, transport, strict=True))
    report.add_finding(
        "The same process lets a network do so",
        verdict_of(
            [t[0] < 0.05 * f[0] for _, f, t in pairs]
            + [t[1] < 0.2 * f[1] for _, f, t in pairs]
            + [t[-1] < 0.05 * f[-1] for _, f, t in pairs]
        ),
        "; ".join(
            f"{name}: loss {t[0]:.4f} against {f[0]:.3f} with fresh noise, one-shot "
            f"SW2 {t[1]:.3f} against {f[1]:.2f}, recovered within {t[-1]:.2f} against "
            f"{f[-1]:.2f}"
            for name, f, t in pairs
        )
        + "; asked for: loss and distance below 1/20, SW2 below 1/5",
    )
    pairs = list(zip(SCHEDULE_NAMES, fresh, random, strict=True))
    report.add_finding(
        "Noise frozen at random, one for each point, helps as well",
        verdict_of([r[0] < 0.9 * f[0] for _, f, r in pairs]),
        "; ".join(
            f"{name}: loss {r[0]:.3f} against {f[0]:.3f}, one-shot SW2 {r[1]:.2f} "
            f"against {f[1]:.2f}"
            for name, f, r in pairs
        )
        + "; asked for: a tenth less loss. To a small network arbitrary pairs are as "
        "good as chance",
    )


def _exact_row(lesson: Lesson, transported: jax.Array, rng: jax.Array) -> list[float]:
    """Returns the row of the exact predictor, whose single prediction is T^-1."""
    mixture, shape = lesson.mixture, (lesson.num_samples, 2)
    shot = measure_samples(
        mixture, to_data(mixture, jax.random.normal(rng, shape)), lesson.reference
    )
    gap = to_data(mixture, transported[0]) - lesson.data[0]
    error = float(jnp.sqrt(jnp.mean(jnp.sum(gap**2, axis=1))))
    # The mean over n is below the loss at n = T, where the inverse is steepest.
    loss = error**2 / 2
    return [loss, shot.distance, shot.width, shot.stray, shot.distance, error]


def _recovery_error(
    lesson: Lesson, params: Any, schedule: Schedule, noise: jax.Array
) -> float:
    """Returns the RMS distance of data from its prediction at n = T, over seeds."""
    t = jnp.zeros(lesson.data.shape[1])

    def error(params, data, noise):
        found = make_predict(params)(interpolate(schedule, t, data, noise), t)
        return jnp.mean(jnp.sum((found - data) ** 2, axis=1))

    return float(jnp.sqrt(jnp.mean(jax.vmap(error)(params, lesson.data, noise))))
