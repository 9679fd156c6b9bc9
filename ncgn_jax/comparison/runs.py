"""Runs of a comparison on disk: what each was asked to be and what came out.

<workdir>/speed.json                    what a step of each variant costs
<workdir>/anchors_<stamp>.json          anchors of each way to measure
<workdir>/<variant>/seed<k>/            a run, as `ncgn_jax.main` leaves it
<workdir>/<variant>/seed<k>/result.json its rows, once evaluated
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ncgn_jax.comparison.variants import training_fields
from ncgn_jax.config import config_to_json
from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.domains import first_stage_config, make_task
from ncgn_jax.generate import read_run_config
from ncgn_jax.loop import FIRST_STAGE
from ncgn_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant with one seed.

    Attributes:
      variant: Name of the variant.
      config: Complete configuration, seed and number of steps included.
      folder: The run's folder.
      seconds_per_step: Of training.
      sampling_seconds: For all samples.
    """

    variant: str
    config: ConfigDict
    folder: Path
    seconds_per_step: float
    sampling_seconds: float

    @property
    def name(self) -> str:
        """How messages call the run."""
        return f"{self.variant}, seed {self.config.seed}"

    def differences(self, besides: Sequence[str] = ()) -> list[str]:
        """Lists how the folder was trained otherwise than is asked for now.

        Args:
          besides: Fields that may differ.
        """
        if not (self.folder / "config.json").is_file():
            return []
        stored = read_run_config(self.folder)
        old, new = training_fields(stored), training_fields(self.config)
        return [
            f"{self.folder}: {field} was {old.get(field)!r}, now {new.get(field)!r}"
            for field in sorted((old.keys() | new.keys()) - set(besides))
            if old.get(field) != new.get(field)
        ]

    @property
    def training_stamp(self) -> str:
        """Identifies what is trained: runs that share it learn the same."""
        return make_stamp(training_fields(self.config))

    @property
    def first_stage_stamp(self) -> str | None:
        """Identifies what is trained before, None for nothing."""
        stage = first_stage_config(self.config)
        return stage and make_stamp(training_fields(stage))

    def adopt_training(self, source: Path) -> None:
        """Copies checkpoints and losses of a run that was trained alike.

        Does nothing if this run has checkpoints of its own.

        Args:
          source: Folder of that run.
        """
        if _copy_folder("checkpoints", source, self.folder):
            shutil.copy(source / "metrics.csv", self.folder / "metrics.csv")

    def adopt_first_stage(self, source: Path) -> None:
        """Copies the first stage of a run whose first stage was the same.

        Args:
          source: Folder of that run.
        """
        _copy_folder(FIRST_STAGE, source, self.folder)

    def read_result(self) -> dict[str, Any] | None:
        """Reads the rows if the run is finished with just this configuration."""
        result = read_json(self.folder / "result.json")
        fits = result.get("stamp") == make_stamp(config_to_json(self.config))
        return result if fits else None

    def write_result(self, rows: dict[str, Any], num_params: int) -> None:
        """Marks the run as finished.

        Args:
          rows: Row by kind of weights.
          num_params: Size of the model.
        """
        stamp = make_stamp(config_to_json(self.config))
        content = {"stamp": stamp, "num_params": num_params, "rows": rows}
        write_json(self.folder / "result.json", content)


def _copy_folder(name: str, source: Path, target: Path) -> bool:
    """Copies a folder whole or not at all; tells whether there was need to."""
    if (target / name).exists() or not (source / name).is_dir():
        return False
    partial = target / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source / name, partial)
    partial.replace(target / name)
    return True


class TaskMaker:
    """Makes tasks, loading each data set once."""

    def __init__(self) -> None:
        self._first: dict[str, Task] = {}

    def make(self, config: ConfigDict) -> Task:
        """Builds the task of a validated configuration."""
        key = make_stamp([config.task, _section(config, "data")])
        if key not in self._first:
            self._first[key] = make_task(config)
        return self._first[key].with_config(config)


def anchors_path(workdir: Path, config: ConfigDict) -> Path:
    """Names the file of the anchors that belong to a configuration.

    Configurations with the same data, sizes and measures share it.
    """
    fields = {name: _section(config, name) for name in ("data", "evaluate")}
    stamp = make_stamp([config.task, fields, config.sample.num_samples])
    return workdir / f"anchors_{stamp}.json"


def _section(config: ConfigDict, name: str) -> dict[str, Any]:
    return config.to_dict().get(name, {})


def make_stamp(content: Any) -> str:
    """Identifies what can be written as JSON by twelve letters."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file, `{}` if it is absent or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all; numpy numbers become plain ones."""
    write_whole(path, json.dumps(content, indent=2, default=float) + "\n")
