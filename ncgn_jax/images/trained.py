"""Trained models of images: sample and inpaint."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ncgn_jax.data.whole_files import whole_file
from ncgn_jax.faults import RequestError
from ncgn_jax.images.facts import ImageFacts
from ncgn_jax.images.model import ImageModel
from ncgn_jax.images.units import ImageUnits
from ncgn_jax.tasks.classes import Label
from ncgn_jax.tasks.sampling import Kept
from ncgn_jax.tasks.trained import ClassedModel, at_least, in_range_of_seeds

# Samples of a run that are written as files of their own.
_MAX_SAVED = 100
_SAMPLE_FILE = re.compile(r"\d+-.*\.png|grid\.png|images\.npy")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images that a model made.

    Attributes:
      images: Pixels, bytes [image, height, width, channel]; or latents as the training
        files hold them, float32.
      labels: Name of the class of each image; () without classes.
      units: How they relate to pixels.
    """

    images: np.ndarray
    labels: tuple[str, ...]
    units: ImageUnits

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self) -> np.ndarray:
        """Returns bytes that can be drawn; latents in false colours."""
        return self.units.to_pixels(self.units.from_saved(self.images))

    def save(self, folder: str | Path) -> list[Path]:
        """Writes a PNG file for each image, and all of them as `grid.png`.

        Latents are written to `images.npy` too, for their own decoder.

        Args:
          folder: Where to.

        Returns:
          The files written.
        """
        folder, pixels = Path(folder), self.pixels()
        digits = len(str(len(self) - 1))
        names = self.labels or ("image",) * len(self)
        paths = [
            _write_png(folder / f"{i:0{digits}d}-{_plain(name)}.png", image)
            for i, (name, image) in enumerate(zip(names, pixels, strict=True))
        ]
        paths.append(_write_png(folder / "grid.png", _grid(pixels)))
        if self.units.is_latent:
            with whole_file(folder / "images.npy") as file:
                np.save(file, self.images, allow_pickle=False)
            paths.append(folder / "images.npy")
        return paths


class TrainedImages(ClassedModel[ImageModel]):
    """A trained model of images."""

    domain = "images"

    def sample(
        self,
        num: int,
        *,
        label: Label | Sequence[Label] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Images:
        """Generates images.

        Args:
          num: Number of images.
          label: Class by name or number, or several that are taken in turn; None to
            draw as often as in training.
          steps: Sampler steps; None for those of the model's configuration.
          sampler: One of `process.SAMPLERS`; None for that of the configuration.
          guidance: How far to move on from what is predicted without the class.
          seed: Seed of the noise. The same call gives the same images.

        Returns:
          The images, in the units of the data.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
        return self._generate(
            at_least("num", num, 1), label, steps, sampler, guidance, seed
        )

    def inpaint(
        self,
        image: ArrayLike,
        mask: ArrayLike,
        *,
        draws: int = 1,
        label: Label | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Images:
        """Generates the pixels of an image that are not given.

        Args:
          image: Pixels as bytes, or latents as stored, [height, width, channel].
          mask: True where the image is given, [height, width].
          draws: Number of results.
          label: Class by name or number; None to draw it.
          steps: Sampler steps.
          seed: Seed of the noise.

        Returns:
          Whole images; given pixels are unchanged.

        Raises:
          RequestError: If an argument is not possible.
        """
        seed = in_range_of_seeds(seed)
        shape, units = self.model.image_shape, self.model.facts.units
        given, known = np.asarray(image), np.asarray(mask)
        if given.shape != shape:
            raise RequestError(f"image: found shape {given.shape}; allowed: {shape}")
        if known.shape != shape[:2] or known.dtype != bool:
            raise RequestError(
                f"mask: found {known.dtype} of shape {known.shape}; allowed: bool of "
                f"shape {shape[:2]}"
            )
        if not units.is_latent and given.dtype != np.uint8:
            raise RequestError(f"image: found {given.dtype}; allowed: uint8, 0..255")
        if self.model.num_variance_steps:
            raise RequestError("a model of learned variances cannot keep pixels")
        draws = at_least("draws", draws, 1)
        data = np.broadcast_to(units.from_saved(given), (draws, *shape))
        kept = Kept(np.broadcast_to(known[..., None], (draws, *shape[:2], 1)), data)
        found = self._generate(draws, label, steps, None, 0.0, seed, kept)
        whole = np.where(known[..., None], given, found.images)
        return dataclasses.replace(found, images=whole)

    def _generate(
        self,
        num: int,
        label: Any,
        steps: int | None,
        sampler: str | None,
        guidance: float | None,
        seed: int,
        kept: Kept | None = None,
    ) -> Images:
        model = self.model
        sampling = self._settings(steps=steps, sampler=sampler, guidance=guidance)
        labels = self._labels(label, num, seed)
        stretches = model.stretches(sampling)
        images = model.sample(self.params, labels, seed, stretches, sampling, kept=kept)
        units = model.facts.units
        return Images(units.to_saved(images), self._names(labels), units)


def save_samples(
    samples: Mapping[str, np.ndarray], facts: ImageFacts, folder: Path
) -> Path:
    """Writes the first samples of a run as `Images.save` does; returns the sheet.

    Files of earlier samples in the folder make room.

    Args:
      samples: `images`, as saved, and `labels`, numbers of their classes.
      facts: What the training images taught.
      folder: Where to.
    """
    if folder.is_dir():
        for old in folder.iterdir():
            if _SAMPLE_FILE.fullmatch(old.name):
                old.unlink()
    images, labels = (samples[name][:_MAX_SAVED] for name in ("images", "labels"))
    names = facts.class_names if len(facts.class_names) > 1 else ()
    named = tuple(names[i] for i in labels) if names else ()
    Images(images, named, facts.units).save(folder)
    return folder / "grid.png"


def _write_png(path: Path, image: np.ndarray) -> Path:
    from PIL import Image

    with whole_file(path) as file:
        # Grey images stay grey, so that they can be trained on again.
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return path


def _grid(images: np.ndarray) -> np.ndarray:
    """Joins images into a nearly square sheet with a black line between them."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    height, width, channels = images.shape[1:]
    sheet = np.zeros((rows * (height + 1), columns * (width + 1), channels), np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet[:-1, :-1]


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
