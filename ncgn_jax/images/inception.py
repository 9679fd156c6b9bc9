"""Computes the features behind FID and Inception score, with weights from disk.

The network is torch-fidelity's FeatureExtractorInceptionV3, which published numbers use
(Inception of 2015 as in TensorFlow, with its resizing). torch-fidelity and torch are
optional and imported only here; the weights `weights-inception-2015-12-05-6726825d.pth`
are not downloaded. torch-fidelity reads a weights file with `weights_only=False`, which
runs any code in the file. This module therefore reads the tensors itself and passes
only these on.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ncgn_jax.faults import DataError

_BATCH = 32
# The pooled features behind FID, and the logits behind published Inception scores.
_LAYERS = ["2048", "logits_unbiased"]
_INSTALL = "`pip install torch-fidelity torch` (with torch's matching torchvision)"


class InceptionViews(NamedTuple):
    """Inception's features and class probabilities of images."""

    features: np.ndarray  # [image, 2048]
    probabilities: np.ndarray  # [image, 1008], rows with sum 1


class InceptionFeatures:
    """Computes Inception's features of images, on a GPU if torch has one."""

    def __init__(self, weights: str | Path):
        """Loads the weights.

        Args:
          weights: File of torch-fidelity's Inception weights.

        Raises:
          DataError: If torch or torch-fidelity does not import, or if the file is
            unreadable, holds more than tensors, or does not fit the network.
        """
        torch = _import_torch()
        self._network = _load_network(torch, Path(weights))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network.to(self._device)

    def __call__(self, images: np.ndarray) -> InceptionViews:
        """Applies the network to images.

        Args:
          images: In the units of training, [-1, 1], [image, height, width, 1 or 3], of
            any size.

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
    """Refuses unusable weights before a run begins.

    Raises:
      DataError: In the cases of `InceptionFeatures`.
    """
    _load_network(_import_torch(), Path(weights))


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Converts images in the units of training to pixels.

    Args:
      images: [image, height, width, 1 or 3], from -1, black, to 1, white; values
        outside are clipped.

    Returns:
      uint8 [image, height, width, 3]; grey is repeated.

    Raises:
      DataError: If images have another number of channels.
    """
    if images.shape[-1] not in (1, 3):
        raise DataError(
            f"images of {images.shape[-1]} channels; FID needs pixels, grey (1) or "
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
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        # All but ImportError come from a torchvision built for another torch.
        raise DataError(
            f"FID needs torch-fidelity: {_INSTALL}; importing it failed with "
            f"{type(error).__name__}: {error}"
        ) from error
    # torch-fidelity then unpickles bytes that hold only tensors.
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
    except Exception as error:  # spoilt bytes make the unpickler raise anything
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
    """Shortens torch's message, which lists hundreds of tensors."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + " ..."
