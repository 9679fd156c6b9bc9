"""What a trained transcriptomics run draws: fields, paths, imputations, tissue."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from matplotlib.figure import Figure

from ncgn_jax.expression.scores import IMPUTATION_TASKS, baselines
from ncgn_jax.pictures import (
    draw_fields,
    draw_path,
    draw_profiles,
    draw_scatter,
    draw_tissue,
    save_figure,
)

if TYPE_CHECKING:
    from ncgn_jax.expression.task import TranscriptomicsTask

_MAX_GENES = 4
_NUM_PROFILES = 4


def draw_all(
    task: "TranscriptomicsTask",
    params: Any,
    model_state: Any,
    samples: dict[str, np.ndarray],
    folder: Path,
) -> list[Path]:
    """Saves every picture that the data allow; returns their paths."""
    figures: dict[str, Callable[[], Figure]] = {}
    if task.dataset.test.grid is not None:
        figures["fields"] = lambda: _fields(task, samples)
        if "unconditional" in samples:
            figures["path"] = lambda: _path(task, params, model_state)
    for name in samples:
        if name not in IMPUTATION_TASKS:
            continue
        figures[f"{name}_scatter"] = lambda name=name: _scatter(task, samples, name)
        if task.dataset.test.is_profile:
            figures[f"{name}_profiles"] = lambda name=name: _profiles(
                task, samples, name
            )
        elif task.dataset.test.grid is None:
            figures[f"{name}_tissue"] = lambda name=name: _tissue(task, samples, name)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        save_figure(make(), folder / f"{name}.png") for name, make in figures.items()
    ]


def _fields(task: "TranscriptomicsTask", samples: dict[str, np.ndarray]) -> Figure:
    """One test field, and one of each task beside it."""
    times, places = task.dataset.test.grid
    shape = (len(times), len(places), task.num_genes)
    columns = {"simulated": task.dataset.test.values[0].reshape(shape)}
    given = {}
    for name, values in samples.items():
        title = name.replace("_", " ")
        columns[title] = values[0].reshape(shape)
        given[title] = task.given(name)[0].reshape(shape)
    return draw_fields(columns, times, places, task.dataset.genes, given)


def _path(task: "TranscriptomicsTask", params: Any, model_state: Any) -> Figure:
    """The states of one field at the end of every noise bucket."""
    fields = task.dataset.test.first(1)
    times, places = fields.grid
    noise = task.prior_fields(1, fields.values.shape[1:], task.config.seed)
    nothing = np.zeros(noise.shape, bool)
    variables = {"params": params, **model_state}
    rows, keys = np.zeros(1, np.int32), jax.random.split(jax.random.key(0), 1)
    path = task.walk(variables, fields, rows, noise, nothing, noise, keys)
    states, levels = [task.undo(noise)], [0.0]
    for x, t in path:
        states.append(task.undo(x))
        levels.append(float(task.time.level(np.float32(t))))
    shape = (len(states), len(times), len(places), task.num_genes)
    states = np.concatenate(states).reshape(shape)
    return draw_path(states, np.asarray(levels), times, places, task.dataset.genes)


def _scatter(
    task: "TranscriptomicsTask", samples: dict[str, np.ndarray], name: str
) -> Figure:
    fields = task.fields_of(name).first(len(samples[name]))
    hidden = ~task.given(name)[: len(fields)] & fields.point_mask[:, :, None]
    genes = [g for g in range(task.num_genes) if hidden[..., g].any()]
    measured, imputed, hidden = (
        values[..., genes] for values in (fields.values, samples[name], hidden)
    )
    names = [task.dataset.genes[g] for g in genes]
    return draw_scatter(measured, imputed, names, hidden)


def _profiles(
    task: "TranscriptomicsTask", samples: dict[str, np.ndarray], name: str
) -> Figure:
    fields = task.fields_of(name).first(len(samples[name]))
    given = task.given(name)[: len(fields)]
    others = baselines(task, name, fields, given)
    # Evenly over the times of the profiles.
    clock = np.asarray([fields.layouts[i][0, -1] for i in fields.layout])
    rows = np.argsort(clock)[np.linspace(0, len(clock) - 1, _NUM_PROFILES).astype(int)]
    genes = [g for g in range(task.num_genes) if not given[..., g].all()][:_MAX_GENES]
    pick = np.ix_(rows, np.arange(given.shape[1]), genes)
    return draw_profiles(
        fields.layouts[fields.layout[0]][:, 0],
        fields.values[pick],
        samples[name][pick],
        ~given[pick],
        [task.dataset.genes[g] for g in genes],
        {title: values[pick] for title, values in others.items()},
    )


def _tissue(
    task: "TranscriptomicsTask", samples: dict[str, np.ndarray], name: str
) -> Figure:
    """One patch: measured and generated, for the genes that vary most."""
    fields = task.fields_of(name)
    given = task.given(name)[0]
    real = fields.point_mask[0]
    hidden = [g for g in range(task.num_genes) if not given[real, g].all()]
    spread = fields.values[0, real].std(axis=0)
    genes = sorted(hidden, key=lambda g: -spread[g])[:_MAX_GENES]
    columns = {
        "measured": fields.values[0][real][:, genes],
        "generated where hidden": samples[name][0][real][:, genes],
    }
    positions = fields.layouts[fields.layout[0]][:, :2]
    return draw_tissue(positions, columns, [task.dataset.genes[g] for g in genes])
