"""Loads pictures from a folder or an archive, one folder for each class.

Layouts: `class/image.png`, split at random; `train/class/image.png` beside `test` and
`val` in any spelling (`data.splits`); `class/train/image.png`; or pictures alone, which
are of one class. Folders around all of this are looked through, and so is one within
every class. A validation part is kept apart, or is the test part where there is none.
Where files of classes lie beside the pictures (`class_files`), these name the classes.
Hidden files and files that are no pictures are counted, and links out of the root are
refused.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ncgn_jax.data.archives import ARCHIVE_ENDINGS, is_archive
from ncgn_jax.data.file_trees import FileTree, TreeFile, open_tree
from ncgn_jax.data.labels import sort_names
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_of
from ncgn_jax.faults import DataError
from ncgn_jax.images.class_files import is_class_file, read_class_files
from ncgn_jax.images.picture_files import (
    AS_STORED,
    EXTENSIONS,
    PictureFile,
    PictureOptions,
    PictureReader,
    is_other_picture,
    is_picture,
)
from ncgn_jax.images.sets import ImageDataset, num_held_out
from ncgn_jax.images.splitting import choose_parts, join_parts
from ncgn_jax.images.units import ImageUnits

CLASS_FOLDERS = ("auto", "first", "last", "path")
_LAYOUTS = "class/image, train/class/image, or class/train/image"
_Parts = tuple[str, ...]
# Names of parts that may as well be those of classes.
_SHORT = frozenset(("tr", "te", "dev", "eval"))
_PICTURE_FOLDERS = frozenset(("image", "images", "img", "imgs"))
_TARGET_FOLDERS = frozenset(
    (
        "label",
        "labels",
        "mask",
        "masks",
        "annotation",
        "annotations",
        "segmentations",
        "gt",
        "lists",
    )
)


class _Picture(NamedTuple):
    """A picture and what its folders say."""

    file: TreeFile
    part: str
    folders: _Parts  # that may name its class


def load_folder(
    path: str | os.PathLike[str],
    options: PictureOptions = AS_STORED,
    test_fraction: float = 0.1,
    seed: int = 0,
    class_folder: str = "auto",
) -> ImageDataset:
    """Loads the pictures of a folder or an archive.

    Args:
      path: The root of the folder, or a .zip or .tar, which is read in place.
      options: How pictures are taken.
      test_fraction: Share of each class held out if there is no test part.
      seed: Seed of that split.
      class_folder: Which folder names the class where folders lie in folders: "first"
        for the outermost, "last" for the innermost, "path" for all of them; "auto"
        refuses these.

    Returns:
      The dataset, uint8, in memory; classes in alphabetical order.

    Raises:
      DataError: If an option is unknown, if the folders have another layout, if a link
        leaves the root, if a class has no image, or if images are unreadable.
    """
    root = Path(path)
    options.check()
    num_held_out(1, test_fraction)  # a wrong share is refused before reading
    if not root.exists():
        raise DataError(f"{root}: no such folder; allowed: a folder of images")
    if not root.is_dir() and not is_archive(root):
        raise DataError(
            f"{root}: a file; allowed: a folder of images, or an archive "
            f"({', '.join(ARCHIVE_ENDINGS)})"
        )
    reading = Reading(root, "images")
    with open_tree(root) as tree:
        pictures = _list_pictures(tree, reading)
        pictures = _find_parts(root, pictures, reading)
        pictures = _strip_within(pictures, reading)
        pictures = _drop_unclassed(root, pictures, reading)
        choice = choose_parts(_sizes(pictures), reading)
        used = [choice.train] + ([choice.test] if choice.test is not None else [])
        listed = [[p for p in pictures if p.part == part] for part in used]
        classes = _find_class_files(root, tree, listed, class_folder, reading)
        if not classes:
            classes = _find_classes(root, listed, class_folder, reading)
        names = _check_classes(root, tree, listed, classes, used)
        reader = PictureReader(options, reading)
        read = [
            reader.read(_in_order(own, of_own, names), len(own))
            for own, of_own in zip(listed, classes, strict=True)
        ]
    contents = reader.finish()
    for of_own, (_, own_labels), part in zip(classes, read, used, strict=True):
        seen = [names[i] for i in np.unique(own_labels)]
        _refuse_empty(root, part, set(of_own), seen)
    name = root.resolve().name.split(".")[0] if root.is_file() else root.resolve().name
    units = ImageUnits(127.5, 127.5)
    return join_parts(
        name, read, names, reading, choice.rule, test_fraction, seed, units, contents
    )


def _list_pictures(tree: FileTree, reading: Reading) -> list[_Picture]:
    """Lists the pictures; counts them by ending, and all other files."""
    pictures = []
    for file in tree.files:
        ending = file.below.suffix.lower()
        if is_picture(file.name):
            reading.find(ending, file.name)
            pictures.append(_Picture(file, "", file.below.parts[:-1]))
        elif is_other_picture(file.name):
            reason = f"{ending} pictures, a format that is not read"
            reading.leave_out(reason, file.name)
        elif not is_class_file(file.name):
            kind = f"{ending} files" if ending else "files without an ending"
            reading.leave_out(f"{kind}, no pictures", file.name)
    tree.count_hidden(reading)
    return pictures


def _find_parts(
    root: Path, pictures: list[_Picture], reading: Reading
) -> list[_Picture]:
    """Finds train, val and test among the folders, below folders around all."""
    around: list[str] = []
    while True:
        first = {p.folders[0] if p.folders else "" for p in pictures}
        wraps = len(first) == 1 and all(len(p.folders) >= 2 for p in pictures)
        if not wraps or split_of(next(iter(first))) is not None:
            break
        around.append(first.pop())
        # What lies in one class, in folders of parts, is no folder around all.
        if {split_of(p.folders[1]) for p in pictures} <= {"train", "val", "test"}:
            inner = [p._replace(folders=p.folders[1:]) for p in pictures]
            if all(len(p.folders) == 1 for p in inner):
                around.pop()
                break
        pictures = [p._replace(folders=p.folders[1:]) for p in pictures]
    if around:
        reading.say(f"all images lie in {'/'.join(around)}, which names no class")
    outer = _names_at(pictures, 0)
    found = _splits(root, outer)
    beside = set(outer) - set(found)
    if found and beside and set(found) <= _SHORT:
        # Codes of languages, for instance.
        reading.say(f"folders {', '.join(sorted(found))} are classes, not parts")
        return pictures
    if "train" in found.values():
        direct = [name for name in sorted(beside) if any(
            p.folders == (name,) for p in pictures)]  # fmt: skip
        if direct or () in {p.folders for p in pictures}:
            where = direct[0] if direct else "no folder"
            raise DataError(
                f"{root}: images in {where} beside the folder train; allowed: "
                "train/class/image and test/class/image, or class/image without a "
                "class called train"
            )
        for name in sorted(beside):
            own = [p for p in pictures if p.folders[0] == name]
            reason = "images in folders beside the train folder"
            reading.leave_out(reason, own[0].file.name, len(own))
        return [
            p._replace(part=found[p.folders[0]], folders=p.folders[1:])
            for p in pictures
            if p.folders[0] in found
        ]
    if found:
        raise DataError(
            f"{root}: a folder {min(found)} but no train; found "
            f"{', '.join(sorted(outer))}; allowed: both, or classes only"
        )
    return _find_inner_parts(root, pictures)


def _find_inner_parts(root: Path, pictures: list[_Picture]) -> list[_Picture]:
    """Finds train, val and test within every class."""
    inner = _names_at(pictures, 1)
    found = _splits(root, inner)
    if "train" not in found.values():
        return pictures
    odd = [p for p in pictures if len(p.folders) < 2 or p.folders[1] not in found]
    if odd:
        raise DataError(
            f"{root}: {odd[0].file.name} beside folders "
            f"{', '.join(sorted(found))} in classes; allowed: all images in these"
        )
    return [
        p._replace(part=found[p.folders[1]], folders=(p.folders[0], *p.folders[2:]))
        for p in pictures
    ]


def _names_at(pictures: Iterable[_Picture], level: int) -> dict[str, None]:
    return {p.folders[level]: None for p in pictures if len(p.folders) > level}


def _splits(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the part of each name that is one; refuses two names of one part."""
    found = {name: part for name in names if (part := split_of(name)) is not None}
    for name, part in found.items():
        others = [other for other in found if found[other] == part and other != name]
        if others:
            raise DataError(
                f"{root}: folders {name} and {others[0]} are both {part}; allowed: one"
            )
    return found


def _strip_within(pictures: list[_Picture], reading: Reading) -> list[_Picture]:
    """Looks through a folder of one name within every training class."""
    train = [p for p in pictures if p.part in ("train", "")]
    within = {p.folders[-1] if p.folders else "" for p in train}
    if len(within) != 1 or len(_names_at(train, 0)) < 2:
        return pictures
    if not all(len(p.folders) == 2 for p in train):
        return pictures
    name = within.pop()
    reading.say(f"classes are the folders around {name}")
    return [
        p._replace(folders=p.folders[:-1]) if p.folders[-1:] == (name,) else p
        for p in pictures
    ]


def _drop_unclassed(
    root: Path, pictures: list[_Picture], reading: Reading
) -> list[_Picture]:
    """Leaves out val and test parts without folders of classes, if train has some."""
    if not any(p.folders for p in pictures if p.part == "train"):
        return pictures
    for part in ("val", "test"):
        own = [p for p in pictures if p.part == part]
        if own and not any(p.folders for p in own):
            reason = f"images of the {part} part, which has no folders of classes"
            reading.leave_out(reason, own[0].file.name, len(own))
            pictures = [p for p in pictures if p.part != part]
    return pictures


def _sizes(pictures: Sequence[_Picture]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for picture in pictures:
        sizes[picture.part] = sizes.get(picture.part, 0) + 1
    return sizes or {"": 0}


def _find_classes(
    root: Path,
    listed: Sequence[Sequence[_Picture]],
    class_folder: str,
    reading: Reading,
) -> list[list[str]]:
    """Returns the name of the class of each picture, for each part."""
    if class_folder not in CLASS_FOLDERS:
        raise DataError(
            f"data.class_folder={class_folder!r}; allowed: {', '.join(CLASS_FOLDERS)}"
        )
    every = [p for own in listed for p in own]
    loose = [p for p in every if not p.folders]
    if loose and len(loose) < len(every):
        beside = sorted(_names_at(every, 0))
        raise DataError(
            f"{root}: image {loose[0].file.name} beside the folders "
            f"{', '.join(beside)}; allowed: all images in class folders, or none"
        )
    if loose or not every:
        return [["image"] * len(own) for own in listed]
    names = {name.lower() for name in _names_at(every, 0)}
    no_classes = names <= _PICTURE_FOLDERS | _TARGET_FOLDERS
    both = names & _PICTURE_FOLDERS and names & _TARGET_FOLDERS
    if no_classes and both and class_folder == "auto":
        raise DataError(
            f"{root}: folders {', '.join(sorted(names))} are hardly classes; allowed: "
            "data.path with the folder of the images alone, or data.class_folder=first "
            "to take them as classes"
        )
    deep = [p for p in every if len(p.folders) > 1]
    if deep and class_folder == "auto":
        folder = PurePosixPath(deep[0].file.name).parent
        outer = ", ".join(sort_names(list(_names_at(every, 0)))[:4])
        inner = ", ".join(sort_names(list({p.folders[-1] for p in every}))[:4])
        raise DataError(
            f"{root}: folder {folder} within a class; allowed: {_LAYOUTS}, or "
            f"data.class_folder=first (classes {outer}), last (classes {inner}) or "
            "path (both)"
        )
    if class_folder == "path":
        reading.say("classes are the folders of each image, all of them")
        return [["/".join(p.folders) for p in own] for own in listed]
    at = -1 if class_folder == "last" else 0
    if deep:
        said = f"classes are the {class_folder} of the folders of each image"
        paths = {p.folders for p in every}
        shared = len(paths) - len({folders[at] for folders in paths})
        if at == -1 and shared:
            said += f"; folders of one name are one class, {len(paths)} folders in all"
        reading.say(said)
    return [[p.folders[at] for p in own] for own in listed]


def _find_class_files(
    root: Path,
    tree: FileTree,
    listed: Sequence[Sequence[_Picture]],
    class_folder: str,
    reading: Reading,
) -> list[list[str]]:
    """Returns the class of each picture from files beside; [] where there are none."""
    files = [file for file in tree.files if is_class_file(file.name)]
    if not files:
        return []
    if class_folder != "auto":
        reading.leave_out(
            ".cls files, as data.class_folder names the classes",
            files[0].name,
            len(files),
        )
        return []
    found = []
    for own in listed:
        names = [p.file.name for p in own]
        found.append(read_class_files(str(root), names, files))
    reading.say(f"classes are those of {len(files):,} .cls files")
    return found


def _check_classes(
    root: Path,
    tree: FileTree,
    listed: Sequence[Sequence[_Picture]],
    classes: Sequence[Sequence[str]],
    used: Sequence[str],
) -> list[str]:
    """Returns the names of all classes; refuses empty and unknown ones."""
    names = sort_names(sorted(set(classes[0])))
    if not names:
        _refuse_empty(root, used[0], [], [])
    if len(classes) == 2 and not set(classes[1]) <= set(names):
        unknown = sorted(set(classes[1]) - set(names))
        raise DataError(
            f"{root}: no training images of class {', '.join(unknown)}; found "
            f"{', '.join(names)}; allowed: test classes that are in training too"
        )
    for own, part in zip(listed, used, strict=True):
        if not own or any(p.folders != p.file.below.parts[-2:-1] for p in own):
            continue
        if not own[0].folders:
            continue
        # Folders beside those of the pictures, which hold none.
        above = {str(p.file.below.parent.parent) for p in own}
        if len(above) == 1:
            depth = len(PurePosixPath(next(iter(above))).parts)
            siblings = {
                PurePosixPath(folder).name
                for folder in tree.folders
                if str(PurePosixPath(folder).parent) in above
                and len(PurePosixPath(folder).parts) == depth + 1
            }
            held = {p.folders[0] for p in own}
            if {name.lower() for name in held} <= _PICTURE_FOLDERS:
                # What lies beside `images` alone is no class without images.
                siblings = {s for s in siblings if s.lower() not in _TARGET_FOLDERS}
            _refuse_empty(root, part, siblings, sorted(held))
    return names


def _refuse_empty(
    root: Path, part: str, classes: Iterable[str], with_images: Sequence[str]
) -> None:
    place = f", {part}" if part else ""
    empty = sorted(set(classes) - set(with_images))
    if empty:
        raise DataError(
            f"{root}{place}: no usable image of class {', '.join(empty)}; allowed: at "
            f"least one of each ({', '.join(EXTENSIONS)})"
        )
    if not with_images:
        raise DataError(f"{root}{place}: no images; allowed: {', '.join(EXTENSIONS)}")


def _in_order(
    pictures: Sequence[_Picture], classes: Sequence[str], names: Sequence[str]
) -> list[PictureFile]:
    """Returns the pictures in the order of reading, with rows by class and name."""
    number: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    labels = [number[name] for name in classes]
    by_class = np.argsort(labels, kind="stable")
    rows = np.empty(len(labels), int)
    rows[by_class] = np.arange(len(labels))
    order = sorted(range(len(pictures)), key=lambda i: pictures[i].file.place)
    return [
        PictureFile(
            pictures[i].file.name, pictures[i].file.read, labels[i], int(rows[i])
        )
        for i in order
    ]
