"""Denoises the latents of a molecule's atoms."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ncgn_jax.models.egnn import EGNN
from ncgn_jax.models.pair_attention import (
    PairTransformer,
    embed_time,
    radial_features,
)
from ncgn_jax.molecules.autoencoder import NUM_ORDERS

NETWORKS = ("attention", "gnn", "egnn")

_TIME_FEATURES = 32


class MoleculeDenoiser(nn.Module):
    """Maps noisy latents to a prediction of the same shape.

    `gnn` passes messages between all atoms. `egnn` treats the first `latent_dim`
    numbers as coordinates and is equivariant to their rotations. `attention` has
    features for every pair.

    Attributes:
      kind: One of `NETWORKS`.
      latent_dim: Numbers of a latent for the place of the atom.
      out_dim: All numbers of a latent.
      width: Hidden features.
      pair_width: Features of pairs (`attention`).
      num_layers: Layers.
      self_conditioning: Whether an earlier guess of the clean latents is an input
        (Chen et al. 2023, arXiv 2208.04202).
      num_classes: Atom classes, if the decoded guess is an input too; else 0. Only
        `attention` reads its bonds.
    """

    kind: str
    latent_dim: int
    out_dim: int
    width: int = 96
    pair_width: int = 16
    num_layers: int = 5
    self_conditioning: bool = False
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        mask: jax.Array,
        condition: jax.Array | None = None,
        guess: jax.Array | None = None,
        decoded: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Predicts from noisy latents.

        Args:
          x_t: [molecule, atom, out_dim].
          t: Times, [molecule].
          mask: True for real atoms, [molecule, atom].
          condition: Other inputs, [molecule, feature], or None.
          guess: Earlier guess of the clean latents, shape of x_t, or None for 0; not
            read without `self_conditioning`.
          decoded: Probabilities of the guess's atom classes [molecule, atom, class]
            and bond orders [molecule, atom, atom, order], or None for 0; not read
            without `num_classes`.

        Returns:
          [molecule, atom, out_dim], 0 in padding.
        """
        known = embed_time(t, _TIME_FEATURES)
        if condition is not None:
            known = jnp.concatenate([known, condition], axis=1)
        values = [x_t]
        if self.self_conditioning:
            values.append(jnp.zeros_like(x_t) if guess is None else guess)
        classes, orders = self._decoded(decoded, mask, x_t.dtype)
        if self.kind == "attention":
            out = self._attend(values, classes, orders, mask, known)
        else:
            out = self._pass_messages(values, classes, mask, known)
        return jnp.where(mask[:, :, None], out, 0.0)

    def _decoded(
        self,
        decoded: tuple[jax.Array, jax.Array] | None,
        mask: jax.Array,
        dtype: jnp.dtype,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns features of nodes and of pairs, in lists of one or no array."""
        if not self.num_classes:
            return [], []
        if decoded is None:
            pairs = (*mask.shape, mask.shape[1], NUM_ORDERS)
            decoded = jnp.zeros((*mask.shape, self.num_classes)), jnp.zeros(pairs)
        return [decoded[0].astype(dtype)], [decoded[1].astype(dtype)]

    def _attend(
        self,
        values: list[jax.Array],
        classes: list[jax.Array],
        orders: list[jax.Array],
        mask: jax.Array,
        known: jax.Array,
    ) -> jax.Array:
        size = jnp.mean(mask, axis=1, keepdims=True, dtype=known.dtype)
        of_pairs = list(orders)
        for latents in values:
            offsets = latents[:, :, None] - latents[:, None]
            of_pairs.append(radial_features(offsets[..., : self.latent_dim]))
            of_pairs.append(offsets[..., self.latent_dim :])
        network = PairTransformer(
            self.out_dim,
            width=self.width,
            pair_width=self.pair_width,
            num_layers=self.num_layers,
            name="transformer",
        )
        nodes = jnp.concatenate([*values, *classes], axis=-1)
        pairs = jnp.concatenate(of_pairs, axis=-1)
        return network(nodes, pairs, mask, jnp.concatenate([known, size], axis=1))[0]

    def _pass_messages(
        self,
        values: list[jax.Array],
        classes: list[jax.Array],
        mask: jax.Array,
        known: jax.Array,
    ) -> jax.Array:
        known = jnp.broadcast_to(known[:, None], (*mask.shape, known.shape[1]))
        x_t, *guesses = values
        if self.kind == "gnn":
            network = EGNN(self.out_dim, self.width, self.num_layers, name="gnn")
            features = jnp.concatenate([*values, *classes, known], axis=-1)
            return network(None, features, mask)[1]
        # Features must not turn with the coordinates: of a guess, its last numbers.
        parts = [latents[..., self.latent_dim :] for latents in (x_t, *guesses)]
        network = EGNN(
            self.out_dim - self.latent_dim, self.width, self.num_layers, name="egnn"
        )
        coordinates = x_t[..., : self.latent_dim]
        moved, features = network(
            coordinates, jnp.concatenate([*parts, *classes, known], axis=-1), mask
        )
        assert moved is not None
        return jnp.concatenate([moved, features], axis=-1)
