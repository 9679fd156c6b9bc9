"""Writes metrics to a CSV file and to TensorBoard, and shows progress.

The CSV has one row for each value (`step,name,value`): metrics may come and go
without changing its columns, and `pandas.read_csv(path).pivot(index="step",
columns="name", values="value")` gives the wide table. A run that was killed and
resumed leaves the file it would have left unkilled.

Example:
  >>> import tempfile
  >>> from ncgn_jax.run.logs import MetricsWriter, format_seconds, read_metrics
  >>> workdir = tempfile.mkdtemp()
  >>> with MetricsWriter(workdir, tensorboard=False) as writer:
  ...     writer.write(10, {"train/loss": 0.5})
  >>> read_metrics(workdir)
  {'train/loss': ([10], [0.5])}
  >>> format_seconds(3660)
  '1 h 01 min'
"""

import csv
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

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
        tensorboard: bool = True,
    ) -> None:
        """Opens the files; what an earlier run logged from `start_step` on is dropped.

        Args:
          workdir: Folder of the run; made if absent.
          start_step: First step that will be written. After `n` restored steps that
            is `n` if steps are numbered from 0, and `n + 1` if from 1.
          active: Whether to write at all; False on all but the main process.
          tensorboard: Whether to write TensorBoard events too.
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
        if tensorboard:
            self._events = SummaryWriter(
                str(workdir / "tensorboard"),
                purge_step=start_step,
                flush_secs=30,
                filename_suffix=f".{start_step}",  # resumed within the same second
            )

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one value for each name; on disk when it returns.

        Args:
          step: Number of the step, at least the `start_step` of this writer.
          metrics: Scalars, Python or numpy or device ones; NaN and infinity are kept.

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

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture in TensorBoard: [height, width, 3], 0..1 or uint8."""
        if self._events is not None:
            self._events.add_image(name, np.asarray(image), step, dataformats="HWC")

    def write_text(self, step: int, name: str, text: str) -> None:
        """Shows a text in TensorBoard, in Markdown."""
        if self._events is not None:
            self._events.add_text(name, text, step)

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

    def __exit__(self, *exception) -> None:
        self.close()


def read_metrics(workdir: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Reads the steps and the values of every metric of a run; `{}` if none."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for step, name, value in _read_rows(Path(workdir) / _FILE):
        steps, values = series.setdefault(name, ([], []))
        steps.append(int(step))
        values.append(float(value))
    return series


class Progress:
    """A progress bar on a terminal, now and then a line elsewhere.

    Use as a context manager; `update` after every step.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        description: str = "",
        every_steps: int = 100,
        active: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        """Starts the clock.

        Args:
          total: Number of the last step.
          start: Steps that were finished earlier; not counted in the speed.
          description: What is going on, one or two words.
          every_steps: Steps between lines where there is no terminal.
          active: Whether to show anything; False on all but the main process.
          stream: Where to, standard error if None.
        """
        self._total, self._start, self._step = total, start, start
        self._description, self._every_steps = description, max(every_steps, 1)
        self._stream = stream or sys.stderr
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
        """Tells how many steps are finished, and shows metrics if given.

        Metrics still being computed are waited for only when they are shown.
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

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, metrics) -> str:
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
    """Writes a duration to read: `850 ms`, `5.2 s`, `3 min 05 s`, `2 h 07 min`."""
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
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([_HEADER, *rows])
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_rows(path: Path) -> list[list[str]]:
    """Reads all complete rows below the header; none if there is no file."""
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
