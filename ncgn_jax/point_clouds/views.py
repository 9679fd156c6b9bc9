"""Shows what the network of point clouds sees: graphs along a path, and attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs import MultiscaleGraph, NoiseBucket, bucket_index
from ncgn_jax.graphs.range_resolution import weight_of_supernodes
from ncgn_jax.models.graph_convolutions import edge_attention
from ncgn_jax.point_clouds.draw_path import DenoisingState
from ncgn_jax.point_clouds.model import PointCloudModel
from ncgn_jax.process import interpolate
from ncgn_jax.tasks.bucketed import BucketedTime
from ncgn_jax.tasks.level_errors import LevelProbe
from ncgn_jax.tasks.sampling import Sampling, cut_further, sample_chunks

Tree = Any
# Clouds and their classes, [cloud, point, 3] at unit variance and [cloud].
Labelled = tuple[jax.Array, jax.Array]
_NUM_SHOWN = 2
_NUM_TO_INFER = 100
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

    Path and attention share one compiled function per bucket, because compiling takes
    longer than all the rest.
    """

    def __init__(self, model: PointCloudModel, params: Tree, model_state: Tree):
        """Takes a model, its parameters and its batch statistics."""
        self.model = model
        self.attends = model.network_settings.convolution != "gcn"
        # Training leaves copies on all devices; one is enough here.
        variables = jax.device_get({"params": params, **model_state})
        self.variables = jax.tree.map(jnp.asarray, variables)
        self._compiled: dict[int, Any] = {}

    def __call__(
        self, bucket: int, x_t: jax.Array, t: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, MultiscaleGraph, jax.Array | None]:
        """Returns prediction, graphs, and attention of each edge, mean over layers.

        Args:
          bucket: The bucket of the graphs.
          x_t: Noisy clouds, [cloud, point, 3]; as many in every call.
          t: Times, [cloud].
          label: Classes, int32 [cloud].
        """
        if bucket not in self._compiled:
            self._compiled[bucket] = jax.jit(partial(self._run, bucket))
        return self._compiled[bucket](self.variables, x_t, t, label)

    def _run(self, bucket, variables, x_t, t, label):
        output, graph, sown = self.model.apply(
            variables, bucket, x_t, t, label, mutable=("intermediates",)
        )
        attention = None
        if self.attends:
            layers = sown["intermediates"].values()
            found = [edge_attention(a["attention"], graph) for a in layers]
            attention = sum(found[1:], found[0]) / len(found)
        return output, graph, attention


def denoising_states(
    view: NetworkView,
    params: Tree,
    model_state: Tree,
    label: np.ndarray,
    seed: int,
    sampling: Sampling,
) -> list[DenoisingState]:
    """Samples as the sampler did and keeps states of the first cloud's path.

    Args:
      view: The network, to show its graphs.
      params: The parameters that made the samples.
      model_state: Batch statistics.
      label: Class of every sample, int32 [cloud].
      seed: Seed of the samples.
      sampling: Settings of the samples.

    Returns:
      Where each stretch of the sampler begins and ends, from noise to data, with the
      graph of its bucket; moments in between too if there are few stretches.
    """
    model = view.model
    start = model.start(
        label, seed, next(sample_chunks(len(label), sampling.batch_size))
    )
    stretches = model.stretches(sampling)
    num_kept = max(2, -(-_MIN_STATES // len(stretches)))
    pieces = cut_further(stretches, num_kept - 1)
    x, states = start.x, []
    ends = {stretch.offset + len(stretch.times) - 1 for stretch in stretches}
    begins = {stretch.offset for stretch in stretches}
    for reached in model.walk(params, model_state, start, pieces, sampling):
        bucket, offset, times = reached.stretch
        moments = [(offset, float(times[0]), x)] if offset in begins else []
        x, step = reached.x, offset + len(times) - 1
        moments.append((step, reached.t, x))
        for number, t, state in moments:
            leaves = number in ends and state is x
            verb = "leaves" if leaves else "enters" if number == offset else "in"
            states.append(_state(view, bucket, state, t, start.given, verb))
    return states


def _state(
    view: NetworkView,
    bucket: int | None,
    x: np.ndarray,
    t: float,
    label: np.ndarray,
    verb: str,
) -> DenoisingState:
    """Shows the first cloud with its graph."""
    time = view.model.time
    if bucket is None:
        params = view.variables["params"]
        bucket = int(view.model.infer_bucket(params, jnp.asarray(x)))
    shown = slice(0, _NUM_SHOWN)
    clouds = jnp.resize(jnp.asarray(x[shown]), (_NUM_SHOWN, *x.shape[1:]))
    moments = jnp.full((_NUM_SHOWN,), t, jnp.float32)
    labels = jnp.resize(jnp.asarray(label[shown]), (_NUM_SHOWN,))
    graph = view(bucket, clouds, moments, labels)[1]
    verbs = f"{verb} bucket {bucket + 1} of {len(time.buckets)}"
    return state_of(
        graph, time.buckets[bucket], t, float(time.level(moments)[0]), verbs
    )


def state_of(
    graph: MultiscaleGraph, bucket: NoiseBucket, t: float, level: float, label: str
) -> DenoisingState:
    """Returns the first cloud of a graph, without empty supernodes and masked edges.

    Args:
      graph: Graphs of one bucket.
      bucket: The bucket.
      t: Time, 0 = noise, 1 = data.
      level: Signal level in [0, 1].
      label: Words above the picture.
    """
    points, nodes, edges = (
        slice(0, n) for n in (bucket.num_nodes, bucket.num_supernodes, bucket.num_edges)
    )
    occupied = np.asarray(graph.coarse.nodes["mask"][nodes])
    real = np.asarray(graph.coarse.edges["mask"][edges])
    place = np.cumsum(occupied) - 1
    return {
        "t": t,
        "signal_level": level,
        "points": np.asarray(graph.positions[points]),
        "supernode_positions": np.asarray(graph.supernode_positions[nodes])[occupied],
        "senders": place[np.asarray(graph.coarse.senders[edges])[real]],
        "receivers": place[np.asarray(graph.coarse.receivers[edges])[real]],
        "assignment": place[np.asarray(graph.assignment[points])],
        "label": label,
    }


def attention_by_level(
    view: NetworkView, clouds: Labelled, levels: Sequence[float]
) -> list[EdgeAttention]:
    """Measures attention against edge length on noisy clouds.

    Args:
      view: The network; it must attend.
      clouds: Clean clouds and their classes, of which a few are taken.
      levels: Signal levels in [0, 1].

    Returns:
      One measurement for each level.
    """
    time = view.model.time
    data, label = (part[:_NUM_SHOWN] for part in clouds)
    noise = _paired_noise(view.model, data)
    measured = []
    for level in levels:
        index = bucket_index(time.buckets, level)
        t = jnp.full(len(data), _time_of_level(time, level), jnp.float32)
        x_t = interpolate(time.schedule, t, data, noise)
        _, graph, weight = view(index, x_t, t, label)
        bucket = time.buckets[index]
        measured.append(_real_edges(bucket, graph, np.asarray(weight)))
    return measured


class InferredLevels(NamedTuple):
    """The levels that a blind model infers of noisy clouds.

    Attributes:
      level: True levels, [level].
      inferred: Inferred levels, [level, cloud].
      is_bucket_right: Whether the inferred level has the true level's bucket.
    """

    level: np.ndarray
    inferred: np.ndarray
    is_bucket_right: np.ndarray


def inferred_levels(
    model: PointCloudModel, params: Tree, clouds: Labelled
) -> InferredLevels:
    """Infers the level of clouds at 41 levels from noise to data.

    Args:
      model: A blind model.
      params: Its parameters.
      clouds: Clean clouds and their classes, of which at most 100 are taken.
    """
    data = clouds[0][:_NUM_TO_INFER]
    noise = _paired_noise(model, data)
    levels = np.linspace(0.0, 1.0, 41)

    @jax.jit
    def infer(t):
        x_t = interpolate(model.time.schedule, t, data, noise)
        return model.infer_level(params, x_t)

    times = [
        jnp.full(len(data), _time_of_level(model.time, level), jnp.float32)
        for level in levels
    ]
    inferred = np.stack([np.asarray(infer(t)) for t in times])
    lows = [bucket.low for bucket in model.time.buckets]
    buckets, true = (
        np.searchsorted(lows, values, side="right") for values in (inferred, levels)
    )
    return InferredLevels(levels, inferred, buckets == true[:, None])


def level_probe(view: NetworkView, clouds: Labelled) -> LevelProbe:
    """Returns the network with clouds to measure its errors by noise level.

    Args:
      view: The network.
      clouds: Clean clouds and their classes.
    """
    model, (data, label) = view.model, clouds
    buckets = model.time.buckets
    weights = [
        weight_of_supernodes(b.num_supernodes, b.num_nodes, model.graphs.num_neighbors)
        for b in buckets
    ]
    return LevelProbe(
        model.time,
        model.objective.target,
        data,
        _paired_noise(model, data),
        lambda bucket, x_t, t: view(bucket, x_t, t, label)[0],
        tuple(bucket.num_supernodes for bucket in buckets),
        tuple(weights),
    )


def _paired_noise(model: PointCloudModel, data: jax.Array) -> jax.Array:
    """Draws noise of clouds, paired with their points as in training.

    Args:
      model: The model.
      data: Clean clouds at unit variance, [cloud, point, 3].

    Returns:
      Noise, shape of `data`.
    """
    key = jax.random.key(_SEED)
    noise = jax.random.normal(key, data.shape)
    return model.pairing(data, noise, jax.random.split(key, len(data)))


def choose_clouds(
    clouds: np.ndarray, label: np.ndarray, scale: float, count: int
) -> Labelled:
    """Draws clouds at random, at unit variance.

    Args:
      clouds: Clouds, [cloud, point, 3].
      label: Their classes, [cloud].
      scale: Their standard deviation.
      count: Number of clouds; they repeat if there are fewer.
    """
    chosen = np.random.default_rng(_SEED).permutation(len(clouds))[:count]
    chosen = np.resize(chosen, count)
    data = jnp.asarray(clouds[chosen] / np.float32(scale))
    return data, jnp.asarray(label[chosen])


def _time_of_level(time: BucketedTime, level: float) -> float:
    if time.signal == "time":
        return level
    return float(time.schedule.time_of_signal_level(level))


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
