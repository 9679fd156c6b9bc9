"""Pair attention, the denoisers and the autoencoder of molecules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncgn_jax.models.pair_attention import PairTransformer, embed_time, radial_features
from ncgn_jax.molecules.autoencoder import (
    BOND_HEADS,
    DECODERS,
    ENCODERS,
    SYMMETRIES,
    BondOrders,
    Decoder,
    Encoder,
    LatentSizes,
    MoleculeBatch,
    UnitVariance,
    center,
    divergence,
    reconstruction_loss,
    turn_at_random,
)
from ncgn_jax.molecules.denoiser import NETWORKS, MoleculeDenoiser
from tests.weights import drawn

SOME_NETWORKS = [
    pytest.param(name, marks=() if name == "egnn" else pytest.mark.thorough)
    for name in NETWORKS
]
SIZES = LatentSizes(latent_dim=2, type_dim=2, width=16, pair_width=8, num_layers=2)
MASK = np.arange(5)[None] < np.array([[5], [3]])
ORDER = np.array([2, 0, 1, 4, 3])  # keeps padding behind


def apply(network, *args, **options):
    return jax.jit(functools.partial(network.apply, **options))(*args)


def molecules(num_classes=3):
    rng = np.random.default_rng(0)
    atoms = np.where(MASK, rng.integers(0, num_classes, MASK.shape), -1)
    bonds = np.triu(rng.integers(0, 4, (2, 5, 5)), k=1)
    bonds = (bonds + bonds.swapaxes(1, 2)) * (MASK[:, :, None] & MASK[:, None])
    places = rng.normal(size=(2, 5, 2)).astype(np.float32) * MASK[:, :, None]
    return MoleculeBatch(
        jnp.asarray(atoms), jnp.asarray(bonds), jnp.asarray(places), jnp.asarray(MASK)
    )


def test_pair_attention_is_equivariant_and_ignores_padding(rng):
    keys = jax.random.split(rng, 4)
    nodes = jax.random.normal(keys[0], (2, 5, 3))
    pairs = jax.random.normal(keys[1], (2, 5, 5, 2))
    condition = jax.random.normal(keys[2], (2, 4))
    network = PairTransformer(2, 3, width=16, pair_width=8, num_layers=2, num_heads=4)
    params = drawn(network.init, keys[3], nodes, pairs, MASK, condition)["params"]

    @jax.jit
    def run(nodes, pairs, mask):
        return apply(network, {"params": params}, nodes, pairs, mask, condition)

    out, out_pairs = run(nodes, pairs, MASK)
    np.testing.assert_allclose(out_pairs, out_pairs.swapaxes(1, 2), atol=1e-4)
    again, again_pairs = run(
        nodes[:, ORDER], pairs[:, ORDER][:, :, ORDER], MASK[:, ORDER]
    )
    real, both = MASK[:, ORDER], MASK[:, ORDER][:, :, None] & MASK[:, ORDER][:, None]
    close = {"rtol": 2e-3, "atol": 2e-3}
    np.testing.assert_allclose(again[real], out[:, ORDER][real], **close)
    expected = out_pairs[:, ORDER][:, :, ORDER]
    np.testing.assert_allclose(again_pairs[both], expected[both], **close)
    junk = jnp.where(MASK[:, :, None], nodes, 9.0)
    junk_pairs = jnp.where(MASK[:, :, None, None] & MASK[:, None, :, None], pairs, -9.0)
    same, _ = run(junk, junk_pairs, MASK)
    np.testing.assert_allclose(same[MASK], out[MASK], **close)


def test_third_atoms_change_a_pair(rng):
    """Triangles: a pair's output depends on pairs that share one end with it only."""
    nodes, pairs = jnp.zeros((1, 4, 2)), jax.random.normal(rng, (1, 4, 4, 2))
    mask = jnp.ones((1, 4), bool)
    network = PairTransformer(1, 1, width=8, pair_width=8, num_layers=1, num_heads=2)
    params = drawn(network.init, rng, nodes, pairs, mask)["params"]

    def value(pairs):
        return apply(network, {"params": params}, nodes, pairs, mask)[1][0, 0, 1, 0]

    gradient = jax.jit(jax.grad(value))(pairs)
    assert np.abs(gradient[0, 0, 2]).max() > 1e-4


def test_radial_features_hold_lengths_and_directions():
    offsets = jnp.array([[1.8, 2.4], [0.0, 0.0]])  # of length 3
    found = np.asarray(radial_features(offsets))
    np.testing.assert_allclose(found[:, :2], offsets)
    centers = np.linspace(0, 4, 12)
    np.testing.assert_allclose(
        found[0, 2:], np.exp(-(((3 - centers) * 12 / 4) ** 2)), atol=1e-5
    )
    assert np.isfinite(jax.grad(lambda x: jnp.sum(radial_features(x)))(offsets)).all()


def test_time_features_tell_near_times_apart():
    t = jnp.linspace(0, 1, 101)
    features = np.asarray(embed_time(t, 32))
    apart = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert apart[~np.eye(101, dtype=bool)].min() > 0.1


@pytest.mark.parametrize("kind", SOME_NETWORKS)
def test_denoisers_move_with_the_atoms_and_leave_padding(kind, rng):
    keys = jax.random.split(rng, 3)
    x_t = jax.random.normal(keys[0], (2, 5, 4)) * MASK[:, :, None]
    t, condition = jnp.array([0.2, 0.7]), jax.random.normal(keys[1], (2, 3))
    network = MoleculeDenoiser(kind, 2, 4, width=16, pair_width=8, num_layers=2)
    params = drawn(network.init, keys[2], x_t, t, MASK, condition)["params"]

    @jax.jit
    def run(x_t, t, condition, mask):
        return apply(network, {"params": params}, x_t, t, mask, condition)

    out = run(x_t, t, condition, MASK)
    assert out.shape == x_t.shape
    assert not np.asarray(out)[~MASK].any()
    again = run(x_t[:, ORDER], t, condition, MASK[:, ORDER])
    np.testing.assert_allclose(again, out[:, ORDER], rtol=1e-3, atol=1e-3)
    assert np.abs(run(x_t, t + 0.2, condition, MASK) - out).max() > 1e-4
    assert np.abs(run(x_t, t, condition + 1.0, MASK) - out).max() > 1e-4


@pytest.mark.parametrize("kind", SOME_NETWORKS)
def test_denoisers_read_their_guess_and_what_it_decodes_to(kind, rng):
    keys = jax.random.split(rng, 5)
    x_t, guess = jax.random.normal(keys[0], (2, 2, 5, 4)) * MASK[None, :, :, None]
    t = jnp.array([0.2, 0.7])
    network = MoleculeDenoiser(
        kind, 2, 4, width=16, pair_width=8, num_layers=2, self_conditioning=True,
        num_classes=3,
    )  # fmt: skip
    params = drawn(network.init, keys[1], x_t, t, MASK)["params"]
    atoms = jax.random.uniform(keys[2], (2, 5, 3))
    bonds = jax.random.uniform(keys[3], (2, 5, 5, 4))

    def run(*known):
        return apply(network, {"params": params}, x_t, t, MASK, None, *known)

    nothing = run(jnp.zeros_like(guess), (jnp.zeros_like(atoms), 0 * bonds))
    np.testing.assert_array_equal(run(None), nothing)
    assert np.abs(run(guess) - run(None)).max() > 1e-4
    assert np.abs(run(guess, (atoms, 0 * bonds)) - run(guess)).max() > 1e-4
    # Only attention has a place for bonds.
    moved = np.abs(run(guess, (0 * atoms, bonds)) - run(guess)).max()
    assert (moved > 1e-4) == (kind == "attention")


def test_egnn_denoiser_turns_with_the_placing_numbers(rng):
    x_t = jax.random.normal(rng, (2, 5, 4)) * MASK[:, :, None]
    network = MoleculeDenoiser("egnn", 2, 4, width=16, num_layers=2)
    t = jnp.array([0.2, 0.7])
    params = drawn(network.init, rng, x_t, t, MASK)["params"]
    turn = np.eye(4, dtype=np.float32)
    turn[:2, :2] = [[0.6, -0.8], [-0.8, -0.6]]
    out = apply(network, {"params": params}, x_t, t, MASK)
    turned = apply(network, {"params": params}, x_t @ turn, t, MASK)
    assert np.abs(out[..., :2]).max() > 1e-3
    np.testing.assert_allclose(turned, out @ turn, atol=1e-4)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_gives_unit_variance_and_padding_zero(kind, symmetry, rng):
    given, keys = molecules(), jax.random.split(rng, 2)
    encoder = Encoder(3, SIZES, kind, symmetry, variational=kind == "pna")
    variables = drawn(encoder.init, rng, given, keys, train=True)
    (mean, std), state = apply(
        encoder, variables, given, keys, train=True, mutable=["batch_stats"]
    )
    real = np.asarray(mean)[MASK]
    np.testing.assert_allclose(real.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(real.var(0), 1, atol=0.05)
    assert not np.asarray(mean)[~MASK].any()
    assert (np.asarray(std)[MASK] >= 0.1 - 1e-6).all()
    assert jax.tree.leaves(state)[0].shape == (4,)


def test_equal_atoms_get_equal_latents_unless_symmetry_is_broken(rng):
    """Both ends of O-C-O: nothing but `symmetry` can tell them apart."""
    atoms = jnp.array([[1, 0, 1]])
    bonds = jnp.array([[[0, 1, 0], [1, 0, 1], [0, 1, 0]]])
    places = jnp.array([[[-1.5, 0.0], [0.0, 0.0], [1.5, 0.0]]])
    given = MoleculeBatch(atoms, bonds, places, jnp.ones((1, 3), bool))
    keys = jax.random.split(rng, 1)
    for symmetry in SYMMETRIES:
        encoder = Encoder(2, SIZES, "pna", symmetry)
        variables = drawn(encoder.init, rng, given, keys, train=True)
        mean, _ = apply(encoder, variables, given, keys)
        apart = float(jnp.abs(mean[0, 0] - mean[0, 2]).max())
        assert (apart > 1e-3) == (symmetry != "none"), symmetry


def test_encoder_moves_with_the_atoms(rng):
    given, keys = molecules(), jax.random.split(rng, 2)
    moved = MoleculeBatch(
        given.atoms[:, ORDER],
        given.bonds[:, ORDER][:, :, ORDER],
        given.depictions[:, ORDER],
        given.mask[:, ORDER],
    )
    encoder = Encoder(3, SIZES, "residual")
    variables = drawn(encoder.init, rng, given, keys, train=True)
    mean, _ = apply(encoder, variables, given, keys)
    again, _ = apply(encoder, variables, moved, keys)
    np.testing.assert_allclose(again, mean[:, ORDER], rtol=1e-4, atol=1e-4)


def test_centered_latents_have_their_mean_at_zero(rng):
    given, keys = molecules(), jax.random.split(rng, 2)
    encoder = Encoder(3, SIZES, "pna", "random", centered=True)
    variables = drawn(encoder.init, rng, given, keys, train=True)
    mean, _ = apply(encoder, variables, given, keys)
    np.testing.assert_allclose(np.asarray(mean)[..., :2].sum(1), 0, atol=1e-5)
    assert np.abs(np.asarray(mean)[..., 2:].sum(1)).max() > 1e-3
    values = jnp.ones((2, 5, 4))
    assert not np.asarray(center(values, MASK, 4)).any()


@pytest.mark.parametrize("bonds", BOND_HEADS)
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_are_symmetric_and_move_with_the_atoms(kind, bonds, rng):
    latents = jax.random.normal(rng, (2, 5, 4)) * MASK[:, :, None]
    decoder = Decoder(3, SIZES, kind, bonds)
    params = drawn(decoder.init, rng, latents, MASK, molecules())["params"]

    @jax.jit
    def run(latents, mask):
        return apply(decoder, {"params": params}, latents, mask)

    atoms, orders = run(latents, MASK)
    assert atoms.shape == (2, 5, 3)
    assert orders.shape == (2, 5, 5, 4)
    both = MASK[:, :, None] & MASK[:, None]
    gap = np.abs(orders - orders.swapaxes(1, 2))[both]
    assert gap.max() < 1e-4
    atoms_again, orders_again = run(latents[:, ORDER], MASK[:, ORDER])
    real, pairs = MASK[:, ORDER], both[:, ORDER][:, :, ORDER]
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(atoms_again[real], atoms[:, ORDER][real], **close)
    np.testing.assert_allclose(
        orders_again[pairs], orders[:, ORDER][:, :, ORDER][pairs], **close
    )


def test_separate_bonds_are_probabilities_given_the_edge(rng):
    latents = jax.random.normal(rng, (2, 5, 4))
    decoder = Decoder(3, SIZES, "pna", "separate")
    variables = drawn(decoder.init, rng, latents, MASK, molecules())
    _, orders = apply(decoder, variables, latents, MASK, molecules())
    np.testing.assert_allclose(np.exp(orders).sum(-1), 1, atol=1e-5)


def test_bond_orders_follow_kipf_and_welling(rng):
    nodes = jax.random.normal(rng, (1, 3, 2))
    adjacency = jnp.array([[[0, 1, 0], [1, 0, 1], [0, 1, 0]]], bool)
    network = BondOrders()
    variables = drawn(network.init, rng, nodes, adjacency)
    found = apply(network, variables, nodes, adjacency)
    w = jax.tree.map(np.asarray, variables["params"])
    weights = np.asarray(adjacency[0], float) + np.eye(3)
    degree = np.diag(weights.sum(1) ** -0.5)
    h = np.asarray(nodes[0])
    for i in range(2):
        layer = w[f"convolution_{i}"]
        h = np.maximum(
            degree @ weights @ degree @ (h @ layer["kernel"] + layer["bias"]), 0
        )
    ends = np.concatenate([h[0] + h[1], np.abs(h[0] - h[1])])
    hidden = np.maximum(ends @ w["hidden"]["kernel"] + w["hidden"]["bias"], 0)
    expected = hidden @ w["orders"]["kernel"] + w["orders"]["bias"]
    np.testing.assert_allclose(found[0, 0, 1], expected, rtol=1e-4, atol=1e-6)


def test_reconstruction_loss_counts_atoms_and_pairs_once():
    given = molecules()
    atom_logits = np.random.default_rng(1).normal(size=(2, 5, 3))
    bond_logits = np.random.default_rng(2).normal(size=(2, 5, 5, 4))
    bond_logits = bond_logits + bond_logits.swapaxes(1, 2)
    found = reconstruction_loss(
        given, jnp.asarray(atom_logits), jnp.asarray(bond_logits)
    )
    for g, n in enumerate((5, 3)):
        total = 0.0
        for i in range(n):
            p = np.exp(atom_logits[g, i]) / np.exp(atom_logits[g, i]).sum()
            total -= np.log(p[given.atoms[g, i]])
            for j in range(i):
                p = np.exp(bond_logits[g, i, j]) / np.exp(bond_logits[g, i, j]).sum()
                total -= np.log(p[given.bonds[g, i, j]])
        assert found[g] == pytest.approx(total, rel=1e-4)


def test_divergence_is_the_integral():
    mean, std = jnp.array([[[0.7]]]), jnp.array([[[0.4]]])
    x = np.linspace(-8, 8, 20001)
    p = np.exp(-((x - 0.7) ** 2) / (2 * 0.16)) / (0.4 * np.sqrt(2 * np.pi))
    log_ratio = -((x - 0.7) ** 2) / (2 * 0.16) - np.log(0.4) + x**2 / 2
    expected = np.trapezoid(p * log_ratio, x)
    found = divergence(mean, std, jnp.ones((1, 1), bool))[0]
    assert found == pytest.approx(expected, rel=1e-4)


def test_turning_keeps_distances_and_mirrors_half(rng):
    places = jnp.broadcast_to(jnp.array([[1.0, 0.0], [0.0, 2.0]])[None], (400, 2, 2))
    turned = np.asarray(turn_at_random(jax.random.split(rng, 400), places))
    np.testing.assert_allclose(
        np.linalg.norm(turned[:, 0] - turned[:, 1], axis=-1), np.sqrt(5), rtol=1e-5
    )
    area = turned[:, 0, 0] * turned[:, 1, 1] - turned[:, 0, 1] * turned[:, 1, 0]
    np.testing.assert_allclose(np.abs(area), 2, rtol=1e-5)
    assert 0.4 < (area > 0).mean() < 0.6
    np.testing.assert_allclose(turned[:, 0].mean(0), 0, atol=0.15)


def test_running_statistics_come_to_those_of_the_data(rng):
    values = 3.0 + 2.0 * jax.random.normal(rng, (500, 2))
    mask = jnp.arange(500) < 400
    values = jnp.where(mask[:, None], values, 1e3)
    norm = UnitVariance()
    variables = norm.init(rng, values, mask, True)
    for _ in range(200):
        _, variables = norm.apply(
            variables, values, mask, True, mutable=["batch_stats"]
        )
    out = np.asarray(norm.apply(variables, values, mask, False))[:400]
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(out.var(0), 1, atol=1e-3)
