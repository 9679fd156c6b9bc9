"""Reads pictures (PNG, JPEG, WebP, TIFF, ...) as pixels of one size.

Pictures are turned by their EXIF data; 16-bit grey becomes 8-bit, and transparent parts
become white. If a size is asked for, the shorter side is scaled to it (bicubic, with
averaging when it shrinks) and the centre is kept.
"""

import collections
import io
import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from ncgn_jax.data.host_memory import require_bytes
from ncgn_jax.data.report import Reading
from ncgn_jax.faults import DataError

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
# Pictures in formats that are not read.
_OTHERS = (
    ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".tga", ".ico",
    ".eps", ".pcx", ".dcm", ".exr", ".hdr", ".pfm", ".dng", ".raw", ".cr2", ".nef",
)  # fmt: skip
BAD_IMAGES = ("stop", "skip")
# Formats of pixels alone; others, such as EPS, run programs or fetch what they name.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
_NUM_SHOWN = 5
_WHITE_16 = 65535


class PictureFile(NamedTuple):
    """A picture that is to be read.

    Attributes:
      name: Its name in messages.
      read: Returns the bytes of its file.
      label: Its class.
      row: Its place among the pictures of its part, whatever the order of reading.
    """

    name: str
    read: Callable[[], bytes]
    label: int
    row: int


class PictureOptions(NamedTuple):
    """Says how pictures are taken.

    Attributes:
      image_size: Height and width; 0 for those of the pictures, which must be alike.
      channels: 1 turns colour into grey, 3 grey into colour; 0 keeps the channels of
        the pictures and refuses a mixture.
      bad_images: "stop" refuses pictures that are unreadable or of several frames;
        "skip" leaves them out and counts them.
      value_range: Black and white of 16-bit grey; () for 0..65535, if the brightest
        level is in its upper half.
    """

    image_size: int = 0
    channels: int = 0
    bad_images: str = "stop"
    value_range: tuple[float, float] | tuple[()] = ()

    def check(self) -> None:
        """Refuses what is not possible, and a missing Pillow.

        Raises:
          DataError: If it is not.
        """
        if self.image_size < 0:
            raise DataError(f"data.image_size={self.image_size}; allowed: >= 0")
        if self.channels not in (0, 1, 3):
            raise DataError(f"data.channels={self.channels!r}; allowed: 0, 1, 3")
        if self.bad_images not in BAD_IMAGES:
            raise DataError(
                f"data.bad_images={self.bad_images!r}; allowed: {', '.join(BAD_IMAGES)}"
            )
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise DataError(f"image files are read by Pillow: {error}") from error


AS_STORED = PictureOptions()


def is_picture(name: str | PurePosixPath) -> bool:
    """Tells whether a name ends like that of a picture that is read."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def is_other_picture(name: str | PurePosixPath) -> bool:
    """Tells whether a name ends like that of a picture in a format that is not read."""
    return PurePosixPath(name).suffix.lower() in _OTHERS


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
      pixels: uint8 [height, width, channel].
      size: Height and width as stored, turned.
      brightest: The highest level of 16-bit grey; None for 8 bits.
      is_transparent: Whether parts of it were, which are white now.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    brightest: float | None = None
    is_transparent: bool = False


class PictureReader:
    """Reads pictures of all parts alike, and counts the bad and the enlarged ones."""

    def __init__(self, options: PictureOptions, reading: Reading):
        """Starts to count.

        Args:
          options: How pictures are taken.
          reading: Takes what is found and left out; pictures are of its origin.
        """
        self._options, self._reading = options, reading
        self._shape: tuple[int, ...] | None = None
        self._first = ""
        self._bad: list[str] = []
        self._num_read = self._num_enlarged = self._num_transparent = 0
        self._brightest: float | None = None
        self._sizes: collections.Counter[tuple[int, int]] = collections.Counter()

    def read(
        self, files: Iterable[PictureFile], count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads the pictures of a part.

        Args:
          files: The pictures, in the order that is fastest.
          count: How many there are.

        Returns:
          Pixels, uint8 [image, height, width, channel], of those that are readable,
          by their rows, and their classes, int32 [image].

        Raises:
          DataError: If channels differ.
        """
        images = np.zeros((0, 1, 1, 1), np.uint8)
        labels, is_good = np.zeros(count, np.int32), np.zeros(count, bool)
        shown = tqdm(files, desc="reading images", unit="", total=count, disable=None)
        for file in shown:
            try:
                picture = read_picture(file.read(), self._options)
            except Exception as error:  # Pillow's readers can raise anything
                self._bad.append(f"{file.name} ({error or type(error).__name__})")
                continue
            self._sizes[picture.size] += 1
            if picture.brightest is not None:
                self._brightest = max(self._brightest or 0.0, picture.brightest)
            if not self._fits(picture.pixels, file.name):
                continue
            if not is_good.any():
                images = _allocate((count, *picture.pixels.shape))
            images[file.row], labels[file.row] = picture.pixels, file.label
            is_good[file.row] = True
            self._num_enlarged += min(picture.size) < self._options.image_size
            self._num_transparent += picture.is_transparent
        self._num_read += int(is_good.sum())
        if not is_good.all():
            # Rows move to the front, so that the set is not held twice.
            for row, good in enumerate(np.flatnonzero(is_good)):
                images[row] = images[good]
            images = images[: int(is_good.sum())]
        return images, labels[is_good]

    def finish(self) -> list[str]:
        """Counts what was bad; returns what was done to the pictures, in words.

        Raises:
          DataError: If bad pictures must stop, or if sizes differ and none is asked.
        """
        options, reading = self._options, self._reading
        if self._bad and options.bad_images == "stop":
            shown = ", ".join(self._bad[:_NUM_SHOWN])
            if len(self._bad) > _NUM_SHOWN:
                shown += f" and {len(self._bad) - _NUM_SHOWN} more"
            raise DataError(
                f"{reading.origin}: {len(self._bad)} images cannot be read, "
                f"{self._num_read} can: {shown}; allowed: whole images of one frame, "
                "or data.bad_images='skip'"
            )
        if not options.image_size and len(self._sizes) > 1:
            raise self._differing_sizes()
        self._check_brightest()
        for bad in self._bad:
            reading.leave_out("images that cannot be read", bad)
        if self._num_transparent:
            reading.say(
                f"{self._num_transparent:,} images have transparent parts, which "
                "become white"
            )
        if not options.image_size:
            return ["the size of all images"]
        done = [f"scaled and cropped to {options.image_size}x{options.image_size}"]
        if self._num_enlarged:
            done.append(f"{self._num_enlarged:,} were smaller and are enlarged")
        if set(self._sizes) == {(options.image_size, options.image_size)}:
            done = ["all of that size"]
        return done

    def _fits(self, picture: np.ndarray, name: str) -> bool:
        """Tells whether a picture is like the first; refuses other channels."""
        if self._shape is None:
            self._shape, self._first = picture.shape, name
        if picture.shape[-1] != self._shape[-1]:
            raise DataError(
                f"{self._reading.origin}: {self._first} has {self._shape[-1]} "
                f"channel(s), {name} has {picture.shape[-1]}; allowed: one kind, or "
                "data.channels=1 or 3 for all"
            )
        # Sizes that differ are all counted before they are refused.
        return picture.shape == self._shape

    def _check_brightest(self) -> None:
        """Refuses 16-bit pictures that would be nearly black; says what white is."""
        brightest, given = self._brightest, self._options.value_range
        if brightest is None:
            return
        if not given and brightest < _WHITE_16 / 2:
            bits = max(8, math.ceil(math.log2(brightest + 1)))
            raise DataError(
                f"{self._reading.origin}: 16-bit grey levels up to {brightest:g}; "
                "allowed: some in the upper half of 0..65535, or data.value_range="
                f"(black, white), such as (0, {2**bits - 1})"
            )
        black, white = given or (0, _WHITE_16)
        self._reading.say(
            f"16-bit grey becomes 8-bit: {black:g} is black, {white:g} white"
        )

    def _differing_sizes(self) -> DataError:
        sides = sorted(min(size) for size in self._sizes.elements())
        middle = sides[len(sides) // 2]
        near = [side for side in (32, 64, 128, 256, 512) if side <= middle]
        proposed = near[-1] if near else middle
        shown = ", ".join(
            f"{many:,} of {height}x{width}"
            for (height, width), many in self._sizes.most_common(_NUM_SHOWN)
        )
        more = len(self._sizes) - _NUM_SHOWN
        rest = f" and {more:,} other sizes" if more > 0 else ""
        return DataError(
            f"{self._reading.origin}: images of {len(self._sizes):,} sizes, {shown}"
            f"{rest}; allowed: one size, or data.image_size to scale and crop them to, "
            f"such as {proposed}",
            {"data.image_size": proposed},
        )


def read_picture(content: bytes, options: PictureOptions) -> Picture:
    """Reads a picture.

    Args:
      content: Bytes of its file.
      options: How it is taken.

    Raises:
      Exception: Nearly any, if it is damaged; ValueError if it is not to be used.
    """
    # Needed for image files only.
    from PIL import Image, ImageOps, UnidentifiedImageError

    image_size, channels = options.image_size, options.channels
    brightest, is_transparent = None, False
    with warnings.catch_warnings():
        # Few bytes can announce more pixels than memory holds.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opening = Image.open(io.BytesIO(content), formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError("cannot identify the format") from error
        with opening as opened:
            # Phones append previews to a JPEG; its first frame is the picture.
            num_frames = getattr(opened, "n_frames", 1)  # absent in some formats
            if opened.format != "MPO" and num_frames > 1:
                raise ValueError(f"{num_frames} frames")
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                picture, brightest = _to_8_bits(picture, options.value_range)
            else:
                picture, is_transparent = _flatten(picture)
    if channels == 1 and picture.mode == "RGB":
        picture = picture.convert("L")
    stored = picture.height, picture.width
    if image_size and stored != (image_size, image_size):
        size = (image_size, image_size)
        picture = ImageOps.fit(picture, size, method=Image.Resampling.BICUBIC)
    pixels = np.clip(np.round(np.asarray(picture)), 0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], channels or 1, axis=-1)
    return Picture(pixels, stored, brightest, is_transparent)


def _to_8_bits(
    picture: "Image.Image", value_range: tuple[float, float] | tuple[()]
) -> tuple["Image.Image", float]:
    """Scales 16-bit grey to 0..255 as numbers; returns its brightest level too."""
    from PIL import Image

    levels = np.asarray(picture).astype(np.float32)
    black, white = value_range or (0.0, float(_WHITE_16))
    if levels.min() < black or levels.max() > white:
        raise ValueError(
            f"grey levels {levels.min():g}..{levels.max():g}, beyond {black:g}.."
            f"{white:g}"
        )
    scaled = (levels - np.float32(black)) / np.float32((white - black) / 255)
    return Image.fromarray(scaled), float(levels.max())


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    what = f"{shape[0]} images of {'x'.join(map(str, shape[1:]))}"
    ways_out = "fewer or smaller ones (data.image_size), or latents"
    require_bytes(math.prod(shape), what, ways_out)
    return np.empty(shape, np.uint8)


def _flatten(picture: "Image.Image") -> tuple["Image.Image", bool]:
    """Makes opaque grey ("L") or colour ("RGB"); tells whether it was not opaque."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError(
            "floating-point levels, whose white is not known; as arrays (.npy) they "
            "are read, with data.value_range"
        )
    is_grey, is_transparent = picture.mode in ("1", "L", "LA", "La"), False
    if picture.mode.endswith("A") or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        layer = picture.convert("RGBA")
        is_transparent = layer.getchannel("A").getextrema() != (255, 255)
        flat = Image.alpha_composite(white, layer).convert("RGB")
    else:
        flat = picture.convert("RGB")
    if picture.mode in ("P", "PA"):
        is_grey = not np.ptp(np.asarray(flat), axis=-1).any()
    return (flat.convert("L") if is_grey else flat), is_transparent
