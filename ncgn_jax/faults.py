"""Defines the errors of the package, and collects the faults of a configuration.

Example:
  >>> from ml_collections import ConfigDict
  >>> from ncgn_jax.faults import Faults
  >>> faults = Faults()
  >>> faults.choice(ConfigDict({"kind": "expp"}), "kind", ["linear", "exp"])
  False
  >>> faults.lines
  ["kind: found 'expp'; allowed: linear, exp (did you mean 'exp'?)"]
"""

import contextlib
import difflib
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict


class NcgnError(Exception):
    """Is the base of all errors that a user can mend; the message says how.

    Every command ends with the message alone, without a traceback.
    """


class ConfigError(NcgnError, ValueError):
    """Reports a configuration that cannot be used, with all its faults."""


class DataError(NcgnError, ValueError):
    """Reports data that are missing, faulty, or do not fit the configuration.

    Attributes:
      proposal: Fields, and their values, with which the data may be read.
    """

    proposal: dict[str, float | str]

    def __init__(
        self, message: str, proposal: Mapping[str, float | str] | None = None
    ) -> None:
        super().__init__(message)
        self.proposal = dict(proposal or {})


class CheckpointError(NcgnError, RuntimeError):
    """Reports a checkpoint that cannot be written, read, or used by this model."""


class TrainingError(NcgnError, RuntimeError):
    """Reports the step at which training cannot go on, and where it can resume."""


class RequestError(NcgnError, ValueError):
    """Reports an argument that a trained model cannot fulfil, with what it can."""


class LockError(NcgnError, RuntimeError):
    """Reports that another run uses a folder."""


class ProcessError(NcgnError, RuntimeError):
    """Reports that the processes of a run cannot work together."""


class MachineError(NcgnError, RuntimeError):
    """Reports that the machine, or how it is set up, does not let a run work."""


# Refusals of an operating system that no program can mend.
_OF_MACHINE = frozenset(
    (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.EMFILE,
     errno.ENAMETOOLONG, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOTDIR,
     errno.EPERM, errno.EPIPE, errno.EROFS, errno.ESTALE)
)  # fmt: skip


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one message where what went wrong is not its own fault.

    That is a `NcgnError`, Ctrl-C, or a machine without the room, the memory or the
    rights that are needed. What was saved before stays.
    """
    _print_everything()
    try:
        yield
    except NcgnError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        reason = describe_machine(error)
        if reason is None:
            raise
        _leave_broken_streams()
        sys.exit(f"error: {reason}; what was saved before is kept")


def pass_on_stops(error: BaseException) -> None:
    """Raises again what ends this program, unlike a `SystemExit` of others' code."""
    if isinstance(error, SystemExit) and type(error) is not SystemExit:
        raise error


def describe_machine(error: BaseException) -> str | None:
    """Describes an error that is due to the machine; None for any other."""
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more (broken pipe)"
    if isinstance(error, OSError) and error.errno in _OF_MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{os.strerror(error.errno or 0)}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        first = str(error).splitlines()[0]
        return f"not enough memory on the device ({first})"
    return None


def _print_everything() -> None:
    """Lets names be printed whose letters the terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _leave_broken_streams() -> None:
    """Drops what cannot be printed, which Python would try again at its end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class Faults:
    """Collects the faults of one configuration, to raise them together.

    Each becomes a line such as
    `dmp.schedule: found 'expp'; allowed: linear, exp (did you mean 'exp'?)`.
    A check returns whether it passed, so that later ones can depend on it.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def check(
        self, condition: bool, field: str, found: Any, allowed: str | Sequence[Any]
    ) -> bool:
        """Records a fault of `field` unless `condition` holds.

        Args:
          condition: Whether the field is in order.
          field: Dotted name.
          found: The value found.
          allowed: What is allowed, in words, or the list of choices.
        """
        if condition:
            return True
        line = f"{field}: found {found!r}; allowed: "
        if isinstance(allowed, str):
            self.lines.append(line + allowed)
        else:
            listed = ", ".join(str(choice) for choice in allowed)
            self.lines.append(line + listed + did_you_mean(found, allowed))
        return False

    def choice(self, config: ConfigDict, field: str, choices: Iterable[Any]) -> bool:
        """Checks that a field holds one of `choices`."""
        choices = list(choices)
        try:
            value = get_field(config, field)
        except KeyError:
            self.lines.append(f"{field}: missing from the configuration")
            return False
        return self.check(value in choices, field, value, choices)

    def raise_if_any(self) -> None:
        """Raises one ConfigError that lists every fault found so far."""
        if self.lines:
            count = len(self.lines)
            title = "1 fault" if count == 1 else f"{count} faults"
            lines = "\n".join(f"  {line}" for line in self.lines)
            raise ConfigError(f"{title} in the configuration:\n{lines}")


def get_field(config: ConfigDict, field: str) -> Any:
    """Reads a field by its dotted name; KeyError if there is none."""
    value = config
    for name in field.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise KeyError(field)
        value = value[name]
    return value


def is_type(value: Any, kind: type) -> bool:
    """Tells whether a value fits a field's type; an int fits float, a bool neither."""
    if isinstance(value, bool):
        return kind in (bool, object)
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)


def did_you_mean(found: Any, choices: Iterable[Any]) -> str:
    """Gives ` (did you mean ...?)` if one of the choices looks alike, else nothing."""
    close = difflib.get_close_matches(str(found), [str(c) for c in choices], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
