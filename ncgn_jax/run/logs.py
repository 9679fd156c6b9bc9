"""Writes metrics to a CSV file and to TensorBoard, and shows progress.

The CSV has one row per value (`step,name,value`), so that its columns do not depend on
the metrics. `pandas.read_csv(path).pivot(index="step", columns="name",
values="value")` gives the wide table. A run that was killed and resumed leaves the same
file as an unkilled one.

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

import csv
import io
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ncgn_jax.data.whole_files import write_whole

_FILE = "metrics.csv"
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
        self._events: SummaryWriter | None = None
        if not active:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        _keep_rows_before(workdir / _FILE, start_step)
        self._file = open(  # noqa: SIM115 - stays open until close()
            workdir / _FILE, "a", newline="", encoding="utf-8"
        )
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._events = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=start_step,
            flush_secs=30,
            filename_suffix=f".{start_step}",  # differs if resumed in the same second
        )

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
        self._rows.writerows([step, name, repr(v)] for name, v in values.items())
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(workdir: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Reads the steps and the values of every metric of a run; {} if none."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for step, name, value in _read_rows(Path(workdir) / _FILE):
        steps, values = series.setdefault(name, ([], []))
        steps.append(int(step))
        values.append(float(value))
    return series


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
