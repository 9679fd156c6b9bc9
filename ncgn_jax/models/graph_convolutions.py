"""Defines graph convolutions on the coarse graph, as jraph networks.

Each is written once over `jraph.GraphNetwork` with our update, attention and
aggregation functions. There are three ways to aggregate. A ragged graph uses jraph's
segment operations. A regular block has a constant in-degree, so it uses a reshape.
Where a block is small compared with its number of edges, the sum is one dense (masked)
matrix product without any gather. The three agree to rounding
(tests/models/test_graph_convolutions.py).

With bfloat16 values products and messages are bfloat16; sums, softmax and the result
are float32 (`graphs.precision`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.graphs import Block, MultiscaleGraph
from ncgn_jax.graphs.message_passing import (
    GraphNetwork,
    GraphsTuple,
    segment_softmax,
    segment_sum,
)
from ncgn_jax.graphs.precision import matmul, narrowed, widen
from ncgn_jax.models.edges import (
    block_edges,
    dense_adjacency,
    is_dense,
    listed_edges,
)
from ncgn_jax.models.geometric_attention import GeometricAttention
from ncgn_jax.models.layers import dense
from ncgn_jax.models.rematerialization import compute_again

CONVOLUTIONS = ("gat", "gcn", "geometric")
_NEGATIVE_SLOPE = 0.2


class GCN(nn.Module):
    """The graph convolution of Kipf and Welling with self loops.

    y_i = W sum_j y_j / sqrt(d_i d_j) + b, d = in-degree with self loop.

    Attributes:
      width: Output features.
      rematerialize: Whether the backward pass computes a block's edges again.
    """

    width: int
    rematerialize: bool = False

    @nn.compact
    def __call__(self, values: jax.Array, graph: MultiscaleGraph) -> jax.Array:
        """Maps supernode features [supernode, f] to [supernode, width]."""
        dtype = values.dtype
        values = narrowed(dense(self.width, "linear", use_bias=False)(values), dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        out = _over_blocks(
            values, graph, _dense_gcn, _sparse_gcn, rematerialize=self.rematerialize
        )
        return out + bias[None, :]


class GAT(nn.Module):
    """The one-head graph attention of Velickovic et al. with self loops.

    alpha_ij = softmax_j leaky_relu(a_dst . W y_i + a_src . W y_j), slope 0.2, over the
    incoming edges and the node itself; y_i = sum_j alpha_ij W y_j + b. The weights are
    sown as `attention` into `intermediates` and read by `edge_attention`.

    Attributes:
      width: Output features.
      rematerialize: Whether the backward pass computes a block's edges again.
    """

    width: int
    rematerialize: bool = False

    @nn.compact
    def __call__(self, values: jax.Array, graph: MultiscaleGraph) -> jax.Array:
        """Maps supernode features [supernode, f] to [supernode, width]."""
        dtype = values.dtype
        values = narrowed(dense(self.width, "linear", use_bias=False)(values), dtype)
        init = nn.initializers.glorot_uniform()
        source = self.param("attend_source", init, (self.width, 1))
        target = self.param("attend_target", init, (self.width, 1))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        nodes = {
            "value": values,
            "source": matmul(values, source),
            "target": matmul(values, target),
        }
        out = _over_blocks(
            nodes, graph, self._dense, self._sparse, rematerialize=self.rematerialize
        )
        return out + bias[None, :]

    def _dense(self, nodes: dict[str, jax.Array], joined: jax.Array) -> jax.Array:
        source = jnp.swapaxes(nodes["source"], 1, 2)  # [graph, 1, sender]
        target = nodes["target"]  # [graph, receiver, 1]
        logits = jax.nn.leaky_relu(target + source, _NEGATIVE_SLOPE)
        logits = jnp.where(joined, logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1)
        self.sow("intermediates", "attention", weights)
        return matmul(weights, nodes["value"])

    def _sparse(
        self,
        nodes: dict[str, jax.Array],
        graph: GraphsTuple,
        aggregation: "_Aggregation",
    ) -> jax.Array:
        def softmax(*args: jax.Array, **options: int | None) -> jax.Array:
            weights = aggregation.softmax(*args, **options)
            self.sow("intermediates", "attention", weights)
            return weights

        return _sparse_gat(nodes, graph, _Aggregation(aggregation.total, softmax))


def make_convolution(
    kind: str, width: int, name: str | None = None, *, rematerialize: bool = False
) -> GAT | GCN | GeometricAttention:
    """Returns the convolution of that kind.

    Args:
      kind: One of `CONVOLUTIONS`.
      width: Features.
      name: Name of the module.
      rematerialize: Whether the backward pass computes a block's edges again.

    Raises:
      ValueError: If the kind does not exist.
    """
    kinds: dict[str, type[GAT] | type[GCN] | type[GeometricAttention]] = {
        "gat": GAT,
        "gcn": GCN,
        "geometric": GeometricAttention,
    }
    if kind not in kinds:
        raise ValueError(
            f"convolution: found {kind!r}; allowed: {', '.join(CONVOLUTIONS)}"
        )
    return kinds[kind](width, name=name, rematerialize=rematerialize)


def edge_attention(sown: Sequence[jax.Array], graph: MultiscaleGraph) -> jax.Array:
    """Returns the weight of every edge of the coarse graph, without self loops.

    Args:
      sown: Weights that a convolution has sown, `intermediates[...]["attention"]`.
      graph: The graph that it was applied to.

    Returns:
      Weights in the order of `graph.coarse.senders`, [edge]; meaningless where
      `graph.coarse.edges["mask"]` is False.
    """
    num_edges = graph.coarse.senders.shape[0]
    if not graph.blocks:
        return sown[0].reshape(-1)[:num_edges]
    parts = []
    for weights, (block, _, senders, _) in zip(sown, block_edges(graph), strict=True):
        square = (block.num_graphs, block.num_supernodes, block.num_supernodes)
        if weights.shape != square:  # Listed: each node's edges, then its self loop.
            rows = weights.reshape(-1, block.num_neighbors + 1)
            parts.append(rows[:, :-1].reshape(-1))
            continue
        rows = weights.reshape(-1, block.num_supernodes)  # [receiver, sender]
        local = senders.reshape(-1, block.num_neighbors) % block.num_supernodes
        parts.append(jnp.take_along_axis(rows, local, axis=1).reshape(-1))
    return jnp.concatenate(parts)


def _over_blocks(
    nodes: jax.Array | dict[str, jax.Array],
    graph: MultiscaleGraph,
    dense: Callable[..., jax.Array],
    sparse: Callable[..., jax.Array],
    *,
    rematerialize: bool,
) -> jax.Array:
    """Runs a convolution's dense or sparse form on each block, or on a ragged graph."""
    if not graph.blocks:
        looped = _add_self_loops(graph.coarse)
        return sparse(nodes, looped, _ragged_aggregation(looped))

    def convolve(local, senders, mask, block):
        if not is_dense(block):
            return sparse(local, *_regular_graph(senders, mask, block))
        square = jax.tree.map(
            lambda leaf: leaf.reshape(
                block.num_graphs, block.num_supernodes, leaf.shape[-1]
            ),
            local,
        )
        out = dense(square, dense_adjacency(senders, mask, block))
        return out.reshape(-1, out.shape[-1])

    outputs: list[jax.Array] = []
    for block, supernodes, senders, mask in block_edges(graph):
        local = jax.tree.map(lambda leaf, s=supernodes: leaf[s], nodes)
        run: Callable[..., jax.Array] = partial(convolve, block=block)
        if rematerialize:
            run = compute_again(run)
            if outputs:  # Blocks run one by one, so memory stays that of one block.
                pair = jax.lax.optimization_barrier((local, outputs[-1]))
                local, outputs[-1] = pair
        outputs.append(run(local, senders, mask))
    return jnp.concatenate(outputs)


class _Aggregation(NamedTuple):
    """Holds a sum and a softmax of edge values over each receiver."""

    total: Callable[..., jax.Array]
    softmax: Callable[..., jax.Array]


def _ragged_aggregation(graph: GraphsTuple) -> _Aggregation:
    num_nodes = graph.nodes["mask"].shape[0]
    return _Aggregation(
        lambda edges, receivers, _: segment_sum(widen(edges), receivers, num_nodes),
        lambda logits, segment_ids, num_segments: segment_softmax(
            logits, segment_ids, num_nodes
        ),
    )


def _regular_graph(
    senders: jax.Array, mask: jax.Array, block: Block
) -> tuple[GraphsTuple, _Aggregation]:
    """Builds a block's graph with each node's self loop as its last edge."""
    num_nodes = block.num_graphs * block.num_supernodes
    degree = block.num_neighbors + 1
    senders, mask = listed_edges(senders, mask, block)
    graph = GraphsTuple(
        nodes=None,
        edges={"mask": mask.reshape(-1)},
        senders=senders.reshape(-1),
        receivers=jnp.repeat(jnp.arange(num_nodes), degree),
        n_node=jnp.full((block.num_graphs,), block.num_supernodes),
        n_edge=jnp.full((block.num_graphs,), block.num_supernodes * degree),
        globals=None,
    )

    def by_receiver(edges):
        return edges.reshape(num_nodes, degree, -1)

    return graph, _Aggregation(
        lambda edges, receivers, _: by_receiver(widen(edges)).sum(axis=1),
        lambda logits, segment_ids, num_segments: jax.nn.softmax(
            by_receiver(logits), axis=1
        ).reshape(logits.shape),
    )


def _add_self_loops(graph: GraphsTuple) -> GraphsTuple:
    own = jnp.arange(graph.nodes["mask"].shape[0], dtype=graph.senders.dtype)
    return graph._replace(
        senders=jnp.concatenate([graph.senders, own]),
        receivers=jnp.concatenate([graph.receivers, own]),
        edges={
            "mask": jnp.concatenate([graph.edges["mask"], jnp.ones(own.shape, bool)])
        },
    )


def _dense_gcn(values: jax.Array, joined: jax.Array) -> jax.Array:
    joined = jnp.broadcast_to(
        joined.astype(values.dtype), (values.shape[0], *joined.shape[1:])
    )
    in_degree = widen(joined).sum(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(in_degree)  # [graph, node, 1]
    sent = narrowed(scale * values, values.dtype)
    return scale * matmul(joined, sent, constant_left=True)


def _sparse_gcn(
    values: jax.Array, graph: GraphsTuple, aggregation: _Aggregation
) -> jax.Array:
    # The gradient of the gather is a sum, so it is taken of wide values.
    dtype, values = values.dtype, widen(values)
    weight = graph.edges["mask"].astype(values.dtype)[:, None]
    in_degree = aggregation.total(weight, graph.receivers, None)
    network = GraphNetwork(
        update_edge_fn=lambda mask, sent, received, _: (
            mask * narrowed(sent["value"], dtype) * sent["scale"]
        ),
        update_node_fn=lambda nodes, sent, received, _: nodes["scale"] * received,
        aggregate_edges_for_nodes_fn=aggregation.total,
    )
    nodes = {"value": values, "scale": jax.lax.rsqrt(in_degree)}
    return network(graph._replace(nodes=nodes, edges=weight)).nodes


def _sparse_gat(
    nodes: dict[str, jax.Array], graph: GraphsTuple, aggregation: _Aggregation
) -> jax.Array:
    dtype = nodes["value"].dtype

    def logits(mask, sent, received, _):
        raw = jax.nn.leaky_relu(received["target"] + sent["source"], _NEGATIVE_SLOPE)
        # A finite value, because a segment softmax of -inf minus -inf would be NaN.
        return jnp.where(mask[:, None], raw, -1e30)

    network = GraphNetwork(
        update_edge_fn=lambda edges, sent, received, _: {
            "mask": edges["mask"],
            "value": narrowed(sent["value"], dtype),
            "logit": logits(edges["mask"], sent, received, _),
        },
        update_node_fn=lambda nodes, sent, received, _: received,
        attention_logit_fn=lambda edges, sent, received, _: edges["logit"],
        attention_normalize_fn=aggregation.softmax,
        attention_reduce_fn=lambda edges, weights: edges["value"] * weights,
        aggregate_edges_for_nodes_fn=aggregation.total,
    )
    return network(graph._replace(nodes=jax.tree.map(widen, nodes))).nodes
