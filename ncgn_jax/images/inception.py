"""True FID and Inception score, with Inception weights that the user has on disk.

The network is torch-fidelity's FeatureExtractorInceptionV3, the one behind published
numbers (Inception of 2015 as in TensorFlow, its resizing too); torch-fidelity and torch
are optional and imported here alone, its weights
`weights-inception-2015-12-05-6726825d.pth` are not fetched. torch-fidelity reads a
weights file with `weights_only=False`, which runs whatever code the file holds. So the
file is read here, tensors only, and torch-fidelity is given these.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ncgn_jax.faults import DataError

_BATCH = 32
# The pooled features behind FID, and what published Inception scores are taken of.
_LAYERS = ["2048", "logits_unbiased"]
_INSTALL = "`pip install torch-fidelity torch` (with torch's matching torchvision)"


class InceptionViews(NamedTuple):
    """What Inception sees in images."""

    features: np.ndarray  # [image, 2048]
    probabilities: np.ndarray  # [image, 1008], rows with sum 1


class InceptionFeatures:
    """Inception's features of images, from a weights file.

    On a GPU if torch has one.
    """

    def __init__(self, weights: str | Path):
        """Loads the weights.

        Args:
          weights: File of torch-fidelity's Inception weights.

        Raises:
          DataError: If torch or torch-fidelity cannot be imported, or the file cannot
            be read, holds more than tensors, or does not fit the network.
        """
        torch = _import_torch()
        self._network = _load_network(torch, Path(weights))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network.to(self._device)

    def __call__(self, images: np.ndarray) -> InceptionViews:
        """Measures images.

        Args:
          images: In the units of training, [-1, 1], of any size and 1 or 3 channels,
            [image, height, width, channel].

        Returns:
          Features and probabilities, float64.

        Raises:
          DataError: If images are neither grey nor RGB.
        """
        torch = _import_torch()
        pixels = to_rgb(images).transpose(0, 3, 1, 2)
        features, probabilities = [], []
        with torch.no_grad():
            for start in range(0, len(pixels), _BATCH):
                batch = np.ascontiguousarray(pixels[start : start + _BATCH])
                found, logits = self._network(torch.from_numpy(batch).to(self._device))
                features.append(found.double().cpu().numpy())
                probabilities.append(logits.double().softmax(1).cpu().numpy())
        return InceptionViews(np.concatenate(features), np.concatenate(probabilities))


def check_weights(weights: str | Path) -> None:
    """Refuses, before a run begins, weights that its evaluation could not use.

    Raises:
      DataError: As `InceptionFeatures`.
    """
    _load_network(_import_torch(), Path(weights))


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Makes pixels of images in the units of training.

    Args:
      images: From -1, black, to 1, white; values outside are cut off. [image, height,
        width, 1 or 3].

    Returns:
      uint8 [image, height, width, 3]; grey is repeated.

    Raises:
      DataError: If images have another number of channels.
    """
    if images.shape[-1] not in (1, 3):
        raise DataError(
            f"images of {images.shape[-1]} channels; FID reads pixels, grey (1) or "
            "RGB (3), not latents"
        )
    levels = np.clip(np.round((np.asarray(images, np.float64) + 1) * 127.5), 0, 255)
    rgb = (*images.shape[:-1], 3)
    return np.broadcast_to(levels.astype(np.uint8), rgb)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise DataError(f"FID needs torch-fidelity and torch: {_INSTALL}") from error
    return torch


def _load_network(torch: Any, path: Path) -> Any:
    state = _read_tensors(torch, path)
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        raise DataError(
            f"FID needs torch-fidelity: {_INSTALL}; importing it failed with "
            f"{type(error).__name__}: {error}"
        ) from error
    # Bytes written here, so that torch-fidelity's own reading meets tensors only.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", _LAYERS, buffer)
    except RuntimeError as error:
        raise DataError(
            f"{path}: does not fit torch-fidelity's Inception; expected "
            f"weights-inception-2015-12-05-6726825d.pth ({_first_lines(error)})"
        ) from error


def _read_tensors(torch: Any, path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:
        raise DataError(
            f"{path}: not a file of PyTorch weights alone "
            f"({type(error).__name__}: {_first_lines(error)})"
        ) from error
    is_tensors = isinstance(state, Mapping) and all(
        isinstance(value, torch.Tensor) for value in state.values()
    )
    if not is_tensors:
        raise DataError(f"{path}: not a state dict, a mapping of names to tensors")
    return dict(state)


def _first_lines(error: Exception) -> str:
    """Shortens what torch has to say of hundreds of tensors."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + " ..."
