"""Runs that are asked to stop, or killed: nothing is lost that was saved.

`NCGN_KILLS=20 python -m pytest -s --thorough tests/run/test_preemption.py` kills more
often, and says how each found the folder and left it.
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import ncgn_jax.run.preemption
from ncgn_jax.loop import train
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.lock import hold
from ncgn_jax.run.logs import read_metrics
from ncgn_jax.run.preemption import Preempted, Preemption
from tests.line_task import CONFIG_FILE, line_config

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_KILLS = int(os.environ.get("NCGN_KILLS", "3"))
NUM_WHOLE_KILLS = int(os.environ.get("NCGN_KILLS", "1"))
STEPS_PER_RUN = 50
# With steps between those that are logged and saved.
OVERRIDES = [
    f"train.num_steps={STEPS_PER_RUN * (NUM_KILLS + 1)}",
    "train.checkpoint_every_steps=20", "train.log_every_steps=7",
]  # fmt: skip


KINDS = pytest.mark.parametrize(
    ("kind", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)


@KINDS
def test_a_signal_ends_a_run_at_once(kind, code):
    former = signal.getsignal(kind)
    with pytest.raises(Preempted) as stop, Preemption():
        os.kill(os.getpid(), kind)
    assert stop.value.code == code
    assert str(stop.value).startswith(f"stopped by {kind.name}: resumable")
    assert signal.getsignal(kind) == former


@KINDS
def test_a_signal_waits_where_it_is_postponed(kind, code):
    reached = []

    def work():
        with Preemption() as preemption, preemption.postponed():
            reached.append(preemption.reached(1))
            os.kill(os.getpid(), kind)
            reached.append(preemption.reached(2))

    with pytest.raises(Preempted) as stop:
        work()
    assert reached == [False, True]
    assert stop.value.code == code


def swallow(kind):
    """Gets a signal in code that catches everything, as callbacks of `gc` do."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), kind)
        time.sleep(0.01)


@KINDS
def test_a_signal_that_was_swallowed_is_obeyed_later(kind, code):
    later = []

    def end():
        with Preemption():
            swallow(kind)
            later.append("goes on until somebody looks")

    def begin():
        with Preemption() as preemption:
            swallow(kind)
            with preemption.postponed():
                later.append("never")

    for work in (end, begin):
        with pytest.raises(Preempted) as stop:
            work()
        assert stop.value.code == code
    assert later == ["goes on until somebody looks"]


@KINDS
def test_a_signal_in_a_callback_of_the_collector_is_repeated(kind, code, capfd):
    reached = []

    def callback(phase, info):
        if phase == "start" and not reached:
            reached.append("callback")
            os.kill(os.getpid(), kind)
            sum(range(1000))  # the handler runs here

    class Finalised:
        def __del__(self):
            reached.append("finaliser")
            os.kill(os.getpid(), kind)
            sum(range(1000))

    def work(interrupt):
        with Preemption():
            interrupt()
            for _ in range(500):
                time.sleep(0.01)
            reached.append("never")

    gc.callbacks.append(callback)
    try:
        with pytest.raises(Preempted) as stop:
            work(gc.collect)
        assert stop.value.code == code
    finally:
        gc.callbacks.remove(callback)
    with pytest.raises(Preempted) as stop:
        work(Finalised)
    assert stop.value.code == code
    assert reached == ["callback", "finaliser"]
    assert "ignored" not in capfd.readouterr().err


@KINDS
def test_a_signal_in_the_callback_of_a_weak_reference_is_repeated(kind, code, capfd):
    class Node:
        pass

    reached = []

    def callback(reference):
        reached.append("callback")
        os.kill(os.getpid(), kind)
        sum(range(1000))  # the handler runs here

    node = Node()
    node.itself = node  # so that only the collector finds it
    reference = weakref.ref(node, callback)
    del node

    def work():
        with Preemption():
            gc.collect()
            for _ in range(500):
                time.sleep(0.01)
            reached.append("never")

    with pytest.raises(Preempted) as stop:
        work()
    assert stop.value.code == code
    assert reference() is None
    assert reached == ["callback"]
    assert "ignored" not in capfd.readouterr().err


def test_a_second_interrupt_ends_the_process_whatever_it_does():
    code = """
import os, signal, time
from ncgn_jax.run.preemption import Preemption
with Preemption() as preemption, preemption.postponed():
    os.kill(os.getpid(), signal.SIGINT)
    print(preemption.reached(1), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -signal.SIGINT
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_nothing_is_reached_without_a_signal():
    with Preemption() as preemption:
        assert not preemption.reached(1)
    assert not Preemption().reached(1)


class StopAfter(Preemption):
    """Stops after a step."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def reached(self, step):
        return step == self._step


@pytest.mark.usefixtures("line_domain")
def test_a_stop_between_logged_and_saved_steps_changes_nothing(tmp_path):
    """Parameters, log and the choice of the best are those of a run not stopped."""
    overrides = [*OVERRIDES, "train.num_steps=23", "train.checkpoint_every_steps=5"]
    overrides += ["train.max_to_keep=10"]
    config = line_config(*overrides)
    whole = train(config, tmp_path / "whole")
    for step in (2, 10, 18):
        with pytest.raises(Preempted) as stop:
            train(config, tmp_path / "parts", preemption=StopAfter(step))
        assert f"step {step} is saved" in str(stop.value)
        store = Checkpoints(tmp_path / "parts", "{}", read_only=True)
        assert store.steps()[-1] == step
        assert not (tmp_path / "parts" / "lock").exists()
    parts = train(config, tmp_path / "parts")
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(parts))
    folders = tmp_path / "whole", tmp_path / "parts"
    stores = [Checkpoints(path, "{}", read_only=True) for path in folders]
    losses = [[store._read_loss(step) for step in (5, 10, 15, 20)] for store in stores]
    assert None not in losses[0]
    assert losses[0] == losses[1]
    assert stores[0].best() == stores[1].best()
    # The last step and those of the stops are not due: few steps lie before them.
    assert [stores[1]._read_loss(step) for step in (2, 18, 23)] == [None] * 3
    first, second = (read_metrics(path) for path in folders)
    assert first == second


@pytest.mark.usefixtures("line_domain")
def test_a_folder_in_use_is_left_alone(tmp_path):
    config = line_config(*OVERRIDES)
    with hold(tmp_path):
        path = tmp_path / "lock"
        # As if another live process of this machine held it.
        text = path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1')
        text = text.replace(
            f'"started": "{ncgn_jax.run.lock._start_of(os.getpid())}"',
            f'"started": "{ncgn_jax.run.lock._start_of(1)}"',
        )
        path.write_text(text)
        with pytest.raises(ncgn_jax.run.lock.LockError, match="process 1 of"):
            train(config, tmp_path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


# Runs that are killed have slow steps and saves that end slowly, to leave time for it.
RUN = """
import os, sys, time
import orbax.checkpoint as ocp
from ncgn_jax import main
from tests.line_task import LineTask

batch, finalize = LineTask.batch, ocp.StandardCheckpointHandler.finalize

def slow_batch(self, *args):
    time.sleep(0.02)
    return batch(self, *args)

def slow_finalize(self, *args):
    print("saving", flush=True)
    time.sleep(0.15)
    return finalize(self, *args)

if os.environ.get("SLOW"):
    LineTask.batch = slow_batch
    ocp.StandardCheckpointHandler.finalize = slow_finalize
main.main(["main", *sys.argv[1:]])
"""


@pytest.fixture
def start(tmp_path):
    """Starts runs in a folder; whatever happens, none is left."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    started = []
    path = tmp_path / "line.py"
    path.write_text(CONFIG_FILE)

    def start_run(workdir, slow):
        arguments = [f"--config={path}", "--mode=train", f"--workdir={workdir}"]
        arguments += [f"--config.{override}" for override in OVERRIDES]
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            cwd=REPOSITORY,
            env=environment | {"SLOW": "yes" if slow else ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield start_run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def read_until(process, word):
    """Reads what a run prints up to a line with that word."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"ended without {word!r}: {lines}")


def stored_steps(workdir):
    return Checkpoints(workdir, "{}", read_only=True).steps()


@pytest.mark.slow
def test_killed_runs_end_bit_identical(tmp_path, start):
    """By SIGTERM, SIGKILL and SIGINT, while starting, training and saving."""
    whole = start(tmp_path / "whole", slow=False)
    rng = np.random.default_rng(0)
    num_resumed = 0
    for number in range(NUM_KILLS):
        kind = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)[number % 3]
        # The second is killed while it saves, the third while it starts.
        place = ("training", "saving", "starting")[(number + number // 3) % 3]
        before = stored_steps(tmp_path / "killed")
        process = start(tmp_path / "killed", slow=True)
        lines = read_until(process, "run: ")
        if place == "starting":
            time.sleep(rng.uniform(0, 1))
        else:
            lines += read_until(process, "saving")
            while place == "training" and stored_steps(tmp_path / "killed") == before:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.15))
        process.send_signal(kind)
        rest, _ = process.communicate(timeout=120)
        lines += rest.splitlines(keepends=True)
        resumed = [line for line in lines if line.startswith("resuming")]
        if resumed or place != "starting":
            expected = [f"resuming from checkpoint {step}\n" for step in before[-1:]]
            assert resumed == expected
        after = stored_steps(tmp_path / "killed")
        assert after[-1:] >= before[-1:]
        half_written = [
            entry.name
            for entry in (tmp_path / "killed" / "checkpoints").glob("*")
            if not entry.name.isdecimal()
        ]
        print(number, place, kind.name, before[-1:], after[-1:], half_written)
        num_resumed += bool(resumed)
        if kind != signal.SIGKILL:
            assert process.returncode == (75 if kind == signal.SIGTERM else 130)
            assert f"stopped by {kind.name}" in lines[-1]
            assert "resumable" in lines[-1]
        else:
            assert process.returncode == -signal.SIGKILL
    process = start(tmp_path / "killed", slow=False)
    rest, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    assert num_resumed >= NUM_KILLS // 2
    last = STEPS_PER_RUN * (NUM_KILLS + 1)
    first, second = (
        Checkpoints(tmp_path / name, "{}", read_only=True).read(last)[0]
        for name in ("whole", "killed")
    )
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "killed")
    assert not (tmp_path / "killed" / "lock").exists()


# What a whole run prints when a part of its work begins, and the longest wait then.
PLACES = {
    "starting": ("", 3.0),
    "compiling": ("training ", 2.0),
    "training": ("training 10/", 0.5),
    "sampling": ("training 60/", 1.0),
    "drawing": ("samples (raw", 1.5),
    "measuring": ("samples (raw", 6.0),
}
SMOKE = [
    f"--config={REPOSITORY / 'configs' / 'smoke.py'}", "--config.train.num_steps=60",
    "--config.train.checkpoint_every_steps=10", "--config.train.log_every_steps=1",
    "--config.sample.batch_size=8", "--config.sample.num_samples=24",
]  # fmt: skip


def run_whole(workdir, place="", delay=0.0, kind=None):
    """Runs training, samples, pictures and table; stops them in some place."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ncgn_jax.main", *SMOKE, f"--workdir={workdir}"],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        while place and not (lines and place in lines[-1]):
            lines.append(process.stdout.readline())
            if not lines[-1]:
                break
        if kind is not None:
            time.sleep(delay)
            process.send_signal(kind)
        rest, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, [*lines, *rest.splitlines(keepends=True)]


@pytest.mark.thorough
@pytest.mark.slow
def test_whole_runs_stopped_anywhere_end_bit_identical(tmp_path):
    """While starting, compiling, training, sampling, drawing and measuring."""
    assert run_whole(tmp_path / "whole")[0] == 0
    rng = np.random.default_rng(1)
    num_stopped = 0
    first = 3 if NUM_WHOLE_KILLS == 1 else 0
    for number in range(NUM_WHOLE_KILLS):
        kind = (signal.SIGTERM, signal.SIGINT)[number % 2]
        name = list(PLACES)[(number + number // 6 + first) % 6]
        word, longest = PLACES[name]
        folder = tmp_path / f"stopped{number // 6}"
        code, lines = run_whole(folder, word, rng.uniform(0, longest), kind)
        text = "".join(lines)
        print(number, name, kind.name, code, lines[-1].strip())
        assert "Traceback" not in text, text
        if code != 0:
            assert code == (75 if kind == signal.SIGTERM else 130), text
            assert lines[-1].startswith(f"stopped by {kind.name}"), text
            num_stopped += 1
    assert num_stopped >= NUM_WHOLE_KILLS // 2
    for folder in tmp_path.glob("stopped*"):
        code, lines = run_whole(folder)
        assert code == 0, lines
        assert not (folder / "lock").exists()
        assert read_metrics(folder) == read_metrics(tmp_path / "whole")
        for path in (tmp_path / "whole" / "samples").rglob("*.npz"):
            own = folder / path.relative_to(tmp_path / "whole")
            with np.load(path) as first, np.load(own) as second:
                for array in first:
                    np.testing.assert_array_equal(first[array], second[array])
        tables = [(f / "table.csv").read_text() for f in (folder, tmp_path / "whole")]
        assert tables[0] == tables[1]
