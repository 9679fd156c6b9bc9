"""Builds, encodes and decodes with the autoencoder, for both tasks of molecules."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.models.apply import apply_network
from ncgn_jax.molecules.autoencoder import (
    Decoder,
    Encoder,
    LatentSizes,
    MoleculeBatch,
    center,
    divergence,
    reconstruction_loss,
)
from ncgn_jax.molecules.bond_decoding import argmax_bonds, valency_aware_bonds
from ncgn_jax.molecules.facts import MoleculeFacts
from ncgn_jax.molecules.process import masked_noise
from ncgn_jax.molecules.sets import MoleculeSet, max_valences
from ncgn_jax.parallel import AXIS, map_over_devices
from ncgn_jax.tasks.bucketed import row_keys
from ncgn_jax.tasks.sampling import sample_chunks

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CodecSettings:
    """The size and kind of the autoencoder; see `molecules.autoencoder`.

    Attributes:
      encoder: One of `ENCODERS`.
      symmetry: How the encoder tells equal atoms apart, one of `SYMMETRIES`.
      decoder: One of `DECODERS`.
      bonds: One of `BOND_HEADS`.
      sizes: Widths.
      noise_floor: Least deviation of a latent, in deviations over the training set.
      variational: Whether the deviations are learned.
      divergence_weight: Weight of the divergence from the prior.
      centered: Whether the placing numbers of a molecule have mean 0.
    """

    encoder: str
    symmetry: str
    decoder: str
    bonds: str
    sizes: LatentSizes
    noise_floor: float
    variational: bool
    divergence_weight: float
    centered: bool

    def describe(self) -> str:
        """Describes the autoencoder in a line."""
        by = f", equal atoms told apart by {self.symmetry}"
        return (
            f"autoencoder: {self.encoder} encoder{by * (self.encoder == 'pna')}, "
            f"{self.sizes.latent_dim} + {self.sizes.type_dim} numbers per atom, "
            f"{self.decoder} decoder, {self.bonds} bonds"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MoleculeCodec:
    """Encoder and decoder of molecules of known atom classes.

    Attributes:
      settings: Size and kind.
      facts: What the training molecules taught.
      batch_size: Most molecules in a call, over all devices.
    """

    settings: CodecSettings
    facts: MoleculeFacts
    batch_size: int

    @property
    def sizes(self) -> LatentSizes:
        """Widths."""
        return self.settings.sizes

    @property
    def classes(self) -> tuple[str, ...]:
        """Atom classes, in the order of the decoder's logits."""
        return self.facts.classes

    @property
    def num_classes(self) -> int:
        """Number of atom classes."""
        return len(self.classes)

    @property
    def max_atoms(self) -> int:
        """Atoms that molecules are padded to."""
        return self.facts.max_atoms

    def encoder(self, axis_name: str | None = None) -> Encoder:
        """Returns the encoder; `axis_name` joins its statistics over devices."""
        own = self.settings
        return Encoder(
            self.num_classes,
            self.sizes,
            own.encoder,
            own.symmetry,
            own.noise_floor,
            own.variational,
            own.centered,
            self.facts.mean_log_degree,
            axis_name,
        )

    def decoder(self) -> Decoder:
        """Returns the decoder."""
        own = self.settings
        return Decoder(self.num_classes, self.sizes, own.decoder, own.bonds)

    def loss(
        self,
        params: Any,
        model_state: Any,
        molecules: MoleculeBatch,
        keys: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Returns a device's mean loss per atom, and new statistics.

        Args:
          params: Of encoder and decoder.
          model_state: Statistics of the encoder.
          molecules: A batch.
          keys: Two keys per molecule, [molecule, 2].
        """
        (mean, std), state = self.encoder(AXIS).apply(
            {"params": params["encoder"], **model_state},
            molecules,
            keys[:, 0],
            train=True,
            mutable=["batch_stats"],
        )
        latents = self.add_noise(mean, std, molecules.mask, keys[:, 1])
        logits = self.decoder().apply(
            {"params": params["decoder"]}, latents, molecules.mask, molecules
        )
        loss = reconstruction_loss(molecules, *logits)
        if self.settings.variational:
            weight = self.settings.divergence_weight
            loss = loss + weight * divergence(mean, std, molecules.mask)
        return jnp.mean(loss) / self.max_atoms, dict(state)

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
        return apply_network(self.encoder(), own, molecules, keys)

    def draw_latents(
        self,
        variables: Variables,
        molecules: MoleculeBatch,
        keys: jax.Array,
        share: float = 1.0,
    ) -> jax.Array:
        """Draws the latents of molecules as both stages take them.

        Args:
          variables: Of the autoencoder.
          molecules: A batch.
          keys: Two keys per molecule, [molecule, 2].
          share: How much of the deviation is added.

        Returns:
          [molecule, atom, number], 0 in padding.
        """
        mean, std = self.encode(variables, molecules, keys[:, 0])
        return self.add_noise(mean, share * std, molecules.mask, keys[:, 1])

    def add_noise(
        self, mean: jax.Array, std: jax.Array, mask: jax.Array, keys: jax.Array
    ) -> jax.Array:
        """Returns mean + std * noise, centred, from one key per molecule."""
        noise = masked_noise(keys, mask, mean.shape[-1])
        return self.center(mean + std * noise, mask)

    def center(self, values: jax.Array, mask: jax.Array) -> jax.Array:
        """Moves the mean of the placing numbers to 0, if the autoencoder is centred."""
        if not self.settings.centered:
            return values
        return center(values, mask, self.sizes.latent_dim)

    def mask_of(self, sizes: np.ndarray) -> np.ndarray:
        """Returns which atoms are real in molecules of given sizes, [molecule, atom].

        Args:
          sizes: Atoms of each molecule, [molecule].
        """
        return np.arange(self.max_atoms)[None] < np.asarray(sizes)[:, None]

    def decode(
        self, variables: Variables, latents: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits of atoms and bonds."""
        own = {"params": variables["params"]["decoder"]}
        return apply_network(self.decoder(), own, latents, mask)

    def decode_all(
        self,
        variables: Variables,
        latents: np.ndarray,
        mask: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Decodes any number of molecules in both ways.

        Args:
          variables: Of the autoencoder.
          latents: [molecule, atom, number].
          mask: True for real atoms, [molecule, atom].

        Returns:
          `atoms` int8 [molecule, atom], -1 in padding; `bonds` int8 [molecule, atom,
          atom], the most likely orders as they are; `bonds_valency`, the most likely
          within valences that leave the molecule in one piece.
        """
        found: dict[str, list[np.ndarray]] = {}
        count = len(latents)
        for rows in sample_chunks(count, self.batch_size):
            keep = count - rows[0]
            logits = self._decode_rows(latents[rows], mask[rows], variables)
            atom_logits, bond_logits = (np.asarray(part)[:keep] for part in logits)
            own = mask[rows][:keep]
            atoms = np.where(own, atom_logits.argmax(-1), -1).astype(np.int8)
            parts: dict[str, np.ndarray] = {
                "atoms": atoms,
                "bonds": argmax_bonds(bond_logits, own),
                "bonds_valency": valency_aware_bonds(
                    bond_logits, atoms, max_valences(self.classes), own
                ),
            }
            for name, part in parts.items():
                found.setdefault(name, []).append(part.astype(np.int8))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def encode_all(
        self,
        variables: Variables,
        molecules: MoleculeSet,
        num: int,
        seed: int,
        share: float = 1.0,
    ) -> np.ndarray:
        """Draws the latents of the first molecules of a set.

        Args:
          variables: Of the autoencoder.
          molecules: With depictions.
          num: How many, if there are as many.
          seed: Seed of all draws.
          share: How much of the deviation is added.

        Returns:
          float32 [molecule, atom, number], 0 in padding.
        """
        count, parts = min(num, len(molecules)), []
        rng = jax.random.key(seed)
        for rows in sample_chunks(count, self.batch_size):
            keys = row_keys(rng, rows, 2)
            batch = make_batch(molecules, rows)
            latents = self._encode_rows(batch, keys, variables, np.float32(share))
            parts.append(np.asarray(latents)[: count - rows[0]])
        return np.concatenate(parts)

    @functools.cached_property
    def _decode_rows(self):
        """Compiles the decoder over all devices."""
        return map_over_devices(
            lambda latents, mask, variables: self.decode(variables, latents, mask),
            batch_argnums=(0, 1),
        )

    @functools.cached_property
    def _encode_rows(self):
        """Compiles the encoder over all devices."""

        def run(batch, keys, variables, share):
            return self.draw_latents(variables, as_molecules(batch), keys, share)

        return map_over_devices(run, batch_argnums=(0, 1))


def make_batch(molecules: MoleculeSet, index: np.ndarray) -> dict[str, np.ndarray]:
    """Gathers molecules as arrays for `as_molecules`.

    Args:
      molecules: With depictions.
      index: Which, [row].
    """
    if molecules.depictions is None:
        raise ValueError("these molecules were read without depictions")
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
