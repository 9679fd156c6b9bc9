"""Decides by names and lists which files are clouds, of which class and part.

Each decision that someone else might take otherwise is said in the report, or refused
with the field that decides it.
"""

import fnmatch
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from ncgn_jax.data.file_trees import FileTree, TreeFile
from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_in, split_of
from ncgn_jax.faults import DataError
from ncgn_jax.point_clouds.shape_files import (
    ARRAY_ENDINGS,
    ENDINGS,
    OTHERS,
    TEXT_ENDINGS,
)
from ncgn_jax.point_clouds.synsets import SYNSETS
from ncgn_jax.point_clouds.text_clouds import has_points

LIST_ENDINGS = (".txt", ".json", ".lst", ".csv")
NO_CLASS = "shape"
# Files beside a cloud of the same name that hold more about its points.
_COMPANIONS = frozenset((
    "normal", "normals", "color", "colors", "colour", "colours", "rgb", "label",
    "labels", "seg", "faces", "features",
))  # fmt: skip
# Folders of formats and the like, which name no class if there is another.
_CONTAINERS = frozenset((
    "points", "pts", "pointcloud", "pointclouds", "point_cloud", "point_clouds",
    "clouds", "xyz", "data", "dataset", "mesh", "meshes", "models", "shapes", "npy",
    "npz", "ply", "off", "obj", "stl", "raw", "processed",
))  # fmt: skip
_PARTS = re.compile(r"(?:fold|split|part|batch|chunk|shard|cv|partition)[ _-]?[0-9]+")
_OFFSETS = "synsetoffset2category.txt"
# So many folders with one file each, all of one name, are shapes and not classes.
_MANY_FOLDERS = 10
_NORMAL_FOLDERS = frozenset(("normal", "normals"))
# The plain files of ScanObjectNN; those with more noise have longer names.
_SCANS = frozenset(("training_objectdataset", "test_objectdataset"))


class Item(NamedTuple):
    """A file of clouds.

    Attributes:
      entry: The file.
      split: Its part, None if its name says none.
      category: Its class by folders.
    """

    entry: TreeFile
    split: str | None
    category: str


class Layout(NamedTuple):
    """The files of clouds.

    Attributes:
      items: Files.
      split_rule: What names the part of each, empty if nothing does.
      has_classes: Whether folders name classes.
      class_list: Names of the numbers of classes, from a file beside; () without.
    """

    items: list[Item]
    split_rule: str
    has_classes: bool
    class_list: tuple[str, ...]


def find_layout(
    tree: FileTree,
    origin: str,
    reading: Reading,
    *,
    split: str = "given",
    class_level: int | None = None,
    pattern: str | None = None,
) -> Layout:
    """Finds the files of clouds of a place, their classes and their parts.

    Args:
      tree: All files.
      origin: Name of the place, for messages.
      reading: Counts what is left out, and is told what is decided.
      split: `given` for what folders, lists or names of files say; `random` for none.
      class_level: Level of the folders that name classes, from 1, without those that
        name parts; 0 for no classes; None for the first that differs.
      pattern: Files to read, such as `*.ply`; None for all.

    Raises:
      DataError: If there are no clouds, or classes or parts are not clear.
    """
    tree.count_hidden(reading)
    clouds, texts = _sort_out(tree.files, reading, pattern)
    if not clouds:
        raise DataError(_nothing(tree, origin, reading, pattern))
    clouds = _leave_companions(clouds, reading)
    clouds = _one_format_each(clouds, reading)
    clouds = _plain_scans(clouds, reading)
    splits, rule = _find_splits(clouds, texts, origin, reading, split)
    categories, has_classes = _find_classes(clouds, origin, reading, class_level)
    class_list, names = _find_class_list(texts)
    for entry in texts:
        if entry.name in names:
            reading.find("list of class names", entry.name)
        elif not split_in(entry.stem):
            reading.leave_out("texts without points", entry.name)
    if names and names[0].endswith(_OFFSETS):
        categories = [class_list.get(name, name) for name in categories]
    items = [
        Item(entry, part, category)
        for entry, part, category in zip(clouds, splits, categories, strict=True)
        if part != "unlisted"
    ]
    numbered = tuple(class_list.values()) if not has_classes else ()
    return Layout(items, rule, has_classes, numbered)


def _sort_out(
    entries: Iterable[TreeFile], reading: Reading, pattern: str | None
) -> tuple[list[TreeFile], list[TreeFile]]:
    """Returns files of clouds, and texts that may be lists."""
    clouds, texts = [], []
    for entry in entries:
        ending = entry.ending
        if not entry.is_file:
            reading.leave_out("links to nothing, and pipes", entry.name)
            continue
        is_list = ending in LIST_ENDINGS and not (
            ending in TEXT_ENDINGS and has_points(entry.head())
        )
        if is_list:
            texts.append(entry)
        elif pattern is not None and not _matches(entry, pattern):
            reading.leave_out(f"not of data.pattern={pattern}", entry.name)
        elif ending in ENDINGS:
            reading.find(ending, entry.name)
            clouds.append(entry)
        elif ending in OTHERS:
            reading.leave_out(f"{ending} files: {OTHERS[ending]}", entry.name)
        else:
            kind = f"{ending} files" if ending else "files without an ending"
            reading.leave_out(kind, entry.name)
    return clouds, texts


def _matches(entry: TreeFile, pattern: str) -> bool:
    return fnmatch.fnmatchcase(entry.name, pattern) or fnmatch.fnmatchcase(
        entry.below.name, pattern
    )


def _nothing(tree: FileTree, origin: str, reading: Reading, pattern: str | None) -> str:
    allowed = ", ".join(ENDINGS)
    left = "; ".join(map(str, reading.left_out))
    num = len(tree.files)
    if num == 1 and not left and pattern is None:
        return f"{origin}: no points: no line begins with three numbers"
    if num == 1 and tree.files[0].path is not None and pattern is None:
        ending = tree.files[0].ending
        way = f" ({OTHERS[ending]})" if ending in OTHERS else ""
        if tree.files[0].path.as_posix() == PurePosixPath(origin).as_posix():
            return (
                f"{origin}: extension {ending!r}{way}; allowed: {allowed}, .zip, .tar"
            )
    found = f"; found {left}" if left else ""
    return f"{origin}: {num} files, none of them usable{found}; allowed: {allowed}"


def _leave_companions(clouds: list[TreeFile], reading: Reading) -> list[TreeFile]:
    """Leaves out files of normals, colours and labels beside those of points."""
    stems = {(entry.below.parent, entry.stem) for entry in clouds}
    kept = []
    for entry in clouds:
        words = re.split(r"[^A-Za-z0-9]+", entry.stem)
        more = [word for word in words if word.lower() in _COMPANIONS]
        rest = re.sub(
            rf"[^A-Za-z0-9]*(?:{'|'.join(map(re.escape, more)) or '$^'})",
            "",
            entry.stem,
        )
        folders = entry.below.parts[:-1]
        if any(folder.lower() in _NORMAL_FOLDERS for folder in folders):
            reading.leave_out("normals, by the name of their folder", entry.name)
        elif more and rest != entry.stem and (entry.below.parent, rest) in stems:
            reading.leave_out(f"{more[0].lower()} of points, by name", entry.name)
        else:
            kept.append(entry)
    if not kept:  # a folder called normals that holds all there is
        return clouds
    return kept


def _one_format_each(clouds: list[TreeFile], reading: Reading) -> list[TreeFile]:
    """Keeps one of several formats of a shape: arrays, then clouds, then meshes."""
    best: dict[tuple[PurePosixPath, str], TreeFile] = {}
    for entry in clouds:
        place = entry.below.parent, entry.stem
        other = best.get(place)
        if other is None or _rank(entry) < _rank(other):
            best[place] = entry
    kept = {entry.name for entry in best.values()}
    left = [entry for entry in clouds if entry.name not in kept]
    for entry in left:
        reading.leave_out(
            f"{entry.ending} of shapes that are read in another format",
            entry.name,
        )
    if left:
        endings = Counter(best[e.below.parent, e.stem].ending for e in left)
        reading.say(
            f"shapes that come in several formats are read once, from "
            f"{' or '.join(endings)} (data.pattern, such as "
            f"*{left[0].ending}, chooses another)"
        )
    return [entry for entry in clouds if entry.name in kept]


def _rank(entry: TreeFile) -> int:
    return ENDINGS.index(entry.ending)


def _plain_scans(clouds: list[TreeFile], reading: Reading) -> list[TreeFile]:
    """Reads the plain files of ScanObjectNN, not those with more noise beside them.

    Raises:
      DataError: If several folders hold them: other splits of the same objects, or the
        same without their background.
    """
    folders = defaultdict(set)
    for entry in clouds:
        folders[entry.below.parent].add(entry.stem)
    variants = [str(folder) for folder, stems in folders.items() if stems >= _SCANS]
    if len(variants) > 1:
        raise DataError(
            f"{', '.join(variants)}: variants of the same scans (ScanObjectNN); name "
            "one by data.path, or by data.pattern"
        )
    kept = []
    for entry in clouds:
        plain = _SCANS & folders[entry.below.parent]
        if any(entry.stem.startswith(f"{stem}_") for stem in plain):
            reading.leave_out(
                "augmented variants (data.pattern reads them)", entry.name
            )
        else:
            kept.append(entry)
    return kept


def _find_splits(
    clouds: list[TreeFile],
    texts: list[TreeFile],
    origin: str,
    reading: Reading,
    split: str,
) -> tuple[list[str | None], str]:
    """Returns the part of each file, `unlisted` for none of the lists, and the rule."""
    lists = [entry for entry in texts if split_in(entry.stem)]
    if split == "random":
        for entry in lists:
            reading.leave_out("lists of a split (data.split=random)", entry.name)
        return [None] * len(clouds), ""
    found = [_split_of_folders(entry) for entry in clouds]
    if not any(found):
        found = _splits_of_alike_folders(clouds)
    if any(found):
        lost = [entry for entry, part in zip(clouds, found, strict=True) if not part]
        if lost:
            raise DataError(
                f"{origin}: {len(lost)} of {len(clouds)} files (first {lost[0].name}) "
                "lie in no train, val or test folder, the others do: rename or move "
                "them, or data.split=random for a split of our own"
            )
        for entry in lists:
            reading.leave_out("lists of a split, which folders name too", entry.name)
        return found, "by folders"
    names = [split_in(entry.stem) for entry in clouds]
    if len(set(names) - {None}) > 1 or (all(names) and len(clouds) > 1):
        lost = [entry for entry, part in zip(clouds, names, strict=True) if not part]
        if lost:
            raise DataError(
                f"{origin}: the names of {len(lost)} of {len(clouds)} files (first "
                f"{lost[0].name}) say neither train, val nor test, the others do: "
                "rename or move them, or data.split=random for a split of our own"
            )
        for entry in lists:
            reading.leave_out("lists of a split, which file names say too", entry.name)
        return names, "by names of files"
    if lists:
        return _splits_of_lists(clouds, lists, origin, reading)
    return [None] * len(clouds), ""


def _split_of_folders(entry: TreeFile) -> str | None:
    found = {split_of(folder) for folder in entry.below.parts[:-1]} - {None}
    if len(found) > 1:
        raise DataError(
            f"{entry.name}: folders name several parts; rename one of them, or "
            "data.split=random"
        )
    return found.pop() if found else None


def _splits_of_alike_folders(clouds: list[TreeFile]) -> list[str | None]:
    """Returns the words for parts in names of folders, if all of a level have one."""
    depth = min(len(entry.below.parts) for entry in clouds) - 1
    for level in range(depth):
        found = [split_in(entry.below.parts[level]) for entry in clouds]
        if all(found) and len(set(found)) > 1:
            return found
    return [None] * len(clouds)


def _splits_of_lists(
    clouds: list[TreeFile], lists: list[TreeFile], origin: str, reading: Reading
) -> tuple[list[str | None], str]:
    """Returns the part of each file by the lists that name the most files."""
    groups: dict[str, dict[str, list[TreeFile]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for entry in lists:
        part = split_in(entry.stem)
        assert part is not None
        words = re.split(r"[^A-Za-z0-9]+", entry.stem.lower())
        rest = "_".join(word for word in words if not split_of(word))
        groups[rest][part].append(entry)
    places = _Places(clouds)
    best: list[str | None] = []
    best_rule, best_lists, most = "", set[str](), 0
    for group in groups.values():
        if len(group) < 2:
            continue
        splits: list[str | None] = [None] * len(clouds)
        num_absent, first_absent, num_found = 0, "", 0
        for part, members in group.items():
            named = [(entry, name) for entry in members for name in _read_list(entry)]
            for entry, name in named:
                at = places.find(name, entry.below.parent, origin)
                if at is None:
                    num_absent += 1
                    first_absent = first_absent or name
                    continue
                if splits[at] not in (None, part):
                    raise DataError(
                        f"{origin}: {name!r} stands in the lists of {splits[at]} and "
                        f"{part}; data.split=random for a split of our own"
                    )
                num_found += splits[at] is None
                splits[at] = part
        if num_found > most:
            best, most = splits, num_found
            best_lists = {entry.name for group_ in group.values() for entry in group_}
            absent = (
                f"; {num_absent} of their names (first {first_absent}) have no file"
                if num_absent
                else ""
            )
            shown = sorted(best_lists)
            more = f" and {len(shown) - 4} more" if shown[4:] else ""
            best_rule = f"by the lists {' and '.join(shown[:4])}{more}{absent}"
    if not most:
        raise DataError(
            f"{origin}: the lists {', '.join(entry.name for entry in lists[:4])} name "
            "none of the files; data.split=random for a split of our own"
        )
    for entry in lists:
        if entry.name not in best_lists:
            reading.leave_out("lists of fewer clouds", entry.name)
    for index, part in enumerate(best):
        if part is None:
            reading.leave_out("in none of the lists", clouds[index].name)
            best[index] = "unlisted"
    return best, best_rule


class _Places:
    """Finds files by the names that lists give them."""

    def __init__(self, clouds: Sequence[TreeFile]):
        self._names = {
            i: (*entry.below.parts[:-1], entry.stem) for i, entry in enumerate(clouds)
        }
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._by_folder: dict[str, list[int]] = defaultdict(list)
        for index, parts in self._names.items():
            self._by_stem[parts[-1]].append(index)
            self._by_folder["/".join(parts[-2:-1])].append(index)

    def find(self, name: str, folder: PurePosixPath, origin: str) -> int | None:
        """Returns the number of the file that a list in a folder names.

        That is a file of that name, or the only one in a folder of that name.
        """
        place = PurePosixPath(name.replace("\\", "/"))
        parts = (*(p for p in place.parts[:-1] if p not in (".", "/")), place.name)
        found, names = self._by_stem.get(parts[-1], []), self._names
        if not found:
            parts = (*parts[:-1], place.stem)
            found = self._by_stem.get(parts[-1], [])
        if not found:
            found = self._by_folder.get(place.name, [])
            names = {i: self._names[i][:-1] for i in found}
            parts = (*parts[:-1], place.name)
        below = [
            i for i in found if self._names[i][: len(folder.parts)] == folder.parts
        ]
        found = below or found
        if len(found) > 1 and len(parts) > 1:
            shared = {i: _shared_end(names[i], parts) for i in found}
            longest = max(shared.values())
            found = [i for i in found if shared[i] == longest]
        if len(found) > 1:
            one, two = ("/".join(self._names[i]) for i in found[:2])
            raise DataError(
                f"{origin}: {name!r} of a list may be {one} or {two}; name the folder "
                "in the list, or data.split=random"
            )
        return found[0] if found else None


def _shared_end(one: Sequence[str], two: Sequence[str]) -> int:
    """Counts how many last parts of two paths are equal."""
    count = 0
    for first, second in zip(reversed(one), reversed(two), strict=False):
        if first != second:
            break
        count += 1
    return count


def _read_list(entry: TreeFile) -> list[str]:
    """Returns the names in a list, one a line or as JSON."""
    text = entry.read_plain().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if entry.ending == ".json":
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{entry.name}: not readable as JSON ({error})") from error
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            return []
        return names
    return [line.strip().strip("\"',") for line in text.splitlines() if line.strip()]


def _find_classes(
    clouds: list[TreeFile], origin: str, reading: Reading, class_level: int | None
) -> tuple[list[str], bool]:
    """Returns the class of each file by its folders, and whether they name any."""
    alike = not any(_split_of_folders(entry) for entry in clouds)
    by_words = alike and any(_splits_of_alike_folders(clouds))
    folders = [
        [
            part
            for part in entry.below.parts[:-1]
            if not split_of(part) and not (by_words and split_in(part))
        ]
        for entry in clouds
    ]
    if class_level is not None:
        return _classes_at(folders, clouds, origin, class_level)
    of_shapenet = [[p for p in parts if p in SYNSETS][:1] for parts in folders]
    if all(of_shapenet):
        return [name for (name,) in of_shapenet], True
    shared = _shared_start(folders)
    flat = [at for at, parts in enumerate(folders) if len(parts) == len(shared)]
    if len(flat) == len(folders):
        # One folder holds all: it is the class, those above it are not.
        named = [name for name in shared if name.lower() not in _CONTAINERS]
        last = named[-1:]
        shared = [name for name in shared if name not in last]
        name = last[0] if last else NO_CLASS
        if not last and PurePosixPath(origin).name in SYNSETS:
            name, last = PurePosixPath(origin).name, [origin]
        _say_wrapped(shared, reading)
        return [name] * len(clouds), bool(last)
    if flat:
        raise DataError(
            f"{origin}: {len(flat)} files (first {clouds[flat[0]].name}) lie in no "
            f"class folder, {len(clouds) - len(flat)} do: move them, or "
            "data.class_level=0 for one class"
        )
    _say_wrapped(shared, reading)
    level = len(shared)
    deeper = [c for c, parts in zip(clouds, folders, strict=True) if parts[level + 1 :]]
    if deeper:
        reading.say(
            f"classes are folders of level {level + 1}; those below (first "
            f"{deeper[0].below.parent}) name none (data.class_level)"
        )
    names = [parts[level] for parts in folders]
    if all(_PARTS.fullmatch(name.lower()) for name in names):
        raise DataError(
            f"{origin}: folders such as {names[0]} may be parts and no classes; "
            f"data.class_level=0 for one class, or {level + 1} if they are classes"
        )
    if len(set(names)) < len(names):
        return names, True
    if len(names) >= _MANY_FOLDERS and len({entry.stem for entry in clouds}) == 1:
        name = shared[-1] if shared else NO_CLASS
        reading.say(
            f"each folder holds one file {clouds[0].below.name}, so folders are shapes "
            "and name no classes (data.class_level)"
        )
        return [name] * len(clouds), bool(shared)
    if clouds[0].ending not in ARRAY_ENDINGS:
        reading.say(
            "each class folder holds one file; data.class_level=0 if folders are shapes"
        )
    return names, True


def _classes_at(
    folders: list[list[str]], clouds: list[TreeFile], origin: str, level: int
) -> tuple[list[str], bool]:
    if level == 0:
        return [NO_CLASS] * len(clouds), False
    short = next((at for at, parts in enumerate(folders) if len(parts) < level), None)
    if short is not None:
        raise DataError(
            f"{origin}: data.class_level={level}, but {clouds[short].name} lies below "
            f"{len(folders[short])} folders; allowed: 0..{min(map(len, folders))}"
        )
    return [parts[level - 1] for parts in folders], True


def _shared_start(folders: list[list[str]]) -> list[str]:
    """Returns the folders that all paths begin with."""
    shared = folders[0]
    for parts in folders:
        same = 0
        while same < min(len(shared), len(parts)) and shared[same] == parts[same]:
            same += 1
        shared = shared[:same]
    return shared


def _say_wrapped(shared: Sequence[str], reading: Reading) -> None:
    if shared:
        reading.say(f"the folder {'/'.join(shared)} holds all and names no class")


def _find_class_list(texts: list[TreeFile]) -> tuple[dict[str, str], list[str]]:
    """Returns names of classes by their number or folder, and where they stand."""
    for entry in texts:
        # `Airplane 02691156`, a line for each folder of ShapeNetPart.
        if entry.below.name.lower() == _OFFSETS:
            pairs = [line.split() for line in _read_list(entry)]
            return {p[1]: p[0] for p in pairs if len(p) == 2}, [entry.name]
    found = []
    for entry in texts:
        words = set(re.split(r"[^a-z0-9]+", entry.stem.lower()))
        of_what = {"shape", "class", "category", "label"}
        says_names = words & {"names", "name", "list"} and words & of_what
        if says_names or entry.stem.lower() in ("classes", "categories"):
            found.append(entry)
    if len(found) != 1:
        return {}, []
    names = _read_list(found[0])
    return {f"{i}": name for i, name in enumerate(names)}, [found[0].name]
