"""Passes messages on complete graphs, with or without coordinates (EGNN).

(Satorras et al. 2021, arXiv 2102.09844, eq. 3-6, as in their molecule code.) For
coordinates x and features h, messages use x through squared distances only:

  m_ij = phi_e(h_i, h_j, |x_i - x_j|^2)
  x_i += sum_j (x_i - x_j) / (|x_i - x_j| + 1) tanh(phi_x(m_ij)) / divisor
  h_i += phi_h(h_i, sum_j m_ij / divisor)

A rotation, reflection or shift of x applies to the new x too and leaves h unchanged.
The tanh keeps untrained networks from moving nodes far apart. Without coordinates this
is the "GNN" of arXiv 2501.03696.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.models.layers import safe_norm


class EGNN(nn.Module):
    """Predicts a displacement of every coordinate and new features.

    Attributes:
      out_dim: Values predicted per node besides the coordinates.
      width: Hidden features.
      num_layers: Layers.
      divisor: Divisor of sums over neighbours; the published 100 is far more than the
        neighbours in a small molecule.
    """

    out_dim: int
    width: int = 64
    num_layers: int = 7
    divisor: float = 10.0

    @nn.compact
    def __call__(
        self,
        coordinates: jax.Array | None,
        features: jax.Array,
        mask: jax.Array,
    ) -> tuple[jax.Array | None, jax.Array]:
        """Maps a batch of graphs of padded nodes.

        Args:
          coordinates: [graph, node, dim], or None.
          features: [graph, node, feature].
          mask: True for real nodes, [graph, node].

        Returns:
          Displacements [graph, node, dim] (None without coordinates) and features
          [graph, node, out_dim]; 0 in padding.
        """
        real = mask[:, :, None]
        pairs = mask[:, :, None] & mask[:, None, :]
        pairs = (pairs & ~jnp.eye(mask.shape[1], dtype=bool)[None])[..., None]
        h, x = nn.Dense(self.width, name="embed")(features), coordinates
        for i in range(self.num_layers):
            h, x = self._layer(i, h, x, pairs)
        features_out = nn.Dense(self.out_dim, name="readout")(h)
        features_out = jnp.where(real, features_out, 0.0)
        if coordinates is None or x is None:
            return None, features_out
        return jnp.where(real, x - coordinates, 0.0), features_out

    def _layer(
        self, i: int, h: jax.Array, x: jax.Array | None, pairs: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """Updates features and coordinates."""
        width = self.width
        # The first linear map of [h_i, h_j, distance] is split, to avoid [pair, 2 f].
        receiving = nn.Dense(width, name=f"receive_{i}")(h)[:, :, None]
        sending = nn.Dense(width, use_bias=False, name=f"send_{i}")(h)[:, None]
        messages = receiving + sending
        if x is not None:
            offsets = x[:, :, None] - x[:, None]
            squares = jnp.sum(offsets**2, axis=-1, keepdims=True)
            messages += nn.Dense(width, use_bias=False, name=f"distance_{i}")(squares)
        messages = jax.nn.silu(nn.Dense(width, name=f"message_{i}")(nn.silu(messages)))
        messages = jnp.where(pairs, messages, 0.0)
        if x is not None:
            hidden = jax.nn.silu(nn.Dense(width, name=f"steer_{i}")(messages))
            small = nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")
            steer = nn.Dense(1, use_bias=False, kernel_init=small, name=f"move_{i}")
            pull = offsets / (safe_norm(offsets) + 1.0) * jnp.tanh(steer(hidden))
            x = x + jnp.sum(jnp.where(pairs, pull, 0.0), axis=2) / self.divisor
        received = jnp.sum(messages, axis=2) / self.divisor
        inputs = jnp.concatenate([h, received], axis=-1)
        hidden = jax.nn.silu(nn.Dense(width, name=f"update_{i}")(inputs))
        return h + nn.Dense(width, name=f"mix_{i}")(hidden), x
