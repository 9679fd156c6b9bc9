"""Pairs of points and noise: permutations, medians, and transport by brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ncgn_jax.graphs import pairing as pairing_module
from ncgn_jax.graphs.pairing import (
    PAIRINGS,
    Pairing,
    match_by_transport,
    split_at_medians,
)


def draw(shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


def pair(pairing, data, noise, groups=None, num_groups=1):
    keys = jax.random.split(jax.random.key(5), len(data))
    return np.asarray(
        jax.jit(pairing, static_argnums=4)(data, noise, keys, groups, num_groups)
    )


def squared_distance(data, noise):
    return float(np.mean(np.sum((np.asarray(data) - np.asarray(noise)) ** 2, -1)))


def splits_by_hand(points, indices, num_splits, axis=0):
    """Nested median splits of a list of indices, as lists."""
    if num_splits == 0:
        return [indices]
    ordered = sorted(indices, key=lambda i: points[i][axis % len(points[0])])
    middle = -(-len(ordered) // 2)
    return [
        part
        for half in (ordered[:middle], ordered[middle:])
        for part in splits_by_hand(points, half, num_splits - 1, axis + 1)
    ]


@pytest.mark.parametrize(("num_nodes", "dim"), [(1, 3), (16, 1), (25, 3)])
@pytest.mark.parametrize("num_splits", [0, 3, 6])
def test_parts_are_nested_medians(num_nodes, dim, num_splits):
    points = draw((num_nodes, dim), 3)
    order, found = split_at_medians(points, num_splits)
    parts = splits_by_hand(points.tolist(), list(range(num_nodes)), num_splits)
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(order[found == number], sorted(part))


def test_many_points_take_another_sort_for_the_same_parts(monkeypatch):
    points = draw((300, 3), 3)
    expected = split_at_medians(points, 9)
    monkeypatch.setattr(pairing_module, "_MOST_BITS", 10)
    for mine, other in zip(split_at_medians(points, 9), expected, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("num_nodes", "dim", "share_of_leaf_size"),
    [(1, 3, {1: 0.4, 3: 0.0}), (13, 1, {1: 0.4, 3: 0.0}), (13, 3, {1: 0.0, 3: 0.4})],
)
def test_noise_stays_the_same_set(num_nodes, dim, share_of_leaf_size):
    data, noise = draw((20, num_nodes, dim), 1), draw((20, num_nodes, dim), 2)
    pairings = [
        Pairing(name, *fields)
        for name in PAIRINGS
        for fields in share_of_leaf_size.items()
    ]

    @jax.jit
    def pair_all(data, noise):
        keys = jax.random.split(jax.random.key(5), len(data))
        return [pairing(data, noise, keys) for pairing in pairings]

    for pairing, paired in zip(pairings, pair_all(data, noise), strict=True):
        for mine, before in zip(*map(np.asarray, (paired, noise)), strict=True):
            assert sorted(map(tuple, mine)) == sorted(map(tuple, before)), pairing


@pytest.mark.parametrize("name", ["splits", "transport"])
@pytest.mark.parametrize("leaf_size", [1, 3])
def test_only_nodes_of_a_group_are_paired(name, leaf_size):
    groups = jax.random.randint(jax.random.key(0), (3, 17), 0, 3)
    noise = jnp.stack([groups * 10.0, jnp.tile(jnp.arange(17.0), (3, 1))], axis=-1)
    paired = pair(
        Pairing(name, leaf_size, 0.5), draw((3, 17, 2), 1), noise, groups, num_groups=3
    )
    np.testing.assert_array_equal(paired[..., 0], 10 * groups)
    np.testing.assert_array_equal(np.sort(paired[..., 1]), np.sort(noise[..., 1]))


def test_one_dimension_is_paired_by_rank_which_is_optimal():
    data, noise = draw((4, 23, 1), 1), draw((4, 23, 1), 2)
    ranks = np.argsort(np.argsort(data, axis=1), axis=1)
    expected = np.take_along_axis(np.sort(noise, axis=1), ranks, axis=1)
    np.testing.assert_array_equal(pair(Pairing("splits"), data, noise), expected)


def test_transport_is_the_best_of_all_permutations():
    data, noise = np.asarray(draw((6, 3), 1)), np.asarray(draw((6, 3), 2))
    best = min(
        itertools.permutations(range(6)),
        key=lambda order: squared_distance(data, noise[list(order)]),
    )
    np.testing.assert_array_equal(match_by_transport(data, noise), best)


def test_pairs_come_near_to_optimal_transport():
    data, noise = draw((4, 128, 3), 1), draw((4, 128, 3), 2)
    exact = np.stack(
        [
            e[linear_sum_assignment(np.sum((d[:, None] - e[None]) ** 2, -1))[1]]
            for d, e in zip(np.asarray(data), np.asarray(noise), strict=True)
        ]
    )
    best, worst = squared_distance(data, exact), squared_distance(data, noise)
    found = {
        (name, leaf): squared_distance(data, pair(Pairing(name, leaf), data, noise))
        for name in ("splits", "transport")
        for leaf in (1, 8)
    }
    np.testing.assert_allclose(found["transport", 1], best, rtol=1e-5)
    assert best < found["splits", 1] < found["splits", 8] < worst
    assert found["transport", 8] < found["splits", 8]


def test_the_independent_share_is_one_of_points():
    data, noise = draw((50, 64, 3), 1), draw((50, 64, 3), 2)
    near = pair(Pairing("splits"), data, noise)
    for share in (0.0, 0.25, 1.0):
        mixed = pair(Pairing("splits", 1, share), data, noise)
        moved = np.mean(np.any(mixed != near, axis=-1))
        # A shuffled point stays in its place once in as many as there are.
        np.testing.assert_allclose(moved, share, atol=0.03)


def test_rows_do_not_depend_on_each_other():
    data, noise = draw((3, 16, 3), 1), draw((3, 16, 3), 2)
    keys = jax.random.split(jax.random.key(5), 3)
    pairing = Pairing("transport", 4, 0.3)
    compiled = jax.jit(lambda *rows: pairing(*rows))
    together = compiled(data, noise, keys)
    alone = compiled(data[1:2], noise[1:2], keys[1:2])
    np.testing.assert_array_equal(together[1:2], alone)


def test_none_leaves_noise_as_it_is():
    data, noise = draw((3, 16, 3), 1), draw((3, 16, 3), 2)
    np.testing.assert_array_equal(pair(Pairing(), data, noise), noise)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("near",), "pairing: found 'near'; allowed: none, splits, transport"),
        (("splits", 0), "leaf_size: found 0; allowed: at least 1"),
        (("splits", 1, 1.5), "independent_share: found 1.5; allowed: 0 to 1"),
    ],
)
def test_what_is_no_pairing_is_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        Pairing(*arguments)
