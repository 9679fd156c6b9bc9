"""Loads trained models: from a run, from an exported folder, or by name.

The package comes with some (`SHIPPED`); the README.md of each says what it is.

import ncgn_jax as ncgn

ncgn.load("shapes").sample(16, label="chair").save("chairs.png")

model = ncgn.load("runs/mine")
model.export("shared/chairs")
clouds = ncgn.load("shared/chairs").sample(16, label="chair")
"""

import json
from pathlib import Path
from typing import Any, Literal

from ncgn_jax.config import config_from_json
from ncgn_jax.domains import (
    DOMAINS,
    check_network,
    complete_config,
    task_without_data,
)
from ncgn_jax.faults import CheckpointError, ConfigError, DataError, did_you_mean
from ncgn_jax.memory import read_checkpoint
from ncgn_jax.metrics.table import read_table
from ncgn_jax.plugins import import_plugins
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.model_file import MODEL_FILE, ModelFile, Weights, read_model
from ncgn_jax.tasks.trained import TrainedModel

# Fields that name files of one machine.
_PLACES = (
    "data.path",
    "data.coordinates",
    "train.start_from",
    "evaluate.inception",
)
SHIPPED = Path(__file__).parent / "shipped"
_KINDS = {"ema": "ema", "raw": "params"}


def load(
    source: str | Path,
    *,
    checkpoint: str | int = "newest",
    weights: Literal["ema", "raw"] = "ema",
) -> TrainedModel:
    """Loads a trained model, which needs no data.

    Args:
      source: Folder of a run, or one that `export` wrote; or the name of a shipped
        model, unless a folder of that name holds a model.
      checkpoint: Of a run: `newest`, `best` (of least loss) or the number of a step.
      weights: Of a run: averaged (`ema`) or last (`raw`).

    Returns:
      The model; its class, one for each domain, has the verbs.

    Raises:
      CheckpointError: If there is no model, or it is damaged or of a newer version.
    """
    import_plugins()
    about, arrays = read_source(source, checkpoint=checkpoint, weights=weights)
    return _build(about, arrays, str(source))


def read_source(
    source: str | Path,
    *,
    checkpoint: str | int = "newest",
    weights: Literal["ema", "raw"] = "ema",
) -> tuple[ModelFile, Weights]:
    """Reads what a trained model is, and its weights by path; arguments as `load`.

    Raises:
      CheckpointError: If there is no model, or it is damaged or of a newer version.
    """
    folder = Path(source)
    is_model = (folder / MODEL_FILE).is_file() or (folder / "checkpoints").is_dir()
    if not is_model and str(source) in shipped_models():
        folder = SHIPPED / str(source)
    if (folder / MODEL_FILE).is_file():
        return read_model(folder)
    if (folder / "checkpoints").is_dir():
        return _read_run(folder, str(checkpoint), weights)
    if folder.is_dir():
        raise CheckpointError(
            f"{source} holds no model: neither {MODEL_FILE} nor checkpoints"
        )
    nearby = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = shipped_models()
    hint = did_you_mean(str(source), [*names, *map(str, nearby)])
    raise CheckpointError(
        f"there is no model {str(source)!r}; allowed: the folder of a run or of an "
        f"exported model, or one of {', '.join(names)}{hint}"
    )


def shipped_models() -> tuple[str, ...]:
    """Returns the names of the models that come with the package."""
    found = (path.parent.name for path in SHIPPED.glob(f"*/{MODEL_FILE}"))
    return tuple(sorted(found))


def _read_run(folder: Path, checkpoint: str, weights: str) -> tuple[ModelFile, Weights]:
    stored = read_checkpoint(folder, checkpoint)
    record = stored.record
    if "facts" not in record:
        raise CheckpointError(
            f"{folder} is a run of a version that did not store what its data taught "
            "it; train one more step with its data (--config.train.num_steps="
            f"{stored.step + 1}), and it does"
        )
    if weights not in _KINDS:
        raise CheckpointError(f"weights: found {weights!r}; allowed: ema, raw")
    arrays, config, versions = Checkpoints(folder, "", read_only=True).read(stored.step)
    content = json.loads(config)
    data = list(record["data"])
    for place in _remove_places(content):
        data = [line.replace(f"{place}/", "") for line in data]
    about = ModelFile(
        domain=content["task"],
        config=content,
        facts=record["facts"],
        data=data,
        digest=record["digest"],
        step=stored.step,
        versions=versions,
        evaluation=_table_of(folder, stored.step),
    )
    names = {_KINDS[weights]: "params", "model_state": "model_state"}
    found = {}
    for path, array in arrays.items():
        kind, _, rest = path.partition("/")
        if kind in names and rest:
            found[f"{names[kind]}/{rest}"] = array
    return about, found


def _remove_places(config: dict[str, Any]) -> list[str]:
    """Unsets what names files of one machine; returns the folders they lie in."""
    folders = []
    for field in _PLACES:
        section, _, name = field.partition(".")
        found = config.get(section, {}).get(name)
        if found:
            folders.append(str(Path(found).parent))
            config[section][name] = None
    return folders


def _table_of(folder: Path, step: int) -> dict[str, Any] | None:
    """Returns the run's table if these weights were measured."""
    table = read_table(folder / "table")
    same = table is not None and table.get("meta", {}).get("steps") == step
    return table if same else None


def _build(about: ModelFile, weights: Weights, where: str) -> TrainedModel:
    if about.domain not in DOMAINS:
        raise CheckpointError(
            f"{where} is a model of {about.domain!r}; this program knows "
            f"{', '.join(DOMAINS)}"
        )
    try:
        config = complete_config(*config_from_json(json.dumps(about.config)))
        check_network(config)
        task = task_without_data(config, {"facts": about.facts, "data": about.data})
        return task.trained(weights, about)
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    except NotImplementedError as error:
        raise CheckpointError(f"{where} holds no model by itself: {error}") from error
