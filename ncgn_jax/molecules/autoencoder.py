"""Encodes molecules to a few numbers per atom, and decodes them.

(arXiv 2501.03696, with corrections.) The encoder gives every atom a latent of
`latent_dim` numbers for its place in the molecule and `type_dim` for its class; the
decoder predicts atom classes and bond orders from all latents of a molecule. Latents
have mean 0 and variance 1 over the training atoms, by running statistics, so that a
noise level means the same for all.

An encoder that treats equal atoms equally cannot place them apart, and then no decoder
can find which of them are bonded. `symmetry` names the input that breaks this symmetry.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ncgn_jax.models.layers import batch_norm
from ncgn_jax.models.pair_attention import PairTransformer, radial_features
from ncgn_jax.models.pna import PNA

ENCODERS = ("pna", "depiction", "residual")
SYMMETRIES = ("none", "random", "depiction")
DECODERS = ("attention", "pna")
BOND_HEADS = ("joint", "separate")
NUM_ORDERS = 4  # none, single, double, triple

_RANDOM_FEATURES = 4
_BOND_LENGTH = 1.5  # of RDKit's depictions
_ORDER_WIDTH = 32  # hidden features of `BondOrders`


@flax.struct.dataclass
class MoleculeBatch:
    """A batch of padded molecules.

    Attributes:
      atoms: Class of each atom, int [molecule, atom]; anything in padding.
      bonds: Order of each bond, int [molecule, atom, atom], symmetric, 0 for none.
      depictions: Coordinates of a drawing, [molecule, atom, 2], 0 in padding.
      mask: True for real atoms, [molecule, atom].
    """

    atoms: jax.Array
    bonds: jax.Array
    depictions: jax.Array
    mask: jax.Array

    @property
    def pair_mask(self) -> jax.Array:
        """Returns True for pairs of different real atoms, [molecule, atom, atom]."""
        return pair_mask(self.mask)


def pair_mask(mask: jax.Array) -> jax.Array:
    """Returns True for pairs of different real atoms, bool [molecule, atom, atom].

    Args:
      mask: True for real atoms, [molecule, atom].
    """
    different = ~jnp.eye(mask.shape[1], dtype=bool)[None]
    return mask[:, :, None] & mask[:, None, :] & different


class UnitVariance(nn.Module):
    """Standardises features over real rows, with running statistics and no scale.

    Attributes:
      axis_name: Device axis over which statistics are averaged, if any.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, values: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Normalises [row, feature]; statistics are over the rows in `mask`, [row]."""
        width = values.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        var = self.variable("batch_stats", "var", jnp.ones, (width,))
        if not train:
            return (values - mean.value[None]) * jax.lax.rsqrt(var.value + 1e-5)[None]
        ones, zeros = jnp.ones(width, values.dtype), jnp.zeros(width, values.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        out, new_mean, new_var = batch_norm(values, ones, zeros, mask, axis_name)
        if not self.is_initializing():
            mean.value = 0.95 * mean.value + 0.05 * new_mean
            var.value = 0.95 * var.value + 0.05 * new_var
        return out


@dataclasses.dataclass(frozen=True)
class LatentSizes:
    """Widths of an autoencoder.

    Attributes:
      latent_dim: Numbers for the place of an atom.
      type_dim: Numbers for its class; with 0 the others must hold it.
      width: Hidden features of encoder and decoder.
      pair_width: Features of pairs in the decoder.
      num_layers: Layers of each network.
    """

    latent_dim: int
    type_dim: int
    width: int
    pair_width: int
    num_layers: int

    @property
    def total(self) -> int:
        """Returns the numbers per atom."""
        return self.latent_dim + self.type_dim


class Encoder(nn.Module):
    """Maps molecules to the mean and deviation of each atom's latent.

    `pna` passes messages along the bonds. `depiction` uses the coordinates of a
    drawing as the latent; `residual` adds learned offsets to them. Both turn and mirror
    the drawing at random. Each atom class has a learned code of `type_dim` numbers.

    Attributes:
      num_classes: Atom classes.
      sizes: Widths.
      kind: One of `ENCODERS`.
      symmetry: One of `SYMMETRIES`; `none` as published.
      noise_floor: Least deviation, in units of the deviation of latents.
      variational: Whether the deviation is learned.
      centered: Whether the mean of a molecule's first `latent_dim` numbers moves to 0.
      mean_log_degree: See `pna.aggregate`.
      axis_name: Device axis over which statistics are averaged, if any.
    """

    num_classes: int
    sizes: LatentSizes
    kind: str = "pna"
    symmetry: str = "random"
    noise_floor: float = 0.1
    variational: bool = False
    centered: bool = False
    mean_log_degree: float = 1.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, molecules: MoleculeBatch, keys: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Returns mean and deviation, [molecule, atom, total]; 0 and 1 in padding.

        Args:
          molecules: A batch.
          keys: One key per molecule, for random features and turns, [molecule].
          train: Whether to use and store the statistics of the batch.
        """
        place, log_std = self._place(molecules, keys)
        parts = [place]
        if self.sizes.type_dim:
            code = nn.Embed(self.num_classes, self.sizes.type_dim, name="types")
            parts.append(code(jnp.maximum(molecules.atoms, 0)))
        raw = jnp.concatenate(parts, axis=-1)
        flat = raw.reshape(-1, raw.shape[-1])
        norm = UnitVariance(self.axis_name, name="standardise")
        mean = norm(flat, molecules.mask.reshape(-1), train).reshape(raw.shape)
        if self.centered:
            mean = center(mean, molecules.mask, self.sizes.latent_dim)
        std = jnp.full(mean.shape, self.noise_floor, mean.dtype)
        if log_std is not None:
            learned = std[..., : self.sizes.latent_dim] + jax.nn.softplus(log_std)
            std = std.at[..., : self.sizes.latent_dim].set(learned)
        real = molecules.mask[:, :, None]
        return jnp.where(real, mean, 0.0), jnp.where(real, std, 1.0)

    def _place(
        self, molecules: MoleculeBatch, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the first `latent_dim` numbers and, if learned, log deviations."""
        sizes, drawn = self.sizes, molecules.depictions / _BOND_LENGTH
        if self.kind == "depiction":
            return turn_at_random(keys, drawn), None
        known = [jax.nn.one_hot(molecules.atoms, self.num_classes)]
        if self.kind == "residual":
            known.append(drawn)
        elif self.symmetry == "random":
            shape = (drawn.shape[1], _RANDOM_FEATURES)
            draw = jax.vmap(lambda key: jax.random.normal(key, shape))
            known.append(draw(keys))
        elif self.symmetry == "depiction":
            known.append(turn_at_random(keys, drawn))
        nodes = jnp.where(molecules.mask[:, :, None], jnp.concatenate(known, -1), 0.0)
        pairs = jax.nn.one_hot(molecules.bonds, NUM_ORDERS)[..., 1:]
        network = PNA(
            sizes.width,
            sizes.latent_dim * (1 + self.variational),
            sizes.num_layers,
            self.mean_log_degree,
            residual=True,
            name="pna",
        )
        out = network(nodes, pairs, (molecules.bonds > 0) & molecules.pair_mask)
        place, log_std = out[..., : sizes.latent_dim], None
        if self.variational:
            # Deviations start small, so that the decoder can learn from the means.
            log_std = out[..., sizes.latent_dim :] - 4.0
        if self.kind == "residual":
            # Turned last, so that all directions of the plane are alike.
            place = turn_at_random(keys, drawn + 0.4 * jnp.tanh(place))
        return place, log_std


class Decoder(nn.Module):
    """Maps latents to logits of atom classes and bond orders.

    `attention` reads all pairs of atoms with their offsets; `pna` passes messages on
    the complete graph, as published. Bond orders are predicted from pairs at once
    (`joint`) or in two steps, as published (`separate`): the bonds from the latents,
    then their orders by a graph convolution on the resulting molecule.

    Attributes:
      num_classes: Atom classes.
      sizes: Widths.
      kind: One of `DECODERS`.
      bonds: One of `BOND_HEADS`.
    """

    num_classes: int
    sizes: LatentSizes
    kind: str = "attention"
    bonds: str = "joint"

    @nn.compact
    def __call__(
        self,
        latents: jax.Array,
        mask: jax.Array,
        molecules: MoleculeBatch | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes a batch.

        Args:
          latents: [molecule, atom, total].
          mask: True for real atoms, [molecule, atom].
          molecules: True molecules, from which `separate` learns bond orders in
            training; None to use the decoded ones.

        Returns:
          Atom logits [molecule, atom, class] and bond logits [molecule, atom, atom,
          order], symmetric. The likeliest order of a `separate` decoder is 0 if a bond
          is less likely than not, as published; outside training its logits are no
          log-probabilities.
        """
        num_heads = NUM_ORDERS if self.bonds == "joint" else 1
        atoms, bonds = self._read(latents, mask, num_heads)
        if self.bonds == "joint":
            return atoms, bonds
        there = bonds[..., 0]
        classes, adjacency = jnp.argmax(atoms, -1), (there > 0) & pair_mask(mask)
        if molecules is not None:
            classes, adjacency = molecules.atoms, molecules.bonds > 0
        nodes = jax.nn.one_hot(classes, self.num_classes)
        orders = BondOrders(name="orders")(nodes, adjacency)
        orders = jax.nn.log_softmax(orders, axis=-1)
        if molecules is None:
            # The existence of a bond is decided first, then its order.
            orders = orders - jnp.max(orders, axis=-1, keepdims=True)
        logits = jnp.concatenate(
            [
                jax.nn.log_sigmoid(-there)[..., None],
                jax.nn.log_sigmoid(there)[..., None] + orders,
            ],
            axis=-1,
        )
        return atoms, logits

    def _read(
        self, latents: jax.Array, mask: jax.Array, num_heads: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns atom logits and `num_heads` numbers for each pair."""
        sizes = self.sizes
        if self.kind == "attention":
            offsets = latents[:, :, None] - latents[:, None]
            place = radial_features(offsets[..., : sizes.latent_dim])
            pairs = jnp.concatenate([place, offsets[..., sizes.latent_dim :]], axis=-1)
            transformer = PairTransformer(
                self.num_classes,
                num_heads,
                sizes.width,
                sizes.pair_width,
                sizes.num_layers,
                name="transformer",
            )
            atoms, bonds = transformer(latents, pairs, mask)
            assert bonds is not None
            return atoms, bonds
        all_pairs = mask[:, :, None] & mask[:, None]
        no_features = jnp.zeros((*all_pairs.shape, 0), latents.dtype)
        # In a complete graph all atoms have one degree, the number of atoms.
        network = PNA(sizes.width, sizes.width, sizes.num_layers, 2.0, name="pna")
        h = network(latents, no_features, all_pairs)
        atoms = nn.Dense(self.num_classes, name="atoms")(h)
        apart = jnp.abs(h[:, :, None] - h[:, None])
        together = h[:, :, None] + h[:, None]
        hidden = nn.Dense(sizes.width, name="pairs_hidden")(
            jnp.concatenate([apart, together], axis=-1)
        )
        return atoms, nn.Dense(num_heads, name="pairs")(jax.nn.relu(hidden))


class BondOrders(nn.Module):
    """Predicts bond orders from atoms and bonded pairs (arXiv 2501.03696).

    Two graph convolutions (Kipf & Welling 2017) with self loops, then a perceptron on
    the sum and the distance of both ends.
    """

    @nn.compact
    def __call__(self, nodes: jax.Array, adjacency: jax.Array) -> jax.Array:
        """Returns logits of single, double, triple, [molecule, atom, atom, 3].

        Args:
          nodes: Classes, one-hot, [molecule, atom, class].
          adjacency: Bonded pairs, bool [molecule, atom, atom].
        """
        loops = jnp.eye(nodes.shape[1], dtype=nodes.dtype)[None]
        weights = adjacency.astype(nodes.dtype) + loops
        inverse = jax.lax.rsqrt(jnp.sum(weights, axis=2))
        weights = weights * inverse[:, :, None] * inverse[:, None]
        h = nodes
        for i in range(2):
            layer = nn.Dense(_ORDER_WIDTH, name=f"convolution_{i}")
            h = jax.nn.relu(weights @ layer(h))
        ends = (h[:, :, None] + h[:, None], jnp.abs(h[:, :, None] - h[:, None]))
        hidden = nn.Dense(_ORDER_WIDTH, name="hidden")(jnp.concatenate(ends, axis=-1))
        return nn.Dense(NUM_ORDERS - 1, name="orders")(jax.nn.relu(hidden))


def turn_at_random(keys: jax.Array, coordinates: jax.Array) -> jax.Array:
    """Turns each molecule by a random angle, and mirrors half of them.

    Args:
      keys: One key per molecule, [molecule].
      coordinates: [molecule, atom, 2].
    """
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    angle, mirror = 2 * jnp.pi * drawn[:, 0], jnp.where(drawn[:, 1] < 0.5, 1.0, -1.0)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    turn = jnp.stack([cosine, -sine, mirror * sine, mirror * cosine], axis=1)
    return jnp.einsum("bij,bnj->bni", turn.reshape(-1, 2, 2), coordinates)


def center(values: jax.Array, mask: jax.Array, num: int) -> jax.Array:
    """Moves the mean over real atoms of the first `num` features to 0.

    Args:
      values: [molecule, atom, feature].
      mask: True for real atoms, [molecule, atom].
      num: Number of features to move.

    Returns:
      The moved values, 0 in padding.
    """
    real = mask[:, :, None]
    values = jnp.where(real, values, 0.0)
    count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
    mean = jnp.sum(values, axis=1, keepdims=True) / count
    moved = jnp.arange(values.shape[-1])[None, None] < num
    return jnp.where(real & moved, values - mean, values)


def reconstruction_loss(
    molecules: MoleculeBatch, atom_logits: jax.Array, bond_logits: jax.Array
) -> jax.Array:
    """Returns the negative log-likelihood of each molecule, [molecule].

    It is the sum of cross-entropies over atoms and over pairs of atoms, each pair once.
    """
    atoms = _cross_entropy(atom_logits, molecules.atoms)
    bonds = _cross_entropy(bond_logits, molecules.bonds)
    atoms = jnp.sum(jnp.where(molecules.mask, atoms, 0.0), axis=1)
    bonds = jnp.sum(jnp.where(molecules.pair_mask, bonds, 0.0), axis=(1, 2))
    return atoms + 0.5 * bonds


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits, axis=-1)
    labels = jnp.maximum(labels, 0).astype(jnp.int32)
    return -jnp.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]


def divergence(mean: jax.Array, std: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns KL(N(mean, std^2) || N(0, 1)) summed over real atoms, [molecule]."""
    terms = 0.5 * (mean**2 + std**2 - 2.0 * jnp.log(std) - 1.0)
    return jnp.sum(jnp.where(mask[:, :, None], terms, 0.0), axis=(1, 2))
