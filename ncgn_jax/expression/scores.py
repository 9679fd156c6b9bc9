"""How good generated expression fields are, task by task.

One row holds a sample set's measures in all tasks, so that rows can be compared and
averaged over seeds. Anchors are put through the same tasks: their given part is the
test field's, as it is for samples.
"""

from typing import TYPE_CHECKING

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
from ncgn_jax.expression.sets import FieldSet
from ncgn_jax.metrics.table import Column, Row

if TYPE_CHECKING:
    from ncgn_jax.expression.task import TranscriptomicsTask

IMPUTATION_TASKS = ("forward", "interpolation", "gene_imputation", "space_imputation")
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


def evaluate_fields(
    task: "TranscriptomicsTask", samples: dict[str, dict[str, np.ndarray]]
) -> dict[str, Row]:
    """Measures sample sets and anchors in every task.

    Args:
      task: The task.
      samples: Fields by task name, for each sample set.

    Returns:
      Rows of the sample sets, then of the anchors (`noise`, `train`, and plain
      baselines if the configuration asks for them).
    """
    rows: dict[str, Row] = {name: {} for name in samples}
    for name in task.config.sample.tasks:
        fields, given = task.fields_of(name), task.given(name)
        known = task.known(name)
        sets = {row: arrays[name] for row, arrays in samples.items() if name in arrays}
        count = min((len(values) for values in sets.values()), default=len(fields))
        fields, given, known = fields.first(count), given[:count], known[:count]
        sets |= anchors(task, name, fields)
        if task.config.evaluate.baselines and name in IMPUTATION_TASKS:
            sets |= baselines(task, name, fields, given)
        for row, values in sets.items():
            guess = samples.get(row, {}).get(f"{name}_mean", values)
            held, guess = (
                np.where(given, known, part[:count]) * fields.point_mask[:, :, None]
                for part in (values, guess)
            )
            scores = score(task, name, held, guess, fields, given)
            rows.setdefault(row, {}).update(scores)
    return rows


def anchors(
    task: "TranscriptomicsTask", name: str, fields: FieldSet
) -> dict[str, np.ndarray]:
    """Returns fields that need no model: noise, and draws of the training set."""
    shape = fields.values.shape
    noise = task.undo(task.prior_fields(len(fields), shape[1:], seed=7))
    found = {"noise": noise}
    if task.dataset.floor is not None:
        found["train"] = task.dataset.floor[: len(fields)]
    return found


def baselines(
    task: "TranscriptomicsTask", name: str, fields: FieldSet, given: np.ndarray
) -> dict[str, np.ndarray]:
    """Fills hidden entries without a network; see `metrics.field_baselines`."""
    values = np.where(given, fields.values, 0.0)
    positions = fields.padded_positions()[fields.layout]
    train = task.dataset.train
    real = fields.point_mask[:, :, None]
    hidden = ~given & real
    if name == "gene_imputation":
        full = train.point_mask.all(axis=1)
        return {"regression": linear_regression(train.values[full], values, hidden)}
    mean, _ = task.dataset.moments()
    found = {
        "nearest": nearest_in_space(values, hidden, positions, mean),
        "process": gaussian_process(values, hidden, positions),
    }
    if fields.is_profile:
        line = positions[:, :, :1]
        found["linear"] = linear_in_space(values, hidden, line, mean)
    return found


def score(
    task: "TranscriptomicsTask",
    name: str,
    values: np.ndarray,
    guess: np.ndarray,
    fields: FieldSet,
    given: np.ndarray,
) -> Row:
    """Measures one set of fields in one task.

    Args:
      task: The task.
      name: One of `FIELD_TASKS`.
      values: Fields in the units of the data, [sample, node, gene].
      guess: What errors at hidden entries are measured of, same shape: the fields, or
        the mean of several draws of each.
      fields: Test fields.
      given: What is given, bool [sample, node, gene].
    """
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
        row["knockout_agreement"] = _same_patterns_lost(task, values, fields)
    return row


def _last_time(values: np.ndarray, fields: FieldSet) -> np.ndarray:
    """Returns the fields of a grid's last time, [sample, place, gene]."""
    num_places = len(fields.grid[1])
    return values.reshape(len(values), -1, num_places, values.shape[-1])[:, -1]


def _wavelengths_apart(values: np.ndarray, fields: FieldSet) -> float:
    places = np.asarray(fields.grid[1])
    if len(places) < 4 or np.ptp(np.diff(places)) > 1e-6:
        return float("nan")
    spacing = places[1] - places[0]
    found, truth = (
        dominant_wavelength(_last_time(v, fields), spacing)
        for v in (values, fields.values)
    )
    return mean_of_some(wavelength_distance(found, truth))


def _same_patterns_lost(
    task: "TranscriptomicsTask", values: np.ndarray, fields: FieldSet
) -> float:
    """Compares, gene by gene, whether a pattern is left at the last time."""
    test = task.dataset.test
    usual = np.median(pattern_amplitude(_last_time(test.values, test)), axis=0)
    left, truth = (
        pattern_amplitude(_last_time(v, fields)) > _FLAT * usual[None]
        for v in (values, fields.values)
    )
    others = fields.knocked_out[:, None] != np.arange(values.shape[-1])[None]
    return float((left == truth)[others].mean())
