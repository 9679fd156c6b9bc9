"""First stage of the molecule task: the autoencoder, also a task by itself.

    python -m ncgn_jax.main --config=configs/molecule_autoencoder.py

Its table says how much of held-out molecules is decoded from their latents, as they
are drawn in the second stage.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.faults import Faults
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.molecules.autoencoder import divergence, reconstruction_loss
from ncgn_jax.molecules.codec import (
    MoleculeCodec,
    Variables,
    as_molecules,
    make_batch,
)
from ncgn_jax.molecules.config import (
    default_autoencoder_config,
    validate_autoencoder,
)
from ncgn_jax.molecules.load import load_dataset
from ncgn_jax.molecules.sets import MoleculeDataset, MoleculeSet
from ncgn_jax.parallel import AXIS
from ncgn_jax.tasks.bucketed import row_keys

COLUMNS = (
    Column("atoms", "atoms %", 100, 2, "atoms decoded to their class"),
    Column("bonds", "bonds %", 100, 3, "pairs of atoms with the right order"),
    Column("adjacency", "graph %", 100, 1, "molecules with every bond in place"),
    Column("molecule", "molecule %", 100, 1, "molecules right in atoms and orders"),
    Column("variance", "variance", 1, 3, "of latents, as the encoder has them"),
    Column("dimensions", "dimensions", 1, 2, "participation ratio of the latents"),
)


def default_config() -> ConfigDict:
    """Returns every field of the task with its default."""
    return default_autoencoder_config()


def validate(config: ConfigDict, faults: Faults) -> None:
    """Checks the task's own fields."""
    validate_autoencoder(config, faults)


def make_task(config: ConfigDict) -> "AutoencoderTask":
    """Loads the data and builds the task."""
    return AutoencoderTask(config, load_dataset(config))


class AutoencoderTask:
    """Encoder and decoder, their loss and their reconstructions; see `tasks.Task`."""

    columns: tuple[Column, ...] = COLUMNS
    bucket_names = ("all",)

    def __init__(self, config: ConfigDict, dataset: MoleculeDataset):
        self.config = config
        self.dataset = dataset
        self.codec = MoleculeCodec(config, dataset.train)

    def describe(self) -> list[str]:
        """Says in a few lines which data and model are used."""
        return [f"data: {self.dataset.source}", describe_autoencoder(self.config)]

    def first_stage(self) -> None:
        """Returns what must be trained before: nothing."""
        return

    def init(self, rng: jax.Array) -> tuple[Any, Any]:
        """Returns initial parameters and statistics."""
        variables = self.codec.init(rng)
        return variables.pop("params"), variables

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns `atoms`, `bonds`, `depictions` and `row` of some rows."""
        size, train = self.config.train.batch_size, self.dataset.train
        index = batch_indices(len(train), size, step, self.config.seed)[rows]
        row = np.arange(size, dtype=np.int32)[rows]
        return {**make_batch(train, index), "row": row}

    def loss(
        self, params: Any, model_state: Any, batch: dict[str, jax.Array], rng: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Returns a device's mean loss an atom, statistics, and the loss again."""
        molecules = as_molecules(batch)
        keys = row_keys(rng, batch["row"], 2)
        (mean, std), state = self.codec.encoder(AXIS).apply(
            {"params": params["encoder"], **model_state},
            molecules,
            keys[:, 0],
            train=True,
            mutable=["batch_stats"],
        )
        latents = self.codec.add_noise(mean, std, molecules.mask, keys[:, 1])
        logits = self.codec.decoder().apply(
            {"params": params["decoder"]}, latents, molecules.mask, molecules
        )
        loss = reconstruction_loss(molecules, *logits)
        if self.config.autoencoder.variational:
            weight = self.config.autoencoder.divergence_weight
            loss = loss + weight * divergence(mean, std, molecules.mask)
        loss = jnp.mean(loss) / self.codec.max_atoms
        return loss, (dict(state), loss[None])

    def sample(
        self, params: Any, model_state: Any, num_samples: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Decodes the first test molecules from their latents.

        Returns:
          As `reconstruct`, and `variance`, that of each number of a latent before it
          is standardised, [number].
        """
        variables = {"params": params, **model_state}
        found = reconstruct(self.codec, variables, self.dataset.test, num_samples, seed)
        variance = model_state["batch_stats"]["standardise"]["var"]
        return {**found, "variance": np.asarray(variance)}

    def evaluate(
        self, samples: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, Row], dict[str, object]]:
        """Compares reconstructions with the test molecules."""
        test = self.dataset.test
        rows = {}
        for name, arrays in samples.items():
            mask = test.node_mask[: len(arrays["latents"])]
            rows[name] = reconstruction_scores(arrays, test) | {
                "variance": float(arrays["variance"].mean()),
                "dimensions": participation_ratio(arrays["latents"][mask]),
            }
        count = max(len(arrays["atoms"]) for arrays in samples.values())
        meta = {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{count} molecules",
        }
        return rows, meta

    def draw(
        self, params: Any, model_state: Any, samples: Any, folder: str | Path
    ) -> list[Path]:
        """Saves a picture of the latents."""
        from ncgn_jax.molecules.pictures import draw_latent_space

        variables = {"params": params, **model_state}
        return [draw_latent_space(self.codec, variables, self.dataset, Path(folder))]


def describe_autoencoder(config: ConfigDict) -> str:
    """Says in a line which autoencoder is used."""
    own = config.autoencoder
    symmetry = f", told apart by {own.symmetry}" if own.encoder == "pna" else ""
    return (
        f"autoencoder: {own.encoder} encoder{symmetry}, {own.latent_dim} + "
        f"{own.type_dim} numbers an atom, {own.decoder} decoder, {own.bonds} bonds"
    )


def reconstruct(
    codec: MoleculeCodec,
    variables: Variables,
    molecules: MoleculeSet,
    num: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Encodes the first molecules of a set and decodes them again.

    Returns:
      `atoms`, `bonds` and `bonds_valency`, as `MoleculeCodec.decode_all`, and
      `latents`, what they were decoded from.
    """
    latents = codec.encode_all(variables, molecules, num, seed)
    mask = molecules.node_mask[: len(latents)]
    return {"latents": latents, **codec.decode_all(variables, latents, mask)}


def reconstruction_scores(
    arrays: Mapping[str, np.ndarray], molecules: MoleculeSet
) -> Row:
    """Compares decoded molecules with those they were encoded from.

    Args:
      arrays: `atoms` and `bonds` of the first molecules of the set.
      molecules: The set.

    Returns:
      Shares in [0, 1]: `atoms`, `bonds` (of pairs of atoms), `adjacency` (molecules
      with every bond in place, of any order), `molecule` (right in every respect).
    """
    count = len(arrays["atoms"])
    truth = molecules.take(slice(count))
    mask = truth.node_mask
    pairs = mask[:, :, None] & mask[:, None] & ~np.eye(mask.shape[1], dtype=bool)
    same_atoms = (arrays["atoms"] == truth.atoms) | ~mask
    same_bonds = (arrays["bonds"] == truth.bonds) | ~pairs
    in_place = ((arrays["bonds"] > 0) == (truth.bonds > 0)) | ~pairs
    whole = same_atoms.all(axis=1) & same_bonds.all(axis=(1, 2))
    return {
        "num_generated": count,
        "atoms": float(same_atoms[mask].mean()),
        "bonds": float(same_bonds[pairs].mean()),
        "adjacency": float(in_place.all(axis=(1, 2)).mean()),
        "molecule": float(whole.mean()),
    }


def participation_ratio(values: np.ndarray) -> float:
    """Returns how many dimensions values fill, from 1 to all.

    (sum_i l_i)^2 / sum_i l_i^2, where l_i are the eigenvalues of their covariance.

    Args:
      values: [row, number].
    """
    centred = values.astype(np.float64) - values.mean(axis=0)
    covariance = centred.T @ centred / len(values)
    return float(np.trace(covariance) ** 2 / np.sum(covariance**2))
