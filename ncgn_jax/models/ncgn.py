"""Defines the Noise-Conditioned Graph Network, NCGN (arXiv 2507.09391).

Points keep features x at full resolution, and supernodes have features y. Each layer
computes y from the members of each cluster, passes messages among supernodes, spreads y
back to the points and gates it into x. The graphs come from `ncgn_jax.graphs`, so one
set of weights serves every noise bucket.

Published messages are lin_combine([lin_x([receiver, sender]), lin_pos(dp),
lin_edge(e)]) with nothing non-linear between the inner and the outer linear map. We
fold them into one product, whose supernode half is computed per supernode and not per
point. This is the same function with about 2.5 times fewer multiply-adds
(`GeometricMessage`).

If intermediate results of a training step would take more than 2 GiB, the backward pass
keeps only the inputs of each part (a message, a gate, a stack of dense layers, the
convolution of a block) and computes the rest again. The numbers are the same in a third
of the memory.

With bfloat16 (`dtype`) matrix products between hidden features read bfloat16, and
messages are bfloat16. Layers that read coordinates, the last layer, sums, norms and the
features between layers (x and y) stay float32; see `graphs.precision`.
"""

from collections.abc import Callable
from functools import partial

import chex
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

# Arrays [point, width] that the backward pass of a layer reads, and the total size of
# those of all layers above which parts are computed again.
_KEPT_PER_LAYER = 30
_KEPT_UP_TO = 2**29


class GeometricMessage(nn.Module):
    """A network for messages between points and their supernode, one per point.

    m_p = MLP_2(W_x x_p + W_y y_c(p) + W_g [offset, |offset|, level] + b), the folded
    form of the published message; offset runs from the sender to the receiver.

    Attributes:
      width: Features of the message.
      norm: See `layers.Norm`; each of the two layers has its own norm.
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
          graph: The graphs, which assign points to supernodes.
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
      num_layers: Rounds of coarsening, message passing and spreading, L.
      convolution: Message passing among supernodes, see `graph_convolutions`.
      norm: `batch` as published, or another of `layers.NORMS`.
      axis_name: Device axis for batch statistics, None outside pmap.
      dtype: Type of hidden products and messages; parameters and output stay float32.
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
            caller's order, such as positions, features or classes.
          level: Noise variable of each graph, [graph], usually the signal level.
          graph: Graphs built on the (noisy) positions.
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
        is_large = train and self._keeps_much(len(inputs))
        part = compute_module_again if is_large else _unchanged

        def hidden(values: jax.Array) -> jax.Array:
            return narrowed(values, self.dtype)

        @part
        def embed(network: MLP, values: jax.Array, mask: jax.Array | None) -> jax.Array:
            return network(values, train=train, mask=mask)

        @part
        def send(
            network: GeometricMessage, x: jax.Array, y: jax.Array, geometry: jax.Array
        ) -> jax.Array:
            return network(x, y, geometry, graph, train=train)

        @part
        def mix(gate: PairDense, x: jax.Array, pulled: jax.Array) -> jax.Array:
            keep = jax.nn.sigmoid(gate(hidden(x), pulled))
            return keep * x + (1 - keep) * pulled

        @part
        def update(network: MLP, values: jax.Array) -> jax.Array:
            return network(hidden(exact_gelu(values)), train=train, mask=real)

        x = embed(mlp(three, name="point_embed"), inputs, real)
        y = embed(
            mlp(three, name="supernode_embed"),
            coarsen(inputs, graph),
            graph.coarse.nodes["mask"],
        )
        offset = spread(graph.supernode_positions, graph) - graph.positions
        edge = jnp.concatenate([safe_norm(offset), point_level], axis=-1)
        towards_supernode = jnp.concatenate([offset, edge], axis=-1)
        towards_point = jnp.concatenate([-offset, edge], axis=-1)
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

    def _keeps_much(self, num_points: int) -> bool:
        """Returns whether the backward pass would keep too many numbers."""
        # Sown values cannot leave a part that is computed twice.
        if self.is_mutable_collection("intermediates"):
            return False
        kept = num_points * self.width * self.num_layers * _KEPT_PER_LAYER
        return kept > _KEPT_UP_TO


def _unchanged(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return fn
