"""Networks that denoise the latents of a molecule's atoms."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.models.egnn import EGNN
from ncgn_jax.models.pair_attention import (
    PairTransformer,
    embed_time,
    radial_features,
)

NETWORKS = ("gnn", "egnn", "attention")

_TIME_FEATURES = 32


class MoleculeDenoiser(nn.Module):
    """Maps noisy latents to a prediction of the same shape.

    `gnn` passes messages between all atoms; `egnn` takes the first `latent_dim`
    numbers for coordinates, and moves them as rotations do; `attention` has a feature
    for every pair.

    Attributes:
      kind: One of `NETWORKS`.
      latent_dim: Numbers of a latent that place the atom.
      out_dim: All of them.
      width: Hidden features.
      pair_width: Features of pairs (`attention`).
      num_layers: Layers.
    """

    kind: str
    latent_dim: int
    out_dim: int
    width: int = 96
    pair_width: int = 16
    num_layers: int = 5

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        mask: jax.Array,
        condition: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts from noisy latents.

        Args:
          x_t: [molecule, atom, out_dim].
          t: Times, [molecule].
          mask: True for real atoms, [molecule, atom].
          condition: What else is known, [molecule, feature], or None.

        Returns:
          [molecule, atom, out_dim], 0 in padding.
        """
        known = embed_time(t, _TIME_FEATURES)
        if condition is not None:
            known = jnp.concatenate([known, condition], axis=1)
        if self.kind == "attention":
            out = self._attend(x_t, mask, known)
        else:
            out = self._pass_messages(x_t, mask, known)
        return jnp.where(mask[:, :, None], out, 0.0)

    def _attend(self, x_t, mask, known):
        size = jnp.mean(mask, axis=1, keepdims=True, dtype=x_t.dtype)
        offsets = x_t[:, :, None] - x_t[:, None]
        place = radial_features(offsets[..., : self.latent_dim])
        pairs = jnp.concatenate([place, offsets[..., self.latent_dim :]], axis=-1)
        network = PairTransformer(
            self.out_dim,
            width=self.width,
            pair_width=self.pair_width,
            num_layers=self.num_layers,
            name="transformer",
        )
        return network(x_t, pairs, mask, jnp.concatenate([known, size], axis=1))[0]

    def _pass_messages(self, x_t, mask, known):
        known = jnp.broadcast_to(known[:, None], (*mask.shape, known.shape[1]))
        if self.kind == "gnn":
            network = EGNN(self.out_dim, self.width, self.num_layers, name="gnn")
            features = jnp.concatenate([x_t, known], axis=-1)
            return network(None, features, mask)[1]
        coordinates = x_t[..., : self.latent_dim]
        features = jnp.concatenate([x_t[..., self.latent_dim :], known], axis=-1)
        network = EGNN(
            self.out_dim - self.latent_dim, self.width, self.num_layers, name="egnn"
        )
        moved, features = network(coordinates, features, mask)
        return jnp.concatenate([moved, features], axis=-1)
