"""What the image task draws."""

from pathlib import Path
from typing import Any

import numpy as np

from ncgn_jax.pictures.images import draw_costs, draw_image_rows

_NUM_COLUMNS = 10
_NUM_PATHS = 4
_NUM_STATES = 8
_MAX_CLASSES = 16


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
    """Draws generated images in a row for each of the first classes."""
    images = task.dataset.to_pixels(samples["images"][: 50 * _NUM_COLUMNS])
    labels = samples["labels"][: len(images)]
    rows, titles = [], []
    for label in np.unique(labels)[:_MAX_CLASSES]:
        rows.append(images[labels == label][:_NUM_COLUMNS])
        titles.append(task.dataset.class_names[label])
    return draw_image_rows(rows, titles, path)


def draw_paths(task: Any, params: Any, path: Path) -> Path:
    """Draws states along the paths of a few images, with the patches of each."""
    seed = task.config.seed
    labels = task.draw_labels(_NUM_PATHS, seed)
    rows = np.arange(_NUM_PATHS)
    states = list(task.walk(params, labels, rows, seed, _NUM_STATES))
    columns = [task.dataset.to_pixels(x) for x, _, _ in states]
    return draw_image_rows(
        np.stack(columns, axis=1),
        [task.dataset.class_names[label] for label in labels],
        path,
        [f"t = {t:.2f}" for _, t, _ in states],
        [bucket.patch for _, _, bucket in states],
    )


def draw_neighbors(task: Any, samples: dict[str, np.ndarray], path: Path) -> Path:
    """Draws generated images over the training images nearest to them."""
    images = samples["images"][:_NUM_COLUMNS]
    _, index = task.scorer.nearest(images)
    to_pixels = task.dataset.to_pixels
    return draw_image_rows(
        [to_pixels(images), to_pixels(task.dataset.take(index)[0])],
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
