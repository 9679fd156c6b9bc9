"""Decoded bonds: valences kept, fragments against brute force, trees against scipy."""

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from ncgn_jax.molecules import bond_decoding
from ncgn_jax.molecules.bond_decoding import argmax_bonds, valency_aware_bonds

VALENCES = (0, 1, 2, 3, 4)  # class = valence
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def batches(draw, max_atoms=8, classes=(0, 1, 2, 3, 4)):
    """Molecules of any valences, padding in any place, logits without ties."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, max_atoms))
    kinds = st.sampled_from((-1, *classes))
    size = shape[0] * shape[1]
    atoms = np.array(draw(st.lists(kinds, min_size=size, max_size=size)))
    rng = np.random.default_rng(draw(SEEDS))
    logits = rng.normal(scale=3, size=(*shape, shape[1], 4))
    logits[..., 0] += draw(st.sampled_from((-8, 0, 8)))
    return logits, atoms.reshape(shape)


def num_fragments(bonds, kinds):
    """Fragments among the atoms that are there."""
    real = np.flatnonzero(kinds >= 0)
    return connected_components(bonds[np.ix_(real, real)])[0] if real.size else 0


@cache
def fewest_fragments(valences):
    """Tries every simple graph."""
    pairs = list(itertools.combinations(range(len(valences)), 2))
    best = len(valences)
    for chosen in itertools.product((0, 1), repeat=len(pairs)):
        graph = np.zeros((len(valences), len(valences)), int)
        for (i, j), bond in zip(pairs, chosen, strict=True):
            graph[i, j] = graph[j, i] = bond
        if (graph.sum(axis=1) <= valences).all():
            best = min(best, connected_components(graph)[0])
    return best


@settings(max_examples=150, deadline=None)
@given(batches())
def test_bonds_are_symmetric_and_keep_to_the_valences(batch):
    logits, atoms = batch
    bonds = valency_aware_bonds(logits, atoms, VALENCES)
    assert (bonds == bonds.swapaxes(1, 2)).all()
    assert bonds.min() >= 0
    assert bonds.max() <= 3
    assert (bonds.sum(axis=-1) <= np.maximum(atoms, 0)).all()  # padding has none
    assert not np.diagonal(bonds, axis1=1, axis2=2).any()


@settings(max_examples=300, deadline=None)
@given(batches())
def test_molecules_have_the_fewest_fragments_that_valences_permit(batch):
    logits, atoms = batch
    bonds = valency_aware_bonds(logits, atoms, VALENCES)
    for kinds, graph in zip(atoms, bonds, strict=True):
        bound = kinds[kinds > 0]
        num = max(len(bound) - sum(bound) // 2, min(len(bound), 1))
        assert num_fragments(graph, kinds) == num + (kinds == 0).sum()


@settings(max_examples=60, deadline=None)
@given(batches(max_atoms=5))
def test_fragments_against_every_graph(batch):
    logits, atoms = batch
    bonds = valency_aware_bonds(logits, atoms, VALENCES)
    for kinds, graph in zip(atoms, bonds, strict=True):
        fewest = fewest_fragments(tuple(sorted(kinds[kinds >= 0].tolist())))
        assert num_fragments(graph, kinds) == fewest


def test_monovalent_atoms_do_not_close_a_molecule():
    # F binds best to everything: greedy bonds would be F-F, or leave C and O apart.
    atoms = np.array([[1, 1, 2, 2, 3, 1]])
    logits = np.zeros((1, 6, 6, 4))
    logits[..., 0] = 5
    monovalent = atoms[0] == 1
    logits[0, monovalent, :, 1] = logits[0, :, monovalent, 1] = 9
    bonds = valency_aware_bonds(logits, atoms, VALENCES)
    assert num_fragments(bonds[0], atoms[0]) == 1
    assert not bonds[0][np.ix_(monovalent, monovalent)].any()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), SEEDS)
def test_without_limits_it_is_the_maximum_spanning_tree(num_atoms, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_atoms, num_atoms, 4))
    logits = (logits + logits.swapaxes(0, 1)) / 2
    logits[..., 0] += 20  # no other bond pays
    bonds = valency_aware_bonds(logits[None], np.zeros((1, num_atoms), int), [99])[0]
    odds = np.log(np.exp(logits[..., 1:]).sum(axis=-1)) - logits[..., 0]
    tree = minimum_spanning_tree(-odds).toarray()  # all odds are negative
    np.testing.assert_array_equal(bonds > 0, (tree + tree.T) != 0)


def test_orders_rise_by_gain_while_valence_remains():
    logits = np.zeros((1, 4, 4, 4))
    for (i, j), values in {
        (0, 1): (0, 5, 6, 7.5),  # first pair; then gains 2.5 by 3, but 0-2 gains 3
        (0, 2): (0, 4, 7, 0),
        (2, 3): (0, 4, 3, 3),
    }.items():
        logits[0, i, j] = logits[0, j, i] = values
    for i, j in ((0, 3), (1, 2), (1, 3)):
        logits[0, i, j, 0] = logits[0, j, i, 0] = 9
    bonds = valency_aware_bonds(logits, np.array([[4, 4, 4, 4]]), VALENCES)[0]
    # Atom 0 has 4: single to 1 and 2, double to 2 (gain 3), double to 1 (gain 1).
    expected = np.zeros((4, 4), int)
    for i, j, order in ((0, 1, 2), (0, 2, 2), (2, 3, 1)):
        expected[i, j] = expected[j, i] = order
    np.testing.assert_array_equal(bonds, expected)


def test_a_double_bond_needs_no_likely_single_one():
    logits = np.zeros((1, 3, 3, 4))
    logits[..., 0] = 3
    for i, j in ((0, 1), (1, 2)):
        logits[0, i, j, 1] = logits[0, j, i, 1] = 9
    logits[0, 0, 2] = logits[0, 2, 0] = (0, -50, 2, -50)
    bonds = valency_aware_bonds(logits, np.array([[3, 4, 3]]), VALENCES)[0]
    assert bonds.tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]


@settings(max_examples=60, deadline=None)
@given(batches(), SEEDS)
def test_permuted_atoms_have_permuted_bonds(batch, seed):
    logits, atoms = batch
    order = np.random.default_rng(seed).permutation(atoms.shape[1])
    bonds = valency_aware_bonds(logits, atoms, VALENCES)
    moved = valency_aware_bonds(
        logits[:, order][:, :, order], atoms[:, order], VALENCES
    )
    np.testing.assert_array_equal(moved, bonds[:, order][:, :, order])


@settings(max_examples=60, deadline=None)
@given(batches())
def test_molecules_are_independent_of_each_other_and_of_padding(batch):
    logits, atoms = batch
    bonds = valency_aware_bonds(logits, atoms, VALENCES)
    for i, kinds in enumerate(atoms):
        real = np.flatnonzero(kinds >= 0)
        alone = logits[i][np.ix_(real, real)][None], kinds[None, real]
        found = valency_aware_bonds(*alone, VALENCES)[0]
        np.testing.assert_array_equal(found, bonds[i][np.ix_(real, real)])


def test_large_batches_are_cut_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    logits, atoms = rng.normal(size=(7, 5, 5, 4)), rng.integers(-1, 5, (7, 5))
    whole = valency_aware_bonds(logits, atoms, VALENCES)
    monkeypatch.setattr(bond_decoding, "_CHUNK_ENTRIES", 250)
    np.testing.assert_array_equal(valency_aware_bonds(logits, atoms, VALENCES), whole)


def test_argmax_of_the_mean_of_both_directions():
    logits = np.zeros((1, 3, 3, 4))
    logits[0, 0, 1], logits[0, 1, 0] = (0, 5, 0, 0), (0, 0, 6, 0)
    logits[0, 0, 2, 3] = 9
    logits[..., 3] += 100 * np.eye(3)
    both = argmax_bonds(logits, np.ones((1, 3), bool))[0]
    assert both.tolist() == [[0, 2, 3], [2, 0, 0], [3, 0, 0]]
    logits[0, :, 2] = np.nan
    masked = argmax_bonds(logits, np.array([[True, True, False]]))[0]
    assert masked.tolist() == [[0, 2, 0], [2, 0, 0], [0, 0, 0]]


def test_confident_logits_come_back():
    rng = np.random.default_rng(1)
    orders = np.triu(rng.integers(0, 4, (20, 6, 6)), k=1)
    orders += orders.swapaxes(1, 2)
    logits = 9.0 * (orders[..., None] == np.arange(4))
    logits += rng.normal(scale=0.1, size=logits.shape)
    atoms = np.zeros((20, 6), int)
    np.testing.assert_array_equal(argmax_bonds(logits, atoms >= 0), orders)
    connected = [num_fragments(graph, atoms[0]) == 1 for graph in orders]
    found = valency_aware_bonds(logits, atoms, [15])
    np.testing.assert_array_equal(found[connected], orders[connected])
    assert sum(connected) > 10


def test_mask_and_nothing_at_all():
    logits, atoms = np.ones((2, 3, 3, 4)), np.full((2, 3), 4)
    mask = np.array([[True, True, False], [False] * 3])
    bonds = valency_aware_bonds(logits, atoms, VALENCES, mask)
    assert bonds[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert not bonds[1].any()
    assert valency_aware_bonds(logits[:0], atoms[:0], VALENCES).shape == (0, 3, 3)
    none = valency_aware_bonds(np.zeros((2, 0, 0, 4)), np.zeros((2, 0), int), VALENCES)
    assert none.shape == (2, 0, 0)


def test_faults():
    logits, atoms = np.zeros((2, 3, 3, 4)), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"got \(2, 3, 3, 3\) and \(2, 3\)"):
        argmax_bonds(logits[..., :3], atoms >= 0)
    with pytest.raises(ValueError, match=r"their mask is \(2, 2\)"):
        valency_aware_bonds(logits, atoms, VALENCES, np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="classes 0 to 5, but 5 valences"):
        valency_aware_bonds(logits, atoms + np.array([[0, 0, 5]]), VALENCES)
    with pytest.raises(ValueError, match="classes -1 to -1"):
        valency_aware_bonds(logits, atoms - 1, VALENCES, np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="not finite"):
        valency_aware_bonds(logits - np.inf, atoms, VALENCES)
