"""Measures the Frechet ChemNet distance with the optional package fcd.

(Preuer et al. 2018, arXiv 1803.09518.) ChemNet's weights come with the package, which
needs torch and RDKit.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BATCH = 128  # molecules


class ChemNetStatistics(NamedTuple):
    """Statistics of a set from which the distance is computed."""

    mean: NDArray[np.float64]  # [feature]
    covariance: NDArray[np.float64]  # [feature, feature]
    num_molecules: int


def chemnet_statistics(smiles: Sequence[str]) -> ChemNetStatistics | None:
    """Measures mean and covariance of ChemNet's last features over a set.

    Args:
      smiles: Canonical SMILES, at least 2; ChemNet reads text, so another SMILES of the
        same molecule has other features. Repetitions count.

    Returns:
      The statistics, or None if fcd, torch or RDKit is absent.

    Raises:
      ValueError: If there are fewer than 2 SMILES or one is empty.
    """
    smiles = list(smiles)
    if len(smiles) < 2 or not all(smiles):
        empty = sum(not s for s in smiles)
        raise ValueError(
            f"{len(smiles)} SMILES, {empty} of them empty; at least 2 and none empty"
        )
    try:
        import fcd
    except ModuleNotFoundError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = fcd.load_ref_model()
        features = fcd.get_predictions(network, smiles, _BATCH, n_jobs=0)
    features = features.astype(np.float64)
    covariance = np.cov(features, rowvar=False)
    return ChemNetStatistics(features.mean(axis=0), covariance, len(smiles))


def frechet_chemnet_distance(
    generated: Sequence[str] | ChemNetStatistics | None,
    reference: Sequence[str] | ChemNetStatistics | None,
) -> float | None:
    """Measures the Frechet distance between the ChemNet features of two sets.

    |m_g - m_r|^2 + Tr(C_g + C_r - 2 (C_g C_r)^(1/2)), the squared 2-Wasserstein
    distance of Gaussians with the mean and covariance of the features. Published
    numbers use the SMILES of all valid molecules, largest fragments, with repetitions:
    `[s for s in checks.smiles if s]`. The distance ignores invalid molecules.

    Estimates are biased upward, more so for smaller sets: two halves of real data
    are not 0 apart. State the reference and both sizes, and print real against real
    data of these sizes beside it.

    Args:
      generated: SMILES, or their statistics.
      reference: The same of real molecules; measure once by `chemnet_statistics`.

    Returns:
      The distance >= 0, or None if fcd, torch or RDKit is absent.

    Raises:
      ValueError: If a set has fewer than 2 SMILES or an empty one.
    """
    sets = []
    for one in (generated, reference):
        if one is not None and not isinstance(one, ChemNetStatistics):
            one = chemnet_statistics(one)
        if one is None:
            return None
        sets.append(one)
    a, b = sets
    # Tr (A B)^(1/2) = Tr (A^(1/2) B A^(1/2))^(1/2): symmetric, so real and stable.
    root = _square_root(a.covariance)
    values = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(values, 0.0)).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(np.square(a.mean - b.mean).sum() + max(spread, 0.0))


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
