"""What the machine does not allow ends in one line, before anything is written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ncgn_jax import command, parallel, processes
from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.data.whole_files import check_writable, whole_file
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import (
    ConfigError,
    MachineError,
    ProcessError,
    RequestError,
    describe_machine,
    one_line_errors,
)
from ncgn_jax.generate import generate
from ncgn_jax.loading import load, shipped_models
from ncgn_jax.loop import init_state, train
from ncgn_jax.parallel import MappedRows
from ncgn_jax.run.logs import MetricsWriter
from ncgn_jax.run.optimizer import make_optimizer
from tests.line_task import line_config

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = REPOSITORY / "configs" / "smoke.py"


def test_folders_that_cannot_be_written_to_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "there").mkdir()
    for folder, reason in {
        tmp_path / "file": "file is a file; allowed: a folder",
        tmp_path / "file" / "run": "file is a file; allowed: a folder",
        tmp_path / ("x" * 300): "cannot be written to .File name too long",
        Path("/proc/run"): "/proc/run: cannot be written to",
        tmp_path / os.fsdecode(b"b\xff"): r"b.udcff': not a name in UTF-8, as checkp",
    }.items():
        with pytest.raises(MachineError, match=reason):
            check_writable(folder)
    for folder in (tmp_path / "there", tmp_path / "new" / "run", tmp_path / "né 雪"):
        check_writable(folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "there"]


def test_seeds_that_keys_do_not_hold_are_refused():
    for seed in (-1, 2**31, 2**32, 2**64):
        with pytest.raises(ConfigError, match=r"seed: found .*allowed: an integer, 0"):
            validate(apply_overrides(load_config(SMOKE), [f"seed={seed}"]))
    validate(apply_overrides(load_config(SMOKE), [f"seed={2**31 - 1}"]))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "shapes" else pytest.mark.thorough)
        for name in shipped_models()
    ],
)
def test_models_refuse_seeds_that_keys_do_not_hold(name):
    model = load(name)
    for seed in (-1, 2**31, 2**64, 0.5, True):
        with pytest.raises(RequestError, match=r"seed: found .*allowed: an integer"):
            model.sample(1, seed=seed)


def test_settings_of_jax_that_change_what_is_computed_are_refused():
    parallel.check_devices()
    with jax.enable_x64(True), pytest.raises(MachineError, match="in 64 bits"):
        parallel.check_devices()
    with jax.disable_jit(), pytest.raises(MachineError, match="JAX_DISABLE_JIT"):
        parallel.check_devices()


def test_devices_that_are_not_there_are_named(monkeypatch):
    def no_driver():
        raise AssertionError

    monkeypatch.setattr(jax, "local_devices", no_driver)
    with pytest.raises(MachineError, match="JAX_PLATFORMS=.*no driver.*allowed: cpu"):
        parallel.check_devices()


COMMANDS = [
    ["sample", "shapes", "made.npy"],
    ["export", "shapes", "exported"],
    ["levels", "--workdir=run"],
    ["compare", f"--config={SMOKE}", "--vary=dmp.schedule=exp,linear"],
    ["study", "toy_diffusion", "--quick"],
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_refuses_what_the_machine_does_not_have(
    arguments, tmp_path, monkeypatch
):
    """In one line, and before anything is written."""

    def no_driver():
        raise AssertionError

    def refused(message):
        with pytest.raises(SystemExit, match=message) as end:
            command.main(arguments)
        assert len(str(end.value).splitlines()) == 1
        assert not list(tmp_path.iterdir())

    monkeypatch.chdir(tmp_path)
    # `ncgn study` hands on its arguments so.
    monkeypatch.setattr(sys, "argv", ["ncgn"])
    if arguments[0] != "study":  # Studies compute in 64 bits.
        with jax.enable_x64(True):
            refused("JAX computes in 64 bits")
    monkeypatch.setattr(jax, "local_devices", no_driver)
    refused("JAX_PLATFORMS=.*no such device here")


@pytest.mark.parametrize("arguments", COMMANDS[2:])
def test_every_command_refuses_a_folder_it_could_not_write_to(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["ncgn"])
    (tmp_path / "file").write_text("mine")
    arguments = [a for a in arguments if "workdir" not in a]
    with pytest.raises(SystemExit, match="file is a file; allowed: a folder"):
        command.main([*arguments, f"--workdir={tmp_path / 'file'}"])


def test_processes_that_could_not_agree_when_to_stop_are_refused(monkeypatch):
    for name, value in {
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with pytest.raises(ProcessError, match="JAX_ENABLE_PREEMPTION_SERVICE is off"):
            processes.start()
    finally:
        jax.config.update("jax_enable_preemption_service", True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full", "/run/x"), "/run/x: No space left on device"),
        (PermissionError(errno.EACCES, "no", "x"), "x: Permission denied"),
        (BrokenPipeError(errno.EPIPE, "pipe"), "nobody reads the output any more"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_errors_of_the_machine_end_in_one_line(error, message):
    def work():
        with one_line_errors():
            raise error

    with pytest.raises(SystemExit) as end:
        work()
    said = str(end.value)
    assert said.startswith(f"error: {message}")
    assert said.endswith("what was saved before is kept")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", b"/na\\xefve.npy: 6 clouds"),
        pytest.param(
            *("utf-8", "/naïve.npy: 6 clouds".encode()), marks=pytest.mark.thorough
        ),
    ],
)
def test_names_beyond_the_encoding_of_the_terminal_are_printed(
    encoding, printed, tmp_path
):
    path = tmp_path / "naïve.npy"
    np.save(path, np.random.default_rng(0).normal(size=(6, 40, 3)))
    ended = subprocess.run(
        [sys.executable, "-m", "ncgn_jax.command", "check", str(path)],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert printed in ended.stdout


def test_errors_of_the_program_keep_their_trace():
    for error in (KeyError("x"), FileNotFoundError(errno.ENOENT, "none", "x")):
        assert describe_machine(error) is None
        with pytest.raises(type(error)), one_line_errors():
            raise error


def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "table.md"
    path.write_text("before")

    def write():
        with whole_file(path) as file:
            file.write(b"half")
            full()

    with pytest.raises(OSError, match=r"table\.md"):
        write()
    assert (path.read_text(), len(list(tmp_path.iterdir()))) == ("before", 1)
    # A thread that dies of it would leave the run waiting without end.
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
        monkeypatch.setattr(writer._events, "write_event", full)
        with pytest.raises(OSError, match="tensorboard"):
            writer.write(2, {"loss": 1.0})


@pytest.mark.usefixtures("line_domain")
def test_a_longer_run_says_that_its_rate_jumps(tmp_path, capsys):
    train(line_config("train.num_steps=4"), tmp_path)
    capsys.readouterr()
    train(line_config("train.num_steps=12"), tmp_path)
    [note] = [line for line in capsys.readouterr().out.splitlines() if "NOTE" in line]
    # The cosine ended at 1 % of 1e-3; 2 of 10 steps after the warm-up are behind now.
    assert "jumps from 1e-05 to 0.000905 at step 4" in note
    assert "train.num_steps, which differ now" in note
    train(line_config("train.num_steps=12"), tmp_path)
    assert "NOTE" not in capsys.readouterr().out


@pytest.mark.usefixtures("line_domain")
def test_metrics_hold_rate_speed_and_time(tmp_path):
    train(line_config("train.decay=constant", "train.warmup_steps=4"), tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    found = {}
    for step, name, value in (row.rsplit(",", 2) for row in rows):
        found.setdefault(name, {})[int(step)] = float(value)
    # The n-th step takes the rate of n - 1 steps before it.
    expected = {2: 1e-3 / 4, 4: 3e-3 / 4, 6: 1e-3, 8: 1e-3}
    assert found["learning_rate"] == pytest.approx(expected)
    times = list(found["time/unix_seconds"].values())
    assert times == sorted(times)
    assert all(speed > 0 for speed in found["time/steps_per_second"].values())


def run_smoke(*arguments, shell="", **environment):
    command = [sys.executable, "-m", "ncgn_jax.main", f"--config={SMOKE}"]
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS='cuda': no such device here"),
        pytest.param(
            {"JAX_ENABLE_X64": "1"},
            "JAX computes in 64 bits (JAX_ENABLE_X64)",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_an_environment_that_does_not_do_is_one_line(environment, message, tmp_path):
    ended = run_smoke(f"--workdir={tmp_path / 'run'}", **environment)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {message}")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_output_that_nobody_reads_is_one_line(tmp_path):
    arguments = ["--mode=check", f"--workdir={tmp_path / 'run'}"]
    full = run_smoke(*arguments, shell="> /dev/full")
    assert (full.returncode, full.stdout) == (2, "")
    assert full.stderr == (
        "error: No space left on device; what was saved before is kept\n"
    )
    closed = run_smoke(*arguments, "--timestamps", shell=">&- 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")


@pytest.mark.slow
def test_lines_begin_with_the_time_of_day_on_request(tmp_path):
    ended = run_smoke("--mode=check", f"--workdir={tmp_path / 'run'}", "--timestamps")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert len(lines) > 3
    for line in lines:
        assert [part.isdecimal() for part in line[:8].split(":")] == [True] * 3


def test_samples_go_on_after_the_last_finished_call(tmp_path, monkeypatch):
    """Bit by bit the samples of a run that was not stopped."""
    config = apply_overrides(
        load_config(SMOKE),
        ["data.num_train=16", "data.num_test=16", "sample.num_samples=20",
         "sample.batch_size=8", "sample.num_steps=2", "evaluate.weights=('ema',)"],
    )  # fmt: skip
    task = make_task(config)
    state = init_state(task, make_optimizer(config), 0)
    whole = generate(config, tmp_path / "whole", task, state)["ema"]
    call, calls = MappedRows.__call__, []

    def stop_at(number):
        def counted(self, *args):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return call(self, *args)

        monkeypatch.setattr(MappedRows, "__call__", counted)

    stop_at(100)
    generate(config, tmp_path / "count", task, state)
    num_calls = len(calls)
    calls.clear()
    stop_at(2 * num_calls // 3)  # within the second of three chunks
    with pytest.raises(KeyboardInterrupt):
        generate(config, tmp_path / "parts", task, state)
    [folder] = (tmp_path / "parts" / "samples").iterdir()
    assert [p.name for p in folder.rglob("*.npy")] == ["0.npy"]
    calls.clear()
    stop_at(100)
    parts = generate(config, tmp_path / "parts", task, state)["ema"]
    assert len(calls) == 2 * num_calls // 3
    assert parts["points"].tobytes() == whole["points"].tobytes()
    assert not list(folder.rglob("*.npy"))
