"""Metrics on disk and progress on screen."""

import csv
import io
import os
import signal
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from ncgn_jax.run.logs import MetricsWriter, Progress, format_seconds, read_metrics


def _write(workdir, steps, start_step=0, offset=0.0):
    with MetricsWriter(workdir, start_step) as writer:
        for step in steps:
            writer.write(step, {"loss": offset + 1 / step, "grad, norm": np.pi * step})


def test_values_come_back_exactly(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": jnp.float32(0.1), "count": 3})
        writer.write(2, {"loss": np.array([1 / 3]), "late": float("nan")})
        writer.write(3, {"loss": -float("inf")})
    found = read_metrics(tmp_path)
    assert found["loss"] == ([1, 2, 3], [float(np.float32(0.1)), 1 / 3, -np.inf])
    assert found["count"] == ([1], [3.0])
    assert found["late"][0] == [2]
    assert np.isnan(found["late"][1])
    assert list((tmp_path / "tensorboard").iterdir())
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert next(csv.reader(file)) == ["step", "name", "value"]


def test_resuming_leaves_the_file_of_an_unkilled_run(tmp_path):
    _write(tmp_path / "whole", range(1, 9))
    _write(tmp_path / "killed", range(1, 7))
    path = tmp_path / "killed" / "metrics.csv"
    with open(path, "a") as file:
        file.write("7,loss,0.14")  # the kill came in the middle of a row
    _write(tmp_path / "killed", range(4, 9), start_step=4)
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    names = {p.name for p in path.parent.iterdir()}
    assert names == {"metrics.csv", "tensorboard"}


def test_a_torn_row_at_the_end_is_not_read(tmp_path):
    _write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("3,loss,12")
    assert read_metrics(tmp_path)["loss"][0] == [1, 2]


def test_starting_again_from_nothing_starts_a_new_file(tmp_path):
    _write(tmp_path, [1, 2, 3], offset=5.0)
    _write(tmp_path, [1])
    assert read_metrics(tmp_path)["loss"] == ([1], [1.0])
    assert read_metrics(tmp_path / "absent") == {}


def _events(path):
    """Reads TensorBoard's records: length, its checksum, event, its checksum."""
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return events


def test_tensorboard_forgets_what_is_written_again(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (3, (3, 4))):
        with MetricsWriter(tmp_path, start) as writer:
            for step in steps:
                writer.write(step, {"loss": step})
    first, second = sorted(
        (tmp_path / "tensorboard").iterdir(), key=lambda path: path.suffix
    )
    scalars = [e.step for e in _events(first) if e.summary.value[:1] and e.step < 4]
    assert scalars == [1, 2, 3]
    # A session that starts at step 3 makes TensorBoard drop the earlier steps 3, 4.
    assert [e.step for e in _events(second) if e.session_log.status] == [3]


def test_wrong_values_are_refused(tmp_path):
    with MetricsWriter(tmp_path, 5) as writer:
        with pytest.raises(ValueError, match=r"'loss' has shape \(2,\)"):
            writer.write(5, {"fine": 1.0, "loss": np.zeros(2)})
        with pytest.raises(ValueError, match="step 4 lies before the start 5"):
            writer.write(4, {"loss": 1.0})
    assert read_metrics(tmp_path) == {}


def test_an_inactive_writer_touches_nothing(tmp_path):
    with MetricsWriter(tmp_path / "run", active=False) as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


KILLED = """
import os, signal, sys
from ncgn_jax.run.logs import MetricsWriter
writer = MetricsWriter(sys.argv[1])
for step in range(1, 4):
    writer.write(step, {"loss": step})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_no_written_row(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    result = subprocess.run(command, env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    assert read_metrics(tmp_path)["loss"] == ([1, 2, 3], [1.0, 2.0, 3.0])


def test_progress_without_a_terminal_is_a_few_lines(capsys):
    with Progress(10, 2, description="train", every_steps=4) as progress:
        for step in range(3, 11):
            progress.update(step, {"loss": 1 / step})
        progress.write("saved")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("train 4/10 (40%), loss 0.25, ")
    assert lines[0].endswith(" left")
    assert lines[2].startswith("train 10/10 (100%), loss 0.1, ")
    assert lines[2].endswith(", 0 ms left")
    assert lines[3] == "saved"


def test_speed_counts_the_steps_of_this_run_only(monkeypatch, capsys):
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("ncgn_jax.run.logs.time.monotonic", lambda: next(clock))
    with Progress(1000, 500, every_steps=1) as progress:
        progress.update(520)
    assert capsys.readouterr().err == "520/1000 (52%), 5 steps/s, 1 min 36 s left\n"


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(10, description="train") as progress:
        for step in range(1, 11):
            progress.update(step, {"loss": 0.5})
        progress.write("saved")
    text = stream.getvalue()
    assert "100%" in text
    assert "10/10" in text
    assert "loss 0.5" in text
    assert "saved\n" in text


def test_inactive_progress_is_silent(capsys):
    with Progress(2, every_steps=1, active=False) as progress:
        progress.update(1)
        progress.write("x")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.85, "850 ms"),
        (0.9996, "1.0 s"),
        (5.23, "5.2 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (float("nan"), "?"),
        (float("inf"), "?"),
    ],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
