"""Converts images between the units of training, of files and of the screen."""

import dataclasses

import numpy as np

# Latents of unit variance hardly ever leave this interval.
_LATENT_RANGE = 3.0


@dataclasses.dataclass(frozen=True)
class ImageUnits:
    """How stored images relate to those of training, which are [-1, 1] for pixels.

    Attributes:
      shift: Stored value that becomes 0 in training.
      scale: Difference of stored values that becomes 1 in training, > 0.
      is_latent: Whether the images are latents of an autoencoder, not pixels.
    """

    shift: float
    scale: float
    is_latent: bool = False

    def to_training(self, stored: np.ndarray) -> np.ndarray:
        """Converts stored images to the units of training, float32."""
        shift, scale = np.float32(self.shift), np.float32(self.scale)
        return (np.asarray(stored, np.float32) - shift) / scale

    def from_training(self, images: np.ndarray) -> np.ndarray:
        """Converts images to the units they are stored in, float32; does not round."""
        shift, scale = np.float32(self.shift), np.float32(self.scale)
        return np.asarray(images, np.float32) * scale + shift

    def to_saved(self, images: np.ndarray) -> np.ndarray:
        """Converts images in the units of training to the form that is saved.

        Returns:
          Pixels as bytes, 0 black and 255 white; latents in the units they are stored
          in, float32, ready for the decoder of their autoencoder.
        """
        return self.from_training(images) if self.is_latent else self.to_pixels(images)

    def from_saved(self, saved: np.ndarray) -> np.ndarray:
        """Converts the output of `to_saved` to the units of training, float32."""
        if self.is_latent:
            return self.to_training(saved)
        return np.asarray(saved, np.float32) / np.float32(127.5) - np.float32(1)

    def to_pixels(self, images: np.ndarray) -> np.ndarray:
        """Converts images in the units of training to bytes that can be drawn.

        Latents are shown in false colours: their first three channels (the first
        one, if there are fewer), from -3 to 3.

        Args:
          images: In the units of training, [..., height, width, channel].

        Returns:
          uint8 [..., height, width, 1 or 3], 0 black and 255 white.
        """
        images = np.asarray(images, np.float32)
        if self.is_latent:
            shown = 3 if images.shape[-1] >= 3 else 1
            images = images[..., :shown] / np.float32(_LATENT_RANGE)
        levels = np.round((images + 1) * np.float32(127.5))
        return np.clip(levels, 0, 255).astype(np.uint8)
