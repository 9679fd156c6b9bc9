"""Compares what a run was trained on with what is asked of it now.

Every checkpoint holds, beside the weights, the configuration, the facts that the data
taught the model (`tasks.facts`), a digest of the data and a description of them. A run
goes on with the same, or with what was accepted by name; it never goes on in silence
with anything else. What decides the model cannot be accepted, because the weights would
mean something else: a new run may start from them (`train.start_from`).

    --accept=train.learning_rate,seed       goes on with the new values, and logs it
    --accept=data                           the same classes, genes, ... of other data
"""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict

from ncgn_jax.config import config_from_json
from ncgn_jax.domains import DOMAINS, complete_config, plain_fields
from ncgn_jax.faults import CheckpointError, ConfigError, did_you_mean
from ncgn_jax.fields import Role
from ncgn_jax.run.checkpoint import Checkpoints, Stored
from ncgn_jax.tasks import Task
from ncgn_jax.tasks.facts import from_plain, to_plain

DATA = "data"
_MAX_WORDS = 12
_MAX_NUMBERS = 4


@dataclasses.dataclass(frozen=True)
class Difference:
    """One way in which a run was trained otherwise than is asked for now.

    Attributes:
      name: Dotted name of the field, or `data`.
      was: What was stored, in words.
      now: What is asked for, in words.
      may_change: Whether the run may go on with it, if that is accepted by name.
    """

    name: str
    was: str
    now: str
    may_change: bool

    def __str__(self) -> str:
        return f"{self.name}: was {self.was}, now {self.now}"


def make_record(task: Task, changes: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Returns what a checkpoint stores of the data and the history of a run.

    Args:
      task: The task that is trained.
      changes: What was accepted so far, each with its step.
    """
    return {
        "facts": to_plain(task.facts),
        "digest": task.digest,
        "data": [line for line in task.describe_data() if _is_about(line)],
        "report": None if task.report is None else dataclasses.asdict(task.report),
        "changes": list(changes),
    }


def read_checkpoint(workdir: str | Path, checkpoint: str = "newest") -> Stored:
    """Reads what a checkpoint of a run is.

    Args:
      workdir: Folder of the run.
      checkpoint: `newest`, `best` (of least loss) or the number of a stored step.

    Raises:
      ConfigError: If `checkpoint` is nothing of that kind.
      CheckpointError: If there is none.
    """
    step: Literal["newest", "best"] | int
    if checkpoint in ("newest", "best"):
        step = "best" if checkpoint == "best" else "newest"
    elif checkpoint.isdecimal():
        step = int(checkpoint)
    else:
        raise ConfigError(f"checkpoint {checkpoint!r}; allowed: newest, best or a step")
    stored = Checkpoints(workdir, "", read_only=True).read_about(step)
    if stored is None:
        raise CheckpointError(
            f"{workdir} holds no checkpoint; train first (--mode=train or --mode=all)"
        )
    return stored


def with_training_of(stored: Stored, config: ConfigDict) -> ConfigDict:
    """Returns a configuration with the section `train` that a run was trained by.

    What is sampled does not depend on it, and the optimiser's state is as stored.
    """
    config = copy.deepcopy(config)
    with config.unlocked():
        config.train = stored_config(stored).train
    return config


def _is_about(line: str) -> bool:
    """Tells a description from advice on how to get other data."""
    return not line.startswith("NOTE")


def _first_of(about: Sequence[str]) -> str:
    """Returns the line that names the data."""
    return next(filter(_is_about, about), "unknown")


def stored_config(stored: Stored) -> ConfigDict:
    """Returns the configuration of a checkpoint with today's fields."""
    return complete_config(*config_from_json(stored.config))


class Continuation(NamedTuple):
    """A run that may go on.

    Attributes:
      task: The task with the facts that the run's weights rely on.
      accepted: What is different from now on.
      changes: What was accepted since the run began, each time with its step.
      former: What the run has come to; None for one that begins.
    """

    task: Task
    accepted: list[Difference]
    changes: list[dict[str, Any]]
    former: "Former | None"


class Former(NamedTuple):
    """What a run has come to.

    Attributes:
      config: Its configuration so far, with today's fields.
      step: The step of its newest checkpoint.
    """

    config: ConfigDict
    step: int


def go_on(task: Task, workdir: str | Path, accept: Sequence[str] = ()) -> Continuation:
    """Checks that a run may go on as a task asks for.

    Args:
      task: What is to be trained.
      workdir: Folder of the run; one without checkpoints takes everything.
      accept: Names of fields that may differ, and `data`.

    Raises:
      ConfigError: If anything differs that was not accepted, or cannot be.
    """
    stored = Checkpoints(workdir, "", read_only=True).read_about("newest")
    if stored is None:
        return Continuation(task, [], [], None)
    old = stored_config(stored)
    found = field_differences(old, task.config, ("model", "size", "training"))
    found += data_differences(task, stored)
    _refuse(found, workdir, accept)
    changes = list(stored.record.get("changes", ()))
    if found:
        told = {d.name: [d.was, d.now] for d in found}
        changes.append({"step": stored.step, "fields": told})
    former = Former(old, stored.step)
    return Continuation(with_stored_facts(task, stored), found, changes, former)


def with_stored_facts(task: Task, stored: Stored) -> Task:
    """Returns a task with the facts that a run's weights rely on, if it has any."""
    facts = stored.record.get("facts")
    if facts is None or facts == to_plain(task.facts):
        return task
    return task.with_facts(from_plain(task.facts_type, facts))


def check_sampling(config: ConfigDict, stored: Stored, workdir: str | Path) -> None:
    """Refuses samples of another model than the one that was trained.

    Raises:
      ConfigError: With the fields that differ.
    """
    _refuse(field_differences(stored_config(stored), config, ("model",)), workdir, ())


def check_data(
    task: Task, stored: Stored, workdir: str | Path, accept: Sequence[str] = ()
) -> None:
    """Refuses to measure a run against other data than its own.

    Raises:
      ConfigError: If the data differ and `accept` does not name them, or the model
        does not fit them.
    """
    _refuse(data_differences(task, stored), workdir, accept)


def field_differences(
    old: ConfigDict, new: ConfigDict, roles: Sequence[Role]
) -> list[Difference]:
    """Lists the fields of some roles that differ between two configurations."""
    if old.task != new.task:
        return [Difference("task", repr(old.task), repr(new.task), False)]
    first, second = plain_fields(old, roles), plain_fields(new, roles)
    kinds = {row.name: row.role for row in DOMAINS[new.task].fields}
    return [
        Difference(
            name,
            _show(first.get(name)),
            _show(second.get(name)),
            kinds[name] == "training",
        )
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def data_differences(task: Task, stored: Stored) -> list[Difference]:
    """Compares the data of a task with those that a run was trained on.

    Runs of the first versions do not know theirs.
    """
    record = stored.record
    if "digest" not in record or record["digest"] == task.digest:
        return []
    old, new = record["facts"], to_plain(task.facts)
    relied = [
        difference
        for name in task.facts_type.relied_on
        for difference in _fact_differences(name, old[name], new[name])
    ]
    if relied:
        return relied
    was, now = (
        f"{_first_of(about).removeprefix('data: ')} [{digest}]"
        for about, digest in (
            (record["data"], record["digest"]),
            (task.describe_data(), task.digest),
        )
    )
    return [Difference(DATA, was, now, True)]


def _fact_differences(name: str, old: Any, new: Any) -> list[Difference]:
    """Compares a fact of stored data with one of other data, part by part."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted(old.keys() | new.keys())
            for difference in _fact_differences(
                f"{name}.{key}", old.get(key), new.get(key)
            )
        ]
    return [Difference(f"{DATA} ({name})", *_show_both(old, new), False)]


def check_names(accept: Sequence[str], config: ConfigDict) -> None:
    """Refuses names that cannot be accepted, or that no field has.

    Raises:
      ConfigError: With the name, and what is allowed.
    """
    rows = {row.name: row for row in DOMAINS[config.task].fields}
    for name in accept:
        if name != DATA and name not in rows:
            hint = did_you_mean(name, [DATA, *rows])
            raise ConfigError(f"--accept: no field {name}{hint}")
        if name != DATA and rows[name].role in ("model", "size"):
            raise ConfigError(
                f"--accept: {name} decides the model, so trained weights mean "
                "something else with another value; allowed: fields of training, and "
                "data"
            )


def _refuse(
    found: Sequence[Difference], workdir: str | Path, accept: Sequence[str]
) -> None:
    """Raises one ConfigError for all differences that are not accepted."""
    refused = [d for d in found if d.name not in accept or not d.may_change]
    if not refused:
        return
    lines = [f"{workdir} was trained otherwise than is asked for now:"]
    lines += [f"  {difference}" for difference in refused]
    may = ",".join(d.name for d in refused if d.may_change)
    ways = [
        f"another --workdir (--config.train.start_from={workdir} begins there with "
        "these weights)"
    ]
    if may:
        ways.append(f"--accept={may} to go on with that")
    if any(difference.name == "seed" for difference in refused):
        ways.append("--mode=sample for samples of another seed")
    raise ConfigError("\n".join([*lines, f"ways on: {'; '.join(ways)}"]))


def _show_both(old: Any, new: Any) -> tuple[str, str]:
    """Shows two values; of long lists the part that begins to differ."""
    if not (isinstance(old, list) and isinstance(new, list)):
        return _show(old), _show(new)
    pairs = enumerate(zip(old, new, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    start = first if first >= _most_shown(old) else 0
    return _show(old, start), _show(new, start)


def _show(value: Any, start: int = 0) -> str:
    if not isinstance(value, list):
        return repr(value)
    shown = [str(item) for item in value[start : start + _most_shown(value)]]
    before = [f"{start} more"] if start else []
    rest = len(value) - start - len(shown)
    return "(" + ", ".join(before + shown) + (f" and {rest} more" if rest else "") + ")"


def _most_shown(values: list[Any]) -> int:
    of_numbers = any(isinstance(item, float) for item in values)
    return _MAX_NUMBERS if of_numbers else _MAX_WORDS
