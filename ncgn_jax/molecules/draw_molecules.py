"""Draws sheets of molecules, and of their nearest neighbours in the data.

RDKit draws the structures and is imported when first used. `draw_latents` is
re-exported.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from ncgn_jax.molecules.atom_classes import import_chem
from ncgn_jax.molecules.draw_latents import draw_latents
from ncgn_jax.pictures.output import save_figure
from ncgn_jax.pictures.style import FAINT, INK, LABEL_SIZE, title_sheet

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["draw_latents", "draw_molecule_sheet", "draw_nearest", "find_nearest"]

_WRONG = "#c0271d"
_PIXELS = (480, 372)
_INVALID = "invalid"


def draw_molecule_sheet(
    mols_or_smiles: Sequence["Mol | str"],
    path: str | Path,
    captions: Sequence[str] | None = None,
    columns: int = 6,
    title: str = "",
) -> Path:
    """Draws molecules in a grid; the invalid ones are marked "invalid" in red.

    Invalid molecules are drawn unsanitised. Text that is no SMILES, even "", gets an
    empty panel with the same mark.

    Args:
      mols_or_smiles: RDKit molecules, sanitised or not, or SMILES.
      path: File to write, for example `molecules.png`.
      captions: One line below each molecule; none if None.
      columns: Molecules per row, >= 1.
      title: Line above all of them.

    Returns:
      The path.

    Raises:
      DataError: If RDKit is absent.
      ValueError: If there is nothing to draw, or captions do not fit.
    """
    given = list(mols_or_smiles)
    captions = [""] * len(given) if captions is None else list(captions)
    if not given or len(captions) != len(given):
        raise ValueError(
            f"{len(given)} molecules and {len(captions)} captions; allowed: equal "
            "numbers, at least 1"
        )
    figure, panels = _make_grid(len(given), min(columns, len(given)))
    for axes, one, caption in zip(panels, given, captions, strict=False):
        _fill_panel(axes, one, caption)
    title_sheet(figure, title)
    return save_figure(figure, path)


def draw_nearest(
    generated_smiles: Sequence[str],
    train_smiles: Sequence[str],
    path: str | Path,
    columns: int = 6,
) -> Path:
    """Draws each generated molecule above the most similar one trained on.

    The similarity is Tanimoto's, of Morgan fingerprints of radius 2 with 2048 bits. A
    similarity of 1 does not mean equal, so molecules trained on are labelled "copy".
    Of equally similar molecules the first is drawn.

    Args:
      generated_smiles: SMILES of generated molecules; invalid ones are left out.
      train_smiles: SMILES trained on. 100,000 take some seconds.
      path: File to write, for example `nearest.png`.
      columns: Pairs per row, >= 1.

    Returns:
      The path.

    Raises:
      DataError: If RDKit is absent.
      ValueError: If either set holds no valid molecule.
    """
    pairs = find_nearest(generated_smiles, train_smiles)
    columns = min(columns, len(pairs))
    num_rows = -(-len(pairs) // columns)
    figure, panels = _make_grid(2 * num_rows * columns, columns)
    for place, (one, nearest, similarity) in enumerate(pairs):
        row, column = divmod(place, columns)
        upper = panels[2 * row * columns + column]
        lower = panels[(2 * row + 1) * columns + column]
        _fill_panel(upper, one, "generated")
        word = "copy" if one == nearest else "nearest"
        _fill_panel(lower, nearest, f"{word}, {similarity:.2f}")
        lower.set_facecolor("#f3f5f7")
    title_sheet(figure, "Generated molecules and those trained on, by similarity")
    return save_figure(figure, path)


def find_nearest(
    generated_smiles: Sequence[str], train_smiles: Sequence[str]
) -> list[tuple[str, str, float]]:
    """Pairs each valid generated molecule with the most similar one trained on.

    Args:
      generated_smiles: SMILES of generated molecules; invalid ones are left out.
      train_smiles: SMILES trained on, at least one of them valid.

    Returns:
      Canonical SMILES of both and their similarity in [0, 1], see `draw_nearest`. A
      molecule that was trained on is its own nearest.

    Raises:
      DataError: If RDKit is absent.
      ValueError: If either set holds no valid molecule.
    """
    chem = import_chem()
    from rdkit import DataStructs, rdBase
    from rdkit.Chem import rdFingerprintGenerator

    with rdBase.BlockLogs():
        sets = [
            [m for m in map(chem.MolFromSmiles, smiles) if m and m.GetNumAtoms()]
            for smiles in (generated_smiles, train_smiles)
        ]
    if not all(sets):
        raise ValueError(
            f"{len(sets[0])} generated and {len(sets[1])} molecules trained on are "
            "valid; allowed: at least one of each"
        )
    maker = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [maker.GetFingerprint(molecule) for molecule in sets[1]]
    known = [chem.MolToSmiles(molecule) for molecule in sets[1]]
    place_of = {smiles: place for place, smiles in enumerate(known)}
    pairs = []
    for molecule in sets[0]:
        own = maker.GetFingerprint(molecule)
        similar = DataStructs.BulkTanimotoSimilarity(own, prints)
        smiles = chem.MolToSmiles(molecule)
        best = place_of.get(smiles, int(np.argmax(similar)))
        pairs.append((smiles, known[best], float(similar[best])))
    return pairs


def _make_grid(num_panels: int, columns: int) -> tuple[Figure, np.ndarray]:
    rows = -(-num_panels // columns)
    figure = Figure(figsize=(1.55 * columns, 1.5 * rows))
    figure.subplots_adjust(0, 0.02, 1, 1, 0.02, 0.2)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set(xticks=[], yticks=[], aspect=_PIXELS[1] / _PIXELS[0])
        axes.spines[:].set_visible(False)
    return figure, panels


def _fill_panel(axes: Axes, one: "Mol | str", caption: str) -> None:
    """Draws one molecule with its caption below."""
    image, is_valid = render_molecule(one)
    if image is None:
        axes.text(0.5, 0.5, "?", color=FAINT, fontsize=20, ha="center", va="center")
    else:
        axes.imshow(image, interpolation="lanczos")
    words = [] if is_valid else [_INVALID]
    axes.set_xlabel(
        ", ".join([*words, *([caption] if caption else [])]),
        fontsize=LABEL_SIZE,
        color=INK if is_valid else _WRONG,
        labelpad=2,
    )


def render_molecule(one: "Mol | str") -> tuple[np.ndarray | None, bool]:
    """Renders one molecule on a transparent ground.

    Args:
      one: A molecule of RDKit, sanitised or not, or SMILES.

    Returns:
      RGBA in [0, 1], [row, column, 4], or None where nothing can be drawn; and whether
      the molecule is valid.

    Raises:
      DataError: If RDKit is absent.
    """
    molecule, is_valid = _prepare(one)
    return None if molecule is None else _render(molecule, is_valid), is_valid


def _prepare(one: "Mol | str") -> tuple["Mol | None", bool]:
    """Returns a copy to draw, if there is one, and whether it is valid."""
    chem = import_chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        given = chem.MolFromSmiles(one, sanitize=False) if isinstance(one, str) else one
        if given is None or not given.GetNumAtoms():
            return None, False
        clean = chem.Mol(given)
        try:
            chem.SanitizeMol(clean)
        except ValueError:
            raw = chem.Mol(given)
            raw.UpdatePropertyCache(strict=False)
            chem.FastFindRings(raw)
            return raw, False
        return clean, True


def _render(molecule: "Mol", is_valid: bool) -> np.ndarray | None:
    """Draws with RDKit into an image, [row, column, channel]; None if that fails."""
    from rdkit import rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    drawing = rdMolDraw2D.MolDraw2DCairo(*_PIXELS)
    options: Any = drawing.drawOptions()  # RDKit's stubs give its fields no types
    options.prepareMolsBeforeDrawing = is_valid
    options.fixedBondLength = 75
    options.bondLineWidth = 3
    options.clearBackground = False
    options.minFontSize = 26
    try:
        with rdBase.BlockLogs():
            rdDepictor.Compute2DCoords(molecule)
            drawing.DrawMolecule(molecule)
            drawing.FinishDrawing()
    except (ValueError, RuntimeError):
        return None
    return imread(BytesIO(drawing.GetDrawingText()))
