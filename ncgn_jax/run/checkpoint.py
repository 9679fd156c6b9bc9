"""Saves and restores training states with Orbax.

A checkpoint is whole or absent, because Orbax writes into a temporary folder and
renames it. A kill or a full disk leaves the earlier ones. A checkpoint holds the
configuration, the versions that made it, and the state as one buffer of bytes beside a
manifest of (path, shape, dtype, checksum). It is one buffer and not one array per leaf
because every process holds the same full state, because hundreds of small arrays take
ten times as long, and because Orbax alone does not notice a flipped bit.

With several processes, process 0 writes and reads, and sends what it has read to the
others. So no process waits for another in the background, all resume from the same
bits, and only one needs to see the files. These do not depend on the number of
processes or devices.

Example:
  >>> import jax.numpy as jnp, tempfile
  >>> from ncgn_jax.run.checkpoint import Checkpoints
  >>> store = Checkpoints(tempfile.mkdtemp(), config_json="{}")
  >>> store.save(10, {"w": jnp.ones(3)})
  >>> store.wait()
  >>> state, step = store.restore({"w": jnp.zeros(3)})
  >>> step, float(state["w"].sum())
  (10, 3.0)
  >>> store.close()
"""

import contextlib
import functools
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from ncgn_jax import config, processes
from ncgn_jax.faults import CheckpointError
from ncgn_jax.run import checkpoint_format

Tree = Any

_FOLDER = "checkpoints"
_MAX_LISTED = 6  # differences shown in one message
_UNWRITABLE = (OSError, RuntimeError, ValueError)
# What Orbax raises for checkpoints that were spoilt at random.
_SPOILT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Stored(NamedTuple):
    """What a checkpoint is, without its arrays.

    Attributes:
      step: Finished steps.
      config: The configuration, as JSON.
      record: What else was stored of the model; {} in the first versions.
      leaves: Manifest of the arrays.
    """

    step: int
    config: str
    record: dict[str, Any]
    leaves: list[dict[str, Any]]


class Checkpoints:
    """Stores the checkpoints of one run, in `workdir/checkpoints/<step>`.

    Attributes:
      folder: Folder of the checkpoints.
      notes: Notes of the checkpoint that `restore` read last.
    """

    def __init__(
        self,
        workdir: str | Path,
        config_json: str,
        max_to_keep: int = 3,
        *,
        record: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens the folder of a run; with several processes, all of them must.

        Args:
          workdir: Folder of the run. Nothing is written before the first `save`.
          config_json: The configuration, stored in every checkpoint.
          max_to_keep: Number of newest checkpoints that are kept, besides the one of
            least loss.
          record: What else is to be known of the model, stored in every checkpoint;
            must fit into JSON.
          read_only: Whether `save` is forbidden.
        """
        logging.getLogger("absl").addFilter(_is_not_of_orbax)
        self.folder = Path(workdir).absolute() / _FOLDER
        self._config_json = config_json
        self._record = dict(record or {})
        self._max_to_keep = max_to_keep
        self._read_only = read_only
        self._writer: ocp.CheckpointManager | None = None
        self._saving: int | None = None
        self._unreadable: dict[int, str] = {}
        self._losses: dict[int, float] = {}
        self.notes: dict[str, Any] = {}
        self._versions = functools.cache(config.versions)

    def steps(self) -> list[int]:
        """Lists the steps with a complete checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def best(self) -> int | None:
        """Returns the stored step of least loss, None if none was stored with one."""
        losses = {step: self._read_loss(step) for step in self.steps()}
        return _step_of_least({s: x for s, x in losses.items() if x is not None})

    def save(
        self,
        step: int,
        state: Tree,
        *,
        loss: float | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """Copies a state and writes it in the background.

        A step that is already stored stays as it is.

        Args:
          step: Number of finished steps.
          state: Tree of arrays, the same on every device and process.
          loss: Loss of the state; None excludes it from being the best.
          notes: Everything else that resuming needs; must fit into JSON.

        Raises:
          CheckpointError: If this state, or an earlier one in the background, cannot be
            written. Earlier checkpoints are untouched.
        """
        if self._read_only:
            raise CheckpointError(f"{self.folder} was opened for reading only")
        if not processes.is_main_process():
            return
        self.wait()
        if step in self.steps() and step not in self._unreadable:
            return
        self._saving = step
        try:
            self._set_aside_unreadable()
            manifest, buffer = checkpoint_format.pack(state)
            about = {
                "config": self._config_json,
                "record": self._record,
                "versions": self._versions(),
                "leaves": manifest,
                "loss": loss,
                "notes": notes or {},
            }
            writer = self._open_writer()
            if loss is not None:
                self._losses[step] = loss
            writer.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave({"buffer": buffer}),
                    about=ocp.args.JsonSave(about),
                ),
                force=True,
            )
        except _UNWRITABLE as error:
            raise self._save_error(error) from error

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: If it cannot be written.
        """
        if self._writer is None:
            return
        try:
            self._writer.wait_until_finished()
            self._writer.check_for_errors()
        except _UNWRITABLE as error:
            raise self._save_error(error) from error
        self._saving = None

    def close(self) -> None:
        """Finishes writing and closes the folder."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def restore(
        self,
        abstract_state: Tree,
        *,
        step: int | Literal["newest", "best"] = "newest",
    ) -> tuple[Tree, int] | None:
        """Reads a checkpoint and sets `notes`; skips unreadable ones with a warning.

        Args:
          abstract_state: Tree with the shapes and dtypes to expect; arrays or the
            result of `jax.eval_shape`.
          step: Step of the checkpoint; `best` is the one of least loss.

        Returns:
          The state, bit for bit as it was saved, and its step; None if the run has no
          checkpoint.

        Raises:
          CheckpointError: If none can be read, or one was made by another model.
          ProcessError: On processes other than 0, if process 0 raised an error.
        """
        self.wait()
        found: dict[str, Any] = {}

        def find() -> bytes:
            found.update(self._find(abstract_state, step))
            header = {name: found.get(name) for name in ("step", "about")}
            return json.dumps(header).encode()

        header = json.loads(processes.from_main(find).tobytes())
        if header["step"] is None:
            return None
        buffer = processes.from_main(lambda: found["buffer"])
        leaves = header["about"]["leaves"]
        # Checkpoints of the first versions have none.
        self.notes = header["about"].get("notes", {})
        state = checkpoint_format.unpack(leaves, buffer, abstract_state)
        return state, header["step"]

    def _find(self, abstract_state: Tree, wanted: int | str) -> dict[str, Any]:
        """Reads `step`, `about` and `buffer` of a checkpoint; {} if there is none."""
        self._unreadable = {}
        for step in reversed(self._candidates(wanted)):
            try:
                about, buffer = self._read(step)
                checkpoint_format.read_arrays(about["leaves"], buffer)
            except _SPOILT as error:
                self._unreadable[step] = _first_line(error)
                continue
            self._check_same_model(step, about, abstract_state)
            for other, reason in self._unreadable.items():
                logging.warning(
                    "checkpoint %d unreadable (%s); using %d", other, reason, step
                )
            return {"step": step, "about": about, "buffer": buffer}
        if self._unreadable:
            reasons = "\n".join(f"  {n}: {r}" for n, r in self._unreadable.items())
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read; move the folder away to "
                f"start again\n{reasons}"
            )
        return {}

    def read_about(self, step: int | Literal["newest", "best"]) -> Stored | None:
        """Reads what a checkpoint is, without its arrays; None if there is none.

        With several processes, all of them must ask. Unreadable ones are passed over,
        as in `restore`.

        Raises:
          CheckpointError: If the step that is asked for is not stored.
        """

        def find() -> bytes:
            for number in reversed(self._candidates(step)):
                about = self._read_manifest(number)
                if about is not None:
                    wanted = ("config", "record", "leaves")
                    found = {name: about.get(name) for name in wanted}
                    return json.dumps({"step": number, **found}).encode()
            return b"null"

        found = json.loads(processes.from_main(find).tobytes())
        if found is None:
            return None
        # Checkpoints of the first versions have no record.
        record = found["record"] or {}
        return Stored(found["step"], found["config"], record, found["leaves"])

    def read(self, step: int) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
        """Reads one checkpoint without a model.

        Returns:
          The arrays by path, such as `params/dense/kernel`, the configuration as JSON,
          and the versions that made it.

        Raises:
          CheckpointError: If it is absent or unreadable.
        """
        try:
            about, buffer = self._read(step)
            arrays = checkpoint_format.read_arrays(about["leaves"], buffer)
        except _SPOILT as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} is unreadable "
                f"({_first_line(error)}); there are {self.steps()}"
            ) from error
        return arrays, about["config"], about["versions"]

    def _open_writer(self) -> ocp.CheckpointManager:
        """Makes the folder and removes half-written checkpoints from it."""
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for step in self.steps():
                loss = self._read_loss(step)
                if loss is not None:
                    self._losses[step] = loss
            self._writer = _open_manager(
                self.folder,
                preservation_policy=_NewestAndBest(self._max_to_keep, self._losses),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            )
        return self._writer

    def _candidates(self, wanted: int | str) -> list[int]:
        """Lists the steps that may be read, oldest first."""
        steps = self.steps()
        if not steps or wanted == "newest":
            return steps
        number = self.best() if wanted == "best" else wanted
        if number not in steps:
            raise CheckpointError(
                f"there is no checkpoint {wanted} in {self.folder}; there are {steps}"
            )
        return [int(number)]

    def _read_loss(self, step: int) -> float | None:
        """Reads the loss of a checkpoint; None if it has none or is unreadable."""
        return (self._read_manifest(step) or {}).get("loss")

    def _read_manifest(self, step: int) -> dict[str, Any] | None:
        """Reads all but the arrays of a checkpoint; None if that is unreadable."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        try:
            with _open_manager(self.folder, save_root_metadata=False) as reader:
                return reader.restore(step, args=args).about
        except _SPOILT:  # `restore` and `read` report what is wrong
            return None

    def _read(self, step: int) -> tuple[dict[str, Any], np.ndarray]:
        """Reads manifest and buffer; raises one of `_SPOILT` if they are damaged."""
        with _open_manager(self.folder, save_root_metadata=False) as reader:
            found = reader.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
                ),
            )
        return found.about, np.asarray(found.state["buffer"])

    def _check_same_model(
        self, step: int, about: dict[str, Any], abstract_state: Tree
    ) -> None:
        lines = checkpoint_format.tree_differences(about["leaves"], abstract_state)
        if not lines:
            return
        fields = checkpoint_format.config_differences(
            about["config"], self._config_json
        )
        message = [f"checkpoint {step} in {self.folder} was made by another model:"]
        message += _shortened(lines)
        if fields:
            message += ["the configurations differ in:", *_shortened(fields)]
        raise CheckpointError("\n".join(message))

    def _set_aside_unreadable(self) -> None:
        """Renames unreadable checkpoints, so that their steps can be stored again."""
        if not self._unreadable:
            return
        for step in self._unreadable:
            target = self.folder / f"unreadable-{step}"
            shutil.rmtree(target, ignore_errors=True)
            (self.folder / str(step)).rename(target)
        self._unreadable = {}
        if self._writer is not None:
            self._writer.reload()

    def _save_error(self, error: Exception) -> CheckpointError:
        """Removes the half-written checkpoint and words the error."""
        step, self._saving = self._saving, None
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(*_UNWRITABLE):  # closing raises the error again
                writer.close()
        for leftover in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        free = ""
        with contextlib.suppress(OSError):
            free = f", {shutil.disk_usage(self.folder).free / 1e9:.1f} GB free"
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.folder}"
            f" ({_first_line(error)}{free}); kept: {self.steps() or 'none'}"
        )


class _NewestAndBest:
    """Chooses the checkpoints that Orbax keeps, the newest few and the best."""

    def __init__(self, num_newest: int, losses: dict[int, float]) -> None:
        self._num_newest = num_newest
        self._losses = losses

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: object
    ) -> list[bool]:
        """Tells for each checkpoint whether to keep it."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        losses = {s: self._losses[s] for s in steps if s in self._losses}
        kept = {*sorted(steps)[-self._num_newest :], _step_of_least(losses)}
        return [step in kept for step in steps]


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Drops what Orbax logs: each file it touches, and traces of errors we word."""
    return "orbax" not in record.pathname


def _step_of_least(losses: dict[int, float]) -> int | None:
    """Returns the step of least loss, the latest of equal ones; None for {}."""
    return min(losses, key=lambda step: (losses[step], -step), default=None)


class _Manager(ocp.CheckpointManager):
    """A checkpoint manager that leaves preemption to the training loop.

    Orbax would query JAX's preemption service too, in the background and with a step
    that may be long past. The processes could then agree on a step that some of them
    have passed.
    """

    def reached_preemption(self, step: int) -> bool:
        """Returns False without querying the service."""
        del step
        return False


def _open_manager(
    folder: Path, *, enable_async_checkpointing: bool = False, **options: Any
) -> ocp.CheckpointManager:
    """Opens a folder on process 0 without waiting for the other processes.

    Orbax's own `read_only=True` is not used because it warns at every opening.
    """
    if processes.num_processes() > 1:
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}
        )
    return _Manager(
        folder,
        options=ocp.CheckpointManagerOptions(
            create=False,
            enable_async_checkpointing=enable_async_checkpointing,
            **options,
        ),
    )


def _first_line(error: Exception) -> str:
    """Words an error in one line; Orbax's long ones end with the cause."""
    line = (str(error).strip().splitlines() or [""])[0]
    if len(line) > 240:
        line = f"{line[:80]} ... {line[-150:]}"
    return f"{type(error).__name__}: {line}"


def _shortened(lines: list[str]) -> list[str]:
    rest = len(lines) - _MAX_LISTED
    shown = [f"  {line}" for line in lines[:_MAX_LISTED]]
    return shown + ([f"  and {rest} more"] if rest > 0 else [])
