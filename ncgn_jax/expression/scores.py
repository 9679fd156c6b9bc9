"""Measures generated expression fields, task by task.

One row holds a sample set's measures in all tasks, so that rows can be compared and
averaged over seeds. Anchors are put through the same tasks: their given part is the
test field's, as it is for samples.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ncgn_jax.expression.baselines import (
    gaussian_process,
    linear_in_space,
    linear_regression,
    nearest_in_space,
)
from ncgn_jax.expression.conditioning import FIELD_TASKS, num_generated_times
from ncgn_jax.expression.measures import (
    dominant_wavelength,
    energy_distance,
    field_transport,
    imputation_scores,
    mean_of_some,
    pattern_amplitude,
    wavelength_distance,
)
from ncgn_jax.expression.sets import FieldDataset, FieldSet
from ncgn_jax.metrics.table import Column, Row

IMPUTATION_TASKS = ("forward", "interpolation", "gene_imputation", "space_imputation")
# Rows of imputation without a network.
BASELINES = ("nearest", "process", "linear", "regression")
_SHORT = {
    "unconditional": "uncond",
    "forward": "forward",
    "interpolation": "interp",
    "gene_imputation": "genes",
    "space_imputation": "space",
    "knockout": "knock",
}
# Share of the patterns' usual amplitude under which a gene counts as flat.
_FLAT = 0.2


def _task_columns(prefix, tasks, title, factor, digits, legend) -> tuple[Column, ...]:
    return tuple(
        Column(f"{prefix}_{t}", f"{title} {_SHORT[t]}", factor, digits, legend)
        for t in tasks
    )


FIELD_COLUMNS = (
    *_task_columns(
        "w",
        FIELD_TASKS,
        "W",
        1,
        4,
        "exact transport of flattened fields / generated times; lower, but not below "
        "`train`",
    ),
    *_task_columns(
        "energy", ("unconditional",), "energy", 1, 4, "energy distance, unbiased; 0"
    ),
    *_task_columns(
        "rmse", IMPUTATION_TASKS, "rmse", 1, 4, "of hidden entries, mean over genes"
    ),
    *_task_columns(
        "pearson",
        IMPUTATION_TASKS,
        "r",
        1,
        3,
        "correlation of hidden entries with the truth, mean over genes; 1",
    ),
    Column(
        "wavelength_distance",
        "d wave",
        1,
        3,
        "1-D transport of the patterns' wavelengths at the last time, unconditional",
    ),
    Column(
        "knockout_agreement",
        "lost %",
        100,
        1,
        "genes and samples whose pattern, under a knock-out, is lost where the "
        "simulated one is and kept where it is kept",
    ),
)


class FieldCase(NamedTuple):
    """The test fields of one task, and what is given of them.

    Attributes:
      fields: The test fields.
      given: True for given entries, [sample, node, gene].
      known: Values of given entries, anything elsewhere, [sample, node, gene].
    """

    fields: FieldSet
    given: np.ndarray
    known: np.ndarray

    def first(self, count: int) -> "FieldCase":
        """Returns the first samples."""
        fields = self.fields.first(count)
        return FieldCase(fields, self.given[:count], self.known[:count])


def evaluate_fields(
    samples: Mapping[str, Mapping[str, np.ndarray]],
    cases: Mapping[str, FieldCase],
    dataset: FieldDataset,
    make_noise: Callable[[int, tuple[int, ...]], np.ndarray],
    *,
    with_baselines: bool,
) -> dict[str, Row]:
    """Measures sample sets and anchors in every task.

    Args:
      samples: Fields by task name, for each sample set, in the units of the data.
      cases: What is generated, by task name.
      dataset: Training fields, and test fields without a condition.
      make_noise: make_noise(count, shape) returns untrained fields of that shape.
      with_baselines: Whether to add imputation without a network.

    Returns:
      Rows of the sample sets, then of the anchors (`noise`, `train`, and plain
      baselines).
    """
    rows: dict[str, Row] = {name: {} for name in samples}
    for name, case in cases.items():
        sets = {row: arrays[name] for row, arrays in samples.items() if name in arrays}
        count = min((len(values) for values in sets.values()), default=len(case.fields))
        case = case.first(count)
        sets["noise"] = make_noise(count, case.given.shape[1:])
        if dataset.floor is not None:
            sets["train"] = dataset.floor[:count]
        if with_baselines and name in IMPUTATION_TASKS:
            sets |= baselines(name, case, dataset)
        for row, values in sets.items():
            guess = samples.get(row, {}).get(f"{name}_mean", values)
            held, guess = (
                np.where(case.given, case.known, part[:count])
                * case.fields.point_mask[:, :, None]
                for part in (values, guess)
            )
            scores = score(name, held, guess, case, dataset.test)
            rows.setdefault(row, {}).update(scores)
    return rows


def baselines(
    name: str, case: FieldCase, dataset: FieldDataset
) -> dict[str, np.ndarray]:
    """Fills hidden entries without a network; see `expression.baselines`.

    Args:
      name: One of `IMPUTATION_TASKS`.
      case: Test fields and what is given of them.
      dataset: Training fields.
    """
    fields, given, train = case.fields, case.given, dataset.train
    values = np.where(given, fields.values, 0.0)
    positions = fields.padded_positions()[fields.layout]
    hidden = ~given & fields.point_mask[:, :, None]
    if name == "gene_imputation":
        full = train.point_mask.all(axis=1)
        return {"regression": linear_regression(train.values[full], values, hidden)}
    mean, _ = dataset.moments()
    found = {
        "nearest": nearest_in_space(values, hidden, positions, mean),
        "process": gaussian_process(values, hidden, positions),
    }
    if fields.is_profile:
        line = positions[:, :, :1]
        found["linear"] = linear_in_space(values, hidden, line, mean)
    return found


def score(
    name: str,
    values: np.ndarray,
    guess: np.ndarray,
    case: FieldCase,
    test: FieldSet,
) -> Row:
    """Measures one set of fields in one task.

    Args:
      name: One of `FIELD_TASKS`.
      values: Fields in the units of the data, [sample, node, gene].
      guess: What errors at hidden entries are measured of, same shape: the fields, or
        the mean of several draws of each.
      case: Test fields and what is given of them.
      test: All test fields, for the usual size of patterns.
    """
    fields, given = case.fields, case.given
    times = num_generated_times(name, fields)
    row: Row = {f"w_{name}": field_transport(values, fields.values) / times}
    if name == "unconditional":
        row["energy_unconditional"] = energy_distance(values, fields.values)
        if fields.grid is not None:
            row["wavelength_distance"] = _wavelengths_apart(values, fields)
    if name in IMPUTATION_TASKS:
        hidden = ~given & fields.point_mask[:, :, None]
        found = imputation_scores(guess, fields.values, hidden)
        row[f"rmse_{name}"] = found.mean_rmse
        row[f"pearson_{name}"] = found.mean_pearson
    if name == "knockout":
        row["knockout_agreement"] = _same_patterns_lost(values, fields, test)
    return row


def _places(fields: FieldSet) -> np.ndarray:
    if fields.grid is None:
        raise ValueError("these fields lie on no grid")
    return np.asarray(fields.grid[1])


def _last_time(values: np.ndarray, fields: FieldSet) -> np.ndarray:
    """Returns the fields of a grid's last time, [sample, place, gene]."""
    num_places = len(_places(fields))
    return values.reshape(len(values), -1, num_places, values.shape[-1])[:, -1]


def _wavelengths_apart(values: np.ndarray, fields: FieldSet) -> float:
    places = _places(fields)
    if len(places) < 4 or np.ptp(np.diff(places)) > 1e-6:
        return float("nan")
    spacing = places[1] - places[0]
    found, truth = (
        dominant_wavelength(_last_time(v, fields), spacing)
        for v in (values, fields.values)
    )
    return mean_of_some(wavelength_distance(found, truth))


def _same_patterns_lost(values: np.ndarray, fields: FieldSet, test: FieldSet) -> float:
    """Compares, gene by gene, whether a pattern is left at the last time."""
    if fields.knocked_out is None:
        raise ValueError("these fields have no knocked-out gene")
    usual = np.median(pattern_amplitude(_last_time(test.values, test)), axis=0)
    left, truth = (
        pattern_amplitude(_last_time(v, fields)) > _FLAT * usual[None]
        for v in (values, fields.values)
    )
    others = fields.knocked_out[:, None] != np.arange(values.shape[-1])[None]
    return float((left == truth)[others].mean())
