"""Plain ways to fill hidden values of fields, for a learned one to be compared with.

Three look around in space, gene by gene (`nearest_in_space`, `linear_in_space`,
`gaussian_process`), one looks at the other genes of the same node
(`linear_regression`). None of them ever reads a value that is marked hidden; visible
values come back as they are.

Example:
  >>> import numpy as np
  >>> places = np.arange(4.0)[:, None]
  >>> values = np.array([0.0, 1.0, -9.0, 3.0]).reshape(1, 4, 1)
  >>> linear_in_space(values, values < 0, places).ravel().tolist()
  [0.0, 1.0, 2.0, 3.0]
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

# Noise variances tried, as multiples of the signal variance; none is 0, which would
# leave the covariance of a smooth field without a numerical inverse.
NOISE_RATIOS = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_NUM_LENGTHS = 10

Array = NDArray[np.float64]


class GaussianProcess(NamedTuple):
    """Parameters of one Gaussian process per gene.

    Values are mean + f(place) + noise, cov(f) = s^2 exp(-d^2 / (2 length_scale^2)) at
    distance d, noise variance = noise_ratio * s^2. The variance s^2 itself plays no
    part in the posterior mean.
    """

    mean: Array  # [gene]
    length_scale: Array  # [gene], unit of the positions
    noise_ratio: Array  # [gene]


def nearest_in_space(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    fallback: ArrayLike | None = None,
) -> Array:
    """Gives every hidden entry the value of the nearest node that shows the gene.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places of the nodes, [node, dim], or [sample, node, dim].
      fallback: Value per gene, [gene], for samples that show it nowhere, e.g. the
        mean of the training set; without it such samples are refused.

    Returns:
      Filled fields, [sample, node, gene]. Of equally near nodes the first counts.

    Raises:
      ValueError: If shapes do not fit, the mask is not bool, a visible value is not
        finite, or a gene is hidden throughout a sample and there is no fallback.
    """

    def fill(places: Array, seen: Array, others: Array) -> Array:
        return seen[cdist(others, places).argmin(axis=1)]

    return _fill_in_space(fill, values, hidden, positions, fallback)


def linear_in_space(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    fallback: ArrayLike | None = None,
) -> Array:
    """Interpolates linearly between the visible neighbours of a node on a line.

    Beyond the outermost visible node its value is kept.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places on the line in any order, [node, 1] or [sample, node, 1].
      fallback: As in `nearest_in_space`.

    Returns:
      Filled fields, [sample, node, gene].

    Raises:
      ValueError: As `nearest_in_space`, or if positions have more than one axis.
    """
    positions = np.asarray(positions, np.float64)
    if positions.shape[-1:] != (1,):
        raise ValueError(
            f"positions must be on a line, [..., 1]; got {positions.shape}"
        )

    def fill(places: Array, seen: Array, others: Array) -> Array:
        order = places[:, 0].argsort(kind="stable")
        places, seen = places[order, 0], seen[order]
        columns = [np.interp(others[:, 0], places, column) for column in seen.T]
        return np.stack(columns, axis=1)

    return _fill_in_space(fill, values, hidden, positions, fallback)


def gaussian_process(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    parameters: GaussianProcess | None = None,
) -> Array:
    """Fills hidden entries with the posterior mean of a Gaussian process per gene.

    m + k_*^T (K + g I)^-1 (y - m) with K = exp(-d^2 / (2 l^2)), exact (Rasmussen and
    Williams 2006, eq. 2.25); genes are independent. A gene that a sample shows
    nowhere gets its mean m.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places of the nodes, [node, dim], or [sample, node, dim].
      parameters: From `fit_gaussian_process`, on training fields or on these; by
        default fitted once to what is visible of all these fields.

    Returns:
      Filled fields, [sample, node, gene].

    Raises:
      ValueError: If shapes do not fit, the mask is not bool, a visible value is not
        finite, or there is nothing to fit parameters to.
    """
    if parameters is None:
        parameters = fit_gaussian_process(values, hidden, positions)
    values, hidden, positions = _check(values, hidden, positions)
    if len(parameters.mean) != values.shape[2]:
        raise ValueError(
            f"parameters of {len(parameters.mean)} genes for {values.shape[2]} genes"
        )
    filled = np.where(hidden, parameters.mean, values)
    kernels = np.stack([parameters.length_scale, parameters.noise_ratio])
    for sample, covered, genes in _group_genes(hidden):
        places, others = positions[sample][~covered], positions[sample][covered]
        if not (len(places) and len(others)):
            continue
        # Genes with the same kernel share one factorisation, by far the dearest step.
        pairs, group = np.unique(kernels[:, genes], axis=1, return_inverse=True)
        for index, (length, noise) in enumerate(pairs.T):
            members = genes[group.reshape(-1) == index]
            mean = parameters.mean[members]
            seen = values[sample][np.ix_(~covered, members)] - mean
            covariance = _kernel(places, places, length) + noise * np.eye(len(places))
            weights = cho_solve(cho_factor(covariance), seen)
            filled[sample][np.ix_(covered, members)] = (
                mean + _kernel(others, places, length) @ weights
            )
    return filled


def fit_gaussian_process(
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    *,
    length_scales: ArrayLike | None = None,
    noise_ratios: ArrayLike = NOISE_RATIOS,
    max_nodes: int = 256,
    max_samples: int = 4,
    seed: int = 0,
) -> GaussianProcess:
    """Chooses a length scale and a noise level per gene by marginal likelihood.

    log p(y) = -1/2 sum log|s^2 (K + g I)| - 1/2 y^T (K + g I)^-1 y / s^2 + const
    (Rasmussen and Williams 2006, eq. 2.30) with its best s^2 put in, summed over
    samples, on every pair of a grid; y is the value less the gene's visible mean.

    Args:
      values: Fields, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      positions: Places of the nodes, [node, dim], or [sample, node, dim].
      length_scales: Candidates, > 0; by default ten from the median distance of
        nearest nodes to twice the longest side of the box around them.
      noise_ratios: Candidates for g, > 0.
      max_nodes: Nodes used of one sample, a seeded draw among those that show the
        gene: the cost grows with their cube.
      max_samples: Samples used, a seeded draw.
      seed: Seed of both draws.

    Returns:
      The parameters. A gene that does not vary gets any; its mean decides alone.

    Raises:
      ValueError: If shapes do not fit, the mask is not bool, a visible value is not
        finite, a candidate is not positive, or a gene is visible nowhere.
    """
    values, hidden, positions = _check(values, hidden, positions)
    count = (~hidden).sum(axis=(0, 1))
    if not count.all():
        raise ValueError(f"gene {count.argmin()} is hidden everywhere")
    mean = values.sum(axis=(0, 1)) / count  # hidden ones are 0
    rng = np.random.default_rng(seed)
    samples = rng.permutation(len(values))[:max_samples]
    # With one order for all genes, genes hidden together are treated together.
    order = rng.permutation(values.shape[1])
    if length_scales is None:
        length_scales = _propose_lengths(positions[samples[0]])
    lengths, noises = (
        np.asarray(c, np.float64).ravel() for c in (length_scales, noise_ratios)
    )
    if not (lengths.size and noises.size and min(lengths.min(), noises.min()) > 0):
        raise ValueError("length_scales and noise_ratios must be positive, one or more")
    shape = (values.shape[2], len(lengths), len(noises))
    squares, log_det, used = np.zeros(shape), np.zeros(shape), np.zeros(shape[0])
    for sample, covered, genes in _group_genes(hidden[samples]):
        nodes = order[~covered[order]][:max_nodes]
        places = positions[samples[sample]][nodes]
        seen = values[samples[sample]][np.ix_(nodes, genes)] - mean[genes]
        used[genes] += len(nodes)
        for index, length in enumerate(lengths):
            eigenvalues, vectors = np.linalg.eigh(_kernel(places, places, length))
            spectrum = np.maximum(eigenvalues, 0.0) + noises[:, None]  # [noise, node]
            projected = np.square(vectors.T @ seen)  # [node, gene]
            squares[genes, index] += ((1 / spectrum) @ projected).T
            log_det[genes, index] += np.log(spectrum).sum(axis=1)
    used = used[:, None, None]
    tiny = np.finfo(np.float64).tiny  # for genes that do not vary
    likelihood = -0.5 * (used * np.log(np.maximum(squares, tiny)) + log_det)
    best = likelihood.reshape(shape[0], -1).argmax(axis=1)
    length, noise = np.unravel_index(best, shape[1:])
    return GaussianProcess(mean, lengths[length], noises[noise])


def linear_regression(
    train_fields: ArrayLike,
    values: ArrayLike,
    hidden: ArrayLike,
    *,
    train_positions: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    ridge: float = 1e-3,
) -> Array:
    """Fills the hidden genes of a node by ridge regression on its visible ones.

    mean_h + C_hv (C_vv + ridge * diag C_vv)^-1 (x_v - mean_v) with the covariance C
    over all nodes of the training fields: for each set of visible genes that occurs,
    the ridge regression on standardised regressors (Hoerl and Kennard 1970). A node
    that shows nothing gets the training mean.

    Args:
      train_fields: Complete fields, [train_sample, train_node, gene].
      values: Fields to fill, [sample, node, gene].
      hidden: True where a value is hidden, bool, broadcasts to `values`.
      train_positions: Places of the training nodes, [train_node, dim] or
        [train_sample, train_node, dim]: each axis is one more visible regressor.
      positions: Places of the nodes to fill, likewise; both or neither.
      ridge: Penalty in units of each regressor's variance, > 0.

    Returns:
      Filled fields, [sample, node, gene].

    Raises:
      ValueError: If shapes do not fit, the mask is not bool, a value that is needed is
        not finite, the ridge is not positive or one of the positions is missing.
    """
    if (train_positions is None) != (positions is None):
        raise ValueError("positions are needed of training and test nodes, or of none")
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}; must be positive")
    train, _, train_places = _check(train_fields, False, train_positions)
    values, hidden, places = _check(values, hidden, positions)
    num_genes = values.shape[2]
    if train.shape[2] != num_genes or train_places.shape[2] != places.shape[2]:
        raise ValueError(
            f"training: {train.shape[2]} genes, {train_places.shape[2]} axes; test: "
            f"{num_genes} genes, {places.shape[2]} axes; they must agree"
        )
    known = np.concatenate([train, train_places], axis=2)
    known = known.reshape(-1, known.shape[2])
    mean = known.mean(axis=0)
    covariance = (known - mean).T @ (known - mean) / len(known)
    variance = covariance.diagonal()
    # A regressor that never varies has weight 0, whatever its penalty.
    penalty = np.diag(ridge * np.where(variance > 0, variance, 1.0))
    rows = np.concatenate([values, places], axis=2).reshape(-1, len(mean)) - mean
    masks = np.pad(hidden.reshape(-1, num_genes), ((0, 0), (0, places.shape[2])))
    patterns, group = np.unique(masks, axis=0, return_inverse=True)
    filled = np.where(masks, mean, rows + mean)
    for index, covered in enumerate(patterns):
        if not covered.any() or covered.all():
            continue
        members = group.reshape(-1) == index
        normal = (covariance + penalty)[np.ix_(~covered, ~covered)]
        weights = np.linalg.solve(normal, covariance[np.ix_(~covered, covered)])
        filled[np.ix_(members, covered)] += rows[np.ix_(members, ~covered)] @ weights
    filled = filled[:, :num_genes].reshape(values.shape)
    return np.where(hidden, filled, values)  # visible values to the last bit


def _fill_in_space(
    fill: Callable[[Array, Array, Array], Array],
    values: ArrayLike,
    hidden: ArrayLike,
    positions: ArrayLike,
    fallback: ArrayLike | None,
) -> Array:
    """Applies fill(places, values there, other places) to each sample and mask."""
    values, hidden, positions = _check(values, hidden, positions)
    filled = values.copy()
    for sample, covered, genes in _group_genes(hidden):
        if not covered.any():
            continue
        if covered.all() and fallback is None:
            raise ValueError(
                f"gene {genes[0]} is hidden at all nodes of sample {sample}, and there "
                "is no fallback"
            )
        if covered.all():
            filled[sample][:, genes] = np.broadcast_to(fallback, values.shape[2])[genes]
            continue
        places = positions[sample]
        filled[sample][np.ix_(covered, genes)] = fill(
            places[~covered], values[sample][np.ix_(~covered, genes)], places[covered]
        )
    return filled


def _group_genes(
    hidden: NDArray[np.bool_],
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.intp]]]:
    """Yields (sample, mask over nodes, genes with that mask): each mask is met once."""
    for sample, mask in enumerate(hidden):
        patterns, group = np.unique(mask, axis=1, return_inverse=True)
        for index, covered in enumerate(patterns.T):
            yield sample, covered, np.flatnonzero(group.reshape(-1) == index)


def _kernel(a: Array, b: Array, length: float) -> Array:
    return np.exp(-0.5 * cdist(a / length, b / length, "sqeuclidean"))


def _propose_lengths(places: Array) -> Array:
    distances = cdist(places, places)
    np.fill_diagonal(distances, np.inf)
    extent = np.ptp(places, axis=0).max()
    if not extent > 0:
        return np.ones(1)  # all nodes in one place: no length has any effect
    shortest = np.median(distances.min(axis=1))
    shortest = np.clip(shortest, 1e-3 * extent, extent)  # most nodes may coincide
    return np.geomspace(shortest, 2 * extent, _NUM_LENGTHS)


def _check(
    values: ArrayLike, hidden: ArrayLike, positions: ArrayLike | None
) -> tuple[Array, NDArray[np.bool_], Array]:
    """Returns [sample, node, gene] twice and places, [sample, node, dim or none]."""
    values, hidden = np.asarray(values, np.float64), np.asarray(hidden)
    if values.ndim != 3 or not values.size or hidden.dtype != bool:
        raise ValueError(
            "values must be [sample, node, gene], none of them 0, and hidden bool; got "
            f"{values.shape} and {hidden.dtype}"
        )
    hidden = np.broadcast_to(hidden, values.shape)
    bad = np.argwhere(~hidden & ~np.isfinite(values))
    if bad.size:
        raise ValueError(f"visible value at [sample, node, gene] = {bad[0]} not finite")
    if positions is None:
        positions = np.empty((*values.shape[:2], 0))
    positions = np.asarray(positions, np.float64)
    if positions.ndim not in (2, 3) or positions.shape[-2] != values.shape[1]:
        raise ValueError(
            f"positions must be [node, dim] or [sample, node, dim] for values "
            f"{values.shape}; got {positions.shape}"
        )
    if not np.isfinite(positions).all():
        raise ValueError("positions are not all finite")
    shape = (*values.shape[:2], positions.shape[-1])
    # Hidden values become 0, so that nothing downstream can read them.
    return np.where(hidden, 0.0, values), hidden, np.broadcast_to(positions, shape)
