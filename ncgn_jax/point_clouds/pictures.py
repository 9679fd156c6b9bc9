"""The pictures of a point cloud run: samples, path, graphs, attention, loss.

Everything is drawn from what the task already knows (its buckets, its sampler, its
network), so that a picture shows the graphs that the network really used.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.graphs import SCHEDULES, NoiseBucket, RangeResolution
from ncgn_jax.graphs.range_resolution import num_supernodes_exact
from ncgn_jax.pictures import (
    Panel,
    draw_attention,
    draw_clouds,
    draw_denoising_path,
    draw_loss,
    draw_panels,
    draw_schedule,
    save_figure,
    write_interactive_clouds,
)
from ncgn_jax.point_clouds.views import (
    NetworkView,
    attention_by_level,
    denoising_states,
    inferred_levels,
)
from ncgn_jax.run.logs import read_metrics

# Every bucket of the default schedule has a level, the long first one has two.
ATTENTION_LEVELS = (0.1, 0.5, 0.8, 0.91, 0.98)
_MAX_INTERACTIVE = 24


def draw_all(
    task: Any,
    params: Any,
    model_state: Any,
    samples: dict[str, np.ndarray],
    folder: Path,
) -> list[Path]:
    """Saves all pictures of a run.

    Args:
      task: A `PointCloudTask`.
      params: The parameters that made the samples.
      model_state: Batch statistics.
      samples: `points` [cloud, point, 3] in [-1, 1] and `label` [cloud].
      folder: Where to; the run's folder, with its metrics, is one above.

    Returns:
      The files written; a picture that cannot be made is left out and said so.
    """
    folder = Path(folder)
    clouds = _samples_and_data(task, samples["points"])
    view = NetworkView(task, params, model_state)
    figures = {
        "samples": draw_clouds(clouds, columns=8, rows=2),
        "denoising_path": _draw_path(view),
        "range_resolution": _range_and_resolution(task),
    }
    if view.attends:
        figures["attention"] = _draw_attention(view)
    else:
        _say_left_out("attention", "model.convolution=gcn has no attention")
    if task.is_blind:
        figures["noise_level"] = _draw_noise_level(task, params)
    losses = _losses(task, folder.parent)
    if losses is None:
        _say_left_out("loss", f"no losses in {folder.parent / 'metrics.csv'}")
    else:
        figures["loss"] = draw_loss(*losses, ylabel=_loss_name(task))
    paths = [
        save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()
    ]
    page = write_interactive_clouds(
        clouds,
        folder / "samples.html",
        title="Generated clouds and data",
        max_clouds=_MAX_INTERACTIVE,
    )
    return [*paths, page]


def _say_left_out(name: str, reason: str) -> None:
    print(f"pictures: {name}.png left out: {reason}", flush=True)


def _samples_and_data(task: Any, points: np.ndarray) -> dict[str, np.ndarray]:
    """Samples, and as many test clouds drawn at random (files are sorted by class)."""
    test = task.dataset.test[:, : task.config.data.num_points]
    count = min(len(points), len(test), _MAX_INTERACTIVE)
    chosen = np.random.default_rng(0).permutation(len(test))[:count]
    return {
        "generated": points[:_MAX_INTERACTIVE],
        f"test data: {task.dataset.name}": test[chosen],
    }


def _draw_path(view: NetworkView) -> Figure:
    states = denoising_states(view)
    # Even, so that a bucket's two states stay side by side.
    return draw_denoising_path(states, columns=4 if len(states) > 6 else None)


def _draw_attention(view: NetworkView) -> Figure:
    edges = attention_by_level(view, ATTENTION_LEVELS)
    return draw_attention(
        [found.distance for found in edges],
        [found.weight for found in edges],
        ATTENTION_LEVELS,
        labels=[_shape(found.bucket) for found in edges],
        num_neighbors=[found.bucket.num_neighbors + 1 for found in edges],
    )


def _draw_noise_level(task: Any, params: Any) -> Figure:
    """Draws inferred against true level, and how often the bucket is the right one."""
    found = inferred_levels(task, params)
    low, middle, high = np.quantile(found.inferred, (0.1, 0.5, 0.9), axis=1)
    bands = {"90 %": high, "median": middle, "10 %": low, "told": found.level}
    right = 100 * found.is_bucket_right.mean(axis=1)
    return draw_panels(
        [
            Panel(
                "Inferred noise level",
                "signal level",
                "inferred signal level",
                {name: (found.level, values) for name, values in bands.items()},
            ),
            Panel(
                "Graph chosen by it",
                "signal level",
                "clouds in the right bucket, %",
                {"test clouds": (found.level, right)},
            ),
        ]
    )


def _shape(bucket: NoiseBucket) -> str:
    return f"{bucket.num_supernodes} supernodes, k = {bucket.num_neighbors}"


def _range_and_resolution(task: Any) -> Figure:
    """Draws every schedule, with the run's own parameters, and the run's buckets."""
    dmp = task.config.dmp
    num_points, degree = task.config.data.num_points, dmp.num_neighbors
    levels = np.linspace(0.0, 1.0, 201)
    curves = {}
    for name in SCHEDULES:
        if name == "constant" or (name == "table" and dmp.schedule != "table"):
            continue
        schedule = RangeResolution(
            name, dmp.curvature, dmp.split, dmp.exponent, dmp.table
        )
        supernodes = np.asarray(
            [num_supernodes_exact(a, num_points, degree, schedule) for a in levels]
        )
        used = name == dmp.schedule and dmp.connectivity == "dmp"
        label = f"{name} (used)" if used else name
        curves[label] = (supernodes, degree * num_points / supernodes)
    buckets = task.time.buckets
    return draw_schedule(
        levels,
        curves,
        bucket_edges=[bucket.low for bucket in buckets[1:]],
        bucket_shapes=[(b.num_supernodes, b.num_neighbors) for b in buckets],
    )


def _losses(
    task: Any, workdir: Path
) -> tuple[list[int], dict[str, list[float]]] | None:
    """Returns steps and the loss of each bucket; None if nothing was logged."""
    series = read_metrics(workdir)
    steps = max((s for s, _ in series.values()), key=len, default=[])
    losses = {}
    for name, bucket in zip(task.bucket_names, task.time.buckets, strict=True):
        at, values = series.get(f"loss/{name}", ([], []))
        if at and at == steps:
            losses[_shape(bucket)] = values
    return (steps, losses) if losses else None


def _loss_name(task: Any) -> str:
    process = task.config.process
    weight = "" if process.loss_weight == "uniform" else f", {process.loss_weight}"
    return f"loss ({process.target}{weight})"
