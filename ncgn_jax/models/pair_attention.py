"""Attends over nodes with features for every pair of them.

This is for graphs so small (molecules) that a dense [node, node] array costs little.
Pairs bias the attention, are updated from their nodes, and combine along triangles,
p_ij += W sum_k a(p_ik) b(p_kj), as in the structure modules of protein folding
(Jumper et al. 2021, algorithm 11; here without gates). Conditions such as time enter
through adaptive layer norms with gates that start closed (Peebles & Xie 2023).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.models.layers import Norm, layer_norm

NUM_HEADS = 8
_HIDDEN = -1e9  # a logit whose softmax is 0
_NUM_BUMPS = 12
_REACH = 4.0


def embed_time(t: jax.Array, width: int) -> jax.Array:
    """Returns sines and cosines of t at frequencies from 1 to 1000, [batch, width].

    Args:
      t: Times in [0, 1], [batch].
      width: Even number of features.
    """
    frequencies = jnp.geomspace(1.0, 1000.0, width // 2, dtype=t.dtype)
    angles = t[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def radial_features(offsets: jax.Array) -> jax.Array:
    """Returns offsets and 12 Gaussian bumps of their length, centred evenly on [0, 4].

    Args:
      offsets: [..., dim].

    Returns:
      [..., dim + 12].
    """
    squares = jnp.sum(offsets**2, axis=-1, keepdims=True)
    lengths = jnp.sqrt(squares + 1e-6)
    centers = jnp.linspace(0.0, _REACH, _NUM_BUMPS, dtype=offsets.dtype)
    distances = lengths - centers.reshape((1,) * (offsets.ndim - 1) + (_NUM_BUMPS,))
    bumps = jnp.exp(-((distances * (_NUM_BUMPS / _REACH)) ** 2))
    return jnp.concatenate([offsets, bumps], axis=-1)


class PairTransformer(nn.Module):
    """A stack of layers of pair-biased attention.

    Attributes:
      node_dim: Values predicted per node.
      pair_dim: Values predicted per pair, symmetric in its nodes; 0 for none.
      width: Features of nodes.
      pair_width: Features of pairs, which take most memory and time.
      num_layers: Number of layers.
      num_heads: Number of heads; divides `width`.
    """

    node_dim: int
    pair_dim: int = 0
    width: int = 96
    pair_width: int = 16
    num_layers: int = 5
    num_heads: int = NUM_HEADS

    @nn.compact
    def __call__(
        self,
        nodes: jax.Array,
        pairs: jax.Array,
        mask: jax.Array,
        condition: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Maps a batch of graphs of padded nodes.

        Args:
          nodes: [graph, node, feature].
          pairs: [graph, node, node, feature].
          mask: True for real nodes, [graph, node].
          condition: [graph, feature], or None.

        Returns:
          Nodes [graph, node, node_dim] and pairs [graph, node, node, pair_dim] (None
          if that is 0); values in padding are meaningless.
        """
        h = nn.Dense(self.width, name="embed_nodes")(nodes)
        p = nn.Dense(self.pair_width, name="embed_pairs")(pairs)
        if condition is not None:
            condition = nn.silu(nn.Dense(self.width, name="condition")(condition))
        for i in range(self.num_layers):
            h = self._attend(i, h, p, mask, condition)
            h = self._transform(i, h, condition)
            p = self._update_pairs(i, h, p, mask)
        h = Norm("layer", name="norm_nodes")(h, train=False)
        out = nn.Dense(self.node_dim, kernel_init=nn.initializers.zeros, name="nodes")
        if not self.pair_dim:
            return out(h), None
        p = Norm("layer", name="norm_pairs")(p + p.swapaxes(1, 2), train=False)
        p = nn.gelu(nn.Dense(2 * self.pair_width, name="pairs_hidden")(p))
        return out(h), nn.Dense(self.pair_dim, name="pairs")(p)

    def _modulate(
        self, name: str, h: jax.Array, condition: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | float]:
        """Returns the normalised nodes and the gate of their update."""
        width = h.shape[-1]
        if condition is None:
            return Norm("layer", name=f"{name}_norm")(h, train=False), 1.0
        dense = nn.Dense(
            3 * width, kernel_init=nn.initializers.zeros, name=f"{name}_modulation"
        )
        shift, scale, gate = jnp.split(dense(condition)[:, None], 3, axis=-1)
        ones, zeros = jnp.ones(width, h.dtype), jnp.zeros(width, h.dtype)
        return layer_norm(h, ones, zeros) * (1.0 + scale) + shift, gate

    def _attend(
        self,
        i: int,
        h: jax.Array,
        p: jax.Array,
        mask: jax.Array,
        condition: jax.Array | None,
    ) -> jax.Array:
        heads = self.num_heads
        normed, gate = self._modulate(f"attention_{i}", h, condition)
        qkv = nn.Dense(3 * self.width, use_bias=False, name=f"qkv_{i}")(normed)
        qkv = qkv.reshape(*h.shape[:2], 3, heads, self.width // heads)
        q, k, v = (qkv[:, :, j] for j in range(3))
        logits = jnp.einsum("bihc,bjhc->bijh", q, k) / math.sqrt(q.shape[-1])
        logits = logits + nn.Dense(heads, use_bias=False, name=f"bias_{i}")(p)
        logits = jnp.where(mask[:, None, :, None], logits, _HIDDEN)
        share = jax.nn.softmax(logits, axis=2)
        values = jnp.einsum("bijh,bjhc->bihc", share, v).reshape(h.shape)
        # Features of the attended pairs, which node values cannot carry.
        of_pairs = jnp.einsum("bijh,bijc->bihc", share, p)
        values = jnp.concatenate([values, of_pairs.reshape(*h.shape[:2], -1)], axis=-1)
        return h + gate * nn.Dense(self.width, name=f"heard_{i}")(values)

    def _transform(
        self, i: int, h: jax.Array, condition: jax.Array | None
    ) -> jax.Array:
        normed, gate = self._modulate(f"mlp_{i}", h, condition)
        hidden = nn.gelu(nn.Dense(2 * self.width, name=f"mlp_{i}_hidden")(normed))
        return h + gate * nn.Dense(self.width, name=f"mlp_{i}_out")(hidden)

    def _update_pairs(
        self, i: int, h: jax.Array, p: jax.Array, mask: jax.Array
    ) -> jax.Array:
        width = self.pair_width
        normed = Norm("layer", name=f"pairs_{i}_norm")(p, train=False)
        ends = nn.Dense(2 * width, name=f"ends_{i}")(h)
        one, other = jnp.split(ends, 2, axis=-1)
        # Triangles through a third node k, from every pair of paths i-k, k-j.
        legs = nn.Dense(2 * width, name=f"legs_{i}")(normed)
        legs = jnp.where(mask[:, None, :, None], legs, 0.0)
        first, second = jnp.split(legs, 2, axis=-1)
        triangles = jnp.einsum("bikc,bjkc->bijc", first, second) / h.shape[1]
        inputs = jnp.concatenate([normed, triangles], axis=-1)
        hidden = nn.Dense(2 * width, name=f"pairs_{i}_hidden")(inputs)
        hidden += nn.Dense(2 * width, use_bias=False, name=f"pairs_{i}_ends")(
            one[:, :, None] + other[:, None]
        )
        return p + nn.Dense(width, name=f"pairs_{i}_out")(nn.gelu(hidden))
