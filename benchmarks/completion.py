"""Completion of held-out shapes: what half of the points says of the other half.

    python -m benchmarks.completion [--model=shapes] [--num=64] [--steps=25]
        [--picture=completion.png] [--config.data.path=PATH ...]

Half of the points of each held-out shape are given: those on one side of its middle
along x or y (`cut`; axis and side are drawn), or any half (`random`). The table has the
Chamfer distance (squared, times 1000, in the units of the training clouds) from the
other half to what stands in its place:

- completed: by the model, told class, center and extent of the shape
- completed alone: told the class; center and extent are those of the given part
- unconditional: a sample of the same class
- nearest training: the training shape of the class whose points lie nearest to those
  given
- mirrored: the given points, on the other side of the middle (for `random`, as they
  are)
- another draw: a floor; the two halves of the hidden points, which are half as many

Of a whole shape the points beyond the cut stand in place of the hidden half, and for
`random` all of its points.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, config_from_json, split_config_arguments
from ncgn_jax.domains import complete_config, make_task
from ncgn_jax.faults import ConfigError, one_line_errors
from ncgn_jax.loading import load
from ncgn_jax.metrics.table import Column, Row, format_table
from ncgn_jax.pictures.output import save_figure
from ncgn_jax.point_clouds.distances import chamfer_matrix, one_way_distances
from ncgn_jax.point_clouds.draw_clouds import draw_clouds
from ncgn_jax.point_clouds.sets import PointDataset
from ncgn_jax.point_clouds.trained import TrainedClouds

COLUMNS = (
    Column("cut_median", "cut, median", 1000, 2, "one side given, median shape"),
    Column("cut_mean", "cut, mean", 1000, 2, "one side given, mean of the shapes"),
    Column("random_median", "random, median", 1000, 2, "any half given, median shape"),
    Column("random_mean", "random, mean", 1000, 2, "any half given, mean"),
)
_MOST_DRAWN = 8


class Halves(NamedTuple):
    """A shape in two halves.

    Attributes:
      given: Given points, [point, 3].
      hidden: The others, [point, 3].
      beyond: Takes the points of a whole shape that stand in place of the others.
      mirrored: Given points where the others may be expected.
    """

    given: np.ndarray
    hidden: np.ndarray
    beyond: Callable[[np.ndarray], np.ndarray]
    mirrored: np.ndarray


def cut(cloud: np.ndarray, rng: np.random.Generator) -> Halves:
    """Gives the half of the points on one side of the middle along x or y."""
    axis, side = int(rng.integers(2)), rng.choice([-1.0, 1.0])
    order = np.argsort(side * cloud[:, axis], kind="stable")
    half = len(cloud) // 2
    given, hidden = cloud[order[:half]], cloud[order[half:]]
    edge = side * hidden[0, axis]

    def beyond(points: np.ndarray) -> np.ndarray:
        kept = points[side * points[:, axis] >= edge]
        # A shape that does not reach there is as far as its last point.
        return kept if len(kept) else points[[np.argmax(side * points[:, axis])]]

    flip = np.ones(3)
    flip[axis] = -1
    return Halves(given, hidden, beyond, given * flip)


def thin(cloud: np.ndarray, rng: np.random.Generator) -> Halves:
    """Gives any half of the points."""
    order, half = rng.permutation(len(cloud)), len(cloud) // 2
    given, hidden = cloud[order[:half]], cloud[order[half:]]
    return Halves(given, hidden, lambda points: points, given)


def measure(
    model: TrainedClouds, data: PointDataset, num: int, steps: int | None
) -> tuple[dict[str, Row], dict[str, np.ndarray]]:
    """Completes shapes; returns the table's rows, and some clouds by row.

    Args:
      model: The model.
      data: Its data; shapes are taken from the test set.
      num: Shapes.
      steps: Sampler steps; None for those of the model.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(data.test))[:num]
    errors: dict[str, dict[str, list[float]]] = {}
    drawn: dict[str, list[np.ndarray]] = {}
    for way, divide in (("cut", cut), ("random", thin)):
        for number in chosen:
            cloud, label = data.test[number], int(data.test_labels[number])
            halves = divide(cloud, rng)
            told = label if model.class_names else None
            whole = _candidates(model, data, halves, label, told, steps, int(number))
            places = {name: halves.beyond(points) for name, points in whole.items()}
            places["mirrored"] = halves.mirrored
            for name, points in places.items():
                error = chamfer_matrix(halves.hidden[None], points[None])[0, 0]
                errors.setdefault(name, {}).setdefault(way, []).append(error)
            parts = np.array_split(rng.permutation(halves.hidden), 2)
            error = chamfer_matrix(parts[0][None], parts[1][None])[0, 0]
            errors.setdefault("another draw", {}).setdefault(way, []).append(error)
            if way == "cut" and len(drawn.get("held out", ())) < _MOST_DRAWN:
                shown = {"held out": cloud, "given": halves.given, **whole}
                for name, points in shown.items():
                    drawn.setdefault(name, []).append(_filled(points, len(cloud)))
    rows = {
        name: {
            f"{way}_{word}": float(take(values))
            for way, values in by_way.items()
            for word, take in (("median", np.median), ("mean", np.mean))
        }
        for name, by_way in errors.items()
    }
    return rows, {name: np.stack(clouds) for name, clouds in drawn.items()}


def _candidates(
    model: TrainedClouds,
    data: PointDataset,
    halves: Halves,
    label: int,
    told: int | None,
    steps: int | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Returns whole shapes, some of which is to stand in place of the hidden half.

    Training clouds have center 0 and extent 1, so the truth about a pose is that.
    """
    given, num_points = halves.given, len(halves.given) + len(halves.hidden)
    settings = {"num_points": num_points, "label": told, "steps": steps, "seed": seed}
    pose = {"center": (0.0, 0.0, 0.0), "extent": 1.0}
    same = data.train[data.train_labels == label][:, :num_points]
    return {
        "completed": model.complete(given, **pose, **settings).points[0],
        "completed alone": model.complete(given, **settings).points[0],
        "unconditional": model.sample(1, **settings).points[0],
        "nearest training": same[int(np.argmin(one_way_distances(given, same)))],
    }


def _filled(points: np.ndarray, num: int) -> np.ndarray:
    """Repeats points, because drawn rows have clouds of one size."""
    return np.resize(points, (num, 3))


def benchmark(
    name: str, num: int, steps: int | None, picture: Path | None, fields: list[str]
) -> dict[str, Row]:
    """Completes, prints the table and draws the first shapes.

    Args:
      name: What `ncgn_jax.load` loads.
      num: Held-out shapes.
      steps: Sampler steps; None for those of the model.
      picture: File of the picture; None for none.
      fields: Fields of the model's configuration to change, such as where data lie.

    Returns:
      Rows of the table.

    Raises:
      ConfigError: If it is no model of point clouds.
    """
    model = load(name)
    if not isinstance(model, TrainedClouds):
        raise ConfigError(f"{name} is a model of {model.domain}, not of point_clouds")
    stored = complete_config(*config_from_json(json.dumps(model.about.config)))
    task = make_task(apply_overrides(stored, fields))
    data: PointDataset = task.dataset
    began = time.perf_counter()
    rows, drawn = measure(model, data, num, steps)
    steps = steps or model.sampling.num_steps
    caption = (
        f"{name}, {num} held-out shapes of {data.name}, {data.test.shape[1]} points; "
        f"{steps} {model.sampling.sampler} steps; "
        f"{time.perf_counter() - began:.0f} s; {parallel.device_kind()}"
    )
    print(format_table(rows, COLUMNS, caption), flush=True)
    if picture is not None:
        count = len(drawn["given"])
        print(f"wrote {save_figure(draw_clouds(drawn, count, 1), picture)}")
    return rows


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; expected errors become one message."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.completion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--picture", type=Path)
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        if path:
            raise ConfigError("--config is read from --model; set fields of it only")
        benchmark(
            options.model, options.num, options.steps, options.picture, list(overrides)
        )


if __name__ == "__main__":
    main()
