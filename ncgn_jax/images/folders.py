"""Loads folders of image files (PNG, JPEG, BMP, GIF), one folder for each class.

The layout is `root/class/image.png`, split at random, or `root/train/class/image.png`
beside `root/test`, `root/val`, `root/valid` or `root/validation`. The first of these
that exists is the test part and the others are ignored; without one the training images
are split. Without class folders all images are of one class. Hidden files and files of
other kinds are ignored, and links out of the root are refused.
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ncgn_jax.faults import DataError
from ncgn_jax.images.sets import (
    ImageDataset,
    make_image_dataset,
    num_held_out,
    stratified_split,
)

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TEST_FOLDERS = ("test", "val", "valid", "validation")
BAD_IMAGES = ("stop", "skip")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_NUM_SHOWN = 5


def load_folder(
    path: str | os.PathLike[str],
    image_size: int,
    channels: str | int = "auto",
    bad_images: str = "stop",
    test_fraction: float = 0.1,
    seed: int = 0,
) -> ImageDataset:
    """Loads a folder of images, each scaled and cropped to one square size.

    Images are rotated by their EXIF data; 16-bit grey becomes 8-bit, and transparent
    parts become white. The shorter side is scaled to `image_size` (bicubic, with
    averaging when it shrinks) and the centre is kept. All pixels are held in memory.

    Args:
      path: The root of the folder.
      image_size: Height and width.
      channels: 1 turns colour into grey, 3 grey into colour; "auto" keeps the channels
        of the images and refuses a mixture.
      bad_images: "stop" refuses files that are unreadable or animated; "skip" leaves
        them out and counts them in `source`.
      test_fraction: Share of each class held out if there is no test folder.
      seed: Seed of that split.

    Returns:
      The dataset, uint8; classes in alphabetical order.

    Raises:
      DataError: If an option is unknown, if the folders have another layout, if a link
        leaves the root, if a class has no image, or if images are unreadable.
    """
    root = Path(path)
    _check_options(image_size, channels, bad_images)
    num_held_out(1, test_fraction)  # a wrong share is refused before reading
    parts = _find_parts(root)
    listed = [_list_classes(root, folder) for folder in parts]
    names = sorted(listed[0])
    if len(listed) == 2 and not set(listed[1]) <= set(names):
        unknown = sorted(set(listed[1]) - set(names))
        raise DataError(
            f"{root}: no training images of class {', '.join(unknown)}; found "
            f"{', '.join(names)}; allowed: test classes that are in training too"
        )
    reader = _Reader(root, image_size, None if channels == "auto" else int(channels))
    read = [reader.read(classes, names) for classes in listed]
    report = reader.report(bad_images)
    images, labels = [part for part, _ in read], [part for _, part in read]
    for folder, own, classes in zip(parts, labels, listed, strict=True):
        _refuse_empty(root, folder, classes, [names[i] for i in np.unique(own)])
    how = f"{parts[0].name} and {parts[-1].name} folders"
    if len(parts) == 1:
        num_test = num_held_out(len(images[0]), test_fraction)
        rows = stratified_split(labels[0], num_test, seed, str(root))
        images = [images[0][part] for part in rows]
        labels = [labels[0][part] for part in rows]
        how = f"split seed {seed}"
    train, test = images
    train_labels, test_labels = labels
    return make_image_dataset(
        root.resolve().name,
        train,
        test,
        train_labels,
        test_labels,
        names,
        f"{root}: {len(train)} train and {len(test)} test images, {how}, "
        f"scaled and cropped to {image_size}x{image_size}{report}",
        shift=127.5,
        scale=127.5,
    )


def _check_options(image_size: int, channels: str | int, bad_images: str) -> None:
    if image_size < 1:
        raise DataError(f"data.image_size={image_size}; allowed: >= 1")
    if str(channels) not in ("auto", "1", "3"):
        raise DataError(f"data.channels={channels!r}; allowed: auto, 1, 3")
    if bad_images not in BAD_IMAGES:
        raise DataError(
            f"data.bad_images={bad_images!r}; allowed: {', '.join(BAD_IMAGES)}"
        )
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError(f"image files are read by Pillow: {error}") from error


def _find_parts(root: Path) -> list[Path]:
    """Returns the training folder and, if there is one, the test folder."""
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise DataError(f"{root}: {found}; allowed: a folder of images")
    folders = {entry.name: entry for entry in _entries(root, root) if entry.is_dir()}
    tests = [folders[name] for name in TEST_FOLDERS if name in folders]
    if "train" in folders:
        for name in sorted(set(folders) - {"train", *TEST_FOLDERS}):
            if _only_images(_entries(root, folders[name])):
                raise DataError(
                    f"{root}: images in {name} beside the folder train; allowed: "
                    "train/class/image and test/class/image, or class/image without a "
                    "class called train"
                )
        return [folders["train"], *tests[:1]]
    if tests:
        raise DataError(
            f"{root}: a folder {tests[0].name} but no train; found "
            f"{', '.join(sorted(folders))}; allowed: both, or classes only"
        )
    return [root]


def _entries(root: Path, folder: Path) -> list[Path]:
    """Lists a folder by name, without hidden files; refuses links out of the root."""
    inside = os.path.realpath(root)
    try:
        entries = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: not a readable folder ({error})") from error
    for entry in entries:
        if not Path(os.path.realpath(entry)).is_relative_to(inside):
            raise DataError(
                f"{root}: {entry.relative_to(root).as_posix()} is a link that leaves "
                "the folder; allowed: links to what is in it"
            )
    return entries


def _list_classes(root: Path, folder: Path) -> dict[str, list[Path]]:
    """Lists the image files of each class; a folder without classes has one."""
    entries = _entries(root, folder)
    classes = [entry for entry in entries if entry.is_dir()]
    loose = _only_images(entries)
    if loose and classes:
        raise DataError(
            f"{root}: image {loose[0].relative_to(root)} beside the folders "
            f"{', '.join(entry.name for entry in classes)}; allowed: all images in "
            "class folders, or none"
        )
    if loose:
        return {"image": loose}
    files = {}
    for entry in classes:
        content = _entries(root, entry)
        deeper = [inner for inner in content if inner.is_dir()]
        if deeper:
            raise DataError(
                f"{root}: folder {deeper[0].relative_to(root)} within a class; "
                "allowed: class/image or train/class/image"
            )
        files[entry.name] = _only_images(content)
    _refuse_empty(root, folder, files, [name for name in files if files[name]])
    return files


def _only_images(entries: list[Path]) -> list[Path]:
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in EXTENSIONS and not entry.is_dir()
    ]


def _refuse_empty(
    root: Path, folder: Path, classes: Iterable[str], with_images: list[str]
) -> None:
    place = "" if folder == root else f", {folder.name}"
    empty = sorted(set(classes) - set(with_images))
    if empty:
        raise DataError(
            f"{root}{place}: no usable image of class {', '.join(empty)}; allowed: at "
            f"least one of each ({', '.join(EXTENSIONS)})"
        )
    if not with_images:
        raise DataError(f"{root}{place}: no images; allowed: {', '.join(EXTENSIONS)}")


@dataclasses.dataclass
class _Reader:
    """Reads image files and counts the bad and the enlarged ones."""

    root: Path
    image_size: int
    asked: int | None  # channels; None for those of the first image
    channels: int | None = None
    first: str = ""
    num_read: int = 0
    num_enlarged: int = 0
    bad: list[str] = dataclasses.field(default_factory=list)

    def read(
        self, classes: dict[str, list[Path]], names: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and classes of all readable files."""
        files = [
            (label, f) for label, n in enumerate(names) for f in classes.get(n, ())
        ]
        images = np.zeros((0, 1, 1, 1), np.uint8)
        labels: list[int] = []
        for label, file in tqdm(files, desc="reading images", unit="", disable=None):
            name = file.relative_to(self.root).as_posix()
            try:
                picture, is_small = _read_picture(file, self.image_size, self.asked)
            except Exception as error:  # Pillow's readers can raise anything
                self.bad.append(f"{name} ({error or type(error).__name__})")
                continue
            self._check_channels(picture.shape[-1], name)
            if not labels:
                images = _allocate((len(files), *picture.shape))
            images[len(labels)] = picture
            labels.append(label)
            self.num_enlarged += is_small
        self.num_read += len(labels)
        return images[: len(labels)], np.asarray(labels, np.int32)

    def _check_channels(self, channels: int, name: str) -> None:
        if self.channels is None:
            self.channels, self.first = channels, name
        if channels != self.channels:
            raise DataError(
                f"{self.root}: {self.first} has {self.channels} channel(s), {name} has "
                f"{channels}; allowed: one kind, or data.channels=1 or 3 for all"
            )

    def report(self, bad_images: str) -> str:
        """Describes bad and enlarged files; raises DataError if bad ones must stop."""
        shown = ", ".join(self.bad[:_NUM_SHOWN])
        if len(self.bad) > _NUM_SHOWN:
            shown += f" and {len(self.bad) - _NUM_SHOWN} more"
        if self.bad and bad_images == "stop":
            raise DataError(
                f"{self.root}: {len(self.bad)} images cannot be read, {self.num_read} "
                f"can: {shown}; allowed: whole images of one frame, or "
                "data.bad_images='skip'"
            )
        report = f"; {len(self.bad)} left out: {shown}" if self.bad else ""
        if self.num_enlarged:
            report += f"; {self.num_enlarged} were smaller and are enlarged"
        return report


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{shape[0]} images of {'x'.join(map(str, shape[1:]))} do not fit into "
            "memory; allowed: fewer or smaller ones (data.image_size), or latents"
        ) from error


def _read_picture(
    file: Path, image_size: int, channels: int | None
) -> tuple[np.ndarray, bool]:
    """Returns pixels, uint8 [size, size, channel], and whether they were enlarged."""
    from PIL import Image, ImageOps  # needed for image files only

    if not file.is_file():
        raise ValueError("not a file")
    with Image.open(file, formats=_FORMATS) as opened:
        # Phones append previews to a JPEG; its first frame is the picture.
        num_frames = getattr(opened, "n_frames", 1)  # absent in formats of one frame
        if opened.format != "MPO" and num_frames > 1:
            raise ValueError(f"animated, {num_frames} frames")
        picture = _flatten(ImageOps.exif_transpose(opened))
    if channels == 1 and picture.mode == "RGB":
        picture = picture.convert("L")
    size = (image_size, image_size)
    fitted = ImageOps.fit(picture, size, method=Image.Resampling.BICUBIC)
    pixels = np.clip(np.round(np.asarray(fitted)), 0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], channels or 1, axis=-1)
    return pixels, min(picture.size) < image_size


def _flatten(picture: "Image.Image") -> "Image.Image":
    """Makes opaque grey ("L", "F" from 16 bits) or colour ("RGB"); white is 255."""
    from PIL import Image

    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.float32)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"grey levels {levels.min():g}..{levels.max():g}")
        return Image.fromarray(levels / np.float32(257))
    is_grey = picture.mode in ("1", "L", "LA")
    if picture.mode.endswith("A") or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    else:
        flat = picture.convert("RGB")
    if picture.mode in ("P", "PA"):
        is_grey = not np.ptp(np.asarray(flat), axis=-1).any()
    return flat.convert("L") if is_grey else flat
