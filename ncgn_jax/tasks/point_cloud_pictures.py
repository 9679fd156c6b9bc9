"""The pictures of a point cloud run: samples, path, graphs, attention, loss.

Everything is drawn from what the task already knows (its buckets, its sampler, its
network), so that a picture shows the graphs that the network really used.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.graphs import (
    SCHEDULES,
    MultiscaleGraph,
    NoiseBucket,
    RangeResolution,
    bucket_index,
    build_graphs,
)
from ncgn_jax.graphs.range_resolution import num_supernodes_exact
from ncgn_jax.logs import read_metrics
from ncgn_jax.models.graph_convolutions import edge_attention
from ncgn_jax.pictures import (
    DenoisingState,
    draw_attention,
    draw_clouds,
    draw_denoising_path,
    draw_loss,
    draw_schedule,
    save_figure,
    write_interactive_clouds,
)
from ncgn_jax.process import (
    interpolate,
    make_denoiser,
    make_sampler_step,
    make_time_grid,
)
from ncgn_jax.tasks.bucketed import split_time_grid

# Levels at which attention is shown: every default bucket has one, the long first two.
ATTENTION_LEVELS = (0.1, 0.5, 0.8, 0.91, 0.98)
_NUM_CLOUDS = 4
_MAX_INTERACTIVE = 24
_SEED = 0


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
    look = Looker(task, params, model_state)
    figures = {
        "samples": draw_clouds(clouds, columns=8, rows=2),
        "denoising_path": draw_denoising_path(denoising_states(look), columns=4),
        "range_resolution": _range_and_resolution(task),
    }
    if look.attends:
        figures["attention"] = attention_by_level(look)
    else:
        _say_left_out("attention", "model.convolution=gcn has no attention")
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
    chosen = np.random.default_rng(_SEED).permutation(len(test))[:count]
    return {
        "generated": points[:_MAX_INTERACTIVE],
        f"test data: {task.dataset.name}": test[chosen],
    }


class Looker:
    """Runs the network on a few clouds and shows what it saw, bucket by bucket.

    Path and attention share one compiled function for each bucket, because compiling
    takes longer than all the rest.
    """

    def __init__(self, task: Any, params: Any, model_state: Any):
        """Keeps the task and the variables."""
        self.task = task
        self.attends = task.config.model.convolution != "gcn"
        self._variables = {"params": params, **model_state}
        self._compiled: dict[int, Any] = {}

    def __call__(
        self, bucket: int, x_t: jax.Array, t: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, MultiscaleGraph, jax.Array | None]:
        """Returns prediction, graphs, and attention of each edge, mean over layers.

        Args:
          bucket: Whose graphs.
          x_t: Noisy clouds, [cloud, point, 3]; as many in every call.
          t: Times, [cloud].
          label: Classes, int32 [cloud].
        """
        if bucket not in self._compiled:
            self._compiled[bucket] = jax.jit(partial(self._run, bucket))
        return self._compiled[bucket](self._variables, x_t, t, label)

    def _run(self, bucket, variables, x_t, t, label):
        task = self.task
        rng = jax.random.fold_in(
            jax.random.key(_SEED), (t[0] * 2**20).astype(jnp.int32)
        )
        graph = build_graphs(x_t, task.time.buckets[bucket], rng)
        output, sown = task.network().apply(
            variables,
            task._features(x_t, label),
            task.time.level(t),
            graph,
            mutable=["intermediates"],
        )
        attention = None
        if self.attends:
            layers = sown["intermediates"].values()
            attention = sum(edge_attention(a["attention"], graph) for a in layers)
            attention /= len(layers)
        return output.reshape(x_t.shape), graph, attention

    def denoiser(self, bucket: int, label: jax.Array):
        """Returns denoise(x_t, t) as the task's sampler has it."""
        task, sample = self.task, self.task.config.sample

        def predict(x_t, t):
            prediction = self(bucket, x_t, t, label)[0]
            if task.num_classes and sample.guidance:
                none = jnp.full_like(label, task.num_classes)
                free = self(bucket, x_t, t, none)[0]
                prediction = prediction + sample.guidance * (prediction - free)
            return prediction

        return make_denoiser(
            predict, task.config.process.target, task.time.schedule, sample.data_limit
        )


def denoising_states(look: Looker) -> list[DenoisingState]:
    """Samples a cloud; returns where each noise bucket begins and ends on its path.

    Args:
      look: The network to sample from, with the task's own sampler and time grid.

    Returns:
      Two states for each bucket that the sampler passes, from noise to data, each
      with that bucket's graph.
    """
    task, sample = look.task, look.task.config.sample
    step = make_sampler_step(sample.sampler)
    times = make_time_grid(sample.time_grid, sample.num_steps, task.time.schedule)
    x = jnp.asarray(task.prior_clouds(_NUM_CLOUDS, task.config.seed))
    label = jnp.zeros((_NUM_CLOUDS,), jnp.int32)
    states = []
    for bucket, offset, stretch in split_time_grid(task.time, np.asarray(times)):
        denoise = look.denoiser(bucket, label)
        moments = [jnp.full((_NUM_CLOUDS,), t, jnp.float32) for t in stretch]
        states.append(_state(look, bucket, x, moments[0], label, "enters"))
        for i, (t, t_next) in enumerate(zip(moments[:-1], moments[1:], strict=True)):
            rng = jax.random.fold_in(jax.random.key(_SEED), offset + i)
            x = step(denoise, task.time.schedule, x, t, t_next, rng).astype(x.dtype)
        states.append(_state(look, bucket, x, moments[-1], label, "leaves"))
    return states


def _state(
    look: Looker, bucket: int, x: jax.Array, t: jax.Array, label: jax.Array, verb: str
) -> DenoisingState:
    """The first cloud with its graph; empty supernodes and masked edges left out."""
    graph = look(bucket, x, t, label)[1]
    shape = look.task.time.buckets[bucket]
    points, nodes, edges = (
        slice(0, n) for n in (shape.num_nodes, shape.num_supernodes, shape.num_edges)
    )
    occupied = np.asarray(graph.coarse.nodes["mask"][nodes])
    real = np.asarray(graph.coarse.edges["mask"][edges])
    place = np.cumsum(occupied) - 1
    return {
        "t": float(t[0]),
        "signal_level": float(look.task.time.level(t)[0]),
        "points": np.asarray(graph.positions[points]),
        "supernode_positions": np.asarray(graph.supernode_positions[nodes])[occupied],
        "senders": place[np.asarray(graph.coarse.senders[edges])[real]],
        "receivers": place[np.asarray(graph.coarse.receivers[edges])[real]],
        "assignment": place[np.asarray(graph.assignment[points])],
        "label": f"{verb} bucket {bucket + 1} of {len(look.task.time.buckets)}",
    }


def attention_by_level(look: Looker) -> Figure:
    """Draws attention against edge length on noisy test clouds, level by level."""
    task = look.task
    test = task.dataset.test[:, : task.config.data.num_points]
    chosen = np.random.default_rng(_SEED).permutation(len(test))[:_NUM_CLOUDS]
    chosen = np.resize(chosen, _NUM_CLOUDS)
    data = jnp.asarray(test[chosen] / np.float32(task.dataset.scale))
    label = jnp.asarray(task.dataset.test_labels[chosen])
    noise = jax.random.normal(jax.random.key(_SEED), data.shape)
    measured, shapes = [], []
    for level in ATTENTION_LEVELS:
        index = bucket_index(task.time.buckets, level)
        t = jnp.full((_NUM_CLOUDS,), _time_of_level(task, level), jnp.float32)
        x_t = interpolate(task.time.schedule, t, data, noise)
        _, graph, weight = look(index, x_t, t, label)
        measured.append(_edges(graph, np.asarray(weight)))
        shapes.append(_shape(task.time.buckets[index]))
    distances, weights, degrees = zip(*measured, strict=True)
    return draw_attention(distances, weights, ATTENTION_LEVELS, shapes, degrees)


def _time_of_level(task: Any, level: float) -> float:
    if task.time.signal == "time":
        return level
    return float(task.time.schedule.time_of_signal_level(level))


def _shape(bucket: NoiseBucket) -> str:
    return f"{bucket.num_supernodes} supernodes, k = {bucket.num_neighbors}"


def _edges(
    graph: MultiscaleGraph, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns length and weight of the real edges, and the in-degree with self loop.

    Where supernodes differ in degree, weights are scaled so that attending to all
    alike gives 1 / (in-degree) for every edge.
    """
    real = np.asarray(graph.coarse.edges["mask"])
    receivers = np.asarray(graph.coarse.receivers)
    centres = np.asarray(graph.supernode_positions)
    gap = centres[np.asarray(graph.coarse.senders)] - centres[receivers]
    degree = np.bincount(receivers[real], minlength=len(centres)) + 1
    most = graph.blocks[0].num_neighbors + 1
    weight = weight * degree[receivers] / most
    return np.linalg.norm(gap, axis=-1)[real], weight[real], most


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
