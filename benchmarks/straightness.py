"""How straight the paths of trained runs of point clouds are, and how steep they start.

    python -m benchmarks.straightness NAME=RUN [NAME=RUN ...] [--num=32] [--steps=100]
        [--output=STEM] [--config.FIELD=VALUE ...]

Straight paths need few evaluations of the network. RUN is the folder of a run; runs of
one NAME are seeds of a variant. Per variant, on clouds drawn from the EMA weights:

- length: length of a point's path over the distance between its ends; 1 is straight
- turn: angle between the first and the last velocity, in degrees
- gain: largest singular value of the derivative of the velocity in x at t = 0. It is 1
  where noise and data are paired independently, since the velocity is the mean of the
  data minus x. It grows with the number of shapes that the noise tells apart.
- loss: mean squared error of the target on test clouds, over t

The figure shows speed along the path and loss by level. STEM.json gets all values,
STEM.png the figure.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, split_config_arguments
from ncgn_jax.domains import validate
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.generate import load_run, read_run_config
from ncgn_jax.metrics.summary import format_summary, summarise, write_summary
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.pictures import Panel, draw_panels, save_figure
from ncgn_jax.point_clouds.task import PointCloudTask
from ncgn_jax.process.steps import flow_velocity
from ncgn_jax.run.state import TrainState
from ncgn_jax.tasks.sampling import Sampling, cut_further

COLUMNS = (
    Column("length", "length", 1, 3, "path over distance of its ends; 1 is straight"),
    Column("turn", "turn", 1, 1, "angle of first and last velocity, degrees"),
    Column("gain", "gain", 1, 2, "of the velocity at t = 0"),
    Column("loss", "loss", 1, 4, "mean squared error of the target on test clouds"),
)
_NUM_LEVELS = 40
_POWER_STEPS = 30


class Measured(NamedTuple):
    """What is known of a run.

    Attributes:
      row: Its row of the table.
      errors: Times and errors of the target.
      speeds: Times and mean distances that points move, per time.
    """

    row: dict[str, float]
    errors: tuple[np.ndarray, np.ndarray]
    speeds: tuple[np.ndarray, np.ndarray]


def measure_path(states: np.ndarray) -> dict[str, float]:
    """Measures length and turn of paths.

    Args:
      states: Points from noise to data, [state, ..., dim], at least three.
    """
    moves = np.diff(np.asarray(states, np.float64), axis=0)
    lengths = np.linalg.norm(moves, axis=-1)
    whole = np.linalg.norm(moves.sum(axis=0), axis=-1)
    cosine = np.sum(moves[0] * moves[-1], axis=-1) / (lengths[0] * lengths[-1])
    return {
        "length": float(lengths.sum(axis=0).mean() / whole.mean()),
        "turn": float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).mean()),
    }


def largest_gain(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, num_steps: int
) -> jax.Array:
    """Returns the largest singular value of each row's derivative, [row].

    Args:
      function: A function of rows that do not see each other, shape of `x`.
      x: Where, [row, ...].
      num_steps: Steps of the power iteration.
    """
    axes = tuple(range(1, x.ndim))

    def size(rows):
        return jnp.sqrt(jnp.sum(rows**2, axis=axes, keepdims=True))

    _, transposed = jax.vjp(function, x)
    # The network has rules for the backward pass alone, whose own transpose is J.
    _, forward = jax.vjp(lambda moved: transposed(moved)[0], jnp.zeros_like(x))

    def advance(direction, _):
        (moved,) = forward(direction)
        (back,) = transposed(moved)
        return back / size(back), size(moved)

    start = jax.random.normal(jax.random.key(0), x.shape)
    _, gains = jax.lax.scan(advance, start / size(start), length=num_steps)
    return gains[-1].reshape(-1)


def measure(task: PointCloudTask, state: TrainState, num: int, steps: int) -> Measured:
    """Measures a run.

    Args:
      task: Its task.
      state: Its weights, of which the averaged ones are taken.
      num: Clouds.
      steps: Heun steps of the paths.
    """
    model, sampling = task.model, Sampling(num_steps=steps, batch_size=num)
    label = model.draw_labels(num, seed=0)
    start = model.start(label, 0, np.arange(num))
    pieces = cut_further(model.stretches(sampling), steps)
    walk = model.walk(state.ema, state.model_state, start, pieces, sampling)
    states = np.stack([start.x, *(reached.x for reached in walk)])
    variables = jax.device_get({"params": state.ema, **state.model_state})

    def predict(x_t, t, label):
        return model.apply(variables, 0, x_t, t, label)[0]

    denoise = model.denoiser(predict, jnp.asarray(label), 0.0, None)

    def velocity(x):
        return flow_velocity(denoise, model.time.schedule, x, jnp.zeros(len(x)))

    gain = jax.jit(partial(largest_gain, velocity, num_steps=_POWER_STEPS))
    probe = task.probe(state.ema, state.model_state, num)
    _, times = probe.even_levels(_NUM_LEVELS)
    errors = probe.errors(times.tolist())[1]
    row = {"seed": task.config.seed, **measure_path(states)} | {
        "gain": float(gain(jnp.asarray(start.x)).mean()),
        "loss": float(np.average(errors, weights=np.gradient(times))),
    }
    ends = np.concatenate([[0.0], [float(piece.times[-1]) for piece in pieces]])
    moved = np.linalg.norm(np.diff(states, axis=0), axis=-1).mean(axis=(1, 2))
    return Measured(row, (times, errors), (ends[1:], moved / np.diff(ends)))


def benchmark(
    variants: Mapping[str, Sequence[Path]],
    num: int,
    steps: int,
    output: Path | None,
    overrides: Sequence[str],
) -> dict[str, list[Row]]:
    """Measures, prints, draws and writes all variants.

    Args:
      variants: Folders of runs, one a seed, by the name of the variant.
      num: Clouds.
      steps: Heun steps of the paths.
      output: Path of the files without suffix; None for none.
      overrides: Fields to change.
    """
    measured: dict[str, list[Measured]] = {}
    for name, runs in variants.items():
        for run in runs:
            config = apply_overrides(read_run_config(run), overrides)
            validate(config, to_train=False)
            task, state = load_run(config, run)
            if not isinstance(task, PointCloudTask):
                raise ConfigError(
                    f"{run}: found a run of {config.task}; allowed: of point clouds"
                )
            found = measure(task, state, num, steps)
            measured.setdefault(name, []).append(found)
    rows = {name: [found.row for found in seeds] for name, seeds in measured.items()}
    caption = f"{num} clouds, {steps} Heun steps, EMA weights"
    print(format_summary(summarise(rows), {}, COLUMNS, caption), flush=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_summary(output, rows, {}, {"caption": caption}, {})
        save_figure(_draw(measured), output.with_suffix(".png"))
    return rows


def _draw(measured: Mapping[str, Sequence[Measured]]) -> Figure:
    def mean(name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
        seeds = [getattr(found, part) for found in measured[name]]
        return seeds[0][0], np.mean([values for _, values in seeds], axis=0)

    return draw_panels(
        [
            Panel(
                "Loss", "time t", "error of the velocity",
                {name: mean(name, "errors") for name in measured},
            ),
            Panel(
                "Speed along the path", "time t", "mean distance per time",
                {name: mean(name, "speeds") for name in measured},
            ),
        ]
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; expected errors become one message."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.straightness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--num", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path)
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        if path:
            raise ConfigError("--config is read from the runs; set fields of it only")
        variants: dict[str, list[Path]] = {}
        for given in options.runs:
            name, equals, run = given.partition("=")
            if not equals:
                raise ConfigError(f"found {given!r}; allowed: NAME=RUN")
            variants.setdefault(name, []).append(Path(run))
        benchmark(variants, options.num, options.steps, options.output, overrides)


if __name__ == "__main__":
    main()
