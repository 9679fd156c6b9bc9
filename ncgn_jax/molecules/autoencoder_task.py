"""Trains and evaluates the autoencoder of molecules, their first stage.

    python -m ncgn_jax.main --config=configs/molecule_autoencoder.py

Its table says how much of held-out molecules is decoded from their latents, as they
are drawn in the second stage.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax.data.batches import batch_indices
from ncgn_jax.data.report import DataReport
from ncgn_jax.faults import Faults
from ncgn_jax.metrics.table import Column, Row
from ncgn_jax.molecules.codec import (
    MoleculeCodec,
    Variables,
    as_molecules,
    make_batch,
)
from ncgn_jax.molecules.config import (
    AUTOENCODER_FIELDS,
    AUTOENCODER_NAME,
    check_autoencoder,
    make_codec,
)
from ncgn_jax.molecules.facts import MoleculeFacts, learn_facts
from ncgn_jax.molecules.load import load_dataset
from ncgn_jax.molecules.sets import MoleculeDataset, MoleculeSet
from ncgn_jax.tasks import Arrays, Task, Tree
from ncgn_jax.tasks.bucketed import row_keys

COLUMNS = (
    Column("atoms", "atoms %", 100, 2, "atoms decoded to their class"),
    Column("bonds", "bonds %", 100, 3, "pairs of atoms with the right order"),
    Column("adjacency", "graph %", 100, 1, "molecules with every bond in place"),
    Column("molecule", "molecule %", 100, 1, "molecules right in atoms and orders"),
    Column("variance", "variance", 1, 3, "of latents, as the encoder has them"),
    Column("dimensions", "dimensions", 1, 2, "participation ratio of the latents"),
)


class AutoencoderTask(Task[MoleculeDataset, MoleculeFacts]):
    """Joins the autoencoder of molecules with its data."""

    name = AUTOENCODER_NAME
    facts_type = MoleculeFacts
    fields = AUTOENCODER_FIELDS
    samples_beside_data = True
    columns = COLUMNS
    bucket_names = ("all",)

    def __init__(
        self,
        config: ConfigDict,
        dataset: MoleculeDataset | None,
        facts: MoleculeFacts | None = None,
    ) -> None:
        super().__init__(config, dataset, facts)
        self.codec = make_codec(config, self.facts)

    @classmethod
    def check(cls, config: ConfigDict, faults: Faults) -> None:
        """Checks what holds between fields."""
        check_autoencoder(config, faults)

    @classmethod
    def load_dataset(cls, config: ConfigDict) -> MoleculeDataset:
        """Loads the molecules of a configuration."""
        return load_dataset(config)

    @classmethod
    def learn(cls, config: ConfigDict, dataset: MoleculeDataset) -> MoleculeFacts:
        """Finds atom classes and sizes of the training molecules."""
        return learn_facts(dataset.train)

    def describe_data(self) -> list[str]:
        """Describes the data in a few lines."""
        return self.dataset.report.lines(self.dataset.name)

    @property
    def report(self) -> DataReport | None:
        """How the data were read; None without them."""
        return self._dataset.report if self._dataset is not None else None

    def describe_model(self) -> list[str]:
        """Describes the model in a line."""
        return [self.codec.settings.describe()]

    def init(self, rng: jax.Array) -> tuple[Tree, Tree]:
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
        self, params: Tree, model_state: Tree, batch: Tree, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns a device's mean loss per atom, statistics, and the loss again."""
        keys = row_keys(rng, batch["row"], 2)
        loss, state = self.codec.loss(params, model_state, as_molecules(batch), keys)
        return loss, (state, loss[None])

    def sample(
        self, params: Tree, model_state: Tree, num_samples: int, seed: int
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

    def caption(self) -> dict[str, object]:
        """States what the table is measured on."""
        count = min(self.config.sample.num_samples, len(self.dataset.test))
        return {
            "data_set": self.dataset.name,
            "split": "test",
            "sizes": f"{count} molecules",
        }

    def evaluate(self, samples: Mapping[str, Arrays]) -> dict[str, Row]:
        """Compares reconstructions with the test molecules."""
        test = self.dataset.test
        rows = {}
        for name, arrays in samples.items():
            mask = test.node_mask[: len(arrays["latents"])]
            rows[name] = reconstruction_scores(arrays, test) | {
                "variance": float(arrays["variance"].mean()),
                "dimensions": participation_ratio(arrays["latents"][mask]),
            }
        return rows

    def draw(
        self, params: Tree, model_state: Tree, samples: Arrays, folder: Path
    ) -> list[Path]:
        """Saves a picture of the latents."""
        from ncgn_jax.molecules.pictures import draw_latent_space

        variables = {"params": params, **model_state}
        return [draw_latent_space(self.codec, variables, self.dataset, folder)]


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
