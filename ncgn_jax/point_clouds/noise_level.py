"""Infers the signal level of a noisy cloud from the cloud itself.

A network without the noise level as input still needs it to choose a graph. In many
dimensions the sample determines the level (arXiv 2602.18428, section 4): noise
spreads the points, widens the gaps between near neighbours and makes every
neighbourhood round. `cloud_statistics` measures this, and `NoiseLevelHead` maps it to
the level.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.graphs.neighbors import nearest_neighbors

_NUM_NEIGHBORS = 14
_TINY = 1e-12


def cloud_statistics(clouds: jax.Array) -> jax.Array:
    """Measures clouds by numbers that do not depend on the order of points.

    They are the spread, the tail weight, the roundness of the cloud and of
    neighbourhoods of 14 points (on average), and the mean and deviation of distances
    to near neighbours, over the spread.

    Args:
      clouds: [cloud, point, dim], at least two points.

    Returns:
      [cloud, statistic], logarithms and ratios, all of order 1.
    """
    return jax.vmap(_statistics)(clouds)


class NoiseLevelHead(nn.Module):
    """Maps a cloud's statistics to its signal level.

    Attributes:
      width: Features of the two hidden layers.
    """

    width: int = 64

    @nn.compact
    def __call__(self, statistics: jax.Array) -> jax.Array:
        """Returns levels in (0, 1), [cloud], from [cloud, statistic]."""
        # Statistics vary by tenths while the level varies from 0 to 1.
        x = 4.0 * statistics
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.width)(x))
        return jax.nn.sigmoid(nn.Dense(1)(x)[:, 0])


def _statistics(points: jax.Array) -> jax.Array:
    points = points - jnp.mean(points, axis=0, keepdims=True)
    squares = jnp.sum(points**2, axis=1)
    spread = jnp.sqrt(jnp.mean(squares) + _TINY)
    tail = jnp.mean(squares**2) / (spread**4 + _TINY)
    senders, _ = nearest_neighbors(points, min(_NUM_NEIGHBORS, len(points) - 1))
    offsets = points[senders] - points[:, None, :]
    distances = jnp.sqrt(jnp.sum(offsets**2, axis=-1) + _TINY) / spread
    ranks = jnp.asarray([0, senders.shape[1] // 2, senders.shape[1] - 1])
    near = distances[:, ranks]
    local = jax.vmap(_roundness)(offsets)
    return jnp.concatenate(
        [
            jnp.stack([jnp.log(spread), tail]),
            _roundness(points),
            jnp.mean(local, axis=0),
            jnp.log(jnp.mean(near, axis=0)),
            jnp.log(jnp.std(near, axis=0) + 1e-6),
        ]
    )


def _roundness(offsets: jax.Array) -> jax.Array:
    """Returns tr C^2 / (tr C)^2 and tr C^3 / (tr C)^3, smallest for a ball."""
    offsets = offsets - jnp.mean(offsets, axis=0, keepdims=True)
    scatter = offsets.T @ offsets
    trace = jnp.trace(scatter) + _TINY
    square = scatter @ scatter
    second, third = jnp.trace(square), jnp.sum(square * scatter)
    return jnp.stack([second / trace**2, third / trace**3])
