"""Draws a point cloud run: samples, path, graphs, attention, loss.

Everything comes from the model itself (its buckets, its sampler, its network), so that
a picture shows the graphs that the network really used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.graphs import RANGE_SCHEDULES, NoiseBucket, RangeResolution
from ncgn_jax.graphs.range_resolution import num_supernodes_exact
from ncgn_jax.pictures import Panel, draw_loss, draw_panels, draw_schedule, save_figure
from ncgn_jax.point_clouds.draw_attention import draw_attention
from ncgn_jax.point_clouds.draw_clouds import draw_clouds
from ncgn_jax.point_clouds.draw_page import write_interactive_clouds
from ncgn_jax.point_clouds.draw_path import draw_denoising_path
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.point_clouds.sets import PointDataset
from ncgn_jax.point_clouds.views import (
    Labelled,
    NetworkView,
    attention_by_level,
    choose_clouds,
    denoising_states,
    inferred_levels,
)
from ncgn_jax.run.logs import read_metrics
from ncgn_jax.tasks.bucketed import bucket_names
from ncgn_jax.tasks.sampling import Sampling

Tree = Any
# Every bucket of the default schedule has a level, the long first one has two.
ATTENTION_LEVELS = (0.1, 0.5, 0.8, 0.91, 0.98)
_MAX_INTERACTIVE = 24
_NUM_TEST_CLOUDS = 100


def draw_all(
    model: PointCloudModel,
    params: Tree,
    model_state: Tree,
    samples: Mapping[str, np.ndarray],
    dataset: PointDataset | None,
    sampling: Sampling,
    seed: int,
    folder: Path,
) -> list[Path]:
    """Saves all pictures of a run.

    Args:
      model: The model.
      params: The parameters that made the samples.
      model_state: Batch statistics.
      samples: `points` [cloud, point, 3] as the model sees them, and `label`.
      dataset: The data, likewise, for clouds beside the samples; None to go without.
      sampling: Settings of the samples.
      seed: Seed of the samples.
      folder: Where to; the run's folder, with its metrics, is one above.

    Returns:
      The files written; a picture that cannot be made is left out, with a line on it.
    """
    generated = "generated"
    if model.num_classes:
        generated += f", guidance {sampling.guidance:g}"
    clouds = {generated: samples["points"][:_MAX_INTERACTIVE]}
    names, words = model.facts.class_names, {}
    if model.num_classes:
        words[generated] = [names[i] for i in samples["label"][:_MAX_INTERACTIVE]]
    some = None
    if dataset is not None:
        test, scale = dataset.test[:, : model.num_points], model.facts.scale
        chosen, data = _choose(test, len(clouds[generated])), _data_name(dataset)
        clouds[data] = test[chosen]
        if names:
            words[data] = [names[i] for i in dataset.test_labels[chosen]]
        some = choose_clouds(test, dataset.test_labels, scale, _NUM_TEST_CLOUDS)
    view = NetworkView(model, params, model_state)
    states = denoising_states(
        view, params, model_state, samples["label"], seed, sampling
    )
    # Even, so that a bucket's two states stay side by side.
    path = draw_denoising_path(states, columns=4 if len(states) > 6 else None)
    figures = {
        "samples": draw_clouds(clouds, columns=8, rows=2),
        "denoising_path": path,
        "range_resolution": _range_and_resolution(model),
    }
    if not view.attends:
        _say_left_out("attention", "model.convolution=gcn has no attention")
    elif some is not None:
        figures["attention"] = _draw_attention(view, some)
    if model.is_blind and some is not None:
        figures["noise_level"] = _draw_noise_level(model, params, some)
    losses = _losses(model, folder.parent)
    if losses is None:
        _say_left_out("loss", f"no losses in {folder.parent / 'metrics.csv'}")
    else:
        figures["loss"] = draw_loss(*losses, ylabel=_loss_name(model))
    paths = [
        save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()
    ]
    page = write_interactive_clouds(
        clouds,
        folder / "samples.html",
        title="Generated clouds and data",
        max_clouds=_MAX_INTERACTIVE,
        captions=words,
    )
    return [*paths, page]


def _say_left_out(name: str, reason: str) -> None:
    print(f"pictures: {name}.png left out: {reason}", flush=True)


def _choose(test: np.ndarray, count: int) -> np.ndarray:
    """Chooses some test clouds at random, because files are sorted by class."""
    return np.random.default_rng(0).permutation(len(test))[:count]


def _data_name(dataset: PointDataset) -> str:
    return f"test data: {dataset.name}"


def _draw_attention(view: NetworkView, clouds: Labelled) -> Figure:
    edges = attention_by_level(view, clouds, ATTENTION_LEVELS)
    return draw_attention(
        [found.distance for found in edges],
        [found.weight for found in edges],
        ATTENTION_LEVELS,
        labels=[_shape(found.bucket) for found in edges],
        num_neighbors=[found.bucket.num_neighbors + 1 for found in edges],
        unit="data have standard deviation 1",
    )


def _draw_noise_level(model: PointCloudModel, params: Tree, clouds: Labelled) -> Figure:
    """Draws inferred against true level, and how often the bucket is the right one."""
    found = inferred_levels(model, params, clouds)
    low, middle, high = np.quantile(found.inferred, (0.1, 0.5, 0.9), axis=1)
    bands = {"90 %": high, "median": middle, "10 %": low, "true": found.level}
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


def _range_and_resolution(model: PointCloudModel) -> Figure:
    """Draws every schedule, with the run's own parameters, and the run's buckets."""
    graphs, own = model.graphs, model.graphs.schedule
    num_points, degree = model.num_points, graphs.num_neighbors
    levels = np.linspace(0.0, 1.0, 201)
    curves = {}
    for name in RANGE_SCHEDULES:
        if name == "constant" or (name == "table" and own.name != "table"):
            continue
        schedule = RangeResolution(
            name, own.curvature, own.split, own.exponent, own.table
        )
        supernodes = np.asarray(
            [num_supernodes_exact(a, num_points, degree, schedule) for a in levels]
        )
        used = name == own.name and graphs.connectivity == "dmp"
        label = f"{name} (used)" if used else name
        curves[label] = (supernodes, degree * num_points / supernodes)
    buckets = model.time.buckets
    return draw_schedule(
        levels,
        curves,
        bucket_edges=[bucket.low for bucket in buckets[1:]],
        bucket_shapes=[(b.num_supernodes, b.num_neighbors) for b in buckets],
    )


def _losses(
    model: PointCloudModel, workdir: Path
) -> tuple[list[int], dict[str, list[float]]] | None:
    """Returns steps and the loss of each bucket; None if nothing was logged."""
    series = read_metrics(workdir)
    steps = max((s for s, _ in series.values()), key=len, default=[])
    losses, buckets = {}, model.time.buckets
    names = bucket_names(buckets)
    for name, bucket in zip(names, buckets, strict=True):
        at, values = series.get(f"loss/{name}", ([], []))
        if at and at == steps:
            losses[_shape(bucket)] = values
    return (steps, losses) if losses else None


def _loss_name(model: PointCloudModel) -> str:
    target, weight = model.objective
    return f"loss ({target}{'' if weight == 'uniform' else f', {weight}'})"
