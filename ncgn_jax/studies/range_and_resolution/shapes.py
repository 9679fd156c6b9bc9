"""Measures range and resolution on shapes whose positions themselves are noisy.

It takes two questions of arXiv 2507.09391, section 3, to point clouds at unit variance:
the ranks of true neighbours among noisy ones (Proposition 3.3), and how much of a clean
point's variance the coarse graph of a noise level explains beyond the noisy point. The
graphs are those of Dynamic Message Passing, at its equal cost of s n = k N edges. The
predictor is the best *linear* one, a lower bound for networks.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ncgn_jax.graphs import (
    NoiseBucket,
    build_graphs,
    coarsen,
    nearest_neighbors,
    sort_points,
    spread,
    unsort_points,
)
from ncgn_jax.graphs.neighbors import squared_distances
from ncgn_jax.point_clouds.load import load_point_dataset
from ncgn_jax.process import interpolate, make_schedule

DIM, NUM_NODES, NUM_NEIGHBORS = 3, 400, 7
# N / s of 7.5 (the coarsest, s = sqrt(k N)), 6, 5, 4, 3, 2, 1.5 and 1 points.
SIZES = (53, 67, 80, 100, 134, 200, 267, 400)
NUM_MEAN_FEATURES = 3 * DIM
# Enough to solve with linearly dependent features.
_RIDGE = 1e-6
_CHUNK = 64  # clouds


class Clouds(NamedTuple):
    """Clean clouds at unit variance.

    Attributes:
      name: Name of the data set.
      train: Training clouds, float32 [cloud, node, 3].
      test: Held-out clouds, float32 [cloud, node, 3].
    """

    name: str
    train: np.ndarray
    test: np.ndarray


def load_clouds(num_train: int, num_test: int, num_points: int, seed: int) -> Clouds:
    """Loads clouds as the point-cloud task does without `data.path`.

    Args:
      num_train: Largest number of training clouds.
      num_test: Largest number of held-out clouds.
      num_points: Number N of points per cloud.
      seed: Seed of generated sets.
    """
    data = load_point_dataset(
        "auto", None, num_points, num_train=num_train, num_test=num_test, seed=seed
    )

    def take(clouds: np.ndarray, num_clouds: int) -> np.ndarray:
        # Real sets are sorted by category, so spread the choice over all of them.
        rows = np.linspace(0, len(clouds) - 1, min(num_clouds, len(clouds)))
        chosen = clouds[rows.round().astype(int), :num_points]
        return chosen / np.float32(data.scale)

    return Clouds(data.name, take(data.train, num_train), take(data.test, num_test))


@partial(jax.jit, static_argnames="num_neighbors")
def true_neighbor_ranks(
    clean: jax.Array, noisy: jax.Array, num_neighbors: int
) -> jax.Array:
    """Ranks each point's true nearest neighbours by their noisy distance.

    Args:
      clean: Clouds, [cloud, node, dim].
      noisy: The same points with noise, [cloud, node, dim].
      num_neighbors: Number k of true neighbours of each point.

    Returns:
      Rank in the noisy cloud of each true neighbour, 1 = nearest other point, int
      [cloud, node, k].
    """

    def rank(clean: jax.Array, noisy: jax.Array) -> jax.Array:
        senders, _ = nearest_neighbors(clean, num_neighbors)
        # The point itself has rank 0, so the ranks of the others start at 1.
        order = jnp.argsort(squared_distances(noisy), axis=1)
        return jnp.take_along_axis(jnp.argsort(order, axis=1), senders, axis=1)

    return jax.lax.map(lambda pair: rank(*pair), (clean, noisy))


def rank_that_finds(ranks: np.ndarray, share: float) -> int:
    """Returns the least rank at or below which a share of all neighbours lies."""
    ordered = np.sort(np.asarray(ranks).ravel())
    return int(ordered[math.ceil(share * len(ordered)) - 1])


def equal_cost_bucket(
    num_nodes: int, num_supernodes: int, num_neighbors: int
) -> NoiseBucket:
    """Returns the graph of s supernodes that spends k N edges, as DMP's buckets do.

    Args:
      num_nodes: Number N of points per graph.
      num_supernodes: Number s of supernodes.
      num_neighbors: Number k of neighbours on the full graph.
    """
    degree = math.ceil(num_neighbors * num_nodes / num_supernodes)
    return NoiseBucket(
        low=0.0,
        high=1.0,
        num_nodes=num_nodes,
        num_supernodes=num_supernodes,
        num_neighbors=min(num_supernodes - 1, degree),
        clustering="identity" if num_supernodes == num_nodes else "balanced",
    )


@partial(jax.jit, static_argnames="bucket")
def graph_features(noisy: jax.Array, bucket: NoiseBucket) -> jax.Array:
    """Returns the features of each point on the coarse graph of noisy clouds.

    Let p be the point's noisy position, m and V mean and covariance of all points in
    the clusters joined to its own. The features are p, the mean of its own cluster, m,
    the entries of V, and V (p - m), the part of the offset along the surroundings.

    Args:
      noisy: Noisy clouds, [cloud, node, 3].
      bucket: Static shape of their graphs.

    Returns:
      Features, [cloud, node, 18]; the first `NUM_MEAN_FEATURES` are the means.
    """
    graph = build_graphs(noisy, bucket)
    points = sort_points(noisy.reshape(-1, DIM), graph)
    squares = (points[:, :, None] * points[:, None, :]).reshape(-1, DIM**2)
    own = coarsen(jnp.concatenate([points, squares], axis=-1), graph)
    senders = graph.coarse.senders.reshape(-1, bucket.num_neighbors)
    told = jnp.concatenate([own[:, :DIM], own[senders].mean(axis=1)], axis=-1)
    told = unsort_points(spread(told, graph), graph).reshape(*noisy.shape[:2], -1)
    own_mean, mean, squares = jnp.split(told, (DIM, 2 * DIM), axis=-1)
    covariance = squares.reshape(*noisy.shape, DIM)
    covariance = covariance - mean[..., :, None] * mean[..., None, :]
    along = jnp.einsum("gnij,gnj->gni", covariance, noisy - mean)
    entries = covariance[..., *np.triu_indices(DIM)]
    return jnp.concatenate([noisy, own_mean, mean, entries, along], axis=-1)


def ridge_errors(
    features: np.ndarray | jax.Array, targets: np.ndarray | jax.Array, num_train: int
) -> np.ndarray:
    """Fits a linear predictor to some clouds and returns its errors on the others.

    Args:
      features: Features, [cloud, node, feature].
      targets: Targets, [cloud, node, dim].
      num_train: Number of clouds to fit, the first ones.

    Returns:
      Mean squared error per coordinate of each other cloud, [cloud].
    """
    inputs = np.asarray(features, float)
    rows = inputs[:num_train].reshape(-1, inputs.shape[-1])
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    rows = (rows - centre) / np.maximum(scale, 1e-9)
    wanted = np.asarray(targets[:num_train], float).reshape(len(rows), -1)
    gram = rows.T @ rows + _RIDGE * len(rows) * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, rows.T @ (wanted - wanted.mean(axis=0)))
    held_out = (inputs[num_train:] - centre) / np.maximum(scale, 1e-9)
    predicted = held_out @ weights + wanted.mean(axis=0)
    return ((predicted - targets[num_train:]) ** 2).mean(axis=(1, 2))


def explained_beyond(errors: np.ndarray, pointwise: np.ndarray) -> np.ndarray:
    """Returns 1 - mean error / mean error of the pointwise predictor.

    Args:
      errors: Errors on held-out clouds, [..., cloud].
      pointwise: Errors of the point alone, broadcasts with `errors`.

    Returns:
      Explained share of the pointwise predictor's error, [...].
    """
    return 1.0 - errors.mean(axis=-1) / pointwise.mean(axis=-1)


def explained_errors(errors: np.ndarray, pointwise: np.ndarray) -> np.ndarray:
    """Returns the standard error of `explained_beyond`, to first order, [...].

    Args:
      errors: Errors on held-out, independent clouds, [..., cloud].
      pointwise: Errors of the point alone, broadcasts with `errors`.
    """
    base = pointwise.mean(axis=-1)
    left = errors.mean(axis=-1) / base
    deviation = (errors - left[..., None] * pointwise).std(axis=-1)
    return deviation / base / math.sqrt(errors.shape[-1])


class Measured(NamedTuple):
    """Measurements on held-out clouds at each signal level.

    Attributes:
      ranks: Ranks of true neighbours among noisy ones, per level int [cloud, node, k].
      pointwise: Errors of the noisy point alone, [level, cloud].
      means: Errors with the means, [level, size, cloud].
      moments: Errors with means and second moments, [level, size, cloud].
    """

    ranks: list[np.ndarray]
    pointwise: np.ndarray
    means: np.ndarray
    moments: np.ndarray


def measure_clouds(
    clouds: Clouds,
    levels: Sequence[float],
    sizes: Sequence[int],
    num_neighbors: int,
    seed: int,
) -> Measured:
    """Measures range and resolution on clouds under one draw of noise.

    Args:
      clouds: Training and held-out clouds.
      levels: Signal levels of the linear schedule, where they equal t.
      sizes: Numbers of supernodes of the graphs, all of k N edges.
      num_neighbors: Number k of neighbours on the full graph.
      seed: Seed of the noise.
    """
    clean = jnp.asarray(np.concatenate([clouds.train, clouds.test]))
    num_train, num_nodes = clouds.train.shape[:2]
    noise = jax.random.normal(jax.random.key(seed), clean.shape, clean.dtype)
    schedule = make_schedule("linear")
    graphs = [equal_cost_bucket(num_nodes, s, num_neighbors) for s in sizes]
    ranks, pointwise, means, moments = [], [], [], []
    for level in levels:
        noisy = interpolate(schedule, level, clean, noise).astype(clean.dtype)
        ranks.append(
            np.asarray(
                true_neighbor_ranks(clean[num_train:], noisy[num_train:], num_neighbors)
            )
        )
        pointwise.append(ridge_errors(noisy, clean, num_train))
        features = [_features_in_chunks(noisy, bucket) for bucket in graphs]
        means.append(
            [
                ridge_errors(f[..., :NUM_MEAN_FEATURES], clean, num_train)
                for f in features
            ]
        )
        moments.append([ridge_errors(f, clean, num_train) for f in features])
    return Measured(ranks, np.array(pointwise), np.array(means), np.array(moments))


def _features_in_chunks(noisy: jax.Array, bucket: NoiseBucket) -> np.ndarray:
    """Computes `graph_features` of some clouds at a time, to save memory."""
    starts = range(0, len(noisy), _CHUNK)
    return np.concatenate(
        [graph_features(noisy[start : start + _CHUNK], bucket) for start in starts]
    )


def expected_squared_gap(
    t: ArrayLike, squared_distance: ArrayLike, dim: int
) -> np.ndarray:
    """Returns E|p_t - q_t|^2 of two noisy points (Proposition 3.3).

    It is alpha^2 |p - q|^2 + 2 dim sigma^2, on the linear schedule
    t^2 d^2 + 2 dim (1 - t)^2.

    Args:
      t: Times, 0 = noise, 1 = data.
      squared_distance: Squared distance of the clean points, broadcasts with t.
      dim: Dimension of the space.
    """
    alpha, sigma, _, _ = make_schedule("linear").coefficients(t)
    return np.asarray(alpha) ** 2 * squared_distance + 2 * dim * np.asarray(sigma) ** 2


def sampled_squared_gap(
    rng: jax.Array, t: float, distance: float, dim: int, num_draws: int
) -> tuple[float, float]:
    """Measures E|p_t - q_t|^2 on samples and returns it with its standard error."""
    pair = jnp.zeros((num_draws, 2, dim)).at[:, 1, 0].set(distance)
    noise = jax.random.normal(rng, pair.shape)
    noisy = interpolate(make_schedule("linear"), t, pair, noise)
    squares = np.asarray(jnp.sum((noisy[:, 0] - noisy[:, 1]) ** 2, axis=-1))
    return float(squares.mean()), float(squares.std() / math.sqrt(num_draws))
