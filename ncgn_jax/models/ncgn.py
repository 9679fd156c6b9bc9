"""The Noise-Conditioned Graph Network (Pao-Huang et al. 2025, arXiv 2507.09391).

Points keep features x at full resolution; supernodes carry y. Each layer pulls y
from the members of each cluster, passes messages among supernodes, spreads y back to
the points and gates it into x. The graphs come from `ncgn_jax.graphs`, so one set of
weights serves every noise bucket.

Published messages are lin_combine([lin_x([receiver, sender]), lin_pos(dp),
lin_edge(e)]) with nothing non-linear between the inner and the outer linear map. They
fold into one product, whose supernode half is computed per supernode and not per
point: same function, about 2.5 times fewer multiply-adds (`GeometricMessage`).

While training on so many points that the results of all layers would take more than
2 GiB, the backward pass keeps only what enters each layer and computes the rest again,
layer by layer: the same numbers in a third of the memory.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.graphs import (
    MultiscaleGraph,
    coarsen,
    sort_points,
    spread,
    unsort_points,
)
from ncgn_jax.models.graph_convolutions import make_convolution
from ncgn_jax.models.layers import MLP, Norm, exact_gelu, safe_norm

# Arrays [point, width] that the backward pass of a layer reads, and how many numbers
# those of all layers may have before each layer is computed again instead.
_KEPT_PER_LAYER = 30
_KEPT_UP_TO = 2**29


class GeometricMessage(nn.Module):
    """Messages between points and their supernode, one per point.

    m_p = MLP_2(W_x x_p + W_y y_c(p) + W_g [offset, |offset|, level] + b), the folded
    form of the published message; offset runs from the sender to the receiver.

    Attributes:
      width: Features of the message.
      norm: See `layers.Norm`; the two layers have a norm each.
      axis_name: See `layers.Norm`.
    """

    width: int
    norm: str
    axis_name: str | None

    @nn.compact
    def __call__(
        self,
        points: jax.Array,
        supernodes: jax.Array,
        geometry: jax.Array,
        graph: MultiscaleGraph,
        *,
        train: bool,
    ) -> jax.Array:
        """Returns messages [point, width].

        Args:
          points: Point features x, [point, f].
          supernodes: Supernode features y, [supernode, f].
          geometry: Offset, its length and the level, [point, dim + 2].
          graph: Which point belongs to which supernode.
          train: Whether batch norm uses the batch's statistics.
        """
        per_point = nn.Dense(self.width, name="point")(points)
        per_point += nn.Dense(self.width, use_bias=False, name="geometry")(geometry)
        per_supernode = nn.Dense(self.width, use_bias=False, name="supernode")(
            supernodes
        )
        values = per_point + spread(per_supernode, graph)
        norm = Norm(self.norm, self.axis_name, name="norm_0")
        values = jax.nn.relu(norm(values, train=train, mask=graph.point_mask))
        values = nn.Dense(self.width, name="dense_1")(values)
        norm = Norm(self.norm, self.axis_name, name="norm_1")
        return jax.nn.relu(norm(values, train=train, mask=graph.point_mask))


class NCGN(nn.Module):
    """A network on multiscale graphs of any noise bucket.

    Attributes:
      out_dim: Features predicted for each point.
      width: Hidden features, H.
      num_layers: Rounds of coarsen, pass messages, spread, L.
      convolution: Message passing among supernodes, see `graph_convolutions`.
      norm: `batch` as published, `layer`, or `none`.
      axis_name: Device axis for batch statistics, None outside pmap.
    """

    out_dim: int
    width: int = 64
    num_layers: int = 3
    convolution: str = "gat"
    norm: str = "layer"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        level: jax.Array,
        graph: MultiscaleGraph,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predicts [point, out_dim] in the caller's point order.

        Args:
          features: Inputs of each point without the noise level, [point, f], in the
            caller's order: positions, or features and positions, or classes beside.
          level: Noise variable of each graph, [graph], usually the signal level.
          graph: Graphs built on the (noisy) positions.
          train: Whether batch norm uses the batch's statistics.
        """
        norm = {"norm": self.norm, "axis_name": self.axis_name}
        point_level = level[graph.point_graph][:, None]
        inputs = jnp.concatenate([sort_points(features, graph), point_level], axis=-1)
        three = (self.width,) * 3
        real = graph.point_mask
        x = MLP(three, **norm, name="point_embed")(inputs, train=train, mask=real)
        y = MLP(three, **norm, name="supernode_embed")(
            coarsen(inputs, graph), train=train, mask=graph.coarse.nodes["mask"]
        )

        gate = nn.Dense(self.width, name="gate")
        # What is sown cannot leave a layer that is computed twice.
        is_large = train and not self.is_mutable_collection("intermediates")
        is_large = is_large and _keeps_much(len(x), self.width, self.num_layers)
        offset = spread(graph.supernode_positions, graph) - graph.positions
        edge = jnp.concatenate([safe_norm(offset), point_level], axis=-1)
        towards_supernode = jnp.concatenate([offset, edge], axis=-1)
        towards_point = jnp.concatenate([-offset, edge], axis=-1)

        def layer(module, gate, x, y, i):
            named = {"parent": module, **norm}
            message = GeometricMessage(self.width, **named, name=f"coarsen_{i}")
            pooled = coarsen(
                message(x, y, towards_supernode, graph, train=train), graph
            )
            convolve = make_convolution(
                self.convolution,
                self.width,
                f"convolve_{i}",
                parent=module,
                rematerialize=is_large,
            )
            z = convolve(pooled, graph)
            geometry = towards_point
            if isinstance(z, tuple):
                z, frames = z
                local = frames.scores(offset, graph)
                geometry = jnp.concatenate([towards_point, local], axis=-1)
            message = GeometricMessage(self.width, **named, name=f"spread_{i}")
            pulled = message(x, z + y, geometry, graph, train=train)
            keep = jax.nn.sigmoid(gate(jnp.concatenate([x, pulled], axis=-1)))
            out = keep * x + (1 - keep) * pulled
            if i + 1 < self.num_layers:
                between = Norm(**_named(norm), parent=module, name=f"norm_{i}")
                out = between(out, train=train, mask=real)
            update = MLP((self.width,) * 2, **named, name=f"update_{i}")
            return x + update(exact_gelu(out), train=train, mask=real), z

        if is_large:
            layer = nn.remat(layer, static_argnums=(4,))
        for i in range(self.num_layers):
            x, y = layer(self, gate, x, y, i)
        readout = (self.width, self.width, self.out_dim)
        out = MLP(readout, **norm, plain_last=True, name="readout")(
            x, train=train, mask=real
        )
        return unsort_points(out, graph)


def _keeps_much(num_points: int, width: int, num_layers: int) -> bool:
    """Says whether a backward pass would keep more than layers are worth."""
    return num_points * width * num_layers * _KEPT_PER_LAYER > _KEPT_UP_TO


def _named(norm: dict[str, str | None]) -> dict[str, str | None]:
    return {"kind": norm["norm"], "axis_name": norm["axis_name"]}
