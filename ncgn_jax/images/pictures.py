"""What the image task draws."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ncgn_jax.images.draw_images import draw_costs, draw_image_rows
from ncgn_jax.tasks.bucketed import draw_prior, row_keys, sample_chunks

_NUM_COLUMNS = 10
_NUM_PATHS = 4
_MAX_STATES = 8
_MAX_CLASSES = 16
_MAX_ROWS = 8
# A class with fewer images than this makes no row.
_LEAST_IN_ROW = 3
_LONGEST_NAME = 14


def draw_all(
    task: Any, params: Any, samples: dict[str, np.ndarray], folder: Path
) -> list[Path]:
    """Draws samples by class, paths with their patches, neighbours, and costs.

    Args:
      task: A `tasks.images.ImageTask`.
      params: Parameters of the network.
      samples: As the task's `sample` returned them.
      folder: Where to.

    Returns:
      Paths of the pictures.
    """
    return [
        draw_classes(task, samples, folder / "samples.png"),
        draw_paths(task, params, folder / "paths.png"),
        draw_neighbors(task, samples, folder / "nearest.png"),
        draw_cost(task, folder / "cost.png"),
    ]


def draw_classes(task: Any, samples: dict[str, np.ndarray], path: Path) -> Path:
    """Draws a row for each of the most frequent classes among the samples.

    Where there are too few images of a class for a row, the first images are drawn with
    the class of each above it.
    """
    labels = np.asarray(samples["labels"])
    names = [_shorten(name) for name in task.dataset.class_names]
    found, counts = np.unique(labels, return_counts=True)
    frequent = np.sort(found[np.argsort(-counts, kind="stable")][:_MAX_CLASSES])
    if len(found) > 1 and np.median(np.sort(counts)[-_MAX_CLASSES:]) < _LEAST_IN_ROW:
        shown = np.arange(min(len(labels), _MAX_ROWS * _NUM_COLUMNS))
        parts = np.split(shown, np.arange(_NUM_COLUMNS, len(shown), _NUM_COLUMNS))
        titles = [""] * len(parts)
        captions = [[names[label] for label in labels[part]] for part in parts]
    else:
        parts = [np.flatnonzero(labels == label)[:_NUM_COLUMNS] for label in frequent]
        titles, captions = [names[label] for label in frequent], ()
    rows = [_saved_to_pixels(task, samples["images"][part]) for part in parts]
    return draw_image_rows(rows, titles, path, captions=captions)


def draw_paths(task: Any, params: Any, path: Path) -> Path:
    """Draws the first samples as noise and at the end of each stretch of patches.

    They are walked as the sampler walks them, so that nothing is compiled for them.
    """
    config, dataset = task.config, task.dataset
    rows = next(sample_chunks(config.sample.num_samples, config.sample.batch_size))
    labels = task.draw_labels(config.sample.num_samples, config.seed)[rows]
    keys = row_keys(jax.random.key(config.seed), rows[:_NUM_PATHS])
    noise = draw_prior(task.time.schedule, keys, dataset.image_shape)
    states = [
        (x[:_NUM_PATHS], t, bucket)
        for x, t, bucket in task.walk(params, labels, rows, config.seed)
    ]
    # Patches drawn at random have a stretch a step.
    shown = np.linspace(0, len(states) - 1, min(len(states), _MAX_STATES)).astype(int)
    states = [states[i] for i in shown]
    columns = [dataset.to_pixels(x) for x in (noise, *(x for x, _, _ in states))]
    return draw_image_rows(
        np.stack(columns, axis=1),
        [_shorten(dataset.class_names[label]) for label in labels[:_NUM_PATHS]],
        path,
        ["noise", *(f"t = {t:.2f}" for _, t, _ in states)],
        [None, *(bucket.patch for _, _, bucket in states)],
    )


def draw_neighbors(task: Any, samples: dict[str, np.ndarray], path: Path) -> Path:
    """Draws generated images over the training images nearest to them."""
    images = samples["images"][:_NUM_COLUMNS]
    _, index = task.scorer.nearest(task.dataset.from_saved(images))
    to_pixels = task.dataset.to_pixels
    return draw_image_rows(
        [_saved_to_pixels(task, images), to_pixels(task.dataset.take(index)[0])],
        ["generated", f"nearest of\n{task.scorer.looked_at}"],
        path,
    )


def draw_cost(task: Any, path: Path) -> Path:
    """Draws multiply-adds and tokens against t."""
    intervals = task.time.intervals()
    return draw_costs(
        np.append(intervals[:, 0], 1.0),
        task.forward_macs / 1e6,
        [bucket.num_supernodes for bucket in task.time.buckets],
        float(task.shares @ task.forward_macs) / 1e6,
        path,
    )


def _saved_to_pixels(task: Any, images: np.ndarray) -> np.ndarray:
    return task.dataset.to_pixels(task.dataset.from_saved(images))


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 2] + ".."
