"""Lists the domains: the one place that knows them all.

A new domain is a package with a `Task` class, and a line in `DOMAINS`.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ncgn_jax import fields, registry
from ncgn_jax.config import apply_overrides, check_known_fields, with_fields
from ncgn_jax.expression.task import ExpressionTask
from ncgn_jax.faults import ConfigError, DataError, Faults, get_field
from ncgn_jax.fields import Role
from ncgn_jax.images.task import ImageTask
from ncgn_jax.metrics.table import check_caption
from ncgn_jax.molecules.autoencoder_task import AutoencoderTask
from ncgn_jax.molecules.task import MoleculeTask
from ncgn_jax.point_clouds.task import PointCloudTask
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.facts import from_plain
from ncgn_jax.tasks.settings import check_training

DOMAINS: dict[str, type[Task]] = {
    "point_clouds": PointCloudTask,
    "expression": ExpressionTask,
    "molecules": MoleculeTask,
    "molecule_autoencoder": AutoencoderTask,
    "images": ImageTask,
}
# Names of tasks and fields as runs of earlier versions stored them.
_FORMER_TASKS = {"transcriptomics": "expression"}
# Fields that are gone, with the only value that still means the same.
_FORMER_FIELDS = {"train.ema_warm_up": True, "data.allow_download": False}


def validate(config: ConfigDict, *, to_train: bool = True) -> None:
    """Raises one ConfigError that lists every fault of a configuration.

    Args:
      config: The configuration.
      to_train: Whether it must be possible to train it on these devices.
    """
    faults = Faults()
    if faults.choice(config, "task", DOMAINS):
        task = DOMAINS[config.task]
        check_known_fields(config, default_config(config.task))
        fields.check_rows(config, task.fields, faults)
        # What holds between fields is not asked of fields that are wrong themselves.
        if not faults.lines:
            task.check(config, faults)
            if to_train:
                check_training(config, faults)
                task.check_training(config, faults)
    faults.raise_if_any()


def default_config(task: str) -> ConfigDict:
    """Returns every field of a task with its default."""
    return fields.default_config(task, DOMAINS[task].fields)


def set_fields(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Sets fields from strings, see `config.apply_overrides`."""
    task = config.get("task")
    rows = DOMAINS[task].fields if task in DOMAINS else ()
    return apply_overrides(config, overrides, fields.item_types(rows))


def plain_fields(config: ConfigDict, roles: Sequence[Role]) -> dict[str, Any]:
    """Lists the fields that decide something, by dotted name, as JSON has them.

    Args:
      config: A configuration.
      roles: What they decide.
    """
    rows = (row for row in DOMAINS[config.task].fields if row.role in roles)
    found = {row.name: get_field(config, row.name) for row in rows}
    return json.loads(json.dumps(found))


def make_task(config: ConfigDict) -> Task:
    """Builds the task of a validated configuration; loads its data.

    Raises:
      DataError: If the data are faulty or do not fit the configuration.
      ValueError: If the task's caption does not state what a table must.
    """
    task = DOMAINS[config.task](config, load_data(config))
    check_caption(task.caption())
    return task


def load_data(config: ConfigDict) -> Any:
    """Loads the data set of a validated configuration.

    The reader of a plug-in is taken where there is one for the file.

    Raises:
      DataError: If the data are missing or faulty.
    """
    kind = DOMAINS[config.task]
    path: str = config.get("data", {}).get("path") or ""
    read = registry.find("reader", Path(path).suffix.lower(), config.task)
    if read is None:
        return kind.load_dataset(config)
    if not Path(path).exists():
        raise DataError(f"data.path={path!r}: no such file or folder")
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / Path(path).stem
        file, fields_of_file = kind.write_data(read(Path(path)), stem)
        fields_of_file = {**fields_of_file, "data.path": str(file)}
        dataset = kind.load_dataset(with_fields(config, fields_of_file))
    report = dataset.report.replace_origin(str(file), f"{path} (reader of a plug-in)")
    return dataclasses.replace(dataset, report=report)


def task_without_data(config: ConfigDict, record: Mapping[str, Any]) -> Task:
    """Builds a task that only samples.

    Args:
      config: Its configuration.
      record: What a run stored of its data, see `memory.make_record`.

    Raises:
      DataError: If facts and configuration do not fit each other.
    """
    kind = DOMAINS[config.task]
    task = kind(config, None, from_plain(kind.facts_type, record["facts"]))
    told = list(record["data"])
    task.about_data = [*(f"model of {line}" for line in told[:1]), *told[1:]]
    return task


def check_network(config: ConfigDict) -> None:
    """Refuses a stored configuration whose network nobody has registered here.

    Raises:
      ConfigError: With the networks that are known.
    """
    faults = Faults()
    rows = [row for row in DOMAINS[config.task].fields if row.name == "model.network"]
    fields.check_rows(config, rows, faults)
    if faults.lines:
        raise ConfigError(
            f"{faults.lines[0]}, and those of plug-ins (--plugin=FILE, or import it)"
        )


def first_stage_config(config: ConfigDict) -> ConfigDict | None:
    """Returns what must be trained before a configuration, None for nothing."""
    return DOMAINS[config.task].first_stage_config(config)


def complete_config(config: ConfigDict, version: int) -> ConfigDict:
    """Brings a stored configuration to today's fields and their meanings.

    Fields that it is too old to have get the defaults, which stand for what was done
    before there was a choice.

    Args:
      config: A configuration as it was stored with a run.
      version: Version of the stored form.

    Returns:
      A locked copy.

    Raises:
      ConfigError: If it is of no task that there is, or a field has another type, or
        a value that is no longer possible.
    """
    config = _converted(config, version)
    faults = Faults()
    faults.choice(config, "task", DOMAINS)
    faults.raise_if_any()
    whole = default_config(config.task)
    with whole.unlocked():
        for name, section in config.items():
            try:
                if not isinstance(section, ConfigDict) or name not in whole:
                    whole[name] = section
                    continue
                for field, value in section.items():
                    whole[name][field] = value
            except TypeError as error:
                raise ConfigError(f"stored field of {name}: {error}") from error
    return whole.lock()


def _converted(config: ConfigDict, version: int) -> ConfigDict:
    """Renames and converts what earlier versions stored."""
    values: dict[str, Any] = dict(config.items())
    if version >= 2:
        return ConfigDict(values)
    values["task"] = _FORMER_TASKS.get(values.get("task", ""), values.get("task"))
    sections = {
        name: ConfigDict(dict(part.items()))
        for name, part in values.items()
        if isinstance(part, ConfigDict)
    }
    for field, value in _FORMER_FIELDS.items():
        section, _, name = field.partition(".")
        part = sections.get(section, {})
        if part.get(name, value) != value:
            raise ConfigError(f"stored field {field}={part[name]!r} is gone")
        if name in part:
            del part[name]
    if values["task"] == "images":
        _convert_images(sections)
    return ConfigDict({**values, **sections})


def _convert_images(sections: Mapping[str, ConfigDict]) -> None:
    """Converts fields whose meaning in images was another one in version 1.

    Guidance was g in free + g (told - free); random patches meant sampling too.
    """
    sample, dmp = sections.get("sample", {}), sections.get("dmp", {})
    if "guidance" in sample:
        sample["guidance"] = sample["guidance"] - 1.0
    if "random_buckets" in dmp:
        sample["random_buckets"] = dmp["random_buckets"]
