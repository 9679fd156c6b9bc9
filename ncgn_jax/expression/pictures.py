"""Draws what a trained expression run generates: fields, paths, imputations, tissue."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.expression.draw_fields import draw_fields, draw_path
from ncgn_jax.expression.draw_imputation import (
    draw_profiles,
    draw_scatter,
    draw_tissue,
)
from ncgn_jax.expression.scores import IMPUTATION_TASKS, FieldCase, baselines
from ncgn_jax.expression.sets import FieldDataset, Grid
from ncgn_jax.pictures import save_figure

# A state of the sampler in the units of the data, [node, gene], and its signal level.
State = tuple[np.ndarray, float]
_MAX_GENES = 4
_NUM_PROFILES = 4


def draw_all(
    samples: Mapping[str, np.ndarray],
    cases: Mapping[str, FieldCase],
    dataset: FieldDataset | None,
    genes: Sequence[str],
    walk: Callable[[], Sequence[State]],
    folder: Path,
    unit: str = "",
) -> list[Path]:
    """Saves every picture that the data allow.

    Args:
      samples: Fields by task name, in the units of the data.
      cases: What was generated, by task name.
      dataset: The data; None to draw the samples alone.
      genes: Their names.
      walk: Returns the path of the first unconditional sample, from noise to data.
      folder: Where to.
      unit: Unit of the expression.

    Returns:
      The files written.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    grid = next(iter(cases.values())).fields.grid
    if grid is not None:
        truth = None if dataset is None else dataset.test.values[0]
        figures["fields"] = lambda: _fields(samples, cases, truth, grid, genes, unit)
        if "unconditional" in samples:
            figures["path"] = lambda: _path(walk(), grid, genes, unit)
    elif dataset is None:
        figures["tissue"] = lambda: _generated(samples, cases, genes, unit)
    for name in samples:
        if dataset is None or name not in IMPUTATION_TASKS:
            continue
        case, values = cases[name].first(len(samples[name])), samples[name]
        figures[f"{name}_scatter"] = partial(_scatter, case, values, genes, unit)
        if dataset.test.is_profile:
            figures[f"{name}_profiles"] = partial(
                _profiles, name, case, values, dataset, unit
            )
        elif dataset.test.grid is None:
            figures[f"{name}_tissue"] = partial(_tissue, case, values, genes, unit)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        save_figure(make(), folder / f"{name}.png") for name, make in figures.items()
    ]


def _fields(
    samples: Mapping[str, np.ndarray],
    cases: Mapping[str, FieldCase],
    truth: np.ndarray | None,
    grid: Grid,
    genes: Sequence[str],
    unit: str,
) -> Figure:
    """Draws one test field, if there is one, and one of each task beside it."""
    times, places = grid
    shape = (len(times), len(places), len(genes))
    columns = {} if truth is None else {"simulated": truth.reshape(shape)}
    given = {}
    for name, values in samples.items():
        title = name.replace("_", " ")
        columns[title] = values[0].reshape(shape)
        if name in cases:
            given[title] = cases[name].given[0].reshape(shape)
    return draw_fields(columns, times, places, genes, given, unit)


def _path(path: Sequence[State], grid: Grid, genes: Sequence[str], unit: str) -> Figure:
    """Draws the states of one field at the end of every noise bucket."""
    times, places = grid
    shape = (len(path), len(times), len(places), len(genes))
    states = np.stack([state for state, _ in path]).reshape(shape)
    levels = np.asarray([level for _, level in path])
    return draw_path(states, levels, times, places, genes, unit)


def _generated(
    samples: Mapping[str, np.ndarray],
    cases: Mapping[str, FieldCase],
    genes: Sequence[str],
    unit: str,
) -> Figure:
    """Draws the first patch of each task, for the genes that vary most."""
    fields = next(iter(cases.values())).fields
    real = fields.point_mask[0]
    columns = {name: values[0][real] for name, values in samples.items()}
    spread = sum(part.std(axis=0) for part in columns.values())
    shown = np.argsort(-spread)[:_MAX_GENES]
    return draw_tissue(
        fields.layouts[fields.layout[0]][:, :2],
        {name: part[:, shown] for name, part in columns.items()},
        [genes[g] for g in shown],
        unit,
    )


def _scatter(
    case: FieldCase, values: np.ndarray, genes: Sequence[str], unit: str
) -> Figure:
    fields = case.fields
    hidden = ~case.given & fields.point_mask[:, :, None]
    shown = [g for g in range(len(genes)) if hidden[..., g].any()]
    measured, imputed, hidden = (
        part[..., shown] for part in (fields.values, values, hidden)
    )
    return draw_scatter(measured, imputed, [genes[g] for g in shown], hidden, unit)


def _profiles(
    name: str, case: FieldCase, values: np.ndarray, dataset: FieldDataset, unit: str
) -> Figure:
    fields, given = case.fields, case.given
    others = baselines(name, case, dataset)
    # Evenly over the times of the profiles.
    clock = np.asarray([fields.layouts[i][0, -1] for i in fields.layout])
    rows = np.argsort(clock)[np.linspace(0, len(clock) - 1, _NUM_PROFILES).astype(int)]
    num_genes = given.shape[-1]
    genes = [g for g in range(num_genes) if not given[..., g].all()][:_MAX_GENES]
    pick = np.ix_(rows, np.arange(given.shape[1]), np.asarray(genes))
    return draw_profiles(
        fields.layouts[fields.layout[0]][:, 0],
        fields.values[pick],
        values[pick],
        ~given[pick],
        [dataset.genes[g] for g in genes],
        {title: part[pick] for title, part in others.items()},
        unit,
    )


def _tissue(
    case: FieldCase, values: np.ndarray, genes: Sequence[str], unit: str
) -> Figure:
    """Draws one patch, measured and generated, for the genes that vary most."""
    fields, given = case.fields, case.given[0]
    real = fields.point_mask[0]
    hidden = [g for g in range(len(genes)) if not given[real, g].all()]
    spread = fields.values[0, real].std(axis=0)
    shown = sorted(hidden, key=lambda g: -spread[g])[:_MAX_GENES]
    columns = {
        "measured": fields.values[0][real][:, shown],
        "generated where hidden": values[0][real][:, shown],
    }
    positions = fields.layouts[fields.layout[0]][:, :2]
    return draw_tissue(positions, columns, [genes[g] for g in shown], unit)
