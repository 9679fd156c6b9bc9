"""Draws an image run: samples by class, paths with their patches, neighbours, costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.images.draw_images import draw_costs, draw_image_rows
from ncgn_jax.images.facts import ImageFacts
from ncgn_jax.images.model import ImageModel
from ncgn_jax.images.scores import ImageScorer
from ncgn_jax.images.sets import ImageDataset
from ncgn_jax.images.units import ImageUnits
from ncgn_jax.tasks.sampling import Reached, Start

NUM_PATHS = 4
_NUM_COLUMNS = 10
_MAX_STATES = 8
_MAX_CLASSES = 16
_MAX_ROWS = 8
# A class with fewer images than this makes no row.
_LEAST_IN_ROW = 3
_LONGEST_NAME = 14


def draw_classes(
    samples: Mapping[str, np.ndarray], facts: ImageFacts, path: Path, title: str = ""
) -> Path:
    """Draws a row for each of the most frequent classes among the samples.

    Where there are too few images of a class for a row, the first images are drawn with
    the class of each above it. `title` stands above all.
    """
    labels = np.asarray(samples["labels"])
    names = [_shorten(name) for name in facts.class_names]
    found, counts = np.unique(labels, return_counts=True)
    frequent = np.sort(found[np.argsort(-counts, kind="stable")][:_MAX_CLASSES])
    captions: Sequence[list[str]] = ()
    if len(found) > 1 and np.median(np.sort(counts)[-_MAX_CLASSES:]) < _LEAST_IN_ROW:
        shown = np.arange(min(len(labels), _MAX_ROWS * _NUM_COLUMNS))
        parts = np.split(shown, np.arange(_NUM_COLUMNS, len(shown), _NUM_COLUMNS))
        titles = [""] * len(parts)
        captions = [[names[label] for label in labels[part]] for part in parts]
    else:
        parts = [np.flatnonzero(labels == label)[:_NUM_COLUMNS] for label in frequent]
        titles = [names[label] for label in frequent]
    rows = [_to_pixels(facts.units, samples["images"][part]) for part in parts]
    return draw_image_rows(rows, titles, path, captions=captions, title=title)


def draw_paths(
    model: ImageModel,
    start: Start,
    path_of_samples: Sequence[Reached],
    path: Path,
) -> Path:
    """Draws the first samples as noise and at the end of each stretch of patches.

    Args:
      model: The model.
      start: The samples before the first step, with their classes.
      path_of_samples: Their states, as the sampler walked them.
      path: Where to.
    """
    # Patches drawn at random have a stretch for every step.
    count = min(len(path_of_samples), _MAX_STATES)
    shown = np.linspace(0, len(path_of_samples) - 1, count).astype(int)
    states = [path_of_samples[i] for i in shown]
    facts = model.facts
    columns = [
        facts.units.to_pixels(x[:NUM_PATHS]) for x in (start.x, *(s.x for s in states))
    ]
    buckets = [model.time.buckets[s.stretch.bucket or 0] for s in states]
    return draw_image_rows(
        np.stack(columns, axis=1),
        [_shorten(facts.class_names[label]) for label in start.given[:NUM_PATHS]],
        path,
        ["noise", *(f"t = {state.t:.2f}" for state in states)],
        [None, *(bucket.patch for bucket in buckets)],
        title="From noise to images",
    )


def draw_neighbors(
    images: np.ndarray, dataset: ImageDataset, scorer: ImageScorer, path: Path
) -> Path:
    """Draws generated images over the training images nearest to them."""
    images, units = images[:_NUM_COLUMNS], dataset.units
    _, index = scorer.nearest(units.from_saved(images))
    nearest = units.to_pixels(dataset.take(index)[0])
    return draw_image_rows(
        [_to_pixels(units, images), nearest],
        ["generated", f"nearest of\n{scorer.looked_at}"],
        path,
        title="Generated images and the training images nearest to them",
    )


def draw_cost(model: ImageModel, macs: np.ndarray, path: Path) -> Path:
    """Draws multiply-adds and tokens against t.

    Args:
      model: The model.
      macs: Multiply-adds of an image through the network, [bucket].
      path: Where to.
    """
    intervals = model.time.intervals()
    return draw_costs(
        np.append(intervals[:, 0], 1.0),
        macs / 1e6,
        [bucket.num_supernodes for bucket in model.time.buckets],
        float(model.shares @ macs) / 1e6,
        path,
    )


def _to_pixels(units: ImageUnits, saved: np.ndarray) -> np.ndarray:
    return units.to_pixels(units.from_saved(saved))


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 2] + ".."
