"""Writes a trained model as two files that stand on their own, and reads them.

`model.json` says what the model is: domain, configuration, what its data taught it,
where it comes from, what was measured. `weights.safetensors` holds the averaged
weights; the package safetensors alone reads it. Neither holds code.

Example:
  >>> import numpy as np, tempfile
  >>> about = ModelFile("points", {}, {"scale": 0.5}, ["data: dots"], "", 3)
  >>> folder = tempfile.mkdtemp()
  >>> write_model(folder, about, {"params/w": np.ones(2, np.float32)})
  >>> found, weights = read_model(folder)
  >>> found.facts, found.step, weights["params/w"].tolist()
  ({'scale': 0.5}, 3, [1.0, 1.0])
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from ncgn_jax.data.digest import digest
from ncgn_jax.data.whole_files import whole_file, write_whole
from ncgn_jax.faults import CheckpointError

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
# Rises when a reader must know more to understand a file.
FORMAT = 1
Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """What a trained model is, besides its weights.

    Attributes:
      domain: Name of the domain.
      config: The configuration, with `config_version`.
      facts: What the data taught the model, see `tasks.facts`.
      data: The data in words.
      digest: Digest of the data.
      step: Training steps.
      versions: What trained it.
      evaluation: Table of its evaluation, `meta` and `rows`; None if there is none.
      weights_digest: Digest of the weights that belong to it.
      format: Version of the form of these files.
    """

    domain: str
    config: dict[str, Any]
    facts: dict[str, Any]
    data: list[str]
    digest: str
    step: int
    versions: dict[str, str | None] = dataclasses.field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    weights_digest: str = ""
    format: int = FORMAT


def write_model(folder: str | Path, about: ModelFile, weights: Weights) -> None:
    """Writes both files of a model; those that were there are replaced.

    Args:
      folder: Where to; made if it is absent.
      about: What the model is.
      weights: Arrays by path, such as `params/dense/kernel`.
    """
    folder = Path(folder)
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    about = dataclasses.replace(about, weights_digest=digest(arrays), format=FORMAT)
    content = safetensors.numpy.save(arrays, {"format": f"ncgn_jax {FORMAT}"})
    with whole_file(folder / WEIGHTS_FILE) as file:
        file.write(content)
    text = json.dumps(dataclasses.asdict(about), indent=2, allow_nan=False)
    write_whole(folder / MODEL_FILE, text + "\n")


def read_model(folder: str | Path) -> tuple[ModelFile, dict[str, np.ndarray]]:
    """Reads what `write_model` wrote.

    Raises:
      CheckpointError: If a file is missing, damaged, of a newer version, or if the two
        do not belong together.
    """
    path, weights_path = Path(folder) / MODEL_FILE, Path(folder) / WEIGHTS_FILE
    for file in (path, weights_path):
        if not file.is_file():
            raise CheckpointError(f"{folder} holds no whole model: no {file.name}")
    try:
        content = json.loads(path.read_bytes())
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise CheckpointError(
                f"{path} has format {version}; this program reads up to {FORMAT}: "
                "update ncgn_jax"
            )
        about = msgspec.convert(content, ModelFile)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise CheckpointError(f"{path} is no model file: {error}") from error
    try:
        weights = safetensors.numpy.load_file(weights_path)
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{weights_path} is damaged: {error}") from error
    if digest(weights) != about.weights_digest:
        raise CheckpointError(
            f"{weights_path} does not belong to {path.name} beside it, or is damaged"
        )
    return about, weights
