"""The Noise-Conditioned Graph Network (Pao-Huang et al. 2025, arXiv 2507.09391).

Points keep features x at full resolution; supernodes carry y. Each layer pulls y
from the members of each cluster, passes messages among supernodes, spreads y back to
the points and gates it into x. The graphs come from `ncgn_jax.graphs`, so one set of
weights serves every noise bucket.

Published messages are lin_combine([lin_x([receiver, sender]), lin_pos(dp),
lin_edge(e)]) with nothing non-linear between the inner and the outer linear map. They
fold into one product, whose supernode half is computed per supernode and not per
point: same function, about 2.5 times fewer multiply-adds (`GeometricMessage`).

While training on so many points that the intermediate results would take more than
2 GiB, the backward pass keeps only what enters each part (a message, a gate, a stack of
dense layers, the convolution of a block) and computes the rest again: the same numbers
in a third of the memory.

With bfloat16 (`dtype`) matrix products between hidden features read bfloat16, and so
are messages. Layers that read coordinates, the last one, all sums, norms and what runs
past a layer (x and y) stay float32; see `graphs.precision`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ncgn_jax.graphs import (
    MultiscaleGraph,
    coarsen,
    sort_points,
    spread,
    unsort_points,
)
from ncgn_jax.graphs.precision import narrowed
from ncgn_jax.models.graph_convolutions import make_convolution
from ncgn_jax.models.layers import MLP, Norm, PairDense, dense, exact_gelu, safe_norm
from ncgn_jax.models.rematerialization import compute_module_again

# Arrays [point, width] that the backward pass of a layer reads, and how many numbers
# those of all layers may have before parts are computed again instead.
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
        """Returns messages [point, width], in the type of `points`.

        Args:
          points: Point features x, [point, f].
          supernodes: Supernode features y, [supernode, f].
          geometry: Offset, its length and the level, [point, dim + 2].
          graph: Which point belongs to which supernode.
          train: Whether batch norm uses the batch's statistics.
        """
        dtype = points.dtype
        per_point = dense(self.width, "point")(points)
        per_point += dense(self.width, "geometry", use_bias=False)(geometry)
        per_supernode = dense(self.width, "supernode", use_bias=False)(supernodes)
        values = per_point + spread(narrowed(per_supernode, dtype), graph)
        norm = Norm(self.norm, self.axis_name, name="norm_0")
        values = jax.nn.relu(norm(values, train=train, mask=graph.point_mask))
        values = dense(self.width, "dense_1")(narrowed(values, dtype))
        norm = Norm(self.norm, self.axis_name, name="norm_1")
        values = jax.nn.relu(norm(values, train=train, mask=graph.point_mask))
        return narrowed(values, dtype)


class NCGN(nn.Module):
    """A network on multiscale graphs of any noise bucket.

    Attributes:
      out_dim: Features predicted for each point.
      width: Hidden features, H.
      num_layers: Rounds of coarsen, pass messages, spread, L.
      convolution: Message passing among supernodes, see `graph_convolutions`.
      norm: `batch` as published, `layer`, or `none`.
      axis_name: Device axis for batch statistics, None outside pmap.
      dtype: Of hidden products and messages; parameters and output stay float32.
    """

    out_dim: int
    width: int = 64
    num_layers: int = 3
    convolution: str = "gat"
    norm: str = "layer"
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

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
        gate = PairDense(self.width, name="gate")

        def embed(network, values, mask):
            return network(values, train=train, mask=mask)

        def send(message, *inputs):
            return message(*inputs, graph, train=train)

        def hidden(values):
            return narrowed(values, self.dtype)

        def mix(gate, x, pulled):
            keep = jax.nn.sigmoid(gate(hidden(x), pulled))
            return keep * x + (1 - keep) * pulled

        def update(network, values):
            return network(hidden(exact_gelu(values)), train=train, mask=real)

        is_large = train and self._keeps_much(len(inputs))
        if is_large:
            parts = (embed, send, mix, update)
            embed, send, mix, update = map(compute_module_again, parts)

        mlp = MLP(three, **norm, dtype=self.dtype, name="point_embed")
        x = embed(mlp, inputs, real)
        y = embed(
            MLP(three, **norm, dtype=self.dtype, name="supernode_embed"),
            coarsen(inputs, graph),
            graph.coarse.nodes["mask"],
        )
        offset = spread(graph.supernode_positions, graph) - graph.positions
        edge = jnp.concatenate([safe_norm(offset), point_level], axis=-1)
        towards_supernode = jnp.concatenate([offset, edge], axis=-1)
        towards_point = jnp.concatenate([-offset, edge], axis=-1)
        for i in range(self.num_layers):
            first_x, first_y = x, y
            message = GeometricMessage(self.width, **norm, name=f"coarsen_{i}")
            sent = send(message, hidden(x), hidden(y), towards_supernode)
            y = coarsen(sent, graph)
            y = make_convolution(
                self.convolution,
                self.width,
                f"convolve_{i}",
                rematerialize=is_large,
            )(hidden(y), graph)
            geometry = towards_point
            if isinstance(y, tuple):
                y, frames = y
                local = frames.scores(offset, graph)
                geometry = jnp.concatenate([towards_point, local], axis=-1)
            message = GeometricMessage(self.width, **norm, name=f"spread_{i}")
            pulled = send(message, hidden(x), hidden(y + first_y), geometry)
            x = mix(gate, x, pulled)
            if i + 1 < self.num_layers:
                x = Norm(**_named(norm), name=f"norm_{i}")(x, train=train, mask=real)
            widths = (self.width,) * 2
            mlp = MLP(widths, **norm, dtype=self.dtype, name=f"update_{i}")
            x = update(mlp, x) + first_x
        readout = (self.width, self.width, self.out_dim)
        mlp = MLP(readout, **norm, plain_last=True, dtype=self.dtype, name="readout")
        return unsort_points(embed(mlp, hidden(x), real), graph)

    def _keeps_much(self, num_points: int) -> bool:
        """Says whether a backward pass would keep more than is worth its memory."""
        # What is sown cannot leave a part that is computed twice.
        if self.is_mutable_collection("intermediates"):
            return False
        kept = num_points * self.width * self.num_layers * _KEPT_PER_LAYER
        return kept > _KEPT_UP_TO


def _named(norm: dict[str, str | None]) -> dict[str, str | None]:
    return {"kind": norm["norm"], "axis_name": norm["axis_name"]}
