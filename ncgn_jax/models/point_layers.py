"""Defines what networks on multiscale graphs do at full resolution, point by point.

Points keep features x, and supernodes have features y. `GeometricMessage` goes between
points and their supernodes. `make_point_parts` runs it and the other layers of points.

Published messages are lin_combine([lin_x([receiver, sender]), lin_pos(dp),
lin_edge(e)]) with nothing non-linear between the inner and the outer linear map. We
fold them into one product, whose supernode half is computed per supernode and not per
point. This is the same function with about 2.5 times fewer multiply-adds
(`GeometricMessage`).

If intermediate results of a training step would take more than 2 GiB, the backward pass
keeps only the inputs of each part (a message, a gate, a stack of dense layers, the
convolution of a block) and computes the rest again. The numbers are the same in a third
of the memory.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ncgn_jax.graphs import MultiscaleGraph, spread
from ncgn_jax.graphs.precision import narrowed
from ncgn_jax.models.layers import MLP, Norm, PairDense, dense, exact_gelu, safe_norm
from ncgn_jax.models.rematerialization import compute_module_again

# Arrays [row, width] that the backward pass of a layer reads, and the total size of
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


class SpanEmbedding(nn.Module):
    """Tells points and supernodes how long a step is, in networks with a flow map.

    To both it adds h = span W_1 gelu(W_0 [span, level] + b_0), whose W_1 starts at 0: a
    network that was trained without it gives what it gave, whatever the span. At span
    0, where the step is a moment and the network tells the velocity, h stays 0.

    Attributes:
      width: Features of points and supernodes.
    """

    width: int

    @nn.compact
    def __call__(
        self,
        points: jax.Array,
        supernodes: jax.Array,
        span: jax.Array | None,
        level: jax.Array,
        graph: MultiscaleGraph,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns features of points [point, width] and supernodes [supernode, width].

        Args:
          points: Point features x, [point, width].
          supernodes: Supernode features y, [supernode, width].
          span: Length of the step in t, [graph]; None for 0.
          level: Noise variable where it starts, [graph].
          graph: The graphs.
        """
        span = jnp.zeros_like(level) if span is None else span
        hidden = dense(self.width, "dense_0")(jnp.stack([span, level], axis=-1))
        out = nn.Dense(
            self.width,
            use_bias=False,
            kernel_init=nn.initializers.zeros_init(),
            name="dense_1",
        )
        told = span[:, None] * out(exact_gelu(hidden))
        sizes = graph.coarse.n_node
        of_supernode = jnp.repeat(
            jnp.arange(sizes.shape[0]), sizes, total_repeat_length=graph.num_supernodes
        )
        return points + told[graph.point_graph], supernodes + told[of_supernode]


class PointGeometry(NamedTuple):
    """Holds where points lie about their supernodes, as messages read it.

    Attributes:
      offset: From each point to its supernode, [point, dim].
      towards_supernode: Offset, its length and the level, [point, dim + 2].
      towards_point: The same with the opposite offset.
    """

    offset: jax.Array
    towards_supernode: jax.Array
    towards_point: jax.Array


def point_geometry(graph: MultiscaleGraph, level: jax.Array) -> PointGeometry:
    """Returns where points lie about their supernodes.

    Args:
      graph: Graphs of the points.
      level: Noise variable of each point, [point, 1].
    """
    offset = spread(graph.supernode_positions, graph) - graph.positions
    edge = jnp.concatenate([safe_norm(offset), level], axis=-1)
    return PointGeometry(
        offset,
        jnp.concatenate([offset, edge], axis=-1),
        jnp.concatenate([-offset, edge], axis=-1),
    )


class PointParts(NamedTuple):
    """Holds functions that run layers of points; each is a part that may run twice.

    Attributes:
      embed: embed(network, values, mask) runs dense layers on rows.
      send: send(network, x, y, geometry) returns messages [point, width].
      mix: mix(gate, x, pulled) returns k x + (1 - k) pulled, k = sigmoid(gate).
      update: update(network, values) runs dense layers on gelu(values).
    """

    embed: Callable[..., jax.Array]
    send: Callable[..., jax.Array]
    mix: Callable[..., jax.Array]
    update: Callable[..., jax.Array]


def make_point_parts(
    graph: MultiscaleGraph, dtype: DTypeLike, *, train: bool, is_large: bool
) -> PointParts:
    """Returns functions that run layers of points.

    Args:
      graph: Graphs of the points.
      dtype: Type to which hidden values are rounded, if narrower than float32.
      train: Whether batch norm uses the batch's statistics.
      is_large: Whether the backward pass computes each part again.
    """
    part = compute_module_again if is_large else _unchanged

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
        keep = jax.nn.sigmoid(gate(narrowed(x, dtype), pulled))
        return keep * x + (1 - keep) * pulled

    @part
    def update(network: MLP, values: jax.Array) -> jax.Array:
        values = narrowed(exact_gelu(values), dtype)
        return network(values, train=train, mask=graph.point_mask)

    return PointParts(embed, send, mix, update)


def keeps_much(num_numbers: int) -> bool:
    """Returns whether the backward pass of layers would keep too many numbers.

    Args:
      num_numbers: Numbers in one array of each layer, all layers together.
    """
    return num_numbers * _KEPT_PER_LAYER > _KEPT_UP_TO


def _unchanged(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return fn
