"""Defines the Noise-Conditioned Graph Network, NCGN (arXiv 2507.09391).

Points keep features x at full resolution, and supernodes have features y. Each layer
computes y from the members of each cluster, passes messages among supernodes, spreads y
back to the points and gates it into x. The graphs come from `ncgn_jax.graphs`, so one
set of weights serves every noise bucket.

With bfloat16 (`dtype`) matrix products between hidden features read bfloat16, and
messages are bfloat16. Layers that read coordinates, the last layer, sums, norms and the
features between layers (x and y) stay float32; see `graphs.precision`.
"""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ncgn_jax.graphs import MultiscaleGraph, coarsen, sort_points, unsort_points
from ncgn_jax.graphs.precision import narrowed
from ncgn_jax.models.graph_convolutions import make_convolution
from ncgn_jax.models.layers import MLP, Norm, PairDense
from ncgn_jax.models.point_layers import (
    GeometricMessage,
    SpanEmbedding,
    keeps_much,
    make_point_parts,
    point_geometry,
)


class NCGN(nn.Module):
    """A network on multiscale graphs of any noise bucket.

    Attributes:
      out_dim: Features predicted for each point.
      width: Hidden features, H.
      num_layers: Rounds of coarsening, message passing and spreading, L.
      convolution: Message passing among supernodes, see `graph_convolutions`.
      norm: `batch` as published, or another of `layers.NORMS`.
      axis_name: Device axis for batch statistics, None outside pmap.
      dtype: Type of hidden products and messages; parameters and output stay float32.
      knows_span: Whether it has a flow map, see `tasks.flow_map`.
    """

    out_dim: int
    width: int = 64
    num_layers: int = 3
    convolution: str = "gat"
    norm: str = "layer"
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    knows_span: bool = False

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        level: jax.Array,
        graph: MultiscaleGraph,
        *,
        span: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Predicts [point, out_dim] in the caller's point order.

        Args:
          features: Inputs of each point without the noise level, [point, f], in the
            caller's order, such as positions, features or classes.
          level: Noise variable of each graph, [graph], usually the signal level.
          graph: Graphs built on the (noisy) positions.
          span: Length in t of the step whose mean velocity is asked for, [graph]; None
            for 0, the velocity. Only networks with `knows_span` read it.
          train: Whether batch norm uses the batch's statistics.
        """
        chex.assert_equal_shape([level, graph.coarse.n_node])
        mlp = partial(MLP, norm=self.norm, axis_name=self.axis_name, dtype=self.dtype)
        message = partial(GeometricMessage, self.width, self.norm, self.axis_name)
        point_level = level[graph.point_graph][:, None]
        inputs = jnp.concatenate([sort_points(features, graph), point_level], axis=-1)
        three = (self.width,) * 3
        real = graph.point_mask
        gate = PairDense(self.width, name="gate")
        num_numbers = len(inputs) * self.width * self.num_layers
        # Sown values cannot leave a part that is computed twice.
        sows = self.is_mutable_collection("intermediates")
        is_large = train and not sows and keeps_much(num_numbers)
        embed, send, mix, update = make_point_parts(
            graph, self.dtype, train=train, is_large=is_large
        )

        def hidden(values: jax.Array) -> jax.Array:
            return narrowed(values, self.dtype)

        x = embed(mlp(three, name="point_embed"), inputs, real)
        y = embed(
            mlp(three, name="supernode_embed"),
            coarsen(inputs, graph),
            graph.coarse.nodes["mask"],
        )
        if self.knows_span:
            tell = SpanEmbedding(self.width, name="span_embed")
            x, y = tell(x, y, span, level, graph)
        offset, towards_supernode, towards_point = point_geometry(graph, point_level)
        for i in range(self.num_layers):
            first_x, first_y = x, y
            network = message(name=f"coarsen_{i}")
            sent = send(network, hidden(x), hidden(y), towards_supernode)
            convolution = make_convolution(
                self.convolution,
                self.width,
                f"convolve_{i}",
                rematerialize=is_large,
            )
            convolved = convolution(hidden(coarsen(sent, graph)), graph)
            geometry = towards_point
            if isinstance(convolved, tuple):
                y, frames = convolved
                local = frames.scores(offset, graph)
                geometry = jnp.concatenate([towards_point, local], axis=-1)
            else:
                y = convolved
            network = message(name=f"spread_{i}")
            pulled = send(network, hidden(x), hidden(y + first_y), geometry)
            x = mix(gate, x, pulled)
            if i + 1 < self.num_layers:
                norm = Norm(self.norm, self.axis_name, name=f"norm_{i}")
                x = norm(x, train=train, mask=real)
            x = update(mlp((self.width,) * 2, name=f"update_{i}"), x) + first_x
        widths = (self.width, self.width, self.out_dim)
        readout = mlp(widths, plain_last=True, name="readout")
        return unsort_points(embed(readout, hidden(x), real), graph)
