"""Loads your own point clouds and meshes: files, folders and archives.

Formats are those of `shape_files`; what files hold, whatever they are called, is found
by `array_contents`, and what folders, names and lists say by `layout`. Files are read
one by one, and of each cloud only the points that are kept stay in memory.

Formats of .npz (pickled ones are refused), and alike of .h5 and .pt:
  1. `train_points`, `test_points` [shape, point, 3]; optional `train_class`,
     `test_class` (numbers or names) and `classes` (names of the numbers).
  2. `points` (or another usual name), [shape, point, 3]; optional `class` and
     `classes`.
  3. One array [point, 3] per cloud, under any key.
int16 coordinates are divided by 32767.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncgn_jax.data.file_trees import open_tree
from ncgn_jax.data.labels import sort_names
from ncgn_jax.data.report import Reading, classes_by_split
from ncgn_jax.data.splits import SPLITS
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.cloud_reader import (
    APART,
    Cloud,
    CloudReader,
    FileOptions,
)
from ncgn_jax.point_clouds.layout import Layout, find_layout
from ncgn_jax.point_clouds.sets import Frame, PointDataset, make_dataset
from ncgn_jax.point_clouds.shape_files import ARRAY_ENDINGS
from ncgn_jax.point_clouds.synsets import SYNSETS


def load_point_files(
    path: str | os.PathLike[str],
    num_points: int,
    test_fraction: float = 0.1,
    seed: int = 0,
    *,
    sampling: str = "auto",
    categories: Sequence[str] | None = None,
    normalise: str = "cloud",
    options: FileOptions | None = None,
) -> PointDataset:
    """Loads a file, folder or archive of point clouds and meshes.

    Training clouds keep as many points as the smallest cloud has, at most
    4 * num_points, so that each training step can draw fresh points. What is drawn of
    a file depends on the seed and its name, not on other files.

    Args:
      path: One file, a folder read recursively, or an archive.
      num_points: Points of a test cloud.
      test_fraction: Share of the shapes held out where the files name no split.
      seed: Seed of surface sampling, point draws and the split.
      sampling: Points of meshes: on the surface (also "auto"), or the vertices of those
        that have enough.
      categories: Classes to load; None for all.
      normalise: Whether each cloud is centred and scaled by itself, all of the set by
        the same numbers, or none.
      options: What files leave open.

    Returns:
      The dataset.

    Raises:
      DataError: If a file is unreadable or pickled, points are too few or coordinates
        unusable, or classes or parts are not clear; the message names the file.
    """
    path = Path(path)
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction={test_fraction}; allowed: between 0 and 1")
    reading = Reading(path, "clouds")
    settings = options or FileOptions()
    with open_tree(path, "list") as tree:
        layout = find_layout(
            tree,
            str(path),
            reading,
            split=settings.split,
            class_level=settings.class_level,
            pattern=settings.pattern,
        )
        layout = _choose_items(layout, categories, reading)
        reader = CloudReader(
            path, tree, reading, num_points, seed, sampling, normalise, settings
        )
        clouds = reader.read(layout)
    if not clouds:
        ways = ""
        if sampling == "vertices":
            ways = "; allowed: a smaller data.num_points, or data.sampling=surface"
        raise DataError(
            f"{path}: no cloud is left; {'; '.join(map(str, reading.left_out))}{ways}"
        )
    names, labels = _name_classes(clouds, layout, reader.class_names, reading)
    if categories is not None:
        clouds, labels, names = _choose_clouds(clouds, labels, names, categories, path)
    num_stored = min(len(cloud.points) for cloud in clouds)
    clouds, labels, rule = _split(
        clouds, labels, layout.split_rule, test_fraction, seed, path, reading
    )
    parts = {
        split: np.array([i for i, c in enumerate(clouds) if c.split == split], int)
        for split in ("train", "test")
    }
    num_repeated = _count_repeated(clouds, reading)
    _warn_of_classes(labels, parts, names, reading)
    reader.warn()
    frame = _find_frame([clouds[i] for i in parts["train"]], normalise)
    contents = _describe(
        clouds, num_stored, num_points, reader.smallest, normalise, frame
    )
    _warn_of_frame([clouds[i] for i in parts["train"]], normalise, reading)
    report = reading.report(
        {split: len(which) for split, which in parts.items()},
        rule,
        classes=classes_by_split(names, *(labels[which] for which in parts.values())),
        contents=contents,
        num_repeated=num_repeated,
    )
    sizes = {"train": num_stored, "test": num_points}
    arrays = {s: _stack(clouds, parts[s], sizes[s], frame) for s in ("test", "train")}
    return make_dataset(
        f"{path.name} ({num_stored} points)",
        arrays["train"],
        arrays["test"],
        labels[parts["train"]],
        labels[parts["test"]],
        tuple(names),
        report,
        frame,
    )


def _choose_items(
    layout: Layout, categories: Sequence[str] | None, reading: Reading
) -> Layout:
    """Gives known folders their names, and leaves out those of other classes."""
    items = layout.items
    known = sorted({i.category for i in items if i.category in SYNSETS})
    if known:
        reading.say(
            f"folders named as ShapeNet's synsets have its names: {known[0]} is "
            f"{SYNSETS[known[0]]}"
            + (f", and {len(known) - 1} more" if known[1:] else "")
        )
    kept = []
    names = {item.category for item in items}
    # Files of arrays may say otherwise than their folders.
    sure = layout.has_classes and not any(
        item.entry.ending in ARRAY_ENDINGS and item.entry.ending != ".npy"
        for item in items
    )
    if categories is not None and sure:
        shown = {SYNSETS.get(name, name) for name in names}
        _check_categories(categories, names | shown, reading.origin)
    for item in items:
        name = SYNSETS.get(item.category, item.category)
        if (
            categories is not None
            and sure
            and not {name, item.category} & set(categories)
        ):
            reading.leave_out("of other classes (data.categories)", item.entry.name)
            continue
        kept.append(item._replace(category=name))
    return layout._replace(items=kept)


def _check_categories(
    categories: Sequence[str], available: set[str], origin: str
) -> None:
    unknown = sorted(set(categories) - available)
    if unknown or not categories:
        raise DataError(
            f"{origin}: data.categories {unknown} unknown; allowed: "
            f"{', '.join(sorted(available))}"
        )


def _name_classes(
    clouds: list[Cloud],
    layout: Layout,
    lists: list[tuple[str, ...]],
    reading: Reading,
) -> tuple[list[str], np.ndarray]:
    """Returns the names of all classes, and the class of each cloud, int32 [cloud].

    Numbers of a file stay what they are. Names that a file lists keep its order.
    """
    found = {cloud.category for cloud in clouds}
    numbers = sorted(c for c in found if isinstance(c, int))
    if len(numbers) == len(found):
        return _name_numbers(clouds, numbers, layout.class_list, reading)
    texts = {cloud.category: str(cloud.category) for cloud in clouds}
    names = list(dict.fromkeys(name for group in lists for name in group))
    names += sort_names([*{*texts.values()} - set(names)])
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([place[texts[cloud.category]] for cloud in clouds], np.int32)
    return names, labels


def _name_numbers(
    clouds: list[Cloud],
    numbers: list[int],
    class_list: tuple[str, ...],
    reading: Reading,
) -> tuple[list[str], np.ndarray]:
    labels = np.array([cloud.category for cloud in clouds], np.int64)
    if class_list and numbers[0] >= 0 and numbers[-1] < len(class_list):
        reading.say(
            f"class numbers have the names of the list beside: 0 is {class_list[0]}"
        )
        return list(class_list), labels.astype(np.int32)
    # Few gaps stay as classes without clouds, so that numbers stay what they are.
    if numbers[0] >= 0 and numbers[-1] < 2 * len(numbers):
        if numbers[-1] + 1 > len(numbers):
            reading.say(
                f"classes 0 to {numbers[-1]} as in the file; "
                f"{numbers[-1] + 1 - len(numbers)} of them have no clouds"
            )
        return [str(i) for i in range(numbers[-1] + 1)], labels.astype(np.int32)
    reading.say(
        f"{len(numbers)} class numbers from {numbers[0]} to {numbers[-1]} are names"
    )
    return [str(n) for n in numbers], np.searchsorted(numbers, labels).astype(np.int32)


def _choose_clouds(
    clouds: list[Cloud],
    labels: np.ndarray,
    names: list[str],
    categories: Sequence[str],
    path: Path,
) -> tuple[list[Cloud], np.ndarray, list[str]]:
    wanted = {SYNSETS.get(name, name) for name in categories}
    _check_categories(sorted(wanted), set(names), str(path))
    kept = [name for name in names if name in wanted]
    new = {names.index(name): i for i, name in enumerate(kept)}
    which = [i for i, label in enumerate(labels.tolist()) if label in new]
    return (
        [clouds[i] for i in which],
        np.array([new[int(labels[i])] for i in which], np.int32),
        kept,
    )


def _split(
    clouds: list[Cloud],
    labels: np.ndarray,
    rule: str,
    test_fraction: float,
    seed: int,
    path: Path,
    reading: Reading,
) -> tuple[list[Cloud], np.ndarray, str]:
    """Returns clouds of train and test and their classes, and the rule of the split."""
    counts = {s: sum(cloud.split == s for cloud in clouds) for s in (*SPLITS, None)}
    if len(clouds) < 2:
        raise DataError(f"{path}: one cloud; at least two needed (train and test)")
    if counts[None] and counts[None] < len(clouds):
        lost = next(cloud.name for cloud in clouds if cloud.split is None)
        raise DataError(
            f"{path}: {counts[None]} of {len(clouds)} clouds (first {lost}) are named "
            "neither train, val nor test, the others are; data.split=random for a "
            "split of our own"
        )
    rule = rule or "by names of arrays"
    if counts["test"] and counts["train"]:
        which = [i for i, cloud in enumerate(clouds) if cloud.split != "val"]
        for cloud in clouds:
            if cloud.split == "val":
                reading.leave_out(APART, cloud.name)
        return [clouds[i] for i in which], labels[which], rule
    if counts["val"] and counts["train"]:
        clouds = [
            cloud._replace(split="test") if cloud.split == "val" else cloud
            for cloud in clouds
        ]
        return clouds, labels, f"{rule}; there is no test, so val is taken for it"
    if counts["test"] or counts["val"]:
        alone = "test" if counts["test"] else "val"
        raise DataError(
            f"{path}: both a train and a test part are needed, all is {alone} "
            f"({rule}); data.split=random for a split of our own"
        )
    num_test = min(max(1, round(test_fraction * len(clouds))), len(clouds) - 1)
    order = np.random.default_rng([seed, 0]).permutation(len(clouds))
    is_test = np.zeros(len(clouds), bool)
    is_test[order[:num_test]] = True
    clouds = [
        cloud._replace(split="test" if held else "train")
        for cloud, held in zip(clouds, is_test, strict=True)
    ]
    ours = f"at random, seed {seed}, data.test_fraction={test_fraction:g}"
    if counts["train"]:
        ours = f"all is train {rule}, so test is held out of it {ours}"
    return clouds, labels, ours


def _count_repeated(clouds: list[Cloud], reading: Reading) -> int:
    """Counts clouds that equal an earlier one; warns if both parts have one."""
    seen: dict[bytes, list[Cloud]] = defaultdict(list)
    for cloud in clouds:
        seen[cloud.content].append(cloud)
    both = [group for group in seen.values() if len({c.split for c in group}) > 1]
    if both:
        pair = {cloud.split: cloud.name for cloud in reversed(both[0])}
        num = sum(cloud.split == "test" for group in both for cloud in group)
        reading.say(
            f"{num} test clouds are training clouds too: {pair['test']} equals "
            f"{pair['train']}"
        )
    return len(clouds) - len(seen)


def _warn_of_classes(
    labels: np.ndarray, parts: dict[str, np.ndarray], names: list[str], reading: Reading
) -> None:
    for split, which in parts.items():
        counts = np.bincount(labels[which], minlength=len(names))
        lost = [name for name, count in zip(names, counts, strict=True) if not count]
        if lost and len(which):
            part = "training" if split == "train" else split
            reading.say(
                f"{len(lost)} of {len(names)} classes have no {part} cloud: "
                f"{', '.join(lost[:5])}"
            )


def _find_frame(train: list[Cloud], normalise: str) -> Frame:
    if normalise != "set":
        return Frame(normalise)
    center = np.mean([cloud.center for cloud in train], axis=0)
    most = max(np.abs(cloud.points - center).max() for cloud in train)
    x, y, z = center.tolist()
    return Frame(normalise, (x, y, z), float(most))


def _describe(
    clouds: list[Cloud],
    num_stored: int,
    num_points: int,
    smallest: int,
    normalise: str,
    frame: Frame,
) -> list[str]:
    """Describes sizes, units and preparation."""
    sizes = np.array([cloud.size for cloud in clouds])
    largest = (
        f"largest distance of a coordinate from a cloud's mean {sizes.min():.4g} to "
        f"{sizes.max():.4g}, on average {sizes.mean():.4g}, in the units of the file"
    )
    done = {
        "cloud": "each cloud is centred and divided by its own largest coordinate; "
        "these numbers are not kept, so samples have none (data.normalise)",
        "set": "all clouds are centred at "
        f"({', '.join(f'{x:.6g}' for x in frame.center)}) and divided by "
        f"{frame.unit:.6g}; samples come in the units of the file",
        "none": "coordinates are as in the file, and so are samples",
    }
    return [
        f"{num_stored} points kept of each training cloud and {num_points} of each "
        f"test cloud, of at least {smallest}",
        largest,
        done[normalise],
    ]


def _warn_of_frame(train: list[Cloud], normalise: str, reading: Reading) -> None:
    """Warns where coordinates as in the file are bad for a network."""
    if normalise != "none":
        return
    center = np.mean([cloud.center for cloud in train], axis=0)
    size = float(np.mean([cloud.size for cloud in train]))
    far = float(np.abs(center).max()) / size
    if far > 3:
        step = np.spacing(np.float32(far * size))
        reading.say(
            f"the clouds lie {far:.3g} times their size from the origin, which a "
            f"network must learn first, and float32 rounds them to steps of {step:.3g} "
            f"on {2 * size:.3g}; data.normalise=set centres them all alike, and undoes "
            "it in samples"
        )


def _stack(
    clouds: list[Cloud], which: np.ndarray, num_points: int, frame: Frame
) -> np.ndarray:
    """Returns the kept points of some clouds, and lets go of these."""
    found = np.empty((len(which), num_points, 3), np.float32)
    for place, index in enumerate(which.tolist()):
        cloud = clouds[index]
        found[place] = frame.from_file(cloud.points[:num_points])
        # A part of the points would keep all of them in memory.
        clouds[index] = cloud._replace(points=np.empty((0, 3)))
    return found
