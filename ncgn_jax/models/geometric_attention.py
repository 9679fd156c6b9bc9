"""Defines attention among supernodes that depends on their positions.

The published convolutions (GCN, GAT) read features only, so message passing cannot
tell a neighbour on the left from one on the right, and the finest graphs add little.
Here every pair (i, j) joined by an edge has features psi_ij: the offset r = p_j - p_i,
its second moments r r^T, and radial bumps exp(-|r|^2 / 2 l^2). Each head attends by

  logit_ij = q_i . k_j / sqrt(f) + c_i . psi_ij,   c_i a linear map of y_i,

so its state, and hence the noise level, determines at which distance and in which
direction a node attends. It receives sum_j a_ij [v_j, psi_ij]. A residual feed-forward
layer follows.

The same weights give each head a mean m and a covariance C of the neighbourhood. If
its points were Gaussian, the score at x would be -C^-1 (x - m), which points to the
surface of a flat neighbourhood and to the middle of any other. `LocalFrames` carries m
and C^-1 (scaled to order one at any noise) to the points, as input of the message that
spreads supernode features. Positions enter by differences only.

With bfloat16 values the products of features are bfloat16. Sums, softmax, the result
and everything computed from positions are float32, because C is a difference of nearly
equal numbers.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ncgn_jax.graphs import MultiscaleGraph, spread
from ncgn_jax.graphs.precision import narrowed, widen
from ncgn_jax.models.edges import PairList, pairs_of_blocks
from ncgn_jax.models.layers import Norm, dense
from ncgn_jax.models.rematerialization import compute_again

_LENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_BUMPS = np.asarray([[[[-0.5 / length**2 for length in _LENGTHS]]]], np.float32)
# In a cloud's variance; keeps the covariance of a flat neighbourhood invertible.
_LEAST_VARIANCE = 1e-4


@flax.struct.dataclass
class LocalFrames:
    """Holds mean and whitening of each supernode's neighbourhoods, one per head.

    Attributes:
      mean: Offset of the neighbourhood's mean from the supernode,
        [supernode, head, dim].
      precision: C^-1 / sqrt(trace(C^-1) / dim), [supernode, head, dim, dim].
    """

    mean: jax.Array
    precision: jax.Array

    def scores(self, offset: jax.Array, graph: MultiscaleGraph) -> jax.Array:
        """Returns precision (mean - x) at each point, [point, head * dim].

        Args:
          offset: From each point to its supernode, [point, dim].
          graph: The graphs, which assign points to supernodes.
        """
        heads, dim = self.mean.shape[1:]
        mean = spread(self.mean.reshape(-1, heads * dim), graph)
        precision = spread(self.precision.reshape(-1, heads * dim * dim), graph)
        towards_mean = mean.reshape(-1, heads, 1, dim) + offset[:, None, None, :]
        precision = precision.reshape(-1, heads, dim, dim)
        return jnp.sum(precision * towards_mean, axis=-1).reshape(-1, heads * dim)


_Attend = Callable[[dict[str, jax.Array]], jax.Array]


class GeometricAttention(nn.Module):
    """A transformer block on the coarse graph; see the module docstring.

    Attributes:
      width: Features in and out.
      num_heads: Attention heads; must divide width.
      rematerialize: Whether the backward pass computes a block's pairs again.
      dtype: Type to which hidden values are rounded, if narrower than float32; None for
        that of the features.
    """

    width: int
    num_heads: int = 4
    rematerialize: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, values: jax.Array, graph: MultiscaleGraph
    ) -> tuple[jax.Array, LocalFrames]:
        """Maps supernode features [supernode, width] to the same shape, and frames.

        Args:
          values: Features, [supernode, width].
          graph: The graphs.

        Raises:
          ValueError: If the heads do not divide the width.
        """
        if self.width % self.num_heads:
            raise ValueError(
                f"width {self.width} is not a multiple of {self.num_heads} heads"
            )
        dtype = values.dtype if self.dtype is None else self.dtype
        values = widen(values)
        inner = Norm("layer", name="norm_attention")(values, train=False)
        inner = narrowed(inner, dtype)
        project = {
            name: narrowed(dense(self.width, name, use_bias=False)(inner), dtype)
            for name in ("query", "key", "value")
        }
        num_features = _pair_features_dim(graph.positions.shape[-1])
        project["look"] = dense(self.num_heads * num_features, "look")(inner)
        parts: list[jax.Array] = []
        for pairs in pairs_of_blocks(graph):
            own = {name: array[pairs.nodes] for name, array in project.items()}
            attend: _Attend = partial(self._attend, pairs=pairs)
            if self.rematerialize:
                attend = compute_again(attend)
                if parts:  # Blocks run one by one, so memory stays that of one block.
                    own, parts[-1] = jax.lax.optimization_barrier((own, parts[-1]))
            parts.append(attend(own))
        attended = jnp.concatenate(parts)
        geometry = attended[..., -num_features:]
        frames = _frames(geometry, graph.positions.shape[-1])
        attended = attended.reshape(len(values), -1)
        values = values + dense(self.width, "out")(narrowed(attended, dtype))
        inner = Norm("layer", name="norm_update")(values, train=False)
        hidden = dense(2 * self.width, "update_0")(narrowed(inner, dtype))
        hidden = narrowed(jax.nn.relu(hidden), dtype)
        return values + dense(self.width, "update_1")(hidden), frames

    def _attend(self, project: dict[str, jax.Array], pairs: PairList) -> jax.Array:
        """Returns [node, head, f + features] for one list of pairs."""
        heads = self.num_heads
        split = {
            name: array.reshape(array.shape[0], heads, -1)
            for name, array in project.items()
        }
        query = pairs.group(split["query"] / np.sqrt(self.width // heads))
        look = pairs.group(split["look"])
        psi = _pair_features(pairs.offsets)  # [group, receiver, sender, feature]
        logits = pairs.dot(query, split["key"])
        logits += jnp.einsum("grhf,grsf->grhs", look, psi)
        logits = jnp.where(pairs.mask[:, :, None, :], logits, -1e30)
        weights = jax.nn.softmax(logits, axis=-1)
        self.sow("intermediates", "attention", weights.mean(axis=2))
        pooled = pairs.mix(weights, split["value"])
        geometry = jnp.einsum("grhs,grsf->grhf", weights, psi)
        out = jnp.concatenate([pooled, geometry], axis=-1)
        return out.reshape(-1, *out.shape[2:])


def _frames(geometry: jax.Array, dim: int) -> LocalFrames:
    """Computes mean and precision from pooled pair features, [node, head, feature]."""
    rows, columns = np.triu_indices(dim)
    mean, moments = geometry[..., :dim], geometry[..., dim : dim + len(rows)]
    is_variance = (rows == columns).astype(np.float32)[None, None]
    covariance = moments - _take(mean, rows) * _take(mean, columns)
    covariance += _LEAST_VARIANCE * is_variance
    adjugate, determinant = _adjugate(covariance, dim)
    # C^-1 / sqrt(trace(C^-1) / dim) = adj / sqrt(det trace(adj) / dim)
    trace = jnp.sum(adjugate * is_variance, axis=-1)
    # Rounding may remove the smallest variance of a thin neighbourhood.
    scale = jnp.maximum(determinant, _LEAST_VARIANCE**dim) * trace / dim
    place = np.zeros((dim, dim), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    precision = _take(adjugate * jax.lax.rsqrt(scale)[..., None], place.ravel())
    return LocalFrames(mean, precision.reshape(*precision.shape[:-1], dim, dim))


def _adjugate(upper: jax.Array, dim: int) -> tuple[jax.Array, jax.Array]:
    """Returns adjugate [node, head, entry] and determinant of symmetric matrices.

    It uses cofactors, because a batched factorisation of thousands of 3 x 3 matrices is
    slow on every backend.

    Args:
      upper: Upper triangles, row by row, [node, head, entry].
      dim: Rows of a matrix, 1 to 3.
    """
    if dim == 1:
        adjugate = jnp.ones_like(upper)
    elif dim == 2:
        adjugate = _take(upper, [2, 1, 0]) * np.asarray([[[1, -1, 1]]], np.float32)
    elif dim == 3:
        adjugate = _take(upper, [3, 2, 1, 0, 1, 0]) * _take(upper, [5, 4, 4, 5, 2, 3])
        adjugate -= _take(upper, [4, 1, 2, 2, 0, 1]) * _take(upper, [4, 5, 3, 2, 4, 1])
    else:
        raise ValueError(f"positions must have 1 to 3 dimensions, found {dim}")
    return adjugate, jnp.sum(upper[..., :dim] * adjugate[..., :dim], axis=-1)


def _take(values: jax.Array, index: Sequence[int] | np.ndarray) -> jax.Array:
    """Returns values[node, head, index] as a sum, which compiles faster, exactly."""
    chosen = np.eye(values.shape[-1], dtype=np.float32)[np.asarray(index)]
    return jnp.sum(values[..., None, :] * chosen[None, None], axis=-1)


def _pair_features_dim(dim: int) -> int:
    return dim + dim * (dim + 1) // 2 + len(_LENGTHS)


def _pair_features(offsets: jax.Array) -> jax.Array:
    """Returns offset, second moments, and radial bumps, [group, ..., feature]."""
    dim = offsets.shape[-1]
    rows, columns = np.triu_indices(dim)
    moments = offsets[..., rows] * offsets[..., columns]
    squared = jnp.sum(offsets**2, axis=-1, keepdims=True)
    bumps = jnp.exp(squared * _BUMPS)
    return jnp.concatenate([offsets, moments, bumps], axis=-1)
