"""Chooses the given part of a field, and makes samplers keep it.

The published tasks are masks: nothing given, the first time, the first and the last,
two of three genes, half of the places, a gene that is knocked out. `given_mask` makes
them for all data that allow them; `random_masks` draws such masks for training.

There are three ways to condition (`sample.conditioning`):
- `hold`, as published: given entries of x_t have their clean values at every t;
- `replace`: they have the noise of t, alpha data + sigma noise, with one noise for the
  whole path, so that x_t looks as in training;
- `trained`: as `hold`, with a network trained on random masks that gets the mask too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.expression.sets import FieldSet
from ncgn_jax.faults import DataError

FIELD_TASKS = (
    "unconditional",
    "forward",
    "interpolation",
    "gene_imputation",
    "space_imputation",
    "knockout",
)
CONDITIONINGS = ("hold", "replace", "trained")
_GIVEN_SHARE = 0.7


def given_mask(
    task: str, fields: FieldSet, hidden_genes: tuple[int, ...]
) -> np.ndarray:
    """Returns the entries that a task gives, bool [sample, node, gene].

    On a grid, `forward` gives the first time, `interpolation` the first and last, and
    `space_imputation` two of five places (0, 1, 5, 6, 10, 11 of 12). Off a grid,
    `space_imputation` gives the same of twelve stretches of a profile, else 70 % of
    the nodes at random.

    Args:
      task: One of `FIELD_TASKS`.
      fields: The fields; padding is never given.
      hidden_genes: Genes that `gene_imputation` hides.

    Raises:
      DataError: If the data lack the times or knocked-out genes that the task needs,
        or if the mask gives everything, or nothing for a task with conditions.
    """
    shape = fields.values.shape
    given = np.zeros(shape, bool)
    if task == "gene_imputation":
        given[:] = ~np.isin(np.arange(shape[2]), hidden_genes)
    elif task == "knockout":
        if fields.knocked_out is None:
            raise DataError(
                "sample.tasks: knockout needs fields with a knocked-out gene"
            )
        given[:] = fields.knocked_out[:, None, None] == np.arange(shape[2])
    elif task == "space_imputation":
        given[:] = _given_nodes(fields)[:, :, None]
    elif task in ("forward", "interpolation"):
        if fields.grid is None:
            raise DataError(
                f"sample.tasks: {task} needs fields on a grid of times and places"
            )
        num_times = len(fields.grid[0])
        ends = (0,) if task == "forward" else (0, num_times - 1)
        time = np.arange(shape[1]) // len(fields.grid[1])
        given[:] = np.isin(time, ends)[:, None]
    real = np.broadcast_to(fields.point_mask[:, :, None], shape)
    given &= real
    each = given.reshape(len(given), -1).sum(1), real.reshape(len(given), -1).sum(1)
    if (each[0] == each[1]).any():
        raise DataError(f"sample.tasks: {task} gives everything: nothing to generate")
    if task != "unconditional" and (each[0] == 0).any():
        raise DataError(
            f"sample.tasks: {task} gives nothing of sample {each[0].argmin()}, of "
            f"{shape[2]} genes at {shape[1]} places; leave the task out, or give more"
        )
    return given


def num_generated_times(task: str, fields: FieldSet) -> int:
    """Returns the number of generated times of a grid; 1 off a grid."""
    if fields.grid is None:
        return 1
    return len(fields.grid[0]) - {"forward": 1, "interpolation": 2}.get(task, 0)


def random_masks(keys: jax.Array, positions: jax.Array, num_genes: int) -> jax.Array:
    """Draws the entries given to a network in training, bool [row, node, gene].

    Each row gets one of four with equal probability: nothing; nodes at random; nodes
    outside an interval of one coordinate (either end may be hidden too); genes at
    random.

    Args:
      keys: One key per row.
      positions: [row, node, dim].
      num_genes: Genes.
    """

    def draw(key: jax.Array, points: jax.Array) -> jax.Array:
        kind, share, nodes, axis, ends, genes = jax.random.split(key, 6)
        num_nodes, dim = points.shape
        at_random = jax.random.uniform(nodes, (num_nodes,)) < jax.random.uniform(share)
        along = points[:, jax.random.randint(axis, (), 0, dim)]
        pair = jax.random.uniform(ends, (2,), minval=-0.2, maxval=1.2)
        span = jnp.max(along) - jnp.min(along)
        place = (along - jnp.min(along)) / jnp.where(span > 0, span, 1.0)
        outside = (place < jnp.min(pair)) | (place > jnp.max(pair))
        of_genes = jax.random.bernoulli(genes, 0.5, (num_genes,))
        nothing = jnp.zeros((1, 1), bool)
        kinds = [nothing, at_random[:, None], outside[:, None], of_genes[None, :]]
        every = jnp.stack([jnp.broadcast_to(k, (num_nodes, num_genes)) for k in kinds])
        return every[jax.random.randint(kind, (), 0, len(kinds))]

    return jax.vmap(draw)(keys, positions)


def _given_nodes(fields: FieldSet) -> np.ndarray:
    num_samples, num_nodes, _ = fields.values.shape
    if fields.grid is not None:
        place = np.arange(num_nodes) % len(fields.grid[1])
        return np.broadcast_to(place % 5 < 2, (num_samples, num_nodes))
    if fields.is_profile:
        twelfth = np.arange(num_nodes) * 12 // num_nodes
        return np.broadcast_to(twelfth % 5 < 2, (num_samples, num_nodes))
    given = np.zeros((num_samples, num_nodes), bool)
    for i, real in enumerate(fields.point_mask):
        # Each sample has its own stream, so that it does not depend on the others.
        size = int(real.sum())
        count = min(max(1, round(_GIVEN_SHARE * size)), size - 1)
        given[i, np.random.default_rng([0, i]).permutation(size)[:count]] = True
    return given
