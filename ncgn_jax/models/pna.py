"""Aggregates principal neighbourhoods on complete graphs of few nodes.

(Corso et al. 2020, arXiv 2004.05718.) A node combines its neighbours with four
aggregators (mean, minimum, maximum, standard deviation). Each is scaled in three ways
by the node's degree d and delta, the mean of log(d + 1) over the training graphs:

  identity 1,  amplification log(d + 1) / delta,  attenuation delta / log(d + 1).

Molecules have so few atoms that a batch is held as complete graphs (`connect_all`) with
a mask over edges. Shapes are static and receivers in order, so aggregation is a
reshape.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.graphs.message_passing import GraphNetwork, GraphsTuple
from ncgn_jax.models.layers import Norm

_STD_EPSILON = 1e-5


def connect_all(nodes: jax.Array, pairs: jax.Array) -> GraphsTuple:
    """Returns graphs in which every node receives from every node, itself included.

    Args:
      nodes: Features, [graph, node, feature].
      pairs: Features of edges, [graph, receiver, sender, feature].

    Returns:
      A batch whose edges are sorted by receiver, `node` edges each.
    """
    num_graphs, n = nodes.shape[:2]
    first = n * np.arange(num_graphs, dtype=np.int32)[:, None, None]
    place = np.arange(n, dtype=np.int32)
    shape = (num_graphs, n, n)
    return GraphsTuple(
        nodes=nodes.reshape(num_graphs * n, -1),
        edges=pairs.reshape(num_graphs * n * n, -1),
        senders=np.broadcast_to(first + place[None, None], shape).reshape(-1),
        receivers=np.broadcast_to(first + place[None, :, None], shape).reshape(-1),
        n_node=np.full(num_graphs, n, np.int32),
        n_edge=np.full(num_graphs, n * n, np.int32),
        globals=None,
    )


def aggregate(
    messages: jax.Array, mask: jax.Array, mean_log_degree: float
) -> jax.Array:
    """Combines the messages to each node with 4 aggregators times 3 scalers.

    Args:
      messages: [receiver, sender, feature].
      mask: True for real edges, bool [receiver, sender].
      mean_log_degree: delta, the mean of log(degree + 1) over training graphs.

    Returns:
      [receiver, 12 * feature], ordered by scaler, then by aggregator. A node without
      neighbours gets 0 (its standard deviation is the square root of 1e-5).
    """
    there = mask[:, :, None]
    degree = jnp.sum(mask, axis=1, dtype=messages.dtype)[:, None]
    count = jnp.maximum(degree, 1.0)
    mean = jnp.sum(jnp.where(there, messages, 0.0), axis=1) / count
    square = jnp.sum(jnp.where(there, messages**2, 0.0), axis=1) / count
    std = jnp.sqrt(jax.nn.relu(square - mean**2) + _STD_EPSILON)
    low = jnp.min(jnp.where(there, messages, jnp.inf), axis=1)
    high = jnp.max(jnp.where(there, messages, -jnp.inf), axis=1)
    low, high = (jnp.where(degree > 0, ends, 0.0) for ends in (low, high))
    joined = jnp.concatenate([mean, low, high, std], axis=1)
    # A node of degree 0 is scaled like one of degree 1, because log(1) divides by 0.
    relative = jnp.log(count + 1.0) / mean_log_degree
    return jnp.concatenate([joined, joined * relative, joined / relative], axis=1)


class PNALayer(nn.Module):
    """A step of message passing: linear messages, 12 aggregates, linear update.

    Attributes:
      features: Width of messages and output.
      mean_log_degree: See `aggregate`.
    """

    features: int
    mean_log_degree: float

    @nn.compact
    def __call__(self, graph: GraphsTuple, edge_mask: jax.Array) -> GraphsTuple:
        """Updates the nodes; `edge_mask` [edge] is True for real edges."""
        num_nodes = graph.nodes.shape[0]
        mask = edge_mask.reshape(num_nodes, -1)

        # The linear map of [receiver, sender, edge] is split, so that terms of one node
        # are computed per node and not per edge.
        send = nn.Dense(self.features, use_bias=False, name="send")(graph.nodes)
        receive = nn.Dense(self.features, name="receive")(graph.nodes)

        def update_edge(edges, sent, received, _):
            messages = received["receive"] + sent["send"]
            if edges.shape[1]:
                messages += nn.Dense(self.features, use_bias=False, name="edge")(edges)
            return messages

        def update_node(nodes, _, received, __):
            inputs = jnp.concatenate([nodes["state"], received], axis=1)
            hidden = nn.Dense(self.features, name="update")(inputs)
            return nn.Dense(self.features, name="mix")(hidden)

        def join(messages, _, __):
            messages = messages.reshape(*mask.shape, -1)
            return aggregate(messages, mask, self.mean_log_degree)

        network = GraphNetwork(
            update_edge, update_node, aggregate_edges_for_nodes_fn=join
        )
        nodes = {"state": graph.nodes, "send": send, "receive": receive}
        return network(graph._replace(nodes=nodes))._replace(edges=graph.edges)


class PNA(nn.Module):
    """A stack of PNA layers with ReLU between them.

    Attributes:
      width: Features of the inner layers.
      out_dim: Features of the last layer.
      num_layers: Number of layers, at least 1.
      mean_log_degree: See `aggregate`.
      residual: Whether each inner layer's input is added to its output where widths
        agree and the sum is normalised over its features. Without it sums over
        neighbours grow from layer to layer until later layers saturate.
    """

    width: int
    out_dim: int
    num_layers: int
    mean_log_degree: float
    residual: bool = False

    @nn.compact
    def __call__(
        self, nodes: jax.Array, pairs: jax.Array, pair_mask: jax.Array
    ) -> jax.Array:
        """Maps [graph, node, feature] to [graph, node, out_dim].

        Args:
          nodes: Features of nodes.
          pairs: Features of edges, [graph, receiver, sender, feature].
          pair_mask: True for real edges, bool [graph, receiver, sender].
        """
        graph, edge_mask = connect_all(nodes, pairs), pair_mask.reshape(-1)
        for i in range(self.num_layers):
            is_last = i == self.num_layers - 1
            width = self.out_dim if is_last else self.width
            layer = PNALayer(width, self.mean_log_degree, name=f"layer_{i}")
            new = layer(graph, edge_mask)
            if not is_last:
                hidden = jax.nn.relu(new.nodes)
                if self.residual:
                    if hidden.shape == graph.nodes.shape:
                        hidden = hidden + graph.nodes
                    hidden = Norm("layer", name=f"norm_{i}")(hidden, train=False)
                new = new._replace(nodes=hidden)
            graph = new
        return graph.nodes.reshape(*nodes.shape[:2], self.out_dim)
