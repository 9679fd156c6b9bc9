"""Draws molecules, latents and paths, and writes generated molecules to files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.molecules.codec import MoleculeCodec, Variables
from ncgn_jax.molecules.draw_molecules import (
    draw_latents,
    draw_molecule_sheet,
    draw_nearest,
)
from ncgn_jax.molecules.export import (
    RAW,
    REPAIRED,
    smiles_to_molecules,
    write_sdf,
    write_smiles,
)
from ncgn_jax.molecules.sets import MoleculeDataset
from ncgn_jax.molecules.validity import check_molecules, to_molecule

_NUM_SHEET = 36
_NUM_NEAREST = 10
_NUM_LATENTS = 500


def draw_all(
    codec: MoleculeCodec,
    variables: Variables,
    samples: Mapping[str, np.ndarray],
    dataset: MoleculeDataset | None,
    paths: Sequence[tuple[np.ndarray, float, np.ndarray]],
    folder: Path,
) -> list[Path]:
    """Draws generated molecules, their nearest ones, paths and latents.

    Args:
      codec: The autoencoder.
      variables: Of the autoencoder.
      samples: `atoms`, `bonds` and `bonds_valency`, as decoded.
      dataset: The data; None to draw the molecules alone.
      paths: Latents, t and mask of the first samples, from noise to data.
      folder: Where to.

    Returns:
      Paths of the pictures. Beside them `molecules.smi` and `molecules.sdf` hold the
      molecules of `usable_molecules`, each with `raw` or `repaired` and the number of
      its sample.
    """
    classes = codec.classes
    smiles, about = usable_molecules(samples, classes)
    write_smiles(folder / "molecules.smi", smiles, about)
    write_sdf(folder / "molecules.sdf", smiles_to_molecules(smiles, about))
    drawn = [
        to_molecule(*pair, classes)
        for pair in zip(
            samples["atoms"][:_NUM_SHEET], samples["bonds"][:_NUM_SHEET], strict=True
        )
    ]
    pictures = [
        draw_molecule_sheet(
            drawn, folder / "molecules.png", title="Generated molecules, as decoded"
        )
    ]
    if smiles and dataset is not None:
        known = dataset.train.smiles.tolist()
        nearest = list(dict.fromkeys(smiles))[:_NUM_NEAREST]
        pictures.append(draw_nearest(nearest, known, folder / "nearest.png", columns=5))
    pictures.append(_draw_paths(codec, variables, paths, folder))
    if dataset is not None:
        pictures.append(draw_latent_space(codec, variables, dataset, folder))
    return pictures


def usable_molecules(
    samples: Mapping[str, np.ndarray], classes: Sequence[str]
) -> tuple[list[str], list[tuple[str, int]]]:
    """Finds the valid molecules in one piece, in the order of the samples.

    A sample gives its molecule as decoded (`raw`: these are counted in `VC %`), or, if
    that is not valid and in one piece, the one with bonds decoded within valences
    (`repaired`: of `tree VC %`).

    Args:
      samples: `atoms`, `bonds` and `bonds_valency`, as decoded.
      classes: Name of each atom class.

    Returns:
      SMILES; and, of each, the kind and the number of the sample.
    """
    found: dict[int, tuple[str, str]] = {}
    for kind, name in ((REPAIRED, "bonds_valency"), (RAW, "bonds")):
        checks = check_molecules(samples["atoms"], samples[name], classes)
        for i in np.flatnonzero(checks.valid & checks.connected).tolist():
            found[i] = checks.smiles[i], kind
    order = sorted(found)
    return [found[i][0] for i in order], [(found[i][1], i) for i in order]


def draw_latent_space(
    codec: MoleculeCodec,
    variables: Variables,
    dataset: MoleculeDataset,
    folder: Path,
) -> Path:
    """Draws the latents of test molecules by class, and of pairs by bond order."""
    test = dataset.test.take(slice(_NUM_LATENTS))
    latents = codec.encode_all(variables, test, len(test), seed=0)
    mask = test.node_mask
    number = np.cumsum(mask.ravel()).reshape(mask.shape) - 1  # of the real atoms
    molecule, one, other = np.nonzero(np.triu(mask[:, :, None] & mask[:, None], k=1))
    return draw_latents(
        latents[mask],
        test.atoms[mask],
        test.classes,
        folder / "latents.png",
        pairs=np.stack([number[molecule, one], number[molecule, other]], axis=1),
        bonds=test.bonds[molecule, one, other],
    )


def _draw_paths(
    codec: MoleculeCodec,
    variables: Variables,
    paths: Sequence[tuple[np.ndarray, float, np.ndarray]],
    folder: Path,
) -> Path:
    """Draws molecules decoded on the way from noise to data, a row each."""
    columns, captions = [], []
    for latents, t, mask in paths:
        parts = codec.decode_all(variables, latents, mask)
        columns.append(
            [
                to_molecule(atoms, bonds, codec.classes)
                for atoms, bonds in zip(parts["atoms"], parts["bonds"], strict=True)
            ]
        )
        captions.append(f"t = {t:.2f}")
    num_rows = len(columns[0])
    drawn = [column[i] for i in range(num_rows) for column in columns]
    return draw_molecule_sheet(
        drawn,
        folder / "paths.png",
        captions * num_rows,
        columns=len(columns),
        title="From noise to molecules, a row each",
    )
