"""Measures generated expression fields.

A field is [node, gene], the value of every gene at every node. Two sets are compared
as distributions over whole fields (`field_transport`, `energy_distance`), imputed
values one by one (`imputation_scores`), and patterns on a line by their period and
strength. Distances have the unit of the values and grow with the number of nodes and
genes, so scale the genes alike first.

Example:
  >>> import numpy as np
  >>> places = np.arange(60) * 0.5
  >>> stripes = np.sin(2 * np.pi * places / 6.0)[None, :, None]
  >>> round(float(dominant_wavelength(stripes, 0.5)[0, 0]), 1)
  6.0
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from ncgn_jax.metrics.transport import wasserstein_flat

_PADDING = 16
# A monotone profile peaks at 0.66 (ramp) to 0.75 (step) periods per line, and one full
# period of any phase at 0.83 or more.
_MIN_PERIODS = 0.8


class ImputationScores(NamedTuple):
    """Scores of imputed values, per gene and on average."""

    pearson: NDArray[np.float64]  # [gene], in [-1, 1]; NaN if one side is constant
    rmse: NDArray[np.float64]  # [gene], unit of the values; NaN if nothing was hidden
    mean_pearson: float  # over the genes that have one
    mean_rmse: float


def field_transport(generated: ArrayLike, reference: ArrayLike) -> float:
    """Measures the exact transport distance between two sets of fields.

    W_1 = min_pi sum_ij pi_ij |flat(g_i) - flat(r_j)|_2 with uniform marginals
    (Villani 2009, Optimal Transport, def. 6.1). Unlike points of a cloud, nodes keep
    their order, so they are not matched inside a field, and W_1 is not divided by
    their number. It falls as the sets grow, so compare equal sizes only, and with the
    value of real against real fields.

    Args:
      generated: Generated fields, [sample, node, gene].
      reference: Reference fields with the same nodes and genes, in any number.

    Returns:
      W_1 >= 0.

    Raises:
      ValueError: If shapes differ or a value is not finite.
      RuntimeError: If the transport solver does not reach the optimum.
    """
    generated, reference = _check_pair(generated, reference)
    return generated.shape[1] * wasserstein_flat(generated, reference)


def energy_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Measures the energy distance between two sets of fields, unbiased.

    2 E|X - Y| - E|X - X'| - E|Y - Y'| with Euclidean norms of flattened fields
    (Szekely and Rizzo 2013, J. Stat. Plan. Inference 143). X, X' and Y, Y' are
    different members of a set, so that it is unbiased for every set size. Its
    expectation is 0 for equal distributions, where estimates may be negative.

    Args:
      generated: Generated fields, [sample > 1, node, gene].
      reference: Reference fields with the same nodes and genes, at least two.

    Returns:
      The distance, in the unit of the values.

    Raises:
      ValueError: If shapes differ, a set has fewer than two fields or a value is not
        finite.
    """
    generated, reference = _check_pair(generated, reference)
    if min(len(generated), len(reference)) < 2:
        raise ValueError(
            f"sets of {len(generated)} and {len(reference)} fields; at least 2 each"
        )
    x, y = (fields.reshape(len(fields), -1) for fields in (generated, reference))
    return float(2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean())


def imputation_scores(
    imputed: ArrayLike, truth: ArrayLike, hidden_mask: ArrayLike
) -> ImputationScores:
    """Scores imputed values at hidden entries.

    Hidden entries of one gene are pooled over samples and nodes. Pearson correlation
    ignores offset and scale; the root mean square error does not. A gene whose truth
    or imputation is constant there has no correlation (NaN) and is left out of the
    mean.

    Args:
      imputed: Filled fields, [sample, node, gene].
      truth: True fields, same shape. Visible entries are ignored and may be NaN.
      hidden_mask: True where a value was hidden, bool, same shape or one that
        broadcasts to it, e.g. [gene] or [node, 1].

    Returns:
      Scores per gene, and their means over genes that have one (NaN if none has).

    Raises:
      ValueError: If shapes differ, the mask is not bool or a hidden value is not
        finite.
    """
    imputed, truth = np.asarray(imputed, np.float64), np.asarray(truth, np.float64)
    hidden_mask = np.asarray(hidden_mask)
    if imputed.ndim != 3 or imputed.shape != truth.shape or hidden_mask.dtype != bool:
        raise ValueError(
            "fields must be two [sample, node, gene] and a bool mask; got "
            f"{imputed.shape}, {truth.shape} and {hidden_mask.dtype}"
        )
    hidden = np.broadcast_to(hidden_mask, truth.shape)
    scores = []
    for gene in range(truth.shape[2]):
        chosen = hidden[:, :, gene]
        pair = imputed[:, :, gene][chosen], truth[:, :, gene][chosen]
        if not np.isfinite(pair).all():
            raise ValueError(f"gene {gene} holds hidden values that are not finite")
        scores.append((_correlate(*pair), _root_mean_square(pair[0] - pair[1])))
    pearson, rmse = np.array(scores).reshape(-1, 2).T
    return ImputationScores(pearson, rmse, mean_of_some(pearson), mean_of_some(rmse))


def dominant_wavelength(
    fields_on_line: ArrayLike, spacing: float, min_amplitude: float = 0.0
) -> NDArray[np.float64]:
    """Finds the period of the strongest wave along a line of nodes.

    1 / argmax_f |sum_n (x_n - mean x) exp(-2 pi i f n spacing)|^2. The spectrum is
    zero-padded 16-fold, so that f is not limited to whole numbers of periods, and a
    parabola is fitted to the logarithms at the top three (Smith 2011, Spectral Audio
    Signal Processing). Depending on the phase, the ends of the line shift the peak by
    up to 20 % for one period on the line, 5 % for two, 3 % for three and 1 % for five.

    Args:
      fields_on_line: Fields on equally spaced nodes in order, [sample, place, gene],
        at least 4 places.
      spacing: Distance between neighbours; the result has its unit.
      min_amplitude: Largest standard deviation along the line that is no pattern.
        Noise has a wavelength too, so choose it above the noise.

    Returns:
      Wavelength, [sample, gene]. NaN without a pattern: if the values hardly vary, or
      the peak is below 0.8 periods on the line, as for ramps and steps.

    Raises:
      ValueError: If the shape is wrong, the spacing is not positive or a value is not
        finite.
    """
    fields = _check_fields(fields_on_line)
    num_places = fields.shape[1]
    if num_places < 4 or not spacing > 0:
        raise ValueError(
            f"{num_places} places {spacing} apart; at least 4 and a positive spacing"
        )
    centred = fields - fields.mean(axis=1, keepdims=True)
    amplitude = centred.std(axis=1)  # [sample, gene]
    rounding = 1e-12 * np.abs(fields).max(axis=1)
    has_pattern = amplitude > np.maximum(min_amplitude, rounding)
    padded = _PADDING * num_places
    power = np.square(np.abs(np.fft.rfft(centred, padded, axis=1)))
    top = 1 + power[:, 1:].argmax(axis=1, keepdims=True)  # frequency 0 is the mean
    periods = (top + _refine_peak(power, top))[:, 0] / _PADDING  # on the line
    has_pattern &= periods >= _MIN_PERIODS
    length = num_places * spacing
    return np.divide(
        length, periods, out=np.full(periods.shape, np.nan), where=has_pattern
    )


def pattern_amplitude(fields: ArrayLike) -> NDArray[np.float64]:
    """Measures how strongly each gene varies in space, by its standard deviation.

    A sine of height a has a / sqrt(2).

    Args:
      fields: Fields, [sample, node, gene].

    Returns:
      Amplitude, [sample, gene], in the unit of the values.

    Raises:
      ValueError: If the shape is wrong or a value is not finite.
    """
    return _check_fields(fields).std(axis=1)


def wavelength_distance(
    generated: ArrayLike, reference: ArrayLike
) -> NDArray[np.float64]:
    """Compares the distributions of wavelengths of two sets, gene by gene.

    Uses the one-dimensional 1-Wasserstein distance int |F_g - F_r|, in the unit of
    length: 2 is as if every period were 2 too long. Samples without pattern (NaN) are
    ignored, so compare their shares, `np.isnan(wavelengths).mean(0)`, too.

    Args:
      generated: Wavelengths from `dominant_wavelength`, [sample, gene].
      reference: The same of the reference set, with any number of samples.

    Returns:
      Distance, [gene]; NaN for a gene without any pattern in one of the sets.

    Raises:
      ValueError: If shapes differ.
    """
    generated, reference = (np.asarray(w, np.float64) for w in (generated, reference))
    if (generated.ndim, generated.shape[1:]) != (2, reference.shape[1:]):
        raise ValueError(
            "wavelengths must be [sample, gene] with equal genes; got "
            f"{generated.shape} and {reference.shape}"
        )
    distances = np.full(generated.shape[1], np.nan)
    # Takes as long to import as all of jax.
    from scipy.stats import wasserstein_distance

    for gene in range(len(distances)):
        one, other = (w[~np.isnan(w[:, gene]), gene] for w in (generated, reference))
        if one.size and other.size:
            distances[gene] = wasserstein_distance(one, other)
    return distances


def _refine_peak(
    power: NDArray[np.float64], top: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Returns the peak of a parabola through three logarithms, in (-1/2, 1/2)."""
    inside = np.minimum(top, power.shape[1] - 2)  # the last one has no right neighbour
    left, middle, right = (
        np.log(np.take_along_axis(power, inside + step, axis=1) + 1e-300)
        for step in (-1, 0, 1)
    )
    curvature = left - 2 * middle + right
    is_peak = (inside == top) & (curvature < 0)
    shift = np.divide(left - right, 2 * curvature, where=is_peak, out=0 * middle)
    return np.clip(shift, -0.5, 0.5)


def _correlate(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    deviations = []
    for values in (a, b):
        if values.size < 2:
            return np.nan
        centred = values - values.mean()
        # The rounding error of the mean is no variation.
        if np.abs(centred).max() <= 1e-12 * np.abs(values).max():
            return np.nan
        deviations.append(centred / np.linalg.norm(centred))
    return float(np.clip(np.dot(*deviations), -1.0, 1.0))


def _root_mean_square(errors: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(errors).mean())) if errors.size else np.nan


def mean_of_some(values: NDArray[np.float64]) -> float:
    """Returns the mean of all values that are not NaN, NaN if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else np.nan


def _check_pair(
    a: ArrayLike, b: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _check_fields(a), _check_fields(b)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"fields must have equal nodes and genes; got {a.shape} and {b.shape}"
        )
    return a, b


def _check_fields(fields: ArrayLike) -> NDArray[np.float64]:
    fields = np.asarray(fields, np.float64)
    if fields.ndim != 3 or not fields.size:
        raise ValueError(
            f"fields must be [sample, node, gene], none of them 0; got {fields.shape}"
        )
    bad = int((~np.isfinite(fields)).any(axis=(1, 2)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(fields)} fields are not finite")
    return fields
