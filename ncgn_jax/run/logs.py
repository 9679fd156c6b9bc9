"""Writes metrics to a CSV file and to TensorBoard, and shows progress.

The CSV has one row per value (`step,name,value`), so that its columns do not depend on
the metrics. `pandas.read_csv(path).pivot(index="step", columns="name",
values="value")` gives the wide table. A run that was killed and resumed leaves the same
file as an unkilled one, but for what the clock says: `time/unix_seconds` and
`time/steps_per_second`.

Example:
  >>> import tempfile
  >>> from ncgn_jax.run.logs import MetricsWriter, format_seconds, read_metrics
  >>> workdir = tempfile.mkdtemp()
  >>> with MetricsWriter(workdir) as writer:
  ...     writer.write(10, {"train/loss": 0.5})
  >>> read_metrics(workdir)
  {'train/loss': ([10], [0.5])}
  >>> format_seconds(3660)
  '1 h 01 min'
"""

import contextlib
import csv
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from ncgn_jax.data.whole_files import named_errors, write_whole

_FILE = "metrics.csv"
CLOCK = "time/"  # begins the names of what differs between equal runs
_HEADER = ["step", "name", "value"]


class MetricsWriter:
    """Writes `metrics.csv` and TensorBoard events into a run's folder."""

    def __init__(
        self,
        workdir: str | Path,
        start_step: int = 0,
        *,
        active: bool = True,
    ) -> None:
        """Opens the files and drops what an earlier run logged from `start_step` on.

        Args:
          workdir: Folder of the run; made if absent.
          start_step: First step to be written. After `n` restored steps this is `n` if
            steps are numbered from 0, and `n + 1` if from 1.
          active: Whether to write at all; False on all but the main process.
        """
        self._start_step = start_step
        self._file: TextIO | None = None
        self._events: EventsWriter | None = None
        if not active:
            return
        workdir = Path(workdir)
        self._folder = workdir / "tensorboard"
        workdir.mkdir(parents=True, exist_ok=True)
        _keep_rows_before(workdir / _FILE, start_step)
        self._file = open(  # noqa: SIM115 - stays open until close()
            workdir / _FILE, "a", newline="", encoding="utf-8"
        )
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._folder.mkdir(exist_ok=True)
        # Not a SummaryWriter: its thread dies of a full disk, and the run then waits
        # for it without end.
        self._events = EventsWriter(
            str(self._folder / "events"),
            f".{start_step}",  # differs if resumed in the same second
        )
        started = SessionLog(status=SessionLog.START)
        # What an earlier run wrote of later steps is void.
        self._add_events([Event(step=start_step, session_log=started)])

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one value per name; they are in the file when this returns.

        Args:
          step: Number of the step, at least the `start_step` of this writer.
          metrics: Scalars of Python, numpy or a device; may be NaN or infinite.

        Raises:
          ValueError: If a value is not one number, or the step lies before the start.
        """
        if step < self._start_step:
            raise ValueError(f"step {step} lies before the start {self._start_step}")
        values = {name: _number(name, value) for name, value in metrics.items()}
        if self._file is None:
            return
        with named_errors(self._file.name):
            self._rows.writerows([step, name, repr(v)] for name, v in values.items())
            self._file.flush()
        self._add_events(
            Event(step=step, summary=scalar(name, value))
            for name, value in values.items()
        )

    def _add_events(self, events: Iterable[Event]) -> None:
        """Writes what TensorBoard shows."""
        if self._events is None:
            return
        with named_errors(self._folder):
            for event in events:
                event.wall_time = time.time()
                self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        file, self._file = self._file, None
        events, self._events = self._events, None
        try:
            if file is not None:
                with named_errors(file.name):
                    file.close()
        finally:
            if events is not None:
                with named_errors(self._folder):
                    events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(workdir: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Reads the steps and the values of every metric of a run; {} if none.

    What the clock says (`time/...`) is left out, so that equal runs have equal metrics.
    """
    series: dict[str, tuple[list[int], list[float]]] = {}
    for step, name, value in _read_rows(Path(workdir) / _FILE):
        if name.startswith(CLOCK):
            continue
        steps, values = series.setdefault(name, ([], []))
        steps.append(int(step))
        values.append(float(value))
    return series


def keep_streams() -> None:
    """Opens standard streams that are closed on nothing.

    Otherwise the next file that is opened, say a checkpoint, would take their number
    and receive what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


class _Timestamped(io.TextIOBase):
    """A stream whose lines begin with the time of day."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._at_start = True

    def write(self, text: str) -> int:
        """Writes a text; a time goes before each new line."""
        for line in text.splitlines(keepends=True):
            if self._at_start:
                self._stream.write(time.strftime("%H:%M:%S "))
            self._stream.write(line)
            self._at_start = line.endswith("\n")
        return len(text)

    def flush(self) -> None:
        """Passes on what was written."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Tells that no bar can be drawn."""
        return False


@contextlib.contextmanager
def timestamps() -> Iterator[None]:
    """Begins every printed line with the time of day, as logs of services do."""
    with (
        contextlib.redirect_stdout(_Timestamped(sys.stdout)),
        contextlib.redirect_stderr(_Timestamped(sys.stderr)),
    ):
        yield


class Progress:
    """A progress bar on a terminal, or a line every few steps elsewhere.

    Use it as a context manager and call `update` after every step.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        description: str = "",
        every_steps: int = 100,
        active: bool = True,
    ) -> None:
        """Starts the clock; the bar or the lines go to standard error.

        Args:
          total: Number of the last step.
          start: Number of steps finished earlier, which the speed does not count.
          description: One or two words on the work.
          every_steps: Steps between lines where there is no terminal.
          active: Whether to show anything; False on all but the main process.
        """
        self._total, self._start, self._step = total, start, start
        self._description, self._every_steps = description, max(every_steps, 1)
        self._stream = sys.stderr
        self._active = active
        self._began = time.monotonic()
        self._bar = None
        if active and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=start,
                desc=description,
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Shows the number of finished steps, and metrics if given.

        It only waits for metrics that are still being computed when it shows them.
        """
        advance, self._step = step - self._step, step
        if not self._active:
            return
        if self._bar is not None:
            if metrics:
                self._bar.set_postfix_str(_in_words(metrics), refresh=False)
            self._bar.update(advance)
        elif step % self._every_steps == 0 or step == self._total:
            print(self._line(metrics), file=self._stream, flush=True)

    def write(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._active:
            print(text, file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, metrics: Mapping[str, Any] | None) -> str:
        seconds = time.monotonic() - self._began
        speed = (self._step - self._start) / seconds if seconds > 0 else 0.0
        left = (self._total - self._step) / speed if speed > 0 else math.nan
        share = self._step / self._total if self._total else 1.0
        parts = [
            f"{self._description} {self._step}/{self._total} ({share:.0%})".strip()
        ]
        if metrics:
            parts.append(_in_words(metrics))
        parts.append(f"{speed:.3g} steps/s")
        parts.append(f"{format_seconds(left)} left")
        return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Formats a duration as `850 ms`, `5.2 s`, `3 min 05 s` or `2 h 07 min`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _keep_rows_before(path: Path, step: int) -> None:
    """Rewrites the file without later rows and without a half-written last one."""
    rows = [row for row in _read_rows(path) if int(row[0]) < step]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_HEADER, *rows])
    write_whole(path, text.getvalue())


def _read_rows(path: Path) -> list[list[str]]:
    """Reads all complete rows below the header; [] if there is no file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [row for row in csv.reader(complete.splitlines()) if _is_row(row)]


def _is_row(row: list[str]) -> bool:
    return len(row) == 3 and row[0].isdecimal()


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"metric {name!r} has shape {array.shape}; one number needed")
    return float(array.reshape(()))


def _in_words(metrics: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {_number(name, v):.4g}" for name, v in metrics.items())
