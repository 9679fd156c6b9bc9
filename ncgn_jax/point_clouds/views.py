"""What the network of a point cloud run sees: graphs along a path, and attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs import MultiscaleGraph, NoiseBucket, bucket_index
from ncgn_jax.models.graph_convolutions import edge_attention
from ncgn_jax.pictures import DenoisingState
from ncgn_jax.process import interpolate, make_sampler_step
from ncgn_jax.tasks.bucketed import split_time_grid
from ncgn_jax.tasks.settings import make_sample_times

_NUM_CLOUDS = 2
_NUM_CLOUDS_TO_INFER = 100
_MIN_STATES = 4
_SEED = 0


class EdgeAttention(NamedTuple):
    """Attention at one noise level.

    Attributes:
      bucket: The noise bucket of the level.
      distance: Length of each real edge, [edge].
      weight: Mean weight over layers, [edge]; scaled so that attending to all alike
        gives 1 / (num_neighbors + 1), also where supernodes have fewer neighbours.
    """

    bucket: NoiseBucket
    distance: np.ndarray
    weight: np.ndarray


class NetworkView:
    """Runs the network on a few clouds and shows what it saw, bucket by bucket.

    Path and attention share one compiled function for each bucket, because compiling
    takes longer than all the rest.
    """

    def __init__(self, task: Any, params: Any, model_state: Any):
        """Takes a `PointCloudTask`, parameters and batch statistics."""
        self.task = task
        self.attends = task.config.model.convolution != "gcn"
        # Training leaves copies on all devices; one is enough here.
        variables = jax.device_get({"params": params, **model_state})
        self._variables = jax.tree.map(jnp.asarray, variables)
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
        output, graph, sown = self.task.apply(
            variables, bucket, x_t, t, label, mutable=("intermediates",)
        )
        attention = None
        if self.attends:
            layers = sown["intermediates"].values()
            attention = sum(edge_attention(a["attention"], graph) for a in layers)
            attention /= len(layers)
        return output, graph, attention

    def denoiser(self, bucket: int, label: jax.Array):
        """Returns denoise(x_t, t) as the task's sampler has it."""
        return self.task.denoiser(partial(self, bucket), label)


def denoising_states(view: NetworkView) -> list[DenoisingState]:
    """Samples a cloud and keeps states of its path.

    Args:
      view: The network to sample from, with the task's own sampler and time grid.

    Returns:
      Where each bucket that the sampler passes begins and ends, from noise to data,
      with that bucket's graph; moments in between too if there are few buckets.
    """
    task, sample = view.task, view.task.config.sample
    step = make_sampler_step(sample.sampler)
    x = jnp.asarray(task.prior_clouds(_NUM_CLOUDS, task.config.seed))
    times = make_sample_times(task.config, task.time.schedule, x[0].size)
    label = jnp.zeros((_NUM_CLOUDS,), jnp.int32)
    stretches = split_time_grid(task.time, np.asarray(times))
    num_kept = max(2, -(-_MIN_STATES // len(stretches)))
    states = []
    for bucket, offset, stretch in stretches:
        denoise = view.denoiser(bucket, label)
        moments = [jnp.full((_NUM_CLOUDS,), t, jnp.float32) for t in stretch]
        kept = np.linspace(0, len(stretch) - 1, num_kept).round().astype(int)
        for i, t in enumerate(moments):
            if i > 0:
                rng = jax.random.fold_in(jax.random.key(_SEED), offset + i - 1)
                x = step(denoise, task.time.schedule, x, moments[i - 1], t, rng)
                x = x.astype(jnp.float32)
            if i in kept:
                verb = {0: "enters", len(stretch) - 1: "leaves"}.get(i, "in")
                states.append(_state(view, bucket, x, t, label, verb))
    return states


def _state(
    view: NetworkView,
    bucket: int,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    verb: str,
) -> DenoisingState:
    """The first cloud with its graph; empty supernodes and masked edges left out."""
    graph = view(bucket, x, t, label)[1]
    shape = view.task.time.buckets[bucket]
    points, nodes, edges = (
        slice(0, n) for n in (shape.num_nodes, shape.num_supernodes, shape.num_edges)
    )
    occupied = np.asarray(graph.coarse.nodes["mask"][nodes])
    real = np.asarray(graph.coarse.edges["mask"][edges])
    place = np.cumsum(occupied) - 1
    return {
        "t": float(t[0]),
        "signal_level": float(view.task.time.level(t)[0]),
        "points": np.asarray(graph.positions[points]),
        "supernode_positions": np.asarray(graph.supernode_positions[nodes])[occupied],
        "senders": place[np.asarray(graph.coarse.senders[edges])[real]],
        "receivers": place[np.asarray(graph.coarse.receivers[edges])[real]],
        "assignment": place[np.asarray(graph.assignment[points])],
        "label": f"{verb} bucket {bucket + 1} of {len(view.task.time.buckets)}",
    }


def attention_by_level(
    view: NetworkView, levels: Sequence[float]
) -> list[EdgeAttention]:
    """Measures attention against edge length on noisy test clouds.

    Args:
      view: The network; it must attend.
      levels: Signal levels in [0, 1].

    Returns:
      One measurement for each level.
    """
    task = view.task
    data, label = draw_test_clouds(task, _NUM_CLOUDS)
    noise = jax.random.normal(jax.random.key(_SEED), data.shape)
    measured = []
    for level in levels:
        index = bucket_index(task.time.buckets, level)
        t = jnp.full((_NUM_CLOUDS,), _time_of_level(task, level), jnp.float32)
        x_t = interpolate(task.time.schedule, t, data, noise)
        _, graph, weight = view(index, x_t, t, label)
        bucket = task.time.buckets[index]
        measured.append(_real_edges(bucket, graph, np.asarray(weight)))
    return measured


class InferredLevels(NamedTuple):
    """What a blind model infers of noisy test clouds.

    Attributes:
      level: True levels, [level].
      inferred: Inferred levels, [level, cloud].
      is_bucket_right: Whether the inferred level has the true level's bucket.
    """

    level: np.ndarray
    inferred: np.ndarray
    is_bucket_right: np.ndarray


def inferred_levels(task: Any, params: Any) -> InferredLevels:
    """Infers the level of test clouds at 41 levels from noise to data.

    Args:
      task: A `PointCloudTask` whose model is blind.
      params: Its parameters.
    """
    data, _ = draw_test_clouds(task, _NUM_CLOUDS_TO_INFER)
    noise = jax.random.normal(jax.random.key(_SEED), data.shape)
    levels = np.linspace(0.0, 1.0, 41)

    @jax.jit
    def infer(t):
        x_t = interpolate(task.time.schedule, t, data, noise)
        return task.infer_level(params, x_t)

    times = [
        jnp.full(len(data), _time_of_level(task, level), jnp.float32)
        for level in levels
    ]
    inferred = np.stack([np.asarray(infer(t)) for t in times])
    lows = [bucket.low for bucket in task.time.buckets]
    buckets, true = (
        np.searchsorted(lows, values, side="right") for values in (inferred, levels)
    )
    return InferredLevels(levels, inferred, buckets == true[:, None])


def draw_test_clouds(task: Any, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws test clouds.

    Args:
      task: A `PointCloudTask`.
      count: Number of clouds; they repeat if there are fewer.

    Returns:
      Clouds at unit variance, [cloud, point, 3], and their classes, [cloud].
    """
    test = task.dataset.test[:, : task.config.data.num_points]
    chosen = np.random.default_rng(_SEED).permutation(len(test))[:count]
    chosen = np.resize(chosen, count)
    data = jnp.asarray(test[chosen] / np.float32(task.dataset.scale))
    return data, jnp.asarray(task.dataset.test_labels[chosen])


def _time_of_level(task: Any, level: float) -> float:
    if task.time.signal == "time":
        return level
    return float(task.time.schedule.time_of_signal_level(level))


def _real_edges(
    bucket: NoiseBucket, graph: MultiscaleGraph, weight: np.ndarray
) -> EdgeAttention:
    real = np.asarray(graph.coarse.edges["mask"])
    senders = np.asarray(graph.coarse.senders)[real]
    receivers = np.asarray(graph.coarse.receivers)[real]
    centres = np.asarray(graph.supernode_positions)
    in_degree = np.bincount(receivers, minlength=len(centres)) + 1
    share = in_degree[receivers] / (bucket.num_neighbors + 1)
    distance = np.linalg.norm(centres[senders] - centres[receivers], axis=-1)
    return EdgeAttention(bucket, distance, weight[real] * share)
