"""Defines the hourglass: a network whose layers run among supernodes alone.

It embeds points once and pulls them into supernodes once. All layers of message passing
run among supernodes. Their result is spread to the points once, gated into them,
updated and read out. A layer of `models.ncgn` does all of this but embedding and
readout, so it spends most of its multiply-adds on points. A layer of the hourglass
costs what its coarse graph costs: little where noise is high and supernodes are few.

Its inputs are those of NCGN: features, noise level, and where points lie about their
supernode. Where every point is a supernode of its own, that offset is 0, and pulling
and spreading copy. With one `geometric` layer it is NCGN with one layer.

With bfloat16 (`dtype`) the same values are rounded as in `models.ncgn`.
"""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ncgn_jax.graphs import MultiscaleGraph, coarsen, sort_points, unsort_points
from ncgn_jax.graphs.precision import narrowed
from ncgn_jax.models.geometric_attention import GeometricAttention
from ncgn_jax.models.graph_convolutions import GAT, GCN, make_convolution
from ncgn_jax.models.layers import MLP, Norm, PairDense
from ncgn_jax.models.point_layers import (
    GeometricMessage,
    SpanEmbedding,
    keeps_much,
    make_point_parts,
    point_geometry,
)


class Hourglass(nn.Module):
    """A network on multiscale graphs whose layers run among supernodes alone.

    Attributes:
      out_dim: Features predicted for each point.
      width: Hidden features, H.
      num_layers: Rounds of message passing among supernodes, L.
      convolution: Message passing, see `graph_convolutions`. `geometric` has norms and
        a residual of its own; of the others a layer is y + convolve(relu(norm(y))).
      norm: One of `layers.NORMS`.
      axis_name: Device axis for batch statistics, None outside pmap.
      dtype: Type of hidden products and messages; parameters and output stay float32.
      knows_span: Whether it has a flow map, see `tasks.flow_map`.
    """

    out_dim: int
    width: int = 64
    num_layers: int = 3
    convolution: str = "geometric"
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
        real, occupied = graph.point_mask, graph.coarse.nodes["mask"]
        num_rows = len(inputs) + self.num_layers * graph.num_supernodes
        # Sown values cannot leave a part that is computed twice.
        sows = self.is_mutable_collection("intermediates")
        is_large = train and not sows and keeps_much(num_rows * self.width)
        embed, send, mix, update = make_point_parts(
            graph, self.dtype, train=train, is_large=is_large
        )

        def hidden(values: jax.Array) -> jax.Array:
            return narrowed(values, self.dtype)

        first_x = embed(mlp(three, name="point_embed"), inputs, real)
        network = mlp(three, name="supernode_embed")
        first_y = embed(network, coarsen(inputs, graph), occupied)
        if self.knows_span:
            tell = SpanEmbedding(self.width, name="span_embed")
            first_x, first_y = tell(first_x, first_y, span, level, graph)
        offset, towards_supernode, geometry = point_geometry(graph, point_level)
        x = hidden(first_x)
        sent = send(message(name="coarsen"), x, hidden(first_y), towards_supernode)
        y, frames = coarsen(sent, graph), None
        for i in range(self.num_layers):
            convolution = self._convolution(f"convolve_{i}", rematerialize=is_large)
            if isinstance(convolution, GeometricAttention):
                y, frames = convolution(y, graph)
                continue
            norm = Norm(self.norm, self.axis_name, name=f"norm_{i}")
            inner = jax.nn.relu(norm(y, train=train, mask=occupied))
            y = y + convolution(hidden(inner), graph)
        if frames is not None:
            local = frames.scores(offset, graph)
            geometry = jnp.concatenate([geometry, local], axis=-1)
        pulled = send(message(name="spread"), x, hidden(y + first_y), geometry)
        mixed = mix(PairDense(self.width, name="gate"), first_x, pulled)
        updated = update(mlp((self.width,) * 2, name="update"), mixed) + first_x
        widths = (self.width, self.width, self.out_dim)
        readout = mlp(widths, plain_last=True, name="readout")
        return unsort_points(embed(readout, hidden(updated), real), graph)

    def _convolution(
        self, name: str, *, rematerialize: bool
    ) -> GAT | GCN | GeometricAttention:
        """Returns a layer's convolution; `geometric` gets y, which stays float32."""
        if self.convolution != "geometric":
            return make_convolution(
                self.convolution, self.width, name, rematerialize=rematerialize
            )
        return GeometricAttention(
            self.width, rematerialize=rematerialize, dtype=self.dtype, name=name
        )
