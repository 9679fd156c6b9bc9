"""Pictures of molecules: structures, the mark of invalid ones, and nearest pairs."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import imread

from ncgn_jax.molecules import draw_latents as latents_module
from ncgn_jax.molecules import draw_molecules
from ncgn_jax.molecules.draw_latents import draw_latents
from ncgn_jax.molecules.draw_molecules import (
    draw_molecule_sheet,
    draw_nearest,
    find_nearest,
)

NAMES = ("C", "N", "O", "F", "N+", "O-", "N-", "C-")


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are saved."""
    kept = []
    save = draw_molecules.save_figure

    def keep(figure, path):
        kept.append(figure)
        return save(figure, path, dpi=50)

    monkeypatch.setattr(draw_molecules, "save_figure", keep)
    monkeypatch.setattr(latents_module, "save_figure", keep)
    return kept


def labels(figure):
    return [axes.get_xlabel() for axes in figure.axes]


def test_sheet_marks_invalid_molecules(figures, tmp_path):
    chem = pytest.importorskip("rdkit.Chem")
    pentavalent = chem.MolFromSmiles("CC(C)(C)(C)C", sanitize=False)
    given = ["CCO", pentavalent, "c1cccc1", "xyz", "", chem.MolFromSmiles("N")]
    captions = ["alcohol", "five", "", "text", "none", "ammonia"]
    path = draw_molecule_sheet(given, tmp_path / "a.png", captions, columns=4)
    assert imread(path).std() > 0.01
    assert labels(figures[0]) == [
        *("alcohol", "invalid, five", "invalid", "invalid, text"),
        *("invalid, none", "ammonia", "", ""),
    ]
    is_red = [
        a.xaxis.label.get_color() == draw_molecules._WRONG for a in figures[0].axes
    ]
    assert is_red == [False, True, True, True, True, False, False, False]
    num_images = [len(axes.images) for axes in figures[0].axes]
    assert num_images == [1, 1, 1, 0, 0, 1, 0, 0]
    ink = [a.images[0].get_array()[..., 3].mean() for a in figures[0].axes if a.images]
    assert min(ink) > 0.001  # something is drawn, invalid or not
    with pytest.raises(ValueError, match="2 molecules and 1 captions"):
        draw_molecule_sheet(["C", "C"], tmp_path / "b.png", ["one"])
    with pytest.raises(ValueError, match="0 molecules"):
        draw_molecule_sheet([], tmp_path / "b.png")


def test_sheet_leaves_molecules_as_they_were(figures, tmp_path):
    chem = pytest.importorskip("rdkit.Chem")
    ring = chem.MolFromSmiles("C1=CC=CC=C1", sanitize=False)
    draw_molecule_sheet([ring], tmp_path / "a.png")
    assert not any(atom.GetIsAromatic() for atom in ring.GetAtoms())
    assert ring.GetNumConformers() == 0


def test_nearest_against_similarities_by_hand():
    pytest.importorskip("rdkit")
    from rdkit import Chem
    from rdkit.Chem import AllChem, DataStructs

    trained = ["CCO", "CCCCN", "bad(", "c1ccccc1O", "CCCO"]
    generated = ["OCCCC", "", "Cc1ccccc1", "OCC", "C(C)(C)(C)(C)C"]
    found = find_nearest(generated, trained)
    assert [pair[0] for pair in found] == ["CCCCO", "Cc1ccccc1", "CCO"]
    assert [pair[1] for pair in found] == ["CCCO", "Oc1ccccc1", "CCO"]
    for one, nearest, similarity in found:
        bits = [
            AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(s), 2, 2048)
            for s in (one, nearest)
        ]
        assert similarity == pytest.approx(DataStructs.TanimotoSimilarity(*bits))


def test_nearest_is_the_molecule_itself_among_equal_prints():
    pytest.importorskip("rdkit")
    # Long chains have equal fingerprints.
    assert find_nearest(["C" * 12], ["C" * 11, "C" * 12]) == [("C" * 12, "C" * 12, 1.0)]
    assert find_nearest(["C" * 12], ["C" * 11, "C" * 13])[0][1:] == ("C" * 11, 1.0)


def test_nearest_are_drawn_below(figures, tmp_path):
    pytest.importorskip("rdkit")
    generated, trained = ["CCO", "CCCl", "CCC"], ["CCO", "CCCC"]
    path = draw_nearest(generated, trained, tmp_path / "a.png", columns=2)
    assert imread(path).std() > 0.01
    pairs = find_nearest(generated, trained)
    below = [f"nearest, {s:.2f}" for _, _, s in pairs[1:]]
    assert labels(figures[0]) == [
        *("generated", "generated", "copy, 1.00", below[0]),
        *("generated", "", below[1], ""),
    ]
    with pytest.raises(ValueError, match="0 generated and 1 molecules trained on"):
        draw_nearest(["C(", ""], ["C"], tmp_path / "b.png")


def points_of(axes):
    """Drawn points by kind, and the order from back to front."""
    dots = [c for c in axes.collections if isinstance(c, PathCollection)]
    return {c.get_gid(): np.asarray(c.get_offsets()) for c in dots}


def test_latents_by_class_with_rare_ones_on_top(figures, tmp_path):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(60, 3))
    classes = np.array([0] * 30 + [2] * 20 + [7] * 2 + [1] * 8)
    pairs = np.stack([np.arange(59), np.arange(1, 60)], axis=1)
    bonds = np.array([0] * 20 + [1] * 30 + [3] * 9)
    path = draw_latents(latents, classes, NAMES, tmp_path / "a.png", pairs, bonds)
    assert imread(path).std() > 0.01
    atoms, differences = (points_of(axes) for axes in figures[0].axes)
    assert list(atoms) == ["C", "O", "N", "C-"]
    np.testing.assert_allclose(atoms["O"], latents[30:50, :2])
    assert list(differences) == ["single", "no bond", "triple"]
    np.testing.assert_allclose(
        differences["triple"], latents[51:60, :2] - latents[50:59, :2]
    )
    words = [t.get_text() for t in figures[0].axes[0].get_legend().get_texts()]
    assert words == ["C (30)", "O (20)", "N (8)", "C- (2)"]


def test_one_dimensional_latents_stand_on_their_class(figures, tmp_path):
    latents, classes = np.arange(6.0)[:, None], np.array([0, 0, 3, 3, 3, 1], np.int8)
    draw_latents(latents, classes, NAMES, tmp_path / "a.png")
    (axes,) = figures[0].axes
    np.testing.assert_allclose(points_of(axes)["F"], [[2, 3], [3, 3], [4, 3]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["C", "N", "F"]


def test_latents_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match=r"got \(4,\) and \(4,\)"):
        draw_latents(np.zeros(4), np.zeros(4, int), NAMES, path)
    with pytest.raises(ValueError, match="pairs without bonds"):
        draw_latents(np.zeros((4, 2)), np.zeros(4, int), NAMES, path, np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"1 pairs, but bonds \(2,\)"):
        draw_latents(
            *(np.zeros((4, 2)), np.zeros(4, int), NAMES, path),
            *(np.zeros((1, 2)), np.zeros(2, int)),
        )
