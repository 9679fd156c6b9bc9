"""A plug-in with one of each kind: ncgn train --plugin=docs/examples/plugin.py ...

ncgn train --plugin=docs/examples/plugin.py --config=quickstart
    --config.model.network=local --config.train.optimizer=lion
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from ncgn_jax import plugins
from ncgn_jax.graphs import coarsen, sort_points, spread, unsort_points


@plugins.optimizer("lion")
def make_lion(rate, weight_decay):
    return optax.lion(rate, weight_decay=weight_decay)


class LocalNetwork(nn.Module):
    """Mixes every point with the mean of its cluster."""

    out_dim: int
    width: int

    @nn.compact
    def __call__(self, features, level, graph, *, train=False):
        told = level[graph.point_graph][:, None]
        x = jnp.concatenate([sort_points(features, graph), told], axis=-1)
        x = nn.Dense(self.width)(x)
        for _ in range(2):
            around = spread(coarsen(x, graph), graph)
            x = nn.gelu(nn.Dense(self.width)(jnp.concatenate([x, around], axis=-1)))
        return unsort_points(nn.Dense(self.out_dim)(x), graph)


@plugins.network("point_clouds", "local")
def make_local(settings, out_dim, axis_name):
    return LocalNetwork(out_dim, settings.width)


@plugins.measure("point_clouds", "height", title="height", digits=3)
def mean_height(samples, dataset):
    return np.ptp(samples["points"][..., 2], axis=1).mean()


@plugins.reader("point_clouds", ".pts")
def read_pts(path):
    """Reads clouds of equally many lines `x y z`, divided by empty lines."""
    blocks = path.read_text().strip().split("\n\n")
    return np.stack([np.loadtxt(block.splitlines()) for block in blocks])
