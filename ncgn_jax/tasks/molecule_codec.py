"""The autoencoder of molecules as both tasks use it: build, encode, decode."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.molecules import MoleculeSet
from ncgn_jax.graphs.bond_decoding import argmax_bonds, valency_aware_bonds
from ncgn_jax.models.molecule_autoencoder import (
    Decoder,
    Encoder,
    LatentSizes,
    MoleculeBatch,
)
from ncgn_jax.parallel import map_over_devices
from ncgn_jax.tasks.bucketed import sample_chunks

Variables = dict[str, Any]


class MoleculeCodec:
    """Encoder and decoder of a configuration, for molecules of known classes.

    Attributes:
      sizes: Widths.
      num_classes: Atom classes.
      max_atoms: Atoms that molecules are padded to.
    """

    def __init__(self, config: ConfigDict, molecules: MoleculeSet):
        self._fields = config.autoencoder
        own = self._fields
        self.sizes = LatentSizes(
            own.latent_dim, own.type_dim, own.width, own.pair_width, own.num_layers
        )
        self.num_classes = len(molecules.classes)
        self.max_atoms = molecules.atoms.shape[1]
        self._mean_log_degree = mean_log_degree(molecules)
        self._batch_size = config.sample.batch_size

    def encoder(self, axis_name: str | None = None) -> Encoder:
        """Returns the encoder; `axis_name` joins its statistics over devices."""
        own = self._fields
        return Encoder(
            self.num_classes,
            self.sizes,
            own.encoder,
            own.symmetry,
            own.noise_floor,
            own.variational,
            own.centered,
            self._mean_log_degree,
            axis_name,
        )

    def decoder(self) -> Decoder:
        """Returns the decoder."""
        own = self._fields
        return Decoder(self.num_classes, self.sizes, own.decoder, own.bonds)

    def init(self, rng: jax.Array) -> Variables:
        """Returns initial variables: `params` and `batch_stats`."""
        keys = jax.random.split(rng, 3)
        molecules = empty_batch(1, self.max_atoms)
        encoder = self.encoder().init(keys[0], molecules, keys[1:2], train=True)
        latents = jnp.zeros((1, self.max_atoms, self.sizes.total))
        # With the truth, so that every head of the decoder is there.
        decoder = self.decoder().init(keys[2], latents, molecules.mask, molecules)
        params = {"encoder": encoder["params"], "decoder": decoder["params"]}
        return {"params": params, "batch_stats": encoder["batch_stats"]}

    def encode(
        self, variables: Variables, molecules: MoleculeBatch, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns mean and deviation of latents, [molecule, atom, number]."""
        own = {
            "params": variables["params"]["encoder"],
            "batch_stats": variables["batch_stats"],
        }
        return self.encoder().apply(own, molecules, keys)

    def decode(
        self, variables: Variables, latents: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits of atoms and bonds."""
        own = {"params": variables["params"]["decoder"]}
        return self.decoder().apply(own, latents, mask)

    def decode_all(
        self,
        variables: Variables,
        latents: np.ndarray,
        mask: np.ndarray,
        max_valences: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Decodes any number of molecules in both ways.

        Args:
          variables: Of the autoencoder.
          latents: [molecule, atom, number].
          mask: True for real atoms, [molecule, atom].
          max_valences: Most bonds of each class, counted by order, [class].

        Returns:
          `atoms` int8 [molecule, atom], -1 in padding; `bonds` int8 [molecule, atom,
          atom], the most likely orders as they are; `bonds_valency`, the most likely
          within valences that leave the molecule in one piece.
        """
        decode = map_over_devices(
            lambda z, m, v: self.decode(v, z, m), batch_argnums=(0, 1)
        )
        found: dict[str, list[np.ndarray]] = {}
        count = len(latents)
        for rows in sample_chunks(count, self._batch_size):
            keep = count - rows[0]
            logits = decode(latents[rows], mask[rows], variables)
            atom_logits, bond_logits = (np.asarray(part)[:keep] for part in logits)
            own = mask[rows][:keep]
            atoms = np.where(own, atom_logits.argmax(-1), -1).astype(np.int8)
            parts = {
                "atoms": atoms,
                "bonds": argmax_bonds(bond_logits, own),
                "bonds_valency": valency_aware_bonds(
                    bond_logits, atoms, max_valences, own
                ),
            }
            for name, part in parts.items():
                found.setdefault(name, []).append(part.astype(np.int8))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def make_batch(molecules: MoleculeSet, index: np.ndarray) -> dict[str, np.ndarray]:
    """Gathers molecules as arrays for `as_molecules`.

    Args:
      molecules: With depictions.
      index: Which, [row].
    """
    return {
        "atoms": molecules.atoms[index],
        "bonds": molecules.bonds[index],
        "depictions": molecules.depictions[index].astype(np.float32),
    }


def as_molecules(batch: dict[str, jax.Array]) -> MoleculeBatch:
    """Names the parts of a batch."""
    atoms = jnp.asarray(batch["atoms"], jnp.int32)
    bonds = jnp.asarray(batch["bonds"], jnp.int32)
    return MoleculeBatch(atoms, bonds, jnp.asarray(batch["depictions"]), atoms >= 0)


def empty_batch(count: int, max_atoms: int) -> MoleculeBatch:
    """Returns molecules of unbonded atoms of the first class, to shape a network."""
    return MoleculeBatch(
        jnp.zeros((count, max_atoms), jnp.int32),
        jnp.zeros((count, max_atoms, max_atoms), jnp.int32),
        jnp.zeros((count, max_atoms, 2)),
        jnp.ones((count, max_atoms), bool),
    )


def mean_log_degree(molecules: MoleculeSet) -> float:
    """Returns the mean of log(degree + 1) over all atoms, delta of `models.pna`."""
    degrees = (molecules.bonds > 0).sum(axis=2)[molecules.node_mask]
    return float(np.mean(np.log(degrees + 1.0)))
